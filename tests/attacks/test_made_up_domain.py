"""A host makes a domain up, to have its admins sign for it and the genuine enclave adopt it: each step is refused.

On `sgx` all that admins read comes through the host. So the id that it shows may be of keys that it has made itself,
outside of any enclave. Signed for, such a domain would be believed by every enclave that goes by these admins.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.attacks.parties import Machines
from tests.attacks.test_recovery import sealed_to, under_way
from tests.attacks.wire import Recorded
from tests.fakes.admins import admins, key
from tests.fakes.claims import document, table
from tests.fakes.flavours import VERIFY, machine_of, other_than, policy_of
from tests.fakes.keyrings import MEMBER
from tests.fakes.lost import VERIFIERS, Lost, Recovering
from tests.fakes.machines import NOW, HostTime, expired, loaded, other_signer, revoking_the_processor, unknown_authority
from tests.fakes.recipients import Recipient, age, recovery_table

from rkeyserver.appraisal.change import PolicyChange, appended, digest, propose, sign
from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.attestation.report_data import report_data, transcript_hash
from rkeyserver.cli.policy import sign_file
from rkeyserver.cli.policy_domain import Known
from rkeyserver.cli.recovery import amended
from rkeyserver.clock import Clock
from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected
from rkeyserver.exchange.attested import Context, vouch
from rkeyserver.exchange.messages import (
    AttestedMessage,
    Grant,
    MintStatement,
    MintStatementClaims,
    RecoveryRequest,
    Request,
    decode,
    encode,
)
from rkeyserver.exchange.mint_statement import Minted, check_mint_statement, state_mint
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.platforms.interface import Platform
from rkeyserver.service.verification import InlineVerifier

THREE: Final = admins(2, ["ada", "bob", "eve"])
ADMINS: Final = f"\n[admins]\nthreshold = 2\nkeys = {json.dumps(THREE.keys)}\n"


@contextlib.contextmanager
def made_up(policy: str) -> Iterator[Keyring]:
    """A domain whose keys the host has, outside of any enclave."""
    keyring = Keyring.mint(primary=MEMBER, now=NOW, policy=policy)
    try:
        yield keyring
    finally:
        keyring.close()


# Signing


HOSTED: Final = document(table()) + ADMINS  # of `sgx`


@pytest.fixture
def proposal(tmp_path: Path) -> Path:
    """What the host shows: its domain, and the policy as the image would have made it."""
    path = tmp_path / "change.json"
    with made_up(HOSTED) as own:
        path.write_text(propose(domain=own.domain, sequence=1, replaces=HOSTED, policy=HOSTED).text())
    return path


@pytest.fixture
def ada(tmp_path: Path) -> Path:
    path = tmp_path / "ada.pem"
    path.write_bytes(key("ada").private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return path


def test_nobody_signs_for_a_domain_that_only_the_host_knows(proposal: Path, ada: Path) -> None:
    with pytest.raises(Misuse, match="Nothing but the host says"):
        sign_file(proposal, [ada], Known())


def test_nobody_signs_for_another_than_the_one_he_noted(proposal: Path, ada: Path) -> None:
    with pytest.raises(Rejected, match="--domain says"):
        sign_file(proposal, [ada], Known(domain="d0" * 16))


def test_nobody_signs_for_it_on_the_day_of_a_recovery(proposal: Path, ada: Path) -> None:
    """A host that says that it recovers can print a domain of its own just as well."""
    line = f"sgx {'b2' * 16}"
    with pytest.raises(Misuse, match="Nothing but the host says"):
        amended(proposal, line, None, [ada])
    with pytest.raises(Rejected, match="--domain says"):
        amended(proposal, line, None, [ada], Known(domain="d0" * 16))
    with pytest.raises(Misuse, match="Nothing but the host says"):
        amended(proposal, None, None, [ada])


# Statements that are none


def statement_by(platform: Platform, keyring: Keyring) -> bytes:
    """By a genuine enclave on `platform`. Only code that is not ours gives it keys from outside."""
    return state_mint(keyring, platform, now=NOW)


async def checked(data: bytes, domain: str, policy: Policy, now: int = NOW) -> Minted:
    return await check_mint_statement(data, domain=domain, policy=policy, verifiers=dict(VERIFIERS), now=now)


def refused(data: bytes, domain: str, policy: Policy, now: int = NOW) -> Reason:
    with pytest.raises(Rejected) as raised:
        asyncio.run(checked(data, domain, policy, now))
    return raised.value.reason


def test_the_right_statement(machines: Machines) -> None:
    policy = policy_of(machines.first)
    with made_up(policy.text) as keyring:
        minted = asyncio.run(checked(statement_by(machines.first, keyring), keyring.domain, policy))
        assert minted.claims.generation == keyring.current.id
        assert minted.verdict.claims.identity == machines.first.attester_identity()


def test_a_statement_of_a_genuine_domain_does_not_serve_a_made_up_one(machines: Machines) -> None:
    policy = policy_of(machines.first)
    with made_up(policy.text) as genuine, made_up(policy.text) as own:
        data = statement_by(machines.first, genuine)
        assert refused(data, own.domain, policy) is Reason.ANOTHER_DOMAIN
        for changed in ({"domain": own.domain}, {"domain": own.domain, "generation": own.current.id}):
            assert refused(with_claims(data, **changed), own.domain, policy) is Reason.NOT_BOUND


def with_claims(data: bytes, **changes: Any) -> bytes:
    attested = decode(data, MintStatement).attested
    claims = encode(msgspec.structs.replace(decode(attested.claims, MintStatementClaims), **changes))
    return encode(MintStatement(attested=msgspec.structs.replace(attested, claims=claims)))


TAMPERED: dict[str, dict[str, Any]] = {
    "the generation": {"generation": "00" * 16},
    "the policy": {"policy_sha256": bytes(32)},
    "the time": {"time": NOW + 1},
    "the machine": {"machine": "00" * 16},
}


@pytest.mark.parametrize("changes", TAMPERED.values(), ids=TAMPERED)
def test_a_statement_with_a_claim_changed(machines: Machines, changes: dict[str, Any]) -> None:
    policy = policy_of(machines.first)
    with made_up(policy.text) as keyring:
        data = with_claims(statement_by(machines.first, keyring), **changes)
        assert refused(data, keyring.domain, policy) is Reason.NOT_BOUND


def test_a_statement_of_another_version(machines: Machines) -> None:
    policy = policy_of(machines.first)
    with made_up(policy.text) as keyring:
        data = with_claims(statement_by(machines.first, keyring), version=2)
        assert refused(data, keyring.domain, policy) is Reason.WRONG_VERSION


OF_OTHERS: dict[str, tuple[dict[str, Any], Reason]] = {
    "another signer's image": ({"enclave": lambda: loaded(key=other_signer())}, Reason.WRONG_SIGNER),
    "another product": ({"enclave": lambda: loaded(isv_prod_id=7)}, Reason.WRONG_PRODUCT),
    "an older image": ({"enclave": lambda: loaded(isv_svn=0)}, Reason.VERSION_TOO_LOW),
    "a debug enclave": ({"enclave": lambda: loaded(debug=True)}, Reason.DEBUG_ENCLAVE),
    "a machine under another root": ({"authority": unknown_authority}, Reason.NOT_GENUINE),
    "a machine that was revoked": ({"collateral": revoking_the_processor}, Reason.NOT_GENUINE),
    "a machine whose TCB is revoked": ({"status": "Revoked"}, Reason.TCB_STATUS),
    "a machine whose collateral has expired": ({"collateral": expired}, Reason.NOT_GENUINE),
}


@pytest.mark.parametrize(("differences", "reason"), OF_OTHERS.values(), ids=OF_OTHERS)
def test_a_statement_of(machines: Machines, tmp_path: Path, differences: dict[str, Any], reason: Reason) -> None:
    policy = policy_of(machines.first)
    other = machine_of(machines.first.name, tmp_path / "other", **differences)
    with made_up(policy.text) as keyring:
        assert refused(statement_by(other, keyring), keyring.domain, policy) is reason


def test_a_statement_of_a_machine_that_the_policy_does_not_name(machines: Machines) -> None:
    """A stranger runs our genuine image on a genuine machine of his own."""
    named = machines.first.attester_identity().machine
    policy = parse_policy(policy_of(machines.first).text.replace('machines = "any"', f'machines = ["{named}"]'))
    with made_up(policy.text) as keyring:
        data = statement_by(machines.second, keyring)
        assert refused(data, keyring.domain, policy) is Reason.MACHINE_NOT_NAMED
        assert refused(with_claims(data, machine=named), keyring.domain, policy) is Reason.NOT_BOUND


def test_a_statement_that_says_another_platform(machines: Machines) -> None:
    policy = policy_of(machines.first)
    with made_up(policy.text) as keyring:
        data = with_claims(statement_by(machines.first, keyring), platform=other_than(machines.first.name))
        assert refused(data, keyring.domain, policy) is Reason.NOT_BOUND


def test_a_statement_that_is_verified_late_needs_newer_collateral(machines: Machines, tmp_path: Path) -> None:
    policy, later = policy_of(machines.first), NOW + 400 * 86400
    with made_up(policy.text) as keyring:
        data, domain = statement_by(machines.first, keyring), keyring.domain
    assert refused(data, domain, policy, later) is Reason.NOT_GENUINE
    name = machines.first.name
    newer = machine_of(name, tmp_path / "newer", Clock(HostTime(later))).endorsements()
    verifier = InlineVerifier(VERIFY[name])
    verifier.hold((newer,))
    asyncio.run(check_mint_statement(data, domain=domain, policy=policy, verifiers={name: verifier}, now=later))


# What an enclave says at other times, passed off as that


def test_what_is_vouched_for_as_something_else_is_no_statement(machines: Machines) -> None:
    policy = policy_of(machines.first)
    with made_up(policy.text) as keyring:
        claims = decode(statement_by(machines.first, keyring), MintStatement).attested.claims
        for context in set(Context) - {Context.MINT_STATEMENT}:
            attested = vouch(machines.first, context, transcript_hash(), claims)
            assert refused(encode(MintStatement(attested=attested)), keyring.domain, policy) is Reason.NOT_BOUND
        after = AttestedMessage(
            claims=claims,
            evidence=machines.first.evidence(report_data(Context.MINT_STATEMENT, transcript_hash(b"x"), claims)),
            endorsements=machines.first.endorsements(),
        )
        assert refused(encode(MintStatement(attested=after)), keyring.domain, policy) is Reason.NOT_BOUND


def test_another_message_is_no_statement(recorded: Recorded, machines: Machines, tmp_path: Path) -> None:
    """Neither whole nor by its attested part: types and contexts differ."""
    day = Recovering(tmp_path / "day", Lost.of(machines.first))

    async def request() -> bytes:
        async with under_way(day):
            return day.request

    recovery = asyncio.run(request())
    day.close()
    policy = policy_of(machines.first)
    parts = (
        (recovery, decode(recovery, RecoveryRequest).attested),
        (recorded.messages[Request], decode(recorded.messages[Request], Request).attested),
        (recorded.messages[Grant], decode(recorded.messages[Grant], Grant).attested),
    )
    for whole, attested in parts:
        assert refused(whole, day.lost.domain, policy) in {Reason.MALFORMED, Reason.TOO_LARGE}
        assert refused(encode(MintStatement(attested=attested)), day.lost.domain, policy) is Reason.MALFORMED


# The record that the host would have recovered


Slot = tuple[int, Callable[[list[Recipient]], list[Recipient]]]
OTHER_SLOTS: dict[str, Slot] = {
    "recipients of the host's own": (2, lambda named: [age() for _ in named]),
    "another threshold": (1, lambda named: named),
    "a recipient more": (2, lambda named: [*named, age()]),
    "a recipient less": (2, lambda named: named[:-1]),
    "them in another order": (2, lambda named: named[::-1]),
    "one of them exchanged": (2, lambda named: [*named[:-1], age()]),
}


@pytest.mark.parametrize("slot", OTHER_SLOTS.values(), ids=OTHER_SLOTS)
@pytest.mark.parametrize("with_change", [False, True], ids=["", "with a change"])
def test_a_record_for_others_than_its_policy_names(
    machines: Machines,
    tmp_path: Path,
    slot: Slot,
    with_change: bool,  # noqa: FBT001 - of the table
) -> None:
    """Even where admins have signed for it."""
    threshold, recipients_of = slot
    named = [age(), age(), age()]
    day = recovering(machines, tmp_path, named, threshold, recipients_of(named), with_change=with_change)

    async def go() -> None:
        async with under_way(day) as task:
            for index in range(threshold):
                day.take(sealed_to(day, day.lost.share(index)))
            with pytest.raises(Corrupt, match="other recipients than its own policy names"):
                await task

    asyncio.run(go())
    assert day.untouched()
    assert day.decisions()[-1] == ("recover", "refused")
    day.close()


def test_a_record_for_recipients_that_its_policy_has_none_of(machines: Machines, tmp_path: Path) -> None:
    day = recovering(machines, tmp_path, [], 1, [age()], with_change=False)

    async def go() -> None:
        async with under_way(day) as task:
            day.take(sealed_to(day, day.lost.share(0)))
            with pytest.raises(Corrupt, match="other recipients"):
                await task

    asyncio.run(go())
    assert day.untouched()
    day.close()


def recovering(
    machines: Machines,
    folder: Path,
    named: list[Recipient],
    threshold: int,
    real: list[Recipient],
    *,
    with_change: bool,
) -> Recovering:
    """The genuine enclave, with a record of a signed domain whose policy names some and which is sealed for others."""
    policy = policy_of(machines.first).text + ADMINS + (recovery_table(2, named) if named else "")
    with made_up(policy) as own:
        change = signed(propose(domain=own.domain, sequence=1, replaces=policy, policy=policy))
        links = appended([], change, admins=THREE)
        keyring = own.changed(policy=policy, changes=links, add=None, now=NOW)
    lost = Lost.of(machines.second, recipients=real, threshold=threshold, keyring=keyring)
    next_one = None
    if with_change:
        # To the very recipients that the record is for: it is judged before anything is changed.
        coming = policy_of(machines.first).text + ADMINS + recovery_table(threshold, real)
        next_one = signed(propose(domain=lost.domain, sequence=2, replaces=policy, policy=coming))
        assert next_one.replaces == digest(policy)
    return Recovering(folder / "victim", lost, admins=THREE, change=next_one)


def signed(change: PolicyChange) -> PolicyChange:
    for name in ("ada", "bob"):
        change = sign(change, key(name))
    return change


def test_the_record_that_its_policy_describes_is_recovered(machines: Machines, tmp_path: Path) -> None:
    named = [age(), age(), age()]
    day = recovering(machines, tmp_path, named, 2, named, with_change=False)

    async def go() -> None:
        async with under_way(day) as task:
            await day.give(0, 2)
            await task

    asyncio.run(go())
    assert day.serves()
    day.close()
