"""Admins with keys that come out of their names, and policies and changes that they make."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rkeyserver.appraisal.change import PolicyChange, propose, sign
from rkeyserver.appraisal.policy import AdminsTable
from rkeyserver.appraisal.signatures import public_line
from tests.fakes.claims import document, table

DOMAIN: Final = "d0" * 16
OTHER_DOMAIN: Final = "0d" * 16


@cache
def key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


@cache
def bare_line(name: str) -> str:
    return public_line(key(name))


@cache
def line(name: str) -> str:
    """As a policy names an admin."""
    return f"{bare_line(name)} {name}@example"


def admins(threshold: int, names: Iterable[str]) -> AdminsTable:
    return AdminsTable(threshold=threshold, keys=[line(name) for name in names])


def policy(number: int, who: AdminsTable | None) -> str:
    """A policy with its number in a comment."""
    text = document(f"# {number}", table())
    if who is None:
        return text
    return text + f"\n[admins]\nthreshold = {who.threshold}\nkeys = {json.dumps(who.keys)}\n"


def change(sequence: int, replaces: str, new: str, signers: Iterable[str] = (), domain: str = DOMAIN) -> PolicyChange:
    """A change with signatures of those named."""
    made = propose(domain=domain, sequence=sequence, replaces=replaces, policy=new)
    for name in signers:
        made = sign(made, key(name))
    return made
