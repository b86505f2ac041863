"""`rkeyserver relay`: a Unix socket on the host that leads to an instance where none can, as inside an enclave."""

from __future__ import annotations

import argparse
import logging
import re
import stat
from pathlib import Path
from typing import Final

from rkeyserver import files
from rkeyserver.address import parse_address
from rkeyserver.cli import log
from rkeyserver.cli.command import Parser, Said
from rkeyserver.config import DEFAULT_CALLERS, LOG_LEVELS
from rkeyserver.errors import Misuse
from rkeyserver.tokens import LENGTH, check_token

DEFAULT_MODE: Final = "0660"
_MODE: Final = re.compile("0?[0-7]{3}")
_EVERYONE: Final = (
    stat.S_IROTH | stat.S_IWOTH
)  # a group may be meant; systemd gives credentials by an ACL that shows as one


def parser() -> argparse.ArgumentParser:
    """Of its arguments."""
    made = Parser(
        prog="rkeyserver relay",
        description="Pass on what comes to a Unix socket to an instance's listener for callers with a token. Whoever "
        "can connect to the socket has the rights of the token.",
    )
    add = made.add_argument
    add(
        "--to",
        action="append",
        metavar="HOST:PORT",
        help=f"the --callers of it ({DEFAULT_CALLERS}); repeatable: of several, one that answers",
    )
    add("--ca", required=True, metavar="FILE", help="the CA of its domain, PEM; no other is believed")
    add("--token", required=True, metavar="FILE", help="a file with the token")
    add("--socket", required=True, metavar="PATH", help="the socket to make")
    add("--mode", default=DEFAULT_MODE, metavar="MODE", help=f"who may connect to it (default {DEFAULT_MODE})")
    add("--log-level", choices=LOG_LEVELS, default="info", help="default info")
    return made


def run(found: argparse.Namespace) -> Said:
    """Pass on until it is told to stop.

    Raises: Misuse, Unavailable if it cannot start.
    """
    named = found.to or [str(DEFAULT_CALLERS)]
    to = tuple(dict.fromkeys(parse_address(one, DEFAULT_CALLERS.port) for one in named))
    mode = _mode(found.mode)
    log.set_up(found.log_level)
    token = _token(Path(found.token))
    from rkeyserver.secret import harden_process  # noqa: PLC0415 - not for a mistake in the arguments
    from rkeyserver.service import relay  # noqa: PLC0415 - the same

    harden_process()
    relay.run(to, Path(found.ca), token, Path(found.socket), mode)
    return Said("")


def _mode(text: str) -> int:
    if _MODE.fullmatch(text) is None:
        raise Misuse(f"The mode is {text!r}; wanted are three octal digits, as 0660.")
    return int(text, 8)


def _token(path: Path) -> str:
    text = files.read_text(path, LENGTH + 2, "token")  # and the end of its line
    try:
        token = check_token(text.rstrip("\r\n"))
    except Misuse as error:
        raise Misuse(f"{path}: {error.message}", advice=error.advice) from error
    if path.stat().st_mode & _EVERYONE:
        logging.getLogger(__name__).warning("The token %s can be read by everyone here: chmod 600 it.", path)
    return token
