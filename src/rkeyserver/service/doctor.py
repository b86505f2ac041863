"""What an operator has to know before an update and after a loss: whether the record opens, and what else would.

examine() looks, changes nothing and holds no keyring when it returns; an instance may run meanwhile. Findings come in
the order in which they were made; one that was not come to, because one before it failed, says so. What peers, the
instance and the record's header say is unproved: a finding that rests on it says that too.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from rkeyserver.address import Address
from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.attestation.evidence import Identity
from rkeyserver.clock import DAY, Clock, utc
from rkeyserver.config import Config
from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected, RkeyError, exit_status
from rkeyserver.exchange.attested import appraise_self
from rkeyserver.keyring.sealed import open_keyring
from rkeyserver.keystore.file_read import kept_names, read_if_there, refuse_lost, refuse_mount_point, resolve
from rkeyserver.platforms.interface import Platform
from rkeyserver.platforms.registry import load_verifier
from rkeyserver.sealing.record import Header, Record, parse
from rkeyserver.service import surroundings
from rkeyserver.service.adopt import with_ways_out
from rkeyserver.service.audit import had_a_keyring
from rkeyserver.service.finding import Finding, State, Topic
from rkeyserver.service.held import WARN_DAYS
from rkeyserver.service.routes import Hint
from rkeyserver.service.verification import InlineVerifier

NO_WAY_BACK: Final = 4  # the exit status of "not now": do not update now


@dataclass(frozen=True)
class Heard:
    """What answers at a peer's address; nothing of it is proved. machine: None where it does not say."""

    hint: Hint
    machine: Identity | None


@dataclass(frozen=True)
class Examined:
    """All findings.

    ways_back: what brings the domain back here once the record does not open any more; status: to exit with.
    """

    findings: list[Finding]
    ways_back: list[str]
    status: int


Open = Callable[[Config, Clock], Platform]
Ask = Callable[[Address, Identity | None], Heard | None]
Status = Callable[[], dict[str, Any]]


def examine(config: Config, clock: Clock, open_platform: Open, ask: Ask, status: Status) -> Examined:
    """Look at the record of `config`, this machine, its hosts and the instance that may run here.

    open_platform: opens the machine without changing it; ask: what answers at a host (this machine's identity, if it
    is known, goes along), None without an answer; status: of the running instance.
    Raises: Unavailable where there is no key memory at all.
    """
    looked = _Look(config, clock)
    steps: tuple[Callable[[], Iterator[Finding]], ...] = (
        looked.record,
        lambda: looked.machine(open_platform),
        looked.memory,
        looked.opens,
        looked.accepted,
        looked.around,
        lambda: looked.instance(status),
        lambda: looked.peers(ask),
        looked.recovery,
        looked.back,
    )
    findings = [finding for step in steps for finding in step()]
    return Examined(findings, looked.ways_back, looked.status())


class _Look:
    """What was found so far. failed: the first thing that keeps an instance from starting with this record."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self.config, self.clock = config, clock
        self.ways_back: list[str] = []
        self.failed: RkeyError | None = None
        self.opened = False
        self.refused = False
        self._kept: list[str] = []
        self._record: Record | None = None
        self._platform: Platform | None = None
        self._policy: Policy | None = None

    @property
    def header(self) -> Header | None:
        return None if self._record is None else self._record.header

    @property
    def domain(self) -> str | None:
        """Which domain belongs here: the record's, else the one that --domain asks for."""
        return self.config.domain if self.header is None else self.header.domain

    def _fails(self, topic: Topic, error: RkeyError) -> Finding:
        self.failed = self.failed or error
        return Finding(topic, State.BAD, error.message, error.advice)

    def memory(self) -> Iterator[Finding]:
        yield surroundings.memory(hidden=self._platform is not None and self._platform.hides_memory)

    def record(self) -> Iterator[Finding]:
        try:
            self._record = parse(self._read())
        except RkeyError as error:
            yield self._fails(Topic.RECORD, error)
            return
        header = self._record.header
        if self.config.domain not in (None, header.domain):
            another = Rejected(
                Reason.ANOTHER_DOMAIN,
                f"The record here is of domain {header.domain}; --domain asks for {self.config.domain}.",
                advice="Name the keystore of that domain, or fetch it with -i.",
            )
            yield self._fails(Topic.RECORD, another)
        else:
            yield Finding(
                Topic.RECORD,
                State.GOOD,
                f"domain {header.domain}, epoch {header.epoch}, sequence {header.sequence}, "
                f"written {utc(header.written)}, by its header",
            )
        yield surroundings.clock(self.clock.now(), header.written)

    def _read(self) -> bytes:
        """The record's bytes, as a start would find them.

        Raises: Misuse if there never was one here, or the path can hold none; Corrupt, Unavailable.
        """
        path = resolve(self.config.keystore)
        refuse_mount_point(path)
        self._kept = kept_names(path)
        try:
            data = read_if_there(path)
            if data is None:
                refuse_lost(path)
        except Corrupt as error:
            if isinstance(error.__cause__, PermissionError):
                raise Misuse(error.message, advice="Run this as the user of the service, or as root.") from error
            raise
        except OSError as error:
            raise Misuse(f"The folder of {path} cannot be listed: {error.strerror}.") from error
        if data is None:
            raise self._missing()
        return data

    def _missing(self) -> RkeyError:
        with contextlib.suppress(OSError):
            if line := had_a_keyring(self.config.audit_path):
                return Corrupt(
                    f"There is no record at {self.config.keystore}, but by its audit file there was a keyring: {line}",
                    advice="Restore the record, or fetch the keyring with -i.",
                )
        return Misuse(
            f"There is no record at {self.config.keystore}, and no trace of one.",
            advice="Is that the keystore (--keystore)? A start with -i fetches the keyring, one without makes a new "
            "domain.",
        )

    def machine(self, open_platform: Open) -> Iterator[Finding]:
        try:
            self._platform = open_platform(self.config, self.clock)
        except RkeyError as error:
            if self.config.platform is None and self.header is not None and self.header.slot.platform == "simulated":
                advice = "The record is of a simulated machine: say --platform simulated, and its --machine."
                error = Misuse(error.message, advice=advice)
            yield self._fails(Topic.MACHINE, error)
            return
        own = self._platform.attester_identity()
        simulated = self._platform.simulated
        yield Finding(
            Topic.MACHINE,
            State.WARNING if simulated else State.GOOD,
            f"{own.platform} {own.machine}",
            "It protects nothing: it is simulated." if simulated else "",
        )

    def opens(self) -> Iterator[Finding]:
        if self._record is None or self._platform is None:
            yield Finding(Topic.OPENS, State.UNKNOWN, "not tried: there is no record, or no machine to try it with")
            return
        try:
            with contextlib.closing(open_keyring(self._record, self._platform)) as keyring:
                text = keyring.header.policy
            self._policy = parse_policy(text)
        except Corrupt as error:
            yield self._fails(
                Topic.OPENS, with_ways_out(error, self._record.header, self._kept, self._platform.identity())
            )
        except Misuse as error:
            yield self._fails(Topic.OPENS, Corrupt(f"The record opens; {error.message}", advice=error.advice))
        else:
            self.opened = True
            yield Finding(Topic.OPENS, State.GOOD, "the record opens here now, and its ids belong to its keys")

    def accepted(self) -> Iterator[Finding]:
        if self._policy is None or self._platform is None:
            yield Finding(Topic.ACCEPTED, State.UNKNOWN, "not tried: the record did not open")
            return
        platform, now = self._platform, self.clock.now()
        try:
            verdict = asyncio.run(
                appraise_self(
                    platform,
                    {platform.name: InlineVerifier(load_verifier(platform.name))},
                    self._policy,
                    nonce=secrets.token_bytes(32),
                    now=now,
                )
            )
        except RkeyError as error:
            self.refused = True
            yield Finding(
                Topic.ACCEPTED,
                State.WARNING,
                f"not by the domain's policy: {error.message}",
                "It serves from its record, but nobody can join from it, and nobody would give it the key. "
                f"{error.advice}".rstrip(),
            )
            return
        yield Finding(
            Topic.ACCEPTED, State.GOOD, f"its own evidence, by the domain's policy {self._policy.digest} in the record"
        )
        yield _collateral(verdict.claims.expires, now)

    def around(self) -> Iterator[Finding]:
        yield Finding(Topic.KEPT_COPIES, State.GOOD, ", ".join(self._kept) or "none")
        checks = [(Topic.AUDIT_FILE, surroundings.check_audit, self.config.audit_path)]
        if self._platform is None or self._platform.trusts_host:
            checks.append((Topic.LOCAL_SOCKET, surroundings.check_socket, self.config.socket_path))
        for topic, check, path in checks:
            try:
                yield Finding(topic, State.GOOD, check(path))
            except RkeyError as error:
                yield self._fails(topic, error)

    def instance(self, status: Status) -> Iterator[Finding]:
        try:
            found = status()
        except RkeyError as error:
            yield Finding(Topic.INSTANCE, State.UNKNOWN, f"none answers: {error.message}")
            return
        domain, machine = found.get("domain"), found.get("machine")
        state, says, advice = State.WARNING, "", ""
        if self._platform is not None and machine != self._platform.attester_identity().machine:
            says, advice = f"it says that it is of machine {machine}", "Name the one of this machine with --ops."
        elif domain is None:
            says = "it has no keyring yet"
        elif self.domain is not None and domain != self.domain:
            says, advice = f"it serves domain {domain}", "Is it the one of this keystore? --ops names another."
        elif self._record is not None and self._platform is None:
            says = f"it holds a keyring of domain {domain}; whether the record here gives it was not tried"
            advice = "Do not stop it before that is known."
        elif not self.opened:
            says = f"it holds a keyring of domain {domain}, which the record here does not give"
            advice = "Do not stop it before another machine has joined from it."
        elif self.header is not None and found.get("sequence") != self.header.sequence:
            says = f"it serves sequence {found.get('sequence')}, and the record is at {self.header.sequence}"
            advice = "Is it the one of this keystore? --ops names another."
        else:
            state, says = State.GOOD, "it serves this domain"
        yield Finding(Topic.INSTANCE, state, f"one runs, as {found.get('role')}; {says}", advice)

    def peers(self, ask: Ask) -> Iterator[Finding]:
        own = None if self._platform is None else self._platform.attester_identity()
        if not self.config.hosts:
            advice = "Name the domain's other machines with -i HOST."
            yield Finding(Topic.PEER, State.UNKNOWN, "none was named", advice)
        for host in self.config.hosts:
            yield self._peer(host, ask(host, own), own)

    def _peer(self, host: Address, heard: Heard | None, own: Identity | None) -> Finding:
        if heard is None:
            return Finding(Topic.PEER, State.WARNING, f"{host} does not answer, or has no keyring")
        says = f"{host} says that it serves domain {heard.hint.domain}, sequence {heard.hint.sequence} (unproved)"
        way, advice = f"peer {host}", ""
        if heard.machine is not None and heard.machine == own:
            says = f"{host} says that it is this very machine"
            way, advice = "", "It is no way back from what changes this machine. Name another."
        elif self.domain is None:
            way += ", if its domain is the right one"
            advice = "Whether that is the domain of this machine, nothing here tells: compare the ids."
        elif heard.hint.domain != self.domain:
            way, advice = "", f"Wanted is domain {self.domain}."
        elif self.refused:
            way, advice = "", "By the policy in the record here it would refuse this machine."
        elif self.header is not None and heard.hint.is_after(self.header):
            advice = "It is at a later state than the record here, perhaps with another policy: start with -i first."
        if way:
            self.ways_back.append(way)
        return Finding(Topic.PEER, State.WARNING if advice else State.GOOD, says, advice)

    def recovery(self) -> Iterator[Finding]:
        header = self.header
        if header is None:
            yield Finding(Topic.RECOVERY, State.UNKNOWN, "not known: no record can be read")
            return
        if header.recovery is None:
            yield Finding(
                Topic.RECOVERY,
                State.WARNING,
                "none: if every machine is lost, so is the key",
                "Name recovery recipients in the policy, in a [recovery] table (docs/operations/recovery.md).",
            )
            return
        slot = header.recovery
        says = f"{slot.threshold} of {len(slot.shares)} recipients open this record, by its header"
        if self.refused:
            advice = "Not on this machine: the policy in the record does not accept it."
            yield Finding(Topic.RECOVERY, State.WARNING, says, advice)
            return
        self.ways_back.append(f"{slot.threshold} of {len(slot.shares)} recovery recipients")
        yield Finding(
            Topic.RECOVERY,
            State.GOOD,
            says,
            "Keep a copy of the record elsewhere. Recipients prove their shares with `rkeyserver recovery verify`.",
        )

    def back(self) -> Iterator[Finding]:
        """What all of it comes to."""
        ways = " or ".join(self.ways_back)
        if not self.opened:
            if ways:
                says, advice = f"the record is not opened here now; what would bring the domain back: {ways}", ""
                yield Finding(Topic.WAYS_BACK, State.WARNING, says, advice)
                return
            says = "the record is not opened here now, and nothing that was looked at would bring the domain back"
            advice = "Name the domain's other machines with -i. Keep every copy of the record and the machine as it is."
            yield Finding(Topic.WAYS_BACK, State.BAD, says, advice)
            return
        change = "after an update of microcode or version that this record does not survive,"
        if not ways:
            advice = "Do not update yet. Start a backup and name it here with -i, or name recovery recipients."
            if self.refused:
                advice = "Do not update yet. Have the domain's policy admit this machine first."
            yield Finding(Topic.WAYS_BACK, State.BAD, f"{change} nothing would open the domain here", advice)
            return
        advice = "" if len(self.ways_back) > 1 else "It is the only one: see that it stays until the update is done."
        yield Finding(Topic.WAYS_BACK, State.GOOD, f"{change} what would bring it back: {ways}", advice)

    def status(self) -> int:
        if self.failed is not None:
            return exit_status(self.failed)
        return 0 if self.ways_back else NO_WAY_BACK


def _collateral(expires: int, now: int) -> Finding:
    """How long the collateral that goes along with this machine's evidence is good. What is held goes here too."""
    days = (expires - now) // DAY
    soon = expires - now < WARN_DAYS * DAY
    return Finding(
        Topic.COLLATERAL,
        State.WARNING if soon else State.GOOD,
        f"this machine's is good until {utc(expires)}, {days} days",
        "Fetch it anew: after that nobody believes this machine's evidence." if soon else "",
    )
