"""A domain on machines with an address each, on one switch: cut off, stopped, killed and emptied as a test says."""

from __future__ import annotations

import base64
import contextlib
import itertools
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import httpx

from rkeyserver.appraisal.orders import Order, Promote, Rotate, text_of
from rkeyserver.errors import Corrupt
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.sealing.record import Header, parse
from rkeyserver.service.routes import ORDERS_PATH, UNWRAP_PATH, WRAP_PATH
from tests.fakes.places import Place, cable, place, programs
from tests.fakes.processes import DEADLINE, Machine, Machines, Running, opened

NETWORK: Final = "10.23.101"
SERVICE: Final = f"{NETWORK}.9"
NOBODY: Final = "02:00:00:00:00:99"


def until(what: Callable[[], str] | str, found: Callable[[], bool], seconds: float = 2 * DEADLINE) -> float:
    """Wait for it; the seconds that it took."""
    began = time.monotonic()
    while not found():
        assert time.monotonic() < began + seconds, f"not in time: {what if isinstance(what, str) else what()}"
        time.sleep(0.1)
    return time.monotonic() - began


@dataclass
class Host:
    """One machine and the instance on it. more: options of every start."""

    number: int
    machine: Machine
    place: Place
    more: tuple[str, ...] = ()
    running: Running | None = None

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number}"

    def start(self, *words: str) -> None:
        machine = self.machine
        words = (
            *(*machine.platform_words(), "--keystore", str(machine.keystore), "--listen", f"{self.address}:8888"),
            *(*self.more, *words),
        )
        self.running = self.place.begin("rkeyserver", *words).ready()

    def kill(self) -> None:
        assert self.running is not None
        self.running.kill()

    def pause(self) -> None:
        assert self.running is not None
        self.running.send(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.running is not None
        self.running.send(signal.SIGCONT)

    def lose_disk(self) -> None:
        """All that the instance ever wrote. The machine itself is the same."""
        for path in self.machine.folder.glob("rkey.bin*"):
            path.unlink()

    @property
    def header(self) -> Header:
        return parse(self.machine.record).header

    @property
    def member(self) -> str:
        return self.header.member

    @contextlib.contextmanager
    def keyring(self) -> Iterator[Keyring]:
        """What it holds, by its record: nothing is in force that is not stored."""
        with contextlib.closing(opened(self.machine)) as found:
            yield found

    def digest(self) -> str:
        with self.keyring() as found:
            return found.place.digest

    def leads(self) -> bool:
        with self.keyring() as found:
            return found.header.primary == self.member

    def generations(self) -> dict[str, str]:
        with self.keyring() as found:
            return {one.id: str(one.state) for one in found.header.generations}

    def post(self, path: str, content: bytes | None = None, **said: str) -> httpx.Response:
        transport = httpx.HTTPTransport(uds=f"{self.machine.keystore}.socket")
        with httpx.Client(transport=transport, base_url="http://localhost", timeout=DEADLINE) as client:
            return client.post(path, json=said) if content is None else client.post(path, content=content)

    def order(self, order: Order) -> httpx.Response:
        return self.post(ORDERS_PATH, content=text_of(order).encode())

    def rotate(self) -> httpx.Response:
        with self.keyring() as now:
            return self.order(Rotate(domain=now.domain, current=now.current.id))

    def promote(self) -> httpx.Response:
        with self.keyring() as now:
            return self.order(Promote(domain=now.domain, member=self.member, epoch=now.header.epoch))

    def wrap(self, text: str) -> str:
        answer = self.post(WRAP_PATH, label="test", plaintext=base64.b64encode(text.encode()).decode())
        assert answer.status_code == httpx.codes.OK, answer.text
        return str(answer.json()["wrapped"])

    def unwrap(self, wrapped: str) -> str:
        answer = self.post(UNWRAP_PATH, label="test", wrapped=wrapped)
        assert answer.status_code == httpx.codes.OK, answer.text
        return base64.b64decode(answer.json()["plaintext"]).decode()


@dataclass
class Site:
    """The machines, and everything that was ever wrapped on any of them, by its text."""

    switch: Place
    hosts: list[Host]
    wrapped: dict[str, str] = field(default_factory=dict)

    def part(self, one: Host, other: Host) -> None:
        """What either sends to the other vanishes."""
        for here, there in ((one, other), (other, one)):
            here.place.ip("neighbour", "replace", there.address, "lladdr", NOBODY, "dev", "eth", "nud", "permanent")

    def join(self, one: Host, other: Host) -> None:
        for here, there in ((one, other), (other, one)):
            here.place.ip("neighbour", "del", there.address, "dev", "eth")

    def unplug(self, host: Host) -> None:
        self.switch.ip("link", "set", f"port{host.number}", "down")

    def plug(self, host: Host) -> None:
        self.switch.ip("link", "set", f"port{host.number}", "up")

    def wrap(self, *hosts: Host) -> None:
        for host in hosts:
            text = f"{len(self.wrapped)} on {host.number}"
            self.wrapped[text] = host.wrap(text)

    def same(self) -> bool:
        try:
            return len({one.digest() for one in self.hosts}) == 1
        except (FileNotFoundError, Corrupt):  # one was just replaced
            return False

    def primary(self) -> Host:
        (found,) = (one for one in self.hosts if one.leads())
        return found

    def settled(self, what: str, seconds: float = 2 * DEADLINE) -> None:
        """Afterwards, always: one domain, one state, one primary, nothing pending, and everything opens everywhere."""
        until(
            lambda: f"{what}: all agree\n{self.show()}",
            lambda: self.same() and "pending" not in self.hosts[0].generations().values(),
            seconds,
        )
        assert sum(one.leads() for one in self.hosts) == 1
        for host, (text, wrapped) in itertools.product(self.hosts, self.wrapped.items()):
            assert host.unwrap(wrapped) == text

    def show(self) -> str:
        return "\n".join(
            f"{one.number}: {one.header}\n{one.generations()}\n{one.running and one.running.err.text}"
            for one in self.hosts
        )


@contextlib.contextmanager
def site(machines: Machines, number: int) -> Iterator[Site]:
    """So many machines on a switch, which is a machine too; nothing runs."""
    path = programs()
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(place(machines("switch"), path))
        switch.ip("link", "add", "bridge", "type", "bridge")
        switch.ip("address", "add", f"{SERVICE}/24", "dev", "bridge")
        switch.ip("link", "set", "bridge", "up")
        hosts = []
        for each in range(1, number + 1):
            machine = machines(f"host{each}")
            made = stack.enter_context(place(machine, path, switch))
            cable(switch, f"port{each}", made, "eth")
            switch.ip("link", "set", f"port{each}", "master", "bridge", "up")
            made.ip("address", "add", f"{NETWORK}.{each}/24", "dev", "eth")
            made.ip("link", "set", "eth", "up")
            hosts.append(Host(each, machine, made))
        yield Site(switch, hosts)
