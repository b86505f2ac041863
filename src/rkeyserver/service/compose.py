"""The one place that names concrete back ends and puts an instance together. How it then lives is run.py's."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rkeyserver.appraisal.measured import Measured, parse_measured
from rkeyserver.appraisal.policy import Policy
from rkeyserver.attestation.evidence import Attester
from rkeyserver.clock import Clock
from rkeyserver.config import Config, endpoints_of
from rkeyserver.errors import Corrupt, Misuse
from rkeyserver.exchange.attested import Verifier
from rkeyserver.exchange.primary import Granter
from rkeyserver.exchange.releaser import Releaser
from rkeyserver.exchange.standby import Asking, held_of
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.place import Place
from rkeyserver.keystore.file import FileKeystore
from rkeyserver.keystore.store import Keystore
from rkeyserver.platforms import registry
from rkeyserver.platforms.interface import Platform
from rkeyserver.platforms.registry import SGX, SIMULATED
from rkeyserver.sealing.recovery import Sharing
from rkeyserver.secret import MemoryKind, SecretBytes, harden_process
from rkeyserver.service.audit import Audit
from rkeyserver.service.drill import Drill
from rkeyserver.service.follow import Follower
from rkeyserver.service.given import Given
from rkeyserver.service.held import held_for
from rkeyserver.service.instance import Instance
from rkeyserver.service.members import Members
from rkeyserver.service.on_demand import OnDemand, QuoteVerifier, WithOrWithout, WithOwnEndorsements
from rkeyserver.service.parts import no_collateral
from rkeyserver.service.refresh import Refresher
from rkeyserver.service.release import AttestedRelease
from rkeyserver.service.steward import Steward
from rkeyserver.service.surroundings import HOW_TO_HIDE
from rkeyserver.service.verification import InlineVerifier, VerifierPool
from rkeyserver.service.vouching import AttesterWithHeld, VerifierWithHeld

if TYPE_CHECKING:
    from rkeyserver.coordinator.etcd import Credentials
    from rkeyserver.coordinator.interface import Coordinator
    from rkeyserver.service.recover import Recoverer
    from rkeyserver.service.seen import Seen

MAX_WORKERS: Final = 4
log = logging.getLogger(__name__)


def open_platform(config: Config, clock: Clock) -> Platform:
    """The platform that the configuration names, or that this machine has.

    Raises: Misuse if there is none, or if it is not built; Corrupt, Unavailable if it cannot be opened.
    """
    if _name(config) == SIMULATED:
        log.warning("Platform simulated: nothing here is protected. It is for trying out and for tests.")
    return _platform(config, clock, looking=False)


def open_keystore(config: Config, platform: Platform) -> Keystore:
    """The keystore that the configuration names, locked.

    Raises: Misuse, Unavailable, Corrupt.
    """
    if isinstance(config.keystore, Path):
        return FileKeystore.open(config.keystore)
    from rkeyserver.keystore.databases import open_database  # noqa: PLC0415 - no file needs one
    from rkeyserver.service.bound import binding_of  # noqa: PLC0415 - as above

    identity = platform.identity()
    return open_database(config.keystore, identity.platform, identity.machine, binding_of)


def look_at_machine(config: Config, clock: Clock) -> Seen:
    """The same with what goes with it, to look at only: what is not there is not made, and nothing is changed.

    Raises: as open_platform(), and Misuse for what is not this platform's host's to say.
    """
    from rkeyserver.service.seen import Seen  # noqa: PLC0415 - only the doctor looks

    name = _name(config)
    given = Given.read(config, _measured()) if name == SGX else None
    platform = _platform(config, clock, looking=True)
    verifier = InlineVerifier(registry.load_verifier(name))
    held = held_for(config, platform, clock, verifier.hold, keeps=False)
    if held is not None:
        held.load()
    return Seen(platform, verifier, held, None if given is None else given.measured)


def _platform(config: Config, clock: Clock, *, looking: bool) -> Platform:
    name = _name(config)
    registry.check_built(name)
    if name == SGX:
        from rkeyserver.platforms.sgx import device  # noqa: PLC0415 - no other platform is loaded
        from rkeyserver.platforms.sgx.platform import KeyPolicy, SgxPlatform  # noqa: PLC0415 - as above

        return SgxPlatform.open(device.Device(device.DEVICE), KeyPolicy(_measured().seal_to))
    from rkeyserver.platforms.simulated.platform import SimulatedPlatform  # noqa: PLC0415 - no other platform is loaded

    return SimulatedPlatform.look(config.machine, clock) if looking else SimulatedPlatform.open(config.machine, clock)


def _name(config: Config) -> str:
    return config.platform or registry.detect()


def _measured() -> Measured:
    """What is measured into the image that runs.

    Raises: Misuse outside of an enclave; Corrupt.
    """
    from rkeyserver.platforms.sgx import device, measured  # noqa: PLC0415 - no other platform is loaded

    device.Device(device.DEVICE).check()
    try:
        return parse_measured(measured.read_measured(measured.MEASURED))
    except Misuse as error:
        raise Corrupt(error.message, advice="Build the image again with `make enclave`.") from error


def _verifier(platform: Platform) -> VerifierPool | InlineVerifier:
    """What verifies: in processes of its own, or here where there can be none."""
    if platform.starts_processes:
        return VerifierPool(platform.name, min(MAX_WORKERS, os.cpu_count() or 1))
    return InlineVerifier(registry.load_verifier(platform.name))


def _sharing(platform: Platform) -> Sharing:
    """What splits and combines shares: a process of its own, or this one where there can be none."""
    if platform.starts_processes:
        from rkeyserver.service.sharing import ProcessSharing  # noqa: PLC0415 - one of the two is enough

        return ProcessSharing()
    from rkeyserver.service.sharing_inline import InlineSharing  # noqa: PLC0415 - as above

    return InlineSharing()


def warn_of_memory(platform: Platform) -> None:
    """Say so where neither the kernel nor the platform hides key memory.

    Raises: Unavailable if the system gives none at all.
    """
    with SecretBytes(1) as probe:
        if probe.kind is MemoryKind.LOCKED and not platform.hides_memory:
            log.warning(
                "No memfd_secret(2) here: keys lie in locked memory, out of swap and dumps, where root can read them. "
                "%s",
                HOW_TO_HIDE,
            )


@dataclass(frozen=True)
class Parts:
    """What an instance is made of; closed when its context ends."""

    instance: Instance
    steward: Steward
    joiner: Follower
    given: Given
    recoverer: Callable[[], Recoverer]
    refresher: Refresher | None
    quotes: QuoteVerifier
    drill: Drill

    def kept_fresh(self) -> contextlib.AbstractAsyncContextManager[None]:
        """A context in which collateral is kept fresh, where any is held."""
        return contextlib.nullcontext() if self.refresher is None else self.refresher.running()

    async def before_asking(self) -> None:
        """Give the first fetch of collateral its time."""
        if self.refresher is not None:
            await self.refresher.first()

    async def before_minting(self) -> None:
        """The same; a new domain needs it, for its policy is tried on this machine.

        Raises: Unavailable if the service gives none now.
        """
        if self.refresher is not None:
            await self.refresher.first()
            self.refresher.check_held()


@contextlib.contextmanager
def assemble(config: Config) -> Iterator[Parts]:
    """Open platform, keystore and audit file, and put an instance together that has no keyring yet."""
    harden_process()
    clock = Clock()
    with contextlib.ExitStack() as stack:
        given = Given.read(config, _measured() if _name(config) == SGX else None)
        platform = open_platform(config, clock)
        warn_of_memory(platform)
        pool = _verifier(platform)
        stack.callback(pool.close)
        pool.start()
        store = open_keystore(config, platform)
        stack.callback(store.close)
        if store.owns(config.audit_path):
            raise Misuse(
                f"The audit file {config.audit_path} is part of the keystore {config.keystore}.",
                advice="Nothing was changed. Name another file with --audit.",
            )
        if store.owns(config.socket_path):
            raise Misuse(
                f"The local socket {config.socket_path} is part of the keystore {config.keystore}.",
                advice="Nothing was changed. Name another path with --socket.",
            )
        audit = Audit.open(config.audit_path, clock, platform.attester_identity().machine)
        stack.callback(audit.close)
        refresher = _collateral(config, platform, store, pool, clock)
        verifiers, granting, joining = _with_collateral(platform, pool, refresher)
        own_id = secrets.token_bytes(16)
        granter = Granter(
            attester=granting,
            verifiers=verifiers,
            clock=clock,
            random=secrets.token_bytes,
            instance=own_id,
            audit_head=lambda: audit.head,
        )
        stack.callback(granter.close)
        quotes = _quotes(platform, pool, refresher)
        releaser = Releaser(
            attester=granting,
            verifiers={platform.name: WithOrWithout(verifiers[platform.name], quotes)},
            clock=clock,
            random=secrets.token_bytes,
            instance=own_id,
        )
        stack.callback(releaser.close)
        instance = Instance(
            platform=platform,
            store=store,
            audit=audit,
            clock=clock,
            granter=granter,
            sharing=_sharing(platform),
            say=_say,
            members=Members(secrets.token_hex(16)),
            started=clock.now(),
            collateral=no_collateral if refresher is None else refresher.status,
        )
        stack.callback(instance.close)
        instance.releases = AttestedRelease(instance, releaser)
        drill = Drill(instance, random.random)
        instance.drill = drill

        steward = Steward(instance)

        def asking(policy: Policy, held: Keyring | None) -> Asking:
            return Asking(
                attester=joining,
                verifiers=verifiers,
                policy=policy,
                clock=clock,
                random=secrets.token_bytes,
                instance=own_id,
                held=None if held is None else held_of(held),
                admins=given.admins,
                member=instance.members.own,
                address=instance.address,
                holds=None if held is None else held.place,
                audit_head=lambda: audit.head,
            )

        def recoverer() -> Recoverer:
            from rkeyserver.service.recover import Recoverer  # noqa: PLC0415 - a domain recovers once, if ever

            return Recoverer(config, instance, secrets.token_bytes, given.admins, given.change, joining)

        joiner = Follower(config, instance, given, steward, asking, random.random, random.sample)
        steward.listen = joiner.listen
        yield Parts(
            instance,
            steward,
            joiner,
            given,
            recoverer,
            refresher,
            quotes,
            drill,
        )


def _collateral(
    config: Config, platform: Platform, store: Keystore, pool: VerifierPool | InlineVerifier, clock: Clock
) -> Refresher | None:
    """What holds collateral and keeps it fresh; None where the platform has its own and nobody named another source.

    Raises: Misuse if its file is another one's, or the CA of the PCCS is none.
    """
    held = held_for(config, platform, clock, pool.hold)
    if held is None:
        return None
    path = config.collateral_path
    if store.owns(path) or path.absolute() == config.audit_path.absolute():
        raise Misuse(
            f"The collateral file {path} is the audit file, or part of the keystore {config.keystore}.",
            advice="Nothing was changed. Name another file with --collateral.",
        )
    held.load()
    source = None
    if config.pccs is not None:
        from rkeyserver.service.several_pccs import pccs_of  # noqa: PLC0415 - 50 ms that a start without does not need

        source = pccs_of(config.pccs, config.pccs_ca)
        source.tls()
    return Refresher(held, source, pool, random.random)


def _with_collateral(
    platform: Platform, pool: VerifierPool | InlineVerifier, refresher: Refresher | None
) -> tuple[dict[str, Verifier], Attester, Attester]:
    """Verifiers, and the attesters that grant and that ask."""
    if refresher is None:
        return {platform.name: pool}, platform, platform
    held = refresher.held
    granting, joining = (AttesterWithHeld(platform, held, asks=asks) for asks in (False, True))
    return {platform.name: VerifierWithHeld(pool, held)}, granting, joining


def _quotes(platform: Platform, verifier: Verifier, refresher: Refresher | None) -> QuoteVerifier:
    if refresher is None:
        return WithOwnEndorsements(platform, verifier)
    return OnDemand(refresher.held, refresher.source, verifier)


def _say(text: str) -> None:
    # It is said after the keyring was stored: that nobody listens any more undoes nothing.
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError as error:
        log.warning("Could not print %r: %s.", text, error.strerror)


def check_coordinator(config: Config) -> None:
    """Whether the coordinator can be asked with the files that are named for it: that is said at the start.

    Raises: Misuse.
    """
    if config.coordinator is not None and endpoints_of(config.coordinator).tls:
        _credentials(config).context()


def coordinated(config: Config, instance: Instance) -> Coordinator | None:
    """The part of this instance at the coordinator that is named, for the domain whose keyring it holds.

    None where no coordinator is named, or no keyring is held yet.

    Raises: Misuse for a file that cannot be used; Unavailable if there is no key memory.
    """
    keyring = instance.keyring
    if config.coordinator is None or keyring is None:
        return None
    from rkeyserver.coordinator.etcd import Etcd  # noqa: PLC0415 - as in _credentials()
    from rkeyserver.coordinator.lead import Coordinated  # noqa: PLC0415 - as above
    from rkeyserver.coordinator.values import Authenticator  # noqa: PLC0415 - as above

    def own() -> Place:
        # Whoever asks has held one since before, and another since.
        return (instance.keyring or keyring).place

    return Coordinated(
        Etcd(endpoints_of(config.coordinator), _credentials(config), keyring.domain, config.lease),
        Authenticator.derive(keyring.domain_secret, keyring.domain),
        instance.members.own,
        own,
        config.lease,
    )


def _credentials(config: Config) -> Credentials:
    from rkeyserver.coordinator.etcd import Credentials  # noqa: PLC0415 - most instances have no coordinator

    return Credentials(config.coordinator_ca, config.coordinator_cert, config.coordinator_key)
