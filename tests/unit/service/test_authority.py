"""A change of policy at one instance: judged whole, then recorded, stored and in force; or nothing at all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest
from tests.fakes.claims import NOW
from tests.fakes.keyrings import MEMBER, OTHER_SECRET, generation, id_of
from tests.fakes.platform import FakePlatform
from tests.fakes.scene import PEER as PEER_CLAIMS
from tests.fakes.scene import Scene, is_closed
from tests.fakes.signing import HERE, NEW, PEER, change_of, policy_text

from rkeyserver.appraisal.appraise import Verdict
from rkeyserver.appraisal.change import digest, parse_change
from rkeyserver.appraisal.signatures import Signature
from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected, RkeyError, Unavailable
from rkeyserver.exchange.messages import RequestClaims
from rkeyserver.exchange.primary import Accepted, Proved, Sealed
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.sealed import Owner
from rkeyserver.service.app import grant
from rkeyserver.service.audit import Audit
from rkeyserver.service.audit_line import Line
from rkeyserver.service.authority import Applied, Authority
from rkeyserver.service.members import Members
from rkeyserver.service.steward import Steward

ADMINS = ("alice", "bob", "carol")
NOW_POLICY = policy_text(HERE, PEER, admins=ADMINS, threshold=2)
WIDER = policy_text(HERE, PEER, NEW, admins=ADMINS, threshold=2)
NARROWER = policy_text(HERE, admins=ADMINS, threshold=2)
UNOWNED = policy_text(HERE, PEER)


@dataclass
class Domain:
    """A primary that holds a keyring, and whoever changes its policy."""

    scene: Scene
    policy: str = NOW_POLICY
    authority: Authority = field(init=False)

    def __post_init__(self) -> None:
        self.authority = Authority(Steward(self.scene.instance))
        self.scene.instance.members = Members(MEMBER)
        keyring = self.scene.keyring("a", "b", policy=self.policy, sequence=4)
        self.scene.holds_record_of(keyring)
        self.scene.instance.hold(keyring)

    @property
    def keyring(self) -> Keyring:
        assert self.scene.instance.keyring is not None
        return self.scene.instance.keyring

    def document(self, policy: str = WIDER, *signers: str, **differences: Any) -> bytes:
        return change_of(self.keyring.header, policy, *signers, **differences).text().encode()

    def apply(self, document: bytes, *, owner: bool = False) -> Applied:
        return asyncio.run(self.authority.apply(document, owner=owner))


@pytest.fixture
def domain(scene: Scene) -> Domain:
    return Domain(scene)


# What is applied


def test_a_signed_change_is_recorded_stored_and_then_in_force(domain: Domain) -> None:
    scene, before = domain.scene, domain.keyring
    document = domain.document(WIDER, "alice", "carol")
    seen: list[tuple[list[tuple[str, str]], bool]] = []
    scene.store.before = lambda: seen.append((scene.decisions(), domain.keyring is before))
    done = domain.apply(document)
    assert seen == [([("policy", "accepted")], True)], "on record before it is stored, in force only after"
    assert domain.keyring.header.policy == WIDER
    assert domain.keyring.header.changes == [parse_change(document).link().text()]
    assert domain.keyring.header.sequence == 5
    assert domain.keyring.generation_ids == (generation("a"), generation("b"))
    assert scene.instance.policy is not None
    assert scene.instance.policy.text == WIDER
    assert scene.stored().same_as(domain.keyring)
    assert is_closed(before)
    assert len(scene.store.kept) == 1
    assert done == Applied(domain.keyring.domain, 1, 5, digest(WIDER), [], None)
    (line,) = scene.lines()
    assert (line["domain"], line["sequence"], line["policy"]) == (domain.keyring.domain, 5, digest(WIDER))
    assert line["found"].startswith(f"change 1, replaces {digest(NOW_POLICY)}, by ssh-ed25519 ")
    assert (" alice" in line["found"], " bob" in line["found"], " carol" in line["found"]) == (True, False, True)


def test_what_narrows_adds_a_generation_and_keeps_the_old_ones_readable(domain: Domain) -> None:
    before = domain.keyring.generation_ids
    done = domain.apply(domain.document(NARROWER, "alice", "bob"))
    assert domain.keyring.generation_ids[:2] == before
    assert done.generation == domain.keyring.current.id == domain.keyring.generation_ids[2]
    assert [str(one.state) for one in domain.keyring.header.generations] == ["readable", "readable", "current"]
    assert bytes(domain.keyring.root_key(before[0])) == b"a".ljust(32, b".")
    assert domain.keyring.header.generations[2].created == NOW
    assert done.narrowed == [f"[simulated] machines: machine {PEER} is no longer accepted."]


def test_what_is_taken_from_a_user_is_said_and_adds_no_generation(domain: Domain) -> None:
    entry = '\n[[callers]]\nuid = 1000\nmay = ["derive"]\nlabels = ["db"]\n'
    assert domain.apply(domain.document(WIDER + entry, "alice", "bob")).narrowed == []
    done = domain.apply(domain.document(WIDER, "alice", "bob"))
    assert done.narrowed == ["[callers uid 1000]: may no longer derive for label 'db'."]
    assert done.generation is None
    assert len(domain.keyring.generation_ids) == 2


def test_two_that_narrow_never_add_the_same_generation(domain: Domain) -> None:
    domain.apply(domain.document(NARROWER, "alice", "bob"))
    first = domain.keyring.current.id
    domain.apply(domain.document(policy_text(HERE, admins=ADMINS, threshold=2, min_isv_svn=2), "alice", "bob"))
    assert domain.keyring.current.id not in {first, generation("a"), generation("b")}
    assert len(domain.keyring.generation_ids) == 4
    assert [change.count('"sequence":') for change in domain.keyring.header.changes] == [1, 1]


def test_the_owner_changes_a_policy_without_admins(scene: Scene) -> None:
    domain = Domain(scene, UNOWNED)
    with pytest.raises(Rejected, match="of the admins that it names"):
        domain.apply(domain.document(WIDER), owner=True)  # that their keys work is shown first
    done = domain.apply(domain.document(WIDER, "bob", "carol"), owner=True)
    assert done.change == 1
    assert scene.lines()[0]["found"].endswith(", by the owner")
    assert scene.instance.policy is not None
    assert scene.instance.policy.admins is not None
    with pytest.raises(Rejected, match="0 valid signature"):
        domain.apply(domain.document(NOW_POLICY), owner=True)  # from now on the admins alone


def test_admins_hand_over_to_others_who_have_signed_too(domain: Domain) -> None:
    others = policy_text(HERE, PEER, admins=("dave",))
    with pytest.raises(Rejected, match="0 valid signature"):
        domain.apply(domain.document(others, "alice", "bob"))
    domain.apply(domain.document(others, "alice", "bob", "dave"))
    with pytest.raises(Rejected, match="0 valid signature"):
        domain.apply(domain.document(NOW_POLICY, "alice", "bob"))


# What is not


def _tampered(document: bytes) -> bytes:
    return document.replace(b"min_isv_svn = 1", b"min_isv_svn = 0")


def _signed_thrice_by_one(domain: Domain) -> bytes:
    change = change_of(domain.keyring.header, WIDER, "alice")
    return msgspec.structs.replace(change, signatures=change.signatures * 3).text().encode()


def _with_another_s_signature(domain: Domain) -> bytes:
    change = change_of(domain.keyring.header, WIDER, "alice", "bob")
    alice, bob = change.signatures
    forged = Signature(key=bob.key, signature=alice.signature)
    return msgspec.structs.replace(change, signatures=[alice, forged]).text().encode()


def _for_the_change_after(domain: Domain) -> bytes:
    return domain.document(WIDER, "alice", "bob", sequence=2)


REFUSED: dict[str, tuple[Callable[[Domain], bytes], type[RkeyError], str]] = {
    "nothing": (lambda _domain: b"", Misuse, "misuse"),
    "no change": (lambda _domain: b"{}", Misuse, "misuse"),
    "not canonical": (lambda d: d.document(WIDER, "alice", "bob").replace(b",", b", ", 1), Misuse, "misuse"),
    "a policy that cannot be read": (
        lambda d: msgspec.structs.replace(change_of(d.keyring.header, WIDER), policy="version = 2").text().encode(),
        Misuse,
        "misuse",
    ),
    "of another domain": (
        lambda d: d.document(WIDER, "alice", "bob", domain=id_of(OTHER_SECRET)),
        Rejected,
        "another-domain",
    ),
    "one too far": (_for_the_change_after, Rejected, "not-the-next-change"),
    "for another policy": (
        lambda d: d.document(WIDER, "alice", "bob", replaces=UNOWNED),
        Rejected,
        "not-the-next-change",
    ),
    "unsigned": (lambda d: d.document(WIDER), Rejected, "not-signed"),
    "signed by too few": (lambda d: d.document(WIDER, "alice"), Rejected, "not-signed"),
    "signed by strangers": (lambda d: d.document(WIDER, "mallory", "trudy"), Rejected, "not-signed"),
    "signed by one, three times": (_signed_thrice_by_one, Misuse, "misuse"),
    "one's signature under another's key": (_with_another_s_signature, Rejected, "not-signed"),
    "changed after it was signed": (lambda d: _tampered(d.document(WIDER, "alice", "bob")), Rejected, "not-signed"),
    "one that gives it to unsigned admins": (
        lambda d: d.document(policy_text(HERE, admins=("mallory",)), "mallory"),
        Rejected,
        "not-signed",
    ),
    "one that drops the admins, unsigned": (lambda d: d.document(UNOWNED), Rejected, "not-signed"),
}


@pytest.mark.parametrize("owner", [False, True], ids=["anyone", "the owner"])
@pytest.mark.parametrize(("make", "kind", "reason"), REFUSED.values(), ids=REFUSED)
def test_refused(
    domain: Domain, make: Callable[[Domain], bytes], kind: type[RkeyError], reason: str, *, owner: bool
) -> None:
    document, before, record = make(domain), domain.keyring, domain.scene.store.record
    with pytest.raises(kind):
        domain.apply(document, owner=owner)
    assert domain.keyring is before
    assert not is_closed(before)
    assert (domain.scene.store.record, domain.scene.store.writes) == (record, 0)
    assert domain.scene.lines() == [], "anyone may ask: it is counted, not recorded one by one"
    assert domain.scene.instance.refused == {reason: 1}


def test_nothing_is_to_be_derived_from_a_retired_generation(scene: Scene) -> None:
    token = f'\n[[callers]]\ntoken_sha256 = "{"0a" * 32}"\nmay = ["derive"]\nlabels = ["a"]\n'
    domain = Domain(scene)
    scene.instance.hold(domain.keyring.retired(generation("a")))
    with pytest.raises(
        Misuse, match=f"the CA by which .* from generation {generation('a')}, which was retired"
    ) as raised:
        domain.apply(domain.document(WIDER + token, "alice", "bob"))
    assert 'ca_generation = "current" under [provision]' in raised.value.advice
    domain.apply(domain.document(WIDER + token + '[provision]\nca_generation = "current"\n', "alice", "bob"))


def test_what_was_derived_from_a_retired_one_already_stops_no_other_change(scene: Scene) -> None:
    token = f'\n[[callers]]\ntoken_sha256 = "{"0a" * 32}"\nmay = ["derive"]\nlabels = ["a"]\n'
    domain = Domain(scene, NOW_POLICY + token)
    scene.instance.hold(domain.keyring.retired(generation("a")))
    domain.apply(domain.document(NARROWER + token, "alice", "bob"))


def test_a_change_is_applied_once(domain: Domain) -> None:
    document = domain.document(WIDER, "alice", "bob")
    domain.apply(document)
    record = domain.scene.store.record
    with pytest.raises(Rejected, match=r"is number 1; the next one of this domain is 2\.") as raised:
        domain.apply(document)
    assert raised.value.reason is Reason.NOT_THE_NEXT_CHANGE
    assert domain.scene.store.record == record


def test_one_that_was_signed_for_a_policy_that_came_back_is_not_applied(domain: Domain) -> None:
    stale = domain.document(WIDER, "alice", "bob")
    domain.apply(domain.document(NARROWER, "alice", "bob"))
    domain.apply(domain.document(NOW_POLICY, "alice", "bob"))
    with pytest.raises(Rejected, match="is number 1"):
        domain.apply(stale)


def test_without_admins_a_signature_counts_for_nothing(scene: Scene) -> None:
    domain = Domain(scene, UNOWNED)
    with pytest.raises(Rejected, match="no admins") as raised:
        domain.apply(domain.document(WIDER, "alice", "bob"))
    assert raised.value.reason is Reason.NOT_SIGNED


class Untrusting(FakePlatform):
    trusts_host = False


def test_on_a_platform_that_does_not_trust_its_host_nobody_is_its_owner(scene: Scene) -> None:
    scene.instance.platform = Untrusting()
    domain = Domain(scene, UNOWNED)
    with pytest.raises(Rejected, match="no admins"):
        domain.apply(domain.document(WIDER), owner=True)
    assert scene.store.writes == 0


def test_a_standby_refuses(domain: Domain) -> None:
    domain.scene.instance.members = Members("aa" * 16)
    with pytest.raises(Misuse, match="is a standby") as raised:
        domain.apply(domain.document(WIDER, "alice", "bob"))
    assert "rkeyserver promote" in raised.value.advice
    assert domain.scene.lines() == []


def test_an_instance_without_a_keyring_refuses(domain: Domain) -> None:
    document = domain.document(WIDER, "alice", "bob")
    domain.scene.instance.close()
    with pytest.raises(Unavailable, match="no keyring"):
        domain.apply(document)
    assert domain.scene.store.writes == 0


def test_a_policy_that_refuses_this_very_machine_is_refused_and_that_is_on_record(domain: Domain) -> None:
    domain.scene.granter.refuses_self = Rejected(Reason.MACHINE_NOT_NAMED, "It is not named.")
    before = domain.keyring
    with pytest.raises(Rejected, match=r"does not accept this very machine.*It is not named") as raised:
        domain.apply(domain.document(policy_text(PEER, admins=ADMINS, threshold=2), "alice", "bob"))
    assert raised.value.reason is Reason.MACHINE_NOT_NAMED
    assert domain.keyring is before
    assert domain.scene.store.writes == 0
    (line,) = domain.scene.lines()
    assert (line["event"], line["verdict"], line["reason"]) == ("policy", "refused", "machine-not-named")


def test_a_refused_change_that_is_sent_again_and_again_fills_no_disk(domain: Domain) -> None:
    """By anybody on the machine who has it, with other signatures under it each time."""
    domain.scene.granter.refuses_self = Rejected(Reason.MACHINE_NOT_NAMED, "It is not named.")
    signed = policy_text(PEER, admins=ADMINS, threshold=2)
    for signers in (("alice", "bob"), ("bob", "alice"), ("alice", "bob", "mallory"), ("alice", "bob")):
        with pytest.raises(Rejected, match="does not accept this very machine"):
            domain.apply(domain.document(signed, *signers))
    assert len(domain.scene.lines()) == 1
    with pytest.raises(Rejected, match="does not accept this very machine"):
        domain.apply(domain.document(signed + "# another\n", "alice", "bob"))
    assert len(domain.scene.lines()) == 2


def test_it_is_judged_by_the_new_policy(domain: Domain) -> None:
    domain.apply(domain.document(WIDER, "alice", "bob"))
    assert [policy.text for policy in domain.scene.granter.judged] == [WIDER]


def test_where_this_machine_cannot_be_judged_now_nothing_is_changed(domain: Domain) -> None:
    domain.scene.granter.refuses_self = Unavailable("no evidence now")
    with pytest.raises(Unavailable):
        domain.apply(domain.document(WIDER, "alice", "bob"))
    assert (domain.scene.store.writes, domain.scene.lines()) == (0, [])


def test_what_does_not_fit_a_keyring_is_refused(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    before = domain.keyring
    monkeypatch.setattr("rkeyserver.keyring.keyring.MAX_KEYRING", len(before.view) + 100)
    with pytest.raises(Misuse, match="does not fit"):
        domain.apply(domain.document(WIDER, "alice", "bob"))
    assert domain.keyring is before
    assert domain.scene.lines() == []


# What fails half-way


@dataclass
class Made:
    """Keyrings that were made; what is not held has to be erased."""

    keyrings: list[Keyring] = field(default_factory=list)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    made, changed = Made(), Keyring.changed

    def remembered(keyring: Keyring, **said: Any) -> Keyring:
        made.keyrings.append(changed(keyring, **said))
        return made.keyrings[-1]

    monkeypatch.setattr(Keyring, "changed", remembered)
    return made


FAILURES: dict[str, RkeyError] = {
    "a full disk": Unavailable("No space left on device."),
    "a broken disk": Corrupt("Input/output error."),
    "a file system that is none for it": Misuse("Mount a folder."),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_what_cannot_be_stored_is_not_in_force(domain: Domain, made: Made, failure: RkeyError) -> None:
    before, document = domain.keyring, domain.document(NARROWER, "alice", "bob")
    domain.scene.store.fails = failure
    with pytest.raises(type(failure)):
        domain.apply(document)
    assert domain.keyring is before
    assert not is_closed(before)
    assert domain.scene.instance.policy is not None
    assert domain.scene.instance.policy.text == NOW_POLICY
    assert [is_closed(one) for one in made.keyrings] == [True]
    accepted, refused = domain.scene.lines()
    assert (accepted["verdict"], refused["verdict"]) == ("accepted", "refused")
    assert (refused["reason"], refused["found"]) == (failure.code, failure.message)
    assert (refused["policy"], refused["sequence"]) == (accepted["policy"], accepted["sequence"])
    domain.scene.store.fails = None
    assert domain.apply(document).change == 1, "the same document, once the disk is well"


def test_a_record_that_is_gone_is_not_made_anew(domain: Domain, made: Made) -> None:
    before = domain.keyring
    domain.scene.store.record = None
    with pytest.raises(Unavailable, match="is gone"):
        domain.apply(domain.document(WIDER, "alice", "bob"))
    assert (domain.scene.store.record, domain.scene.store.writes, domain.keyring) == (None, 0, before)
    assert [is_closed(one) for one in made.keyrings] == [True]


def test_what_cannot_be_recorded_is_not_done(domain: Domain, made: Made) -> None:
    before, document = domain.keyring, domain.document(NARROWER, "alice", "bob")
    domain.scene.audit_fails()
    with pytest.raises(Unavailable, match="cannot be written"):
        domain.apply(document)
    assert (domain.keyring, domain.scene.store.writes) == (before, 0)
    assert [is_closed(one) for one in made.keyrings] == [True]


def test_a_platform_that_seals_nothing_now(scene: Scene, made: Made) -> None:
    domain = Domain(scene)
    document, before = domain.document(WIDER, "alice", "bob"), domain.keyring
    scene.instance.platform = replace(scene.platform, fails=Unavailable("no sealing key"))
    with pytest.raises(Unavailable, match="no sealing key"):
        domain.apply(document)
    assert domain.keyring is before
    assert scene.decisions() == [("policy", "accepted"), ("policy", "refused")]
    assert [is_closed(one) for one in made.keyrings] == [True]


# Several at once


def during(domain: Domain, event: str, verdict: str, happens: Callable[[], Awaitable[object]]) -> None:
    """Let something happen right after that line is on disk, before its writer goes on."""
    audit = domain.scene.instance.audit

    class Meddling(Audit):
        async def write(self, line: Line) -> None:
            await audit.write(line)
            if (line.event, line.verdict) == (event, verdict):
                await happens()

    domain.scene.instance.audit = Meddling(audit._fd, audit._path, audit._clock)


def test_of_changes_at_once_one_wins(domain: Domain) -> None:
    documents = [
        domain.document(policy_text(HERE, PEER, f"{number:032x}", admins=ADMINS, threshold=2), "alice", "bob")
        for number in range(8)
    ]

    async def all_at_once() -> list[Applied | BaseException]:
        tasks = [domain.authority.apply(one, owner=False) for one in documents]
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(all_at_once())
    assert [isinstance(one, Applied) for one in found].count(True) == 1
    assert [one.reason for one in found if isinstance(one, Rejected)] == [Reason.NOT_THE_NEXT_CHANGE] * 7
    assert domain.scene.store.writes == 1
    assert domain.scene.decisions() == [("policy", "accepted")]
    assert domain.keyring.header.sequence == 5


def test_a_keyring_that_was_replaced_meanwhile_is_not_overwritten(domain: Domain, made: Made) -> None:
    other = domain.scene.keyring("a", "b", "z", policy=NOW_POLICY, sequence=9)

    async def replaced() -> None:
        domain.scene.instance.hold(other)

    document = domain.document(WIDER, "alice", "bob")
    during(domain, "policy", "accepted", replaced)
    with pytest.raises(Unavailable, match="was replaced"):
        domain.apply(document)
    assert domain.keyring is other
    assert domain.scene.store.writes == 0
    assert [is_closed(one) for one in made.keyrings] == [True]


def test_what_is_cancelled_half_way_is_not_in_force(domain: Domain, made: Made) -> None:
    before, document = domain.keyring, domain.document(WIDER, "alice", "bob")

    async def cancelled() -> None:
        task = asyncio.ensure_future(domain.authority.apply(document, owner=False))

        async def cancel() -> None:
            task.cancel()
            await asyncio.sleep(0)

        during(domain, "policy", "accepted", cancel)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert (domain.keyring, domain.scene.store.writes) == (before, 0)
    assert [is_closed(one) for one in made.keyrings] == [True]
    assert domain.apply(document).change == 1


# A hand-over meanwhile


def granting(domain: Domain, monkeypatch: pytest.MonkeyPatch, given: list[str]) -> Callable[[], Awaitable[bytes]]:
    """A hand-over to a genuine peer that every policy here accepts; `given` gets the policy that went to it."""
    request = RequestClaims(
        nonce=bytes(32),
        kem_public_key=b"",
        credential_mac=b"",
        credential=b"",
        member="dd" * 16,
        address="",
        epoch=0,
        sequence=0,
        digest=b"",
        audit_head=bytes(32),
    )

    async def prove(*_args: object) -> Proved:
        await asyncio.sleep(0)
        return Proved(claims=PEER_CLAIMS, request=request, transcript=bytes(64), now=NOW)

    def appraise(*_args: object) -> Accepted:
        return Accepted(Verdict(claims=PEER_CLAIMS, policy="", at=NOW), request, bytes(64))

    def sealed(accepted: Accepted, keyring: Keyring, _owner: Owner) -> Sealed:
        given.append(keyring.header.policy)
        return Sealed(accepted, bytes(keyring.view[:4]), b"")

    def handed(made: Sealed) -> bytes:
        return made.ciphertext

    for name, fake in (("prove", prove), ("appraise", appraise), ("seal", sealed), ("grant", handed)):
        monkeypatch.setattr(domain.scene.granter, name, fake)

    async def hand_over() -> bytes:
        return await grant(Steward(domain.scene.instance), b"", "there")

    return hand_over


def test_a_hand_over_under_way_gives_nothing_once_the_policy_is_another(
    domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    hand_over = granting(domain, monkeypatch, given)
    document = domain.document(NARROWER, "alice", "bob")

    async def changed() -> None:
        await domain.authority.apply(document, owner=False)

    during(domain, "hand-over", "accepted", changed)

    async def check() -> None:
        with pytest.raises(Unavailable, match="was replaced while this hand-over"):
            await hand_over()

    asyncio.run(check())
    assert given == []
    assert domain.scene.decisions() == [("hand-over", "accepted"), ("policy", "accepted"), ("hand-over", "refused")]
    assert domain.keyring.header.policy == NARROWER


def test_a_hand_over_before_the_change_is_in_force_gives_what_was_held(
    domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    hand_over = granting(domain, monkeypatch, given)

    async def handed() -> None:
        await hand_over()

    document = domain.document(NARROWER, "alice", "bob")
    during(domain, "policy", "accepted", handed)
    domain.apply(document)
    assert given == [NOW_POLICY]
    assert domain.keyring.header.policy == NARROWER


def test_it_is_logged_with_what_it_accepts_less(domain: Domain, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rkeyserver")
    done = domain.apply(domain.document(NARROWER, "alice", "bob"))
    assert f"Policy change 1 of domain {domain.keyring.domain} is in force" in caplog.text
    assert f"machine {PEER} is no longer accepted.), so generation {done.generation} was added" in caplog.text
