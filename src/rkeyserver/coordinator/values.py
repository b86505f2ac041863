"""The two values that lie in an engine, and who can have made them (docs/spec/coordinator.md, "Values").

    value = body ‖ LF ‖ HMAC-SHA256( key, framed( "rkeyserver/v1", "coordinator", kind, body ) ) in hex

The key follows from the domain secret, so only machines of the domain make a value. An old one stays authentic for
ever: what it is compared with, and nothing in it, tells that it is old.
"""

from __future__ import annotations

import hmac
from typing import Annotated, Final, Literal, Self, TypeVar

import msgspec

from rkeyserver.errors import Reason, Rejected
from rkeyserver.framing import framed
from rkeyserver.hex_types import Hex16, Hex32
from rkeyserver.keyring.derivation import KEY_SIZE, Purpose, derive_into
from rkeyserver.keyring.place import Place
from rkeyserver.secret import SecretBytes

MAX_VALUE: Final = 1024
PREFIX: Final = "/rkeyserver/"
_MAC_SIZE: Final = 64  # hex digits
Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class PrimaryBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who holds the lease."""

    version: Literal[1]
    domain: Hex16
    member: Hex16


class StateBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last state that was committed."""

    version: Literal[1]
    domain: Hex16
    epoch: Count
    sequence: Count
    primary: Hex16
    digest: Hex32


_KIND: Final[dict[type[msgspec.Struct], bytes]] = {PrimaryBody: b"primary", StateBody: b"state"}
T = TypeVar("T", PrimaryBody, StateBody)


def primary_key(domain: str) -> bytes:
    """The key that says who is primary."""
    return f"{PREFIX}{domain}/primary".encode()


def state_key(domain: str) -> bytes:
    """The key that says which state was committed last."""
    return f"{PREFIX}{domain}/state".encode()


class Authenticator:
    """Makes and reads the values of one domain. Close it when done."""

    def __init__(self, domain: str, key: SecretBytes) -> None:
        self.domain = domain
        self._key = key

    @classmethod
    def derive(cls, domain_secret: memoryview, domain: str) -> Self:
        """Of the domain whose secret this is."""
        key = SecretBytes(KEY_SIZE)
        derive_into(domain_secret, domain=domain, purpose=Purpose.COORDINATOR, label=b"", into=key.view)
        return cls(domain, key)

    def close(self) -> None:
        """Erase the key."""
        self._key.close()

    def primary(self, member: str) -> bytes:
        """The value by which `member` (hex16) is primary."""
        return self._made(PrimaryBody(version=1, domain=self.domain, member=member))

    def state(self, place: Place) -> bytes:
        """The value by which a state is committed."""
        return self._made(StateBody(version=1, domain=self.domain, **place._asdict()))

    def read_primary(self, value: bytes) -> str:
        """The member that is primary.

        Raises: Rejected(TOO_LARGE | MALFORMED | ANOTHER_DOMAIN | BAD_MAC).
        """
        return self._read(value, PrimaryBody).member

    def read_state(self, value: bytes) -> Place:
        """The state that was committed.

        Raises: Rejected(TOO_LARGE | MALFORMED | ANOTHER_DOMAIN | BAD_MAC).
        """
        found = self._read(value, StateBody)
        return Place(found.epoch, found.sequence, found.primary, found.digest)

    def _made(self, body: PrimaryBody | StateBody) -> bytes:
        encoded = msgspec.json.encode(body)
        return encoded + b"\n" + self._mac(_KIND[type(body)], encoded)

    def _mac(self, kind: bytes, body: bytes) -> bytes:
        text = framed(b"rkeyserver/v1", b"coordinator", kind, body)
        return hmac.digest(self._key.view, text, "sha256").hex().encode()

    def _read(self, value: bytes, form: type[T]) -> T:
        if len(value) > MAX_VALUE:
            raise Rejected(Reason.TOO_LARGE, f"A value of the coordinator has {len(value)} bytes, over {MAX_VALUE}.")
        kind = _KIND[form]
        body, mac = value[: -_MAC_SIZE - 1], value[-_MAC_SIZE:]
        try:
            found = msgspec.json.decode(body, type=form)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Rejected(Reason.MALFORMED, f"What the coordinator has as {kind.decode()} is none.") from error
        if msgspec.json.encode(found) != body or value[len(body) :] != b"\n" + mac:
            raise Rejected(Reason.MALFORMED, f"What the coordinator has as {kind.decode()} is not in its one form.")
        if found.domain != self.domain:
            raise Rejected(
                Reason.ANOTHER_DOMAIN,
                f"What the coordinator has as {kind.decode()} of domain {self.domain} is of domain {found.domain}.",
            )
        if not hmac.compare_digest(mac, self._mac(kind, body)):
            raise Rejected(
                Reason.BAD_MAC,
                f"What the coordinator has as {kind.decode()} was made by no machine of domain {self.domain}.",
                advice="Who else can write there? See docs/operations/etcd.md.",
            )
        return found
