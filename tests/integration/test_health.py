"""What whoever watches an instance is told: whether it is ready, whether its record opens, and its numbers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.fakes.processes import DEADLINE, ROOT, Ended, Machine, Machines, rkeyserver

from rkeyserver.errors import EXIT_STATUS, Corrupt, Unavailable

CORRUPT, UNAVAILABLE = EXIT_STATUS[Corrupt], EXIT_STATUS[Unavailable]
GOOD = {"keyring", "record", "audit", "collateral", "coordinator"}


def ready(machine: Machine) -> tuple[int, Any]:
    answer = httpx.get(f"http://{machine.ops}/readyz", trust_env=False, timeout=DEADLINE)
    return answer.status_code, answer.json()


def bad(machine: Machine) -> dict[str, str]:
    """The checks that fail, and what each found."""
    code, found = ready(machine)
    failing = {name: one["found"] for name, one in found["checks"].items() if not one["good"]}
    assert set(found["checks"]) == GOOD
    assert (code == 200) == found["ready"] == (not failing)
    return failing


def drill(machine: Machine, *words: str) -> Ended:
    return rkeyserver("drill", "--ops", machine.ops, *words, cwd=machine.folder)


def metrics(machine: Machine) -> str:
    return httpx.get(f"http://{machine.ops}/metrics", trust_env=False, timeout=DEADLINE).text


def audited(machine: Machine, event: str) -> list[dict[str, Any]]:
    lines = Path(f"{machine.keystore}.audit.jsonl").read_text().splitlines()
    return [found for line in lines if (found := json.loads(line))["event"] == event]


def drilled(machine: Machine) -> Any:
    return httpx.post(f"http://{machine.ops}/v1/drill", trust_env=False, timeout=DEADLINE).json()


def derives(machine: Machine) -> bool:
    with httpx.Client(transport=httpx.HTTPTransport(uds=f"{machine.keystore}.socket"), timeout=DEADLINE) as client:
        return client.post("http://localhost/v1/derive", json={"label": "x"}).status_code == 200


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "deleted": (Path.unlink, "record-gone"),
    "truncated": (cut, "record-does-not-open"),
    "one bit flipped": (flip, "record-does-not-open"),
    "emptied": (lambda path: path.write_bytes(b""), "record-unreadable|record-does-not-open"),
    "something else": (lambda path: path.write_bytes(b"nonsense"), "record-does-not-open"),
    "a folder": (a_folder, "record-unreadable"),
    "another machine's": (lambda path: shutil.copy(path.parent / "other.bin", path), "record-does-not-open"),
    "another domain's": (lambda path: shutil.copy(path.parent / "domain.bin", path), "another-domain"),
}


def test_a_record_that_no_longer_opens_is_told_and_stops_no_caller(machines: Machines) -> None:
    """Each way to lose it under a running instance, and back again: one server, one after the other."""
    other = machines("other")
    host = machines("host")
    other.start()
    shutil.copy(other.keystore, host.folder / "other.bin")
    minted = host.start("--keystore", "domain.bin")  # the same machine, another domain
    assert minted.stop().status == 0
    running = host.start()
    assert bad(host) == {}
    kept = host.keystore.read_bytes()
    for name, (breaks, reason) in BROKEN.items():
        breaks(host.keystore)
        # Without waiting for the next drill: what lies there is no longer what was proved.
        assert list(bad(host)) == ["record"], name
        _, found = ready(host)
        assert found["serving"] is True
        assert found["checks"]["record"]["stops_callers"] is False
        assert httpx.get(f"http://{host.ops}/healthz", trust_env=False).status_code == 200
        assert derives(host)
        found = drilled(host)
        assert found["passed"] is False
        assert re.fullmatch(reason, found["reason"]), name
        assert "Do not stop it" in found["advice"]
        assert "rkeyserver_drill_failing 1.0" in metrics(host)
        if host.keystore.is_dir():
            host.keystore.rmdir()
        host.keystore.write_bytes(kept)
        assert bad(host) == {}, name
        assert drilled(host)["passed"]
    # One line for each change of the outcome, however often it was asked.
    lines = audited(host, "drill")
    assert [line["verdict"] for line in lines] == ["refused", "accepted"] * len(BROKEN)
    assert len(re.findall("TAKEOVER DRILL FAILED", running.err.text)) == 2 * len(BROKEN)


def test_a_drill_by_hand(machines: Machines) -> None:
    host = machines("host")
    host.start()
    ended = drill(host)
    assert (ended.status, ended.err) == (0, "")
    assert re.fullmatch(r"Passed at \S+: The record opens here, and gives the keyring that is served.\n", ended.out)
    assert "drill        passed at " in rkeyserver("status", "--ops", host.ops, cwd=host.folder).out
    host.keystore.unlink()
    ended = drill(host)
    assert (ended.status, ended.err) == (CORRUPT, "")
    assert re.match(r"FAILED at \S+ \(record-gone\): The record is gone\. .*Do not stop it", ended.out)
    shown = rkeyserver("status", "--ops", host.ops, cwd=host.folder).out
    assert re.search(r"WARNING: the takeover drill at \S+ failed \(record-gone\); one passed last: \d", shown)


def test_an_older_state_of_the_record_is_found_out(machines: Machines) -> None:
    """Rolled back: it opens, and is not what is served."""
    host = machines("host")
    host.start()
    old = host.keystore.read_bytes()
    policy = host.folder / "p.toml"
    shown = rkeyserver("policy", "show", "--ops", host.ops, cwd=host.folder).out
    policy.write_text(shown + "# one line more\n")
    changed = rkeyserver("policy", "propose", str(policy), "-o", "c", "--ops", host.ops, cwd=host.folder)
    assert changed.status == 0, changed.err
    assert rkeyserver("policy", "apply", "c", "--ops", host.ops, cwd=host.folder).status == 0
    assert bad(host) == {}
    host.keystore.write_bytes(old)
    assert "served is epoch 0, sequence 2" in bad(host)["record"]
    assert "(another-state)" in drill(host).out


def test_an_audit_file_that_is_gone_is_told(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    host.start()
    Path(f"{host.keystore}.audit.jsonl").unlink()
    assert backup.run("-i", host.address, "--wait", "0").status == UNAVAILABLE
    failing = bad(host)
    assert "was removed" in failing["audit"]
    assert ready(host)[1]["serving"] is True
    assert 'rkeyserver_check_good{check="audit"} 0.0' in metrics(host)


def test_an_audit_file_that_takes_no_line_is_told_and_comes_back(machines: Machines) -> None:
    """By a limit on the size of files, which nothing but a write finds."""
    host, backup = machines("host"), machines("backup")
    running = host.start()
    size = Path(f"{host.keystore}.audit.jsonl").stat().st_size
    limit = ["prlimit", "--pid", str(running.pid)]
    subprocess.run([*limit, f"--fsize={size}:"], check=True)
    assert bad(host) == {}  # nobody has tried
    assert backup.run("-i", host.address, "--wait", "0").status == UNAVAILABLE
    assert "No key leaves until it can." in bad(host)["audit"]
    assert ready(host)[1]["checks"]["audit"]["stops_callers"] is False
    assert derives(host)
    subprocess.run([*limit, "--fsize=unlimited:"], check=True)
    assert bad(host) == {}
    assert [line["verdict"] for line in audited(host, "audit")] == ["accepted"]
    assert backup.run("-i", host.address, "--once").status == 0
    assert 'verdict="refused"' in metrics(host)


def test_an_instance_without_a_keyring_is_not_ready_and_runs_no_drill(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    running = backup.begin("-i", host.address)
    running.err.wait_for("Asking again in")
    code, found = ready(backup)
    assert (code, found["ready"], found["serving"]) == (503, False, False)
    assert found["checks"]["keyring"] == {
        "good": False, "found": "No keyring is held yet.", "stops": "everything", "stops_callers": True,
    }  # fmt: skip
    ended = drill(backup)
    assert ended.status == UNAVAILABLE
    assert "serves no keyring yet" in ended.err
    assert "rkeyserver_serving 0.0" in metrics(backup)
    host.start()
    running.ready()
    assert bad(backup) == {}


@pytest.mark.sgx_too
def test_a_standby_proves_its_own_record(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    host.start()
    backup.start("-i", host.address)
    for machine in (host, backup):
        found = json.loads(drill(machine, "--json").out)
        assert found["passed"]
        assert machine.status()["drill"] | {"last_success": None} == found | {"last_success": None}
        assert bad(machine) == {}
        assert 'rkeyserver_drills_total{outcome="failed"} 0.0' in metrics(machine)


# Names and units, as Prometheus's own checker has them.


def test_metrics_are_as_prometheus_wants_them(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    host.start()
    backup.start("-i", host.address)
    assert derives(host)
    assert backup.run("-i", host.address, "--once", "--keystore", "elsewhere").status == 0
    text = metrics(host)
    checked = subprocess.run(["promtool", "check", "metrics"], input=text.encode(), capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
    handed = host.status()["hand_overs"]
    assert handed >= 2
    assert f'rkeyserver_hand_overs_total{{reason="",verdict="accepted"}} {handed}.0' in text
    assert f"rkeyserver_hand_over_duration_seconds_count {handed}.0" in text
    (behind,) = re.findall(rf'states_behind\{{machine="\w+",member="{backup.status()["member"]}"\}} (\S+)', text)
    assert behind == "0.0"
    assert 'rkeyserver_caller_request_duration_seconds_count{action="derive"} 1.0' in text
    assert 'rkeyserver_role{role="primary"} 1.0' in text
    assert 'rkeyserver_role{role="standby"} 1.0' in metrics(backup)
    seen = re.findall(r'rkeyserver_peer_last_seen_timestamp_seconds\{machine="([0-9a-f]{32})"\} (\S+)', text)
    assert [name for name, _ in seen] == [backup.status()["machine"]]
    assert abs(float(seen[0][1]) - time.time()) < 60
    # The page has each family, and no other; so have the alerts.
    page = (ROOT / "docs" / "operations" / "metrics.md").read_text()
    documented = set(re.findall(r"^\| .*?`(rkeyserver_\w+)", page, re.MULTILINE))
    documented |= {name for row in re.findall(r"^\| (`rkeyserver_[^|]*)\|", page, re.MULTILINE)
                   for name in re.findall(r"`(rkeyserver_\w+)", row)}  # fmt: skip
    given = set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
    # With --pccs only.
    with_pccs = {"rkeyserver_collateral_last_success_timestamp_seconds", "rkeyserver_collateral_refresh_failing"}
    assert documented == given | with_pccs


RULES = ROOT / "packaging" / "prometheus" / "rkeyserver.rules.yaml"


def test_the_alerts_are_rules_that_fire_as_said(tmp_path: Path) -> None:
    shutil.copy(RULES, tmp_path)
    shutil.copy(ROOT / "tests" / "packaging" / "rkeyserver.rules.test.yaml", tmp_path)
    for words in (["check", "rules", RULES.name], ["test", "rules", "rkeyserver.rules.test.yaml"]):
        ended = subprocess.run(["promtool", *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    alerts = set(re.findall(r"alert: (\w+)", RULES.read_text()))
    page = (ROOT / "docs" / "operations" / "metrics.md").read_text()
    assert set(re.findall(r"^\| `(Rkeyserver\w+)` \|", page, re.MULTILINE)) == alerts
    tried = set(re.findall(r"alertname: (\w+)", (tmp_path / "rkeyserver.rules.test.yaml").read_text()))
    assert tried == alerts
    named = set(re.findall(r"\brkeyserver_\w+?(?=_bucket\b|\b)", " ".join(re.findall("expr: (.*)", RULES.read_text()))))
    assert named <= set(re.findall(r"rkeyserver_\w+", page))
