"""The life of one instance: it opens its listeners, comes to a keyring, and serves until it is told to stop.

What it is made of is put together by compose.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator

from rkeyserver.address import Address
from rkeyserver.config import Config
from rkeyserver.sealing.record import parse
from rkeyserver.service.adopt import Nothing, Opened, look
from rkeyserver.service.compose import Parts, assemble, check_coordinator, coordinated
from rkeyserver.service.join import start_standby
from rkeyserver.service.local_socket import local_socket
from rkeyserver.service.provision import Provisioner
from rkeyserver.service.serve import Afterwards, open_sockets, serve
from rkeyserver.service.start import start_primary
from rkeyserver.service.token_listener import TokenListener

log = logging.getLogger(__name__)


def warn_of_readers(ops: list[socket.socket]) -> None:
    """Say so where the operations listener can be reached from other machines."""
    for listener in ops:
        host, port = listener.getsockname()[:2]
        if not ipaddress.ip_address(host).is_loopback:
            log.warning(
                "Operations on %s are open to the network (--ops): anyone who reaches it reads, without a password, "
                "the domain's ids and policy, its machines, who was given the key and when, what was refused, and "
                "why a restart would fail. Name an address of the loopback, or keep others out with a firewall.",
                Address(host, port),
            )


async def _run(config: Config) -> None:
    with assemble(config) as parts, contextlib.ExitStack() as stack:
        async with parts.kept_fresh():
            await _live(config, parts, stack)


async def _live(config: Config, parts: Parts, stack: contextlib.ExitStack) -> None:
    """Fetch once, or serve."""
    if config.once:
        await parts.before_asking()
        await start_standby(config, parts.instance, parts.joiner)
        return
    if config.coordinator is not None:
        parts.instance.elected = False
        check_coordinator(config)
    peers = [stack.enter_context(one) for address in config.listen for one in open_sockets(address)]
    parts.instance.address = _answers_at(config.listen[0], peers[0])
    ops = [stack.enter_context(one) for one in open_sockets(config.ops, "--ops")]
    warn_of_readers(ops)
    # Where the platform does not trust its host, the host's word on who has connected is worth nothing.
    trusted = parts.instance.platform.trusts_host
    local = [stack.enter_context(local_socket(config.socket_path))] if trusted else []
    parts.instance.local_socket = config.socket_path.absolute() if trusted else None
    begin = functools.partial(_begin, config, parts)
    at = functools.partial(open_sockets, option="--provision")
    provisioner = Provisioner(parts.instance, config.provision, parts.instance.platform, parts.quotes, at)
    tokens = TokenListener(parts.instance, config.callers, functools.partial(open_sockets, option="--callers"))
    async with provisioner.running(), tokens.running(), parts.drill.running():
        await serve(parts.steward, peers, ops, local, begin, ops_name=config.ops.host)


def _answers_at(asked: Address, listener: socket.socket) -> str:
    """Where this instance answers, for its peers: where it listens on every address, the one that they see it at."""
    port = int(listener.getsockname()[1])
    host = asked.host if asked.host not in {"0.0.0.0", "::"} else ""  # noqa: S104 - every address
    return str(Address(host, port)) if host else f":{port}"


async def _begin(config: Config, parts: Parts) -> Afterwards:
    """Come to a keyring; what goes on from then on."""
    joined = await _come_to_a_keyring(config, parts)

    async def afterwards() -> None:
        async with _elected(config, parts):
            await parts.joiner.follow(joined=joined)

    return afterwards


@contextlib.asynccontextmanager
async def _elected(config: Config, parts: Parts) -> AsyncIterator[None]:
    """A context in which the coordinator says who is primary, where there is one."""
    coordinator = coordinated(config, parts.instance)
    if coordinator is None:
        yield
        return
    from rkeyserver.service.election import Election  # noqa: PLC0415 - most instances have no coordinator

    async with Election(parts.steward, coordinator).running():
        yield


async def _come_to_a_keyring(config: Config, parts: Parts) -> bool:
    """Join, recover, open or mint; whether it is the newest that can be had."""
    instance = parts.instance
    if config.hosts:
        await parts.before_asking()
        return await start_standby(config, instance, parts.joiner)
    if config.recover:
        from rkeyserver.service.recover import look_for_recovery  # noqa: PLC0415 - as in compose.assemble()

        await parts.before_asking()
        await parts.recoverer().run(look_for_recovery(instance))
        return True
    with instance.deciding("open"):
        own = look(instance.store, instance.platform)
    if isinstance(own, Nothing):
        with instance.deciding("mint"):
            await parts.joiner.check_alone()
        await parts.before_minting()
    elif isinstance(own, Opened):
        instance.own(parse(own.record).header)
    await start_primary(config, instance, own, parts.given)
    return True


def run(config: Config) -> None:
    """Run one instance until it is told to stop, or with `once` until it has the keyring.

    Raises: RkeyError saying why it could not start.
    """
    import uvloop  # noqa: PLC0415 - only a server needs it

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(config))
