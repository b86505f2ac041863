"""Messages that were genuine once: in another exchange, before, or to another instance."""

from __future__ import annotations

import asyncio

import pytest
from tests.attacks.parties import Pair, Primary, Standby, edited, granted, with_attested
from tests.fakes.machines import NOW
from tests.fakes.members import MEMBERS

from rkeyserver.errors import Reason, Rejected, Unavailable
from rkeyserver.exchange.challenges import CHALLENGE_LIFE, MAX_REMEMBERED, UsedChallenges
from rkeyserver.exchange.messages import Challenge, ChallengeBody, Grant, Request, decode, encode


def test_a_request_sent_twice(pair: Pair) -> None:
    requesting = pair.standby.ask(pair.primary)
    granted(requesting, pair.primary.answer(requesting.message)).keyring.close()
    with pair.refuses(Reason.CHALLENGE_REUSED):
        pair.primary.answer(requesting.message)


def test_a_request_sent_twice_at_once(pair: Pair) -> None:
    request = pair.standby.ask(pair.primary).message

    async def both() -> list[bytes | BaseException]:
        return await asyncio.gather(*(pair.primary.answered(request) for _ in range(2)), return_exceptions=True)

    first, second = asyncio.run(both())
    assert isinstance(first, bytes)
    assert isinstance(second, Rejected)
    assert second.reason is Reason.CHALLENGE_REUSED
    assert pair.primary.keyring.released == 1
    pair.works()


def test_a_challenge_answered_again_with_another_key(pair: Pair) -> None:
    greeting = pair.standby.greet()
    challenge = pair.primary.challenge(greeting.message)
    first, second = greeting.challenged(challenge), greeting.challenged(challenge)
    granted(first, pair.primary.answer(first.message)).keyring.close()
    with pair.refuses(Reason.CHALLENGE_REUSED):
        pair.primary.answer(second.message)


def test_a_challenge_whose_first_answer_the_policy_refused(pair: Pair) -> None:
    request = pair.standby.ask(pair.primary).message
    asyncio.run(pair.primary.granter.prove(request, pair.primary.policy))
    with pair.refuses(Reason.CHALLENGE_REUSED):
        pair.primary.answer(request)


def test_a_refused_forgery_does_not_use_up_the_challenge(pair: Pair) -> None:
    requesting = pair.standby.ask(pair.primary)
    attested = decode(requesting.message, Request).attested
    forged = bytearray(attested.evidence)
    forged[500] ^= 1
    with pair.refuses(Reason.NOT_GENUINE, asked=1):
        pair.primary.answer(
            with_attested(requesting.message, type(attested)(attested.claims, bytes(forged), attested.endorsements))
        )
    received = granted(requesting, pair.primary.answer(requesting.message))
    assert received.keyring.same_as(pair.primary.keyring)
    received.keyring.close()


def test_a_challenge_in_its_last_second(pair: Pair) -> None:
    requesting = pair.standby.ask(pair.primary)
    pair.primary.host.now += CHALLENGE_LIFE
    granted(requesting, pair.primary.answer(requesting.message)).keyring.close()
    assert pair.primary.keyring.released == 1


def test_an_expired_challenge(pair: Pair) -> None:
    requesting = pair.standby.ask(pair.primary)
    pair.primary.host.now += CHALLENGE_LIFE + 1
    with pair.refuses(Reason.CHALLENGE_EXPIRED, asked=0, says="2026-05-28T20:26:40Z, it is now 2026-05-28T20:27:41Z"):
        pair.primary.answer(requesting.message)


def test_a_challenge_that_expires_while_its_answer_is_verified(pair: Pair) -> None:
    requesting = pair.standby.ask(pair.primary)
    pair.primary.host.now += CHALLENGE_LIFE

    def later() -> None:
        pair.primary.host.now += 1
        pair.primary.verifier.meanwhile = lambda: None

    pair.primary.verifier.meanwhile = later
    with pair.refuses(Reason.CHALLENGE_EXPIRED, asked=1):
        pair.primary.answer(requesting.message)


def test_a_request_sent_again_in_the_last_second_and_verified_slowly(pair: Pair) -> None:
    requesting = pair.standby.ask(pair.primary)
    granted(requesting, pair.primary.answer(requesting.message)).keyring.close()
    pair.primary.host.now += CHALLENGE_LIFE

    def later() -> None:
        pair.primary.host.now += 1
        pair.primary.verifier.meanwhile = lambda: None

    pair.primary.verifier.meanwhile = later
    with pair.refuses(Reason.CHALLENGE_EXPIRED, asked=1):
        pair.primary.answer(requesting.message)


def test_turning_the_host_clock_back_revives_no_challenge(pair: Pair) -> None:
    requesting = pair.standby.ask(pair.primary)
    pair.primary.host.now += CHALLENGE_LIFE + 1
    pair.works()
    pair.primary.host.now = NOW
    with pair.refuses(Reason.CHALLENGE_EXPIRED, asked=0):
        pair.primary.answer(requesting.message)


def test_a_challenge_from_before_a_restart(pair: Pair) -> None:
    old = pair.primary
    request = pair.standby.ask(old).message
    with Primary.open(old.platform, policy=old.policy, instance=old.instance) as restarted:
        again = Pair(restarted, pair.standby, pair.third)
        with again.refuses(Reason.BAD_MAC, asked=0):
            restarted.answer(request)
    pair.works()


def test_a_challenge_of_another_instance_of_the_domain(pair: Pair) -> None:
    request = pair.standby.ask(pair.primary).message
    with (
        Primary.open(pair.third, policy=pair.primary.policy) as other,
        Pair(other, pair.standby, pair.third).refuses(Reason.BAD_MAC, asked=0),
    ):
        other.answer(request)
    pair.works()


def test_the_hello_of_another_exchange(pair: Pair) -> None:
    other = Standby.of(pair.third).greet()
    with pair.refuses(Reason.BAD_MAC, asked=0):
        pair.primary.answer(edited(pair.standby.ask(pair.primary).message, Request, hello=other.message))


def test_the_challenge_of_another_exchange(pair: Pair) -> None:
    mine, other = pair.standby.ask(pair.primary), Standby.of(pair.third).ask(pair.primary)
    with pair.refuses(Reason.BAD_MAC, asked=0):
        pair.primary.answer(
            edited(mine.message, Request, challenge=decode(other.message, Request).challenge),
        )


def test_hello_and_challenge_of_another_exchange(pair: Pair) -> None:
    mine, other = pair.standby.ask(pair.primary), pair.standby.ask(pair.primary)
    theirs = decode(other.message, Request)
    with pair.refuses(Reason.NOT_BOUND, asked=0):
        pair.primary.answer(edited(mine.message, Request, hello=theirs.hello, challenge=theirs.challenge))


def test_the_evidence_of_another_exchange(pair: Pair) -> None:
    mine, other = pair.standby.ask(pair.primary), pair.standby.ask(pair.primary)
    with pair.refuses(Reason.NOT_BOUND, asked=0):
        pair.primary.answer(with_attested(mine.message, decode(other.message, Request).attested))


def test_the_same_exchange_with_another_machine_of_the_domain(pair: Pair) -> None:
    requesting = pair.standby.ask(pair.primary)
    with Primary.open(pair.third, policy=pair.primary.policy) as other:
        theirs = pair.standby.ask(other)
        grant = other.answer(theirs.message)
    with pair.refuses(Reason.NOT_BOUND):
        granted(requesting, grant)


def test_a_grant_of_an_earlier_exchange(pair: Pair) -> None:
    earlier, now = pair.standby.ask(pair.primary), pair.standby.ask(pair.primary)
    grant = pair.primary.answer(earlier.message)
    with pair.refuses(Reason.NOT_BOUND):
        granted(now, grant)


def test_a_grant_to_another_machine(pair: Pair) -> None:
    mine, theirs = pair.standby.ask(pair.primary), Standby.of(pair.third).ask(pair.primary)
    grant = pair.primary.answer(theirs.message)
    with pair.refuses(Reason.NOT_BOUND):
        granted(mine, grant)


def test_the_ciphertext_of_an_earlier_exchange(pair: Pair) -> None:
    earlier, now = pair.standby.ask(pair.primary), pair.standby.ask(pair.primary)
    old, new = (decode(pair.primary.answer(one.message), Grant) for one in (earlier, now))
    with pair.refuses(Reason.NOT_BOUND, says="did not vouch for this ciphertext"):
        granted(now, encode(Grant(attested=new.attested, ciphertext=old.ciphertext, members=MEMBERS)))


def test_every_challenge_and_every_request_is_fresh(pair: Pair) -> None:
    hello = pair.standby.greet().message
    bodies = [decode(decode(pair.primary.challenge(hello), Challenge).body, ChallengeBody) for _ in range(100)]
    assert len({body.nonce for body in bodies}) == 100
    requests = [pair.standby.ask(pair.primary) for _ in range(20)]
    assert len({one.nonce for one in requests}) == 20
    assert len({decode(one.message, Request).attested.claims[-1300:] for one in requests}) == 20


def test_the_nonce_is_all_that_the_source_of_randomness_gives(pair: Pair) -> None:
    asked: list[int] = []

    def random(size: int) -> bytes:
        asked.append(size)
        return bytes([len(asked)]) * size

    with Primary.open(pair.third, random=random) as primary:
        hello = pair.standby.greet().message
        nonces = [decode(decode(primary.challenge(hello), Challenge).body, ChallengeBody).nonce for _ in range(2)]
    assert nonces == [b"\x01" * 32, b"\x02" * 32]
    assert asked == [32, 32]


def test_the_key_of_the_challenges_is_new_at_each_start(pair: Pair) -> None:
    hello = pair.standby.greet().message

    def first_of_a_start() -> Challenge:
        with Primary.open(pair.third, random=bytes, instance=bytes(16)) as primary:
            return decode(primary.challenge(hello), Challenge)

    one, other = first_of_a_start(), first_of_a_start()
    assert one.body == other.body
    assert one.mac != other.mac


def test_used_challenges_are_forgotten_when_they_have_expired() -> None:
    used = UsedChallenges()
    used.use(b"a", NOW)
    with pytest.raises(Rejected) as refused:
        used.use(b"a", NOW + CHALLENGE_LIFE)
    assert refused.value.reason is Reason.CHALLENGE_REUSED
    used.use(b"b", NOW + CHALLENGE_LIFE + 1)
    assert list(used._until) == [b"b"]


def test_more_used_challenges_than_can_be_remembered_are_refused_not_forgotten() -> None:
    used = UsedChallenges()
    for number in range(MAX_REMEMBERED):
        used.use(number.to_bytes(4, "big"), NOW)
    with pytest.raises(Unavailable):
        used.use(b"one too many", NOW)
    with pytest.raises(Rejected) as refused:
        used.use(bytes(4), NOW)
    assert refused.value.reason is Reason.CHALLENGE_REUSED
    used.use(b"one too many", NOW + CHALLENGE_LIFE + 1)


def test_the_limits_are_those_of_the_specification() -> None:
    assert CHALLENGE_LIFE == 60
    assert MAX_REMEMBERED == 65_536
