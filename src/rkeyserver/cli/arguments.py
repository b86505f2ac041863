"""What argv may say."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from rkeyserver import __version__
from rkeyserver.address import Address, parse_address
from rkeyserver.config import DEFAULT_KEYSTORE, DEFAULT_OPS, DEFAULT_PORT, LOG_LEVELS
from rkeyserver.errors import Misuse

EPILOG: Final = """\
commands:
  rkeyserver inspect [PATH]   print a record's readable header, on any machine
  rkeyserver status [--json]  ask a running instance what it is
  rkeyserver recovery ...     show, verify or contribute the shares that bring a lost domain back

exit status: 0 done, 2 wrong usage, 3 refused, 4 unavailable (try again), 5 stored data cannot be used, 1 a bug
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Misuse(f"{message[0].upper()}{message[1:]}.", advice=f"{self.prog} -h lists what there is.")


def serve_parser() -> argparse.ArgumentParser:
    """Of the command that runs an instance."""
    parser = _Parser(
        prog="rkeyserver",
        description="Serve a domain's root key: make it or open it here, or with -i fetch it from a running instance.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("-i", "--host", action="append", metavar="HOST[:PORT]", help="ask this instance for the key (repeatable)")
    add("-p", "--port", type=int, help="the hosts' port (default 8888)")
    add("--keystore", metavar="PATH", help=f"the sealed record (default {DEFAULT_KEYSTORE})")
    add("--domain", metavar="ID", help="open, fetch and adopt only this domain; never make a new one")
    add("--wait", type=float, metavar="SECONDS", help="how long to keep asking without an own record (default 30)")
    add("--once", action="store_true", help="fetch, store, exit")
    add("--recover", action="store_true", help="every machine is lost: collect recovery shares that open the record")
    add("--listen", action="append", metavar="[HOST]:PORT", help="where peers connect (default :8888, repeatable)")
    add("--platform", choices=("sgx", "tpm", "simulated"), help="default: the hardware that is found")
    add("--machine", metavar="DIR", help="the simulated processor's state, one folder for each machine")
    add("--ops", metavar="HOST:PORT", help=f"the operations listener (default {DEFAULT_OPS})")
    add("--audit", metavar="PATH", help="the audit file (default: beside the keystore)")
    add("--config", metavar="FILE", help="TOML with the long options' names; the command line wins")
    add("--log-level", choices=LOG_LEVELS, help="default info")
    add("--version", action="version", version=f"rkeyserver {__version__}")
    return parser


def inspect_parser() -> argparse.ArgumentParser:
    """Of `inspect`."""
    parser = _Parser(prog="rkeyserver inspect", description="Print a record's readable header.", allow_abbrev=False)
    parser.add_argument("path", nargs="?", default=str(DEFAULT_KEYSTORE), help=f"default {DEFAULT_KEYSTORE}")
    return parser


def status_parser() -> argparse.ArgumentParser:
    """Of `status`."""
    parser = _Parser(prog="rkeyserver status", description="Ask a running instance.", allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")
    parser.add_argument("--ops", default=str(DEFAULT_OPS), metavar="HOST:PORT", help=f"default {DEFAULT_OPS}")
    return parser


def recovery_parser() -> argparse.ArgumentParser:
    """Of `recovery`."""
    parser = _Parser(prog="rkeyserver recovery", description="For recipients of recovery shares.", allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", required=True, metavar="{show,verify,contribute}")
    show = actions.add_parser("show", help="print a record's recovery slot", allow_abbrev=False)
    verify = actions.add_parser("verify", help="prove your share in a record readable", allow_abbrev=False)
    give = actions.add_parser("contribute", help="give your share to a recovering instance", allow_abbrev=False)
    give.add_argument("request", nargs="?", help="the request's file, or - for stdin; without it, -i is asked for it")
    for one in (show, verify):
        one.add_argument(
            "path", nargs="?", default=str(DEFAULT_KEYSTORE), help=f"a record (default {DEFAULT_KEYSTORE})"
        )
    for one in (verify, give):
        one.add_argument(
            "--identity", required=True, metavar="KEYFILE", help="your age identity or OpenSSH private key"
        )
    give.add_argument("--policy", required=True, metavar="FILE", help="your policy: which machines may have your share")
    give.add_argument("--domain", required=True, metavar="ID", help="the domain that is to be recovered")
    give.add_argument("-i", "--host", metavar="HOST[:PORT]", help="send it there; else it is printed")
    give.add_argument("-p", "--port", type=int, default=DEFAULT_PORT, help=f"the host's port (default {DEFAULT_PORT})")
    return parser


@dataclass(frozen=True)
class Serve:
    """Run an instance. given: options by long name; config: a file with more of them."""

    given: dict[str, Any]
    config: Path | None


@dataclass(frozen=True)
class Inspect:
    """Print the header of the record at `path`."""

    path: Path


@dataclass(frozen=True)
class Status:
    """Ask the instance at `ops`."""

    ops: str
    as_json: bool


@dataclass(frozen=True)
class RecoveryShow:
    """Print the recovery slot of the record at `path`."""

    path: Path


@dataclass(frozen=True)
class RecoveryVerify:
    """Prove the share readable that the private key in `identity` opens."""

    path: Path
    identity: Path


@dataclass(frozen=True)
class RecoveryContribute:
    """Answer a recovery request: of a file, "-" for stdin, or None for that of `host`; to `host`, None to print."""

    request: str | None
    identity: Path
    policy: Path
    domain: str
    host: Address | None


Command = Serve | Inspect | Status | RecoveryShow | RecoveryVerify | RecoveryContribute


def parse(argv: Sequence[str]) -> Command:
    """The command that `argv` (without the program's name) gives.

    Raises: Misuse; SystemExit(0) after -h and --version.
    """
    if argv and argv[0] == "inspect":
        return Inspect(Path(inspect_parser().parse_args(argv[1:]).path))
    if argv and argv[0] == "status":
        found = status_parser().parse_args(argv[1:])
        return Status(found.ops, found.json)
    if argv and argv[0] == "recovery":
        return _recovery(recovery_parser().parse_args(argv[1:]))
    given = {name.replace("_", "-"): value for name, value in vars(serve_parser().parse_args(argv)).items()}
    config = given.pop("config", None)
    return Serve(given, None if config is None else Path(config))


def _recovery(found: argparse.Namespace) -> Command:
    match found.action:
        case "show":
            return RecoveryShow(Path(found.path))
        case "verify":
            return RecoveryVerify(Path(found.path), Path(found.identity))
    host = None if found.host is None else parse_address(found.host, found.port)
    return RecoveryContribute(found.request, Path(found.identity), Path(found.policy), found.domain, host)
