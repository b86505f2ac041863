"""What attested release leaves behind in memory, of the server and of the enclave: no key, and no way to one."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Final

import pytest
from tests.attacks.left_in_memory import Recorded
from tests.attacks.test_left_in_memory import KnownKey, scan, under
from tests.fakes.machines import running
from tests.fakes.processes import ROOT, Machine, Machines, Running, environment, opened

from rkeyserver.appraisal.defaults import default_policy
from rkeyserver.client.enclave import entry, servers, simulated
from rkeyserver.client.release import release
from rkeyserver.exchange import requester
from rkeyserver.exchange.messages import Release, decode
from rkeyserver.exchange.requester import Released, Requesting
from rkeyserver.keyring.derived import derive

pytestmark = pytest.mark.simulated_only(
    "what releases and what takes keys is the same code on both; on sgx tests/sgx/test_release.py has it"
)

TIMES: Final = 5
LABELS: Final = ("db/a", "db/b")


def served(host: Machine, entry_text: str) -> Running:
    image = running()
    base = default_policy("simulated", mrsigner=image.mrsigner.hex(), isv_prod_id=image.isv_prod_id).text
    file = host.folder / "policy.toml"
    file.write_text(f"{base}\n{entry_text}")
    return host.start("--policy", str(file), under=under())


def secrets_of(host: Machine) -> dict[str, bytes]:
    """The root key, and the derived keys that are released."""
    with contextlib.closing(opened(host)) as keyring:
        found = {"root key": bytes(keyring.root_key(keyring.current.id))}
        for label in LABELS:
            with derive(keyring, label.encode(), size=32, generation="current").secret as secret:
                found[f"key of {label}"] = bytes(secret.view)
    return found


def test_a_server_keeps_no_key_that_it_released(
    processes: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requester, "OneTimeKey", KnownKey)
    recorded: list[dict[str, bytes]] = []
    honest = Requesting.released

    async def noted(self: Requesting, answer: bytes) -> Released:
        assert isinstance(self._key, KnownKey)
        found = Recorded(decode(answer, Release).ciphertext, self.transcript)
        recorded.append(found.secrets(self._key.mlkem, self._key.x25519))
        return await honest(self, answer)

    monkeypatch.setattr(Requesting, "released", noted)
    enclave = simulated(tmp_path / "enclave", b"code")
    host = processes("host")
    server = served(host, entry(enclave, ["db/*"]))
    domain = host.status()["domain"]
    image = running()
    trusted = servers("simulated", mrsigner=image.mrsigner.hex(), isv_prod_id=image.isv_prod_id)
    for _ in range(TIMES):
        release([host.address], LABELS, domain=domain, attester=enclave, policy=trusted).close()
    assert len(recorded) == TIMES
    values = {f"{name} {number}": value for number, one in enumerate(recorded) for name, value in one.items()}
    found = scan(server.pid, values | secrets_of(host) | {"domain": domain.encode()}, [])["found"]
    assert {name for _where, name in found} == {"domain", "domain, first half", "domain, second half"}


ASKING: Final = """
import sys, time
from pathlib import Path
from rkeyserver.client.enclave import entry, servers, simulated
from rkeyserver.client.release import release
folder, address, domain, mrsigner, labels = sys.argv[1:]
trusted = servers("simulated", mrsigner=mrsigner, isv_prod_id=1)
for _ in range(3):
    release([address], labels.split(), domain=domain, attester=simulated(Path(folder), b"code"), policy=trusted).close()
keys = release([address], labels.split(), domain=domain, attester=simulated(Path(folder), b"code"), policy=trusted)
print("released", flush=True)
time.sleep(3600)
"""


def test_an_enclave_has_its_keys_in_key_memory_alone(processes: Machines, tmp_path: Path) -> None:
    folder = tmp_path / "enclave"
    host = processes("host")
    served(host, entry(simulated(folder, b"code"), ["db/*"]))
    domain = host.status()["domain"]
    words = (str(folder), host.address, domain, running().mrsigner.hex(), " ".join(LABELS))
    asking = Running([*under(), sys.executable, "-c", ASKING, *words], cwd=ROOT, env=environment())
    host.started.append(asking)
    asking.out.wait_for("released")
    found = scan(asking.pid, secrets_of(host) | {"domain": domain.encode()}, [])["found"]
    assert {name for _where, name in found} == {"domain", "domain, first half", "domain, second half"}
