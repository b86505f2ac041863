"""The second half of what `rkeyserver doctor` looks at: the ways back, and what a change would come to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rkeyserver.address import Address
from rkeyserver.attestation.evidence import Identity
from rkeyserver.errors import RkeyError
from rkeyserver.service.doctor_changes import Change, Kind, changes
from rkeyserver.service.doctor_look import HAVE_SIGNED, Look
from rkeyserver.service.finding import Finding, State, Topic
from rkeyserver.service.hints import Hint

THE_IMAGE: Final = "the image that opens it now, on this machine"


@dataclass(frozen=True)
class Heard:
    """What answers at a peer's address; nothing of it is proved. machine: None where it does not say."""

    hint: Hint
    machine: Identity | None


Ask = Callable[[Address, Identity | None], Heard | None]
Status = Callable[[], dict[str, Any]]


def _another_audit_file(status: dict[str, Any], own: Path) -> str:
    """Where the instance says that its audit file is, if that is another place than `own`; else empty."""
    theirs = (status.get("audit") or {}).get("path") or ""
    return theirs if theirs and Path(theirs).resolve() != own.resolve() else ""


class Ways:
    """The ways back that were found so far.

    always: those that outlast any change of this machine; beside: those on this very machine, which outlast a change of
    image alone; found: what each change comes to.
    """

    def __init__(self, look: Look) -> None:
        self.look = look
        self.always: list[str] = []
        self.beside: list[str] = []
        self.found: list[Change] = []

    def instance(self, status: Status) -> Iterator[Finding]:
        """What answers on --ops."""
        look = self.look
        try:
            found = status()
        except RkeyError as error:
            yield Finding(Topic.INSTANCE, State.UNKNOWN, f"none answers: {error.message}")
            return
        domain, machine = found.get("domain"), found.get("machine")
        state, says, advice = State.WARNING, "", ""
        if look.own is not None and machine != look.own.machine:
            says, advice = f"it says that it is of machine {machine}", "Name the one of this machine with --ops."
        elif domain is None:
            says = "it has no keyring yet"
        elif look.domain is not None and domain != look.domain:
            says, advice = f"it serves domain {domain}", "Is it the one of this keystore? --ops names another."
        elif look.parsed is not None and look.seen is None:
            says = f"it holds a keyring of domain {domain}; whether the record here gives it was not tried"
            advice = "Do not stop it before that is known."
        elif not look.opened:
            says = f"it holds a keyring of domain {domain}, which the record here does not give"
            advice = "Do not stop it before another machine has joined from it."
        elif look.header is not None and found.get("sequence") != look.header.sequence:
            says = f"it serves sequence {found.get('sequence')}, and the record is at {look.header.sequence}"
            advice = "Is it the one of this keystore? --ops names another."
        elif theirs := _another_audit_file(found, look.config.audit_path):
            says = f"it serves this domain, with another audit file, {theirs}: its record may be another too"
            advice = "Say what it is started with, --keystore first; or --ops of the one of this keystore."
        else:
            state, says = State.GOOD, "it serves this domain"
        yield Finding(Topic.INSTANCE, state, f"one runs, as {found.get('role')}; {says}", advice)

    def peers(self, ask: Ask) -> Iterator[Finding]:
        """What answers at each host."""
        if not self.look.config.hosts:
            advice = "Name the domain's other machines with -i HOST."
            yield Finding(Topic.PEER, State.UNKNOWN, "none was named", advice)
        for host in self.look.config.hosts:
            yield self._peer(host, ask(host, self.look.own))

    def _peer(self, host: Address, heard: Heard | None) -> Finding:
        look = self.look
        if heard is None:
            return Finding(Topic.PEER, State.WARNING, f"{host} does not answer, or has no keyring")
        says = f"{host} says that it serves domain {heard.hint.domain}, sequence {heard.hint.sequence} (unproved)"
        here = heard.machine is not None and heard.machine == look.own
        way, advice = f"peer {host}", ""
        ahead = look.header is not None and heard.hint.is_after_record(look.header)
        if here and (look.opened or heard.hint.domain != look.domain):
            says = f"{host} says that it is this very machine"
            if heard.hint.domain != look.domain or look.refused or look.unbelieved:
                way = ""
            advice = "It is no way back from what changes this machine. Name another."
        elif look.domain is None:
            way += ", if its domain is the right one"
            advice = "Whether that is the domain of this machine, nothing here tells: compare the ids."
        elif heard.hint.domain != look.domain:
            way, advice = "", f"Wanted is domain {look.domain}."
        elif look.refused:
            way, advice = "", "By the policy in the record here it would refuse this machine."
        elif ahead:
            advice = "It is at a later state than the record here, perhaps with another policy: start with -i first."
        elif look.unbelieved:
            way, advice = "", f"This image would not believe its policy. {HAVE_SIGNED}"
        if way:
            (self.beside if here and look.opened else self.always).append(way)
        return Finding(Topic.PEER, State.WARNING if advice else State.GOOD, says, advice)

    def recovery(self) -> Iterator[Finding]:
        """Whether the record has a recovery slot that helps here."""
        look, header = self.look, self.look.header
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
        if look.refused or look.unbelieved or look.unproved:
            if look.refused:
                advice = "Not on this machine: the policy in the record does not accept it."
            elif look.unbelieved:
                advice = f"Not with this image, which would not believe the policy in it. {HAVE_SIGNED}"
            else:
                advice = "Not on this machine now: it cannot prove itself to them without collateral."
            yield Finding(Topic.RECOVERY, State.WARNING, says, advice)
            return
        self.always.append(f"{slot.threshold} of {len(slot.shares)} recovery recipients")
        yield Finding(
            Topic.RECOVERY,
            State.GOOD,
            says,
            "Keep a copy of the record elsewhere. Recipients prove their shares with `rkeyserver recovery verify`.",
        )

    def changes(self) -> Iterator[Finding]:
        """What a change of microcode or image would come to."""
        look = self.look
        table = None
        if look.policy is not None and look.seen is not None:
            table = look.policy.tables.get(look.seen.platform.name)
        if look.header is None or look.seen is None or table is None:
            yield Finding(Topic.CHANGE, State.UNKNOWN, "not told: the record did not open, or is not for this platform")
            return
        beside = self.beside
        if not (look.refused or look.unbelieved or look.unproved):
            beside = [THE_IMAGE, *beside]
        self.found = changes(look.header.slot, look.seen.platform.mrsigner, table, self.always, beside)
        for one in self.found:
            yield _change(one)

    def back(self) -> Iterator[Finding]:
        """What all of it comes to."""
        ways = " or ".join(self.always)
        if not self.look.opened:
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
            yield Finding(
                Topic.WAYS_BACK, State.BAD, f"{change} nothing would open the domain here", self._before_an_update()
            )
            return
        advice = "" if len(self.always) > 1 else "It is the only one: see that it stays until the update is done."
        yield Finding(Topic.WAYS_BACK, State.GOOD, f"{change} what would bring it back: {ways}", advice)

    def _before_an_update(self) -> str:
        if self.look.refused:
            return "Do not update yet. Have the domain's policy admit this machine first."
        if self.look.unbelieved:
            return f"Do not update yet. {HAVE_SIGNED}"
        beside = any(one.ways_back for one in self.found)
        advice = "Do not update yet. Start a backup and name it here with -i, or name recovery recipients."
        return f"{advice} Only a new image can come first: it joins the present one, beside it." if beside else advice


def _change(one: Change) -> Finding:
    """In words. What does not open is no failure as long as there is a way back."""
    says = f"{one.kind}: the record {'opens' if one.opens else 'does not open'} after it"
    if one.why_not:
        # An image that cannot be started with any success is no danger to a record that stays as it is.
        return Finding(Topic.CHANGE, State.GOOD, f"{says}; the policy accepts none: {one.why_not}")
    if one.opens:
        return Finding(Topic.CHANGE, State.GOOD, f"{says}; the policy accepts it")
    advice = ""
    if one.kind is Kind.SIGNER:
        advice = "It is built with the MRSIGNER of the present one among its former_signers."
    if not one.ways_back:
        return Finding(Topic.CHANGE, State.WARNING, f"{says}, and nothing brings the domain back")
    return Finding(
        Topic.CHANGE, State.GOOD, f"{says}; what brings the domain back: {' or '.join(one.ways_back)}", advice
    )
