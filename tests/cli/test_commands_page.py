"""docs/operations/commands.md says what the program says of itself."""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from tests.fakes.processes import ROOT, machines_in

from rkeyserver.cli import (
    appraise,
    audit,
    collateral,
    derive,
    doctor,
    drill,
    identity,
    inspect,
    order,
    peer,
    policy,
    promote,
    recovery,
    relay,
    retire,
    rewrap,
    rotate,
    serve,
    status,
    token,
    unwrap,
    wrap,
)
from rkeyserver.cli.main import COMMANDS, EXIT_INTERRUPTED, SERVE
from rkeyserver.config import (
    DEFAULT_CALLERS,
    DEFAULT_KEYSTORE,
    DEFAULT_MACHINE,
    DEFAULT_OPS,
    DEFAULT_PORT,
    DEFAULT_SOCKET,
    Config,
)
from rkeyserver.errors import EXIT_BUG, EXIT_OK, EXIT_STATUS

PAGE = (ROOT / "docs" / "operations" / "commands.md").read_text()


def table(section: str, number: int = 0) -> Iterator[list[str]]:
    """The rows of a section's table."""
    (text,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    for line in tables[number].splitlines()[2:]:
        yield [cell.strip() for cell in line.strip("|").split("|")]


def named(action: argparse.Action) -> str:
    """An option as the page writes it: every name, and what it takes after the last."""
    takes = action.metavar or ("{" + ",".join(action.choices) + "}" if action.choices else "")
    if takes == "" and action.nargs is None and action.type is int:
        takes = action.dest.upper()
    names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{action.dest}`"
    return names[:-1] + f" {takes}`" if takes else names


def command(module: ModuleType, name: str) -> Callable[[], argparse.ArgumentParser]:
    """One of the commands of a family."""

    def make() -> argparse.ArgumentParser:
        (choice,) = (one for one in module.parser()._actions if isinstance(one, argparse._SubParsersAction))
        found = choice.choices[name]
        assert isinstance(found, argparse.ArgumentParser)
        return found

    return make


PARSERS = {
    "`rkeyserver`": serve.parser,
    "`rkeyserver inspect`": inspect.parser,
    "`rkeyserver status`": status.parser,
    "`rkeyserver appraise`": appraise.parser,
    **{f"`rkeyserver audit {name}`": command(audit, name) for name in ("verify", "checkpoint")},
    **{f"`rkeyserver collateral {name}`": command(collateral, name) for name in ("fetch", "show", "bundle")},
    "`rkeyserver doctor`": doctor.parser,
    "`rkeyserver drill`": drill.parser,
    "`rkeyserver identity`": identity.parser,
    "`rkeyserver derive`": derive.parser,
    "`rkeyserver wrap`": wrap.parser,
    "`rkeyserver unwrap`": unwrap.parser,
    "`rkeyserver rewrap`": rewrap.parser,
    **{
        f"`rkeyserver policy {name}`": command(policy, name)
        for name in ("show", "admit", "remove", "propose", "sign", "apply")
    },
    "`rkeyserver rotate`": rotate.parser,
    "`rkeyserver retire`": retire.parser,
    "`rkeyserver promote`": promote.parser,
    **{f"`rkeyserver peer {name}`": command(peer, name) for name in ("list", "forget")},
    **{f"`rkeyserver order {name}`": command(order, name) for name in ("show", "sign", "apply")},
    **{f"`rkeyserver recovery {name}`": command(recovery, name) for name in ("show", "verify", "contribute", "amend")},
    "`rkeyserver token new`": command(token, "new"),
    "`rkeyserver relay`": relay.parser,
}


@pytest.mark.parametrize(("section", "make"), PARSERS.items(), ids=PARSERS)
def test_every_option_is_there(section: str, make: object) -> None:
    assert callable(make)
    parser = make()
    assert {row[0] for row in table(section)} == {named(action) for action in parser._actions}


def test_every_command_is_there() -> None:
    commands = re.findall(r"^\| (`rkeyserver[a-z ]*`) \|", PAGE, re.MULTILINE)
    assert commands == list(PARSERS)
    families = [command.strip("`").split()[1] for command in commands[1:]]
    assert re.findall(r"^  rkeyserver (\w+)", serve.EPILOG, re.MULTILINE) == list(dict.fromkeys(families))


def test_defaults() -> None:
    defaults = {row[0].split("`")[-2].split()[0]: row[1] for row in table("`rkeyserver`")}
    assert defaults["--port"] == str(DEFAULT_PORT)
    assert defaults["--keystore"] == f"`{DEFAULT_KEYSTORE}`"
    assert defaults["--machine"] == f"`{DEFAULT_MACHINE}`"
    assert defaults["--ops"] == f"`{DEFAULT_OPS}`"
    assert defaults["--wait"] == f"{Config().wait:.0f}"
    assert defaults["--log-level"] == Config().log_level
    assert defaults["--listen"].startswith(f"`{Config().listen[0]}`")
    assert Config().audit_path == Path(f"{DEFAULT_KEYSTORE}.audit.jsonl")


@pytest.mark.parametrize("name", ["derive", "wrap", "unwrap", "rewrap"])
def test_callers_ask_where_the_unit_file_has_the_socket(name: str) -> None:
    defaults = {row[0].split()[0].strip("`"): row[1] for row in table(f"`rkeyserver {name}`")}
    assert defaults["--socket"] == f"`{DEFAULT_SOCKET}`"


def test_defaults_of_callers() -> None:
    assert dict(row[:2] for row in table("`rkeyserver`"))["`--callers [HOST]:PORT`"] == f"`{DEFAULT_CALLERS}`"
    found = {row[0].split("`")[1].split()[0]: row[1] for row in table("`rkeyserver relay`")}
    assert (found["--to"], found["--mode"]) == (f"`{DEFAULT_CALLERS}`", f"`{relay.DEFAULT_MODE}`")


def test_exit_statuses_are_the_program_s() -> None:
    found = {int(row[0]): row[1] for row in table("Exit status")}
    kinds = {status: kind.code for kind, status in EXIT_STATUS.items()}
    assert found == {EXIT_OK: "", EXIT_BUG: "a bug", EXIT_INTERRUPTED: "interrupted"} | kinds


def test_help_has_the_exit_statuses() -> None:
    (line,) = re.findall(r"^exit status: (.*)$", serve.EPILOG, re.MULTILINE)
    found = [int(number) for number in re.findall(r"\b\d\b", line)]
    assert sorted(found) == sorted({EXIT_OK, EXIT_BUG, *EXIT_STATUS.values()})


def test_every_field_of_the_status_is_there(tmp_path: Path) -> None:
    with machines_in(tmp_path) as machines:
        host = machines("host")
        host.start()
        found = host.status()
    documented = [name for row in table("`rkeyserver status`", 1) for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(documented) == sorted(found)


def test_every_command_is_among_those_that_know_no_other() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (modules,) = [one["modules"] for one in contracts if one["name"] == "a command knows no other command"]
    assert set(modules) == {f"rkeyserver.cli.{name}" for name in (*COMMANDS, SERVE)}
