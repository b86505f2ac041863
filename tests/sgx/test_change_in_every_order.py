"""Every order of changes of microcode, version and signer: one machine alone, and three that are changed one by one.

ORDERS has each of the six orders of the three changes in it, one behind the other, and so have HALVES. Beside the
machines goes a model: which values of which generations the domain has. Before each step doctor says what the step
comes to; then it does.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any, Final

import pytest
from tests.fakes.recipients import Recipient, age, recovery_table
from tests.sgx.changing import (
    LATER,
    MICROCODE,
    SIGNER,
    change_policy,
    doctor,
    promote,
    rebuild,
    recover,
    signed_as_it_is,
    values,
    wait_for_sequence,
    why_not,
    with_rule,
)
from tests.sgx.machines import IMAGE as FIRST
from tests.sgx.machines import SgxMachine, SgxMachines

from rkeyserver.service.doctor_ways import THE_IMAGE

ORDERS: Final = "CISCICSIC"  # microcode (CPUSVN), version (ISVSVN), signer
HALVES: Final = ("CISCI", "CSICS")
RECIPIENTS: Final = "1 of 1 recovery recipients"


def test_each_order_is_there() -> None:
    for one in map("".join, permutations("CIS")):
        assert one in ORDERS
        assert any(one in half for half in HALVES)


def named(what: str, number: int) -> str:
    return hashlib.sha256(f"{what} {number}".encode()).hexdigest()


@pytest.fixture
def machines(sgx_machines: SgxMachines) -> SgxMachines:
    return sgx_machines


@dataclass
class Model:
    """What the domain is, and at which versions the newest image is. dead: records that nothing may change any more."""

    domain: str
    values: dict[str, str]
    image: int = 0
    isv_svn: int = 1
    signer: str = FIRST.mrsigner
    former: str = FIRST.mrsigner
    microcode: int = 7
    dead: dict[Path, bytes] = field(default_factory=dict)

    def next(self, step: str) -> dict[str, Any]:
        """Fields of the image that comes with a change."""
        self.image += 1
        if step == "I":
            self.isv_svn += 1
        if step == "S":
            self.former, self.signer = self.signer, named("signer", self.image)
        return {"mrenclave": named("image", self.image), "mrsigner": self.signer, "isv_svn": self.isv_svn}

    def cpu_svn(self) -> bytes:
        """Another one than before."""
        self.microcode += 1
        return bytes([self.microcode]) + bytes(15)

    def grown(self, machine: SgxMachine, generation: str) -> None:
        """A generation was added on purpose."""
        now = values(machine)
        assert now == self.values | {generation: now[generation]}
        self.values = now

    def check(self, *living: SgxMachine) -> None:
        """One domain, all of it, everywhere; and what is dead has stayed as it was."""
        for machine in living:
            assert machine.status()["domain"] == self.domain
            assert values(machine) == self.values
        assert {path: path.read_bytes() for path in self.dead} == self.dead


# One machine


@dataclass
class Alone:
    """One machine with one recipient, through all of it: a microcode update by recovery, an image by the one before."""

    machines: SgxMachines
    recipient: Recipient
    chip: SgxMachine
    current: SgxMachine
    model: Model

    def microcode(self) -> None:
        machine, model = self.current, self.model
        told = doctor(machine)
        assert (told.status, told.ways) == (0, [RECIPIENTS])
        assert told.change(MICROCODE) == (False, "", [RECIPIENTS])
        machine.started[-1].stop()
        record = machine.record
        machine.update_microcode(model.cpu_svn())
        assert "cpu_svn was" in why_not(machine)
        recover(machine, model.domain, self.recipient)
        assert record in [path.read_bytes() for path in machine.kept()]

    def image(self, step: str) -> None:
        old, model = self.current, self.model
        if step == "S":
            self.as_primary(old)
            number = model.image + 1
            change_policy(old, with_rule("mrsigner", [model.signer, named("signer", number)]))
        told = doctor(old)
        assert told.change(LATER if step == "I" else SIGNER) == (False, "", [THE_IMAGE, RECIPIENTS])
        new = self.machines(
            f"image-{model.image + 1}", beside=self.chip, recovery=self.chip.recovery, **model.next(step)
        )
        rebuild(new, former_signers=[model.former])
        new.start("-i", old.address, "--domain", model.domain)
        old.started[-1].stop()
        model.dead[old.keystore] = old.record
        self.current = new
        if step == "S":
            self.as_primary(new)
            model.grown(new, change_policy(new, with_rule("mrsigner", [model.signer]))["generation"])

    @staticmethod
    def as_primary(machine: SgxMachine) -> None:
        if machine.status()["role"] != "primary":
            promote(machine)


def test_one_machine_with_recipients_lives_through_every_order(machines: SgxMachines) -> None:
    recipient = age()
    first = machines("image-0", recovery=recovery_table(1, [recipient]))
    first.start()
    assert change_policy(first, signed_as_it_is)["change"] == 1
    model = Model(str(first.status()["domain"]), values(first))
    life = Alone(machines, recipient, first, first, model)
    for step in ORDERS:
        if step == "C":
            life.microcode()
        else:
            life.image(step)
        model.check(life.current)
    assert len(model.values) == 1 + ORDERS.count("S")
    assert len(model.dead) == len(ORDERS) - ORDERS.count("C")


# Three machines


def others(machine: SgxMachine, three: list[SgxMachine]) -> list[SgxMachine]:
    return [one for one in three if one is not machine]


def roll(machine: SgxMachine, three: list[SgxMachine], model: Model, image: dict[str, Any]) -> None:
    """Change one machine while the others serve. image: empty for a microcode update."""
    machine.started[-1].stop()
    record = machine.record
    if image:
        machine.load(**image)
        rebuild(machine, former_signers=[model.former])
    else:
        machine.update_microcode(bytes([model.microcode]) + bytes(15))
    assert why_not(machine)
    for one in others(machine, three):
        assert one.status()["domain"] == model.domain, "it serves meanwhile"
    machine.start(*(word for one in others(machine, three) for word in ("-i", one.address)))
    assert record in [path.read_bytes() for path in machine.kept()]


def sign_at(primary: SgxMachine, three: list[SgxMachine], signers: list[str]) -> str | None:
    """A change of the signers, made at one of them, and followed by the others."""
    if primary.status()["role"] != "primary":
        promote(primary)
    generation: str | None = change_policy(primary, with_rule("mrsigner", signers))["generation"]
    sequence = primary.status()["sequence"]
    for one in others(primary, three):
        wait_for_sequence(one, sequence)
    return generation


@pytest.mark.parametrize("steps", HALVES)
def test_three_machines_live_through_every_order_one_by_one_and_never_stop_serving(
    machines: SgxMachines, steps: str
) -> None:
    three = [machines(name) for name in "abc"]
    first, *rest = three
    first.start()
    change_policy(first, with_rule("machines", [one.ppid for one in three]))
    for one in rest:
        one.start(*(word for other in others(one, three) for word in ("-i", other.address)))
    model = Model(str(first.status()["domain"]), values(first))
    for turn, step in enumerate(steps):
        if step == "S":
            assert sign_at(first, three, [model.signer, named("signer", model.image + 1)]) is None
        looked_at = three[turn % 3]
        told = doctor(looked_at, *others(looked_at, three))
        ways = [f"peer {one.address}" for one in others(looked_at, three)]
        assert (told.status, told.ways) == (0, ways)
        if step == "C":
            model.cpu_svn()
            assert told.change(MICROCODE) == (False, "", ways)
            image: dict[str, Any] = {}
        else:
            assert told.change(LATER if step == "I" else SIGNER) == (False, "", [THE_IMAGE, *ways])
            image = model.next(step)
        for machine in reversed(three):
            roll(machine, three, model, image)
        if step == "S":
            generation = sign_at(first, three, [model.signer])
            assert generation is not None
            model.grown(first, generation)
        model.check(*three)
    assert len(model.values) == 1 + steps.count("S")
