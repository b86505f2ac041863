"""Hello and challenge: what every exchange begins with, whatever is asked for then (docs/spec/exchange.md).

    Who answers                                        Who asks
                                                       hello_of(own identity) -> Hello
    Challenges.challenge(hello) -> Challenge           read_challenge(challenge) -> ChallengeBody
    .check(hello, challenge)    -> Answered
    .use(Answered)              counts it as used

Who answers keeps nothing between the two round trips: a MAC brings hello and challenge back. It is made with a key and
a label of the purpose's own, so a challenge that was made for one purpose is none for another.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from rkeyserver.attestation.evidence import Attester, Identity
from rkeyserver.attestation.report_data import transcript_hash
from rkeyserver.clock import Clock, utc
from rkeyserver.errors import Reason, Rejected, Unavailable
from rkeyserver.exchange.messages import (
    PROTOCOL_VERSION,
    Challenge,
    ChallengeBody,
    Hello,
    decode,
    encode,
    identity_of,
)
from rkeyserver.framing import framed
from rkeyserver.secret import SecretBytes

CHALLENGE_LIFE: Final = 60  # seconds
MAX_REMEMBERED: Final = 65_536


class Purpose(StrEnum):
    """What a challenge is for; the label of its MAC."""

    HAND_OVER = "rkeyserver/v1 challenge"
    RELEASE = "rkeyserver/v1 release challenge"


@dataclass(frozen=True)
class Answered:
    """A challenge of ours that came back in time with the hello that it was made for.

    claimed: who the peer said it is. transcript: of hello and challenge.
    """

    body: ChallengeBody
    claimed: Identity
    transcript: bytes


class UsedChallenges:
    """Nonces that reached a verdict, for as long as they would still be valid. Bounded.

    Only genuine evidence gets here, so a stranger cannot fill it.
    """

    def __init__(self) -> None:
        self._until: OrderedDict[bytes, int] = OrderedDict()

    def use(self, nonce: bytes, now: int) -> None:
        """Count `nonce` as used.

        Raises: Rejected(CHALLENGE_REUSED) the second time; Unavailable if it can remember no more.
        """
        while self._until and next(iter(self._until.values())) < now:
            self._until.popitem(last=False)
        if nonce in self._until:
            raise Rejected(Reason.CHALLENGE_REUSED, "This challenge was answered before.")
        if len(self._until) >= MAX_REMEMBERED:
            raise Unavailable(f"More than {MAX_REMEMBERED} requests with genuine evidence in {CHALLENGE_LIFE} seconds.")
        self._until[nonce] = now + CHALLENGE_LIFE


class Challenges:
    """Makes challenges for one purpose and knows them again. random: gives n fresh random bytes; instance: 16 of them.

    Each purpose has its own: what one peer uses up of the one, no other misses of the other.
    """

    def __init__(
        self,
        purpose: Purpose,
        *,
        attester: Attester,
        clock: Clock,
        random: Callable[[int], bytes],
        instance: bytes,
    ) -> None:
        self._purpose = purpose
        self._attester = attester
        self._clock = clock
        self._random = random
        self._instance = instance
        self._mac_key = SecretBytes.random(32)
        self._used = UsedChallenges()

    def challenge(self, hello_bytes: bytes) -> bytes:
        """The challenge for a hello. Keeps no state.

        Raises: Rejected(TOO_LARGE | MALFORMED | WRONG_VERSION | TALKING_TO_ITSELF).
        """
        hello = decode(hello_bytes, Hello)
        if hello.version != PROTOCOL_VERSION:
            raise Rejected(
                Reason.WRONG_VERSION, f"The peer speaks version {hello.version}; this is version {PROTOCOL_VERSION}."
            )
        if hello.instance == self._instance:
            raise Rejected(Reason.TALKING_TO_ITSELF, "The hello came from this very instance.")
        own = self._attester.attester_identity()
        body = encode(
            ChallengeBody(
                nonce=self._random(32),
                time=self._clock.now(),
                instance=self._instance,
                platform=own.platform,
                machine=own.machine,
                identity=b"",
                credential=b"",
            )
        )
        return encode(Challenge(body=body, mac=self._mac(hello_bytes, body)))

    def _mac(self, hello: bytes, body: bytes) -> bytes:
        return hmac.digest(self._mac_key.view, framed(self._purpose.encode(), hello, body), "sha256")

    def check(self, hello_bytes: bytes, challenge_bytes: bytes, now: int) -> Answered:
        """Whether this is a challenge of ours, for that hello and this purpose, that is still good at `now`.

        Raises: Rejected(TOO_LARGE | MALFORMED | BAD_MAC | CHALLENGE_EXPIRED).
        """
        challenge = decode(challenge_bytes, Challenge)
        if not hmac.compare_digest(challenge.mac, self._mac(hello_bytes, challenge.body)):
            raise Rejected(Reason.BAD_MAC, "The challenge is not one that this instance made for this hello.")
        hello, body = decode(hello_bytes, Hello), decode(challenge.body, ChallengeBody)
        _check_age(body, now)
        return Answered(body, identity_of(hello), transcript_hash(hello_bytes, challenge_bytes))

    def use(self, answered: Answered) -> None:
        """Count a challenge as used, once the evidence that answers it is proved genuine.

        Its age counts again, for that took its time: one that is forgotten as used must not pass any more.

        Raises: Rejected(CHALLENGE_EXPIRED | CHALLENGE_REUSED), Unavailable.
        """
        now = self._clock.now()
        _check_age(answered.body, now)
        self._used.use(answered.body.nonce, now)

    def close(self) -> None:
        """Erase the key of the challenges."""
        self._mac_key.close()


def _check_age(body: ChallengeBody, now: int) -> None:
    if not body.time <= now <= body.time + CHALLENGE_LIFE:
        raise Rejected(
            Reason.CHALLENGE_EXPIRED,
            f"The challenge was made at {utc(body.time)}, it is now {utc(now)}; it lives {CHALLENGE_LIFE} seconds.",
        )


def hello_of(own: Identity, instance: bytes) -> bytes:
    """The hello of whoever will prove to be `own`. instance: 16 random bytes, the same for one run of the program."""
    hello = Hello(version=PROTOCOL_VERSION, instance=instance, platform=own.platform, machine=own.machine, identity=b"")
    return encode(hello)


def read_challenge(challenge_bytes: bytes, instance: bytes) -> ChallengeBody:
    """What a challenge says of who made it. It is not proved, and its MAC is for its maker alone to check.

    Raises: Rejected(TOO_LARGE | MALFORMED | TALKING_TO_ITSELF).
    """
    body = decode(decode(challenge_bytes, Challenge).body, ChallengeBody)
    if body.instance == instance:
        raise Rejected(Reason.TALKING_TO_ITSELF, "The challenge came from this very instance.")
    if body.credential:
        raise Rejected(Reason.MALFORMED, "The challenge has a credential; this platform activates none.")
    return body
