"""What goes between the server and processes of its own: frames over one socket, and errors on their way.

frame = length, 4 bytes big-endian ‖ msgpack
"""

from __future__ import annotations

from typing import Final

import msgspec

from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected, RkeyError

LENGTH_SIZE: Final = 4


def frame(message: msgspec.Struct) -> bytes:
    """A message as it goes over the socket."""
    data = msgspec.msgpack.encode(message)
    return len(data).to_bytes(LENGTH_SIZE, "big") + data


class Failure(msgspec.Struct, frozen=True, tag=True):
    """An error on its way: a Rejected with its reason; without one a Misuse, or else a Corrupt."""

    message: str
    advice: str
    reason: Reason | None = None
    misuse: bool = False

    @classmethod
    def of(cls, error: RkeyError) -> Failure:
        """What is left of an error between processes."""
        reason = error.reason if isinstance(error, Rejected) else None
        return cls(error.message, error.advice, reason, isinstance(error, Misuse))

    def error(self) -> RkeyError:
        """The error again."""
        if self.reason is not None:
            return Rejected(self.reason, self.message, advice=self.advice)
        return (Misuse if self.misuse else Corrupt)(self.message, advice=self.advice)
