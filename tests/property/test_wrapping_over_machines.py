"""Whatever is wrapped opens on every machine of the domain, whatever came in between.

Machines come and go, restart, follow the primary or lag behind it, and the policy changes: as it narrows, by the rules
of the service, a generation is added. The model knows which generations a machine has heard of, and opens nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, MultipleResults, RuleBasedStateMachine, initialize, invariant, multiple, rule
from tests.fakes.claims import document, table
from tests.fakes.keyrings import MEMBER, OWNER
from tests.fakes.sealer import FakeSealer

from rkeyserver.appraisal.narrowing import narrows
from rkeyserver.appraisal.policy import parse_policy
from rkeyserver.errors import Reason, Rejected
from rkeyserver.exchange.hpke import OneTimeKey, seal
from rkeyserver.keyring.derived import derive
from rkeyserver.keyring.generations import GenerationState
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.sealed import open_keyring, seal_keyring
from rkeyserver.keyring.wrapping import rewrap, unwrap, wrap
from rkeyserver.sealing.record import parse

NOW: Final = 1_780_000_000
MOST_MACHINES: Final = 4
FLOORS: Final = (1, 2, 3)  # of versions: a higher one accepts less

labels = st.binary(min_size=1, max_size=256)
contents = st.one_of(st.binary(max_size=100), st.integers(0, 64 * 1024).map(lambda size: b"\x5a" * size))


def policy(floor: int) -> str:
    return document(table(min_isv_svn=floor))


@dataclass(frozen=True)
class Made:
    """What a caller keeps, and what it is."""

    blob: bytes
    secret: bytes
    label: bytes
    about: bytes
    generation: str


class Domain(RuleBasedStateMachine):
    """machines[0] is the primary."""

    wrapped: Bundle[Made] = Bundle("wrapped")
    derived: Bundle[tuple[bytes, int, str, bytes]] = Bundle("derived")

    @initialize()
    def found(self) -> None:
        self.floor = FLOORS[0]
        self.machines = [Keyring.mint(primary=MEMBER, now=NOW, policy=policy(self.floor))]

    def teardown(self) -> None:
        for machine in getattr(self, "machines", []):
            machine.close()

    def at(self, number: int) -> Keyring:
        return self.machines[number % len(self.machines)]

    def handed_over(self) -> Keyring:
        """The primary's keyring, by the wire: sealed to a key of the one that asks, and read there."""
        key = OneTimeKey()
        return Keyring.parse(key.open(seal(self.machines[0].view, key.public, b"transcript"), b"transcript"))

    @rule()
    def join(self) -> None:
        if len(self.machines) < MOST_MACHINES:
            self.machines.append(self.handed_over())

    @rule(number=st.integers(1, MOST_MACHINES))
    def follow(self, number: int) -> None:
        new, old = self.handed_over(), self.at(number)
        assert new.extends(old)
        self.machines[self.machines.index(old)] = new
        old.close()

    @rule(number=st.integers(0, MOST_MACHINES))
    def restart(self, number: int) -> None:
        old, sealer = self.at(number), FakeSealer()
        again = open_keyring(parse(seal_keyring(old, sealer, OWNER, now=NOW)), sealer)
        self.machines[self.machines.index(old)] = again
        old.close()

    @rule()
    def primary_dies(self) -> None:
        """The next one is primary, if it has all that the first had: else it is asked for first."""
        if len(self.machines) > 1 and self.machines[1].same_as(self.machines[0]):
            self.machines.pop(0).close()

    @rule(floor=st.sampled_from(FLOORS))
    def change_policy(self, floor: int) -> None:
        old = self.machines[0]
        narrowed = narrows(parse_policy(policy(self.floor)), parse_policy(policy(floor)))
        self.machines[0] = old.changed(
            policy=policy(floor), changes=[], add=GenerationState.CURRENT if narrowed else None, now=NOW
        )
        assert (self.machines[0].current.id != old.current.id) == (floor > self.floor)
        self.floor = floor
        old.close()

    @rule(target=wrapped, number=st.integers(0, 3), secret=contents, label=labels, about=contents)
    def wrap(self, number: int, secret: bytes, label: bytes, about: bytes) -> Made:
        keyring = self.at(number)
        return Made(wrap(keyring, label, memoryview(secret), about), secret, label, about, keyring.current.id)

    @rule(target=wrapped, number=st.integers(0, 3), made=wrapped)
    def rewrap(self, number: int, made: Made) -> Made | MultipleResults[Made]:
        keyring = self.at(number)
        if made.generation not in keyring.generation_ids:
            assert refused(rewrap, keyring, made) is Reason.NO_SUCH_GENERATION
            return multiple()
        blob = rewrap(keyring, made.label, made.blob, made.about)
        return Made(blob, made.secret, made.label, made.about, keyring.current.id)

    @rule(made=wrapped)
    def opens_wherever_its_generation_is_known(self, made: Made) -> None:
        for keyring in self.machines:
            if made.generation in keyring.generation_ids:
                with unwrap(keyring, made.label, made.blob, made.about).secret as secret:
                    assert secret.view == made.secret
            else:
                assert refused(unwrap, keyring, made) is Reason.NO_SUCH_GENERATION

    @rule(target=derived, number=st.integers(0, 3), label=labels, size=st.integers(16, 64))
    def derive(self, number: int, label: bytes, size: int) -> tuple[bytes, int, str, bytes]:
        found = derive(self.at(number), label, size=size, generation="current")
        with found.secret as secret:
            return label, size, found.generation, secret.view.tobytes()

    @rule(known=derived)
    def derives_the_same_wherever_its_generation_is_known(self, known: tuple[bytes, int, str, bytes]) -> None:
        label, size, generation, key = known
        for keyring in self.machines:
            if generation in keyring.generation_ids:
                with derive(keyring, label, size=size, generation=generation).secret as secret:
                    assert secret.view == key

    @invariant()
    def the_primary_knows_every_generation(self) -> None:
        for machine in getattr(self, "machines", []):
            assert set(machine.generation_ids) <= set(self.machines[0].generation_ids)


def refused(ask: Callable[[Keyring, bytes, bytes, bytes], object], keyring: Keyring, made: Made) -> Reason:
    with pytest.raises(Rejected) as raised:
        ask(keyring, made.label, made.blob, made.about)
    return raised.value.reason


Domain.TestCase.settings = settings(deadline=None, max_examples=100, stateful_step_count=30)
TestDomain = Domain.TestCase
