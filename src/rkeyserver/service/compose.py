"""The one place that names concrete back ends and puts an instance together."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import logging
import os
import random
import secrets
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from rkeyserver.address import Address
from rkeyserver.appraisal.change import Held
from rkeyserver.appraisal.policy import Policy
from rkeyserver.clock import Clock
from rkeyserver.config import Config
from rkeyserver.errors import Misuse
from rkeyserver.exchange.attested import Verifier
from rkeyserver.exchange.primary import Granter
from rkeyserver.exchange.standby import Asking
from rkeyserver.keystore.file import FileKeystore
from rkeyserver.platforms import registry
from rkeyserver.platforms.interface import Platform
from rkeyserver.secret import MemoryKind, SecretBytes, harden_process
from rkeyserver.service.adopt import look
from rkeyserver.service.audit import Audit
from rkeyserver.service.given import Given
from rkeyserver.service.instance import Instance, Role
from rkeyserver.service.owner import owner_socket
from rkeyserver.service.recover import Recoverer, look_for_recovery
from rkeyserver.service.serve import Afterwards, open_sockets, serve
from rkeyserver.service.sharing import ProcessSharing
from rkeyserver.service.start import Joiner, start_primary, start_standby
from rkeyserver.service.verification import VerifierPool

MAX_WORKERS: Final = 4
log = logging.getLogger(__name__)


def open_platform(config: Config, clock: Clock) -> Platform:
    """The platform that the configuration names, or that this machine has.

    Raises: Misuse if there is none, or if it is not built; Corrupt, Unavailable if it cannot be opened.
    """
    name = config.platform or registry.detect()
    registry.check_built(name)
    # Late, so that no other platform's code is even loaded.
    from rkeyserver.platforms.simulated.platform import SimulatedPlatform  # noqa: PLC0415

    log.warning("Platform simulated: nothing here is protected. It is for trying out and for tests.")
    return SimulatedPlatform.open(config.machine, clock)


def look_at_platform(config: Config, clock: Clock) -> Platform:
    """The same, to look at only: what is not there is not made, and nothing is changed.

    Raises: as open_platform().
    """
    name = config.platform or registry.detect()
    registry.check_built(name)
    from rkeyserver.platforms.simulated.platform import SimulatedPlatform  # noqa: PLC0415 - as in open_platform()

    return SimulatedPlatform.look(config.machine, clock)


def warn_of_memory() -> None:
    """Say so where the kernel does not hide key memory.

    Raises: Unavailable if it gives none at all.
    """
    with SecretBytes(1) as probe:
        if probe.kind is MemoryKind.LOCKED:
            log.warning(
                "No memfd_secret(2) here: keys lie in locked memory, out of swap and dumps, where root can read them. "
                "Linux 6.5 or later has it on; before that, boot with secretmem.enable=1."
            )


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


@dataclass(frozen=True)
class Parts:
    """What an instance is made of; closed when its context ends."""

    instance: Instance
    joiner: Joiner
    given: Given
    recoverer: Recoverer


@contextlib.contextmanager
def assemble(config: Config) -> Iterator[Parts]:
    """Open platform, keystore and audit file, and put an instance together that has no keyring yet."""
    harden_process()
    given = Given.read(config)
    clock = Clock()
    with contextlib.ExitStack() as stack:
        platform = open_platform(config, clock)
        warn_of_memory()
        workers = min(MAX_WORKERS, os.cpu_count() or 1)
        pool = VerifierPool(platform.name, workers)
        stack.callback(pool.close)
        pool.start()
        store = FileKeystore.open(config.keystore)
        stack.callback(store.close)
        if store.owns(config.audit_path):
            raise Misuse(
                f"The audit file {config.audit_path} is part of the keystore {config.keystore}.",
                advice="Nothing was changed. Name another file with --audit.",
            )
        audit = Audit.open(config.audit_path, clock)
        stack.callback(audit.close)
        verifiers: dict[str, Verifier] = {platform.name: pool}
        own_id = secrets.token_bytes(16)
        granter = Granter(
            attester=platform, verifiers=verifiers, clock=clock, random=secrets.token_bytes, instance=own_id
        )
        stack.callback(granter.close)
        instance = Instance(
            role=Role.STANDBY if config.hosts else Role.PRIMARY,
            platform=platform,
            store=store,
            audit=audit,
            clock=clock,
            granter=granter,
            sharing=ProcessSharing(),
            say=_say,
            started=clock.now(),
        )
        stack.callback(instance.close)
        if not platform.trusts_host and (given.policy is not None or given.admins is not None):
            raise Misuse(
                f"--policy and --admins say what to accept; platform {platform.name} does not take that from its host.",
                advice="Leave them out; what its admins have signed is applied with `rkeyserver policy apply`.",
            )

        def asking(policy: Policy, held: Held | None) -> Asking:
            return Asking(
                attester=platform,
                verifiers=verifiers,
                policy=policy,
                clock=clock,
                random=secrets.token_bytes,
                instance=own_id,
                held=held,
                admins=given.admins,
            )

        yield Parts(
            instance,
            Joiner(config, instance, given, asking, random.random),
            given,
            Recoverer(config, instance, secrets.token_bytes, given.admins, given.change),
        )


def _say(text: str) -> None:
    # It is said after the keyring was stored: that nobody listens any more undoes nothing.
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError as error:
        log.warning("Could not print %r: %s.", text, error.strerror)


async def _run(config: Config) -> None:
    with assemble(config) as parts, contextlib.ExitStack() as stack:
        if config.once:
            await start_standby(config, parts.instance, parts.joiner)
            return
        peers = [stack.enter_context(one) for address in config.listen for one in open_sockets(address)]
        ops = [stack.enter_context(one) for one in open_sockets(config.ops)]
        warn_of_readers(ops)
        # Where the platform does not trust its host, no socket of the host's can be its owner's.
        trusted = parts.instance.platform.trusts_host
        owner = [stack.enter_context(owner_socket(config.socket_path))] if trusted else []
        parts.instance.owner_socket = config.socket_path.absolute() if trusted else None
        begin = functools.partial(_begin, config, parts)
        await serve(parts.instance, peers, ops, owner, begin, ops_name=config.ops.host)


async def _begin(config: Config, parts: Parts) -> Afterwards | None:
    instance = parts.instance
    if config.hosts:
        joined = await start_standby(config, instance, parts.joiner)
        return functools.partial(parts.joiner.follow, joined=joined)
    if config.recover:
        await parts.recoverer.run(look_for_recovery(instance))
        return None
    with instance.deciding("open"):
        own = look(instance.store, instance.platform)
    await start_primary(config, instance, own, parts.given)
    return None


def run(config: Config) -> None:
    """Run one instance until it is told to stop, or with `once` until it has the keyring.

    Raises: RkeyError saying why it could not start.
    """
    import uvloop  # noqa: PLC0415 - only a server needs it

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(config))
