"""The appraisal policy (RFC 9334): what a domain accepts, as data (docs/spec/policy.md).

A policy is a TOML document. Every choice in it is spelled out: a missing key is an error, never a default, and an empty
list is an error, never "all". `any` is a word that has to be written. A platform without a table is refused.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec

from rkeyserver.errors import Misuse

Hex16 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
Hex32 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Advisory = Annotated[str, msgspec.Meta(pattern=r"^INTEL-SA-[0-9]{5}\Z")]
AdminKey = Annotated[
    str, msgspec.Meta(max_length=512, pattern=r"^ssh-ed25519 [A-Za-z0-9+/]{20,128}={0,2}(?: [ -~]{1,256})?\Z")
]
Recipient = Annotated[
    str,
    msgspec.Meta(
        max_length=2048,
        pattern=r"^(?:age1[0-9a-z]{20,1024}|ssh-(?:ed25519|rsa) [A-Za-z0-9+/]{20,1600}={0,2}(?: [ -~]{1,256})?)\Z",
    ),
]
NotEmpty = msgspec.Meta(min_length=1)
Uint16 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
Switch = Literal["accept", "refuse"]

# Statuses by Intel's names. "Revoked" is not among them: no policy accepts it. Nor are the OutOfDate ones yet: they
# need a grace period to be stated beside them.
TcbStatus = Literal["UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded"]


class SgxPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is accepted of platforms with SGX evidence.

    machines: PPIDs (hex), or "any". mrenclave, mrsigner: SHA-256 (hex); one of the two has to be named.
    isv_prod_id, min_isv_svn: product and its least version. tcb_statuses: accepted ones. rejected_advisories: refused
    ones, or "none". min_tcb_evaluation_data_number: least; never 0, which would accept collateral of any age.
    dynamic_platform, cached_keys, smt: what to do with a platform whose certificate says that it has them.
    """

    machines: Literal["any"] | Annotated[list[Hex16], NotEmpty]
    mrenclave: Literal["any"] | Annotated[list[Hex32], NotEmpty]
    mrsigner: Literal["any"] | Annotated[list[Hex32], NotEmpty]
    isv_prod_id: Uint16
    min_isv_svn: Uint16
    tcb_statuses: Annotated[list[TcbStatus], NotEmpty]
    rejected_advisories: Literal["none"] | Annotated[list[Advisory], NotEmpty]
    min_tcb_evaluation_data_number: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    dynamic_platform: Switch
    cached_keys: Switch
    smt: Switch


class AdminsTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may change the policy: so many of these keys together.

    keys: OpenSSH public keys, `ssh-ed25519 BASE64 NAME`, the name optional. threshold: how many have to sign.
    """

    threshold: Annotated[int, msgspec.Meta(ge=1, le=16)]
    keys: Annotated[list[AdminKey], msgspec.Meta(min_length=1, max_length=16)]


class RecoveryTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who can bring the keyring back when every machine is lost: so many of them together hold the root key.

    recipients: age (`age1...`) or OpenSSH (`ssh-ed25519`, `ssh-rsa`) public keys. threshold: how many shares open it.
    """

    threshold: Annotated[int, msgspec.Meta(ge=1, le=16)]
    recipients: Annotated[list[Recipient], msgspec.Meta(min_length=1, max_length=16)]


class PolicyDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole document: a version and a table for each platform that is accepted at all."""

    version: Literal[1]
    sgx: SgxPolicy | None = None
    simulated: SgxPolicy | None = None
    admins: AdminsTable | None = None
    recovery: RecoveryTable | None = None


@dataclass(frozen=True)
class Policy:
    """A policy that was read without error.

    text: the document as written; digest: its SHA-256 (hex), which audit lines name; tables: by platform.
    admins: who may change it, None where its owner alone may. recovery: None for a domain without.
    """

    text: str
    digest: str
    tables: dict[str, SgxPolicy]
    admins: AdminsTable | None = None
    recovery: RecoveryTable | None = None


MAX_POLICY: Final = 128 * 1024


def parse_policy(text: str) -> Policy:
    """Read a policy document.

    Raises: Misuse with what was found where: broken TOML, an unknown or missing key, an empty list, a contradiction.
    """
    if len(text) > MAX_POLICY:
        raise Misuse(f"The policy has {len(text)} characters; at most {MAX_POLICY} are read.")
    try:
        digest = hashlib.sha256(text.encode()).hexdigest()
        document = msgspec.convert(tomllib.loads(text), PolicyDocument)
    except (ValueError, RecursionError) as error:
        # ValueError is the base of what both raise, and what they let through: a lone surrogate, an endless number.
        raise Misuse(f"The policy cannot be read: {error}.", advice="docs/spec/policy.md lists every key.") from error
    tables = {
        name: table for name, table in (("sgx", document.sgx), ("simulated", document.simulated)) if table is not None
    }
    if not tables:
        raise Misuse("The policy names no platform, so it would accept nothing.", advice="Add a table, such as [sgx].")
    if "simulated" in tables and len(tables) > 1:
        raise Misuse("The policy mixes `simulated`, which protects nothing, with a real platform.")
    for name, table in tables.items():
        if table.mrenclave == "any" and table.mrsigner == "any":
            raise Misuse(f"The policy's [{name}] accepts any code: neither mrenclave nor mrsigner is named.")
    if document.admins is not None:
        _check_quorum("admins", document.admins.threshold, document.admins.keys)
    if document.recovery is not None:
        _check_quorum("recovery", document.recovery.threshold, document.recovery.recipients)
    return Policy(text=text, digest=digest, tables=tables, admins=document.admins, recovery=document.recovery)


def parse_admins(text: str) -> AdminsTable:
    """Admins from a TOML file of their own: the keys of the policy's [admins], at the top.

    Raises: Misuse.
    """
    try:
        admins = msgspec.convert(tomllib.loads(text), AdminsTable)
    except (ValueError, RecursionError) as error:
        raise Misuse(
            f"The admins cannot be read: {error}.", advice='Wanted: threshold = 1 and keys = ["ssh-ed25519 ..."].'
        ) from error
    _check_quorum("admins", admins.threshold, admins.keys)
    return admins


def with_admins(policy: Policy, admins: AdminsTable) -> Policy:
    """`policy` with that [admins] table at its end, or as it is if it has the same.

    Raises: Misuse if it has another.
    """
    if policy.admins == admins:
        return policy
    if policy.admins is not None:
        raise Misuse(
            "The policy names other admins than the file that was given beside it.",
            advice="Name them in one place, or the same in both.",
        )
    keys = "".join(f"    {json.dumps(key)},\n" for key in admins.keys)  # JSON's strings are TOML's
    return parse_policy(f"{policy.text.rstrip()}\n\n[admins]\nthreshold = {admins.threshold}\nkeys = [\n{keys}]\n")


def _check_quorum(name: str, threshold: int, keys: list[str]) -> None:
    if threshold > len(keys):
        raise Misuse(f"The policy's [{name}] wants {threshold} of {len(keys)} keys: that many there never are.")
    # By the key alone: one person under two names would count twice.
    if len({" ".join(key.split()[:2]) for key in keys}) != len(keys):
        raise Misuse(f"The policy's [{name}] names a key twice.")
