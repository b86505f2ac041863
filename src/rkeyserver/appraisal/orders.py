"""Orders to a domain's instances, as documents that its admins sign (docs/spec/orders.md).

An order says what it is for so narrowly that no signature says yes twice: to which generation, member or state. Where a
platform trusts its host, the owner's word does as well, and the document has no signatures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from rkeyserver.appraisal.policy import AdminsTable
from rkeyserver.appraisal.signatures import Kind, Signatures, read_signed, require_enough, signers_of, with_signature
from rkeyserver.errors import Misuse, Reason, Rejected
from rkeyserver.framing import framed
from rkeyserver.hex_types import Hex16

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MAX_ORDER: Final = 32 * 1024
_LABEL: Final = b"rkeyserver/v1 order"

Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class Rotate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="order", tag="rkeyserver-rotate/v1"):
    """Add a generation, while `current` is the one that wraps."""

    domain: Hex16
    current: Hex16
    signatures: Signatures = msgspec.field(default_factory=list)


class Retire(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="order", tag="rkeyserver-retire/v1"):
    """Stop every use of `generation`."""

    domain: Hex16
    generation: Hex16
    signatures: Signatures = msgspec.field(default_factory=list)


class Promote(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="order", tag="rkeyserver-promote/v1"):
    """Make `member` the primary of the epoch that comes after `epoch`."""

    domain: Hex16
    member: Hex16
    epoch: Count
    signatures: Signatures = msgspec.field(default_factory=list)


class Forget(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="order", tag="rkeyserver-forget/v1"):
    """Wait no longer for `member`, in the state of that epoch and sequence."""

    domain: Hex16
    member: Hex16
    epoch: Count
    sequence: Count
    signatures: Signatures = msgspec.field(default_factory=list)


Order = Rotate | Retire | Promote | Forget
_ORDER: Final[msgspec.json.Decoder[Order]] = msgspec.json.Decoder(Order)
_KIND: Final = Kind("order", "order", "rkeyserver order", "Make it anew.")


def parse_order(data: bytes) -> Order:
    """Read an order, which may end with one line feed; who signed it is not looked at.

    Raises: Misuse.
    """
    data = data.removesuffix(b"\n")
    if len(data) > MAX_ORDER:
        raise Misuse(f"The order has {len(data)} bytes; at most {MAX_ORDER} are read.")
    return read_signed(data, _ORDER, _KIND)


def text_of(order: Order) -> str:
    """The one form of an order, as it is sent."""
    return msgspec.json.encode(order).decode()


def name_of(order: Order) -> str:
    """What it asks for, in one word."""
    return type(order).__name__.lower()


def signed_bytes(order: Order) -> bytes:
    """What a signature is over: all but the signatures."""
    fields = [str(getattr(order, name)) for name in order.__struct_fields__ if name != "signatures"]
    return framed(_LABEL, *(part.encode() for part in (str(order.__struct_config__.tag), *fields)))


def sign_order(order: Order, key: Ed25519PrivateKey) -> Order:
    """`order` with a signature by `key`; one that it had from it is replaced.

    Raises: Misuse if it is full.
    """
    signatures = with_signature(order.signatures, key, signed_bytes(order))
    return parse_order(text_of(msgspec.structs.replace(order, signatures=signatures)).encode())


def check_order(order: Order, *, domain: str, admins: AdminsTable | None, owner: bool) -> str:
    """Whether somebody who may give it stands behind `order`; returns who, for the audit file.

    owner: whether it came from the owner of a machine that its platform trusts.
    Raises: Rejected(ANOTHER_DOMAIN | NOT_SIGNED).
    """
    if order.domain != domain:
        raise Rejected(Reason.ANOTHER_DOMAIN, f"The order is for domain {order.domain}; this is domain {domain}.")
    if owner:
        return "the owner"
    if admins is None:
        raise Rejected(
            Reason.NOT_SIGNED,
            "This domain has no admins whose signatures could stand under an order.",
            advice="Its owner may give it on the machine itself, where its platform trusts the host.",
        )
    found = signers_of(order.signatures, signed_bytes(order), admins)
    require_enough(found, admins, f"The order to {name_of(order)}")
    return ", ".join(found)
