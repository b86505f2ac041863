"""Collateral of several processor models in one file: what an instance keeps, and what is carried to it by hand.

docs/spec/collateral.md, "The bundle". It is untrusted: every part in it is signed, and verified when it is used.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Final, Literal

import msgspec

from rkeyserver.attestation.evidence import MAX_ENDORSEMENTS
from rkeyserver.attestation.sgx.collateral import Collateral, decode, newer
from rkeyserver.attestation.sgx.model import Model, PckCa
from rkeyserver.attestation.sgx.parts import describe
from rkeyserver.errors import Reason, Rejected

VERSION: Final = 1
MAX_ENTRIES: Final = 16
MAX_BUNDLE: Final = MAX_ENTRIES * MAX_ENDORSEMENTS
MAX_SOURCE: Final = 256


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Collateral of one model. source: where it came from, for people; fetched: when, seconds since 1970."""

    fmspc: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{12}\Z")]
    ca: PckCa
    source: Annotated[str, msgspec.Meta(max_length=MAX_SOURCE)]
    fetched: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    collateral: Collateral

    @property
    def model(self) -> Model:
        """What it is for."""
        return Model(self.fmspc, self.ca)

    @property
    def encoded(self) -> bytes:
        """As it is sent along with evidence."""
        return msgspec.json.encode(self.collateral)


class _Version(msgspec.Struct, frozen=True):
    version: int


class _Bundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1]
    entries: Annotated[list[Entry], msgspec.Meta(max_length=MAX_ENTRIES)]


def read_bundle(data: bytes) -> list[Entry]:
    """The entries of a bundle, one for each model, each readable to the last part.

    Raises: Rejected (TOO_LARGE, MALFORMED, WRONG_VERSION, NOT_GENUINE for a chain that is none).
    """
    if len(data) > MAX_BUNDLE:
        raise Rejected(Reason.TOO_LARGE, f"The bundle has {len(data)} bytes, at most {MAX_BUNDLE} are read.")
    try:
        version = msgspec.json.decode(data, type=_Version).version
        if version != VERSION:
            raise Rejected(Reason.WRONG_VERSION, f"The bundle is of version {version}, this program reads {VERSION}.")
        entries = msgspec.json.decode(data, type=_Bundle).entries
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected(Reason.MALFORMED, f"The bundle cannot be read: {error}.") from error
    if len({entry.model for entry in entries}) != len(entries):
        raise Rejected(Reason.MALFORMED, "The bundle has two entries for one model.")
    for entry in entries:
        decode(entry.encoded)
        if (found := describe(entry.collateral).model) != entry.model:
            raise Rejected(Reason.MALFORMED, f"An entry of the bundle for {entry.model} has collateral for {found}.")
    return entries


def write_bundle(entries: Collection[Entry]) -> bytes:
    """The bundle of at most MAX_ENTRIES entries, in the order of their models."""
    if len(entries) > MAX_ENTRIES:
        raise Rejected(Reason.TOO_LARGE, f"{len(entries)} models; a bundle has at most {MAX_ENTRIES}.")
    ordered = sorted(entries, key=lambda entry: entry.model)
    return msgspec.json.format(msgspec.json.encode(_Bundle(VERSION, ordered)), indent=1) + b"\n"


def merge(entries: Collection[Entry]) -> list[Entry]:
    """One entry for each model, with the newest of each part that any of `entries` has."""
    merged: dict[Model, Entry] = {}
    for entry in entries:
        before = merged.get(entry.model)
        merged[entry.model] = entry if before is None else newest(before, entry)
    return list(merged.values())


def newest(held: Entry, other: Entry) -> Entry:
    """Of each part the newer one; with `other`'s source where anything of it was newer, else `held` itself."""
    encoded = held.encoded
    chosen = newer(encoded, other.encoded)
    return held if chosen == encoded else msgspec.structs.replace(other, collateral=decode(chosen))
