"""Two hundred standbys that join one primary at once, follow it, and take over what it rotates.

    python -m bench.standbys PROGRAM

The primary is the program. The standbys are light ones: the real exchange, both sides verified, the real hints each
three seconds, an address each on loopback, and no process, record or listener of their own: 200 whole ones would need
more memory than the machine has, and would measure mostly themselves. They share one process and one machine's key.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx

from bench.clients import asking_at
from bench.server import Server, server
from rkeyserver.address import Address
from rkeyserver.appraisal.orders import Rotate, text_of
from rkeyserver.errors import RkeyError
from rkeyserver.exchange.standby import Asking
from rkeyserver.keyring.place import Place
from rkeyserver.service import fetch

STANDBYS: Final = 200
HINT_SECONDS: Final = 3.0
QUIET_SECONDS: Final = 15.0
_FROM: ContextVar[str] = ContextVar("the address of a standby")


@contextlib.asynccontextmanager
async def _client(seconds: float, **said: Any) -> AsyncIterator[httpx.AsyncClient]:  # noqa: ANN401 - httpx's
    """As service.http_client.client(), from an address of its own: what one address may take is bounded."""
    transport = httpx.AsyncHTTPTransport(local_address=_FROM.get(), verify=False)
    headers = {"accept-encoding": "identity"}
    async with httpx.AsyncClient(
        transport=transport, timeout=seconds, headers=headers, trust_env=False, **said
    ) as made:
        yield made


@dataclass
class Standby:
    """One that joins and follows. place: of what it was given last; shown: of what it has acknowledged."""

    number: int
    host: Address
    asking: Asking
    place: Place | None = None
    shown: Place | None = None
    exchanges: int = 0
    failures: int = 0

    async def fetch(self) -> None:
        self.exchanges += 1
        asking = replace(self.asking, holds=self.place)
        received = await fetch.fetch_keyring(self.host, asking)
        self.shown, self.place = self.place, received.keyring.place
        received.keyring.close()

    async def live(self) -> None:
        _FROM.set(f"127.0.{1 + self.number // 250}.{1 + self.number % 250}")
        while True:
            try:
                while self.place is None or self.shown != self.place:
                    await self.fetch()
            except RkeyError:
                self.failures += 1
                await asyncio.sleep(0.25 + secrets.randbelow(1000) / 1000)
                continue
            await asyncio.sleep(HINT_SECONDS * (0.5 + secrets.randbelow(1000) / 1000))
            hint = await fetch.fetch_hint(self.host)
            if hint is not None and (hint.place > self.place or hint.pending):
                self.shown = None


def _status(target: Server) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"http://127.0.0.1:{target.ops}/status", trust_env=False).json()
    return found


async def _until_all(standbys: list[Standby], generations: int, target: Server) -> float:
    began = time.monotonic()
    while True:
        found = await asyncio.to_thread(_status, target)
        place = (found["epoch"], found["sequence"], found["primary"])
        current = [one for one in found["generations"] if one["state"] == "current"]
        done = len(found["generations"]) == generations and found["generations"][-1] in current
        if done and all(one.shown is not None and one.shown[:3] == place for one in standbys):
            return time.monotonic() - began
        await asyncio.sleep(0.05)


def _rotate(target: Server) -> None:
    found = _status(target)
    current = next(one["id"] for one in found["generations"] if one["state"] == "current")
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(target.socket)), base_url="http://local") as asked:
        order = Rotate(domain=found["domain"], current=current)
        asked.post("/v1/orders", content=text_of(order)).raise_for_status()


async def _run(folder: Path, target: Server) -> None:
    setattr(fetch, "client", _client)  # noqa: B010 - it is not one of its names
    asking = replace(asking_at(folder / "machine"), address=":8888")
    host = Address("127.0.0.1", target.port)
    standbys = [
        Standby(number, host, replace(asking, member=secrets.token_hex(16), instance=secrets.token_bytes(16)))
        for number in range(STANDBYS)
    ]
    alone = max(target.resident().values()) / 1e6
    used = target.cpu()
    tasks = [asyncio.create_task(one.live()) for one in standbys]

    def told(what: str, seconds: float) -> None:
        nonlocal used
        now = target.cpu()
        exchanges = sum(one.exchanges for one in standbys)
        print(
            f"{what}: {seconds:.1f} s, {exchanges} exchanges, primary's CPU {now - used:.2f} s"
            f"{f' ({(now - used) / exchanges * 1e3:.2f} ms each)' if exchanges else ''}, "
            f"{sum(one.failures for one in standbys)} told to come again, "
            f"primary {max(target.resident().values()) / 1e6:.0f} MB (alone {alone:.0f})",
            flush=True,
        )
        used = target.cpu()
        for one in standbys:
            one.exchanges = one.failures = 0

    told(f"{STANDBYS} joined, and have shown it", await _until_all(standbys, 1, target))
    await asyncio.sleep(QUIET_SECONDS)
    told("following, nothing changes", QUIET_SECONDS)
    await asyncio.to_thread(_rotate, target)
    told("a rotation is with all of them", await _until_all(standbys, 2, target))
    for one in tasks:
        one.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    with (
        tempfile.TemporaryDirectory(prefix="rk-") as made,
        server(Path(sys.argv[1]).absolute(), Path(made), stderr=subprocess.DEVNULL) as target,  # type: ignore[arg-type]  # a number, where mypy infers a path
    ):
        asyncio.run(_run(Path(made), target))
