"""The command line: runs a command, turns errors into one sentence and an exit status."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

from rkeyserver.cli.command import Said, put
from rkeyserver.errors import RkeyError, exit_status

EXIT_INTERRUPTED: Final = 128 + signal.SIGINT  # as shells have it

# Each is a module with parser() and run(), imported only when it is asked for.
COMMANDS: Final = (
    *("appraise", "audit", "collateral", "derive", "doctor", "drill", "identity", "inspect", "order", "peer"),
    "policy",
    *("promote", "recovery", "relay", "retire", "rewrap", "rotate", "status", "token", "unwrap", "wrap"),
)
SERVE: Final = "serve"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (docs/operations/commands.md has the table)."""
    name, words = command_of(sys.argv[1:] if argv is None else argv)

    def run() -> Said:
        command = import_module(f"rkeyserver.cli.{name}")
        said: Said = command.run(command.parser().parse_args(words))
        return said

    return outcome(run)


def command_of(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Which command's module it is, and that one's own arguments."""
    words = list(argv)
    return (words.pop(0) if words and words[0] in COMMANDS else SERVE), words


def outcome(run: Callable[[], Said]) -> int:
    """Print what `run` says, or its error in one sentence; the exit status for it."""
    _open_missing_streams()
    try:
        said = run()
        if said.text:
            put(said.text)
    except RkeyError as error:
        sys.stderr.write(f"rkeyserver: {error}\n")
        return exit_status(error)
    except KeyboardInterrupt:
        sys.stderr.write("rkeyserver: Stopped before it was done.\n")
        return EXIT_INTERRUPTED
    return int(said.status)


def _open_missing_streams() -> None:
    # A starter may have closed them; Python then has None there, and the next file opened would be what they write to.
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r+", encoding="utf-8"))  # noqa: SIM115 - open to the end
