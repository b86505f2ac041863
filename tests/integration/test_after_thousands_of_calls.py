"""No root key anywhere but in key memory, after thousands of calls on every surface and over a rotation.

And no caller's own key or secret in the server's memory once it was answered.
"""

from __future__ import annotations

import contextlib
import mmap
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import pytest
from tests.attacks import test_left_in_memory as left
from tests.fakes.application import ask, provision, secret_in
from tests.fakes.application import entry as application_entry
from tests.fakes.machines import running
from tests.fakes.processes import DEADLINE, Machine, Machines, opened, reserve
from tests.fakes.provisioning import until
from tests.integration.test_no_key_in_output import scan, under
from tests.integration.test_provision import application, apply, base, ca_of, listens, written
from tests.integration.test_tokens import TOKEN
from tests.integration.test_tokens import entry as token_entry

from rkeyserver.client import Client
from rkeyserver.client.enclave import entry as enclave_entry
from rkeyserver.client.enclave import servers, simulated
from rkeyserver.client.release import release
from rkeyserver.keyring.derived import derive
from rkeyserver.tokens import token_of

pytestmark = pytest.mark.simulated_only(
    "of the host's policy; on sgx there is no local socket, and nobody reads memory"
)

CALLS: Final = 250  # of each action, on each of the two surfaces, in each of the two generations
ATTESTED: Final = 15  # on each of two more
SOME: Final = 10
DRILLS: Final = 100
MOST_PAGES: Final = 8
LABELS: Final = ("db/a", "db/b")
ALL: Final = ("derive", "wrap", "unwrap", "rewrap")


@dataclass
class Told:
    """What went through the server: a part of each secret that was wrapped, and how many calls there were."""

    parts: list[bytes] = field(default_factory=list)
    blobs: list[bytes] = field(default_factory=list)
    calls: int = 0

    def secret(self) -> bytes:
        """Another one each time."""
        self.parts.append(secrets.token_bytes(16))
        return b"a secret of " + self.parts[-1]

    def early(self, host: Machine) -> dict[str, bytes]:
        """To look for: of the secrets and keys that were asked for before the rotation and never since, some."""
        found = {f"secret {number}": self.parts[number] for number in range(0, CALLS, CALLS // SOME)}
        with contextlib.closing(opened(host)) as keyring:
            for number in range(0, CALLS, CALLS // SOME):
                label = f"db/{number}".encode()
                with derive(keyring, label, size=32, generation="first").secret as key:
                    found[f"key {number}"] = key.view.tobytes()
        return found


def called(client: Client, told: Told) -> None:
    """Each action, on labels and secrets of its own; and on what was wrapped before, by whomever."""
    for number in range(CALLS):
        client.derive(f"db/{number}").secret.close()
        secret = told.secret()
        told.blobs.append(client.wrap("db/w", secret).wrapped)
        with client.unwrap("db/w", told.blobs[-1]) as again:
            assert again.view == secret
        # After a rotation: under the new generation.
        client.rewrap("db/w", told.blobs[max(len(told.blobs) - CALLS // 2, 0)])
        told.calls += len(ALL)


@pytest.fixture
def ports() -> Iterator[list[int]]:
    with reserve() as one, reserve() as other:
        yield [int(held.getsockname()[1]) for held in (one, other)]


def test_no_root_key_is_left_anywhere(machines: Machines, tmp_path: Path, ports: list[int]) -> None:
    host, told = machines("host"), Told()
    elsewhere = simulated(tmp_path / "elsewhere", b"an enclave elsewhere")
    tables = [
        provision("first"),
        application_entry("db", size=32),
        token_entry(may=ALL),
        enclave_entry(elsewhere, ["db/*"]),
    ]
    policy = written(host, "policy.toml", base() + "".join([*tables, token_entry(token_of(bytes(32)))]))
    words = ["--callers", f"127.0.0.1:{ports[0]}", "--provision", f"127.0.0.1:{ports[1]}"]
    server = host.start("--policy", policy, *words, "--log-level", "debug", under=under())
    server.err.wait_for("Answering callers with 2 token")
    listens(host)
    ca, domain = Path(written(host, "ca.pem", ca_of(host).decode())), host.status()["domain"]
    trusted = servers("simulated", mrsigner=running().mrsigner.hex(), isv_prod_id=running().isv_prod_id)
    app = application(tmp_path / "application")
    shown = app.certificate()
    local = Client([f"unix:{host.status()['socket']}"])
    remote = Client([f"https://127.0.0.1:{ports[0]}"], ca=ca, token=TOKEN)
    with local, remote:
        for generations in (1, 2):
            assert len(host.status()["generations"]) == generations
            called(local, told)
            called(remote, told)
            for _ in range(ATTESTED):
                release([host.address], LABELS, domain=domain, attester=elsewhere, policy=trusted).close()
                assert len(secret_in(ask(ports[1], ca_of(host), app.key, shown))) == 32
                told.calls += 2
            if generations == 1:
                apply(host, *tables)
    assert told.calls > 4_000
    assert host.status()["released"] == 2 * ATTESTED
    until(lambda: host.status()["provision"]["given"] == 2 * ATTESTED, "all are counted")

    # A drill has a second copy of the keyring for a moment.
    for _ in range(DRILLS):
        assert httpx.post(f"http://{host.ops}/v1/drill", trust_env=False, timeout=DEADLINE).json()["passed"]

    text = server.out.text + server.err.text
    assert TOKEN not in text
    printed = Path(written(host, "printed", text))
    stored = [path for path in host.folder.rglob("*") if path.is_file()]
    assert {"rkey.bin", "rkey.bin.audit.jsonl", "printed"} <= {path.name for path in stored}
    assert printed in stored
    seen = scan(host, processes=[server.pid, *server.children()], files=stored, labels=["db"])
    assert [one for one in seen["found"] if not one[0].endswith(", key memory")] == []
    assert seen["key_memory"][str(server.pid)] <= MOST_PAGES * mmap.PAGESIZE, "no secret of a call was kept"

    # The domain is found: without it, a scanner that reads nothing would find none of the others.
    values = told.early(host)
    assert len(values) >= 2 * SOME
    found = {name for _where, name in left.scan(server.pid, values | {"domain": domain.encode()}, [])["found"]}
    assert {name.partition(",")[0] for name in found} == {"domain"}
