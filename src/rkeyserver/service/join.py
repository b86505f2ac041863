"""A standby asks its hosts for the keyring (follow.py asks again, whenever one hints at a later state)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from typing import Final

from rkeyserver.address import Address
from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.config import Config
from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected, RkeyError, Unavailable
from rkeyserver.exchange.standby import Asking, Received
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.sealing.record import parse
from rkeyserver.service.adopt import (
    Nothing,
    Opened,
    Own,
    check_may_ask,
    keep_as,
    look,
    record_of,
)
from rkeyserver.service.audit_line import Line, Peer
from rkeyserver.service.given import Given
from rkeyserver.service.instance import Instance, Role
from rkeyserver.service.living import Reach
from rkeyserver.service.start import joiner_default, open_own
from rkeyserver.service.steward import Steward

FIRST_SECONDS: Final = 6.0  # for all hosts together, where an own record could be served meanwhile
FIRST_DELAY: Final = 0.25
WAITING_DELAY: Final = 5.0
# What a host that has proved itself holds: asking it again gives the same.
CERTAIN: Final = frozenset({Reason.ANOTHER_DOMAIN, Reason.NOT_AN_EXTENSION})
log = logging.getLogger(__name__)


def _weight(error: RkeyError) -> int:
    """How much hope there is in asking again: of what several hosts said the most hopeful counts, in any order."""
    if isinstance(error, Rejected):
        return 0 if error.reason in CERTAIN else 1
    return 2


async def _answers(host: Address) -> bool:
    from rkeyserver.service.fetch import answers  # noqa: PLC0415 - as in try_hosts()

    return await answers(host)


@dataclass(frozen=True)
class Joiner:
    """Asks hosts for the keyring.

    asking: makes the Asking for the policy to go by and the keyring that is held; jitter: 0 to 1, at random. shown: the
    digest of the state that each member was last shown to be held here; apart: by the digest of the state held, later
    ones that cannot replace it: nothing is asked again about them.
    """

    config: Config
    instance: Instance
    given: Given
    steward: Steward
    asking: Callable[[Policy, Keyring | None], Asking]
    jitter: Callable[[], float]
    shown: dict[str, str] = field(default_factory=dict, init=False)
    apart: dict[str, set[str]] = field(default_factory=dict, init=False)
    reach: Reach = field(default_factory=lambda: Reach(probe=_answers), init=False)

    def _asking(self, own: Own) -> Asking:
        served = self.instance.keyring
        if served is not None and not (isinstance(own, Opened) and own.keyring is served):
            # Whatever lies there instead: a peer is judged by what is served, which is durable nowhere now.
            return replace(self.asking(parse_policy(served.header.policy), served), holds=None)
        if isinstance(own, Opened):
            return self.asking(parse_policy(own.keyring.header.policy), own.keyring)
        return self.asking(self.given.policy or joiner_default(self.instance, self.given), None)

    async def try_hosts(self, own: Own, first: Address | None = None) -> Address:
        """Ask each host, `first` before the others; store and hold the first keyring that may be adopted.

        The hosts are asked in their order, but nobody is waited for: of several, whoever answers is asked first.

        Returns which it was.

        Raises: when none gave one, Unavailable if any host may yet give it, else a Rejected; one whose reason is in
        CERTAIN only if every host was refused for such a reason. Corrupt or Misuse at once: it is of what lies here,
        whichever host is asked. Then nothing has changed.
        """
        from rkeyserver.service.fetch import fetch_keyring  # noqa: PLC0415 - 50 ms that a primary does not need

        asking = self._asking(own)
        serves = isinstance(own, Opened) and own.keyring is self.instance.keyring
        failures: list[RkeyError] = []
        async with contextlib.aclosing(self._in_order(first)) as hosts:
            async for host in hosts:
                try:
                    with self.instance.deciding("join", where=f"{host}: "):
                        received = await fetch_keyring(host, asking)
                    self._has_shown(received, asking)
                except RkeyError as error:
                    if isinstance(error, Unavailable):
                        self.reach.failed(host)
                    failures.append(error)
                    log.warning("%s%s", error, self._line_for(error))
                    continue
                self.reach.answered(host)
                try:
                    if serves and isinstance(own, Opened) and own.keyring is not self.instance.keyring:
                        raise Unavailable("The keyring here was replaced while a host was asked.")
                    await self._adopt(received, own, host, hinted=first is not None)
                except RkeyError as error:
                    received.keyring.close()
                    log.error("%s", error)  # noqa: TRY400 - the text is for the operator, a traceback is not
                    if isinstance(error, (Corrupt, Misuse)):
                        raise
                    failures.append(error)
                    continue
                return host
        raise max(reversed(failures), key=_weight, default=Unavailable("No host was given."))

    async def _in_order(self, first: Address | None) -> AsyncGenerator[Address, None]:
        if first is not None:
            yield first  # it has answered just now
        async with contextlib.aclosing(self.reach.living([one for one in self.config.hosts if one != first])) as hosts:
            async for host in hosts:
                yield host

    def _line_for(self, error: RkeyError) -> str:
        """What enrols this machine, where a host has refused it."""
        if not isinstance(error, Rejected) or error.reason is not Reason.REFUSED_BY_PEER:
            return ""
        own = self.instance.platform.attester_identity()
        line = f"{own.platform} {own.machine}"
        return f' This machine is: {line} (to admit it, at the primary: rkeyserver policy admit "{line}").'

    async def _adopt(self, received: Received, own: Own, host: Address, *, hinted: bool) -> None:
        if isinstance(own, Opened) and own.keyring.same_as(received.keyring):
            if hinted and own.record and own.keyring is self.instance.keyring:
                # A hint that was none must not wear out the disk.
                self.instance.heard_again(received, str(host))
                return
        elif isinstance(own, Opened) and own.keyring.extends(received.keyring):
            self._open(own.keyring)
            log.warning("Host %s is behind: this instance's own keyring is an extension of what it has.", host)
            received.keyring.close()
            return
        if self.instance.store.load() != record_of(own):
            raise Unavailable(
                "The record here was changed while the host was asked.",
                advice="It was left as it is and is looked at again.",
            )
        if isinstance(own, Opened) and await self._reunited(received, own.keyring, host):
            return
        peer = Peer.of(received.verdict.claims, str(host))
        transcript = received.transcript.hex()
        with self.instance.deciding("join", domain=received.keyring.domain, peer=peer, transcript=transcript):
            keep = keep_as(own, received.keyring, self.config.domain)
            if (served := self.instance.keyring) is not None:
                # Nor does a record that was put back, or damaged, under a running instance take it back.
                keep_as(Opened(served, b""), received.keyring, self.config.domain)
        self.instance.received(received, peer, keep)
        if isinstance(own, Opened) and own.keyring is not self.instance.keyring:
            own.keyring.close()

    def _open(self, own: Keyring) -> None:
        """Serve from the own record, where nothing is served yet that it lacks."""
        served = self.instance.keyring
        if served is None or (served is not own and own.extends(served)):
            open_own(self.config, self.instance, own)

    async def _reunited(self, received: Received, own: Keyring, host: Address) -> bool:
        """Deal with a later state that lacks generations of the own one; whether it is settled.

        Whoever made that state takes them over. That is this very instance where its record was rolled back; else it
        changes nothing more, serves on, and follows once the other one has (design invariant 7).
        """
        instance, theirs = self.instance, received.keyring
        if theirs.domain != own.domain or theirs.place < own.place or theirs.extends(own):
            return False
        if theirs.header.primary == instance.members.own:
            self._open(own)
            instance.know_host(received, str(host))
            try:
                await self.steward.reunite(received, str(host))
            finally:
                theirs.close()
            return True
        known = self.apart.get(own.place.digest, set())
        self.apart.clear()
        self.apart[own.place.digest] = known | {theirs.place.digest}
        if instance.role is Role.PRIMARY:
            instance.step_down(f"Member {theirs.header.primary} is primary in a later state.")
            log.warning(
                "Member %s is primary in a later state (epoch %d, sequence %d): this instance changes nothing more, "
                "and follows once that one has taken over what is only here.",
                theirs.header.primary,
                *theirs.place[:2],
            )
        return False

    def _has_shown(self, received: Received, asking: Asking) -> None:
        if asking.holds is not None:
            self.shown[received.members.member] = asking.holds.digest

    def _as_it_lies_there(self, own: Own) -> Own:
        """What the keystore holds now, if that is no longer what was judged: a person may have put a record there."""
        if self.instance.store.load() == record_of(own):
            return own
        found = look(self.instance.store, self.instance.platform)
        check_may_ask(found, self.instance.platform.identity())
        return found

    def _served(self, keyring: Keyring) -> Own:
        """The keyring that is served with its record; what the keystore holds instead, if that is something else."""
        found = look(self.instance.store, self.instance.platform)
        match found:
            case Opened(stored, record):
                if stored.same_as(keyring):
                    stored.close()
                    return Opened(keyring, record)
            case Nothing():
                return Opened(keyring, b"")
        return found

    async def show(self, host: Address) -> None:
        """Show the member at `host` what is held here: a hand-over that nothing is expected of."""
        from rkeyserver.service.fetch import fetch_keyring  # noqa: PLC0415 - as in try_hosts()

        instance, keyring = self.instance, self.instance.keyring
        if keyring is None:
            return
        asking = self._asking(Opened(keyring, b""))
        try:
            received = await fetch_keyring(host, asking)
        except RkeyError as error:
            log.warning("%s was not shown what is held here; it is later. %s", host, error)
            return
        line = Line(
            event="acknowledge",
            verdict="accepted",
            domain=keyring.domain,
            sequence=keyring.header.sequence,
            peer=Peer.of(received.verdict.claims, str(host)),
            policy=received.verdict.policy,
            transcript=received.transcript.hex(),
            peer_head=received.peer_head.hex(),
        )
        with contextlib.closing(received.keyring):
            instance.audit.write_now(line)
            self._has_shown(received, asking)
            instance.know_host(received, str(host))

    async def until(self, own: Own, seconds: float) -> Address:
        """Try again and again for `seconds`; returns the host that has given the keyring.

        Raises: the last error when the time is over, or when asking again cannot change it.
        """
        loop = asyncio.get_running_loop()
        end, delay = loop.time() + seconds, FIRST_DELAY
        while True:
            try:
                await self.instance.reach_store()
                own = self._as_it_lies_there(own)
                return await self.try_hosts(own)
            except (Corrupt, Misuse):
                raise
            except RkeyError as error:
                pause = min(delay * (0.5 + self.jitter()), end - loop.time())
                if pause <= 0 or not _weight(error):
                    raise
                left = end - loop.time()
                log.info("Asking again in %.1f seconds, for %.0f more. (%s)", pause, left, error.code)
                await asyncio.sleep(pause)
                delay = min(delay * 2, WAITING_DELAY)


async def start_standby(config: Config, instance: Instance, joiner: Joiner) -> bool:
    """Ask the hosts for the keyring; with an own record of the domain, serve from it where none gives one.

    Returns whether a host has given it.
    Raises: Corrupt for a record that nothing may replace, or what until() raises where there is no record to serve.
    """
    with instance.deciding("open"):
        own = look(instance.store, instance.platform)
        check_may_ask(own, instance.platform.identity())
    asked_for = isinstance(own, Opened) and config.domain in (None, own.keyring.domain)
    if isinstance(own, Opened) and asked_for:
        instance.own(parse(own.record).header)
        if own.keyring.header.primary == instance.members.own and not config.once:
            # It was promoted: the hosts that it once joined follow it, or will.
            open_own(config, instance, own.keyring)
            return True
    if config.once or not isinstance(own, Opened) or not asked_for:
        host = await joiner.until(own, config.wait)
        if not config.once:
            await joiner.show(host)
        return True
    try:
        async with asyncio.timeout(FIRST_SECONDS):
            host = await joiner.try_hosts(own)
    except (RkeyError, TimeoutError) as error:
        code = error.code if isinstance(error, RkeyError) else "no answer in time"
        log.warning("No host gave the keyring; serving from the own record and asking on. (%s)", code)
        open_own(config, instance, own.keyring)
        return False
    await joiner.show(host)
    return True
