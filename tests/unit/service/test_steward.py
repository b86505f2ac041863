"""What a primary does to the keyring, on whose word, and for whom it waits."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from tests.fakes.application import entry, provision
from tests.fakes.claims import NOW
from tests.fakes.hints import OTHER_MEMBER
from tests.fakes.keyrings import MEMBER, OTHER_SECRET, generation, id_of
from tests.fakes.scene import DEFAULT, PEER, Scene, is_closed
from tests.fakes.signing import HERE, change_of, policy_text, private_key
from tests.fakes.signing import PEER as PEER_MACHINE

from rkeyserver.appraisal.appraise import Verdict
from rkeyserver.appraisal.orders import Forget, Order, Promote, Retire, Rotate, sign_order
from rkeyserver.coordinator.interface import Elected
from rkeyserver.errors import Misuse, Reason, Rejected, RkeyError, Unavailable
from rkeyserver.exchange.messages import Members as MembersMessage
from rkeyserver.exchange.standby import Received
from rkeyserver.keyring.keyring import Keyring, KeyringHeader
from rkeyserver.keyring.place import Place
from rkeyserver.sealing.record import KnownMember, parse
from rkeyserver.service.audit_line import Line
from rkeyserver.service.election import Election
from rkeyserver.service.instance import Role
from rkeyserver.service.members import Members
from rkeyserver.service.steward import Done, Steward

THIRD = "cc" * 16


@dataclass
class Domain:
    """One member of a domain, which leads unless it is said to follow."""

    scene: Scene
    names: tuple[str, ...] = ("a",)
    leads: bool = True
    said: dict[str, Any] = field(default_factory=dict)
    steward: Steward = field(init=False)

    def __post_init__(self) -> None:
        instance = self.scene.instance
        instance.members = Members(MEMBER if self.leads else "aa" * 16)
        self.steward = Steward(instance)
        keyring = self.scene.keyring(*self.names, **({"sequence": 4} | self.said))
        self.scene.holds_record_of(keyring)
        instance.hold(keyring)

    @property
    def keyring(self) -> Keyring:
        assert self.scene.instance.keyring is not None
        return self.scene.instance.keyring

    def knows(self, member: str, *, acknowledged: Place | None = None, machine: str = PEER.ppid, seen: int = 1) -> None:
        place = acknowledged
        self.scene.instance.members.known[member] = KnownMember(
            member=member,
            machine=machine,
            address="10.0.0.1:8888",
            epoch=place.epoch if place else 0,
            sequence=place.sequence if place else 0,
            digest=place.digest if place else "00" * 32,
            seen=seen,
        )

    def obey(self, order: Order, *, owner: bool = True) -> Done:
        return asyncio.run(self.steward.obey(order, owner=owner))

    def states(self) -> dict[str, str]:
        names = {generation(name): name for name in "abcdef"}
        return {names.get(one.id, "new"): str(one.state) for one in self.keyring.header.generations}

    def rotate(self) -> Rotate:
        return Rotate(domain=self.keyring.domain, current=self.keyring.current.id)

    def promote(self) -> Promote:
        return Promote(
            domain=self.keyring.domain, member=self.scene.instance.members.own, epoch=self.keyring.header.epoch
        )

    def forget(self, member: str) -> Forget:
        header = self.keyring.header
        return Forget(domain=header.domain, member=member, epoch=header.epoch, sequence=header.sequence)

    def retire(self, name: str) -> Retire:
        return Retire(domain=self.keyring.domain, generation=generation(name))


def refused(domain: Domain, order: Order, kind: type[RkeyError], says: str, *, owner: bool = True) -> RkeyError:
    """It is refused, and nothing has changed."""
    keyring, writes = domain.keyring, domain.scene.store.writes
    with pytest.raises(kind, match=says) as raised:
        domain.obey(order, owner=owner)
    assert (domain.keyring, domain.scene.store.writes) == (keyring, writes)
    return raised.value


def test_alone_a_new_generation_is_current_at_once(scene: Scene) -> None:
    domain = Domain(scene)
    done = domain.obey(domain.rotate())
    assert (domain.states(), done.state, done.waiting) == ({"a": "readable", "new": "current"}, "current", [])
    assert (done.sequence, scene.stored().header.sequence) == (5, 5)
    assert scene.decisions() == [("rotate", "accepted")]


def test_with_a_standby_it_waits_for_it(scene: Scene) -> None:
    domain = Domain(scene)
    domain.knows(OTHER_MEMBER, acknowledged=domain.keyring.place)
    done = domain.obey(domain.rotate())
    assert (domain.states(), done.state, done.waiting) == (
        {"a": "current", "new": "pending"},
        "pending",
        [OTHER_MEMBER],
    )
    assert "waits until a standby" in refused(domain, domain.rotate(), Unavailable, "added already").message
    asyncio.run(domain.steward.acknowledged())
    assert domain.states()["new"] == "pending", "what it had acknowledged was the state before"
    domain.knows(OTHER_MEMBER, acknowledged=domain.keyring.place)
    asyncio.run(domain.steward.acknowledged())
    assert domain.states() == {"a": "readable", "new": "current"}
    assert scene.lines()[-1]["found"].endswith(f"acknowledged by {OTHER_MEMBER}")


@pytest.mark.parametrize("machines", [[HERE], [HERE, "dd" * 16]], ids=["only this", "another"])
def test_a_machine_that_the_policy_does_not_name_is_not_waited_for(scene: Scene, machines: list[str]) -> None:
    domain = Domain(scene, said={"policy": policy_text(*machines)})
    domain.knows(OTHER_MEMBER, acknowledged=domain.keyring.place, machine=PEER_MACHINE)
    assert domain.obey(domain.rotate()).state == "current"


def test_one_that_never_showed_that_it_stored_anything_cannot_acknowledge(scene: Scene) -> None:
    domain = Domain(scene)
    domain.knows(OTHER_MEMBER)
    assert domain.obey(domain.rotate()).state == "current"


def test_one_that_was_given_the_keyring_a_moment_ago_is_waited_for(scene: Scene) -> None:
    domain = Domain(scene)
    domain.knows(OTHER_MEMBER, seen=NOW - 59)
    assert domain.obey(domain.rotate()).state == "pending"


def test_who_is_forgotten_is_waited_for_no_longer(scene: Scene) -> None:
    domain = Domain(scene)
    domain.knows(OTHER_MEMBER, acknowledged=domain.keyring.place)
    domain.obey(domain.rotate())
    refused(domain, domain.forget("00" * 16), Misuse, "No member")
    domain.obey(domain.forget(OTHER_MEMBER))
    assert domain.states() == {"a": "readable", "new": "current"}
    assert [event for event, _ in scene.decisions()] == ["rotate", "forget", "activate"]
    assert scene.store.record is not None
    assert parse(scene.store.record).header.members == []


def test_a_forgotten_one_stays_known_where_it_cannot_be_recorded(scene: Scene) -> None:
    domain = Domain(scene)
    domain.knows(OTHER_MEMBER, acknowledged=domain.keyring.place)
    order = domain.forget(OTHER_MEMBER)
    scene.audit_fails()
    with pytest.raises(Unavailable):
        domain.obey(order)
    assert OTHER_MEMBER in scene.instance.members.known


def test_a_generation_is_retired_once_all_have_moved_on(scene: Scene) -> None:
    domain = Domain(scene, ("a", "b"))
    domain.knows(OTHER_MEMBER, acknowledged=domain.keyring.place)
    domain.knows(THIRD)
    error = refused(domain, domain.retire("a"), Unavailable, "Not all have moved on: 1 of 2")
    assert THIRD in error.message
    assert OTHER_MEMBER not in error.message
    assert "peer forget" in error.advice
    refused(domain, domain.retire("b"), Misuse, "only a readable one")
    domain.knows(THIRD, acknowledged=domain.keyring.place)
    assert domain.obey(domain.retire("a")).state == "retired"
    assert domain.states() == {"a": "retired", "b": "current"}


TOKEN = f'[[callers]]\ntoken_sha256 = "{"0a" * 32}"\nmay = ["derive"]\nlabels = ["a"]\n'

NEEDED: dict[str, tuple[str, str]] = {
    "the CA of callers with a token, unsaid": (TOKEN, "the CA by which"),
    "the CA, by its name": (TOKEN + provision("first"), "the CA by which"),
    "the CA, by its id": (TOKEN + provision(generation("a")), "the CA by which"),
    "an application's key": (provision("current") + entry("db", generation="first"), "the key of application 'db'"),
}


@pytest.mark.parametrize(("tables", "what"), NEEDED.values(), ids=NEEDED)
def test_what_the_policy_has_derived_from_it_keeps_a_generation(scene: Scene, tables: str, what: str) -> None:
    domain = Domain(scene, ("a", "b", "c"), said={"policy": f"{policy_text(HERE)}\n{tables}"})
    error = refused(domain, domain.retire("a"), Misuse, f"is in use: by the policy, {what}")
    assert "Name another one in the policy first" in error.advice
    assert domain.obey(domain.retire("b")).state == "retired"


@pytest.mark.parametrize(("leads", "known"), [(True, "primary, or does not"), (False, f"known here is {MEMBER}")])
def test_whoever_is_not_elected_changes_nothing(scene: Scene, leads: bool, known: str) -> None:  # noqa: FBT001 - a row
    domain = Domain(scene, leads=leads)
    scene.instance.elected = False
    assert refused(domain, domain.rotate(), Unavailable, known).reason is Reason.NO_LEASE  # type: ignore[attr-defined]  # Unavailable has one


def test_a_standby_is_promoted_and_leads(scene: Scene) -> None:
    domain = Domain(scene, leads=False)
    assert scene.instance.role is Role.STANDBY
    refused(domain, domain.rotate(), Misuse, "is a standby")
    done = domain.obey(domain.promote())
    assert (done.epoch, done.primary, scene.instance.role) == (1, "aa" * 16, Role.PRIMARY)
    assert domain.obey(domain.rotate()).epoch == 1
    refused(domain, domain.promote(), Misuse, "primary already")


STALE: dict[str, tuple[Order, Reason]] = {
    "another generation": (Rotate(domain=id_of(b"x" * 32), current="00" * 16), Reason.ANOTHER_DOMAIN),
    "another domain": (Retire(domain=id_of(OTHER_SECRET), generation=generation("a")), Reason.ANOTHER_DOMAIN),
}


def test_orders_that_are_for_something_else(scene: Scene) -> None:
    domain = Domain(scene)
    own = domain.keyring.domain
    orders: list[tuple[Order, Reason]] = [
        (Rotate(domain=own, current="00" * 16), Reason.NOT_THE_NEXT_CHANGE),
        (Promote(domain=own, member=THIRD, epoch=0), Reason.NOT_BOUND),
        (Promote(domain=own, member=MEMBER, epoch=1), Reason.NOT_THE_NEXT_CHANGE),
        (Forget(domain=own, member=THIRD, epoch=0, sequence=3), Reason.NOT_THE_NEXT_CHANGE),
        (Retire(domain=own, generation="00" * 16), Reason.NO_SUCH_GENERATION),
        *STALE.values(),
    ]
    for order, reason in orders:
        error = refused(domain, order, Rejected, ".")
        assert isinstance(error, Rejected)
        assert error.reason is reason
    assert scene.instance.refused[str(Reason.NOT_THE_NEXT_CHANGE)] == 3


def test_without_an_owner_admins_sign(scene: Scene) -> None:
    text = policy_text(HERE, admins=("alice", "bob"), threshold=2)
    domain = Domain(scene, said={"policy": text})
    order = sign_order(domain.rotate(), private_key("alice"))
    refused(domain, order, Rejected, r"1 valid signature\(s\)", owner=False)
    order = sign_order(order, private_key("bob"))
    assert domain.obey(order, owner=False).state == "current"


def test_what_is_not_agreed_on_is_not_stored(scene: Scene) -> None:
    domain = Domain(scene)
    seen: list[tuple[Place, Place]] = []

    async def disagrees(before: Place, after: Place) -> None:
        seen.append((before, after))
        raise Unavailable("the lease is lost")

    domain.steward.commit = disagrees
    refused(domain, domain.rotate(), Unavailable, "lease is lost")
    assert [(before.sequence, after.sequence) for before, after in seen] == [(4, 5)]
    assert scene.decisions() == [("rotate", "accepted"), ("rotate", "refused")]


def test_a_later_state_elsewhere_stops_a_change(scene: Scene) -> None:
    domain = Domain(scene)

    async def hears() -> None:
        raise Unavailable("Member has a later state")

    domain.steward.listen = hears
    refused(domain, domain.rotate(), Unavailable, "later state")
    assert scene.decisions() == []


def test_who_has_stepped_down_changes_nothing_until_it_follows(scene: Scene) -> None:
    domain = Domain(scene)
    scene.instance.stepped_down = True
    assert scene.instance.role is Role.STANDBY
    refused(domain, domain.rotate(), Unavailable, "another one has a later state")
    scene.instance.hold(scene.keyring("a", "b", sequence=9))
    assert not scene.instance.stepped_down


# Reunion


def from_peer(scene: Scene, *names: str, **said: Any) -> Received:
    received = scene.received(*names, **said)
    return Received(
        Verdict(claims=PEER, policy=DEFAULT.digest, at=0),
        received.keyring,
        MembersMessage(THIRD, []),
        transcript=bytes(64),
        peer_head=bytes(32),
    )


def reunited(domain: Domain, received: Received) -> None:
    asyncio.run(domain.steward.reunite(received, "10.0.0.9:8888"))


def test_a_primary_takes_over_what_another_one_had(scene: Scene) -> None:
    domain = Domain(scene, ("a", "b"), said={"epoch": 1, "sequence": 3})
    before = domain.keyring
    reunited(domain, from_peer(scene, "a", "c", sequence=9, primary=THIRD))
    assert domain.states() == {"a": "readable", "b": "current", "c": "readable"}
    assert (domain.keyring.header.epoch, domain.keyring.header.sequence) == (1, 10)
    assert is_closed(before)
    line = scene.lines()[-1]
    assert (line["event"], line["peer"]["machine"]) == ("reunite", PEER.ppid)
    assert generation("c") in line["found"]


UNCHANGED: dict[str, dict[str, Any]] = {
    "what is an earlier state": {"sequence": 2},
    "another domain": {"secret": OTHER_SECRET},
}


@pytest.mark.parametrize("said", UNCHANGED.values(), ids=UNCHANGED)
def test_nothing_is_taken_over_of(scene: Scene, said: dict[str, Any]) -> None:
    domain = Domain(scene)
    reunited(domain, from_peer(scene, "a", **said))
    assert (domain.keyring.header.sequence, scene.store.writes) == (4, 0)


def test_a_later_state_of_another_primary_is_not_taken_over(scene: Scene) -> None:
    domain = Domain(scene, ("a", "b"))
    reunited(domain, from_peer(scene, "a", "c", epoch=1, primary=THIRD))
    assert domain.states() == {"a": "readable", "b": "current"}


def test_a_standby_takes_nothing_over(scene: Scene) -> None:
    domain = Domain(scene, leads=False)
    reunited(domain, from_peer(scene, "a", "c", sequence=2, primary=THIRD))
    assert domain.states() == {"a": "current"}


def test_a_primary_that_was_rolled_back_goes_on_from_its_own_later_state(scene: Scene) -> None:
    domain = Domain(scene, ("a", "b"))
    reunited(domain, from_peer(scene, "a", "c", sequence=9, primary=MEMBER))
    assert domain.states() == {"a": "readable", "b": "readable", "c": "current"}
    assert domain.keyring.header.sequence == 10


def test_the_policy_with_the_later_change_is_taken_over_and_what_it_takes_away_adds_a_generation(scene: Scene) -> None:
    wide, narrow = policy_text(HERE, PEER_MACHINE), policy_text(HERE)
    domain = Domain(scene, ("a", "b"), said={"epoch": 1, "policy": wide})
    link = change_of(domain.keyring.header, narrow).link().text()
    reunited(domain, from_peer(scene, "a", "c", primary=THIRD, policy=narrow, changes=[link]))
    assert domain.keyring.header.policy == narrow
    assert domain.states() == {"a": "readable", "b": "current", "c": "readable", "new": "pending"}


WIDE, NARROW = policy_text(HERE, PEER_MACHINE), policy_text(HERE)


@dataclass(frozen=True)
class Side:
    """names: of its generations, the last one current, or pending if it waits; change: the number of the last one."""

    names: tuple[str, ...] = ("a",)
    policy: str = NARROW
    change: int = 0
    waits: bool = False

    def said(self, first: KeyringHeader) -> dict[str, Any]:
        states = ["readable"] * len(self.names) + (["current", "pending"] if self.waits else ["current"])
        link = msgspec.structs.replace(change_of(first, self.policy), sequence=self.change or 1).link().text()
        return {
            "policy": self.policy,
            "changes": [link] if self.change else [],
            "generations": [
                {"id": generation(name), "created": 1_000 + index, "state": state}
                for index, (name, state) in enumerate(zip(self.names, states[-len(self.names) :], strict=True))
            ],
        }


# This side, which is the later one and makes the union; the other one; and whether a generation is added.
WRAPS_ON = {
    "one was let in and taken off over there": (Side(), Side(("a", "c"), change=2), True),
    "the same, and what was added for it waits": (Side(), Side(("a", "c"), change=2, waits=True), True),
    "one was let in over there, but by an earlier change": (Side(change=2), Side(("c", "a"), WIDE, change=1), True),
    "here is a generation that is not over there": (Side(("a", "b")), Side(("a", "c"), change=2), False),
    "the same waits here": (Side(("a", "b"), waits=True), Side(("a", "c"), change=2), False),
    "nobody has changed the policy": (Side(), Side(("a", "c")), False),
    "what is only readable here is current over there": (Side(("a", "b")), Side(change=2), False),
}


@pytest.mark.parametrize(("mine", "theirs", "adds"), WRAPS_ON.values(), ids=WRAPS_ON)
def test_who_was_taken_off_on_either_side_has_no_generation_that_wraps(
    scene: Scene, mine: Side, theirs: Side, *, adds: bool
) -> None:
    first = scene.keyring("a", policy=WIDE).header
    domain = Domain(scene, mine.names, said={"epoch": 1} | mine.said(first))
    reunited(domain, from_peer(scene, *theirs.names, primary=THIRD, **theirs.said(first)))
    assert (domain.states().get("new") == "pending") == adds


def test_a_record_that_was_rolled_back_brings_nobody_back_who_was_taken_off(scene: Scene) -> None:
    first = scene.keyring("a", policy=WIDE).header
    mine, theirs = Side(("a", "b"), change=1), Side(("a", "c"), policy=WIDE + "\n", change=1)
    domain = Domain(scene, mine.names, said=mine.said(first))
    reunited(domain, from_peer(scene, *theirs.names, sequence=9, primary=MEMBER, **theirs.said(first)))
    assert domain.keyring.header.policy == NARROW
    assert domain.states() == {"a": "readable", "b": "readable", "c": "current", "new": "pending"}


def test_a_policy_that_its_admins_did_not_sign_is_not_taken_over(scene: Scene) -> None:
    mine = policy_text(HERE, PEER_MACHINE, admins=("alice",))
    domain = Domain(scene, ("a", "b"), said={"epoch": 1, "policy": mine})
    laxer = policy_text(HERE, PEER_MACHINE, "ff" * 16, admins=("alice",))
    link = change_of(domain.keyring.header, laxer, "mallory").link().text()
    keyring = domain.keyring
    with pytest.raises(Rejected) as raised:
        reunited(domain, from_peer(scene, "a", "c", primary=THIRD, policy=laxer, changes=[link]))
    assert raised.value.reason is Reason.POLICY_NOT_BELIEVED
    assert domain.keyring is keyring


def test_of_two_changes_of_one_number_the_own_one_stays(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    base = policy_text(HERE, PEER_MACHINE)
    first = scene.keyring("a", policy=base)
    mine, theirs = policy_text(HERE, PEER_MACHINE, "01" * 16), policy_text(HERE, PEER_MACHINE, "02" * 16)
    links = [change_of(first.header, text).link().text() for text in (mine, theirs)]
    domain = Domain(scene, ("a", "b"), said={"epoch": 1, "policy": mine, "changes": links[:1]})
    reunited(domain, from_peer(scene, "a", "c", primary=THIRD, policy=theirs, changes=links[1:]))
    assert domain.keyring.header.policy == mine
    assert "has to be proposed anew" in caplog.text


def test_without_a_keyring_there_is_nothing_to_change(scene: Scene) -> None:
    steward = Steward(scene.instance)
    with pytest.raises(Unavailable, match="no keyring yet"):
        asyncio.run(steward.acknowledged())


# What changes while something is waited for


def test_who_steps_down_while_others_are_asked_changes_nothing(scene: Scene) -> None:
    domain = Domain(scene)

    async def steps_down() -> None:
        scene.instance.step_down("Another one is primary in a later state.")

    domain.steward.listen = steps_down
    refused(domain, domain.rotate(), Unavailable, "later state")
    assert scene.instance.role is Role.STANDBY


def test_who_steps_down_while_a_change_is_recorded_does_not_store_it(scene: Scene) -> None:
    domain = Domain(scene)

    async def steps_down(_before: Place, _after: Place) -> None:
        scene.instance.step_down("Another one is primary in a later state.")

    domain.steward.commit = steps_down
    refused(domain, domain.rotate(), Unavailable, "was met while this change was recorded")
    assert scene.instance.role is Role.STANDBY
    assert scene.decisions() == [("rotate", "accepted"), ("rotate", "refused")]


def test_a_promotion_is_for_what_comes_after_the_state_that_was_looked_at(scene: Scene) -> None:
    domain = Domain(scene, leads=False)
    order = domain.promote()

    async def follows() -> None:
        scene.instance.hold(scene.keyring("a", epoch=7, sequence=9))

    domain.steward.listen = follows
    with pytest.raises(Unavailable, match="was replaced"):
        domain.obey(order)
    assert (domain.keyring.header.epoch, scene.instance.role) == (7, Role.STANDBY)


def test_one_is_forgotten_while_another_state_comes(scene: Scene) -> None:
    """What was held when the order came is erased by then."""
    domain = Domain(scene)
    domain.knows(OTHER_MEMBER, acknowledged=domain.keyring.place)
    domain.obey(domain.rotate())
    write = scene.instance.audit.write

    async def meanwhile(line: Line) -> None:
        await write(line)
        if line.event == "forget":
            scene.instance.hold(scene.keyring("a", "b", sequence=9))

    scene.instance.audit.write = meanwhile  # type: ignore[method-assign]  # a thread's time is none to wait for
    done = domain.obey(domain.forget(OTHER_MEMBER))
    assert (done.sequence, OTHER_MEMBER in scene.instance.members.known) == (9, False)


def test_who_is_forgotten_comes_back_by_its_own_word_only(scene: Scene) -> None:
    domain = Domain(scene, ("a", "b"))
    domain.knows(OTHER_MEMBER)
    gone = scene.instance.members.known[OTHER_MEMBER]
    domain.obey(domain.forget(OTHER_MEMBER))
    told = dataclasses.replace(from_peer(scene, "a", "b"), members=MembersMessage(THIRD, [gone]))
    scene.instance.know_host(told, "10.0.0.9:8888")
    assert list(scene.instance.members.known) == [THIRD]
    itself = dataclasses.replace(told, members=MembersMessage(OTHER_MEMBER, []))
    scene.instance.know_host(itself, "10.0.0.8:8888")
    assert list(scene.instance.members.known) == [THIRD, OTHER_MEMBER]


def test_a_signed_order_to_forget_is_used_once(scene: Scene) -> None:
    """Else whoever has it could take a member that has come back off the list, just before something is retired."""
    text = policy_text(HERE, PEER.ppid, admins=("alice",))
    domain = Domain(scene, ("a", "b"), said={"policy": text})
    domain.knows(OTHER_MEMBER)
    order = sign_order(domain.forget(OTHER_MEMBER), private_key("alice"))
    domain.obey(order, owner=False)
    domain.knows(OTHER_MEMBER)
    refused(domain, order, Rejected, "was carried out before", owner=False)
    refused(domain, sign_order(domain.retire("a"), private_key("alice")), Unavailable, "Not all have", owner=False)
    domain.obey(domain.forget(OTHER_MEMBER))  # the owner's word is given anew each time


def test_what_cannot_be_stored_is_tried_ever_more_seldom(scene: Scene) -> None:
    """A store that takes no write is waited for on the event loop, and each attempt is two lines in the audit file."""
    domain = Domain(scene)
    domain.knows(OTHER_MEMBER, acknowledged=domain.keyring.place)
    domain.obey(domain.rotate())
    domain.knows(OTHER_MEMBER, acknowledged=domain.keyring.place)
    tried: list[int] = []

    def hangs() -> None:
        tried.append(1)
        raise Unavailable("the disk is full")

    scene.store.before = hangs
    with pytest.raises(Unavailable):
        asyncio.run(domain.steward.acknowledged())
    for _ in range(3):
        asyncio.run(domain.steward.acknowledged())
        scene.instance.members.unsaved = True
        scene.instance.save_members()
    assert (len(tried), domain.states()["new"]) == (1, "pending")
    scene.store.before = lambda: None
    scene.instance._store_again = 0
    asyncio.run(domain.steward.acknowledged())
    assert domain.states()["new"] == "current"


# Who the coordinator says is primary


async def elects(domain: Domain, **said: Any) -> None:
    """What an election brings about. said: of the Elected."""
    engine: Any = None
    found = {"token": 7, "committed": None, "continues": True, "epoch": 1} | said
    await Election(domain.steward, engine)._elected(Elected(**found))


NOT_ITS_OWN: dict[str, Callable[[Scene], object]] = {
    "it has stepped down": lambda scene: scene.instance.step_down("Another one is primary in a later state."),
    "another one's was adopted": lambda scene: scene.instance.hold(scene.keyring("a", sequence=9, primary=THIRD)),
}


@pytest.mark.parametrize("meanwhile", NOT_ITS_OWN.values(), ids=NOT_ITS_OWN)
def test_who_is_elected_leads_whatever_came_meanwhile(scene: Scene, meanwhile: Callable[[Scene], object]) -> None:
    """Else it would keep the lease, and nobody would be primary."""
    domain = Domain(scene)
    scene.instance.elected = False
    meanwhile(scene)
    asyncio.run(elects(domain))
    assert (scene.instance.role, domain.keyring.header.epoch) == (Role.PRIMARY, 1)


def test_who_is_elected_with_its_own_last_state_goes_on(scene: Scene) -> None:
    domain = Domain(scene)
    scene.instance.elected = False
    asyncio.run(elects(domain))
    assert (scene.instance.role, domain.keyring.header.epoch, scene.store.writes) == (Role.PRIMARY, 0, 0)
