"""docs/operations/many-machines.md: its commands, as they are written and in their order, on real machines.

What is not as written: `rkeyserver`, the ports and folders of the tests, and what the page writes in capitals.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from tests.fakes.processes import DEADLINE, ROOT, Machine, Machines, Running
from tests.integration.test_enrolment import identity, policy
from tests.integration.test_generations import done, generations, member, opens, same, until, wrapped

from rkeyserver.errors import EXIT_STATUS, Rejected, Unavailable

PAGE = ROOT / "docs" / "operations" / "many-machines.md"
COMMAND = re.compile(r"^ {4,}(\w*)\$ +rkeyserver ?(.*)$", re.MULTILINE)


class Page:
    """The page's commands, to be carried out one after the other."""

    def __init__(self, *machines: Machine) -> None:
        self._machines = {one.name: one for one in machines}
        self._left = iter(COMMAND.findall(PAGE.read_text()))

    def _next(self, expected: str, said: dict[str, str]) -> tuple[Machine, list[str]]:
        """The next one: where, and its words. said: what stands in the place of what the page writes."""
        name, words = next(self._left)
        assert f"{name}$ {words}" == expected
        for written, one in said.items():
            assert written in words
            words = words.replace(written, one)
        return self._machines[name], shlex.split(words)

    def starts(self, expected: str, *more: str, **said: str) -> Running:
        """Carry out the next one, which starts an instance. more: options of the test's."""
        machine, words = self._next(expected, said)
        return machine.start(*words, *more)

    def runs(self, expected: str, **said: str) -> str:
        """Carry out the next one, and what it prints."""
        machine, words = self._next(expected, said)
        asks = words[:2] != ["order", "sign"]
        ended = machine.command(*words, *(("--ops", machine.ops) if asks else ()))
        return done(ended)

    def end(self) -> None:
        """Every command was carried out."""
        assert list(self._left) == []


def admin_key(folder: Path) -> str:
    """Make an admin's key there; its public line."""
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "admin", "-f", str(folder / "admin_key")]
    subprocess.run(words, check=True, timeout=DEADLINE)
    return (folder / "admin_key.pub").read_text().strip()


def acknowledged_by(machine: Machine, *others: Machine) -> bool:
    has = {one["member"] for one in machine.status()["members"] if one["acknowledged"]}
    return {member(one) for one in others} <= has


@pytest.mark.simulated_only("an owner's word, and the local socket: on sgx there is neither")
def test_the_page_does_what_it_says(machines: Machines) -> None:
    host, backup, old, admin = (machines(name) for name in ("host", "backup", "old", "admin"))
    page, key, order = Page(host, backup, old, admin), admin.folder / "admin_key", str(admin.folder / "order.json")
    rules = host.folder / "policy.toml"
    rules.write_text(
        policy(host, backup, old, admins=f'\n[admins]\nthreshold = 1\nkeys = ["{admin_key(admin.folder)}"]\n')
    )

    first = page.starts("host$ ", "--policy", str(rules))
    page.starts("backup$ -i 10.23.100.2", **{"10.23.100.2": host.address})
    running = old.start("-i", host.address)
    until("both have shown what they hold", lambda: acknowledged_by(host, backup, old))
    assert page.runs("host$ peer list").count("acknowledged this state") == 2

    # Rotating; one of the two is gone for good.
    (before,) = generations(host)
    secret, gone = wrapped(host, "before"), member(old)
    running.kill()
    assert "is current" in page.runs("host$ rotate")
    assert opens(backup, secret) == "before"
    until("the backup has shown what it holds", lambda: acknowledged_by(host, backup))
    refused = host.command("retire", before, "--ops", host.ops)
    assert (refused.status, gone in refused.err) == (EXIT_STATUS[Unavailable], True)
    page.runs("host$ peer forget ID", ID=gone)
    assert f"Generation {before} is retired." in page.runs("host$ retire ID", ID=before)
    until("the backup follows", lambda: same(host, backup))

    # Taking over, and coming back.
    first.kill()
    assert f"primary {member(backup)}" in page.runs("backup$ promote")
    page.starts("host$ ")
    until("the old primary follows", lambda: same(host, backup))
    assert host.status()["role"] == "standby"

    # Taking a machine away: it has to be there first.
    old.start("-i", backup.address)
    until("all have shown what they hold", lambda: same(host, backup, old) and acknowledged_by(backup, host, old))
    told = page.runs(
        'backup$ policy remove "simulated MACHINE" --key admin_key',
        **{"simulated MACHINE": identity(old), "admin_key": str(key)},
    )
    assert "A generation was added" in told
    until("the other one has moved on", lambda: same(host, backup) and acknowledged_by(backup, host))
    assert old.status()["sequence"] < backup.status()["sequence"]
    assert opens(old, wrapped(old, "what it held, it has")) == "what it held, it has"
    (taken,) = (one for one, state in generations(backup).items() if state == "readable")
    assert f"Generation {taken} is retired." in page.runs("backup$ retire ID", ID=taken)
    page.runs("backup$ peer forget ID", ID=member(old))
    until("the other one follows", lambda: same(host, backup))

    # The word of admins in the place of an owner's.
    page.runs("host$ promote -o order.json", **{"order.json": order})
    page.runs(
        "admin$ order sign --key admin_key order.json -o order.json", **{"order.json": order, "admin_key": str(key)}
    )
    assert f"primary {member(host)}" in page.runs("host$ order apply order.json", **{"order.json": order})
    again = host.command("order", "apply", order, "--ops", host.ops)
    assert (again.status, "epoch" in again.err) == (EXIT_STATUS[Rejected], True)
    page.end()
