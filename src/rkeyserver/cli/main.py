"""The command line: runs a command, turns errors into one sentence and an exit status."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rkeyserver.cli import arguments, log
from rkeyserver.config import Options, check_options, make_config, read_file
from rkeyserver.errors import EXIT_OK, RkeyError, Unavailable, exit_status, one_line

EXIT_INTERRUPTED: Final = 128 + signal.SIGINT  # as shells have it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (docs/operations/commands.md has the table)."""
    _open_missing_streams()
    try:
        command = arguments.parse(sys.argv[1:] if argv is None else argv)
        # Each imports only what it needs.
        match command:
            case arguments.Serve(given, config):
                _serve(given, config)
            case arguments.Inspect(path):
                from rkeyserver.cli.inspect import inspect  # noqa: PLC0415

                _print(inspect(path))
            case arguments.Status(ops, as_json):
                from rkeyserver.cli.status import status  # noqa: PLC0415

                _print(status(ops, as_json=as_json))
            case arguments.RecoveryShow(path):
                from rkeyserver.cli.recovery import show  # noqa: PLC0415

                _print(show(path))
            case arguments.RecoveryVerify(path, identity):
                from rkeyserver.cli.recovery import verify  # noqa: PLC0415

                _print(verify(path, identity))
            case arguments.RecoveryContribute():
                from rkeyserver.cli.recovery import run_contribute  # noqa: PLC0415

                _print(run_contribute(command, _tell))
    except RkeyError as error:
        sys.stderr.write(f"rkeyserver: {error}\n")
        return exit_status(error)
    except KeyboardInterrupt:
        sys.stderr.write("rkeyserver: Stopped before it was done.\n")
        return EXIT_INTERRUPTED
    return EXIT_OK


def _open_missing_streams() -> None:
    # A starter may have closed them; Python then has None there, and the next file opened would be what they write to.
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r+", encoding="utf-8"))  # noqa: SIM115 - open to the end


def _print(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # What could not be written is still in the buffer, and would fail once more when the interpreter ends.
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise Unavailable(f"Could not print: {error.strerror}.") from error


def _tell(line: str) -> None:
    sys.stderr.write(one_line(line) + "\n")


def _serve(given: dict[str, object], file: Path | None) -> None:
    config = make_config(Options() if file is None else read_file(file), check_options(given))
    log.set_up(config.log_level)
    from rkeyserver.service.compose import run  # noqa: PLC0415

    try:
        run(config)
    finally:
        # That nobody reads any more what a server said is no failure of the server.
        with contextlib.suppress(Unavailable):
            _print("")
