"""Which of several instances a command asks."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from typing import Final

import pytest
from tests.fakes.listeners import answering
from tests.fakes.processes import DEADLINE, reserve

from rkeyserver.cli import policy, status
from rkeyserver.cli.choose import one_that_answers, the_only, the_primary
from rkeyserver.cli.command import ops_of
from rkeyserver.config import DEFAULT_OPS
from rkeyserver.errors import Misuse, Unavailable


@contextlib.contextmanager
def dead(*, silent: bool) -> Iterator[str]:
    with reserve() as held:
        if silent:
            held.listen()
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture(scope="module")
def there() -> Iterator[dict[str, str]]:
    with contextlib.ExitStack() as stack:
        yield {
            "primary": str(stack.enter_context(answering(200, b'{"role":"primary"}'))),
            "standby": str(stack.enter_context(answering(200, b'{"role":"standby"}'))),
            "else": str(stack.enter_context(answering(200, b"<html>"))),
            "a list": str(stack.enter_context(answering(200, b"[]"))),
            "refusing": stack.enter_context(dead(silent=False)),
            "silent": stack.enter_context(dead(silent=True)),
        }


# who is named: which one is asked, and which one about a change
CASES: dict[str, tuple[list[str], str, str]] = {
    "one alone": (["silent"], "silent", "silent"),
    "the same twice": (["refusing", "refusing"], "refusing", "refusing"),
    "a refusing one first": (["refusing", "standby", "primary"], "standby", "primary"),
    "a silent one first": (["silent", "primary"], "primary", "primary"),
    "something else first": (["else", "a list", "standby"], "standby", "standby"),
    "no primary": (["standby", "silent"], "standby", "standby"),
    "a mixture": (["silent", "refusing", "else", "standby", "primary"], "standby", "primary"),
}


@pytest.mark.parametrize(("named", "asked", "changed"), CASES.values(), ids=CASES)
def test_who_is_asked(there: dict[str, str], named: list[str], asked: str, changed: str) -> None:
    ops = [there[name] for name in named]
    assert one_that_answers(ops) == there[asked]
    assert the_primary(ops) == there[changed]


@pytest.mark.parametrize("choose", [one_that_answers, the_primary])
def test_where_nobody_answers_all_are_named(there: dict[str, str], choose: object) -> None:
    assert callable(choose)
    ops = [there["refusing"], there["silent"], there["else"]]
    with pytest.raises(Unavailable, match=re.escape(", ".join(ops))):
        choose(ops)
    with pytest.raises(Misuse, match="no address"):
        choose([there["primary"], "a:b"])


def test_what_is_about_one_instance_takes_one() -> None:
    assert the_only(["a:1", "a:1"]) == "a:1"
    with pytest.raises(Misuse, match="names several"):
        the_only(["a:1", "b:1"])


USUAL: Final = [str(DEFAULT_OPS)]


def test_what_is_said_on_the_command_line() -> None:
    parse = status.parser().parse_args
    assert ops_of(parse([])) == USUAL
    assert ops_of(parse(["--ops", "a", "--ops", "b"])) == ["a", "b"]
    assert ops_of(policy.parser().parse_args(["show"])) == USUAL


def test_a_status_of_whoever_lives(there: dict[str, str]) -> None:
    words = ["--json", "--ops", there["refusing"], "--ops", there["standby"]]
    assert '"standby"' in status.run(status.parser().parse_args(words)).text


def test_the_silent_one_is_silent(there: dict[str, str]) -> None:
    host, _, port = there["silent"].partition(":")
    with socket.create_connection((host, int(port)), DEADLINE):
        pass
