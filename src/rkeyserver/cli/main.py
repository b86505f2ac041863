"""The command line: runs a command, turns errors into one sentence and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rkeyserver.cli import arguments, log
from rkeyserver.config import Options, check_options, make_config, read_file
from rkeyserver.errors import EXIT_OK, RkeyError, exit_status


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (docs/operations/commands.md has the table)."""
    try:
        command = arguments.parse(sys.argv[1:] if argv is None else argv)
        # Each imports only what it needs.
        match command:
            case arguments.Serve(given, config):
                _serve(given, config)
            case arguments.Inspect(path):
                from rkeyserver.cli.inspect import inspect  # noqa: PLC0415

                sys.stdout.write(inspect(path))
            case arguments.Status(ops, as_json):
                from rkeyserver.cli.status import status  # noqa: PLC0415

                sys.stdout.write(status(ops, as_json=as_json))
    except RkeyError as error:
        sys.stdout.flush()
        sys.stderr.write(f"rkeyserver: {error}\n")
        return exit_status(error)
    return EXIT_OK


def _serve(given: dict[str, object], file: object) -> None:
    from pathlib import Path  # noqa: PLC0415

    config = make_config(read_file(file) if isinstance(file, Path) else Options(), check_options(given))
    log.set_up(config.log_level)
    from rkeyserver.service.compose import run  # noqa: PLC0415

    run(config)
