"""An instance listens to others, and asks whoever hints at something that it lacks (docs/spec/exchange.md, "HTTP")."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from rkeyserver.address import Address, parse_address
from rkeyserver.config import DEFAULT_PORT
from rkeyserver.errors import Misuse, RkeyError, Unavailable
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.service.adopt import Opened
from rkeyserver.service.hints import Hint, Step, next_step
from rkeyserver.service.instance import Role
from rkeyserver.service.join import WAITING_DELAY, Joiner
from rkeyserver.service.living import each

BACKGROUND_DELAY: Final = 300.0
HINT_SECONDS: Final = 3.0
OTHERS: Final = 4  # of the members that nobody has named, listened to each time
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vain:
    """A host whose hints came to nothing. pause: seconds, doubled each time; until: of the loop's clock."""

    pause: float
    until: float


@dataclass(frozen=True)
class Hinted:
    """A hint that is worth an exchange with the host that gave it."""

    host: Address
    hint: Hint
    step: Step


@dataclass(frozen=True)
class Follower(Joiner):
    """Asks hosts again and again. sample: so many of a list, at random. vain: hosts that are not believed now."""

    sample: Callable[[list[Address], int], list[Address]]
    vain: dict[Address, Vain] = field(default_factory=dict, init=False)

    def _heard_from(self) -> list[Address]:
        """Whom to listen to now: those that were named, the primary by its own word, and some others that are known."""
        named = [*self.config.hosts, *self.config.peers]
        keyring, members = self.instance.keyring, self.instance.members
        found: dict[str, Address] = {}
        for one in members.known.values():
            with contextlib.suppress(Misuse):
                if one.address:
                    found[one.member] = parse_address(one.address, DEFAULT_PORT)
        primary = [] if keyring is None else [at for member, at in found.items() if member == keyring.header.primary]
        others = [at for at in found.values() if at not in named and at not in primary]
        return list(dict.fromkeys([*named, *primary, *self.sample(others, min(OTHERS, len(others)))]))

    async def follow(self, *, joined: bool) -> None:
        """Follow the hosts, without end: ask again until one has answered, and whenever a hint is worth it.

        joined: whether one has answered already. The pauses until one has grow to BACKGROUND_DELAY seconds.
        """
        delay = WAITING_DELAY
        while True:
            hinted = await self._hinted(None if joined else delay * (0.5 + self.jitter()))
            try:
                await self.instance.reach_store()
                keyring = self.instance.keyring
                if keyring is None:
                    return
                if hinted is not None and hinted.step is Step.REUNITE:
                    await self._reunite(hinted.host)
                elif hinted is not None and hinted.step is Step.SHOW:
                    await self.show(hinted.host)
                else:
                    host = await self._try_hosts_with(keyring, None if hinted is None else hinted.host)
                    # A hint that came to nothing brings about no line, and what is held here has been shown.
                    came = hinted is None or self.instance.keyring is not keyring
                    if came and self.instance.role is Role.STANDBY:
                        await self.show(host)
            except RkeyError as error:
                if hinted is None or hinted.host in self.config.hosts:
                    joined, delay = False, min(delay * 2, BACKGROUND_DELAY)
                    log.warning(
                        "Still serving from the own record; asking again in about %.0f seconds. %s", delay, error
                    )
                else:
                    log.warning("%s", error)
            else:
                joined, delay = True, WAITING_DELAY
            if hinted is not None:
                self._weigh(hinted)

    async def _try_hosts_with(self, served: Keyring, first: Address | None) -> Address:
        """As try_hosts(), for what is served, or for what lies in the keystore instead; that is erased then."""
        own = self._served(served)
        try:
            return await self.try_hosts(own, first)
        finally:
            if isinstance(own, Opened) and own.keyring is not served and own.keyring is not self.instance.keyring:
                own.keyring.close()

    async def _keep_members(self) -> None:
        """Store what is known of the members, within seconds, and do what was only waiting for one of them."""
        try:
            await self.instance.reach_store()
        except Unavailable:
            return  # the keystore has told; it is tried again
        try:
            self.instance.save_members()
            await self.steward.acknowledged()
        except RkeyError as error:
            log.warning("What is known of the domain's members could not be stored, or waits. %s", error)

    async def _reunite(self, host: Address) -> None:
        """Fetch from a peer what it has and this primary does not."""
        from rkeyserver.service.fetch import fetch_keyring  # noqa: PLC0415 - as in try_hosts()

        keyring = self.instance.keyring
        if keyring is None:
            return
        asking = self._asking(Opened(keyring, b""))
        with self.instance.deciding("join", where=f"{host}: "):
            received = await fetch_keyring(host, asking)
        try:
            self._has_shown(received, asking)
            self.instance.know_host(received, str(host))
            await self.steward.reunite(received, str(host))
        finally:
            received.keyring.close()

    def _weigh(self, hinted: Hinted) -> None:
        """Believe a host less whose hint came to nothing, and again one that kept its word."""
        host = hinted.host
        if hinted.step is not self._step(hinted.hint):
            self.vain.pop(host, None)
            return
        before = self.vain.get(host)
        pause = HINT_SECONDS if before is None else min(2 * before.pause, BACKGROUND_DELAY)
        self.vain[host] = Vain(pause, asyncio.get_running_loop().time() + pause)

    def _step(self, hint: Hint) -> Step:
        instance = self.instance
        if instance.keyring is None or hint.digest in self.apart.get(instance.keyring.place.digest, ()):
            return Step.NOTHING
        return next_step(
            hint,
            instance.keyring,
            own=instance.members.own,
            primary=instance.role is Role.PRIMARY,
            acknowledged=self.shown.get(hint.member, ""),
        )

    def _believed(self, host: Address) -> bool:
        vain = self.vain.get(host)
        return vain is None or asyncio.get_running_loop().time() >= vain.until

    async def _hinted(self, most: float | None) -> Hinted | None:
        """Wait until a hint is worth an exchange, and return it; or for `most` seconds.

        A hint proves nothing: all that it can bring about is that its host is asked, ever more seldom while that comes
        to nothing.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(most):
                while self.instance.keyring is not None:
                    await asyncio.sleep(HINT_SECONDS * (0.5 + self.jitter()))
                    await self._keep_members()
                    believed = list(filter(self._believed, self._heard_from()))
                    if not believed:
                        continue
                    from rkeyserver.service.fetch import fetch_hint  # noqa: PLC0415 - as in try_hosts()

                    async with contextlib.aclosing(each(believed, fetch_hint)) as hints:
                        async for host, hint in hints:
                            step = Step.NOTHING if hint is None else self._step(hint)
                            if hint is not None and step is not Step.NOTHING:
                                return Hinted(host, hint, step)
        return None

    async def check_alone(self) -> None:
        """Whether a new domain may be made beside the peers that were named: not where one of them serves one.

        Nothing proves what it says; all that it can bring about is that nothing is made. Raises: Misuse.
        """
        if not self.config.peers:
            return
        from rkeyserver.service.fetch import fetch_hint  # noqa: PLC0415 - as in try_hosts()

        hints = await asyncio.gather(*(fetch_hint(peer) for peer in self.config.peers))
        for peer, hint in zip(self.config.peers, hints, strict=True):
            if hint is not None:
                raise Misuse(
                    f"The keystore is empty, and the peer at {peer} serves domain {hint.domain}: "
                    "a new root key would be another domain's.",
                    advice=f"Nothing was made. To join that one: -i {peer}; for a new domain: without --peer.",
                )

    async def listen(self) -> None:
        """Whether another instance has a later state, before this one is changed.

        A hint is not believed: it is fetched, and then followed by follow().
        Raises: Unavailable if there is one.
        """
        keyring = self.instance.keyring
        hosts = self._heard_from()
        if keyring is None or not hosts:
            return
        from rkeyserver.service.fetch import fetch_hint, fetch_keyring  # noqa: PLC0415 - as in try_hosts()

        domain, place = keyring.domain, keyring.place  # what is held may be replaced, and so erased, meanwhile
        asking = self._asking(Opened(keyring, b""))
        hints = await asyncio.gather(*(fetch_hint(host) for host in hosts))
        for host, hint in zip(hosts, hints, strict=True):
            if hint is None or self._step(hint) is not Step.FETCH:
                continue
            try:
                received = await fetch_keyring(host, asking)
            except RkeyError as error:
                log.warning("%s hints at a later state, and does not prove it. %s", host, error)
                continue
            with contextlib.closing(received.keyring) as theirs:
                if theirs.domain == domain and theirs.place > place:
                    raise Unavailable(
                        f"Member {received.members.member} at {host} has a later state: epoch {theirs.header.epoch}, "
                        f"sequence {theirs.header.sequence}, of primary {theirs.header.primary}.",
                        advice="Nothing was changed. This instance follows it first: see `rkeyserver status`.",
                    )
