"""Every wrong way to bring a domain back: none does, none takes anything away, and the right way works after it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.attacks.parties import Machines, changed
from tests.fakes.flavours import for_the_other, machine_of, other_than, policy_of
from tests.fakes.keyrings import MEMBER
from tests.fakes.lost import VERIFIERS, Lost, Recovering
from tests.fakes.machines import NOW, expired, loaded, other_signer, revoking_the_processor, unknown_authority
from tests.fakes.recipients import age

from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.attestation.report_data import transcript_hash
from rkeyserver.errors import Corrupt, Reason, Rejected, RkeyError
from rkeyserver.exchange import hpke
from rkeyserver.exchange.attested import Context, vouch
from rkeyserver.exchange.messages import (
    RecoveryContribution,
    RecoveryRequest,
    RecoveryRequestClaims,
    decode,
    encode,
)
from rkeyserver.exchange.recovery import Checked, check_request, contribute
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.sealing import record
from rkeyserver.sealing.recovery import Recovery, encode_slot
from rkeyserver.service.sharing_inline import InlineSharing


@pytest.fixture(scope="module")
def lost(machines: Machines) -> Lost:
    return Lost.of(machines.first)


@pytest.fixture
def day(tmp_path: Path, lost: Lost) -> Iterator[Recovering]:
    made = Recovering(tmp_path / "new", lost)
    yield made
    made.close()


@contextlib.asynccontextmanager
async def under_way(day: Recovering) -> AsyncIterator[asyncio.Task[None]]:
    task = await day.begin()
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, RkeyError):
            await task


@contextlib.contextmanager
def refusing(reason: Reason, says: str | None = None) -> Iterator[None]:
    with pytest.raises(Rejected, match=says) as refused:
        yield
    assert refused.value.reason is reason


def test_the_right_way(day: Recovering) -> None:
    async def check() -> None:
        async with under_way(day) as task:
            await day.give(2, 0)
            await task

    asyncio.run(check())
    assert day.serves()
    assert day.decisions() == [("contribution", "accepted"), ("contribution", "accepted"), ("recover", "accepted")]
    assert list(day.store.kept.values()) == [day.lost.record]


# What a stranger, or a recipient, sends to the instance

Send = Callable[[Recovering, Machines, Path], Awaitable[bytes]]


def sealed_to(day: Recovering, share: bytes, request: bytes | None = None) -> bytes:
    """A contribution by whoever has the request, of anything."""
    request = request or day.request
    ciphertext = hpke.seal(memoryview(share), day.claims().kem_public_key, transcript_hash(request))
    return encode(RecoveryContribution(request_sha512=hashlib.sha512(request).digest(), ciphertext=ciphertext))


async def of_another_domain(day: Recovering, machines: Machines, _path: Path) -> bytes:
    other = Lost.of(machines.second, recipients=day.lost.recipients)
    return sealed_to(day, other.share(0))


async def of_an_older_record(day: Recovering, machines: Machines, _path: Path) -> bytes:
    """The same domain, the same recipient: another seal has other shares."""
    parsed = record.parse(day.lost.record)
    with contextlib.closing(record.unseal(parsed, machines.first)) as secret:
        keyring = Keyring.parse(secret)
        older = Lost.of(machines.first, recipients=day.lost.recipients, keyring=keyring)
    assert older.domain == day.lost.domain
    return sealed_to(day, older.share(0))


async def to_an_earlier_request(day: Recovering, _machines: Machines, path: Path) -> bytes:
    earlier = Recovering(path / "earlier", day.lost)
    async with under_way(earlier):
        contribution = await earlier.contribution(0)
    earlier.close()
    return contribution


async def to_an_earlier_request_renamed(day: Recovering, machines: Machines, path: Path) -> bytes:
    found = decode(await to_an_earlier_request(day, machines, path), RecoveryContribution)
    own = decode(await day.contribution(0), RecoveryContribution)
    return encode(msgspec.structs.replace(found, request_sha512=own.request_sha512))


async def of_a_share_changed(day: Recovering, _machines: Machines, _path: Path) -> bytes:
    return sealed_to(day, day.lost.share(0).replace(b'"index":0', b'"index":1'))


async def of_nothing(day: Recovering, _machines: Machines, _path: Path) -> bytes:
    return sealed_to(day, b"")


async def changed_on_its_way(day: Recovering, _machines: Machines, _path: Path) -> bytes:
    contribution = bytearray(await day.contribution(0))
    contribution[-1] ^= 1
    return bytes(contribution)


async def no_contribution(_day: Recovering, _machines: Machines, _path: Path) -> bytes:
    return b"a share, please"


async def too_long(_day: Recovering, _machines: Machines, _path: Path) -> bytes:
    return bytes(10_000)


WRONG: dict[str, tuple[Send, Reason]] = {
    "a share of another domain": (of_another_domain, Reason.NOT_A_SHARE),
    "a share of an older record": (of_an_older_record, Reason.NOT_A_SHARE),
    "a contribution to an earlier request": (to_an_earlier_request, Reason.NOT_BOUND),
    "the same under this request's name": (to_an_earlier_request_renamed, Reason.NOT_BOUND),
    "a share changed": (of_a_share_changed, Reason.NOT_A_SHARE),
    "no share": (of_nothing, Reason.NOT_A_SHARE),
    "a contribution changed on its way": (changed_on_its_way, Reason.NOT_BOUND),
    "no contribution": (no_contribution, Reason.MALFORMED),
    "more than is read": (too_long, Reason.TOO_LARGE),
}


@pytest.mark.parametrize(("send", "reason"), WRONG.values(), ids=WRONG)
def test_a_wrong_contribution_changes_nothing(
    day: Recovering, machines: Machines, tmp_path: Path, send: Send, reason: Reason
) -> None:
    async def check() -> None:
        async with under_way(day) as task:
            await day.give(1)
            with refusing(reason):
                day.take(await send(day, machines, tmp_path))
            assert day.instance.recovering is not None
            assert day.instance.recovering.progress == {"shares": 1, "threshold": 2}
            assert not task.done()
            assert day.untouched()
            await day.give(0)
            await task

    asyncio.run(check())
    assert day.serves()


def test_one_share_twice_is_one_share(day: Recovering) -> None:
    async def check() -> None:
        async with under_way(day) as task:
            first = await day.contribution(0)
            day.take(first)
            for again in (first, await day.contribution(0)):
                with refusing(Reason.SHARE_GIVEN_TWICE):
                    day.take(again)
            await asyncio.sleep(0.05)
            assert not task.done()
            assert day.untouched()

    asyncio.run(check())
    assert day.decisions() == [("contribution", "accepted")]


def test_one_share_fewer_than_it_takes_opens_nothing(tmp_path: Path, machines: Machines) -> None:
    day = Recovering(tmp_path / "new", Lost.of(machines.first, threshold=3))

    async def check() -> None:
        async with under_way(day) as task:
            await day.give(0, 2)
            await asyncio.sleep(0.05)
            assert not task.done()
            assert day.untouched()

    asyncio.run(check())
    day.close()


# What lies in the keystore


def forged(machines: Machines, domain: str, recipients: list[Any]) -> Lost:
    """A record that anyone can make: a keyring of his own under another domain's name, for that domain's recipients."""
    own = Lost.of(machines.second, recipients=recipients)
    with contextlib.closing(record.unseal(record.parse(own.record), machines.second)) as secret:
        keyring = Keyring.parse(secret)
        contents = record.Contents(domain, keyring.generation_ids, 0, 1, NOW, MEMBER, ())
        recovery = Recovery(2, tuple(one.public for one in recipients), InlineSharing())
        data = record.seal(contents, keyring.view, machines.second, recovery)
    return Lost(data, domain, own.policy, own.root_key, recipients)


def test_a_forged_record_to_the_right_recipients_is_not_served(tmp_path: Path, machines: Machines, lost: Lost) -> None:
    day = Recovering(tmp_path / "new", forged(machines, lost.domain, lost.recipients))

    async def check() -> None:
        async with under_way(day) as task:
            await day.give(0, 1)
            with pytest.raises(Corrupt, match="the keyring in it"):
                await task

    asyncio.run(check())
    assert day.untouched()
    assert day.decisions()[-1] == ("recover", "refused")
    day.close()


def swapped(lost: Lost, machines: Machines) -> bytes:
    """The slot of another record of the same recipients in this one's header."""
    other = record.parse(Lost.of(machines.first, recipients=lost.recipients).record).header.recovery
    own = record.parse(lost.record).header.recovery
    assert own is not None
    assert other is not None
    return lost.record.replace(encode_slot(own), encode_slot(other))


def test_a_record_with_another_s_slot_opens_by_neither_s_shares(tmp_path: Path, machines: Machines, lost: Lost) -> None:
    mixed = swapped(lost, machines)
    day = Recovering(tmp_path / "new", Lost(mixed, lost.domain, lost.policy, lost.root_key, lost.recipients))

    async def check() -> None:
        async with under_way(day) as task:
            with pytest.raises(Rejected, match="no share of set"):
                day.take(sealed_to(day, lost.share(0)))
            # Its own shares name another domain.
            for index in (0, 1):
                day.take(sealed_to(day, day.lost.share(index)))
            with pytest.raises(Corrupt, match="domain is"):
                await task

    asyncio.run(check())
    assert day.untouched()
    day.close()


def without_recovery(lost: Lost, machines: Machines) -> bytes:
    with contextlib.closing(record.unseal(record.parse(lost.record), machines.first)) as secret:
        keyring = Keyring.parse(secret)
        contents = record.Contents(lost.domain, keyring.generation_ids, 0, 1, NOW, MEMBER, ())
        return record.seal(contents, keyring.view, machines.first)


KEYSTORES: dict[str, tuple[Callable[[Lost, Machines], bytes | None], type[RkeyError], str]] = {
    "nothing": (lambda _lost, _machines: None, RkeyError, "The keystore is empty"),
    "no record": (lambda _lost, _machines: b"junk", Corrupt, "no record"),
    "a record without a recovery slot": (without_recovery, Corrupt, "no recovery slot"),
    "a record of another domain": (
        lambda _lost, machines: Lost.of(machines.second).record, Rejected, "--domain asks for"),
}  # fmt: skip


@pytest.mark.parametrize(("lies_there", "kind", "says"), KEYSTORES.values(), ids=KEYSTORES)
def test_what_cannot_be_recovered_is_not_even_asked_for(
    day: Recovering,
    machines: Machines,
    lies_there: Callable[[Lost, Machines], bytes | None],
    kind: type[RkeyError],
    says: str,
) -> None:
    day.store.record = lies_there(day.lost, machines)

    async def check() -> None:
        with pytest.raises(kind, match=says):
            await (await day.begin())

    asyncio.run(check())
    assert day.said == []
    assert day.instance.keyring is None
    assert day.decisions() == [("recover", "refused")]


# Who asks


def request_of(day: Recovering, **changes: object) -> bytes:
    """The request with other claims, vouched for by the same machine."""
    claims = msgspec.structs.replace(day.claims(), **changes)
    return encode(
        RecoveryRequest(attested=vouch(day.platform, Context.RECOVERY_REQUEST, transcript_hash(), encode(claims)))
    )


def check(message: bytes, day: Recovering, **said: Any) -> Checked:
    honest: dict[str, Any] = {
        "domain": day.lost.domain,
        "policy": policy_of(day.platform),
        "verifiers": VERIFIERS,
        "now": NOW,
    }
    return asyncio.run(check_request(message, **(honest | said)))


@pytest.fixture
def message(day: Recovering) -> bytes:
    async def begin() -> bytes:
        async with under_way(day):
            return day.request

    found = asyncio.run(begin())
    day.instance.recovering = None
    return found


def claims_in(message: bytes) -> RecoveryRequestClaims:
    return decode(decode(message, RecoveryRequest).attested.claims, RecoveryRequestClaims)


def named(policy: Policy, *machines: str) -> Policy:
    return changed(policy, machines=list(machines))


def test_an_instance_that_is_not_enrolled_gets_no_share_and_the_line_that_would_enrol_it(
    day: Recovering, message: bytes
) -> None:
    own = day.platform.attester_identity().machine
    with pytest.raises(Rejected) as refused:
        check(message, day, policy=named(policy_of(day.platform), "00" * 16))
    assert refused.value.reason is Reason.MACHINE_NOT_NAMED
    assert f"{day.platform.name} {own}" in refused.value.advice
    assert check(message, day, policy=named(policy_of(day.platform), own)).claims.domain == day.lost.domain


def test_who_recovers_on_one_platform_gives_nothing_to_a_machine_of_the_other(day: Recovering, message: bytes) -> None:
    elsewhere = parse_policy(for_the_other(policy_of(day.platform)))
    with refusing(Reason.PLATFORM_NOT_NAMED):
        check(message, day, policy=elsewhere)
    claims = msgspec.structs.replace(claims_in(message), platform=other_than(day.platform.name))
    attested = decode(message, RecoveryRequest).attested
    renamed = encode(RecoveryRequest(attested=msgspec.structs.replace(attested, claims=encode(claims))))
    with refusing(Reason.NOT_BOUND):
        check(renamed, day, policy=elsewhere)


STRANGERS: dict[str, tuple[dict[str, Any], Reason]] = {
    "another signer": ({"enclave": lambda: loaded(key=other_signer())}, Reason.WRONG_SIGNER),
    "another product": ({"enclave": lambda: loaded(isv_prod_id=2)}, Reason.WRONG_PRODUCT),
    "an older version": ({"enclave": lambda: loaded(isv_svn=0)}, Reason.VERSION_TOO_LOW),
    "a debug enclave": ({"enclave": lambda: loaded(debug=True)}, Reason.DEBUG_ENCLAVE),
    "a TCB out of date": ({"status": "OutOfDate"}, Reason.TCB_STATUS),
    "a revoked processor": ({"collateral": revoking_the_processor}, Reason.NOT_GENUINE),
    "collateral out of date": ({"collateral": expired}, Reason.NOT_GENUINE),
    "a root of its own": ({"authority": unknown_authority}, Reason.NOT_GENUINE),
}


@pytest.mark.parametrize(("differences", "reason"), STRANGERS.values(), ids=STRANGERS)
def test_an_instance_that_is_not_what_it_should_be_gets_no_share(
    tmp_path: Path, day: Recovering, message: bytes, differences: dict[str, Any], reason: Reason
) -> None:
    honest = policy_of(day.platform)
    stranger = Recovering(tmp_path / "stranger", day.lost, differences=differences)

    async def asked() -> bytes:
        async with under_way(stranger):
            return stranger.request

    with refusing(reason):
        check(asyncio.run(asked()), day, policy=honest)
    stranger.close()
    assert check(message, day, policy=honest).age == 0


CHANGES: dict[str, Callable[[RecoveryRequestClaims], dict[str, object]]] = {
    "another one-time key": lambda _claims: {"kem_public_key": hpke.OneTimeKey().public},
    "another time": lambda claims: {"time": claims.time + 1},
    "another slot": lambda claims: {"slot": claims.slot.replace(b'"threshold":2', b'"threshold":1')},
    "another record": lambda _claims: {"record_sha512": bytes(64)},
    "another sequence": lambda claims: {"sequence": claims.sequence + 1},
    "another machine": lambda _claims: {"machine": "00" * 16},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_claims_that_were_changed_are_not_vouched_for(
    day: Recovering, message: bytes, change: Callable[[RecoveryRequestClaims], dict[str, object]]
) -> None:
    claims = claims_in(message)
    attested = decode(message, RecoveryRequest).attested
    changed_claims = encode(msgspec.structs.replace(claims, **change(claims)))
    assert changed_claims != attested.claims
    with refusing(Reason.NOT_BOUND):
        check(encode(RecoveryRequest(attested=msgspec.structs.replace(attested, claims=changed_claims))), day)


@pytest.mark.parametrize("context", [one for one in Context if one is not Context.RECOVERY_REQUEST])
def test_evidence_for_anything_else_is_none_for_a_request(day: Recovering, message: bytes, context: Context) -> None:
    claims = decode(message, RecoveryRequest).attested.claims
    other = encode(RecoveryRequest(attested=vouch(day.platform, context, transcript_hash(), claims)))
    with refusing(Reason.NOT_BOUND):
        check(other, day)


def test_a_machine_cannot_ask_in_another_one_s_name(day: Recovering, message: bytes, machines: Machines) -> None:
    claims = msgspec.structs.replace(claims_in(message), machine=machines.third.attester_identity().machine)
    attested = vouch(day.platform, Context.RECOVERY_REQUEST, transcript_hash(), encode(claims))
    with refusing(Reason.IDENTITY_CHANGED):
        check(encode(RecoveryRequest(attested=attested)), day)


AGES: dict[str, tuple[int, bool]] = {
    "now": (0, True),
    "a day old": (86_400, True),
    "older": (86_401, False),
    "a little ahead": (-300, True),
    "further ahead": (-301, False),
}


@pytest.mark.parametrize(("age_of_it", "good"), AGES.values(), ids=AGES)
def test_a_request_lives_for_a_day(day: Recovering, message: bytes, age_of_it: int, good: bool) -> None:  # noqa: FBT001 - a column of the table
    message = request_of_message(day, message, time=NOW - age_of_it)
    if good:
        assert check(message, day).age == age_of_it
    else:
        with refusing(Reason.REQUEST_EXPIRED):
            check(message, day)


def request_of_message(day: Recovering, message: bytes, **changes: object) -> bytes:
    claims = msgspec.structs.replace(claims_in(message), **changes)
    return encode(
        RecoveryRequest(attested=vouch(day.platform, Context.RECOVERY_REQUEST, transcript_hash(), encode(claims)))
    )


def test_a_request_for_another_domain_than_is_expected_gets_nothing(day: Recovering, message: bytes) -> None:
    with refusing(Reason.ANOTHER_DOMAIN):
        check(message, day, domain="00" * 16)


def test_a_request_of_another_version_is_named(day: Recovering, message: bytes) -> None:
    with refusing(Reason.WRONG_VERSION):
        check(request_of_message(day, message, version=2), day)


def test_a_share_of_another_record_is_not_sealed(day: Recovering, message: bytes, machines: Machines) -> None:
    other = Lost.of(machines.second, recipients=day.lost.recipients)
    checked = check(message, day)
    with refusing(Reason.NOT_A_SHARE):
        contribute(checked, memoryview(other.share(0)))


def test_a_one_time_key_that_is_none_gets_nothing(day: Recovering, message: bytes) -> None:
    checked = check(request_of_message(day, message, kem_public_key=bytes(1216)), day)
    with refusing(Reason.MALFORMED):
        contribute(checked, memoryview(day.lost.share(0)))


def test_a_damaged_request_is_refused_or_says_the_same(day: Recovering, message: bytes) -> None:
    """The endorsements are signed by others, and can be written in more than one way."""
    claims, refused = claims_in(message), 0
    for position in range(0, len(message), 97):
        damaged = bytearray(message)
        damaged[position] ^= 1
        try:
            assert check(bytes(damaged), day).claims == claims
        except Rejected:
            refused += 1
    assert refused > len(message) // 97 // 2


# Whom the domain itself accepts


def test_a_machine_that_the_domain_s_policy_does_not_name_is_not_served_on(tmp_path: Path, machines: Machines) -> None:
    lost = Lost.of(machines.first, policy=lambda policy: named(policy, machines.first.attester_identity().machine))
    day = Recovering(tmp_path / "new", lost)

    async def check_it() -> None:
        async with under_way(day) as task:
            await day.give(0, 1)
            with refusing(Reason.MACHINE_NOT_NAMED, "does not accept this machine"):
                await task

    asyncio.run(check_it())
    assert day.untouched()
    assert day.decisions()[-1] == ("recover", "refused")
    assert len(day.said) == 2, "the request, and the policy that a change has to replace"
    day.close()


def test_shares_of_one_recipient_with_two_keys_are_two(tmp_path: Path, platform: str) -> None:
    """Who holds two recipients' keys counts twice: a threshold counts keys, not people."""
    day = Recovering(tmp_path / "new", Lost.of(machine_of(platform, tmp_path / "lost"), recipients=[age(), age()]))

    async def check_it() -> None:
        async with under_way(day) as task:
            await day.give(0, 1)
            await task

    asyncio.run(check_it())
    assert day.serves()
    day.close()
