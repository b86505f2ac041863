"""What a primary with nobody to ask loads until it serves: a library costs start time, and is in its process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.fakes.processes import DEADLINE, environment

LATE = (
    "OpenSSL",
    "cbor2",
    "dcap_qvl",
    "httpx",
    "httpcore",
    "prometheus_client",
    "psycopg",
    "pyrage",
    "shamir_mnemonic",
    "sqlite3",
    "tomlkit",
)
# Each is a dozen files with what it loads itself, and inside an enclave each file is hashed before it is read.
DEAR = ("encodings.idna", "importlib.resources", "stringprep", "xml", "yaml")
# 502 are found with Python 3.11, and a few more with 3.12 and 3.13: no room for a library by the way.
MOST = 510

# As `rkeyserver` runs it, up to where it would wait for connections.
STARTED = """
import sys
before = set(sys.modules)
from rkeyserver.cli.main import main
from rkeyserver.service import run

async def serve(instance, peers, ops, owner, begin, *, ops_name):
    await begin()
    print(*set(sys.modules) - before)

run.serve = serve
sys.exit(main(sys.argv[1:]))
"""


def test_a_primary_loads_no_library_that_it_does_not_need(tmp_path: Path) -> None:
    options = ["--platform", "simulated", "--keystore", f"{tmp_path}/rkey.bin", "--machine", f"{tmp_path}/machine"]
    listeners = ["--listen", "127.0.0.1:0", "--ops", "127.0.0.1:0"]
    command = [sys.executable, "-c", STARTED, *options, *listeners]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=DEADLINE, check=False)
    assert ended.returncode == 0, ended.stderr
    modules = set(ended.stdout.split())
    loaded = {name.partition(".")[0] for name in modules}
    assert {"msgspec", "uvicorn"} <= loaded
    assert sorted(loaded & set(LATE)) == []
    assert sorted(modules & set(DEAR)) == []
    assert len(modules) <= MOST
