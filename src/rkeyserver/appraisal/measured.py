"""What is measured into an enclave image beside its code: whose word counts in a domain that it makes or joins.

    seal_to = "mrsigner"      whose sealing key records are sealed with: "mrsigner" or "mrenclave"
    former_signers = []       whose images beside its own signer's may hand it a keyring; may be left out
    [admins]                  as in a policy
    [recovery]                as in a policy; may be left out

It is part of MRENCLAVE, so the host cannot exchange it (docs/spec/policy.md, "Measured into an image").
"""

from __future__ import annotations

import json
import tomllib
from typing import Annotated, Final, Literal

import msgspec

from rkeyserver.appraisal.policy import AdminsTable, Policy, RecoveryTable, check_quorum, parse_policy
from rkeyserver.appraisal.policy_errors import broken, check_depth, wrong_form
from rkeyserver.errors import Misuse
from rkeyserver.hex_types import Hex32

MAX_SIGNERS: Final = 8
_WHAT = "measured"


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """That file, read. recovery: None for domains without; former_signers: MRSIGNERs, hex."""

    seal_to: Literal["mrsigner", "mrenclave"]
    admins: AdminsTable
    recovery: RecoveryTable | None = None
    former_signers: Annotated[list[Hex32], msgspec.Meta(max_length=MAX_SIGNERS)] = []


def parse_measured(text: str) -> Measured:
    """Read it.

    Raises: Misuse with the line, the key, what was found and what is wanted, as parse_policy().
    """
    check_depth(text, _WHAT)
    try:
        text.encode()  # as parse_policy(): no lone surrogate comes further
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise broken(text, error, _WHAT) from error
    try:
        measured = msgspec.convert(found, Measured)
    except msgspec.ValidationError as error:
        raise wrong_form(text, found, error, _WHAT) from error
    check_quorum(text, "admins", "keys", measured.admins.threshold, measured.admins.keys)
    if measured.recovery is not None:
        check_quorum(text, "recovery", "recipients", measured.recovery.threshold, measured.recovery.recipients)
    return measured


def measured_text(measured: Measured) -> str:
    """The file that has it: the same text for the same content, always."""
    signers = f"former_signers = {json.dumps(measured.former_signers)}\n" if measured.former_signers else ""
    return f"seal_to = {json.dumps(measured.seal_to)}\n{signers}{_tables(measured)}"


def first_policy(default: Policy, measured: Measured) -> Policy:
    """The policy of a domain that is made by an image: its platform's default, with what is measured into the image.

    Raises: Misuse if the default names admins or recipients of its own.
    """
    if default.admins is not None or default.recovery is not None:
        raise Misuse("The default policy names admins or recovery recipients beside those of the image.")
    return parse_policy(f"{default.text.rstrip()}\n{_tables(measured)}")


def _tables(measured: Measured) -> str:
    tables = _table("admins", measured.admins.threshold, "keys", measured.admins.keys)
    if measured.recovery is not None:
        tables += _table("recovery", measured.recovery.threshold, "recipients", measured.recovery.recipients)
    return tables


def _table(name: str, threshold: int, key: str, values: list[str]) -> str:
    lines = "".join(f"    {json.dumps(value)},\n" for value in values)  # JSON's strings are TOML's
    return f"\n[{name}]\nthreshold = {threshold}\n{key} = [\n{lines}]\n"
