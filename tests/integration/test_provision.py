"""Application enclaves get their keys from real instances, with nothing of ours on their side."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.fakes.application import SECONDS, Application, ask, enclave, entry, provision, secret_in
from tests.fakes.machines import machine as simulated_machine
from tests.fakes.machines import private_authority, running
from tests.fakes.processes import DEADLINE, Machine, Machines, opened, reserve, rkeyserver
from tests.fakes.provisioning import derived, until
from tests.integration.test_no_key_in_output import READABLE, scan, under
from tests.sgx.machines import sgx_machines_in

from rkeyserver.appraisal.change import propose
from rkeyserver.appraisal.defaults import default_policy
from rkeyserver.clock import Clock
from rkeyserver.secret import MemoryKind
from rkeyserver.service.provision_ca import Ca
from rkeyserver.service.routes import POLICY_PATH


@pytest.fixture
def port() -> Iterator[int]:
    with reserve() as held:
        yield int(held.getsockname()[1])


def base() -> str:
    image = running()
    return default_policy("simulated", mrsigner=image.mrsigner.hex(), isv_prod_id=image.isv_prod_id).text


def written(machine: Machine, name: str, *texts: str) -> str:
    file = machine.folder / name
    file.write_text("".join(texts))
    return str(file)


def key_of(machine: Machine, label: str, size: int, generation: int = -1) -> bytes:
    """What a label's key has to be, from the root key in the machine's record."""
    with contextlib.closing(opened(machine)) as keyring:
        return derived(keyring, label, size, generation)


def ca_of(machine: Machine, generation: str = "") -> bytes:
    url = f"http://{machine.ops}/provision-ca"
    found = httpx.get(url, params={"generation": generation}, trust_env=False, timeout=DEADLINE)
    return found.raise_for_status().content


def provisioning(machine: Machine) -> dict[str, Any]:
    found: dict[str, Any] = machine.status()["provision"]
    return found


def listens(machine: Machine) -> None:
    until(lambda: provisioning(machine)["listening"], "it listens")


def application(folder: Path, **differences: Any) -> Application:
    return Application.on(folder, clock=Clock(), **differences)


def lines(machine: Machine) -> list[dict[str, Any]]:
    return [line for line in machine.audit() if line["event"] == "provision"]


VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


def test_from_nothing_to_a_key_and_not_a_byte_of_it_stays(machines: Machines, port: int, tmp_path: Path) -> None:
    host = machines("host")
    policy = written(host, "policy.toml", base(), provision(), entry("db", size=32), entry("log", isv_prod_id=9))
    server = host.start("--policy", policy, "--provision", f"127.0.0.1:{port}", "--log-level", "debug", under=under())
    listens(host)
    one = application(tmp_path / "one")
    shown = one.certificate()
    for version in VERSIONS:
        for name in ("localhost", "127.0.0.1", "rkey.example"):
            found = secret_in(ask(port, ca_of(host), one.key, shown, name=name, version=version))
            assert found == key_of(host, "db", 32)
    other = application(tmp_path / "other", isv_prod_id=9)
    assert secret_in(ask(port, ca_of(host), other.key, other.certificate())) == key_of(host, "log", 16)
    stranger = application(tmp_path / "stranger", isv_prod_id=10)
    assert ask(port, ca_of(host), stranger.key, stranger.certificate()) == b""

    until(lambda: provisioning(host)["given"] == 7, "all are counted")
    accepted, refused = lines(host)[:7], lines(host)[7:]
    assert [line["label"] for line in accepted] == ["db"] * 6 + ["log"]
    assert {line["verdict"] for line in accepted} == {"accepted"}
    assert [(line["verdict"], line["reason"]) for line in refused] == [("refused", "application-not-named")]
    assert all({"peer", "policy", "domain", "sequence"} <= set(line) for line in accepted + refused)
    status = host.status()
    assert status["refused"] == {"application-not-named": 1}
    assert x509.load_pem_x509_certificate(ca_of(host)).fingerprint(_sha256()).hex() == status["provision"]["ca_sha256"]
    text = rkeyserver("status", "--ops", host.ops, cwd=host.folder).out
    assert f"applications 7 keys given; on 127.0.0.1:{port}" in text
    assert f"SHA-256 {status['provision']['ca_sha256']}" in text
    metrics = httpx.get(f"http://{host.ops}/metrics", trust_env=False, timeout=DEADLINE).text
    assert "rkeyserver_provisioned_total 7.0" in metrics
    assert "rkeyserver_provision_listening 1.0" in metrics

    written(host, "printed", server.out.text, server.err.text, json.dumps(status), text)
    files = [path for path in host.folder.rglob("*") if path.is_file()]
    seen = scan(host, processes=[server.pid], files=files, labels=["db"])
    assert seen["found"] == READABLE[MemoryKind(status["key_memory"])](server.pid)


def _sha256() -> Any:
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415 - for this alone

    return SHA256()


def test_without_applications_nothing_listens(machines: Machines, port: int) -> None:
    host = machines("host")
    host.start("--provision", f"127.0.0.1:{port}")
    assert provisioning(host) == {
        "listening": [], "problem": "", "given": 0, "ca_generation": None, "ca_sha256": None
    }  # fmt: skip
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), SECONDS)
    found = httpx.get(f"http://{host.ops}/provision-ca", trust_env=False, timeout=DEADLINE)
    assert found.status_code == httpx.codes.SERVICE_UNAVAILABLE


def apply(machine: Machine, *tables: str) -> dict[str, Any]:
    """Change the policy of an instance, as its owner."""
    socket_path = str(machine.keystore.with_name("rkey.bin.socket"))
    with httpx.Client(transport=httpx.HTTPTransport(uds=socket_path), timeout=DEADLINE) as owner:
        now = owner.get(f"http://owner{POLICY_PATH}").raise_for_status().json()
        new = propose(
            domain=now["domain"], sequence=now["change"] + 1, replaces=now["policy"], policy=base() + "".join(tables)
        )
        answer = owner.post(f"http://owner{POLICY_PATH}", content=new.text())
        assert answer.is_success, answer.text
        found: dict[str, Any] = answer.json()
        return found


def test_a_change_of_the_policy_opens_and_closes_it_and_rotates(machines: Machines, port: int, tmp_path: Path) -> None:
    host = machines("host")
    host.start("--provision", f"127.0.0.1:{port}")
    apply(host, provision("first"), entry("db", generation="first"), entry("log", isv_prod_id=9))
    listens(host)
    ca = ca_of(host)
    db, log = application(tmp_path / "db"), application(tmp_path / "log", isv_prod_id=9)
    keys = [secret_in(ask(port, ca, one.key, one.certificate())) for one in (db, log)]
    assert len(host.status()["generations"]) == 1, "to name one more is not less"

    done = apply(host, provision("first"), entry("db", generation="first"))
    assert done["narrowed"] == ["[applications 'log']: gets no key any more."]
    assert len(host.status()["generations"]) == 2, "to take one off is"
    assert ask(port, ca, log.key, log.certificate()) == b""
    # Named is the first generation, for the key and for the CA: both are what they were.
    assert secret_in(ask(port, ca, db.key, db.certificate())) == keys[0] == key_of(host, "db", 16, generation=0)

    apply(host, provision("current"), entry("db"))
    until(lambda: provisioning(host)["ca_generation"] == host.status()["generations"][1]["id"], "the new CA")
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(port, ca, db.key, db.certificate())
    new = secret_in(ask(port, ca_of(host), db.key, db.certificate()))
    assert new == key_of(host, "db", 16) != keys[0]
    assert ca_of(host, "first") == ca

    apply(host)
    until(lambda: not provisioning(host)["listening"], "it closes")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), SECONDS)


def test_a_generation_that_does_not_exist_is_refused_before_it_counts(machines: Machines, port: int) -> None:
    host = machines("host")
    policy = written(host, "policy.toml", base(), provision("00" * 16), entry("db"))
    ended = host.run("--policy", policy, "--provision", f"127.0.0.1:{port}")
    assert "names generation 00000000000000000000000000000000, which is none of the keyring's" in ended.err
    assert not host.keystore.exists()


def test_every_machine_of_the_domain_gives_the_same_under_the_same_ca(
    machines: Machines, port: int, tmp_path: Path
) -> None:
    host, backup = machines("host"), machines("backup")
    policy = written(host, "policy.toml", base(), provision(), entry("db"))
    host.start("--policy", policy, "--provision", f"127.0.0.1:{port}")
    listens(host)
    one = application(tmp_path / "app")
    ca = ca_of(host)
    first = secret_in(ask(port, ca, one.key, one.certificate()))
    with reserve() as held:
        backup.start("-i", host.address, "--provision", f"127.0.0.1:{held.getsockname()[1]}")
        listens(backup)
        assert ca_of(backup) == ca, "byte for byte"
        again = ask(held.getsockname()[1], ca, one.key, one.certificate())
    assert secret_in(again) == first
    with contextlib.closing(opened(backup)) as keyring:
        made = Ca.derive(keyring, keyring.current.id)
        assert made.certificate.public_bytes(Encoding.PEM) == ca


def test_a_port_that_is_taken_does_not_keep_it_from_serving_peers(machines: Machines, tmp_path: Path) -> None:
    host = machines("host")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        policy = written(host, "policy.toml", base(), provision(), entry("db"))
        host.start("--policy", policy, "--provision", f"127.0.0.1:{taken.getsockname()[1]}")
        until(lambda: provisioning(host)["problem"], "it says so")
        assert (
            "WARNING: applications get no keys: Cannot listen on"
            in rkeyserver("status", "--ops", host.ops, cwd=host.folder).out
        )
        port = taken.getsockname()[1]
    until(lambda: provisioning(host)["listening"], "it listens")
    one = application(tmp_path / "app")
    assert secret_in(ask(port, ca_of(host), one.key, one.certificate())) == key_of(host, "db", 16)


def test_on_sgx(port: int, tmp_path: Path) -> None:
    """The same over the stand-in for SGX: the collateral that is held serves, verification is inline."""
    with sgx_machines_in(tmp_path, judged_as_simulated=True) as machines:
        host = machines("host")
        image = host.image
        own = default_policy("simulated", mrsigner=image.mrsigner, isv_prod_id=image.isv_prod_id).text
        own = own.replace("[simulated]", "[sgx]")
        policy = written(host, "policy.toml", own, provision(), entry("db"))
        host.start("--policy", policy, "--provision", f"127.0.0.1:{port}")
        listens(host)
        made = simulated_machine(tmp_path / "app", Clock(), enclave=enclave, authority=private_authority)
        one = Application(made)
        found = secret_in(ask(port, ca_of(host), one.key, one.certificate()))
        assert found == key_of(host, "db", 16)
        (line,) = lines(host)
        assert (line["verdict"], line["peer"]["platform"], line["label"]) == ("accepted", "sgx", "db")
        debug = Application(
            simulated_machine(tmp_path / "d", Clock(), enclave=lambda: enclave(debug=True), authority=private_authority)
        )
        assert ask(port, ca_of(host), debug.key, debug.certificate()) == b""
        assert host.status()["refused"] == {"debug-enclave": 1}
