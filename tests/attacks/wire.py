"""An exchange's messages on their way, and where each of them is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.attacks.parties import Pair, Standby, granted

from rkeyserver.exchange.messages import Challenge, Grant, Hello, Message, Request
from rkeyserver.exchange.standby import Greeting, Received, Requesting

KINDS: Final = (Hello, Challenge, Request, Grant)
Change = Callable[[bytes], bytes]


@dataclass
class Wire:
    """The network between the two: `change` is done to one message of the exchange, by its kind."""

    kind: type[Message]
    change: Change

    def carry(self, kind: type[Message], message: bytes) -> bytes:
        return self.change(message) if kind is self.kind else message

    async def exchange(self, standby: Standby, pair: Pair) -> Received:
        greeting = standby.greet()
        challenge = pair.primary.challenge(self.carry(Hello, greeting.message))
        requesting = greeting.challenged(self.carry(Challenge, challenge))
        grant = await pair.primary.answered(self.carry(Request, requesting.message))
        return await requesting.granted(self.carry(Grant, grant))


@dataclass
class Recorded:
    """The messages of one exchange that went well, and its states, to be offered changed ones."""

    greeting: Greeting
    requesting: Requesting
    messages: dict[type[Message], bytes]

    @classmethod
    def of(cls, pair: Pair) -> Recorded:
        greeting = pair.standby.greet()
        challenge = pair.primary.challenge(greeting.message)
        requesting = greeting.challenged(challenge)
        grant = pair.primary.answer(requesting.message)
        granted(requesting, grant).keyring.close()
        return cls(
            greeting,
            requesting,
            {Hello: greeting.message, Challenge: challenge, Request: requesting.message, Grant: grant},
        )

    async def offer(self, kind: type[Message], message: bytes, pair: Pair) -> object:
        """Give `message` to whoever is to read it in that place."""
        if kind is Hello:
            return pair.primary.challenge(message)
        if kind is Challenge:
            return self.greeting.challenged(message)
        if kind is Request:
            return await pair.primary.answered(message)
        return await self.requesting.granted(message)
