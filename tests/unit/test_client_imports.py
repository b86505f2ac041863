"""What a program loads that asks for its keys: a handful of libraries, and nothing of a server."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest
from tests.fakes.processes import environment

# cffi is cryptography's; httpx's are the last two lines.
HANDFUL: Final = {
    *("cryptography", "_cffi_backend", "dcap_qvl", "msgspec"),
    *("httpx", "httpcore", "anyio", "h11", "certifi", "idna", "sniffio", "typing_extensions"),
    *("click", "rich", "pygments", "markdown_it", "mdurl", "exceptiongroup"),
}
LOADING: Final = """
import sys
import rkeyserver.client.enclave, rkeyserver.client.release, rkeyserver.client.release_http
from rkeyserver.platforms.registry import load_verifier
load_verifier({platform!r})
print(*(name for name in sys.modules if "." not in name or name.startswith("rkeyserver")))
"""


@pytest.mark.parametrize("platform", ["sgx", "simulated"])
def test_a_client_loads_nothing_of_a_server(platform: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADING.format(platform=platform)],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    loaded = set(done.stdout.split())
    ours = {name.split(".")[1] for name in loaded if name.startswith("rkeyserver.")}
    assert not ours & {"service", "cli", "keystore", "config"}
    known = set(sys.stdlib_module_names) | HANDFUL | {"rkeyserver", "__main__", "__mp_main__", "coverage"}
    assert {name for name in loaded if "." not in name and not name.startswith("_")} <= known
    assert ("rkeyserver.platforms.simulated" in loaded) == (platform == "simulated")
