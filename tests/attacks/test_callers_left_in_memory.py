"""What callers' calls leave behind in the server's memory, looked for as soon as the last one is answered: nothing.

Neither a secret nor its base64, nor a half of either, of any call: not of the last one, which nothing has overwritten.
"""

from __future__ import annotations

import base64
import contextlib
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.attacks.test_left_in_memory import scan, under
from tests.fakes.processes import Machine, Machines, opened, reserve
from tests.integration.test_tokens import TOKEN, base, entry, provision_ca, written

from rkeyserver.client import Client
from rkeyserver.keyring.derived import derive

pytestmark = pytest.mark.simulated_only("the host's policy names the token; on sgx nobody reads memory")

CALLS: Final = 6
SIZES: Final = (32, 20_000)  # of a secret: one read, and several
ALL: Final = ("derive", "wrap", "unwrap", "rewrap")
Values = dict[str, bytes]


def forms(name: str, secret: bytes) -> Values:
    """What of a secret is looked for: its first, middle and last 32 bytes, each as it is and as text."""
    middle = len(secret) // 2 // 3 * 3
    ends = {"begin": secret[:30], "middle": secret[middle : middle + 30], "end": secret[-30:]}
    found = {f"{name}, {end}": part for end, part in ends.items() if len(part) == 30}
    text = base64.b64encode(secret)
    middle = len(text) // 2 // 4 * 4
    texts = {"begin": text[:32], "middle": text[middle : middle + 32], "end": text[-36:-4]}
    return found | {f"{name}, {end} of its base64": part for end, part in texts.items()}


def derived(host: Machine, client: Client) -> Values:
    found: Values = {}
    for number in range(CALLS):
        client.derive(f"db/{number}").secret.close()
    with contextlib.closing(opened(host)) as keyring:
        for number in range(CALLS):
            with derive(keyring, f"db/{number}".encode(), size=32, generation="first").secret as key:
                found |= {f"key {number}, raw": key.view.tobytes()} | forms(f"key {number}", key.view.tobytes())
    return found


def wrapped(client: Client, size: int) -> tuple[Values, list[bytes]]:
    found: Values = {}
    blobs = []
    for number in range(CALLS):
        secret = secrets.token_bytes(size)
        found |= forms(f"secret {number}", secret)
        blobs.append(client.wrap("db/w", secret).wrapped)
    return found, blobs


def used(client: Client, size: int, action: str) -> Values:
    found, blobs = wrapped(client, size)
    for one in blobs if action == "unwrap" else ():
        client.unwrap("db/w", one).close()
    for one in blobs if action == "rewrap" else ():
        client.rewrap("db/w", one)
    return found


CASES: Final[dict[str, Callable[[Machine, Client], Values]]] = {"derive": derived} | {
    f"{action} of {size} bytes": lambda _host, client, size=size, action=action: used(client, size, action)  # type: ignore[misc]  # mypy infers no default's type
    for action in ("wrap", "unwrap", "rewrap")
    for size in SIZES
}


@pytest.fixture
def port() -> Iterator[int]:
    with reserve() as held:
        yield int(held.getsockname()[1])


@pytest.mark.parametrize("surface", ["socket", "token"])
def test_nothing_of_a_call_is_left(processes: Machines, port: int, surface: str) -> None:
    host = processes("host")
    rules = written(host, "policy.toml", base() + entry(may=ALL))
    server = host.start("--policy", rules, "--callers", f"127.0.0.1:{port}", under=under())
    server.err.wait_for("Answering callers with 1 token")
    domain = host.status()["domain"]
    if surface == "socket":
        client = Client([f"unix:{host.status()['socket']}"])
    else:
        ca = Path(written(host, "ca.pem", provision_ca(host)))
        client = Client([f"https://127.0.0.1:{port}"], ca=ca, token=TOKEN)
    left: dict[str, set[str]] = {}
    with client:
        for name, case in CASES.items():
            values = case(host, client)
            found = {one for _where, one in scan(server.pid, values | {"domain": domain.encode()}, [])["found"]}
            assert "domain" in found, "a scanner that reads nothing finds nothing"
            left[name] = {one for one in found if not one.startswith("domain")}
    assert left == {name: set() for name in CASES}
