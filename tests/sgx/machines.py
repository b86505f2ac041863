"""Machines with SGX, as far as there can be some here: real server processes, each over a stand-in of its own.

    machines = SgxMachines(folder)
    host = machines("host")                                 a chip, an image loaded on it, a keystore, two addresses
    new = machines("new", beside=host, isv_svn=2)           another image on the same chip, with its own keystore
    host.load(isv_svn=2)                                    another image in the place of the one that was there
    host.update_microcode(cpu_svn("UpToDate"))              what the chip's keys then follow from
    host.fault("quote", FAILS)                              what goes wrong, until host.mend()

Everything but start() of an instance may be done while one runs: the stand-in looks at its state at each open. A test
that is written for tests.fakes.processes.Machines runs on these as well, as far as it asks for nothing that SGX does
not have.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec
from tests.fakes.admins import admins
from tests.fakes.machines import anchor_of, private_authority, set_microcode
from tests.fakes.pccs import SIMULATED
from tests.fakes.processes import DEADLINE, ROOT, Machine, Machines, environment
from tests.sgx import state
from tests.sgx.device import MOUNTED
from tests.sgx.here import SgxHere, machine_here
from tests.sgx.program import Composition, open_to_any
from tests.sgx.state import Enclave, Fault, State, read_state

from rkeyserver.appraisal.defaults import default_policy
from rkeyserver.appraisal.policy import AdminsTable, Policy
from rkeyserver.attestation.sgx.bundle import Entry, write_bundle
from rkeyserver.clock import Clock
from rkeyserver.platforms.sgx.device import Device
from rkeyserver.platforms.sgx.platform import KeyPolicy, SgxPlatform
from rkeyserver.platforms.simulated import tcb
from rkeyserver.platforms.simulated.platform import BACKDATED
from rkeyserver.platforms.simulated.processor import open_processor
from rkeyserver.secret import copy_secret

IMAGE: Final = state.IMAGE
PATH: Final = f"{ROOT / 'src'}:{ROOT}"
ADMINS: Final = admins(1, ["ada"])


@cache
def collateral() -> bytes:
    """A bundle with what verifies the quotes of all these machines."""
    now = int(time.time())
    made = private_authority().collateral(now - BACKDATED)
    return write_bundle([Entry(SIMULATED.fmspc, SIMULATED.ca, "a test", now, made)])


def measured(seal_to: str, who: AdminsTable, recovery: str = "") -> str:
    """The file that is measured into an image. recovery: the table of that name, as text."""
    table = f"[admins]\nthreshold = {who.threshold}\nkeys = {json.dumps(who.keys)}\n"
    return f'seal_to = "{seal_to}"\n\n{table}\n{recovery}'


class HereDevice(Device):
    """The device in the test's own process, which has hidden memory for keys: FUSE cannot read straight into that."""

    def seal_key(self, policy: str, into: memoryview) -> None:
        """As Device."""
        key = bytearray((self.folder / f"keys/_sgx_{policy}").read_bytes())
        copy_secret(memoryview(key), into)


@dataclass
class Stand:
    """The process that stands in for one enclave's /dev/attestation. folder: its own; state: what it begins with."""

    folder: Path
    state: State
    _process: subprocess.Popen[bytes] = field(init=False, repr=False)
    _ready: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.mount.mkdir(parents=True)
        self.state.write(self.folder)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.sgx.device", str(self.folder), str(self.mount)],
                cwd=self.folder,
                env=environment(PYTHONPATH=PATH),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    @property
    def mount(self) -> Path:
        return self.folder / "attestation"

    @property
    def _log(self) -> Path:
        return self.folder / "device.log"

    def ready(self) -> Path:
        """Wait until it is mounted; the folder that is /dev/attestation."""
        if not self._ready:
            assert self._process.stdout is not None
            said = self._process.stdout.readline().decode().strip()
            assert said == MOUNTED, f"{said!r}, {self._log.read_text()}"
            self._ready = True
        return self.mount

    def change(self, **differences: Any) -> None:
        """Go by another state from now on: what is not named stays as it is."""
        msgspec.structs.replace(read_state(self.folder), **differences).write(self.folder)

    def close(self) -> None:
        """End it; it leaves no mount behind."""
        self.ready()
        self._process.terminate()
        try:
            status = self._process.wait(DEADLINE)
        finally:
            self._process.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()
        said = self._log.read_text()
        assert status == 0, said
        assert "Traceback" not in said, said
        assert not self.mount.is_mount()


@dataclass
class SgxMachine(Machine):
    """A machine with SGX and one image loaded on it. holds_collateral: whether it begins with a file of it."""

    platform_name: ClassVar[str] = "sgx"
    starts_processes: ClassVar[bool] = False
    image: Enclave = IMAGE
    seal_to: str = "mrsigner"
    admins: AdminsTable = field(default_factory=lambda: ADMINS)
    recovery: str = ""
    judged_as_simulated: bool = False
    holds_collateral: bool = True
    stand: Stand = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        # Beside the machine's folder and not in it: what is in there never is the same twice.
        aside = self.folder.with_name(f"{self.folder.name}.sgx")
        self.stand = Stand(aside, State(processor=str(self.processor), enclave=self.image))
        anchor = anchor_of(private_authority())
        given = Composition(
            device=str(self.stand.mount),
            measured=str(aside / "measured.toml"),
            root_name=anchor.name,
            root=anchor.der.hex(),
            root_sha256=anchor.sha256,
            judged_as_simulated=self.judged_as_simulated,
        )
        Path(given.measured).write_text(measured(self.seal_to, self.admins, self.recovery))
        self._composition.write_bytes(msgspec.json.encode(given))
        if self.holds_collateral:
            self.collateral.write_bytes(collateral())

    @property
    def composition(self) -> str:
        """The file that tests.sgx.program puts this machine's instances together by."""
        return str(self._composition)

    @property
    def _composition(self) -> Path:
        return self.stand.folder / "composition.json"

    @property
    def collateral(self) -> Path:
        """The file that its instances hold collateral in: where they look for it unasked."""
        return self.folder / "rkey.bin.collateral.json"

    @property
    def processor(self) -> Path:
        """The folder of its chip."""
        return self.chip or self.folder / "machine"

    @property
    def ppid(self) -> str:
        """The chip's name, hex."""
        return open_processor(self.processor).ppid.hex()

    def program(self) -> list[str]:
        """As Machine: the program as in an enclave."""
        self.stand.ready()
        return [sys.executable, "-m", "tests.sgx.program", str(self._composition)]

    def environment(self, **more: str) -> dict[str, str]:
        """As Machine."""
        return environment(**{"PYTHONPATH": PATH} | more)

    def platform_words(self) -> list[str]:
        """As Machine."""
        return ["--platform", "sgx"]

    def platform(self) -> SgxPlatform:
        """As Machine."""
        return SgxPlatform.open(HereDevice(self.stand.ready()), KeyPolicy(self.seal_to))

    def new_policy(self) -> Policy:
        """As Machine: on `simulated` any machine is accepted, and here where it is judged as there."""
        own = self.platform()
        new = open_to_any(default_policy) if self.judged_as_simulated else default_policy
        return new(own.name, mrsigner=own.mrsigner, isv_prod_id=own.isv_prod_id, machine=own.machine)

    def opener(self) -> Path:
        """As Machine."""
        return self.stand.ready()

    def another(self, name: str) -> SgxHere:
        """As Machine: with an image of this one's signer and product."""
        return machine_here(self.folder / name, Clock(), enclave=lambda: self.image.identity)

    def load(self, **differences: Any) -> None:
        """Load another image in the place of this one; `differences` as Enclave has them.

        A running instance goes on and is the new image from now on, which no real one could: stop it before.
        """
        enclave = msgspec.structs.replace(read_state(self.stand.folder).enclave, **differences)
        self.stand.change(enclave=enclave)

    def update_microcode(self, cpu_svn: bytes) -> None:
        """Change the chip's CPUSVN (16 bytes), for every image on it."""
        set_microcode(self.processor, cpu_svn)

    def become(self, stranger: str) -> None:
        """Be what tests.fakes.stranger calls by that name, as far as the machine is what differs."""
        images: dict[str, dict[str, Any]] = {
            "another signer": {"mrsigner": "ab" * 32},
            "another product": {"isv_prod_id": 2},
            "a lower version": {"isv_svn": 0},
            "a debug enclave": {"debug": True},
        }
        if stranger in images:
            self.load(**images[stranger])
        elif stranger == "a TCB out of date":
            open_processor(self.processor)
            self.update_microcode(tcb.cpu_svn("OutOfDate"))
        else:
            assert stranger == "a root of its own"
            self.stand.change(unknown_root=True)

    def fault(self, name: str, what: Fault) -> None:
        """Let something go wrong with one of the pseudo-files from now on."""
        self.stand.change(faults=read_state(self.stand.folder).faults | {name: what})

    def mend(self) -> None:
        """Let nothing go wrong, and the host not lie."""
        self.stand.change(faults={}, quoted=None, quoted_on=None, quoted_data=None)

    def close(self) -> None:
        """As Machine."""
        try:
            super().close()
        finally:
            self.stand.close()


@dataclass
class SgxMachines(Machines):
    """The machines of one test. defaults: what each of them has that says nothing else, as SgxMachine's fields."""

    defaults: dict[str, Any] = field(default_factory=dict)

    def __call__(
        self, name: str, *, host: str = "127.0.0.1", beside: Machine | None = None, **differences: Any
    ) -> SgxMachine:
        """A machine. beside: one whose chip it shares; differences: fields of SgxMachine, or of its image."""
        image = differences.pop("image", self.defaults.get("image", IMAGE))
        of_the_image = {key: differences.pop(key) for key in IMAGE.__struct_fields__ if key in differences}
        given = self.defaults | differences | {"image": msgspec.structs.replace(image, **of_the_image)}
        chip = None if beside is None else beside.processor
        machine = SgxMachine(name, self.folder / name, host=host, chip=chip, **given)
        self._stack.callback(machine.close)
        return machine


@contextlib.contextmanager
def sgx_machines_in(folder: Path, **defaults: Any) -> Iterator[SgxMachines]:
    """Machines with SGX in `folder`; their processes are ended with the context."""
    machines = SgxMachines(folder, defaults=defaults)
    with machines._stack:
        yield machines
