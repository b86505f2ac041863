"""What `make enclave` has built, started as an operator starts it: launcher, gramine-sgx, and the server in its tree.

gramine-sgx is a stand-in, and so is /dev/attestation (tests/sgx/device.py), under a private root of the tests. The
program in the tree is the one that was built, put together by tests/sgx/program.py, with the calls that Gramine has.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.enclave.conftest import Tree
from tests.fakes.audit_lines import decisions_in
from tests.fakes.gramine_build import ROOT, put_program
from tests.fakes.processes import Running, environment
from tests.sgx.machines import SgxMachine, SgxMachines, collateral, sgx_machines_in
from tests.sgx.state import Enclave

import enclave_tree

Built = tuple[Tree, str]
COMPOSED = """
sys.path.append("/of-the-tests")
from rkeyserver.cli import enclave

run = enclave._run


def composed():
    import msgspec
    from tests.sgx.gramine_calls import answer_as_gramine
    from tests.sgx.program import Composition, compose

    compose(msgspec.json.decode({composition!r}, type=Composition))
    answer_as_gramine()
    return run()


enclave._run = composed
sys.exit(enclave.main())
"""


class Host:
    """A machine, with the build on it."""

    def __init__(self, built: Tree, machine: SgxMachine) -> None:
        self.built, self.machine = built, machine
        folder = machine.folder.with_name(f"{machine.name}.host")
        self.programs, self.runtime = folder / "bin", folder / "runtime"
        for one in (self.programs, self.runtime):
            one.mkdir(parents=True)
        given = json.loads(Path(machine.composition).read_bytes())
        given |= {"device": "/dev/attestation", "measured": "/rkeyserver/measured.toml"}
        where_from = enclave_tree.START_SOURCE.read_text().partition("\nfrom rkeyserver")[0]
        start = folder / "start.py"
        start.write_text(where_from + COMPOSED.format(composition=json.dumps(given)))
        over = {"/rkeyserver/start.py": str(start), "/of-the-tests/tests": str(ROOT / "tests")}
        put_program(
            self.programs,
            "gramine-sgx",
            STAND_IN=str(built.gramine.package),
            STAND_IN_DEVICE=str(machine.stand.ready()),
            STAND_IN_OVER=json.dumps(over),
        )
        machine.keystore.with_name("rkey.bin.collateral.json").write_bytes(collateral())

    def begin(self, *words: str) -> Running:
        program = str(self.built.made / "rkeyserver")
        path = f"{self.programs}{os.pathsep}{os.defpath}"
        running = Running(
            [program, *words],
            cwd=self.machine.folder,
            env=environment(PATH=path, XDG_RUNTIME_DIR=str(self.runtime), PYTHONPATH="/nowhere"),
        )
        self.machine.started.append(running)
        return running

    def serve(self, *words: str) -> Running:
        own = ("--keystore", str(self.machine.keystore), "--listen", self.machine.address, "--ops", self.machine.ops)
        return self.begin(*own, *words).ready()


@pytest.fixture
def sgx_machines(built: Built, tmp_path: Path) -> Iterator[SgxMachines]:
    measured = built[0].measured()
    image = Enclave(mrenclave=measured.mrenclave.hex(), mrsigner=measured.mrsigner.hex())
    with sgx_machines_in(tmp_path, judged_as_simulated=True, image=image) as made:
        yield made


def test_a_domain_of_two_that_were_built(built: Built, sgx_machines: SgxMachines) -> None:
    first, second = (Host(built[0], sgx_machines(name)) for name in ("first", "second"))
    primary = first.serve()
    standby = second.serve("-i", first.machine.address)
    assert second.machine.status()["domain"] == first.machine.status()["domain"]
    doctor = second.begin(
        *("doctor", "--keystore", str(second.machine.keystore), "--ops", second.machine.ops, "--json"),
        *("-i", first.machine.address),
    ).wait()
    findings = {one["topic"]: one["state"] for one in json.loads(doctor.out)["findings"]}
    assert [findings[topic] for topic in ("record", "machine", "opens", "instance")] == ["good"] * 4, doctor
    assert second.begin("identity").wait().out == f"sgx {second.machine.ppid}\n"
    assert standby.stop().status == 0
    assert primary.stop().status == 0
    # The evidence of each named what `make enclave` had printed.
    for one, events in ((first, ["hand-over", "hand-over"]), (second, ["join", "acknowledge"])):
        lines = decisions_in(Path(f"{one.machine.keystore}.audit.jsonl"))
        decisions = [line for line in lines if line["event"] in events]
        assert [line["event"] for line in decisions] == events
        assert [(line["verdict"], line["peer"]["mrenclave"]) for line in decisions] == [
            ("accepted", built[0].measured().mrenclave.hex())
        ] * 2
