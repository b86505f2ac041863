"""A standby asks its hosts for the keyring: at its start, and whenever one hints at a later state."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from rkeyserver.address import Address
from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.appraisal.succession import Held
from rkeyserver.config import Config
from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected, RkeyError, Unavailable
from rkeyserver.exchange.standby import Asking, Received, held_of
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.service.adopt import (
    Nothing,
    Opened,
    Own,
    check_may_ask,
    keep_as,
    look,
    record_of,
)
from rkeyserver.service.audit import Peer
from rkeyserver.service.given import Given
from rkeyserver.service.instance import Instance
from rkeyserver.service.routes import Hint
from rkeyserver.service.start import joiner_default, open_own

FIRST_SECONDS: Final = 6.0  # for all hosts together, where an own record could be served meanwhile
FIRST_DELAY: Final = 0.25
WAITING_DELAY: Final = 5.0
BACKGROUND_DELAY: Final = 300.0
HINT_SECONDS: Final = 3.0
# What a host that has proved itself holds: asking it again gives the same.
CERTAIN: Final = frozenset({Reason.ANOTHER_DOMAIN, Reason.NOT_AN_EXTENSION})
log = logging.getLogger(__name__)


def _weight(error: RkeyError) -> int:
    """How much hope there is in asking again: of what several hosts said the most hopeful counts, in any order."""
    if isinstance(error, Rejected):
        return 0 if error.reason in CERTAIN else 1
    return 2


@dataclass(frozen=True)
class Vain:
    """A host whose hints came to nothing. pause: seconds, doubled each time; until: of the loop's clock."""

    pause: float
    until: float


@dataclass(frozen=True)
class Joiner:
    """Asks the configured hosts for the keyring.

    asking: makes the Asking for the policy to go by and the state that is held; jitter: 0 to 1, at random.
    """

    config: Config
    instance: Instance
    given: Given
    asking: Callable[[Policy, Held | None], Asking]
    jitter: Callable[[], float]
    vain: dict[Address, Vain] = field(default_factory=dict, init=False)

    def _asking(self, own: Own) -> Asking:
        if isinstance(own, Opened):
            return self.asking(parse_policy(own.keyring.header.policy), held_of(own.keyring))
        return self.asking(self.given.policy or joiner_default(self.instance, self.given), None)

    async def try_hosts(self, own: Own, first: Address | None = None) -> None:
        """Ask each host in order, `first` before the others; store and hold the first keyring that may be adopted.

        Raises: when none gave one, Unavailable if any host may yet give it, else a Rejected; one whose reason is in
        CERTAIN only if every host was refused for such a reason. Corrupt or Misuse at once: it is of what lies here,
        whichever host is asked. Then nothing has changed.
        """
        from rkeyserver.service.fetch import fetch_keyring  # noqa: PLC0415 - 50 ms that a primary does not need

        hosts: Sequence[Address] = sorted(self.config.hosts, key=lambda host: host != first)
        asking = self._asking(own)
        failures: list[RkeyError] = []
        for host in hosts:
            try:
                with self.instance.deciding("join", where=f"{host}: "):
                    received = await fetch_keyring(host, asking)
            except RkeyError as error:
                failures.append(error)
                log.warning("%s%s", error, self._line_for(error))
                continue
            try:
                await self._adopt(received, own, host, hinted=first is not None)
            except RkeyError as error:
                received.keyring.close()
                log.error("%s", error)  # noqa: TRY400 - the text is for the operator, a traceback is not
                if isinstance(error, (Corrupt, Misuse)):
                    raise
                failures.append(error)
                continue
            return
        raise max(reversed(failures), key=_weight, default=Unavailable("No host was given."))

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
                self.instance.know_host(received)  # a hint that was none must not wear out the disk
                received.keyring.close()
                return
        elif isinstance(own, Opened) and own.keyring.extends(received.keyring):
            if self.instance.keyring is not own.keyring:
                open_own(self.config, self.instance, own.keyring)
            log.warning("Host %s is behind: this instance's own keyring is an extension of what it has.", host)
            received.keyring.close()
            return
        if self.instance.store.load() != record_of(own):
            raise Unavailable(
                "The record here was changed while the host was asked.",
                advice="It was left as it is and is looked at again.",
            )
        peer = Peer.of(received.verdict.claims, str(host))
        with self.instance.deciding("join", domain=received.keyring.domain, peer=peer):
            keep = keep_as(own, received.keyring, self.config.domain)
        self.instance.received(received, peer, keep)
        if isinstance(own, Opened):
            own.keyring.close()

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

    async def until(self, own: Own, seconds: float) -> None:
        """Try again and again for `seconds`.

        Raises: the last error when the time is over, or when asking again cannot change it.
        """
        loop = asyncio.get_running_loop()
        end, delay = loop.time() + seconds, FIRST_DELAY
        while True:
            own = self._as_it_lies_there(own)
            try:
                await self.try_hosts(own)
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
            else:
                return

    async def follow(self, *, joined: bool) -> None:
        """Follow the hosts, without end: ask again until one has answered, and whenever one hints at a later state.

        joined: whether one has answered already. The pauses until one has grow to BACKGROUND_DELAY seconds.
        """
        delay = WAITING_DELAY
        while True:
            hinted = await self._hinted(None if joined else delay * (0.5 + self.jitter()))
            keyring = self.instance.keyring
            if keyring is None:
                return
            try:
                await self.try_hosts(self._served(keyring), hinted and hinted[0])
            except RkeyError as error:
                joined, delay = False, min(delay * 2, BACKGROUND_DELAY)
                log.warning("Still serving from the own record; asking again in about %.0f seconds. %s", delay, error)
            else:
                joined, delay = True, WAITING_DELAY
            if hinted is not None:
                self._weigh(*hinted)

    def _weigh(self, host: Address, hint: Hint) -> None:
        """Believe a host less whose hint came to nothing, and again one that kept its word."""
        keyring = self.instance.keyring
        if keyring is None or not hint.is_after(keyring.header):
            self.vain.pop(host, None)
            return
        before = self.vain.get(host)
        pause = HINT_SECONDS if before is None else min(2 * before.pause, BACKGROUND_DELAY)
        self.vain[host] = Vain(pause, asyncio.get_running_loop().time() + pause)

    async def _hinted(self, most: float | None) -> tuple[Address, Hint] | None:
        """Wait until a host hints at a later state than the one served, and return both; or for `most` seconds.

        A hint proves nothing: all that it can bring about is that hosts are asked, ever more seldom while that comes
        to nothing.
        """
        from rkeyserver.service.fetch import fetch_hint  # noqa: PLC0415 - as in try_hosts()

        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(most):
                while keyring := self.instance.keyring:
                    await asyncio.sleep(HINT_SECONDS * (0.5 + self.jitter()))
                    for host in self.config.hosts:
                        if host in self.vain and loop.time() < self.vain[host].until:
                            continue
                        hint = await fetch_hint(host)
                        if hint is not None and hint.is_after(keyring.header):
                            return host, hint
        return None


async def start_standby(config: Config, instance: Instance, joiner: Joiner) -> bool:
    """Ask the hosts for the keyring; with an own record of the domain, serve from it where none gives one.

    Returns whether a host has given it.
    Raises: Corrupt for a record that nothing may replace, or what until() raises where there is no record to serve.
    """
    with instance.deciding("open"):
        own = look(instance.store, instance.platform)
        check_may_ask(own, instance.platform.identity())
    if config.once or not isinstance(own, Opened) or config.domain not in (None, own.keyring.domain):
        await joiner.until(own, config.wait)
        return True
    try:
        async with asyncio.timeout(FIRST_SECONDS):
            await joiner.try_hosts(own)
    except (RkeyError, TimeoutError) as error:
        code = error.code if isinstance(error, RkeyError) else "no answer in time"
        log.warning("No host gave the keyring; serving from the own record and asking on. (%s)", code)
        open_own(config, instance, own.keyring)
        return False
    return True
