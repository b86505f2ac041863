"""An instance's part in an election, over an engine in memory and a clock that does not wait."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.coordinated import MINTED, Member, authenticator, check_history, member_id
from tests.fakes.engine import MemoryEngine, Store
from tests.fakes.loop import run_timeless

from rkeyserver.coordinator.interface import Candidate, Elected, Entry, Holding, Lease, Lost, Outcome
from rkeyserver.coordinator.lead import FAILED_LEASES, RENEWALS, RETRY
from rkeyserver.coordinator.order import BEHIND_LEASES
from rkeyserver.errors import Misuse, Reason, Unavailable
from rkeyserver.keyring.place import Place

LEASE = 10


class Party:
    """Some members, at one engine."""

    def __init__(self, number: int, seed: int = 0) -> None:
        self.store = Store()
        self.random = random.Random(seed)  # noqa: S311 - a test's
        self.engines = [MemoryEngine(self.store, LEASE) for _ in range(number)]
        self.members = [
            Member(one, engine, LEASE, options={"jitter": self.random.random})
            for one, engine in enumerate(self.engines, start=1)
        ]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for one in self.members:
                await stack.enter_async_context(one.running())
            yield

    def primary(self) -> Member:
        (found,) = [one for one in self.members if one.primary]
        return found

    def check(self) -> None:
        check_history(*(one.stored for one in self.members))


def test_elected_renewed_and_given_back() -> None:
    async def check() -> None:
        party = Party(1)
        (one,), (engine,) = party.members, party.engines
        async with one.running():
            await asyncio.sleep(LEASE)
            assert one.events == [Elected(token=3, committed=None, continues=False, epoch=1)]
            assert isinstance(one.coordinated.state, Holding)
            await asyncio.sleep(10 * LEASE)
            assert one.primary
            assert engine.asked.count("keep") >= 10 * RENEWALS
            status = one.coordinated.status()
            assert (status["state"], status["holder"], status["token"]) == ("holding", member_id(1), 3)
            assert status["committed"] == one.own._asdict()
            assert LEASE / 2 < status["lease_left"] <= LEASE
        assert engine.asked[-2:] == ["revoke", "close"]
        assert party.store.now().primary is None

    run_timeless(check)


def test_nothing_is_committed_by_a_candidate() -> None:
    async def check() -> None:
        party = Party(2)
        async with party.running():
            await asyncio.sleep(LEASE)
            other = next(one for one in party.members if not one.primary)
            assert isinstance(other.coordinated.state, Candidate)
            with pytest.raises(Unavailable) as raised:
                await other.change()
            assert raised.value.reason is Reason.NO_LEASE
            assert other.coordinated.status()["holder"] == member_id(party.primary().number)

    run_timeless(check)


def test_a_state_that_is_none_is_refused_and_the_lease_is_kept() -> None:
    async def check() -> None:
        party = Party(1)
        (one,) = party.members
        async with one.running():
            await asyncio.sleep(LEASE)
            with pytest.raises(Misuse):
                await one.coordinated.commit(one.own, one.own)
            await one.change()
            assert len(one.events) == 1

    run_timeless(check)


@pytest.mark.parametrize("fault", ["silent", "deaf", "slow"])
def test_a_commit_without_an_answer_ends_the_time_as_primary(fault: str) -> None:
    async def check() -> None:
        party = Party(1)
        (one,), (engine,) = party.members, party.engines
        async with one.running():
            await asyncio.sleep(LEASE)
            before = one.own
            setattr(engine, fault, True)
            with pytest.raises(Unavailable):
                await one.change()
            assert one.own == before
            with pytest.raises(Unavailable, match="does not hold"):
                await one.change()
            setattr(engine, fault, False)
            await asyncio.sleep(LEASE)
            engine.later()
            await asyncio.sleep((BEHIND_LEASES + 2) * LEASE)
            assert one.primary
            assert isinstance(one.events[1], Lost)
            assert (one.own.epoch > before.epoch) == (fault == "deaf")
            with contextlib.suppress(Unavailable):
                await one.change()
            party.check()

    run_timeless(check)


def test_nobody_answers_until_the_lease_is_over() -> None:
    async def check() -> None:
        party = Party(2)
        async with party.running():
            await asyncio.sleep(LEASE)
            first = party.primary()
            other = next(one for one in party.members if one is not first)
            other.own = first.own
            engine = party.engines[first.number - 1]
            engine.silent = True
            await asyncio.sleep(LEASE / 2)
            assert first.primary
            assert first.coordinated.status()["last_error"] == "No answer."
            await asyncio.sleep(1.5 * LEASE)
            assert party.primary() is other
            assert isinstance(first.events[-1], Lost)
            assert first.coordinated.status()["why"].startswith("The lease could not be renewed in its time.")
            engine.silent = False
            await asyncio.sleep(2 * LEASE)
            assert not first.primary
            assert first.coordinated.status()["last_error"] == ""

    run_timeless(check)


CHANGED: dict[str, tuple[Any, str]] = {
    "the lease was revoked": (lambda store: store.leases.clear(), "The lease has ended."),
    "the key is another's": (lambda store: setattr(store, "primary", Entry(b"me", 99, 99, 0)), "another's, or gone"),
    "the key is gone": (lambda store: setattr(store, "primary", None), "another's, or gone"),
}


@pytest.mark.parametrize(("change", "says"), CHANGED.values(), ids=CHANGED)
def test_what_is_found_while_renewing(change: Any, says: str) -> None:
    async def check() -> None:
        party = Party(1)
        (one,) = party.members
        async with one.running():
            await asyncio.sleep(LEASE)
            change(party.store)
            await asyncio.sleep(LEASE)
            assert isinstance(one.events[1], Lost)
            assert says in one.events[1].why

    run_timeless(check)


def test_a_candidate_that_is_behind_waits_for_one_that_is_not() -> None:
    async def check() -> None:
        party = Party(1)
        party.store.state = Entry(authenticator().state(Place(4, 4, member_id(9), "0" * 64)), 1, 1, 0)
        (one,) = party.members
        async with one.running():
            await asyncio.sleep((BEHIND_LEASES - 0.5) * LEASE)
            assert not one.events
            assert one.coordinated.status()["behind"]
            await asyncio.sleep(LEASE)
            assert one.primary
            assert one.own.epoch == 5
            assert not one.coordinated.status()["behind"]

    run_timeless(check)


def test_a_candidate_that_was_behind_and_has_caught_up_waits_no_more() -> None:
    async def check() -> None:
        party = Party(1)
        latest = Place(4, 4, member_id(9), "0" * 64)
        party.store.state = Entry(authenticator().state(latest), 1, 1, 0)
        (one,) = party.members
        async with one.running():
            await asyncio.sleep(LEASE)
            one.own = latest
            await asyncio.sleep(LEASE)
            assert one.primary

    run_timeless(check)


def have_taken(engine: MemoryEngine, during: Callable[[], AbstractContextManager[None]]) -> None:
    """Have each take() of `engine` carried out in that context."""
    take = engine.take

    async def taken(lease: Lease, value: bytes) -> Outcome:
        with during():
            return await take(lease, value)

    engine.take = taken  # type: ignore[method-assign]  # that is what is tried


def test_committed_between_the_look_and_the_election() -> None:
    """Another was elected, committed, and was gone: who did not see it gives the lease back, and waits."""

    async def check() -> None:
        party = Party(1)
        (one,), (engine,) = party.members, party.engines
        later = Entry(authenticator().state(Place(4, 4, member_id(9), "0" * 64)), 1, 1, 0)

        @contextlib.contextmanager
        def after_another() -> Iterator[None]:
            party.store.state = later
            yield

        have_taken(engine, after_another)
        async with one.running():
            await asyncio.sleep(LEASE)
            assert not one.events
            assert "revoke" in engine.asked
            await asyncio.sleep(BEHIND_LEASES * LEASE)
            assert one.primary

    run_timeless(check)


@pytest.mark.parametrize("fault", ["silent", "deaf"])
def test_an_election_without_an_answer_is_given_back(fault: str) -> None:
    async def check() -> None:
        party = Party(2)
        (one, other), (engine, _) = party.members, party.engines

        @contextlib.contextmanager
        def faulty() -> Iterator[None]:
            setattr(engine, fault, True)
            try:
                yield
            finally:
                setattr(engine, fault, False)

        have_taken(engine, faulty)
        async with one.running():
            await asyncio.sleep(LEASE)
            assert not one.primary
            assert party.store.now().primary is None
            async with other.running():
                await asyncio.sleep(LEASE)
                assert other.primary

    run_timeless(check)


def test_who_cannot_take_over_leaves_it_to_another() -> None:
    async def check() -> None:
        party = Party(2)

        def fails() -> None:
            raise Unavailable("The disk is full.")

        one, other = party.members
        one.takes_over = fails
        async with one.running():
            await asyncio.sleep(LEASE / 2)
            assert [type(event) for event in one.events] == [Lost]
            assert "The disk is full." in one.coordinated.status()["why"]
            async with other.running():
                await asyncio.sleep(FAILED_LEASES * LEASE)
                assert party.primary() is other

    run_timeless(check)


def test_an_error_of_the_program_gives_the_lease_back(caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        party = Party(1)
        (one,) = party.members

        def fails() -> None:
            raise ZeroDivisionError

        one.takes_over = fails
        async with one.running():
            await asyncio.sleep(LEASE)
            assert party.store.now().primary is None
        assert "no candidate any more" in caplog.text

    run_timeless(check)


def test_an_error_while_renewing_gives_the_lease_back(caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        party = Party(1)
        (one,), (engine,) = party.members, party.engines
        engine.keep = None  # type: ignore[method-assign,assignment]  # that is what is tried
        async with one.running():
            await asyncio.sleep(LEASE)
            assert party.store.now().primary is None
        assert "no candidate any more" in caplog.text

    run_timeless(check)


@pytest.mark.parametrize(("seconds", "why"), [(0.0, "No answer."), (3600.0, "No answer in time.")])
def test_a_primary_that_cannot_give_back_ends_all_the_same(
    caplog: pytest.LogCaptureFixture, seconds: float, why: str
) -> None:
    caplog.set_level("INFO")

    async def check() -> None:
        party = Party(1)
        (one,), (engine,) = party.members, party.engines
        async with one.running():
            await asyncio.sleep(LEASE)
            engine.silent = True
            revoke = engine.revoke

            async def late(lease: Lease) -> None:
                await asyncio.sleep(seconds)
                await revoke(lease)

            engine.revoke = late  # type: ignore[method-assign]  # that is what is tried
        assert engine.asked[-1] == "close"
        assert f"The lease was not given back, and ends by itself. {why}" in caplog.text

    run_timeless(check)


def test_a_commit_that_is_cancelled_ends_the_time_as_primary() -> None:
    async def check() -> None:
        party = Party(1)
        (one,), (engine,) = party.members, party.engines
        async with one.running():
            await asyncio.sleep(LEASE)
            engine.silent = True
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(one.change(), 0.1)
            engine.silent = False
            await asyncio.sleep(0.5)
            assert isinstance(one.events[1], Lost)

    run_timeless(check)


def test_a_primary_whose_clock_jumped_asks_nobody() -> None:
    """As after a pause: it is refused here already, where the clock is honest."""

    async def check() -> None:
        ahead = [0.0]
        party = Party(1)
        (one,), (engine,) = party.members, party.engines
        one.coordinated.clock = lambda: asyncio.get_running_loop().time() + ahead[0]
        async with one.running():
            await asyncio.sleep(LEASE)
            ahead[0] = 2 * LEASE
            with pytest.raises(Unavailable, match="does not hold"):
                await one.change()
            assert engine.asked.count("put") == 1

    run_timeless(check)


def test_a_state_that_was_committed_and_could_not_be_stored() -> None:
    """The disk was full: it is elected anew, and goes on in a later epoch than what nobody has."""

    async def check() -> None:
        party = Party(1)
        (one,) = party.members
        async with one.running():
            await asyncio.sleep(LEASE)
            lost = one.next()
            await one.coordinated.commit(one.own, lost)
            with pytest.raises(Unavailable, match="as the last state"):
                await one.change()
            await asyncio.sleep((BEHIND_LEASES + 2) * LEASE)
            assert one.own.epoch == lost.epoch + 1
            await one.change()
            party.check()

    run_timeless(check)


def test_a_primary_that_meets_a_later_state_resigns_and_goes_on_after_it() -> None:
    async def check() -> None:
        party = Party(1)
        (one,) = party.members
        one.coordinated.resign("It is none.")
        async with one.running():
            await asyncio.sleep(LEASE)
            met = Place(9, 2, member_id(9), "0" * 64)
            one.coordinated.resign("Another has a later state.")
            with pytest.raises(Unavailable, match="does not hold"):
                await one.change()
            one.own = met
            await asyncio.sleep(LEASE)
            assert one.events[1] == Lost("Another has a later state.")
            assert one.primary
            assert one.own.epoch == met.epoch + 1

    run_timeless(check)


WHO = st.integers(0, 2)
STEPS = st.one_of(
    st.tuples(st.just("silent"), WHO, st.booleans()),
    st.tuples(st.just("deaf"), WHO, st.booleans()),
    st.tuples(st.just("slow"), WHO, st.booleans()),
    st.tuples(st.just("later"), WHO, st.just(0)),
    st.tuples(st.just("change"), WHO, st.just(0)),
    st.tuples(st.just("follow"), WHO, WHO),
    st.tuples(st.just("crash between commit and record"), WHO, st.just(0)),
    st.tuples(st.just("wait"), st.integers(1, 20), st.just(0)),
)


@given(st.lists(STEPS, max_size=40), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_whatever_happens_no_state_is_followed_by_two(steps: list[tuple[str, int, Any]], seed: int) -> None:
    async def check() -> None:
        party = Party(3, seed)
        async with party.running():
            await asyncio.sleep(LEASE)
            for what, who, more in steps:
                await step(party, what, who, more)
                party.check()
            for engine in party.engines:
                engine.silent = engine.deaf = engine.slow = False
            await asyncio.sleep((BEHIND_LEASES + FAILED_LEASES + 3) * LEASE)
            for engine in party.engines:
                engine.later()
            await asyncio.sleep((BEHIND_LEASES + 3) * LEASE)
            with contextlib.suppress(Unavailable):  # if it has not stored what it had committed
                await party.primary().change()
            await asyncio.sleep((BEHIND_LEASES + 3) * LEASE)
            await party.primary().change()
            party.check()

    run_timeless(check)


async def step(party: Party, what: str, who: int, more: Any) -> None:
    if what == "wait":
        await asyncio.sleep(who)
        return
    member, engine = party.members[who], party.engines[who]
    if what == "later":
        engine.later()
    elif what == "change":
        with contextlib.suppress(Unavailable, Misuse):
            await member.change()
    elif what == "follow":
        member.own = max(member.own, party.members[more].own)
    elif what == "crash between commit and record":
        with contextlib.suppress(Unavailable, Misuse):
            await member.coordinated.commit(member.own, member.next())
    else:
        setattr(engine, what, more)


def test_the_first_state_is_nobodys() -> None:
    assert MINTED.primary not in {member_id(number) for number in range(1, 4)}


def test_an_engine_that_tells_of_changes_without_end_is_asked_seldom() -> None:
    """Each of its answers would else be the next question, and callers wait for the event loop."""

    async def check() -> None:
        party = Party(1)
        (one,), (engine,) = party.members, party.engines
        party.store.primary = Entry(authenticator().primary(member_id(2)), 2, 2, 0)

        async def at_once(revision: int) -> None:  # noqa: ARG001 - it does not wait
            engine.asked.append("changed")

        engine.changed = at_once  # type: ignore[method-assign]  # that is the lie
        async with one.running():
            await asyncio.sleep(2 * LEASE)
            assert 2 <= engine.asked.count("changed") <= 2 / RETRY + 1

    run_timeless(check)
