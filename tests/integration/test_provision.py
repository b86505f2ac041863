"""An application enclave gets its key from a real instance, with nothing of ours on its side."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.fakes.application import Application, ask, entry, provision, secret_in
from tests.fakes.machines import running
from tests.fakes.processes import DEADLINE, Machine, Machines, Running, opened, reserve

from rkeyserver.appraisal.defaults import default_policy
from rkeyserver.clock import Clock
from rkeyserver.keyring.derivation import derive_into


@pytest.fixture
def port() -> Iterator[int]:
    with reserve() as held:
        yield int(held.getsockname()[1])


def base() -> str:
    image = running()
    return default_policy("simulated", mrsigner=image.mrsigner.hex(), isv_prod_id=image.isv_prod_id).text


def derived(machine: Machine, label: str, size: int, generation: int = -1) -> bytes:
    """What a label's key has to be, from the root key in the machine's record."""
    with contextlib.closing(opened(machine)) as keyring:
        into = bytearray(size)
        root_key = keyring.root_key(keyring.generation_ids[generation])
        derive_into(
            root_key, domain=keyring.domain, purpose="ra-tls secret", label=label.encode(), into=memoryview(into)
        )
        return bytes(into)


def serving(machine: Machine, port: int, *tables: str, policy: str | None = None) -> Running:
    file = machine.folder / "policy.toml"
    file.write_text((policy or base()) + "".join(tables))
    return machine.start("--policy", str(file), "--provision", f"127.0.0.1:{port}")


def ca_of(machine: Machine) -> bytes:
    return httpx.get(f"http://{machine.ops}/provision-ca", trust_env=False, timeout=DEADLINE).raise_for_status().content


VERSIONS = {"TLS 1.2": ssl.TLSVersion.TLSv1_2, "TLS 1.3": ssl.TLSVersion.TLSv1_3}


def test_an_application_gets_the_key_of_its_label(machines: Machines, port: int, tmp_path: Path) -> None:
    host = machines("host")
    serving(host, port, provision(), entry("db"))
    application = Application.on(tmp_path / "app", clock=Clock())
    shown = application.certificate()
    for version in VERSIONS.values():
        for name in ("localhost", "127.0.0.1", "rkey.example"):
            found = secret_in(ask(port, ca_of(host), application.key, shown, name=name, version=version))
            assert found == derived(host, "db", 16)
