"""The listeners' paths and the hint (docs/spec/exchange.md), apart from the client, which a primary does not need."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from rkeyserver.hex_types import Hex16
from rkeyserver.keyring.keyring import KeyringHeader
from rkeyserver.sealing.record import Header

HELLO_PATH: Final = "/v1/hello"
HAND_OVER_PATH: Final = "/v1/hand-over"
HINT_PATH: Final = "/v1/hint"
POLICY_PATH: Final = "/v1/policy"  # on the operations listener and on the local socket
RECOVERY_PATH: Final = "/v1/recovery"
RELEASE_HELLO_PATH: Final = "/v1/release/hello"
RELEASE_PATH: Final = "/v1/release"
DERIVE_PATH: Final = "/v1/derive"  # these, where callers are
WRAP_PATH: Final = "/v1/wrap"
UNWRAP_PATH: Final = "/v1/unwrap"
REWRAP_PATH: Final = "/v1/rewrap"
PING_PATH: Final = "/v1/ping"
CONTENT_TYPE: Final = "application/msgpack"

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class Hint(msgspec.Struct, frozen=True):
    """What an instance says of its state to anyone. Nothing proves it."""

    domain: Hex16
    epoch: _Count
    sequence: _Count

    def is_after(self, held: KeyringHeader | Header) -> bool:
        """Whether it is of a later state of the same domain than `held`."""
        return self.domain == held.domain and (self.epoch, self.sequence) > (held.epoch, held.sequence)


def parse_hint(data: bytes) -> Hint | None:
    """A hint as it came; None for what is none."""
    try:
        return msgspec.json.decode(data, type=Hint)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
