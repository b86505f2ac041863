"""The first half of what `rkeyserver doctor` looks at: the record, this machine, and whether they belong together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.appraisal.succession import Held
from rkeyserver.attestation.evidence import Identity
from rkeyserver.clock import DAY, Clock, utc
from rkeyserver.config import Config
from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected, RkeyError, Unavailable
from rkeyserver.exchange.standby import held_of
from rkeyserver.keyring.sealed import open_keyring
from rkeyserver.keystore.file_read import kept_names, read_if_there, refuse_lost, refuse_mount_point, resolve
from rkeyserver.keystore.place import Database
from rkeyserver.keystore.store import Fetch, ways_out
from rkeyserver.sealing.record import Header, Record, differences, parse
from rkeyserver.service import surroundings
from rkeyserver.service.adopt import with_ways_out
from rkeyserver.service.audit_look import had_a_keyring
from rkeyserver.service.bound import binding_of
from rkeyserver.service.finding import Finding, State, Topic
from rkeyserver.service.held import WARN_DAYS, HeldCollateral
from rkeyserver.service.seen import Seen

Open = Callable[[Config, Clock], Seen]
HAVE_SIGNED = (
    "Have the admins sign the present policy anew, at the primary: rkeyserver policy propose, sign, apply "
    "(docs/operations/upgrading.md)."
)


class Look:
    """What was found so far. failed: the first thing that keeps an instance from starting with this record.

    refused: whether the domain's policy refuses this machine; unbelieved: whether no image like this one would believe
    that policy; unproved: whether this machine has no collateral to prove itself with now.
    """

    def __init__(self, config: Config, clock: Clock) -> None:
        self.config, self.clock = config, clock
        self.failed: RkeyError | None = None
        self.opened = self.refused = self.unbelieved = self.unproved = False
        self.seen: Seen | None = None
        self.policy: Policy | None = None
        self.parsed: Record | None = None
        self._kept: list[str] = []
        self._ways_out: Callable[[Fetch], str] = lambda fetch: ways_out((), fetch)
        self._state: Held | None = None

    @property
    def header(self) -> Header | None:
        """The record's, if it can be read."""
        return None if self.parsed is None else self.parsed.header

    @property
    def domain(self) -> str | None:
        """Which domain belongs here: the record's, else the one that --domain asks for."""
        return self.config.domain if self.header is None else self.header.domain

    @property
    def own(self) -> Identity | None:
        """Who this machine is; None while that is not known."""
        return None if self.seen is None else self.seen.platform.attester_identity()

    def fails(self, topic: Topic, error: RkeyError) -> Finding:
        """A finding that keeps an instance from starting."""
        self.failed = self.failed or error
        return Finding(topic, State.BAD, error.message, error.advice)

    def memory(self) -> Iterator[Finding]:
        """How keys would lie in memory."""
        yield surroundings.memory(hidden=self.seen is not None and self.seen.platform.hides_memory)

    def record(self) -> Iterator[Finding]:
        """What lies at --keystore."""
        try:
            self.parsed = parse(self._read())
        except RkeyError as error:
            yield self.fails(Topic.RECORD, error)
            return
        header = self.parsed.header
        if self.config.domain not in (None, header.domain):
            another = Rejected(
                Reason.ANOTHER_DOMAIN,
                f"The record here is of domain {header.domain}; --domain asks for {self.config.domain}.",
                advice="Name the keystore of that domain, or fetch it with -i.",
            )
            yield self.fails(Topic.RECORD, another)
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
        place = self.config.keystore
        if not isinstance(place, Path):
            return self._read_row(place)
        path = resolve(place)
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
        self._ways_out = lambda fetch: ways_out(self._kept, fetch)
        return data

    def _read_row(self, place: Database) -> bytes:
        """The same, of this machine's row in a database."""
        if self.seen is None:
            raise self.failed or Unavailable("Whose record it would be is not known: there is no machine.")
        from rkeyserver.keystore.databases import look_at  # noqa: PLC0415 - no file needs one

        identity = self.seen.platform.identity()
        found = look_at(place, identity.platform, identity.machine, binding_of)
        if found is None:
            raise self._missing()
        self._kept, self._ways_out = [str(one) for one in found.kept], found.ways_out
        return found.record

    def _missing(self) -> RkeyError:
        with contextlib.suppress(OSError):  # an audit file that cannot be read is a finding of its own
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

    def machine(self, open_machine: Open) -> Iterator[Finding]:
        """Who this machine is."""
        try:
            self.seen = open_machine(self.config, self.clock)
        except RkeyError as error:
            if self.config.platform is None and self.header is not None and self.header.slot.platform == "simulated":
                advice = "The record is of a simulated machine: say --platform simulated, and its --machine."
                error = Misuse(error.message, advice=advice)
            yield self.fails(Topic.MACHINE, error)
            return
        own, simulated = self.own, self.seen.platform.simulated
        yield Finding(
            Topic.MACHINE,
            State.WARNING if simulated else State.GOOD,
            f"{own.platform} {own.machine}" if own else "",
            "It protects nothing: it is simulated." if simulated else "",
        )

    def sealed_to(self) -> Iterator[Finding]:
        """What the record's key depends on, by its header, beside what this machine has now."""
        if self.header is None or self.seen is None:
            yield Finding(Topic.SEALED_TO, State.UNKNOWN, "not told: there is no record, or no machine to compare with")
            return
        slot, here = self.header.slot, self.seen.platform.identity()
        says = f"the {slot.policy} key of {slot.platform} {slot.machine}"
        if (slot.platform, slot.machine) != (here.platform, here.machine):
            yield Finding(Topic.SEALED_TO, State.WARNING, f"{says}, which is another machine")
            return
        if slot.policy != here.policy:
            yield Finding(Topic.SEALED_TO, State.WARNING, f"{says}; this image seals to {here.policy}")
            return
        changed = {name: now for name, _, now in differences(slot, here)}
        versions = ", ".join(
            f"{name} {value}" + (f" (now {changed[name]})" if name in changed else "")
            for name, value in sorted(slot.versions.items())
        )
        yield Finding(Topic.SEALED_TO, State.WARNING if changed else State.GOOD, f"{says}, at {versions}")

    def opens(self) -> Iterator[Finding]:
        """Whether this machine opens the record now."""
        if self.parsed is None or self.seen is None:
            yield Finding(Topic.OPENS, State.UNKNOWN, "not tried: there is no record, or no machine to try it with")
            return
        platform = self.seen.platform
        try:
            with contextlib.closing(open_keyring(self.parsed, platform)) as keyring:
                self._state = held_of(keyring)
            self.policy = parse_policy(self._state.policy)
        except Corrupt as error:
            told = with_ways_out(error, self.parsed.header, self._ways_out, platform.identity())
            yield self.fails(Topic.OPENS, told)
        except Misuse as error:
            yield self.fails(Topic.OPENS, Corrupt(f"The record opens; {error.message}", advice=error.advice))
        except Unavailable as error:
            yield self.fails(Topic.OPENS, error)
        else:
            self.opened = True
            yield Finding(Topic.OPENS, State.GOOD, "the record opens here now, and its ids belong to its keys")

    def admins(self) -> Iterator[Finding]:
        """Whether the admins that are measured into the image stand behind the domain's policy, where any are."""
        if self.seen is None or self.seen.measured is None:
            return
        if self.policy is None or self._state is None:
            yield Finding(Topic.ADMINS, State.UNKNOWN, "not told: the record did not open")
            return
        try:
            self.seen.check_believed(self._state)
        except Rejected as error:
            self.unbelieved = True
            yield Finding(
                Topic.ADMINS,
                State.WARNING,
                f"an image like this one would not believe the domain's policy: {error.message}",
                f"It serves from its record, but nothing brings the domain back here. {HAVE_SIGNED}",
            )
            return
        measured = self.seen.measured.admins
        if self.policy.admins == measured:
            says = "those that are measured into the image are the policy's"
        else:
            says = "the policy has others than are measured into the image, who have signed for them"
        yield Finding(Topic.ADMINS, State.GOOD, says)

    def accepted(self) -> Iterator[Finding]:
        """Whether the domain's policy accepts this machine, and until when its collateral is good."""
        if self.policy is None or self.seen is None:
            yield Finding(Topic.ACCEPTED, State.UNKNOWN, "not tried: the record did not open")
            return
        now, held = self.clock.now(), self.seen.held
        try:
            if held is not None and held.own() is None:
                self.unproved = True
                yield Finding(Topic.ACCEPTED, State.UNKNOWN, "not tried: no collateral is held for this machine")
                yield _none_held(held)
                return
            verdict = self.seen.appraised(self.policy, now)
        except Unavailable as error:
            self.unproved = True
            yield Finding(Topic.ACCEPTED, State.UNKNOWN, f"not to be told now: {error.message}", error.advice)
            return
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
            Topic.ACCEPTED, State.GOOD, f"its own evidence, by the domain's policy {self.policy.digest} in the record"
        )
        yield _collateral(verdict.claims.expires, now)

    def around(self) -> Iterator[Finding]:
        """What else a start needs."""
        yield Finding(Topic.KEPT_COPIES, State.GOOD, ", ".join(self._kept) or "none")
        checks = [(Topic.AUDIT_FILE, surroundings.check_audit, self.config.audit_path)]
        if self.seen is None or self.seen.platform.trusts_host:
            checks.append((Topic.LOCAL_SOCKET, surroundings.check_socket, self.config.socket_path))
        for topic, check, path in checks:
            try:
                yield Finding(topic, State.GOOD, check(path))
            except RkeyError as error:
                yield self.fails(topic, error)


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


def _none_held(held: HeldCollateral) -> Finding:
    return Finding(
        Topic.COLLATERAL,
        State.WARNING,
        held.problem or f"none is held for {held.own_model()} in {held.path}",
        "Name a PCCS with --pccs, or bring a bundle (`rkeyserver collateral fetch` on a machine that reaches one; "
        "--collateral FILE here): without it nobody believes this machine's evidence, unless he holds some.",
    )
