"""A program that asks a server loads nothing of one, and a library for HTTP only when it asks."""

from __future__ import annotations

import subprocess
import sys

from tests.fakes.processes import DEADLINE, environment

LATE = {"httpx", "httptools", "starlette", "uvicorn", "uvloop", "dcap_qvl", "cryptography", "OpenSSL", "tomlkit"}


def test_what_a_plain_import_loads() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, rkeyserver.client; print(*sys.modules)"],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=DEADLINE,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "rkeyserver.client.synchronous" in loaded
    assert loaded & LATE == set()
    ours = {name.split(".")[1] for name in loaded if name.startswith("rkeyserver.")}
    assert ours == {"address", "client", "errors", "secret", "tokens"}
