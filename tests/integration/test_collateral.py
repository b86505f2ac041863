"""Collateral with real processes: fetched over real TLS, held on disk, sent along to who has none."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.fakes import no_way_out
from tests.fakes.flavours import AUTHORITY, SGX, processes_in
from tests.fakes.pccs import SIMULATED, PccsStandIn, Reply, Tls, honest, issued_at, pccs
from tests.fakes.processes import ROOT, Machine, Machines, key_proof, rkeyserver

from rkeyserver.attestation.sgx.bundle import Entry, read_bundle, write_bundle
from rkeyserver.attestation.sgx.collateral import Collateral
from rkeyserver.errors import EXIT_STATUS, Rejected, Unavailable
from rkeyserver.platforms.simulated import tcb

NUMBER = 21  # what the service has is a later one than what simulated machines issue themselves


def offline(machine: Machine) -> dict[str, Any]:
    """What a process is started with where nobody issues it collateral. On sgx nobody does anyway."""
    if machine.platform_name == "sgx":
        return {}
    return {"under": (sys.executable, "-m", no_way_out.__name__), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}


def issued(platform: str, ago: int) -> Collateral:
    return issued_at(int(time.time()) - ago, NUMBER, AUTHORITY[platform])


@pytest.fixture
def machines(tmp_path: Path, platform: str) -> Iterator[Machines]:
    """Machines that begin without collateral."""
    with processes_in(platform, tmp_path, **({"holds_collateral": False} if platform == SGX else {})) as made:
        yield made


@pytest.fixture
def service(tmp_path: Path, platform: str) -> Iterator[PccsStandIn]:
    with pccs(issued(platform, 3600), Tls.make(tmp_path)) as running:
        yield running


def fetching(service: PccsStandIn) -> list[str]:
    return ["--pccs", service.url, "--pccs-ca", str(service.ca)]


def file_of(machine: Machine) -> Path:
    return machine.keystore.with_name("rkey.bin.collateral.json")


def metrics(machine: Machine) -> dict[str, float]:
    answer = httpx.get(f"http://{machine.ops}/metrics", trust_env=False)
    assert answer.headers["content-type"].startswith("text/plain; version=")
    lines = [line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def down(_path: str, _reply: Reply) -> Reply:
    return Reply(503)


EXPIRY = f'rkeyserver_collateral_expiry_timestamp_seconds{{ca="processor",fmspc="{SIMULATED.fmspc}",own="true"}}'


def days_left(machine: Machine) -> float:
    return (metrics(machine)[EXPIRY] - time.time()) / 86400


@pytest.mark.sgx_too
def test_a_machine_without_a_way_out_lives_on_what_is_sent_along(machines: Machines, service: PccsStandIn) -> None:
    host, backup, third = machines("host"), machines("backup"), machines("third")
    running = host.start(*fetching(service))
    running.err.wait_for("Fetched collateral for FMSPC")
    held = host.status()["collateral"]
    assert (held["pccs"], held["last_error"]) == (service.url, "")
    assert held["last_success"] is not None
    ((own,),) = [held["held"]]
    assert (own["own"], own["evaluation_number"], own["source"]) == (True, NUMBER, service.url)
    assert 29 < own["days_left"] < 30
    assert 29 < days_left(host) < 30
    assert time.time() - metrics(host)["rkeyserver_collateral_last_success_timestamp_seconds"] < 60

    # It has none, and nobody issues it any: its own evidence is verified by what the host holds, the host's by what
    # the host sends along.
    first = backup.start("-i", host.address, **offline(backup))
    assert key_proof(backup) == key_proof(host)
    (learned,) = backup.status()["collateral"]["held"]
    assert (learned["own"], learned["evaluation_number"], learned["source"]) == (True, NUMBER, "a peer")
    assert read_bundle(file_of(backup).read_bytes())[0].collateral == service.collateral

    # The service is gone, and so is the host: what the backup learned outlives both its start and theirs.
    service.change = down
    running.stop()
    first.stop()
    backup.start(**offline(backup))
    third.start("-i", backup.address, **offline(third))
    assert key_proof(third) == key_proof(backup)
    assert third.status()["collateral"]["held"][0]["evaluation_number"] == NUMBER


def test_the_service_is_down_at_a_restart(machines: Machines, service: PccsStandIn) -> None:
    host, backup, third = machines("host"), machines("backup"), machines("third")
    running = host.start(*fetching(service))
    running.err.wait_for("Fetched collateral")
    running.stop()
    service.change = down
    asked = len(service.asked)
    running = host.start(*fetching(service))
    backup.start("-i", host.address, **offline(backup))
    assert key_proof(backup) == key_proof(host)
    assert host.status()["collateral"]["held"][0]["source"] == service.url
    assert len(service.asked) == asked  # what is held is an hour old: nobody is asked before it is time

    # Where it is time, the failure is said, and what is held serves on.
    running.stop()
    (entry,) = read_bundle(file_of(host).read_bytes())
    file_of(host).write_bytes(write_bundle([msgspec.structs.replace(entry, fetched=entry.fetched - 90_000)]))
    running = host.start(*fetching(service))
    running.err.wait_for("No new collateral; trying again in about 5 seconds. The PCCS .* answers 503")
    assert third.run("-i", host.address, "--once", **offline(third)).status == 0
    assert "answers 503" in host.status()["collateral"]["last_error"]
    assert metrics(host)["rkeyserver_collateral_refresh_failing"] == 1
    said = rkeyserver("status", "--ops", host.ops, cwd=host.folder).out
    about = rf"^collateral   this machine's \(FMSPC {SIMULATED.fmspc}, processor CA\): .*, (29|30)\.\d days left, from "
    assert re.search(about, said, re.MULTILINE)
    assert f"PCCS         {service.url}, last answered never since the start" in said
    assert "WARNING: the last fetch failed: The PCCS" in said


def holds(machine: Machine, service: PccsStandIn, collateral: Collateral) -> None:
    file_of(machine).write_bytes(write_bundle([Entry(SIMULATED.fmspc, SIMULATED.ca, service.url, 0, collateral)]))


def holds_what_has_expired(machine: Machine, service: PccsStandIn) -> None:
    holds(machine, service, issued(machine.platform_name, tcb.VALID_FOR + 3600))


def issues_its_own(machine: Machine, service: PccsStandIn) -> None:
    """What a simulated machine does; on sgx it is given as much."""
    if machine.platform_name == SGX:
        holds(machine, service, issued_at(int(time.time()) - 7200, authority=AUTHORITY[SGX]))


def test_what_has_expired_is_refused_by_name(machines: Machines, service: PccsStandIn) -> None:
    host, backup = machines("host"), machines("backup")
    issues_its_own(host, service)
    host.start().stop()
    holds_what_has_expired(host, service)
    service.change = down
    running = host.start(*fetching(service), "--log-level", "debug")
    running.err.wait_for("The collateral of this machine expired at .*: it can hand over no key")
    ended = backup.run("-i", host.address, "--once", "--wait", "0", **offline(backup))
    assert (ended.status, backup.keystore.exists()) == (EXIT_STATUS[Rejected], False)
    running.err.wait_for(r"Refused .*: collateral-expired\. No collateral was sent with the quote, .* expired at")
    assert host.status()["refused"] == {"collateral-expired": 1}
    assert metrics(host)['rkeyserver_refused_total{reason="collateral-expired"}'] == 1
    assert -0.1 < days_left(host) < 0
    said = rkeyserver("status", "--ops", host.ops, cwd=host.folder).out
    assert "WARNING: the collateral of this machine HAS EXPIRED" in said

    # The service is back: nobody has to start anything again.
    service.change = honest
    running.err.wait_for("Fetched collateral")
    assert backup.run("-i", host.address, "--once", **offline(backup)).status == 0


def test_no_domain_is_made_by_a_machine_that_could_hand_over_no_key(machines: Machines, service: PccsStandIn) -> None:
    host, other = machines("host"), machines("other")
    service.change = down
    ended = host.run(*fetching(service))
    assert ended.status == EXIT_STATUS[Unavailable]
    assert "There is no collateral for this machine yet. The PCCS" in ended.err
    holds_what_has_expired(other, service)
    ended = other.run(*fetching(service))
    assert ended.status == EXIT_STATUS[Unavailable]
    assert "The collateral of this processor model (FMSPC 00534d554c00, processor CA) expired at" in ended.err
    assert not host.keystore.exists()
    assert not other.keystore.exists()
    service.change = honest
    host.start(*fetching(service))  # the first answer is waited for


def test_a_peer_brings_what_a_host_lacks(machines: Machines, service: PccsStandIn) -> None:
    host, backup = machines("host"), machines("backup")
    issues_its_own(host, service)
    host.start().stop()
    holds_what_has_expired(host, service)
    host.start(**offline(host))
    issues_its_own(backup, service)
    assert backup.run("-i", host.address, "--once").status == 0
    assert host.status()["collateral"]["held"][0]["source"] == "a peer"


def test_a_standby_waits_for_the_first_answer(machines: Machines, service: PccsStandIn) -> None:
    host, backup = machines("host"), machines("backup")
    issues_its_own(host, service)  # with a lower number
    host.start()
    assert backup.run("-i", host.address, "--once", *fetching(service), **offline(backup)).status == 0
    (entry,) = read_bundle(file_of(backup).read_bytes())
    assert (entry.source, entry.collateral) == (service.url, service.collateral)


def test_a_bundle_is_carried_to_a_machine_without_a_way_out(machines: Machines, service: PccsStandIn) -> None:
    host, backup, office = machines("host"), machines("backup"), machines("office")
    (office.folder / "quote").write_bytes(host.platform().evidence(bytes(64)))
    fetched = office.command("collateral", "fetch", *fetching(service), "--quote", "quote", "-o", "bundle.json")
    assert (fetched.status, fetched.err) == (0, "")
    host.start("--collateral", str(office.folder / "bundle.json"), **offline(host))
    backup.start("-i", host.address, **offline(backup))
    assert key_proof(backup) == key_proof(host)
    (held,) = host.status()["collateral"]["held"]
    assert (held["source"], held["own"]) == (service.url, True)
    assert not file_of(host).exists()


def test_a_damaged_file_is_a_warning_and_is_fetched_again(machines: Machines, service: PccsStandIn) -> None:
    host = machines("host")
    file_of(host).write_bytes(b"\0" * 4096)
    running = host.start(*fetching(service))
    running.err.wait_for("cannot be used: The bundle cannot be read: .* It was set aside as .*damaged")
    running.err.wait_for("Fetched collateral")
    assert len(read_bundle(file_of(host).read_bytes())) == 1


WRONG: dict[str, tuple[list[str], str]] = {
    "plain http": (["--pccs", "http://127.0.0.1/sgx/certification/v4"], "It is asked over https only"),
    "no CA": (["--pccs", "https://127.0.0.1:1", "--pccs-ca", "missing"], "missing, cannot be used: No such file"),
    "the keystore": (["--collateral", "rkey.bin"], "part of the keystore"),
    "the keystore's lock": (["--collateral", "rkey.bin.lock"], "part of the keystore"),
    "the audit file": (["--collateral", "rkey.bin.audit.jsonl"], "is the audit file"),
}


@pytest.mark.parametrize(("words", "says"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_said(machines: Machines, words: list[str], says: str) -> None:
    host = machines("host")
    ended = host.run(*words)
    assert ended.status == 2
    assert says in ended.err
    assert not host.keystore.exists()


@pytest.mark.simulated_only("on sgx there is no start without any of it")
def test_without_any_of_it_nothing_is_held_and_nothing_written(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    host.start()
    assert backup.run("-i", host.address, "--once").status == 0
    assert not any(file_of(machine).exists() for machine in (host, backup))
    assert host.status()["collateral"] == {"pccs": "", "last_success": None, "last_error": "", "held": []}
    found = metrics(host)
    assert EXPIRY not in found
    assert (
        found.items()
        >= {
            "rkeyserver_serving": 1,
            "rkeyserver_peers": 1,
            "rkeyserver_ways_back": 1,
            "rkeyserver_record_readable": 1,
            'rkeyserver_hand_overs_total{reason="",verdict="accepted"}': 1,
            "rkeyserver_provision_listening": 0,
            "rkeyserver_provisioned_total": 0,
            "rkeyserver_callers_listening": 0,
            "rkeyserver_releases_total": 0,
        }.items()
    )
    assert json.dumps(found)
