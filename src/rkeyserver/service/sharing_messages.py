"""What goes between the server and the process that makes recovery shares.

What is secret goes as it is behind the frame that says how much of it comes, so that each side reads it in place.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from rkeyserver.sealing.recovery import MAX_SHARE, MAX_SHARES, RECOVERY_SECRET_SIZE, RecoveryShare, ShareSet
from rkeyserver.service.frames import Failure

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


Task = Split | Combine
Answer = Done | Failure
TASKS: Final[msgspec.msgpack.Decoder[Task]] = msgspec.msgpack.Decoder(Task)
ANSWERS: Final[msgspec.msgpack.Decoder[Answer]] = msgspec.msgpack.Decoder(Answer)
