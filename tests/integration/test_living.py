"""Several addresses, of which some are dead: whoever lives is found at once, and nothing is waited for."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator

import pytest
from tests.fakes.listeners import full
from tests.fakes.processes import Machine, Machines, reserve

from rkeyserver.service.fetch import HELLO_SECONDS
from rkeyserver.service.http_client import CONNECT_SECONDS


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    with reserve() as held:
        yield f"127.0.0.1:{held.getsockname()[1]}"


MIXTURES: dict[str, list[str]] = {
    "one refuses": ["refusing", "alive"],
    "one is silent": ["stopped", "alive"],
    "one drops packets": ["dropping", "alive"],
    "all of them, twice": ["refusing", "stopped", "dropping", "refusing", "dropping", "alive"],
    "the living one is first": ["alive", "stopped", "dropping"],
}


@pytest.fixture
def addresses(machines: Machines) -> Iterator[dict[str, str]]:
    """A primary, and a standby of it that is stopped as if its machine hung."""
    host, stopped = machines("host"), machines("stopped")
    host.start()
    running = stopped.start("-i", host.address)
    with refusing() as refuses, full() as drops:
        running.process.send_signal(signal.SIGSTOP)
        try:
            yield {
                "alive": host.address,
                "stopped": stopped.address,
                "refusing": refuses,
                "dropping": "{}:{}".format(*drops),
            }
        finally:
            running.process.send_signal(signal.SIGCONT)


def asked(machine: Machine, addresses: dict[str, str], names: list[str]) -> float:
    began = time.monotonic()
    words = [word for name in names for word in ("-i", addresses[name])]
    ended = machine.run(*words, "--once", "--wait", "0")
    assert ended.status == 0, ended.err
    # Nobody was asked for the key but the one that lives: no exchange was begun with another, and none was given up.
    assert "No answer from" not in ended.err
    return time.monotonic() - began


def test_a_joiner_finds_the_one_that_lives(machines: Machines, addresses: dict[str, str]) -> None:
    for number, (name, names) in enumerate(MIXTURES.items()):
        took = asked(machines(f"new{number}"), addresses, names)
        assert took < HELLO_SECONDS + CONNECT_SECONDS, name


def test_where_all_are_dead_each_is_named(machines: Machines, addresses: dict[str, str]) -> None:
    new = machines("new")
    ended = new.run("-i", addresses["refusing"], "-i", addresses["stopped"], "--once", "--wait", "0")
    assert ended.status == 4
    assert f"No answer from {addresses['refusing']}" in ended.err
    assert f"No answer from {addresses['stopped']} ({addresses['stopped']}: no answer in time)" in ended.err
