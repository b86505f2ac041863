"""What goes between the server and the process that makes recovery shares.

    frame = length, 4 bytes big-endian ‖ msgpack ‖ what is secret

What is secret goes as it is behind the message that says how much of it comes, so that each side reads it in place.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from rkeyserver.errors import Corrupt, Misuse
from rkeyserver.sealing.recovery import MAX_SHARE, MAX_SHARES, RECOVERY_SECRET_SIZE, RecoveryShare, ShareSet

LENGTH_SIZE: Final = 4
MAX_ANSWER: Final = 256 * 1024


class Split(msgspec.Struct, frozen=True, tag=True):
    """Split the secret that follows."""

    share_set: ShareSet

    @property
    def secret_size(self) -> int:
        """How much follows."""
        return RECOVERY_SECRET_SIZE


class Combine(msgspec.Struct, frozen=True, tag=True):
    """Combine the shares that follow, of these sizes."""

    share_set: ShareSet
    sizes: Annotated[list[Annotated[int, msgspec.Meta(ge=0, le=MAX_SHARE)]], msgspec.Meta(max_length=MAX_SHARES)]

    @property
    def secret_size(self) -> int:
        """How much follows."""
        return sum(self.sizes)


class Done(msgspec.Struct, frozen=True, tag=True):
    """The shares of a split; of a combination none, and the secret follows."""

    shares: list[RecoveryShare]


class Failed(msgspec.Struct, frozen=True, tag=True):
    """A Misuse, or a Corrupt, on its way."""

    message: str
    advice: str
    misuse: bool

    def error(self) -> Misuse | Corrupt:
        """The error again."""
        return (Misuse if self.misuse else Corrupt)(self.message, advice=self.advice)


Task = Split | Combine
Answer = Done | Failed
TASKS: Final[msgspec.msgpack.Decoder[Task]] = msgspec.msgpack.Decoder(Task)
ANSWERS: Final[msgspec.msgpack.Decoder[Answer]] = msgspec.msgpack.Decoder(Answer)


def frame(message: msgspec.Struct) -> bytes:
    """A message as it goes over the socket; what is secret goes behind it."""
    data = msgspec.msgpack.encode(message)
    return len(data).to_bytes(LENGTH_SIZE, "big") + data
