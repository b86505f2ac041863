"""What argv may say."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from rkeyserver import __version__
from rkeyserver.config import DEFAULT_KEYSTORE, DEFAULT_OPS, LOG_LEVELS
from rkeyserver.errors import Misuse

EPILOG: Final = """\
commands:
  rkeyserver inspect [PATH]   print a record's readable header, on any machine
  rkeyserver status [--json]  ask a running instance what it is
  rkeyserver identity         print the line by which a policy names this machine
  rkeyserver policy           show the policy of a running instance, and change it

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
    add("--listen", action="append", metavar="[HOST]:PORT", help="where peers connect (default :8888, repeatable)")
    add("--platform", choices=("sgx", "tpm", "simulated"), help="default: the hardware that is found")
    add("--machine", metavar="DIR", help="the simulated processor's state, one folder for each machine")
    add("--ops", metavar="HOST:PORT", help=f"the operations listener (default {DEFAULT_OPS})")
    add("--audit", metavar="PATH", help="the audit file (default: beside the keystore)")
    add(
        "--policy",
        metavar="FILE",
        help="the policy of a new domain; with -i what this machine goes by until it has one",
    )
    add("--admins", metavar="FILE", help="the admins of a new domain; with -i who must have signed its policy")
    add("--socket", metavar="PATH", help="where the owner changes the policy (default: beside the keystore)")
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


def identity_parser() -> argparse.ArgumentParser:
    """Of `identity`."""
    parser = _Parser(
        prog="rkeyserver identity",
        description="Print the line by which a policy names this machine.",
        allow_abbrev=False,
    )
    parser.add_argument("--platform", choices=("sgx", "tpm", "simulated"), help="default: the hardware that is found")
    parser.add_argument("--machine", metavar="DIR", help="the simulated processor's state")
    return parser


def policy_parser() -> argparse.ArgumentParser:
    """Of `policy`, with its own commands."""
    parser = _Parser(
        prog="rkeyserver policy", description="The policy of a running instance: who may join.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="action", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, text: str, *, asks: bool = True, output: bool = False) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)
        if asks:
            made.add_argument("--ops", default=str(DEFAULT_OPS), metavar="HOST:PORT", help=f"default {DEFAULT_OPS}")
        if output:
            made.add_argument("-o", "--output", metavar="FILE", help="write the change there")
        return made

    command("show", "print the policy")
    for name, text in (("admit", "accept a machine, by its line"), ("remove", "no longer accept a machine")):
        made = command(name, text, output=True)
        made.add_argument("line", metavar="LINE", help="PLATFORM MACHINE, as `rkeyserver identity` prints it")
        made.add_argument("--key", action="append", default=[], metavar="FILE", help="sign with this key (repeatable)")
    made = command("propose", "make a change to the policy in FILE, to be signed", output=True)
    made.add_argument("file", nargs="?", metavar="FILE", help="default: the present policy, for its admins to sign")
    made = command("sign", "sign a change", asks=False, output=True)
    made.add_argument("file", metavar="CHANGE", help="a change, or - for standard input")
    made.add_argument("--key", action="append", required=True, metavar="FILE", help="an admin's key (repeatable)")
    made = command("apply", "have the running instance apply a change")
    made.add_argument("file", metavar="CHANGE", help="a change, or - for standard input")
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
class Identity:
    """Print who this machine is. given: platform and machine, by long name."""

    given: dict[str, Any]


@dataclass(frozen=True)
class PolicyCommand:
    """One of the commands of `policy`. Fields that it does not have are empty."""

    action: str
    ops: str = ""
    file: Path | None = None
    line: str = ""
    keys: tuple[Path, ...] = ()
    output: Path | None = None


Command = Serve | Inspect | Status | Identity | PolicyCommand


def parse(argv: Sequence[str]) -> Command:
    """The command that `argv` (without the program's name) gives.

    Raises: Misuse; SystemExit(0) after -h and --version.
    """
    if argv and argv[0] == "inspect":
        return Inspect(Path(inspect_parser().parse_args(argv[1:]).path))
    if argv and argv[0] == "status":
        found = status_parser().parse_args(argv[1:])
        return Status(found.ops, found.json)
    if argv and argv[0] == "identity":
        said = vars(identity_parser().parse_args(argv[1:]))
        return Identity({name: value for name, value in said.items() if value is not None})
    if argv and argv[0] == "policy":
        return _policy_command(policy_parser().parse_args(argv[1:]))
    given = {name.replace("_", "-"): value for name, value in vars(serve_parser().parse_args(argv)).items()}
    config = given.pop("config", None)
    return Serve(given, None if config is None else Path(config))


def _policy_command(found: argparse.Namespace) -> PolicyCommand:
    def path(name: str) -> Path | None:
        given = getattr(found, name, None)
        return None if given is None else Path(given)

    return PolicyCommand(
        action=found.action,
        ops=getattr(found, "ops", ""),
        file=path("file"),
        line=getattr(found, "line", ""),
        keys=tuple(Path(key) for key in getattr(found, "key", ())),
        output=path("output"),
    )
