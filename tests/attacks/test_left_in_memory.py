"""What a hand-over leaves behind in memory: nothing that, with a recording of the wire, is the keyring."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey
from tests.attacks import left_in_memory
from tests.attacks.left_in_memory import Recorded
from tests.attacks.parties import verifiers_of
from tests.fakes.flavours import policy_of
from tests.fakes.keyrings import MEMBER
from tests.fakes.processes import DEADLINE, ROOT, Machine, Machines, Running, environment

from rkeyserver.attestation.report_data import transcript_hash
from rkeyserver.clock import Clock
from rkeyserver.exchange import hpke, standby
from rkeyserver.exchange.messages import Grant, decode
from rkeyserver.exchange.standby import Asking, Greeting
from rkeyserver.platforms.interface import Platform
from rkeyserver.service.routes import HAND_OVER_PATH, HELLO_PATH

LEAST_LOOKED = 10 * 1024 * 1024
LEAST_TRIED = 5_000


def under() -> list[str]:
    """Only root reads the memory of a process that forbade it; where the tests are not root, one of a name space is."""
    return [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]


def scan(pid: int, values: dict[str, bytes], recorded: list[Recorded]) -> dict[str, Any]:
    inside = ["nsenter", "--user", "--preserve-credentials", f"--target={pid}"] if under() else []
    wanted = {
        "values": {name: value.hex() for name, value in values.items()},
        "recorded": [(one.ciphertext.hex(), one.info.hex()) for one in recorded],
    }
    done = subprocess.run(
        [*inside, sys.executable, "-m", left_in_memory.__name__, str(pid)],
        input=json.dumps(wanted),
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["looked"] > LEAST_LOOKED
    return found


class KnownKey(hpke.OneTimeKey):
    """A one-time key whose private halves a test has."""

    __slots__ = ("mlkem", "x25519")

    def __init__(self) -> None:
        self.mlkem, self.x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
        self._private = MLKEM768X25519PrivateKey(self.mlkem, self.x25519)
        self.public = self.mlkem.public_key().public_bytes_raw() + self.x25519.public_key().public_bytes_raw()


def handed_over(host: Machine, platform: Platform) -> dict[str, bytes]:
    """Fetch the keyring as a standby; every secret that the primary came through."""
    asking = Asking(
        attester=platform,
        verifiers=verifiers_of(platform),
        policy=policy_of(platform),
        clock=Clock(),
        random=secrets.token_bytes,
        instance=secrets.token_bytes(16),
        held=None,
        admins=None,
        member=MEMBER,
        address="",
        holds=None,
        audit_head=lambda: bytes(32),
    )
    with httpx.Client(base_url=f"http://{host.address}", trust_env=False, timeout=DEADLINE) as client:

        def post(path: str, message: bytes) -> bytes:
            answer = client.post(path, content=message)
            assert answer.status_code == 200, answer.text
            return answer.content

        greeting = Greeting.begin(asking)
        requesting = greeting.challenged(post(HELLO_PATH, greeting.message))
        grant = post(HAND_OVER_PATH, requesting.message)
    asyncio.run(requesting.granted(grant)).keyring.close()
    key = requesting._key
    assert isinstance(key, KnownKey)
    return Recorded(decode(grant, Grant).ciphertext, requesting.transcript).secrets(key.mlkem, key.x25519)


def test_a_primary_keeps_no_secret_of_a_hand_over(processes: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "OneTimeKey", KnownKey)
    host = processes("host")
    running = host.start(under=under())
    platform = host.another("backup")
    domain = host.status()["domain"].encode()
    values: dict[str, bytes] = {}
    # Where memory was just freed, and what it is used for next, differs from one to the next.
    for number in range(3):
        values |= {f"{name} {number}": value for name, value in handed_over(host, platform).items()}
        found = scan(running.pid, values | {"domain": domain}, [])["found"]
        assert {name for _where, name in found} == {"domain", "domain, first half", "domain, second half"}


@dataclass
class Relay:
    """Somebody on the wire: passes on what it is sent, and keeps it."""

    host: Machine
    kept: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)

    @contextlib.contextmanager
    def listening(self) -> Iterator[str]:
        """The address to ask instead of the host's."""
        relay = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = self.rfile.read(int(self.headers["content-length"]))
                answer = httpx.post(f"http://{relay.host.address}{self.path}", content=asked, trust_env=False)
                relay.kept[self.path] = asked, answer.content
                self.send_response(answer.status_code)
                self.send_header("content-length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
                pass

        with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield f"127.0.0.1:{server.server_address[1]}"
            finally:
                server.shutdown()
                thread.join(DEADLINE)

    @property
    def recorded(self) -> Recorded:
        (hello, challenge), (request, grant) = self.kept[HELLO_PATH], self.kept[HAND_OVER_PATH]
        return Recorded(decode(grant, Grant).ciphertext, transcript_hash(hello, challenge, request))


def test_nothing_in_the_memory_of_either_side_opens_what_was_recorded(processes: Machines) -> None:
    host, backup = processes("host"), processes("backup")
    first = host.start(under=under())
    relay = Relay(host)
    with relay.listening() as address:
        second = backup.start("-i", address, under=under())
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda running: scan(running.pid, {}, [relay.recorded]), (first, second)))
    for found in both:
        assert found["opened"] == []
        assert found["tried"] > LEAST_TRIED


PLANT = """
import sys, time
kept = [bytearray.fromhex(text) for text in sys.argv[1:]]
print("planted", flush=True)
time.sleep(3600)
"""


def planted(machine: Machine, *values: bytes) -> int:
    """A process that has these values in its memory."""
    program = [*under(), sys.executable, "-c", PLANT, *(value.hex() for value in values)]
    planter = Running(program, cwd=ROOT, env=environment())
    machine.started.append(planter)
    planter.out.wait_for("planted")
    return planter.pid


@pytest.mark.parametrize("left", ["HPKE shared secret", "HPKE secret"])
def test_what_is_left_is_found(processes: Machines, left: str) -> None:
    """Without this, a scanner that reads nothing would make the tests above pass."""
    key, info = KnownKey(), secrets.token_bytes(64)
    recorded = Recorded(hpke.seal(memoryview(b"a keyring"), key.public, info), info)
    values = recorded.secrets(key.mlkem, key.x25519)
    half = secrets.token_bytes(32)
    pid = planted(processes("machine"), values[left], half[16:])
    found = scan(pid, values | {"half": half}, [recorded])
    assert {name for _where, name in found["found"]} == {left, f"{left}, first half", f"{left}, second half"} | {
        "half, second half"
    }
    assert {name for _where, name in found["opened"]} == {left}
