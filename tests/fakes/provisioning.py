"""An instance that gives applications their keys, in this process: its listener is on a loop in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from rkeyserver.address import Address
from rkeyserver.appraisal.defaults import default_policy
from rkeyserver.clock import Clock
from rkeyserver.errors import Reason
from rkeyserver.keyring.derivation import derive_into
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.platforms.registry import load_verifier
from rkeyserver.platforms.simulated.platform import SimulatedPlatform
from rkeyserver.service.on_demand import WithOwnEndorsements
from rkeyserver.service.provision import Provisioner
from rkeyserver.service.serve import open_sockets
from rkeyserver.service.verification import InlineVerifier
from tests.fakes.application import Application, ask, entry, provision
from tests.fakes.machines import HostTime, machine
from tests.fakes.scene import Scene

WAIT: Final = 20.0


def until(found: Callable[[], Any], what: str) -> None:
    """Wait for it."""
    end = time.monotonic() + WAIT
    while not found():
        assert time.monotonic() < end, f"{what}: not in time"
        time.sleep(0.005)


def policy_with(platform: SimulatedPlatform, *tables: str) -> str:
    """The default policy of a domain, and more tables."""
    made = default_policy("simulated", mrsigner=platform.mrsigner, isv_prod_id=platform.isv_prod_id)
    return made.text + "".join(tables)


def derived(keyring: Keyring, label: str, size: int, generation: int = -1) -> bytes:
    """The key of a label."""
    into = bytearray(size)
    root_key = keyring.root_key(keyring.generation_ids[generation])
    said = label.encode()
    derive_into(root_key, domain=keyring.domain, purpose="ra-tls secret", label=said, into=memoryview(into))
    return bytes(into)


@dataclass
class Giving:
    """One such instance."""

    scene: Scene
    platform: SimulatedPlatform
    provisioner: Provisioner
    loop: asyncio.AbstractEventLoop

    def hold(self, keyring: Keyring) -> None:
        """Have the instance hold another keyring; on its loop, as everything there."""

        async def there() -> None:
            before = self.scene.instance.keyring
            self.scene.instance.hold(keyring)
            assert before is None or before is not keyring

        asyncio.run_coroutine_threadsafe(there(), self.loop).result(WAIT)

    def with_tables(self, *tables: str, names: tuple[str, ...] = ("a",)) -> Keyring:
        """Have it hold a keyring of these generations, whose policy has these tables."""
        keyring = self.scene.keyring(*names, policy=policy_with(self.platform, *tables))
        self.hold(keyring)
        return keyring

    @property
    def listening(self) -> list[str]:
        found: list[str] = self.provisioner.status()["listening"]
        return found

    @property
    def port(self) -> int:
        until(lambda: self.listening, "it listens")
        return int(self.listening[0].rpartition(":")[2])

    @property
    def ca(self) -> bytes:
        return self.provisioner.ca_certificate("")

    def ask(self, application: Application, shown: x509.Certificate | None = None, **said: Any) -> bytes:
        """All that it answers an application; `said` as application.ask() takes it."""
        return ask(self.port, self.ca, application.key, shown or application.certificate(), **said)

    @contextlib.contextmanager
    def refuses(self, reason: Reason | str, *, recorded: bool = False) -> Iterator[None]:
        """Check that what is done inside is refused once and for that, gives nothing, and is on record or is not."""
        refused = self.scene.instance.refused
        before, given, lines = dict(refused), self.provisioner.given, len(self.scene.lines())
        yield
        until(lambda: dict(refused) != before, f"it refuses for {reason}")
        assert {name: count - before.get(name, 0) for name, count in refused.items() if count != before.get(name)} == {
            str(reason): 1
        }
        assert self.provisioner.given == given
        added = self.scene.lines()[lines:]
        assert [(one["event"], one["verdict"], one["reason"]) for one in added] == (
            [("provision", "refused", str(reason))] if recorded else []
        )


@contextlib.contextmanager
def giving(folder: Path, *, applications: bool = True) -> Iterator[Giving]:
    """An instance that holds a keyring whose policy has the application `db`, or none."""
    scene = Scene(folder)
    platform = machine(folder / "server", Clock(HostTime()))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="giving")
    thread.start()
    at: Callable[[Address], list[socket.socket]] = functools.partial(open_sockets, option="--provision")
    quotes = WithOwnEndorsements(platform, InlineVerifier(load_verifier("simulated")))
    provisioner = Provisioner(scene.instance, Address("127.0.0.1", 0), platform, quotes, at)
    found = Giving(scene, platform, provisioner, loop)
    running = provisioner.running()
    try:
        asyncio.run_coroutine_threadsafe(running.__aenter__(), loop).result(WAIT)
        found.with_tables(*((provision(), entry("db")) if applications else ()))
        yield found
        asyncio.run_coroutine_threadsafe(running.__aexit__(None, None, None), loop).result(WAIT)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        scene.close()
