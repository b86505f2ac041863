"""How an instance comes to its keyring, with hosts that answer as a test says and a clock that waits for nobody."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import itertools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.fakes.claims import NOW
from tests.fakes.hints import hint_at
from tests.fakes.keyrings import MEMBER, OTHER_SECRET, OWNER, SECRET, generation, id_of
from tests.fakes.loop import run_timeless
from tests.fakes.platform import FakePlatform
from tests.fakes.scene import DEFAULT, OWN, PEER, Scene, is_closed
from tests.fakes.sealer import FakeSealer
from tests.fakes.signing import HERE as THIS
from tests.fakes.signing import admins_table, policy_text
from tests.unit.service.conftest import MakeScene

from rkeyserver.address import Address
from rkeyserver.appraisal.policy import Policy, parse_admins, parse_policy
from rkeyserver.attestation.report_data import report_data, transcript_hash
from rkeyserver.config import Config
from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected, RkeyError, Unavailable
from rkeyserver.exchange.armour import Kind, dearmour
from rkeyserver.exchange.attested import Context
from rkeyserver.exchange.messages import MintStatement, MintStatementClaims, decode
from rkeyserver.exchange.standby import Asking, Received, held_of
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.sealed import seal_keyring
from rkeyserver.service import fetch, join
from rkeyserver.service.adopt import Nothing, Opened, Own, look
from rkeyserver.service.audit_line import Line
from rkeyserver.service.follow import BACKGROUND_DELAY, HINT_SECONDS, Follower
from rkeyserver.service.given import Given
from rkeyserver.service.hints import Hint
from rkeyserver.service.instance import Instance
from rkeyserver.service.join import FIRST_DELAY, FIRST_SECONDS, WAITING_DELAY, start_standby
from rkeyserver.service.members import Members
from rkeyserver.service.start import open_own, start_primary
from rkeyserver.service.steward import Steward

NOTHING_GIVEN = Given(None, None)
DOMAIN, OTHER_DOMAIN = id_of(SECRET), id_of(OTHER_SECRET)
A, B, C = (Address(name, 8888) for name in "abc")
NO_ANSWER = Unavailable("no answer")
REFUSED = Rejected(Reason.REFUSED_BY_PEER, "it refused", advice="look there")

Answer = Received | RkeyError


def first_of(found: list[Address], number: int) -> list[Address]:
    return found[:number]


class Quiet(Follower):
    """One that shows nobody what it holds: that is tested for itself."""

    async def show(self, host: Address) -> None: ...


@dataclass
class Hosts:
    """Hosts that answer by a script; the last answer of each is repeated. asked: when and whom.

    meanwhile: what happens in the world while one is asked.
    """

    scene: Scene
    answers: dict[str, list[Answer]]
    asked: list[tuple[float, str]] = field(default_factory=list)
    policies: list[Policy] = field(default_factory=list)
    jitter: float = 0.5
    meanwhile: Callable[[], object] = lambda: None
    hints: dict[str, list[Hint | None]] = field(default_factory=dict)
    given: Given = NOTHING_GIVEN

    async def fetch(self, host: Address, asking: Asking) -> Received:
        self.asked.append((asyncio.get_running_loop().time(), host.host))
        self.policies.append(asking.policy)
        self.meanwhile()
        script = self.answers[host.host]
        answer = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(answer, RkeyError):
            raise answer
        return answer

    async def hint(self, host: Address) -> Hint | None:
        script = self.hints.get(host.host, [None])
        return script.pop(0) if len(script) > 1 else script[0]

    def asking(self, policy: Policy, held: Keyring | None) -> Asking:
        instance = self.scene.instance
        return Asking(
            attester=self.scene.platform,
            verifiers={},
            policy=policy,
            clock=instance.clock,
            random=bytes,
            instance=bytes(16),
            held=None if held is None else held_of(held),
            admins=None,
            member=MEMBER,
            address="",
            holds=None if held is None else held.place,
            audit_head=lambda: bytes(32),
        )

    def joiner(self, **said: object) -> Follower:
        hosts = tuple(Address(name, 8888) for name in self.answers)
        config = Config(hosts=hosts, **said)  # type: ignore[arg-type]  # a test says it
        return Quiet(
            config,
            self.scene.instance,
            self.given,
            Steward(self.scene.instance),
            self.asking,
            lambda: self.jitter,
            first_of,
        )

    @property
    def times(self) -> list[float]:
        return [round(at, 6) for at, _ in self.asked]


HostsOf = Callable[..., Hosts]


@pytest.fixture
def hosts_of(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> HostsOf:
    """Hosts by name, each with its answer or answers."""

    def make(**answers: Answer | list[Answer]) -> Hosts:
        hosts = Hosts(scene, {name: one if isinstance(one, list) else [one] for name, one in answers.items()})
        monkeypatch.setattr(fetch, "fetch_keyring", hosts.fetch)
        monkeypatch.setattr(fetch, "fetch_hint", hosts.hint)
        return hosts

    return make


def primary(config: Config, instance: Instance, own: Own, given: Given = NOTHING_GIVEN) -> None:
    asyncio.run(start_primary(config, instance, own, given))


async def following(hosts: Hosts) -> None:
    """Follow the hosts for an hour and a half; it never ends by itself."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(hosts.joiner().follow(joined=False), 5400)


def opened(scene: Scene, keyring: Keyring) -> Opened:
    scene.holds_record_of(keyring)
    own = look(scene.store, scene.platform)
    assert isinstance(own, Opened)
    scene.keyrings.append(own.keyring)
    return own


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


# A primary


def test_an_empty_keystore_gets_a_root_key(scene: Scene) -> None:
    recorded: list[tuple[str, str]] = []
    scene.store.before = lambda: recorded.extend(scene.decisions())
    primary(Config(), scene.instance, Nothing())
    keyring = scene.instance.keyring
    assert keyring is not None
    assert scene.stored().same_as(keyring)
    assert recorded == [("mint", "accepted")], "on record before it is stored"
    assert scene.lines()[0]["domain"] == keyring.domain
    assert keyring.header.policy == DEFAULT.text
    assert scene.said == []


def test_every_root_key_is_another(make_scene: MakeScene) -> None:
    domains = set()
    for _ in range(3):
        scene = make_scene()
        primary(Config(), scene.instance, Nothing())
        assert scene.instance.keyring is not None
        domains.add(scene.instance.keyring.domain)
        (scene.folder / "audit.jsonl").unlink()
    assert len(domains) == 3


def test_one_that_cannot_be_sealed_is_none_and_the_next_start_makes_another(scene: Scene) -> None:
    scene.instance.platform = FakePlatform(fails=Unavailable("The processor gives no key now."))
    with pytest.raises(Unavailable, match="gives no key now"):
        primary(Config(), scene.instance, Nothing())
    assert (scene.store.record, scene.instance.keyring) == (None, None)
    assert scene.decisions() == [("mint", "accepted"), ("mint", "refused")]
    scene.instance.platform = scene.platform
    primary(Config(), scene.instance, Nothing())
    assert scene.instance.keyring is not None
    assert scene.lines()[0]["domain"] == scene.lines()[1]["domain"] != scene.instance.keyring.domain


@dataclass(frozen=True)
class HostedPlatform(FakePlatform):
    """One whose host is not trusted. no_evidence: what it raises instead of giving any."""

    no_evidence: RkeyError | None = None

    trusts_host = False

    def evidence(self, report_data: bytes) -> bytes:
        if self.no_evidence is not None:
            raise self.no_evidence
        return super().evidence(report_data)


def hosted(make_scene: MakeScene, **differences: Any) -> tuple[Scene, Config]:
    scene = make_scene(platform=HostedPlatform(**differences))
    return scene, Config(keystore=scene.folder / "rkey.bin")


def test_a_domain_is_stated_before_there_is_one_where_the_host_is_not_trusted(make_scene: MakeScene) -> None:
    scene, config = hosted(make_scene)
    path, before = scene.folder / "rkey.bin.minted", list[bytes]()
    scene.store.before = lambda: before.append(path.read_bytes())
    primary(config, scene.instance, Nothing())
    keyring = scene.instance.keyring
    assert keyring is not None
    assert before == [path.read_bytes()], "it is there when the record is stored"
    attested = decode(dearmour(before[0], Kind.MINT_STATEMENT), MintStatement).attested
    assert decode(attested.claims, MintStatementClaims) == MintStatementClaims(
        version=1,
        platform="simulated",
        machine=THIS,
        domain=keyring.domain,
        generation=keyring.current.id,
        policy_sha256=hashlib.sha256(DEFAULT.text.encode()).digest(),
        time=NOW,
    )
    assert attested.evidence == b"evidence over " + report_data(
        Context.MINT_STATEMENT, transcript_hash(), attested.claims
    )


def test_none_is_made_where_the_host_is_trusted_nor_of_a_domain_that_was_there(make_scene: MakeScene) -> None:
    trusting = make_scene()
    primary(Config(keystore=trusting.folder / "rkey.bin"), trusting.instance, Nothing())
    assert not (trusting.folder / "rkey.bin.minted").exists()
    scene, config = hosted(make_scene)
    primary(config, scene.instance, opened(scene, scene.keyring()))
    assert not (scene.folder / "rkey.bin.minted").exists()


@pytest.mark.parametrize("what", ["no evidence", "a folder in its place", "no folder for it"])
def test_a_domain_that_cannot_be_stated_is_not_made(make_scene: MakeScene, what: str) -> None:
    if what == "no evidence":
        scene, config = hosted(make_scene, no_evidence=Unavailable("The quote gives nothing now."))
        says = "gives nothing now"
    else:
        scene, config = hosted(make_scene)
        says = r"rkey.bin.minted cannot be written: \w+"
        if what == "no folder for it":
            config = Config(keystore=scene.folder / "nowhere" / "rkey.bin")
        else:
            (scene.folder / "rkey.bin.minted").mkdir()
    with pytest.raises(Unavailable, match=says):
        primary(config, scene.instance, Nothing())
    assert (scene.store.record, scene.store.writes, scene.instance.keyring) == (None, 0, None)
    assert scene.decisions() == [("mint", "accepted"), ("mint", "refused")]


def test_a_statement_of_what_could_not_be_stored_is_replaced_by_the_next(make_scene: MakeScene) -> None:
    scene, config = hosted(make_scene)
    scene.instance.platform = HostedPlatform(fails=Unavailable("no key now"))
    with pytest.raises(Unavailable, match="no key now"):
        primary(config, scene.instance, Nothing())
    of_none = config.mint_statement_path.read_bytes()
    scene.instance.platform = scene.platform
    primary(config, scene.instance, Nothing())
    assert config.mint_statement_path.read_bytes() != of_none


def test_no_root_key_is_made_where_the_audit_file_knows_of_one(scene: Scene) -> None:
    primary(Config(), scene.instance, Nothing())
    scene.store.record = None
    with pytest.raises(Corrupt, match="there was a keyring") as raised:
        primary(Config(), scene.instance, Nothing())
    assert '"event":"mint"' in raised.value.message
    assert (scene.store.record, scene.store.writes) == (None, 1)
    assert scene.decisions() == [("mint", "accepted"), ("mint", "refused")]


def test_an_own_record_is_opened_and_not_written_again(scene: Scene) -> None:
    own = opened(scene, scene.keyring("a", "b", sequence=3))
    primary(Config(), scene.instance, own)
    assert scene.instance.keyring is own.keyring
    assert scene.store.writes == 0
    assert scene.decisions() == [("open", "accepted")]
    assert (scene.lines()[0]["domain"], scene.lines()[0]["sequence"]) == (DOMAIN, 3)


def test_the_domain_that_was_asked_for_is_opened(scene: Scene) -> None:
    primary(Config(domain=DOMAIN), scene.instance, opened(scene, scene.keyring()))
    assert scene.instance.keyring is not None


def test_what_is_given_beside_a_record_is_said_not_to_count(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rkeyserver")
    alice, bob = (parse_admins(admins_table([name])) for name in ("alice", "bob"))
    mine = parse_policy(policy_text(THIS, admins=["alice"]))
    cases = [
        (Given(mine, alice), ""),
        (Given(DEFAULT, None), "not by --policy"),
        (Given(None, bob), "has other admins than --admins"),
    ]
    for given, says in cases:
        caplog.clear()
        primary(Config(), scene.instance, opened(scene, scene.keyring(policy=mine.text)), given)
        said = [text for text in caplog.messages if not text.startswith("Opened the record")]
        assert (says in said[0]) if says else said == []
        assert scene.instance.keyring is not None
        assert scene.instance.keyring.header.policy == mine.text


def test_a_new_domain_gets_the_policy_and_the_admins_that_are_given(scene: Scene) -> None:
    given = Given(parse_policy(policy_text(THIS)), parse_admins(admins_table(["alice"])))
    primary(Config(), scene.instance, Nothing(), given)
    assert scene.instance.policy is not None
    assert scene.instance.policy.admins == given.admins
    assert [policy.text for policy in scene.granter.judged] == [scene.instance.policy.text]


def test_a_new_domain_s_policy_has_to_accept_the_machine_that_makes_it(scene: Scene) -> None:
    scene.granter.refuses_self = Rejected(Reason.MACHINE_NOT_NAMED, "It is not named.")
    with pytest.raises(Rejected, match=r"does not accept this very machine.*It is not named"):
        primary(Config(), scene.instance, Nothing(), Given(parse_policy(policy_text(PEER.ppid)), None))
    assert (scene.store.record, scene.instance.keyring) == (None, None)
    assert scene.decisions() == [("mint", "refused")]


def _junk(scene: Scene) -> Own:
    scene.store.record = b"junk"
    return look(scene.store, scene.platform)


def _updated(scene: Scene) -> Own:
    scene.holds_record_of(scene.keyring())
    return look(scene.store, scene.platform.sealer.updated())


STOPPED: dict[str, tuple[Callable[[Scene], Own], str | None, type[RkeyError], tuple[str, str, str]]] = {
    "a root key where a domain was asked for": (
        lambda _scene: Nothing(), DOMAIN, Misuse, ("mint", "misuse", "")),
    "a record of another domain than was asked for": (
        lambda scene: opened(scene, scene.keyring()), OTHER_DOMAIN, Rejected, ("open", "another-domain", DOMAIN)),
    "a record that cannot be read": (_junk, None, Corrupt, ("open", "corrupt", "")),
    "a record that does not open": (_updated, None, Corrupt, ("open", "corrupt", DOMAIN)),
    "a record that does not open, its domain asked for": (_updated, DOMAIN, Corrupt, ("open", "corrupt", DOMAIN)),
}  # fmt: skip


@pytest.mark.parametrize(("own", "domain", "kind", "line"), STOPPED.values(), ids=STOPPED)
def test_a_start_that_is_refused_touches_nothing_and_is_on_record(
    scene: Scene,
    own: Callable[[Scene], Own],
    domain: str | None,
    kind: type[RkeyError],
    line: tuple[str, str, str],
) -> None:
    found = own(scene)
    before = scene.store.record
    with pytest.raises(kind) as raised:
        primary(Config(domain=domain), scene.instance, found)
    assert type(raised.value) is kind
    assert (scene.store.record, scene.store.writes, scene.instance.keyring) == (before, 0, None)
    (only,) = scene.lines()
    assert (only["event"], only["reason"], only.get("domain", "")) == line
    assert only["verdict"] == "refused"
    assert only["found"] == raised.value.message


def test_no_root_key_is_made_that_is_not_on_record(scene: Scene) -> None:
    scene.audit_fails()
    with pytest.raises(Unavailable, match="audit file"):
        primary(Config(), scene.instance, Nothing())
    assert (scene.store.record, scene.instance.keyring) == (None, None)


def test_no_record_is_served_that_was_not_put_on_record(scene: Scene) -> None:
    own = opened(scene, scene.keyring())
    scene.audit_fails()
    with pytest.raises(Unavailable, match="audit file"):
        open_own(Config(), scene.instance, own.keyring)
    assert scene.instance.keyring is None


def test_a_root_key_that_could_not_be_stored_is_not_served(scene: Scene) -> None:
    scene.store.fails = Unavailable("the disk")
    with pytest.raises(Unavailable, match="the disk"):
        primary(Config(), scene.instance, Nothing())
    assert scene.instance.keyring is None


# Asking the hosts once


def test_the_first_host_that_gives_a_keyring_is_the_last_one_asked(scene: Scene, hosts_of: HostsOf) -> None:
    received = scene.received()
    hosts = hosts_of(a=NO_ANSWER, b=received, c=scene.received())
    asyncio.run(hosts.joiner().try_hosts(Nothing()))
    assert [name for _, name in hosts.asked] == ["a", "b"]
    assert scene.instance.keyring is received.keyring
    assert scene.stored().same_as(received.keyring)
    assert scene.said == []


OTHER_DOMAIN_THERE = Rejected(Reason.ANOTHER_DOMAIN, "another domain")
FORK = Rejected(Reason.NOT_AN_EXTENSION, "a fork")
NOT_GENUINE = Rejected(Reason.NOT_GENUINE, "no quote")

# what the hosts say: what counts, and whether they are asked again
SEVERAL: dict[str, tuple[tuple[RkeyError, ...], RkeyError, bool]] = {
    "nobody": ((NO_ANSWER,), NO_ANSWER, True),
    "nobody, and one that refuses": ((NO_ANSWER, REFUSED), NO_ANSWER, True),
    "nobody, and another domain": ((NO_ANSWER, OTHER_DOMAIN_THERE), NO_ANSWER, True),
    "nobody, one that refuses, and a fork": ((NO_ANSWER, REFUSED, FORK), NO_ANSWER, True),
    "one that refuses": ((REFUSED,), REFUSED, True),
    "one that refuses, and another domain": ((REFUSED, OTHER_DOMAIN_THERE), REFUSED, True),
    "one that proves nothing, and a fork": ((NOT_GENUINE, FORK), NOT_GENUINE, True),
    "another domain": ((OTHER_DOMAIN_THERE,), OTHER_DOMAIN_THERE, False),
    "another domain, twice": ((OTHER_DOMAIN_THERE, OTHER_DOMAIN_THERE), OTHER_DOMAIN_THERE, False),
    "a fork": ((FORK,), FORK, False),
}


@pytest.mark.parametrize(("said", "counts", "again"), SEVERAL.values(), ids=SEVERAL)
def test_what_counts_of_several_hosts_is_the_same_in_any_order(
    hosts_of: HostsOf,
    said: tuple[RkeyError, ...],
    counts: RkeyError,
    again: bool,  # noqa: FBT001 - a case
) -> None:
    for order in itertools.permutations(said):
        hosts = hosts_of(**dict(zip("abc", order, strict=False)))

        async def check(hosts: Hosts = hosts) -> None:
            with pytest.raises(type(counts)) as raised:
                await hosts.joiner().until(Nothing(), 10)
            assert raised.value is counts

        run_timeless(check)
        assert hosts.times[-1] == (10.0 if again else 0.0)
        assert len(hosts.asked) == len(order) * len(set(hosts.times)), "each is asked each time"


def test_another_domain_and_a_fork_are_both_certain(scene: Scene, hosts_of: HostsOf) -> None:
    own = opened(scene, scene.keyring("a", "b", sequence=2))
    before = scene.store.record
    hosts = hosts_of(a=scene.received(secret=OTHER_SECRET), b=scene.received("a", "c", sequence=9))

    async def check() -> None:
        with pytest.raises(Rejected, match="no extension"):
            await hosts.joiner().until(own, 30)

    run_timeless(check)
    assert hosts.times == [0.0, 0.0]
    assert (scene.store.record, scene.store.writes) == (before, 0)
    assert [line["reason"] for line in scene.lines()] == ["another-domain", "not-an-extension"]


HERE: dict[str, RkeyError] = {"corrupt": Corrupt("a folder is there"), "misuse": Misuse("a file mounted by itself")}


@pytest.mark.parametrize("error", HERE.values(), ids=HERE)
def test_what_is_wrong_here_is_told_at_once_whoever_else_could_be_asked(
    scene: Scene, hosts_of: HostsOf, error: RkeyError
) -> None:
    received = scene.received()
    hosts = hosts_of(a=NO_ANSWER, b=received, c=scene.received())

    def fail() -> None:
        raise error

    scene.store.before = fail

    async def check() -> None:
        with pytest.raises(type(error)) as raised:
            await hosts.joiner().until(Nothing(), 30)
        assert raised.value is error

    run_timeless(check)
    assert [name for _, name in hosts.asked] == ["a", "b"]
    assert is_closed(received.keyring)


def test_where_no_host_gives_one_the_last_error_is_told_and_each_is_logged(
    scene: Scene, hosts_of: HostsOf, caplog: pytest.LogCaptureFixture
) -> None:
    hosts = hosts_of(a=Unavailable("a is off"), b=REFUSED, c=Unavailable("c is off"))
    with pytest.raises(Unavailable, match="c is off"):
        asyncio.run(hosts.joiner().try_hosts(Nothing()))
    line = f"simulated {scene.platform.sealer.machine}"
    command = f'rkeyserver policy admit "{line}"'
    admit = f"it refused look there This machine is: {line} (to admit it, at the primary: {command})."
    assert warnings(caplog) == ["a is off", admit, "c is off"]
    assert (scene.store.record, scene.instance.keyring) == (None, None)


def test_a_refusal_by_a_host_is_on_record_and_silence_is_not(scene: Scene, hosts_of: HostsOf) -> None:
    hosts = hosts_of(a=NO_ANSWER, b=REFUSED, c=Rejected(Reason.NOT_GENUINE, "no quote"))
    with pytest.raises(Unavailable):
        asyncio.run(hosts.joiner().try_hosts(Nothing()))
    assert [(line["event"], line["verdict"], line["reason"], line["found"]) for line in scene.lines()] == [
        ("join", "refused", "refused-by-peer", "b:8888: it refused"),
        ("join", "refused", "not-genuine", "c:8888: no quote"),
    ]


def test_a_host_is_judged_by_the_own_keyring_s_policy_or_else_by_the_default(scene: Scene, hosts_of: HostsOf) -> None:
    text = DEFAULT.text + "# the domain's own\n"
    hosts = hosts_of(a=NO_ANSWER)
    for own in (Nothing(), opened(scene, scene.keyring(policy=text)), _junk(scene)):
        with pytest.raises(Unavailable):
            asyncio.run(hosts.joiner().try_hosts(own))
    assert [policy.text for policy in hosts.policies] == [DEFAULT.text, text, DEFAULT.text]


def test_an_unchanged_keyring_leaves_no_copy(scene: Scene, hosts_of: HostsOf) -> None:
    own = opened(scene, scene.keyring())
    asyncio.run(hosts_of(a=scene.received()).joiner().try_hosts(own))
    assert scene.store.kept == {}
    assert scene.decisions() == [("join", "accepted")]


def test_an_extension_replaces_and_what_it_replaces_is_kept(scene: Scene, hosts_of: HostsOf) -> None:
    own = opened(scene, scene.keyring("a"))
    before = scene.store.record
    received = scene.received("a", "b", sequence=2)
    asyncio.run(hosts_of(a=received).joiner().try_hosts(own))
    assert scene.store.kept == {f"domain-{DOMAIN}.epoch-0.sequence-1": before}
    assert scene.instance.keyring is received.keyring


BEHIND: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "an earlier sequence": ({"sequence": 3}, {"sequence": 2}),
    "an earlier epoch": ({"epoch": 1, "sequence": 1}, {"sequence": 5}),
}


@pytest.mark.parametrize(("mine", "theirs"), BEHIND.values(), ids=BEHIND)
def test_a_host_that_is_behind_is_told_of_and_the_own_record_is_served(
    scene: Scene,
    hosts_of: HostsOf,
    caplog: pytest.LogCaptureFixture,
    mine: dict[str, object],
    theirs: dict[str, object],
) -> None:
    own = opened(scene, scene.keyring("a", **mine))
    received = scene.received("a", **theirs)
    hosts = hosts_of(a=received, b=scene.received())
    asyncio.run(hosts.joiner().try_hosts(own))
    assert scene.instance.keyring is own.keyring
    assert not is_closed(own.keyring)
    assert is_closed(received.keyring)
    assert scene.store.writes == 0
    assert "a:8888 is behind" in warnings(caplog)[0]
    assert len(hosts.asked) == 1


def test_a_host_that_lost_a_generation_is_behind(scene: Scene, hosts_of: HostsOf) -> None:
    own = opened(scene, scene.keyring("a", "b", sequence=2))
    asyncio.run(hosts_of(a=scene.received("a")).joiner().try_hosts(own))
    assert scene.instance.keyring is own.keyring


def test_a_fork_is_refused_on_record_and_the_next_host_is_asked(
    scene: Scene, hosts_of: HostsOf, caplog: pytest.LogCaptureFixture
) -> None:
    own = opened(scene, scene.keyring("a", "b", sequence=2))
    before = scene.store.record
    fork, better = scene.received("a", "c", sequence=9), scene.received("a", "b", "c", sequence=3)
    asyncio.run(hosts_of(a=fork, b=better).joiner().try_hosts(own))
    assert is_closed(fork.keyring)
    assert scene.instance.keyring is better.keyring
    assert list(scene.store.kept.values()) == [before]
    assert scene.decisions() == [("join", "refused"), ("join", "accepted")]
    line = scene.lines()[0]
    assert (line["reason"], line["peer"]["address"], line["peer"]["machine"]) == (
        "not-an-extension",
        "a:8888",
        PEER.ppid,
    )
    assert "no extension" in warnings(caplog)[0]


def test_another_domain_is_refused_with_both_ids_and_the_record_stays(scene: Scene, hosts_of: HostsOf) -> None:
    own = opened(scene, scene.keyring())
    before = scene.store.record
    other = scene.received(secret=OTHER_SECRET)
    with pytest.raises(Rejected) as raised:
        asyncio.run(hosts_of(a=other).joiner().try_hosts(own))
    assert raised.value.reason is Reason.ANOTHER_DOMAIN
    assert DOMAIN in raised.value.message
    assert OTHER_DOMAIN in raised.value.message
    assert (scene.store.record, scene.store.kept, scene.instance.keyring) == (before, {}, None)
    assert is_closed(other.keyring)
    assert not is_closed(own.keyring)
    assert (scene.lines()[0]["domain"], scene.lines()[0]["reason"]) == (OTHER_DOMAIN, "another-domain")


def test_another_domain_is_adopted_where_it_was_asked_for(scene: Scene, hosts_of: HostsOf) -> None:
    own = opened(scene, scene.keyring())
    before = scene.store.record
    other = scene.received(secret=OTHER_SECRET)
    asyncio.run(hosts_of(a=other).joiner(domain=OTHER_DOMAIN).try_hosts(own))
    assert scene.instance.keyring is other.keyring
    assert scene.store.kept == {f"domain-{DOMAIN}.epoch-0.sequence-1": before}


def test_a_host_with_another_domain_than_was_asked_for_is_passed_over(scene: Scene, hosts_of: HostsOf) -> None:
    right = scene.received()
    hosts = hosts_of(a=scene.received(secret=OTHER_SECRET), b=right)
    asyncio.run(hosts.joiner(domain=DOMAIN).try_hosts(Nothing()))
    assert scene.instance.keyring is right.keyring


def test_a_record_that_does_not_open_is_kept_beside_the_one_received(scene: Scene, hosts_of: HostsOf) -> None:
    own = _updated(scene)
    before = scene.store.record
    received = scene.received()
    asyncio.run(hosts_of(a=received).joiner().try_hosts(own))
    assert scene.store.kept == {f"domain-{DOMAIN}.epoch-0.sequence-1": before}
    assert scene.instance.keyring is received.keyring


def test_what_cannot_be_recorded_is_not_adopted(scene: Scene, hosts_of: HostsOf) -> None:
    received = scene.received()
    scene.audit_fails()
    with pytest.raises(Unavailable, match="audit file"):
        asyncio.run(hosts_of(a=received).joiner().try_hosts(Nothing()))
    assert (scene.store.record, scene.instance.keyring) == (None, None)
    assert is_closed(received.keyring)


def test_what_cannot_be_stored_is_not_adopted_and_not_left_open(scene: Scene, hosts_of: HostsOf) -> None:
    received = scene.received()
    scene.store.fails = Unavailable("the disk")
    with pytest.raises(Unavailable, match="the disk"):
        asyncio.run(hosts_of(a=received).joiner().try_hosts(Nothing()))
    assert scene.instance.keyring is None
    assert is_closed(received.keyring)


def test_without_a_host_there_is_nothing_to_adopt(hosts_of: HostsOf) -> None:
    with pytest.raises(Unavailable, match="No host was given"):
        asyncio.run(hosts_of().joiner().try_hosts(Nothing()))


# A record that changes meanwhile


def test_a_record_that_came_while_a_host_was_asked_is_left_as_it_is(scene: Scene, hosts_of: HostsOf) -> None:
    received = scene.received("a", "b", sequence=2)
    hosts = hosts_of(a=received)
    restored = scene.keyring()
    hosts.meanwhile = lambda: scene.holds_record_of(restored)
    with pytest.raises(Unavailable, match="was changed while the host was asked"):
        asyncio.run(hosts.joiner().try_hosts(Nothing()))
    assert scene.stored().same_as(restored)
    assert (scene.store.writes, scene.instance.keyring) == (0, None)
    assert is_closed(received.keyring)


def test_a_record_that_came_meanwhile_is_looked_at_before_the_next_asking(scene: Scene, hosts_of: HostsOf) -> None:
    fork = scene.received("a", "c", sequence=9)
    hosts = hosts_of(a=[NO_ANSWER, fork])
    restored = scene.keyring("a", "b", sequence=2)
    record = seal_keyring(restored, scene.platform, OWNER, now=0)

    def put() -> None:
        scene.store.record = record

    hosts.meanwhile = put

    async def check() -> None:
        with pytest.raises(Rejected, match="no extension"):
            await hosts.joiner().until(Nothing(), 3)

    run_timeless(check)
    assert scene.stored().same_as(restored)
    assert (scene.store.writes, scene.instance.keyring) == (0, None)
    assert scene.lines()[0]["reason"] == "not-an-extension"


def test_another_machine_s_record_that_came_meanwhile_ends_the_asking(scene: Scene, hosts_of: HostsOf) -> None:
    foreign = FakePlatform(sealer=FakeSealer(platform="simulated", machine="c3" * 16))
    hosts = hosts_of(a=[NO_ANSWER, scene.received()])
    record = seal_keyring(scene.keyring(), foreign, OWNER, now=0)

    def put() -> None:
        scene.store.record = record

    hosts.meanwhile = put

    async def check() -> None:
        with pytest.raises(Corrupt, match="sealed by machine"):
            await hosts.joiner().until(Nothing(), 30)

    run_timeless(check)
    assert hosts.times == [0.0]
    assert (scene.store.record, scene.store.writes) == (record, 0)


def test_a_record_of_another_domain_that_came_meanwhile_stays(scene: Scene, hosts_of: HostsOf) -> None:
    keyring = scene.keyring()
    scene.instance.hold(keyring)
    restored = scene.holds_record_of(scene.keyring(secret=OTHER_SECRET))
    hosts = hosts_of(a=[scene.received("a", "b", sequence=2), NO_ANSWER])

    async def check() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(hosts.joiner().follow(joined=False), 100)

    run_timeless(check)
    assert (scene.store.record, scene.store.writes) == (restored, 0)
    assert scene.instance.keyring is keyring
    assert not is_closed(keyring)


def test_a_record_that_is_gone_is_written_again_by_the_next_that_comes(scene: Scene, hosts_of: HostsOf) -> None:
    scene.instance.hold(scene.keyring())
    later = scene.received("a", "b", sequence=2)
    hosts = hosts_of(a=later)

    async def check() -> None:
        await following(hosts)

    run_timeless(check)
    assert scene.stored().same_as(later.keyring)


# Asking for so long


def expected_times(seconds: float, factor: float) -> list[float]:
    times, delay = [0.0], FIRST_DELAY
    while times[-1] < seconds:
        times.append(min(times[-1] + delay * factor, seconds))
        delay = min(2 * delay, WAITING_DELAY)
    return [round(at, 6) for at in times]


@pytest.mark.parametrize("jitter", [0.0, 0.5, math.nextafter(1.0, 0.0)])
@pytest.mark.parametrize("seconds", [0.0, 0.1, 1.0, 30.0])
def test_it_asks_again_with_growing_jittered_pauses_until_the_time_is_over(
    hosts_of: HostsOf, jitter: float, seconds: float
) -> None:
    hosts = hosts_of(a=NO_ANSWER)
    hosts.jitter = jitter

    async def check() -> None:
        with pytest.raises(Unavailable, match="no answer"):
            await hosts.joiner().until(Nothing(), seconds)

    run_timeless(check)
    assert hosts.times == pytest.approx(expected_times(seconds, 0.5 + jitter))
    assert hosts.times[-1] == seconds


def test_refusals_too_are_tried_again(scene: Scene, hosts_of: HostsOf) -> None:
    received = scene.received()
    hosts = hosts_of(a=[NO_ANSWER, REFUSED, REFUSED, received])

    async def check() -> None:
        await hosts.joiner().until(Nothing(), 30)

    run_timeless(check)
    assert len(hosts.asked) == 4
    assert scene.instance.keyring is received.keyring


def test_what_a_person_has_to_look_at_is_not_tried_again(scene: Scene, hosts_of: HostsOf) -> None:
    hosts = hosts_of(a=scene.received())
    own = _junk(scene)

    async def check() -> None:
        with pytest.raises(Corrupt, match="cannot be told"):
            await hosts.joiner().until(own, 30)

    run_timeless(check)
    assert hosts.times == [0.0]
    assert scene.store.record == b"junk"


# Asking in the background


def test_it_asks_on_with_pauses_that_grow_to_a_limit_and_never_ends_by_itself(
    scene: Scene, hosts_of: HostsOf, caplog: pytest.LogCaptureFixture
) -> None:
    keyring = scene.keyring()
    scene.holds_record_of(keyring)
    scene.instance.hold(keyring)
    later = scene.received("a", "b", sequence=2)
    hosts = hosts_of(a=[NO_ANSWER] * 9 + [REFUSED, later])

    async def check() -> None:
        await following(hosts)

    run_timeless(check)
    pauses = [after - before for before, after in zip([0.0, *hosts.times], hosts.times, strict=False)]
    assert pauses == pytest.approx([5, 10, 20, 40, 80, 160, 300, 300, 300, 300, 300])
    assert max(pauses) == BACKGROUND_DELAY
    assert scene.instance.keyring is later.keyring
    assert is_closed(keyring)
    assert any("about 300 seconds" in text for text in warnings(caplog))


@pytest.mark.parametrize(("jitter", "pause"), [(0.0, 2.5), (math.nextafter(1.0, 0.0), 7.5)])
def test_the_pauses_are_jittered(scene: Scene, hosts_of: HostsOf, jitter: float, pause: float) -> None:
    scene.instance.hold(scene.keyring())
    hosts = hosts_of(a=scene.received("a", "b", sequence=2))
    hosts.jitter = jitter

    async def check() -> None:
        await following(hosts)

    run_timeless(check)
    assert hosts.times == pytest.approx([pause])


def test_a_keystore_that_cannot_be_read_now_does_not_end_it(scene: Scene, hosts_of: HostsOf) -> None:
    scene.instance.hold(scene.keyring())
    scene.store.fails = Corrupt("the disk")
    hosts = hosts_of(a=scene.received("a", "b", sequence=2))

    async def check() -> None:
        task = asyncio.ensure_future(following(hosts))
        await asyncio.sleep(40)
        assert scene.store.writes == 0
        scene.store.fails = None
        await task

    run_timeless(check)
    assert scene.store.writes == 1


def test_a_fork_found_in_the_background_leaves_what_is_served(scene: Scene, hosts_of: HostsOf) -> None:
    keyring = scene.keyring("a", "b", sequence=2)
    scene.instance.hold(keyring)
    fork = scene.received("a", "c", sequence=3)
    hosts = hosts_of(a=[fork, NO_ANSWER])

    async def check() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(hosts.joiner().follow(joined=False), 100)

    run_timeless(check)
    assert scene.instance.keyring is keyring
    assert not is_closed(keyring)
    assert is_closed(fork.keyring)


def test_it_ends_where_there_is_nothing_to_serve(hosts_of: HostsOf) -> None:
    hosts = hosts_of(a=NO_ANSWER)

    async def check() -> None:
        await following(hosts)

    run_timeless(check)
    assert hosts.asked == []


# What hosts hint at


def hint(sequence: int, *, epoch: int = 0, domain: str = DOMAIN) -> Hint:
    return hint_at(sequence, epoch=epoch, domain=domain)


def follow(hosts: Hosts, seconds: float = 5400) -> None:
    """Follow hosts of which one has answered already."""

    async def check() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hosts.joiner().follow(joined=True), seconds)

    run_timeless(check)


def held(scene: Scene, *names: str, sequence: int = 1) -> Keyring:
    keyring = scene.keyring(*names, sequence=sequence)
    scene.holds_record_of(keyring)
    scene.instance.hold(keyring)
    return keyring


DULL: dict[str, Hint | None] = {
    "nothing": None,
    "the same state": hint(1),
    "an older epoch": hint(1, epoch=0),
    "another domain's later state": hint(9, domain=OTHER_DOMAIN),
}


@pytest.mark.parametrize("said", DULL.values(), ids=DULL)
def test_no_host_is_asked_for_what_is_no_later_state(scene: Scene, hosts_of: HostsOf, said: Hint | None) -> None:
    held(scene)
    hosts = hosts_of(a=scene.received("a", "b", sequence=2))
    hosts.hints = {"a": [said]}
    follow(hosts)
    assert hosts.asked == []


def test_the_host_that_hints_is_asked_first_and_within_seconds(scene: Scene, hosts_of: HostsOf) -> None:
    held(scene)
    later = scene.received("a", "b", sequence=2)
    hosts = hosts_of(a=NO_ANSWER, b=later)
    hosts.hints = {"b": [hint(2)]}
    follow(hosts)
    assert hosts.asked == [(HINT_SECONDS, "b")]
    assert scene.instance.keyring is later.keyring
    assert scene.stored().same_as(later.keyring)


LIES: dict[str, Callable[[int], Hint]] = {
    "one lie for ever": lambda _number: hint(2**40),
    "another each time": lambda number: hint(2 + number),
    "a later epoch": lambda number: hint(1, epoch=number),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_hints_that_come_to_nothing_are_followed_ever_more_seldom(
    scene: Scene, hosts_of: HostsOf, lie: Callable[[int], Hint]
) -> None:
    keyring = held(scene)
    hosts = hosts_of(a=[scene.received() for _ in range(40)])
    hosts.hints = {"a": [lie(number) for number in range(1, 5000)]}
    follow(hosts)
    pauses = [after - before for before, after in zip(hosts.times, hosts.times[1:], strict=False)]
    assert len(hosts.asked) < 30, "in an hour and a half"
    assert pauses[:5] == pytest.approx([3, 6, 12, 24, 48])
    assert max(pauses) < BACKGROUND_DELAY + 2 * HINT_SECONDS
    assert scene.instance.keyring is keyring
    assert scene.store.writes <= 1, "that the host is a member is written once"
    assert scene.decisions() == []
    assert scene.said == []


def test_a_liar_keeps_nobody_from_being_believed(scene: Scene, hosts_of: HostsOf) -> None:
    held(scene)
    later = scene.received("a", "b", sequence=2)
    hosts = hosts_of(a=[scene.received() for _ in range(40)], b=later)
    hosts.hints = {"a": [hint(2**40)], "b": [*[hint(1)] * 100, hint(2)]}
    follow(hosts, 600)
    assert scene.instance.keyring is later.keyring


def test_a_hint_that_could_not_be_kept_at_once_is_followed_again(scene: Scene, hosts_of: HostsOf) -> None:
    held(scene)
    later = scene.received("a", "b", sequence=2)
    hosts = hosts_of(a=[NO_ANSWER, NO_ANSWER, later], b=[scene.received() for _ in range(9)])
    hosts.hints = {"a": [hint(2)]}
    follow(hosts, 60)
    assert scene.instance.keyring is later.keyring, "though another host has answered meanwhile"


def test_a_host_that_keeps_its_word_is_believed_as_before(scene: Scene, hosts_of: HostsOf) -> None:
    held(scene)
    hosts = hosts_of(
        a=[
            scene.received(),
            scene.received("a", "b", sequence=2),
            scene.received("a", "b", sequence=3),
        ]
    )
    hosts.hints = {"a": [hint(2), hint(2), hint(3)]}
    follow(hosts, 60)
    assert hosts.times == pytest.approx([3, 6, 9])


def test_a_host_that_hinted_and_has_the_same_counts_as_a_way_back(scene: Scene, hosts_of: HostsOf) -> None:
    held(scene)
    hosts = hosts_of(a=scene.received())
    hosts.hints = {"a": [hint(2), None]}
    follow(hosts, 60)
    assert hosts.times == [HINT_SECONDS]
    assert scene.instance.hosts == {PEER.ppid}
    assert scene.store.writes == 1, "that the host is a member"


# A standby's start


def started(hosts: Hosts, joined: list[bool] | None = None, **said: object) -> None:
    """Run start_standby(); what it returns goes into `joined`."""

    async def check() -> None:
        joiner = hosts.joiner(**said)
        found = await start_standby(joiner.config, hosts.scene.instance, joiner)
        if joined is not None:
            joined.append(found)

    run_timeless(check)


def test_without_a_record_it_asks_for_as_long_as_it_was_told(scene: Scene, hosts_of: HostsOf) -> None:
    hosts = hosts_of(a=NO_ANSWER, b=REFUSED)
    with pytest.raises(Unavailable, match="no answer"):
        started(hosts, wait=2.0)
    asked = [name for _, name in hosts.asked]
    # Each in every round; the first is asked last once it has not answered.
    assert asked[:2] == ["a", "b"]
    assert all(set(pair) == {"a", "b"} for pair in zip(asked[::2], asked[1::2], strict=True))
    assert hosts.times[-1] == 2.0
    assert (scene.store.record, scene.instance.keyring) == (None, None), "never minted by accident"


def test_without_a_record_it_serves_what_it_received(scene: Scene, hosts_of: HostsOf) -> None:
    joined: list[bool] = []
    received = scene.received()
    started(hosts_of(a=[NO_ANSWER, received]), joined)
    assert joined == [True]
    assert scene.instance.keyring is received.keyring


SILENT: dict[str, Answer] = {"no answer": NO_ANSWER, "a refusal": REFUSED}


@pytest.mark.parametrize("answer", SILENT.values(), ids=SILENT)
def test_with_a_record_it_serves_at_once_and_asks_on(
    scene: Scene, hosts_of: HostsOf, caplog: pytest.LogCaptureFixture, answer: Answer
) -> None:
    keyring = scene.keyring()
    before = scene.holds_record_of(keyring)
    joined: list[bool] = []
    hosts = hosts_of(a=answer)
    started(hosts, joined)
    assert joined == [False]
    assert hosts.times == [0.0]
    assert scene.instance.keyring is not None
    assert scene.instance.keyring.same_as(keyring)
    assert scene.store.record == before
    assert scene.decisions()[-1] == ("open", "accepted")
    assert "serving from the own record" in warnings(caplog)[-1]


def test_with_a_record_hosts_that_hang_do_not_keep_it_from_being_served(
    scene: Scene, hosts_of: HostsOf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keyring = scene.keyring()
    scene.holds_record_of(keyring)
    hosts = hosts_of(a=NO_ANSWER, b=NO_ANSWER)

    async def hang(host: Address, asking: Asking) -> Received:
        with contextlib.suppress(RkeyError):
            await hosts.fetch(host, asking)
        await asyncio.sleep(20)
        raise NO_ANSWER

    monkeypatch.setattr(fetch, "fetch_keyring", hang)

    async def check() -> None:
        joiner = hosts.joiner()
        assert not await start_standby(joiner.config, scene.instance, joiner)
        assert asyncio.get_running_loop().time() == pytest.approx(FIRST_SECONDS)

    run_timeless(check)
    assert hosts.asked == [(0.0, "a")]
    assert scene.instance.keyring is not None
    assert scene.instance.keyring.same_as(keyring)
    assert "no answer in time" in warnings(caplog)[-1]


def test_another_domain_at_the_host_leaves_the_own_record_served(scene: Scene, hosts_of: HostsOf) -> None:
    scene.holds_record_of(scene.keyring())
    joined: list[bool] = []
    started(hosts_of(a=scene.received(secret=OTHER_SECRET)), joined)
    assert joined == [False]
    assert scene.instance.keyring is not None
    assert scene.instance.keyring.domain == DOMAIN
    assert scene.decisions() == [("join", "refused"), ("open", "accepted")]


def test_a_domain_that_was_made_by_mistake_is_replaced_by_the_one_that_is_asked_for(
    scene: Scene, hosts_of: HostsOf
) -> None:
    scene.instance.members = Members(MEMBER)
    own = scene.keyring(primary=MEMBER)
    before = scene.holds_record_of(own)
    scene.instance.members = Members("ab" * 16)
    joined: list[bool] = []
    started(hosts_of(a=scene.received(secret=OTHER_SECRET)), joined, domain=OTHER_DOMAIN)
    assert joined == [True]
    assert scene.instance.keyring is not None
    assert scene.instance.keyring.domain == OTHER_DOMAIN
    assert scene.store.kept == {f"domain-{DOMAIN}.epoch-0.sequence-1": before}
    assert scene.instance.members.own == "ab" * 16, "in the other domain it is another member"


def test_with_a_record_and_a_host_that_answers_nothing_is_asked_again(scene: Scene, hosts_of: HostsOf) -> None:
    scene.holds_record_of(scene.keyring())
    joined: list[bool] = []
    started(hosts_of(a=scene.received("a", "b", sequence=2)), joined)
    assert joined == [True]
    assert scene.instance.keyring is not None
    assert len(scene.instance.keyring.generation_ids) == 2


def test_once_fetches_and_does_not_fall_back_on_the_record(scene: Scene, hosts_of: HostsOf) -> None:
    before = scene.holds_record_of(scene.keyring())
    with pytest.raises(Unavailable, match="no answer"):
        started(hosts_of(a=NO_ANSWER), once=True, wait=1.0)
    assert (scene.store.record, scene.instance.keyring) == (before, None)


def test_a_record_of_another_domain_than_was_asked_for_is_not_served(scene: Scene, hosts_of: HostsOf) -> None:
    before = scene.holds_record_of(scene.keyring())
    with pytest.raises(Unavailable, match="no answer"):
        started(hosts_of(a=NO_ANSWER), domain=OTHER_DOMAIN, wait=1.0)
    assert (scene.store.record, scene.instance.keyring) == (before, None)


def test_a_record_that_does_not_open_is_not_served_but_replaced(scene: Scene, hosts_of: HostsOf) -> None:
    _updated(scene)
    scene.platform = FakePlatform(sealer=scene.platform.sealer.updated())
    scene.instance.platform = scene.platform
    received = scene.received("a", "b", sequence=2)
    started(hosts_of(a=[NO_ANSWER, received]))
    assert scene.instance.keyring is received.keyring
    assert len(scene.store.kept) == 1


FOREIGN: dict[str, FakeSealer] = {
    "of another machine": FakeSealer(platform="simulated", machine="c3" * 16),
    "of another platform": FakeSealer(platform="sgx", machine="a1" * 16),
}


@pytest.mark.parametrize("sealer", FOREIGN.values(), ids=FOREIGN)
def test_no_host_is_asked_where_the_record_is_another_machine_s(
    scene: Scene, hosts_of: HostsOf, sealer: FakeSealer
) -> None:
    before = Scene.holds_record_of(scene, scene.keyring())
    scene.instance.platform = FakePlatform(sealer=sealer)
    hosts = hosts_of(a=scene.received())
    with pytest.raises(Corrupt):
        started(hosts, domain=DOMAIN)
    assert hosts.asked == []
    assert (scene.store.record, scene.store.writes) == (before, 0)
    assert scene.decisions() == [("open", "refused")]


def test_no_host_is_asked_where_the_keystore_cannot_be_read(scene: Scene, hosts_of: HostsOf) -> None:
    scene.store.fails = Corrupt("the disk")
    hosts = hosts_of(a=scene.received())
    with pytest.raises(Corrupt, match="the disk"):
        started(hosts)
    assert hosts.asked == []
    assert scene.decisions() == [("open", "refused")]


def test_a_record_that_cannot_be_read_stays_where_no_host_answers(scene: Scene, hosts_of: HostsOf) -> None:
    _junk(scene)
    with pytest.raises(Unavailable):
        started(hosts_of(a=NO_ANSWER), wait=0.0)
    assert (scene.store.record, scene.store.kept) == (b"junk", {})


def same_domain_broken(scene: Scene) -> None:
    """A record of this machine's whose header can be read, and which does not open."""
    record = bytearray(scene.holds_record_of(scene.keyring("a", sequence=2)))
    record[-1] ^= 1
    scene.store.record = bytes(record)


UNDER_IT: dict[str, Callable[[Scene], object]] = {
    "one of before": lambda scene: scene.holds_record_of(scene.keyring("a", sequence=2)),
    "a damaged one": same_domain_broken,
}


OFFERED: dict[str, dict[str, Any]] = {
    "a later one than what lies there": {"sequence": 3},
    "what lies there": {"sequence": 2},
    "an earlier one": {"sequence": 1},
    "an own one that went apart": {"sequence": 3, "secret": SECRET, "primary": OWN.member},
}


@pytest.mark.parametrize("put", UNDER_IT.values(), ids=UNDER_IT)
@pytest.mark.parametrize("offered", OFFERED.values(), ids=OFFERED)
def test_a_record_put_under_a_running_instance_does_not_take_it_back(
    scene: Scene,
    hosts_of: HostsOf,
    monkeypatch: pytest.MonkeyPatch,
    put: Callable[[Scene], object],
    offered: dict[str, Any],
) -> None:
    """By whoever has its disk or database, and a machine that has an older state and was taken off since."""
    text = DEFAULT.text + "# of now\n"
    keyring = scene.keyring("a", "b", sequence=5, policy=text)
    scene.instance.hold(keyring)
    put(scene)
    names = ("c",) if "primary" in offered else ("a",)
    hosts = hosts_of(a=[scene.received(*names, **offered), NO_ANSWER])
    looked: list[Own] = []

    def looking(*parts: Any) -> Own:
        looked.append(look(*parts))
        return looked[-1]

    monkeypatch.setattr(join, "look", looking)

    async def check() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(hosts.joiner().follow(joined=False), 100)

    run_timeless(check)
    assert scene.instance.keyring is keyring
    assert not is_closed(keyring)
    assert all(is_closed(one.keyring) for one in looked if isinstance(one, Opened)), "key memory is not endless"
    assert scene.store.writes == 0
    assert {policy.text for policy in hosts.policies} == {text}


def test_an_own_later_state_that_could_not_be_taken_over_at_once_is_taken_over_then(
    scene: Scene, hosts_of: HostsOf
) -> None:
    """Of a primary whose record was rolled back: what it had made since lies with others."""
    keyring = scene.keyring("a", "b", sequence=2)
    scene.instance.members = Members(MEMBER)
    scene.holds_record_of(keyring)
    scene.instance.hold(keyring)
    later = [scene.received("a", "c", sequence=9, primary=MEMBER) for _ in range(3)]
    place = later[0].keyring.place
    hosts = hosts_of(a=later)
    both = [generation(name) for name in "ac"]
    hosts.hints["a"] = [hint_at(9, domain=DOMAIN, primary=MEMBER, digest=place.digest, generations=both)]
    failures = [Unavailable("the disk is full")]

    def fails_once() -> None:
        if failures:
            raise failures.pop()

    async def at_once(line: Line) -> None:
        scene.instance.audit.write_now(line)  # a clock that does not wait does not wait for a thread either

    scene.store.before = fails_once
    scene.instance.audit.write = at_once  # type: ignore[method-assign]  # as above
    follower = dataclasses.replace(hosts.joiner(), config=Config(peers=(A,)))

    async def check() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(follower.follow(joined=True), 100)

    run_timeless(check)
    assert failures == []
    assert scene.instance.keyring is not None
    assert set(scene.instance.keyring.generation_ids) == {generation(name) for name in "abc"}
