"""How long a caller waits when the primary dies, and how long it takes until another one leads.

    python -m bench.failover PROGRAM

Without a coordinator nobody has to lead for service to go on: a client of two servers in a loop, the first of which
leads, is killed and is started again. With etcd: from the kill of the primary until another one leads.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import httpx

from bench.server import free_port
from rkeyserver.appraisal.orders import Rotate, text_of
from rkeyserver.client import Client

ETCD: Final = "/usr/bin/etcd"
TIMES: Final = 100
ELECTIONS: Final = 20
LEASE: Final = 2
PACE: Final = 0.001
WANTED_GAP: Final = 0.1
SETTLE_SECONDS: Final = 60.0


class Instance:
    """One server, that can be killed and started again at the same addresses."""

    def __init__(self, program: Path, folder: Path, *more: str) -> None:
        folder.mkdir()
        self.port, self.ops = free_port(), free_port()
        self.socket = folder / "rkey.bin.socket"
        words = ["--platform", "simulated", "--machine", str(folder / "machine")]
        words += ["--keystore", str(folder / "rkey.bin"), "--listen", f"127.0.0.1:{self.port}"]
        words += ["--ops", f"127.0.0.1:{self.ops}", "--log-level", "error"]
        self._command = (str(program), *words, *more)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *words: str) -> None:
        self.process = subprocess.Popen((*self._command, *words), stdout=subprocess.DEVNULL)
        end = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(httpx.HTTPError, KeyError):
                if self.status()["domain"]:
                    return
            time.sleep(0.02)
        raise SystemExit("An instance does not serve in time.")

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"http://127.0.0.1:{self.ops}/status", trust_env=False).json()
        return found

    def all_have_shown(self) -> bool:
        return all(one["acknowledged"] for one in self.status()["members"])

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def rotate(self, domain: str, current: str) -> int:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self.socket)), base_url="http://local") as asked:
            return asked.post("/v1/orders", content=text_of(Rotate(domain=domain, current=current))).status_code


def _shown(name: str, took: list[float], unit: float = 1e3) -> str:
    ordered = sorted(took)
    at = [ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] * unit for percent in (0, 50, 90, 99, 100)]
    named = zip(("least", "p50", "p90", "p99", "most"), at, strict=True)
    return f"{name}: {len(ordered)} times, {', '.join(f'{word} {one:.1f}' for word, one in named)}"


def _same(instances: list[Instance]) -> bool:
    found = [one.status() for one in instances]
    return len({(one["epoch"], one["sequence"], one["primary"]) for one in found}) == 1 and not any(
        generation["state"] == "pending" for generation in found[0]["generations"]
    )


def _leaders(instances: list[Instance]) -> list[Instance]:
    return [one for one in instances if one.status()["role"] == "primary"]


def _until(what: str, found: Callable[[], object]) -> None:
    end = time.monotonic() + SETTLE_SECONDS
    while not found():
        if time.monotonic() > end:
            raise SystemExit(f"Not in time: {what}.")
        time.sleep(0.01)


def _gap(primary: Instance, backup: Instance) -> float:
    """Seconds between the last answer before the primary is killed and the first one after it."""
    answers: list[float] = []
    over = threading.Event()

    def ask() -> None:
        with Client([f"unix:{primary.socket}", f"unix:{backup.socket}"]) as domain:
            while not over.is_set():
                domain.derive("bench").close()
                answers.append(time.monotonic())
                time.sleep(PACE)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        time.sleep(0.2)
        killed = time.monotonic()
        primary.kill()
        time.sleep(0.3)
        over.set()
        asking.result()  # no call may have gone without an answer
    ended = time.monotonic()
    # The longest one after the kill: the first may have come in time from a socket's buffer.
    return max(later - one for one, later in pairwise([*answers, ended]) if later > killed)


def gaps(program: Path, folder: Path, times: int) -> list[float]:
    """What a client of two servers sees when the one that it uses, which leads, dies; it is started again each time."""
    primary, backup = Instance(program, folder / "primary"), Instance(program, folder / "backup")
    with contextlib.ExitStack() as stack:
        primary.start()
        stack.callback(primary.kill)
        backup.start("-i", f"127.0.0.1:{primary.port}")
        stack.callback(backup.kill)
        found = []
        for _ in range(times):
            found.append(_gap(primary, backup))
            primary.start()
        return found


def elections(program: Path, folder: Path, times: int) -> list[float]:
    """Seconds from the kill of the primary until another instance says that it leads; it then makes a change."""
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    words = ["--name", "one", "--data-dir", str(folder / "etcd"), "--initial-cluster", f"one={peer}"]
    words += ["--listen-client-urls", client, "--advertise-client-urls", client]
    words += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
    words += ["--heartbeat-interval", "20", "--election-timeout", "200"]
    log = (folder / "etcd.log").open("wb")
    found = []
    with log, subprocess.Popen([ETCD, *words], stdout=log, stderr=log) as etcd, contextlib.ExitStack() as stack:
        stack.callback(etcd.kill)
        more = ("--coordinator", client.replace("http", "etcd"), "--lease", str(LEASE))
        made = [Instance(program, folder / f"coordinated{number}", *more) for number in range(3)]
        made[0].start()
        stack.callback(made[0].kill)
        for one in made[1:]:
            one.start("-i", f"127.0.0.1:{made[0].port}")
            stack.callback(one.kill)
        for _ in range(times):
            _until("all are at one state", lambda: _same(made))
            (leader,) = _leaders(made)
            rest = [one for one in made if one is not leader]
            # Everybody has shown what it holds: else who is behind waits for one that is not.
            _until("all have shown it", leader.all_have_shown)
            killed = time.monotonic()
            leader.kill()
            _until("another one leads", partial(_leaders, rest))
            found.append(time.monotonic() - killed)
            (after,) = _leaders(rest)
            now = after.status()
            current = next(one["id"] for one in now["generations"] if one["state"] == "current")
            if after.rotate(now["domain"], current) != httpx.codes.OK:
                raise SystemExit("The new primary changes nothing.")
            leader.start("-i", f"127.0.0.1:{after.port}")
    return found


if __name__ == "__main__":
    program = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory(prefix="rk-") as made_in:
        took = gaps(program, Path(made_in), TIMES)
        print(
            _shown("gap in milliseconds, no coordinator", took), f"(wanted: at most {WANTED_GAP * 1e3:.0f})", flush=True
        )
        took = elections(program, Path(made_in), ELECTIONS)
        print(
            _shown(f"seconds to a new primary, lease of {LEASE} s", took, 1),
            f"(wanted: at most {2 * LEASE})",
            flush=True,
        )
