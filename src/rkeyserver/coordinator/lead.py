"""Keeping the lease, being elected, and committing: one instance's part in who is primary.

Nothing is promised by time. A lease that ran out may not be noticed here: this process may have been stopped, and
inside an enclave the clock is the host's. What keeps two primaries from both winning is the engine's comparison of the
fencing token and the state's revision in the very transaction that commits. The deadline here is a courtesy: it ends
early what would be refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from rkeyserver.coordinator import order
from rkeyserver.coordinator.interface import (
    Candidate,
    Elected,
    Engine,
    Holding,
    Lost,
    OnElected,
    OnLost,
    Seen,
)
from rkeyserver.coordinator.values import Authenticator
from rkeyserver.errors import Reason, Rejected, RkeyError, Unavailable
from rkeyserver.keyring.place import Place

RENEWALS: Final = 3  # in the time of a lease
SPREAD: Final = 0.25  # of a lease: over that time candidates begin
RETRY: Final = 0.1  # of a lease: between two attempts to renew it when nobody answers, and two looks of a candidate
FAILED_LEASES: Final = 2  # for so many leases one that could not take over is no candidate
GIVE_BACK: Final = 1.0  # seconds for giving a lease back
_HELD: Final = "Nothing was changed; everything that is held is served."
log = logging.getLogger(__name__)


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class _Term:
    """One time as holder.

    modified: the state's revision; until: by the own clock, when the lease ends; failed: it could not take over.
    """

    holding: Holding
    elected: Elected
    state: order.State
    modified: int
    until: float
    over: asyncio.Future[Lost]
    failed: bool = False

    @property
    def least(self) -> int:
        """The lowest epoch that a state may have that is committed in this time."""
        return 0 if self.elected.continues else self.elected.epoch


@dataclass
class Coordinated:
    """An instance among the candidates of its domain.

    member: its id; own: which state it has; seconds: of the lease that is asked for. clock: seconds that count up;
    sleep, jitter (0 to 1): tests give their own.
    """

    engine: Engine
    values: Authenticator
    member: str
    own: Callable[[], Place]
    seconds: int
    clock: Callable[[], float] = _loop_time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random
    state: Candidate | Holding | Lost = field(default_factory=Candidate, init=False)
    _term: _Term | None = field(default=None, init=False)
    _holder: str = field(default="", init=False)
    _committed: order.State = field(default_factory=order.Nothing, init=False)
    _why: str = field(default="", init=False)
    _error: str = field(default="", init=False)
    _behind_since: float | None = field(default=None, init=False)
    _committing: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    @contextlib.asynccontextmanager
    async def running(self, on_elected: OnElected, on_lost: OnLost) -> AsyncIterator[None]:
        """A context in which this instance is a candidate.

        on_elected: awaited while the lease is kept; does what the Elected asks for, by commit(), and only then takes
        itself for primary; an error of it gives the lease back. on_lost: awaited after it, once for each. Neither is
        called once the context ends, which gives the lease back.
        """
        task = asyncio.create_task(self._run(on_elected, on_lost))
        task.add_done_callback(_report)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            await self.engine.close()
            self.values.close()

    async def commit(self, before: Place, after: Place) -> None:
        """Have `after` follow `before`; when it returns, no other instance can have another state follow.

        Await it before the new state is stored or used. If it raises, drop the new state: it may be committed all the
        same, and then the next primary goes on in a later epoch.
        Raises: Unavailable(NO_LEASE) if it is not this instance's to change any more; Unavailable if nobody answers;
        Misuse for a state that is no later one of this member.
        """
        async with self._committing:
            term = self._term
            if term is None or term.over.done() or self.clock() >= term.until:
                raise Unavailable(
                    "This instance does not hold the coordinator's lease, so it is not primary.",
                    advice=_HELD,
                    reason=Reason.NO_LEASE,
                )
            try:
                order.check_commit(before, after, term.state, self.member, term.least)
            except Unavailable as error:
                self._over(term, error.message)  # a state was committed and not stored: the way on is a later epoch
                raise
            try:
                outcome = await self.engine.put(term.holding.token, term.modified, self.values.state(after))
            except BaseException as error:
                # It may still be carried out. Giving the lease back ends that: its key is gone then.
                if isinstance(error, RkeyError):
                    self._failed(error)
                self._over(term, f"It is not known whether a state was committed. {error}")
                raise
            self._note(outcome.seen)
            if not outcome.done or outcome.seen.state is None:
                self._over(term, "Another instance holds the lease by now, or wrote the state.")
                raise Unavailable(
                    "The coordinator refuses to commit: another instance holds the lease by now, or wrote the state.",
                    advice=_HELD,
                    reason=Reason.NO_LEASE,
                )
            term.state, term.modified = order.Committed(after), outcome.seen.state.modified

    def resign(self, why: str) -> None:
        """Be primary no more, and a candidate again; nothing for one that is not. why: one sentence.

        For a primary that meets a later state of another one, after the engine's data was lost: elected again, with
        that state as its own, it goes on in a later epoch.
        """
        if self._term is not None:
            self._over(self._term, why)

    def status(self) -> dict[str, Any]:
        """What is known of it. No secret."""
        term = self._term
        left = 0.0 if term is None else max(0.0, term.until - self.clock())
        return self.engine.status() | {
            "state": type(self.state).__name__.lower(),
            "why": self.state.why if isinstance(self.state, Lost) else self._why,
            "holder": self._holder,
            "token": None if term is None else term.holding.token,
            "lease": self.seconds if term is None else term.holding.lease.seconds,
            "lease_left": None if term is None else round(left, 1),
            "committed": self._committed.place._asdict() if isinstance(self._committed, order.Committed) else None,
            "unreadable": self._committed.why if isinstance(self._committed, order.Unreadable) else "",
            "behind": self._behind_since is not None,
            "last_error": self._error,
        }

    async def _run(self, on_elected: OnElected, on_lost: OnLost) -> None:
        while True:
            term = await self._campaign()
            lost = await self._hold(term, on_elected)
            log.warning("No longer primary: %s", lost.why)
            await on_lost(lost)
            self.state, self._why = Candidate(), lost.why
            # Who could not take over leaves it to another.
            await self.sleep(self.seconds * (FAILED_LEASES if term.failed else self.jitter() * SPREAD))

    # A candidate

    async def _campaign(self) -> _Term:
        """Watch, and try whenever there is no primary, until this instance is it."""
        while True:
            try:
                seen = await self.engine.look()
                self._error = ""
                self._note(seen)
                if seen.primary is not None:
                    self._behind_since = None
                    looked = self.clock()
                    await self.engine.changed(seen.revision)
                    if self.clock() < looked + RETRY * self.seconds:  # an engine may say so without end
                        await self.sleep(RETRY * self.seconds)
                elif (left := self._waits_for_another(seen)) > 0:
                    await self.sleep(min(left, SPREAD * self.seconds))
                else:
                    await self.sleep(self.jitter() * SPREAD * self.seconds)
                    if (term := await self._take()) is not None:
                        return term
            except RkeyError as error:
                self._failed(error)
                await self.sleep((0.5 + self.jitter()) * self.seconds / RENEWALS)

    def _waits_for_another(self, seen: Seen) -> float:
        """For how many seconds more this candidate leaves it to one that has the committed state."""
        if not order.is_behind(self.own(), order.state_of(seen.state, self.values)):
            self._behind_since = None
            return 0
        if self._behind_since is None:
            self._behind_since = self.clock()
            log.warning("The coordinator has a state that this instance has not: it waits for one that has.")
        return self._behind_since + order.BEHIND_LEASES * self.seconds - self.clock()

    async def _take(self) -> _Term | None:
        asked = self.clock()
        lease = await self.engine.grant()
        try:
            outcome = await self.engine.take(lease, self.values.primary(self.member))
            self._note(outcome.seen)
            primary, state = outcome.seen.primary, outcome.seen.state
            # Somebody may have been elected, have committed and be gone since the last look.
            if outcome.done and primary is not None and self._waits_for_another(outcome.seen) <= 0:
                found = order.state_of(state, self.values)
                return _Term(
                    holding=Holding(lease, primary.created),
                    elected=order.elected(primary.created, self.own(), found, self.member),
                    state=found,
                    modified=0 if state is None else state.modified,
                    until=asked + lease.seconds,
                    over=asyncio.get_running_loop().create_future(),
                )
        except BaseException:  # whatever it is, no lease stays with who is not primary by it
            await self._give_back(Holding(lease, 0))
            raise
        await self._give_back(Holding(lease, 0))
        return None

    # The holder

    async def _hold(self, term: _Term, on_elected: OnElected) -> Lost:
        self._behind_since = None
        self._term, self.state = term, term.holding
        log.info("Elected, with fencing token %d.", term.holding.token)
        keeping = asyncio.create_task(self._keep(term))
        acting = asyncio.create_task(self._act(term, on_elected))
        try:
            ending: list[asyncio.Future[Any]] = [term.over, keeping]
            await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
            if not term.over.done():
                keeping.result()  # an error of the program
            await acting  # what it commits from now on is refused
        finally:
            keeping.cancel()
            acting.cancel()
            await asyncio.wait([keeping, acting])
            self._term = None
            await self._give_back(term.holding)
        return term.over.result()

    async def _act(self, term: _Term, on_elected: OnElected) -> None:
        try:
            await on_elected(term.elected)
        except RkeyError as error:
            term.failed = True
            self._failed(error)
            self._over(term, f"Elected, it could not take over. {error}")
        except Exception:  # a bug: told by whoever waits for this; others can be primary meanwhile
            self._over(term, "Elected, it could not take over, for an error of the program.")
            raise

    async def _keep(self, term: _Term) -> None:
        """Renew the lease until it is over."""
        lease, pause = term.holding.lease, term.holding.lease.seconds / RENEWALS
        while not term.over.done():
            await self.sleep(pause)
            pause = lease.seconds / RENEWALS
            asked = self.clock()
            try:
                if not await self.engine.keep(lease):
                    self._over(term, "The lease has ended.")
                    return
                term.until = asked + lease.seconds
                seen = await self.engine.look()
            except RkeyError as error:
                self._failed(error)
                if self.clock() >= term.until:
                    self._over(term, f"The lease could not be renewed in its time. {error}")
                pause = RETRY * lease.seconds
                continue
            self._error = ""
            self._note(seen)
            if seen.primary is None or seen.primary.created != term.holding.token:
                self._over(term, "The key that says who is primary is another's, or gone.")

    def _over(self, term: _Term, why: str) -> None:
        if not term.over.done():
            lost = Lost(why)
            term.over.set_result(lost)
            self.state = lost

    async def _give_back(self, holding: Holding) -> None:
        """End the lease; where nobody answers, it ends by itself."""
        try:
            async with asyncio.timeout(GIVE_BACK):
                await self.engine.revoke(holding.lease)
        except (RkeyError, TimeoutError) as error:
            log.info("The lease was not given back, and ends by itself. %s", str(error) or "No answer in time.")

    def _note(self, seen: Seen) -> None:
        """Remember what was seen, for the status."""
        self._committed, self._holder = order.state_of(seen.state, self.values), ""
        if seen.primary is not None:
            try:
                self._holder = self.values.read_primary(seen.primary.value)
            except Rejected as error:  # a key that stays nobody's until it is deleted
                self._failed(error)

    def _failed(self, error: RkeyError) -> None:
        if self._error != error.message:
            log.warning("%s", error)
        self._error = error.message


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("The coordinator's part ended, and this instance is no candidate any more.", exc_info=error)
