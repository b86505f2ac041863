"""A change of policy whose instance is killed at each system call that touches the keystore: old or new, whole."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.flavours import machine_of
from tests.fakes.keyrings import MEMBER, OWNER
from tests.fakes.policy_writer import opened_instance
from tests.fakes.processes import ROOT
from tests.fakes.signing import HERE, PEER, change_of, policy_text
from tests.fakes.traced_writer import Point, Run, traced_command

from rkeyserver.clock import Clock
from rkeyserver.errors import EXIT_OK, Reason, Rejected
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.sealed import seal_keyring
from rkeyserver.service.authority import Authority
from rkeyserver.service.steward import Steward

SHARDS = 2


@dataclass(frozen=True)
class Before:
    """A machine with a domain, and a change that takes another machine off."""

    folder: Path
    platform: str
    old: str
    new: str

    @classmethod
    def made(cls, folder: Path, kind: str) -> Before:
        (folder / "store").mkdir(parents=True)
        platform = machine_of(kind, folder / "machine", Clock())
        machine = platform.attester_identity().machine
        said: dict[str, Any] = {
            "mrsigner": platform.mrsigner,
            "isv_prod_id": platform.isv_prod_id,
            "platform": kind,
            "admins": ["alice"],
        }
        old, new = policy_text(machine, PEER, HERE, **said), policy_text(machine, HERE, **said)
        with contextlib.closing(Keyring.mint(primary=MEMBER, now=1, policy=old)) as keyring:
            (folder / "store" / "rkey.bin").write_bytes(seal_keyring(keyring, platform, OWNER, now=1))
            (folder / "change.json").write_text(change_of(keyring.header, new, "alice").text())
        return cls(folder, kind, old, new)

    def copied(self, folder: Path) -> Before:
        shutil.copytree(self.folder, folder)
        return Before(folder, self.platform, self.old, self.new)

    def run(self, *injections: str) -> Run:
        script = ROOT / "tests" / "fakes" / "policy_writer.py"
        command = [sys.executable, "-P", "-B", str(script)]  # beside it lies a platform.py
        return traced_command([*command, str(self.folder), self.platform], list(injections), self.folder / "trace")

    def survey(self) -> str:
        """What is stored now; everything that must hold is checked, and the change is applied (again)."""
        document = (self.folder / "change.json").read_bytes()
        with opened_instance(self.folder, self.platform) as instance:
            assert instance.keyring is not None
            header = instance.keyring.header
            state = {self.old: "old", self.new: "new"}[header.policy]
            assert (header.sequence, len(header.generations)) == ((1, 1) if state == "old" else (2, 2))
            lines = (self.folder / "audit.jsonl").read_text()
            if state == "new":
                assert '"event":"policy","verdict":"accepted"' in lines, "in force, and not on record"
                with pytest.raises(Rejected) as raised:
                    asyncio.run(Authority(Steward(instance)).apply(document, owner=False))
                assert raised.value.reason is Reason.NOT_THE_NEXT_CHANGE
            else:
                assert asyncio.run(Authority(Steward(instance)).apply(document, owner=False)).change == 1
            assert [path for path in (self.folder / "store").iterdir() if ".new~" in path.name] == []
        return state


def points_of(run: Run) -> list[Point]:
    """The calls of the main thread that touch the keystore."""
    return [one for one in run.points() if re.search(r"/store[/>]", one.line) and one.call != "read"]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory, platform: str) -> Before:
    return Before.made(tmp_path_factory.mktemp("policy") / "before", platform)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_killed_at_every_call_that_touches_the_keystore(before: Before, tmp_path: Path, shard: int) -> None:
    whole = before.copied(tmp_path / "whole")
    undisturbed = whole.run()
    assert undisturbed.status == EXIT_OK, undisturbed.log
    assert undisturbed.output[-1:] == ["applied 1"]
    assert whole.survey() == "new"
    points = points_of(undisturbed)
    assert len(points) >= 10, "the trace misses system calls"
    states = []
    for number in range(shard, len(points), SHARDS):
        one = before.copied(tmp_path / str(number))
        killed = one.run(points[number].inject("signal=SIGKILL"))
        assert killed.status == -signal.SIGKILL, f"not killed at {points[number].line}"
        states.append(one.survey())
        shutil.rmtree(one.folder)
    assert states == sorted(states, key=["old", "new"].index), "it changes once"
    assert (states[0], states[-1]) == ("old", "new")
