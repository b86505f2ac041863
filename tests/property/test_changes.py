"""Nothing but enough signatures of present admins over exactly the next change changes a policy, or makes it believed.

Who has signed what is kept in a ledger, by the bytes of the signatures: the model never verifies one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from tests.fakes.admins import DOMAIN, OTHER_DOMAIN, admins, bare_line, change, key, policy

from rkeyserver.appraisal.change import (
    PolicyChange,
    appended,
    check_authority,
    check_next,
    last_sequence,
    parse_change,
    sign,
)
from rkeyserver.appraisal.policy import AdminsTable, parse_policy
from rkeyserver.appraisal.succession import believe
from rkeyserver.errors import Misuse, Reason, Rejected

PEOPLE: Final = ("ann", "bob", "cy", "dora", "mallory")
STRANGER: Final = "eve"
Fields = tuple[str, int, str, str]


@dataclass(frozen=True)
class Group:
    """A set of admins, by their names."""

    threshold: int
    names: tuple[str, ...]

    def table(self) -> AdminsTable:
        return admins(self.threshold, self.names)


@st.composite
def groups(draw: st.DrawFn) -> Group:
    names = draw(st.lists(st.sampled_from(PEOPLE), min_size=1, max_size=4, unique=True))
    return Group(draw(st.integers(1, len(names))), tuple(names))


# Few texts: so that a domain comes back to the very policy that it had, and only the place tells changes apart.
numbers = st.integers(0, 1)
OFF: Final = ("nothing", "nothing", "nothing", "domain", "ahead", "stale", "replaces", "coming")
names = st.sets(st.sampled_from((*PEOPLE, STRANGER)))


def text_of(number: int, group: Group | None) -> str:
    return policy(number, None if group is None else group.table())


def fields_of(made: PolicyChange) -> Fields:
    return made.domain, made.sequence, made.replaces, made.policy


def reason_of(judge: Callable[[], object]) -> Reason | None:
    """Why it is refused; None if it is not."""
    try:
        judge()
    except Rejected as refused:
        return refused.reason
    return None


@dataclass
class Ledger:
    """Who has signed what, as it happened."""

    signed: dict[str, tuple[str, Fields]] = field(default_factory=dict)

    def sign(self, made: PolicyChange, name: str) -> PolicyChange:
        signed = sign(made, key(name))
        self.signed[signed.signatures[-1].signature] = (name, fields_of(made))
        return signed

    def signers(self, made: PolicyChange) -> set[str]:
        return {
            name
            for name in (*PEOPLE, STRANGER)
            for one in made.signatures
            if one.key == bare_line(name) and self.signed.get(one.signature) == (name, fields_of(made))
        }

    def enough(self, made: PolicyChange, group: Group) -> bool:
        return len(self.signers(made) & set(group.names)) >= group.threshold


@dataclass(frozen=True)
class Model:
    """A domain as it should be."""

    text: str
    group: Group | None
    sequence: int = 0

    def allows(self, made: PolicyChange, coming: Group | None, ledger: Ledger, *, owner: bool) -> bool:
        replaces = hashlib.sha256(self.text.encode()).hexdigest()
        if (made.domain, made.sequence, made.replaces) != (DOMAIN, self.sequence + 1, replaces):
            return False
        if coming is not None and coming != self.group and not ledger.enough(made, coming):
            return False
        return owner if self.group is None else ledger.enough(made, self.group)


class Domain(RuleBasedStateMachine):
    """A primary, its admins, and somebody who has every document that was ever written."""

    documents = Bundle("documents")

    @initialize(group=st.none() | groups())
    def begin(self, group: Group | None) -> None:
        self.ledger = Ledger()
        self.model = Model(text_of(0, group), group)
        self.policy, self.chain = self.model.text, list[str]()
        self.named: dict[str, Group | None] = {self.policy: group}
        self.history: list[PolicyChange] = []
        self.in_force: list[Group] = [] if group is None else [group]
        self.unbroken = list(self.in_force)
        self.shown: list[PolicyChange] = []

    def keep(self, made: PolicyChange) -> PolicyChange:
        self.shown.append(made)
        return made

    def written(self, number: int, group: Group | None) -> str:
        text = text_of(number, group)
        self.named[text] = group
        return text

    @rule(target=documents, number=numbers, group=st.none() | groups(), stays=st.booleans(), signers=names)
    def propose(self, number: int, group: Group | None, *, stays: bool, signers: set[str]) -> PolicyChange:
        """What the present state asks for; signed by whoever likes it."""
        made = change(
            last_sequence(self.chain) + 1, self.policy, self.written(number, self.model.group if stays else group)
        )
        for name in sorted(signers):
            made = self.ledger.sign(made, name)
        return self.keep(made)

    @rule(number=numbers, group=st.none() | groups(), stays=st.booleans(), off=st.sampled_from(OFF))
    def agree(self, number: int, group: Group | None, *, stays: bool, off: str) -> None:
        """What everybody signs, or all present admins: the domain moves if it is right, and only then."""
        made = change(
            max(1, last_sequence(self.chain) + 1 + {"ahead": 1, "stale": -1}.get(off, 0)),
            text_of(number, self.model.group) + "#" if off == "replaces" else self.policy,
            self.written(number, self.model.group if stays else group),
            domain=OTHER_DOMAIN if off == "domain" else DOMAIN,
        )
        present = () if self.model.group is None else self.model.group.names
        for name in present if off == "coming" else PEOPLE:
            made = self.ledger.sign(made, name)
        self.submit(self.keep(made), owner=self.model.group is None)

    @rule(
        target=documents,
        number=numbers,
        group=st.none() | groups(),
        ahead=st.integers(-2, 2),
        domain=st.sampled_from([DOMAIN, OTHER_DOMAIN]),
        before=numbers,
        signers=names,
    )
    def forge(
        self,
        *,
        number: int,
        group: Group | None,
        ahead: int,
        domain: str,
        before: int,
        signers: set[str],
    ) -> PolicyChange:
        """A document for another place, policy or domain; people sign what they are shown."""
        made = change(
            max(1, last_sequence(self.chain) + 1 + ahead),
            text_of(before, self.model.group),
            self.written(number, group),
            domain=domain,
        )
        for name in sorted(signers):
            made = self.ledger.sign(made, name)
        return self.keep(made)

    @rule(target=documents, made=documents, name=st.sampled_from((*PEOPLE, STRANGER)))
    def sign_more(self, made: PolicyChange, name: str) -> PolicyChange:
        return self.keep(self.ledger.sign(made, name))

    @rule(target=documents, one=documents, other=documents, take=st.sampled_from(["fields", "signatures"]))
    def mix(self, one: PolicyChange, other: PolicyChange, take: str) -> PolicyChange:
        """Signatures of both, or of the other only, under the one."""
        more = {signed.key: signed for signed in other.signatures}
        own = {} if take == "fields" else {signed.key: signed for signed in one.signatures}
        return self.keep(msgspec.structs.replace(one, signatures=list((own | more).values())))

    @rule(target=documents, one=documents, other=documents, what=st.sampled_from(["sequence", "replaces", "policy"]))
    def graft(self, one: PolicyChange, other: PolicyChange, what: str) -> PolicyChange:
        """A field of the other in the one."""
        return self.keep(msgspec.structs.replace(one, **{what: getattr(other, what)}))

    @rule(number=numbers, group=groups(), stays=st.booleans(), owner=st.booleans())
    def transplant(self, number: int, group: Group, *, stays: bool, owner: bool) -> None:
        """Exactly the next change, under all the signatures that there have ever been."""
        made = change(
            last_sequence(self.chain) + 1, self.policy, self.written(number, self.model.group if stays else group)
        )
        ever = {signed.key: signed for shown in self.shown for signed in shown.signatures}
        self.submit(self.keep(msgspec.structs.replace(made, signatures=list(ever.values()))), owner=owner)

    @rule(made=documents, at=st.integers(0, 2**16), bit=st.integers(0, 7), owner=st.booleans())
    def flip(self, made: PolicyChange, at: int, bit: int, *, owner: bool) -> None:
        data = bytearray(made.text().encode())
        data[at % len(data)] ^= 1 << bit
        try:
            found = parse_change(bytes(data))
            self.named.setdefault(found.policy, self.group_of(found.policy))
        except Misuse:
            return
        self.submit(found, owner=owner)

    def group_of(self, text: str) -> Group | None:
        """The admins of a policy that a bit was flipped in."""
        found = parse_policy(text).admins
        if found is None:
            return None
        known = {bare_line(name): name for name in (*PEOPLE, STRANGER)}
        return Group(found.threshold, tuple(known.get(" ".join(one.split()[:2]), one) for one in found.keys))

    @rule(made=documents, owner=st.booleans())
    def submit(self, made: PolicyChange, *, owner: bool) -> None:
        coming = self.named[made.policy]
        if coming is not None and coming.table() != parse_policy(made.policy).admins:
            coming = replace(coming, names=(*coming.names, "nobody"))  # a name was flipped: other admins than any
        wanted = self.model.allows(made, coming, self.ledger, owner=owner)
        refused = reason_of(lambda: self.apply(made, owner=owner))
        assert (refused is None) == wanted
        assert refused in (None, Reason.NOT_SIGNED, Reason.NOT_THE_NEXT_CHANGE, Reason.ANOTHER_DOMAIN)
        if refused is not None:
            return
        by_owner = self.model.group is None
        self.model = Model(made.policy, coming, self.model.sequence + 1)
        self.history.append(made)
        self.unbroken = [] if by_owner else self.unbroken
        if coming is not None:
            self.in_force.append(coming)
            self.unbroken.append(coming)

    def apply(self, made: PolicyChange, *, owner: bool) -> None:
        """As a primary does."""
        found = parse_change(made.text())
        check_next(found, domain=DOMAIN, policy=self.policy, changes=self.chain)
        before = parse_policy(self.policy).admins
        check_authority(found, before, owner=owner)
        self.chain, self.policy = appended(self.chain, found, admins=before), found.policy

    @rule(data=st.data(), group=groups())
    def show(self, data: st.DataObject, group: Group) -> None:
        """Any chain of anything, to somebody who goes by any admins."""
        if not self.shown:
            return
        chosen = data.draw(st.lists(st.sampled_from(self.shown), min_size=1, max_size=4))
        goes_by = data.draw(st.sampled_from([group, *self.in_force]))
        links = [made.link().text() for made in sorted(chosen, key=lambda made: made.sequence)]
        if not self.believed(links, chosen_last := max(chosen, key=lambda made: made.sequence), goes_by):
            return
        allowed = [
            goes_by,
            *(one for made in chosen if made is not chosen_last and (one := self.named[made.policy]) is not None),
        ]
        assert any(self.ledger.enough(chosen_last, one) for one in allowed)

    @rule(number=numbers, group=st.none() | groups(), signers=names)
    def lengthen(self, number: int, group: Group | None, signers: set[str]) -> None:
        """The real chain with one more link, to everybody who believes the chain."""
        made = change(last_sequence(self.chain) + 1, self.policy, self.written(number, group))
        for name in sorted(signers):
            made = self.ledger.sign(made, name)
        for one in set(self.unbroken if self.history else ()):
            wanted = self.ledger.enough(made, self.model.group or one)
            assert self.believed([*self.chain, made.link().text()], made, one) == wanted

    @staticmethod
    def believed(links: list[str], last: PolicyChange, group: Group) -> bool:
        refused = reason_of(lambda: believe(domain=DOMAIN, policy=last.policy, changes=links, admins=group.table()))
        assert refused in (None, Reason.POLICY_NOT_BELIEVED)
        return refused is None

    @invariant()
    def nothing_else_has_changed(self) -> None:
        assert (self.policy, last_sequence(self.chain)) == (self.model.text, self.model.sequence)

    @invariant()
    def whoever_was_in_force_believes(self) -> None:
        if not self.history:
            return
        last = self.history[-1]
        whole = [made.link().text() for made in self.history]
        for group in set(self.unbroken):
            assert self.believed(self.chain, last, group)
        for group in set(self.in_force):
            assert not self.believed(self.chain, last, group) or self.believed(whole, last, group)
        assert not self.believed(self.chain, last, Group(1, ("nobody",)))


TestDomain = Domain.TestCase
TestDomain.settings = settings(
    # Too slow: each step signs and reads policies.
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip


steps = st.lists(st.tuples(groups(), numbers, st.booleans(), names), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(first=groups(), path=steps, outsiders=groups())
def test_a_chain_is_believed_by_all_who_were_in_force_and_is_as_short_as_it_says(
    first: Group, path: list[tuple[Group, int, bool, set[str]]], outsiders: Group
) -> None:
    ledger, now, text = Ledger(), first, text_of(0, first)
    chain: list[str] = []
    history: list[PolicyChange] = []
    in_force, moves = [first], 0
    for group, number, stays, more in path:
        after = now if stays else group
        made = change(len(history) + 1, text, text_of(number, after))
        for name in sorted({*now.names[: now.threshold], *after.names[: after.threshold], *more}):
            made = ledger.sign(made, name)
        check_next(made, domain=DOMAIN, policy=text, changes=chain)
        check_authority(made, now.table(), owner=False)
        chain = appended(chain, made, admins=now.table())
        moves += now != after and len(history) > 0
        now, text = after, made.policy
        history.append(made)
        in_force.append(now)
        for one in in_force:
            assert Domain.believed(chain, made, one)
        strangers = Group(len(outsiders.names), tuple(f"no {name}" for name in outsiders.names))
        assert not Domain.believed(chain, made, strangers)
        # By others only if they have signed, as they then have.
        if Domain.believed(chain, made, outsiders):
            assert any(ledger.enough(one, outsiders) for one in history)
    assert len(chain) <= 2 + moves


def test_the_model_moves() -> None:
    """The machine's own check: a change that all sign is made, and the next of the same text is another."""
    machine = Domain()
    machine.begin(Group(2, ("ann", "bob")))
    machine.agree(1, None, stays=True, off="nothing")
    machine.agree(0, Group(1, ("cy",)), stays=False, off="nothing")
    assert machine.model == Model(text_of(0, Group(1, ("cy",))), Group(1, ("cy",)), 2)
    with pytest.raises(Rejected):
        machine.apply(machine.history[0], owner=True)
    machine.nothing_else_has_changed()
    machine.whoever_was_in_force_believes()
