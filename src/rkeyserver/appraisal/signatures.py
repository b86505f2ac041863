"""Documents that admins sign: their one form, whose valid signatures are under them, and whether these are enough.

What a document says, and what of it is signed, is change.py's and orders.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Protocol, TypeVar

import msgspec

from rkeyserver.appraisal.ed25519_keys import BARE_KEY, bare, public_key
from rkeyserver.appraisal.policy import AdminsTable
from rkeyserver.errors import Misuse, Reason, Rejected

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MAX_SIGNATURES: Final = 32
SshKey = Annotated[str, msgspec.Meta(pattern=rf"^{BARE_KEY}\Z")]


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One admin's. key: its OpenSSH public key, without a name; signature: Ed25519 (RFC 8032), 64 bytes in hex."""

    key: SshKey
    signature: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{128}\Z")]


Signatures = Annotated[list[Signature], msgspec.Meta(max_length=MAX_SIGNATURES)]


class Signed(Protocol):
    """A document with signatures."""

    @property
    def signatures(self) -> list[Signature]:
        """Of different keys; whose they are, and whether they are valid, is not said."""


@dataclass(frozen=True)
class Kind:
    """A kind of document, for people. name: in the singular; form: how it calls itself.

    made: by which command; anew: what to do about one that was edited.
    """

    name: str
    form: str
    made: str
    anew: str


D = TypeVar("D", bound=Signed)


def read_signed(data: bytes, decoder: msgspec.json.Decoder[D], kind: Kind) -> D:
    """A document in its one form, without two signatures of one key; who signed it is not looked at.

    Raises: Misuse.
    """
    try:
        found = decoder.decode(data)
        canonical = msgspec.json.encode(found)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Misuse(f"This is no {kind.form}: {error}.", advice=f"`{kind.made}` makes one.") from error
    if canonical != data:
        raise Misuse(f"The {kind.name} is not in its canonical form: it was edited.", advice=kind.anew)
    if len({one.key for one in found.signatures}) != len(found.signatures):
        raise Misuse(f"The {kind.name} has two signatures of one key.", advice="Have it signed anew.")
    return found


def public_line(key: Ed25519PrivateKey) -> str:
    """The OpenSSH public key of a private one, without a name."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415 - late: what a start does not need

    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def with_signature(signatures: Sequence[Signature], key: Ed25519PrivateKey, message: bytes) -> list[Signature]:
    """`signatures` and one over `message` by `key`; one that was there of it is replaced."""
    line = public_line(key)
    others = [one for one in signatures if one.key != line]
    return [*others, Signature(key=line, signature=key.sign(message).hex())]


def signers_of(signatures: Sequence[Signature], message: bytes, admins: AdminsTable) -> list[str]:
    """Those of `admins` (lines as the policy has them) of whom a valid signature over `message` is there."""
    found = {one.key: one.signature for one in signatures}
    return [line for line in admins.keys if _is_valid(line, found.get(bare(line)), message)]


def _is_valid(line: str, signature: str | None, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - only where something was signed

    if signature is None:
        return False
    try:
        public_key(line).verify(bytes.fromhex(signature), message)
    except InvalidSignature:
        return False
    return True


def require_enough(found: Sequence[str], admins: AdminsTable, what: str, whose: str = "the admins") -> None:
    """Whether those who have signed are enough of `admins`. what: the document; whose: who they are, for people.

    Raises: Rejected(NOT_SIGNED) with how many have, how many are wanted, and who is missing.
    """
    if len(found) < admins.threshold:
        missing = [line for line in admins.keys if line not in found]
        raise Rejected(
            Reason.NOT_SIGNED,
            f"{what} has {len(found)} valid signature(s) of {whose}; {admins.threshold} of {len(admins.keys)} wanted.",
            advice=f"It can be signed by: {', '.join(missing)}.",
        )
