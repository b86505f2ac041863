"""The demo's second act: a domain of three machines whose root key is rotated and whose primary dies, twice."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from demo_stage import Machine, expect, free_port, scene, show, show_command, tell, until
from rkeyserver.client import Client
from rkeyserver.errors import EXIT_STATUS, Misuse, RkeyError

LABEL: Final = "backup"
SECRET: Final = b"a password of long ago"
LEASE_SECONDS: Final = 2
ETCD: Final = "etcd"
# Debian has it where only root's PATH leads on some machines.
ETCD_PATH: Final = "/usr/bin:/usr/local/bin:/usr/sbin"


def second_act(folder: Path, program: Path, machines: list[Machine]) -> None:
    """Tell and show it. Machines that are started go into `machines`, to be ended by whoever has that."""
    north, south, east = three = [Machine(name, folder / name, program) for name in ("north", "south", "east")]
    machines += three
    rotation(north, south, east)
    takeover(north, south, east)
    takeover_by_lease(folder, three)


def rotation(north: Machine, south: Machine, east: Machine) -> None:
    """A new root key for what comes, and everything wrapped before still opens."""
    scene(10, "Second act. Three new machines, and a rotation")
    tell("North makes a key, south and east join it as ever. A program has north wrap a secret:")
    north.begin()
    north.wait_for("Serving as")
    for one in (south, east):
        one.begin("-i", f"127.0.0.1:{north.port}")
    for one in (south, east):
        one.wait_for("Serving as")
    (first,) = generations(north)
    show_command(f"rkeyserver wrap {LABEL} < secret > secret.wrapped")
    wrapped = use(north, "wrap", SECRET)
    tell("Then the operator rotates. What is new wraps nothing before another machine has proved that it stored it:")
    show_command("rkeyserver rotate")
    show(north.ask("rotate"))
    (second,) = set(generations(north)) - {first}
    until("all have followed", lambda: all(generations(one).get(second) == "current" for one in (south, east)))
    expect(use(south, "unwrap", wrapped) == SECRET, "what was wrapped before opens after, on another machine")
    tell("The secret from before opens on south all the same. East wraps it anew, under the new generation:")
    show_command(f"rkeyserver rewrap {LABEL} < secret.wrapped > secret.anew")
    anew = use(east, "rewrap", wrapped)
    expect(use(north, "unwrap", anew) == SECRET, "what was wrapped anew opens")
    tell("So nothing needs the old one any more. It is retired once every machine has shown that it has moved on:")
    until("all have shown what they hold", lambda: all(one["acknowledged"] for one in north.status()["members"]))
    show_command(f"rkeyserver retire {first}")
    show(north.ask("retire", first))
    done = call(north, "unwrap", wrapped)
    expect(done.returncode != 0, "a retired generation opens nothing")
    show_command(f"rkeyserver unwrap {LABEL} < secret.wrapped")
    show(done.stderr.decode())
    expect(use(north, "unwrap", anew) == SECRET, "the other one opens still")
    until("south follows", lambda: same([north, south]))


def takeover(north: Machine, south: Machine, east: Machine) -> None:
    """The primary dies; an operator says who is the next; the old one comes back and follows."""
    scene(11, "The primary dies, and an operator has another one take over")
    tell("A program asks for a key again and again, and knows all three machines. Meanwhile north is killed.")
    with asking(north, south, east) as caller:
        until("the program gets answers", lambda: caller.answers > 0)
        north.end(kill=True)
        before = caller.answers
        until("the program gets answers still", lambda: caller.answers > before)
        tell("It goes on: every machine that has the key serves it. Only changes wait:")
        words = [str(south.program), "rotate", "--ops", f"127.0.0.1:{south.ops}"]
        refused = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
        show_command("rkeyserver rotate")
        show(refused.stderr)
        expect(refused.returncode == EXIT_STATUS[Misuse], "a standby rotates nothing")
        show_command("rkeyserver promote")
        show(south.ask("promote"))
        tell("North comes back, with the command line by which it led. It asks those it knows before anything else:")
        north.begin()
        north.wait_for("Serving as")
        until("the old primary follows", lambda: same([north, south]))
    expect(north.status()["role"] == "standby", "the old primary has stepped down")
    shown = ("role", "state", "primary")
    show("\n".join(line for line in north.ask("status").splitlines() if line.startswith(shown)))
    tell(f"It has stepped down by itself. {caller.told()}")


def takeover_by_lease(folder: Path, machines: list[Machine]) -> None:
    """The same with nobody at the keyboard."""
    scene(12, "The same with nobody at the keyboard: --coordinator")
    program = shutil.which(ETCD) or shutil.which(ETCD, path=ETCD_PATH)
    if program is None:
        tell(
            """Left out here, for etcd is not installed (Debian: apt-get install etcd-server). With it a lease decides
            who is primary, and another machine takes over by itself: docs/operations/etcd.md."""
        )
        return
    tell("All three are started again and told of an etcd, in which a lease says who is primary.")
    for one in machines:
        one.end()
    with etcd(folder, program) as coordinator:
        words = ("--coordinator", f"etcd://{coordinator}", "--lease", str(LEASE_SECONDS))
        for one in machines:
            one.begin(*words)
        for one in machines:
            one.wait_for("Serving as")
        show_command("rkeyserver", *words)
        first = elected(machines)
        until("the others follow", lambda: same(machines))
        name = first.name.capitalize()
        tell(f"{name} was elected, and all follow. The program asks again, and {first.name} is killed.")
        with asking(*machines) as caller:
            until("the program gets answers", lambda: caller.answers > 0)
            first.end(kill=True)
            begun = time.monotonic()
            second = elected([one for one in machines if one is not first])
            took = time.monotonic() - begun
            tell(
                f"After {took:.1f} seconds, with a lease of {LEASE_SECONDS}, {second.name} is primary, and may rotate:"
            )
            show_command("rkeyserver rotate")
            show(second.ask("rotate"))
            first.begin(*words)
            first.wait_for("Serving as")
            until("who led before follows", lambda: same([first, second]))
        expect(first.status()["role"] == "standby", "who led before is a standby")
        tell(f"{name} is back, and is a standby. {caller.told()}")


def generations(machine: Machine) -> dict[str, str]:
    """The state of each, by id."""
    return {one["id"]: one["state"] for one in machine.status()["generations"]}


def place(machine: Machine) -> tuple[int, int, str]:
    """Which state of the keyring it holds."""
    said = machine.status()
    return said["epoch"], said["sequence"], said["primary"]


def same(machines: list[Machine]) -> bool:
    """Whether all hold one state."""
    return len({place(one) for one in machines}) == 1


def elected(machines: list[Machine]) -> Machine:
    """Wait until one says that it is primary: that one."""
    found: list[Machine] = []

    def one_leads() -> bool:
        found[:] = [one for one in machines if one.status()["role"] == "primary"]
        return bool(found)

    until("one of them is primary", one_leads)
    return found[0]


def call(machine: Machine, word: str, given: bytes) -> subprocess.CompletedProcess[bytes]:
    """Have a machine's instance wrap or unwrap something, as any of its programs can."""
    words = [str(machine.program), word, LABEL, "--socket", machine.socket]
    return subprocess.run(words, input=given, capture_output=True, check=False)  # noqa: S603 - our own program


def use(machine: Machine, word: str, given: bytes) -> bytes:
    """The same, where it has to succeed."""
    done = call(machine, word, given)
    expect(done.returncode == 0, f"rkeyserver {word}:\n{done.stderr.decode()}")
    return done.stdout


@dataclass
class Caller:
    """A program that asks for the same key until it is told to stop."""

    ask: Callable[[], bytes]
    answers: int = 0
    longest: float = 0.0
    failed: list[str] = field(default_factory=list)
    keys: set[bytes] = field(default_factory=set)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Ask, and note how long each answer took."""
        while not self.stop.wait(0.01):
            begun = time.monotonic()
            try:
                self.keys.add(self.ask())
                self.answers += 1
            except RkeyError as error:
                self.failed.append(str(error))
            self.longest = max(self.longest, time.monotonic() - begun)

    def told(self) -> str:
        """What it saw."""
        return (
            f"The program had {self.answers} answers meanwhile, each the same key, and no error; it waited at most "
            f"{1000 * self.longest:.0f} ms for one."
        )


@contextlib.contextmanager
def asking(*machines: Machine) -> Iterator[Caller]:
    """A program that knows all of them, and what it saw once it has ended."""
    first = next(one["id"] for one in machines[0].status()["generations"] if one["state"] != "retired")
    with Client([f"unix:{one.socket}" for one in machines]) as domain:

        def ask() -> bytes:
            with domain.derive(LABEL, generation=first) as key:
                return key.unprotected_bytes()

        caller = Caller(ask)
        thread = threading.Thread(target=caller.run)
        thread.start()
        try:
            yield caller
        finally:
            caller.stop.set()
            thread.join()
    expect(not caller.failed, f"the program always got an answer: {caller.failed[:1]}")
    expect(len(caller.keys) == 1, "it was always the same key")


@contextlib.contextmanager
def etcd(folder: Path, program: str) -> Iterator[str]:
    """A server of etcd, on loopback: where it answers."""
    client, peer = f"127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
    words: dict[str, Any] = {
        "name": "demo",
        "data-dir": folder / "etcd",
        "initial-cluster": f"demo={peer}",
        "initial-advertise-peer-urls": peer,
        "listen-peer-urls": peer,
        "listen-client-urls": f"http://{client}",
        "advertise-client-urls": f"http://{client}",
    }
    folder.mkdir(exist_ok=True)
    with (folder / "etcd.log").open("w") as log:
        process = subprocess.Popen(  # noqa: S603 - of this machine
            [program, *(f"--{name}={value}" for name, value in words.items())], stdout=log, stderr=log
        )
    try:
        yield client
    finally:
        process.kill()
        process.wait()
