"""What a recovering instance does with shares, its record and its audit file, and what it leaves when it fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.fakes.keyrings import OWNER
from tests.fakes.lost import Lost, Recovering
from tests.fakes.machines import machine
from tests.fakes.recipients import age, one_of_each
from tests.fakes.sharing import WatchedSharing

from rkeyserver.appraisal.change import PolicyChange, parse_change, propose, sign
from rkeyserver.appraisal.policy import AdminsTable, Policy, parse_policy
from rkeyserver.appraisal.signatures import public_line
from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected, RkeyError, Unavailable
from rkeyserver.exchange.armour import Kind, armour, dearmour
from rkeyserver.exchange.messages import RecoveryRequest, decode
from rkeyserver.keyring.sealed import open_keyring, seal_keyring
from rkeyserver.platforms.simulated.anchor import SIMULATED_ROOT
from rkeyserver.platforms.simulated.platform import SimulatedPlatform
from rkeyserver.sealing.record import parse
from rkeyserver.sealing.recovery import Recovery
from rkeyserver.service.audit import Audit
from rkeyserver.service.held import HeldCollateral
from rkeyserver.service.recipients import check_recoverable
from rkeyserver.service.vouching import AttesterWithHeld

ADMIN = Ed25519PrivateKey.from_private_bytes(bytes(32))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes([1] * 32))
ADMINS = AdminsTable(threshold=1, keys=[public_line(ADMIN)])


@pytest.fixture(scope="module")
def gone(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPlatform:
    """The machine that is lost."""
    return machine(tmp_path_factory.mktemp("gone"))


Make = Callable[..., Recovering]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Recovering] = []

    def new(lost: Lost, **differences: Any) -> Recovering:
        made.append(Recovering(tmp_path / f"new-{len(made)}", lost, **differences))
        return made[-1]

    yield new
    for one in made:
        one.close()


@contextlib.asynccontextmanager
async def under_way(day: Recovering) -> AsyncIterator[asyncio.Task[None]]:
    task = await day.begin()
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, RkeyError):
            await task


def recovers(day: Recovering, *indices: int) -> None:
    async def check() -> None:
        async with under_way(day) as task:
            await day.give(*indices)
            await task

    asyncio.run(check())


def fails(day: Recovering, kind: type[RkeyError], says: str, *indices: int) -> RkeyError:
    with pytest.raises(kind, match=says) as raised:
        recovers(day, *indices)
    assert day.untouched()
    assert day.instance.recovering is None
    return raised.value


def test_it_serves_as_primary_from_a_record_of_its_own(gone: SimulatedPlatform, make: Make) -> None:
    day = make(Lost.of(gone, recipients=one_of_each()))
    recovers(day, 1, 2)
    assert day.serves()
    assert day.instance.role == "primary"
    assert day.store.record is not None
    stored = parse(day.store.record)
    with contextlib.closing(open_keyring(stored, day.platform)) as keyring:
        assert keyring.domain == day.lost.domain
    assert stored.header.recovery is not None
    old = parse(day.lost.record).header.recovery
    assert old is not None
    assert stored.header.recovery.set != old.set, "new shares under a new secret"
    assert list(day.store.kept) == [f"domain-{day.lost.domain}.epoch-0.sequence-1"]
    line = day.lines()[-1]
    assert (line["event"], line["domain"], line["sequence"]) == ("recover", day.lost.domain, 2)
    assert line["peer"]["machine"] == day.platform.attester_identity().machine
    assert line["found"] == f"shares 1, 2 of set {old.set}"


def test_the_request_is_printed_and_told_alike(gone: SimulatedPlatform, make: Make) -> None:
    day = make(Lost.of(gone))

    async def check() -> None:
        async with under_way(day):
            assert dearmour(day.said[0].encode(), Kind.RECOVERY_REQUEST) == day.request
            assert day.instance.status()["recovering"] == {"shares": 0, "threshold": 2}

    asyncio.run(check())
    assert day.instance.status()["recovering"] is None


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=repr)
def test_a_contribution_may_come_as_text(gone: SimulatedPlatform, make: Make, end: str) -> None:
    day = make(Lost.of(gone))

    async def check() -> None:
        async with under_way(day) as task:
            for index in (0, 2):
                text = armour(await day.contribution(index), Kind.RECOVERY_CONTRIBUTION)
                with pytest.raises(Rejected, match="wanted is a recovery contribution"):
                    day.take(text.replace("CONTRIBUTION", "REQUEST").encode())
                day.take(text.replace("\n", end).encode())
            await task

    asyncio.run(check())
    assert day.serves()


def test_one_share_of_a_domain_that_needs_one(gone: SimulatedPlatform, make: Make) -> None:
    day = make(Lost.of(gone, threshold=1))
    recovers(day, 2)
    assert day.serves()


def test_what_comes_when_there_is_enough_is_not_needed(gone: SimulatedPlatform, make: Make) -> None:
    day = make(Lost.of(gone))

    async def check() -> None:
        async with under_way(day) as task:
            late = await day.contribution(2)
            await day.give(0, 1)
            with pytest.raises(Unavailable, match="enough already"):
                day.take(late)
            await task

    asyncio.run(check())


def test_a_record_that_opens_here_is_served_and_nobody_is_asked(tmp_path: Path, make: Make) -> None:
    first = make(Lost.of(machine(tmp_path / "gone")))
    recovers(first, 0, 1)
    assert first.store.record is not None
    first.instance.close()
    said = len(first.said)
    recovers(first)
    assert first.serves()
    assert len(first.said) == said
    assert first.decisions()[-1] == ("open", "accepted")


def test_a_record_that_opens_here_is_of_the_domain_that_is_asked_for(tmp_path: Path, make: Make) -> None:
    day = make(Lost.of(machine(tmp_path / "gone")))
    recovers(day, 0, 1)
    day.instance.close()
    day.domain = "00" * 16
    with pytest.raises(Rejected, match="--domain asks for"):
        recovers(day)
    assert day.instance.keyring is None


# Failing on the way


def test_where_a_contribution_cannot_be_recorded_it_does_not_count(gone: SimulatedPlatform, make: Make) -> None:
    day = make(Lost.of(gone))

    async def check() -> None:
        async with under_way(day):
            contribution = await day.contribution(0)
            audit = day.instance.audit
            path = day.folder / "audit.jsonl"
            with path.open() as read_only:
                day.instance.audit = Audit(read_only.fileno(), path, day.instance.clock)
                with pytest.raises(Unavailable, match="cannot be written"):
                    day.take(contribution)
                day.instance.audit = audit
            assert day.take(contribution) == {"shares": 1, "threshold": 2}

    asyncio.run(check())


def test_where_the_shares_cannot_be_combined_nothing_has_changed(gone: SimulatedPlatform, make: Make) -> None:
    day = make(Lost.of(gone))
    day.instance.sharing = WatchedSharing(fails=Unavailable("no process"))
    fails(day, Unavailable, "no process", 0, 1)


def test_where_the_record_is_replaced_meanwhile_it_stays(gone: SimulatedPlatform, make: Make) -> None:
    day = make(Lost.of(gone))

    async def check() -> None:
        async with under_way(day) as task:
            await day.give(0)
            day.store.record = b"somebody else's"
            await day.give(1)
            with pytest.raises(Unavailable, match="was changed during the recovery"):
                await task

    asyncio.run(check())
    assert day.store.record == b"somebody else's"
    assert day.instance.keyring is None


def test_where_it_cannot_be_stored_it_is_not_served(gone: SimulatedPlatform, make: Make) -> None:
    day = make(Lost.of(gone))

    def full() -> None:
        raise Unavailable("the disk is full")

    day.store.before = full
    fails(day, Unavailable, "the disk is full", 0, 1)


def test_a_recovery_that_is_stopped_leaves_no_share(gone: SimulatedPlatform, make: Make) -> None:
    day = make(Lost.of(gone))
    kept: list[Any] = []

    async def check() -> None:
        async with under_way(day):
            await day.give(0)
            kept.append(day.instance.recovering)

    asyncio.run(check())
    assert kept[0].shares == {}
    assert day.untouched()


# With a change of the policy


def only(*machines: str) -> Callable[[Policy], Policy]:
    names = ", ".join(f'"{one}"' for one in machines)
    return lambda policy: parse_policy(policy.text.replace('machines = "any"', f"machines = [{names}]"))


def with_admins(policy: Policy) -> Policy:
    key = ADMINS.keys[0]
    return parse_policy(only("00" * 16)(policy).text + f'\n[admins]\nthreshold = 1\nkeys = ["{key}"]\n')


def admitting(lost: Lost, day: Recovering, **said: Any) -> PolicyChange:
    """The change that accepts this machine too."""
    own = day.platform.attester_identity().machine
    text = lost.policy.text.replace('machines = ["', f'machines = ["{own}", "')
    assert text != lost.policy.text
    honest: dict[str, Any] = {"domain": lost.domain, "sequence": 1, "replaces": lost.policy.text, "policy": text}
    return propose(**(honest | said))


def test_a_machine_that_is_not_named_is_told_what_a_change_has_to_replace(gone: SimulatedPlatform, make: Make) -> None:
    lost = Lost.of(gone, policy=only("00" * 16))
    day = make(lost)
    error = fails(day, Rejected, "the domain's policy does not accept this machine", 0, 1)
    assert isinstance(error, Rejected)
    assert error.reason is Reason.MACHINE_NOT_NAMED
    change = parse_change(day.said[-1])
    assert (change.domain, change.sequence, change.policy, change.signatures) == (lost.domain, 1, lost.policy.text, [])


def test_the_owner_recovers_onto_a_machine_that_he_names(gone: SimulatedPlatform, make: Make) -> None:
    lost = Lost.of(gone, policy=only("00" * 16))
    day = make(lost)
    day.change = admitting(lost, day)
    recovers(day, 0, 1)
    assert day.serves()
    assert day.instance.policy is not None
    assert day.instance.policy.text == day.change.policy
    assert day.instance.keyring is not None
    assert day.instance.keyring.header.sequence == 3
    assert day.lines()[-1]["found"].endswith("with policy change 1")


def test_a_change_that_accepts_less_adds_a_generation(gone: SimulatedPlatform, make: Make) -> None:
    lost = Lost.of(gone, policy=only("00" * 16))
    day = make(lost)
    own = day.platform.attester_identity().machine
    day.change = admitting(lost, day, policy=lost.policy.text.replace("00" * 16, own))
    recovers(day, 0, 1)
    assert day.instance.keyring is not None
    assert len(day.instance.keyring.generation_ids) == 2


def test_admins_sign_for_a_new_machine(gone: SimulatedPlatform, make: Make) -> None:
    lost = Lost.of(gone, policy=with_admins)
    day = make(lost, admins=ADMINS)
    day.change = sign(admitting(lost, day), ADMIN)
    recovers(day, 0, 1)
    assert day.serves()


UNSIGNED: dict[str, tuple[Callable[[PolicyChange], PolicyChange], Reason]] = {
    "nobody": (lambda change: change, Reason.NOT_SIGNED),
    "somebody else": (lambda change: sign(change, OTHER), Reason.NOT_SIGNED),
}


@pytest.mark.parametrize(("signed", "reason"), UNSIGNED.values(), ids=UNSIGNED)
def test_nobody_but_its_admins_changes_the_policy_of_a_lost_domain(
    gone: SimulatedPlatform, make: Make, signed: Callable[[PolicyChange], PolicyChange], reason: Reason
) -> None:
    lost = Lost.of(gone, policy=with_admins)
    day = make(lost)
    day.change = signed(admitting(lost, day))
    error = fails(day, Rejected, "valid signature", 0, 1)
    assert isinstance(error, Rejected)
    assert error.reason is reason


OTHERS: dict[str, dict[str, Any]] = {
    "of another domain": {"domain": "00" * 16},
    "of another number": {"sequence": 2},
    "of another policy": {"replaces": "version = 1\n"},
}


@pytest.mark.parametrize("said", OTHERS.values(), ids=OTHERS)
def test_a_change_that_is_not_the_next_one_is_refused(
    gone: SimulatedPlatform, make: Make, said: dict[str, Any]
) -> None:
    lost = Lost.of(gone, policy=only("00" * 16))
    day = make(lost)
    day.change = admitting(lost, day, **said)
    fails(day, Rejected, "The policy change", 0, 1)


def test_a_change_to_recipients_that_nothing_can_be_sealed_to_is_refused(gone: SimulatedPlatform, make: Make) -> None:
    lost = Lost.of(gone, policy=only("00" * 16))
    day = make(lost)
    text = admitting(lost, day).policy.replace(lost.recipients[0].public, lost.recipients[0].public[:-1])
    day.change = admitting(lost, day, policy=text)
    fails(day, Misuse, "cannot be a recovery recipient", 0, 1)


def test_a_policy_that_the_named_admins_did_not_sign_is_not_believed(gone: SimulatedPlatform, make: Make) -> None:
    lost = Lost.of(gone)
    day = make(lost, admins=ADMINS)
    error = fails(day, Rejected, "was never signed by admins", 0, 1)
    assert isinstance(error, Rejected)
    assert error.reason is Reason.POLICY_NOT_BELIEVED
    change = parse_change(day.said[-1])
    assert (change.domain, change.sequence, change.policy, change.signatures) == (lost.domain, 1, lost.policy.text, [])


# Recipients of a policy


def test_a_policy_without_recovery_asks_for_no_recipients(gone: SimulatedPlatform) -> None:
    check_recoverable(Lost.of(gone).policy)
    text = Lost.of(gone).policy.text
    check_recoverable(parse_policy(text[: text.index("[recovery]")]))


def test_a_recipient_that_is_none_is_named_before_a_policy_takes_effect(gone: SimulatedPlatform) -> None:
    lost = Lost.of(gone)
    text = lost.policy.text.replace(lost.recipients[0].public, lost.recipients[0].public[:-1])
    with pytest.raises(Misuse, match="cannot be a recovery recipient"):
        check_recoverable(parse_policy(text))


def test_a_damaged_recovery_is_refused_before_it_is_asked_for(gone: SimulatedPlatform, make: Make) -> None:
    day = make(Lost.of(gone))
    day.store.record = day.lost.record[:40]
    with pytest.raises(Corrupt):
        recovers(day)
    assert day.said == []


def test_shares_are_for_the_keys_without_the_names_behind_them(gone: SimulatedPlatform, make: Make) -> None:
    recipients = one_of_each()
    day = make(Lost.of(gone, recipients=recipients))
    recovers(day, 0, 1)
    keyring = day.instance.keyring
    assert keyring is not None
    text = keyring.header.policy
    named = text.replace(recipients[1].public, f"{recipients[1].public} somebody@somewhere")
    renamed = keyring.changed(policy=named, changes=[], add=None, now=0)
    day.instance.store_keyring(renamed, None)
    renamed.close()
    assert day.store.record is not None
    slot = parse(day.store.record).header.recovery
    assert slot is not None
    assert [one.recipient for one in slot.shares] == [one.public for one in recipients]


def test_a_keyring_is_sealed_for_no_recipient_without_the_policy_s_saying_so(gone: SimulatedPlatform) -> None:
    lost = Lost.of(gone)
    with contextlib.closing(open_keyring(parse(lost.record), gone)) as keyring:
        plain = seal_keyring(keyring, gone, OWNER, now=0)
        stranger = seal_keyring(keyring, gone, OWNER, now=0, recovery=Recovery(1, (age().public,), WatchedSharing()))
    assert parse(plain).header.recovery is None
    assert parse(stranger).header.recovery is not None


def test_its_request_goes_with_the_collateral_that_is_held(
    gone: SimulatedPlatform, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine whose platform has none of its own: whoever checks the request verifies it by what was sent along."""
    day = make(Lost.of(gone, recipients=one_of_each()))
    held = HeldCollateral(day.folder / "held", SIMULATED_ROOT, day.platform, day.instance.clock, lambda _held: None)
    held.learn(day.platform.endorsements())
    attester = AttesterWithHeld(day.platform, held, asks=True)
    recoverer = replace(day.recoverer(), attester=attester)
    monkeypatch.setattr(day, "recoverer", lambda: recoverer)
    monkeypatch.setattr(type(day.platform), "endorsements", lambda _self: b"")

    async def check() -> None:
        async with under_way(day):
            request = decode(day.request, RecoveryRequest)
            assert request.attested.endorsements == held.for_own_evidence() != b""

    asyncio.run(check())
