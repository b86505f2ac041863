"""How long the event loop is at one thing while 16 backups join: what a caller waits for at most before he is read.

By the loop's own CPU time, so that other work on the machine moves it little. Run as `python -m bench.turns`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from bench.server import server
from rkeyserver.cli.main import main as program
from rkeyserver.service import serve as of

BACKUPS: Final = 16
EXCHANGES: Final = 25
LEAST: Final = 0.0001  # seconds: below is a loop that has nothing to do


def serve(said: Path, words: list[str]) -> int:
    """The program, with a loop that never rests and notes how long each of its turns was."""
    turns: list[float] = []
    notify = vars(of)["notify"]

    def noted(state: str) -> None:
        if state == "READY=1":
            _note(turns)
        elif state == "STOPPING=1":
            said.write_text(json.dumps(sorted(one for one in turns if one > LEAST)))
        notify(state)

    vars(of)["notify"] = noted
    return program(words)


def _note(turns: list[float]) -> None:
    loop, last = asyncio.get_running_loop(), [time.thread_time()]

    def turn() -> None:
        now = time.thread_time()
        turns.append(now - last[0])
        last[0] = now
        loop.call_soon(turn)

    def begin() -> None:
        last[0] = time.thread_time()
        turn()

    loop.call_later(1, begin)  # a start has work of its own


def main() -> None:
    """Measure and print it."""
    with tempfile.TemporaryDirectory(prefix="rkeyserver-bench-") as name:
        folder = Path(name)
        said, started = folder / "said", folder / "program"
        started.write_text(f'#!/bin/sh\nexec {sys.executable} -m bench.turns {said} "$@"\n')
        started.chmod(0o755)
        with server(started, folder) as target:
            time.sleep(2)
            arguments = [str(folder / "asking"), str(target.port), str(BACKUPS), str(EXCHANGES)]
            subprocess.run([sys.executable, "-m", "bench.clients", *arguments], check=True, stdout=subprocess.DEVNULL)
        turns = json.loads(said.read_text())
    p50, p99 = (turns[len(turns) * percent // 100] * 1000 for percent in (50, 99))
    print(f"{BACKUPS * EXCHANGES} hand-overs: {len(turns)} turns of over {LEAST * 1000:.1f} ms of CPU")
    print(f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, the longest {', '.join(f'{one * 1000:.2f}' for one in turns[-5:])} ms")


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(serve(Path(sys.argv[1]), sys.argv[2:]))
    main()
