"""Admins whose keys come out of their names, and policies that they change: of simulated machines, or others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from rkeyserver.appraisal.change import PolicyChange, last_sequence, propose, sign
from rkeyserver.appraisal.signatures import public_line
from rkeyserver.keyring.keyring import KeyringHeader
from tests.fakes.platform import ISV_PROD_ID, MRSIGNER

HERE: Final = "a1" * 16
PEER: Final = "b2" * 16
NEW: Final = "c3" * 16


@cache
def private_key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def quoted(items: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{one}"' for one in items) + "]"


def admins_table(names: Iterable[str], threshold: int = 1) -> str:
    lines = (f"{public_line(private_key(name))} {name}" for name in names)
    return f"\n[admins]\nthreshold = {threshold}\nkeys = {quoted(lines)}\n"


def key_file(folder: Path, name: str) -> str:
    """The path of an admin's private key, which is written there."""
    path = folder / f"{name}.key"
    path.write_bytes(private_key(name).private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return str(path)


def policy_text(
    *machines: str,
    admins: Iterable[str] = (),
    threshold: int = 1,
    mrsigner: str = MRSIGNER,
    platform: str = "simulated",
    **changes: Any,
) -> str:
    """A policy that names these machines, none for "any"; changes: values of other keys, as TOML has them."""
    said = {
        "machines": quoted(machines) if machines else '"any"',
        "mrenclave": '"any"',
        "mrsigner": quoted([mrsigner]),
        "isv_prod_id": ISV_PROD_ID,
        "min_isv_svn": 1,
        "tcb_statuses": '["UpToDate"]',
        "out_of_date_grace_days": 0,
        "rejected_advisories": '"none"',
        "min_tcb_evaluation_data_number": 1,
        "dynamic_platform": '"accept"',
        "cached_keys": '"accept"',
        "smt": '"accept"',
    } | changes
    rows = "".join(f"{key} = {value}\n" for key, value in said.items())
    return f"version = 1\n\n[{platform}]\n{rows}" + (admins_table(admins, threshold) if admins else "")


def change_of(header: KeyringHeader, policy: str, *signers: str, **differences: Any) -> PolicyChange:
    """The next change of a keyring, signed by these; differences: from an honest one, as propose() takes it."""
    honest: dict[str, Any] = {
        "domain": header.domain,
        "sequence": last_sequence(header.changes) + 1,
        "replaces": header.policy,
    }
    change = propose(policy=policy, **(honest | differences))
    for name in signers:
        change = sign(change, private_key(name))
    return change
