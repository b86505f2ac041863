"""What an operator has to know before an update and after a loss: whether the record opens, and what else would.

examine() looks, changes nothing and holds no keyring when it returns. Findings come in the order in which they were
made; one that was not come to, because one before it failed, says so.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from rkeyserver.address import Address
from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.clock import Clock, utc
from rkeyserver.config import Config
from rkeyserver.errors import Corrupt, Misuse, RkeyError, exit_status
from rkeyserver.exchange.attested import appraise_self
from rkeyserver.keyring.sealed import open_keyring
from rkeyserver.keystore.file_read import kept_names, read_record
from rkeyserver.platforms.interface import Platform
from rkeyserver.platforms.registry import load_verifier
from rkeyserver.sealing.record import Header, Record, parse
from rkeyserver.secret import MemoryKind, SecretBytes
from rkeyserver.service.routes import Hint
from rkeyserver.service.verification import InlineVerifier

NO_WAY_BACK: Final = 4  # the exit status of "not now": do not update now


class State(StrEnum):
    """How a finding is to be read."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. advice: what to do, empty where nothing is."""

    name: str
    state: State
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Examined:
    """All findings.

    ways_back: what opens the domain here after a change of microcode or version; status: to exit with.
    """

    findings: list[Finding]
    ways_back: list[str]
    status: int


Ask = Callable[[Address], Hint | None]
Status = Callable[[], dict[str, Any]]


def examine(config: Config, open_platform: Callable[[Config, Clock], Platform], ask: Ask, status: Status) -> Examined:
    """Look at the record of `config`, this machine, its hosts and the instance that may run here.

    ask: what a host hints at, None without an answer; status: of the running instance.
    Raises: Unavailable where there is no key memory at all.
    """
    looked = _Look(config, Clock())
    for step in (looked.memory, looked.record, lambda: looked.machine(open_platform), looked.opens, looked.accepted):
        looked.findings += step()
    looked.findings += looked.kept()
    looked.findings += looked.running(status)
    looked.findings += looked.peers(ask)
    looked.findings += looked.recovery()
    looked.findings.append(looked.after_a_change())
    return Examined(looked.findings, looked.ways_back, looked.status())


class _Look:
    def __init__(self, config: Config, clock: Clock) -> None:
        self.config, self.clock = config, clock
        self.findings: list[Finding] = []
        self.ways_back: list[str] = []
        self.failed: RkeyError | None = None
        self._record: Record | None = None
        self._platform: Platform | None = None
        self._policy: Policy | None = None

    @property
    def header(self) -> Header | None:
        return None if self._record is None else self._record.header

    def _fails(self, name: str, error: RkeyError) -> Iterator[Finding]:
        self.failed = self.failed or error
        yield Finding(name, State.BAD, error.message, error.advice)

    def memory(self) -> Iterator[Finding]:
        with SecretBytes(1) as probe:
            hidden = probe.kind is MemoryKind.MEMFD_SECRET
        yield Finding(
            "key memory",
            State.GOOD if hidden else State.WARNING,
            "hidden from root's readers (memfd_secret)" if hidden else "locked only: root can read it",
            "" if hidden else "Linux 6.5 or later has memfd_secret on; before that, boot with secretmem.enable=1.",
        )

    def record(self) -> Iterator[Finding]:
        try:
            self._record = parse(read_record(self.config.keystore))
        except RkeyError as error:
            yield from self._fails("record", error)
            return
        header = self._record.header
        yield Finding(
            "record",
            State.GOOD,
            f"domain {header.domain}, epoch {header.epoch}, sequence {header.sequence}, written {utc(header.written)}",
        )

    def machine(self, open_platform: Callable[[Config, Clock], Platform]) -> Iterator[Finding]:
        try:
            self._platform = open_platform(self.config, self.clock)
        except RkeyError as error:
            yield from self._fails("machine", error)
            return
        own = self._platform.attester_identity()
        yield Finding(
            "machine",
            State.WARNING if self._platform.simulated else State.GOOD,
            f"{own.platform} {own.machine}",
            "It protects nothing: it is simulated." if self._platform.simulated else "",
        )

    def opens(self) -> Iterator[Finding]:
        if self._record is None or self._platform is None:
            yield Finding("opens", State.UNKNOWN, "not tried: there is no record or no machine to try it with")
            return
        try:
            keyring = open_keyring(self._record, self._platform)
        except RkeyError as error:
            yield from self._fails("opens", error)
            return
        policy = keyring.header.policy
        keyring.close()
        yield Finding("opens", State.GOOD, "the record opens here now, and its ids belong to its keys")
        try:
            self._policy = parse_policy(policy)
        except Misuse as error:
            yield from self._fails("policy", Corrupt(error.message, advice=error.advice))

    def accepted(self) -> Iterator[Finding]:
        if self._policy is None or self._platform is None:
            yield Finding("accepted", State.UNKNOWN, "not tried: the record did not open")
            return
        platform = self._platform
        try:
            asyncio.run(
                appraise_self(
                    platform,
                    {platform.name: InlineVerifier(load_verifier(platform.name))},
                    self._policy,
                    nonce=secrets.token_bytes(32),
                    now=self.clock.now(),
                )
            )
        except RkeyError as error:
            yield Finding(
                "accepted",
                State.WARNING,
                f"the domain's policy does not accept this machine: {error.message}",
                f"It serves, but nobody can join from it. {error.advice}".strip(),
            )
            return
        yield Finding(
            "accepted", State.GOOD, f"this machine's own evidence, by the domain's policy {self._policy.digest}"
        )

    def kept(self) -> Iterator[Finding]:
        names = kept_names(self.config.keystore)
        yield Finding("kept copies", State.GOOD, ", ".join(names) or "none")

    def running(self, status: Status) -> Iterator[Finding]:
        try:
            found = status()
        except RkeyError as error:
            yield Finding("instance", State.UNKNOWN, f"none answers: {error.message}")
            return
        domain, mine = found.get("domain"), self.header
        if mine is not None and domain != mine.domain:
            yield Finding(
                "instance",
                State.WARNING,
                f"what runs here serves domain {domain}, the record is of domain {mine.domain}",
                "Is that the instance of this keystore? --ops names another.",
            )
            return
        yield Finding("instance", State.GOOD, f"one runs, as {found.get('role')}, and serves this domain")

    def peers(self, ask: Ask) -> Iterator[Finding]:
        if not self.config.hosts:
            yield Finding("peers", State.UNKNOWN, "none was named", "Name the domain's other machines with -i HOST.")
        for host in self.config.hosts:
            hint = ask(host)
            if hint is None:
                yield Finding("peer", State.WARNING, f"{host} does not answer, or has no keyring")
            elif self.header is None or hint.domain == self.header.domain:
                self.ways_back.append(f"peer {host}")
                yield Finding(
                    "peer",
                    State.GOOD,
                    f"{host} says that it serves domain {hint.domain}, sequence {hint.sequence} (unproved)",
                )
            else:
                yield Finding("peer", State.WARNING, f"{host} serves domain {hint.domain}, which is another one")

    def recovery(self) -> Iterator[Finding]:
        header = self.header
        if header is None:
            yield Finding("recovery", State.UNKNOWN, "not known: no record can be read")
        elif header.recovery is None:
            yield Finding(
                "recovery",
                State.WARNING,
                "none: if every machine is lost, so is the key",
                "Name recovery recipients in the policy: docs/operations/recovery.md.",
            )
        else:
            slot = header.recovery
            self.ways_back.append(f"{slot.threshold} of {len(slot.shares)} recovery recipients")
            yield Finding(
                "recovery",
                State.GOOD,
                f"{slot.threshold} of {len(slot.shares)} recipients open this record",
                "Have each prove his share from time to time: `rkeyserver recovery verify`.",
            )

    def after_a_change(self) -> Finding:
        name = "after a change"
        if self.ways_back:
            return Finding(
                name,
                State.GOOD,
                "after an update of microcode or version that this record does not survive, the way back is: "
                + " or ".join(self.ways_back),
            )
        return Finding(
            name,
            State.BAD,
            "after an update of microcode or version that this record does not survive, nothing would open it",
            "Do not update yet. Start a backup and name it here with -i, or name recovery recipients in the policy.",
        )

    def status(self) -> int:
        if self.failed is not None:
            return exit_status(self.failed)
        return 0 if self.ways_back else NO_WAY_BACK
