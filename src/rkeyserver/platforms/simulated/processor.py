"""The software processor of one machine: a folder that stands for a chip.

`processor.json` holds what a real chip burns in: fuses, PPID, and the versions of its microcode. It lies there in the
clear, for whoever reads the folder; so the fuses are not kept in hidden memory either, which would only be a pretence.
A copy of the folder is the same machine; another folder is another machine.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from rkeyserver import files
from rkeyserver.errors import Corrupt, Misuse, Unavailable
from rkeyserver.framing import framed
from rkeyserver.hex_types import Hex16, Hex32
from rkeyserver.platforms.simulated.image import EnclaveIdentity
from rkeyserver.platforms.simulated.keys import ec_key_of
from rkeyserver.platforms.simulated.tcb import CURRENT_CPU_SVN, CURRENT_PCE_SVN

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

STATE_FILE: Final = "processor.json"
FORMAT: Final = "rkeyserver-simulated-processor/v1"
SEAL_KEY_SIZE: Final = 16
CONFIG_SVN: Final = 0

_MAX_STATE: Final = 4096


class KeyPolicy(StrEnum):
    """Whose sealing key: of every image of this signer, or of this very image only."""

    MRSIGNER = "mrsigner"
    MRENCLAVE = "mrenclave"


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["rkeyserver-simulated-processor/v1"]
    fuses: Hex32
    ppid: Hex16
    cpu_svn: Hex16
    pce_svn: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]


@dataclass(frozen=True)
class Processor:
    """One simulated chip. fuses: 32 bytes; ppid, cpu_svn: 16 bytes; pce_svn: 16 bits."""

    fuses: bytes = field(repr=False)
    ppid: bytes
    cpu_svn: bytes
    pce_svn: int

    def seal_key(self, policy: KeyPolicy, enclave: EnclaveIdentity, into: memoryview) -> None:
        """The enclave's sealing key, SEAL_KEY_SIZE bytes into key memory, by what EGETKEY derives it from.

        That is: the fuses; MRSIGNER or MRENCLAVE, as `policy` says; product id and debug attribute; and the current
        CPUSVN, ISVSVN and CONFIGSVN, so that a change of any of them makes another key.
        """
        measurement = enclave.mrsigner if policy is KeyPolicy.MRSIGNER else enclave.mrenclave
        versions = (self.cpu_svn, _u16(enclave.isv_svn), _u16(CONFIG_SVN))
        self._derive_into(
            into, b"SEAL", policy.encode(), measurement, _u16(enclave.isv_prod_id), bytes([enclave.debug]), *versions
        )

    def pck_key(self) -> ec.EllipticCurvePrivateKey:
        """The provisioning certification key of this chip at its current versions."""
        secret = bytearray(32)
        self._derive_into(memoryview(secret), b"PCK", self.cpu_svn, _u16(self.pce_svn))
        return ec_key_of(bytes(secret))

    def _derive_into(self, into: memoryview, *what: bytes) -> None:
        info = framed(b"rkeyserver simulated processor", *what)
        HKDFExpand(SHA256(), len(into), info).derive_into(self.fuses, into)
        # A hash leaves half of what it found on the C stack until it runs again: let that be of no fuses.
        HKDFExpand(SHA256(), len(into), info).derive_into(bytes(len(self.fuses)), bytearray(len(into)))


def open_processor(machine_dir: Path) -> Processor:
    """The processor of a machine's folder. Where there is none it is made, folder (mode 0700) included.

    Raises: Corrupt if its state is damaged, Misuse if the folder cannot be this machine's, Unavailable if a new one
    cannot be stored. An existing state is never changed.
    """
    path = machine_dir / STATE_FILE
    try:
        machine_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = machine_dir.stat().st_uid
        if owner != os.geteuid():
            raise Misuse(
                f"The machine folder {machine_dir} belongs to user {owner}, this process to user {os.geteuid()}.",
                advice="Run as its owner, or name another folder with --machine.",
            )
        state = _read(path)
        if state is None:
            files.create(path, _new_state())
            state = _read(path)
    except (FileExistsError, NotADirectoryError) as error:
        raise Misuse(
            f"The machine folder {machine_dir} is no folder.", advice="Name another with --machine."
        ) from error
    except PermissionError as error:
        raise Misuse(
            f"The machine folder {machine_dir} cannot be used: {error}.",
            advice="Run as its owner, or name another folder with --machine.",
        ) from error
    except OSError as error:
        raise Unavailable(f"The machine folder {machine_dir} cannot be used now: {error}.") from error
    if state is None:
        raise Unavailable(f"{path} vanished while it was being made.")
    return _parse(path, state)


def look_at_processor(machine_dir: Path) -> Processor:
    """The processor of a machine's folder, if it is there; nothing is made and nothing is changed.

    Raises: Misuse if there is none, or if it cannot be read; Corrupt if its state is damaged.
    """
    path = machine_dir / STATE_FILE
    try:
        state = _read(path)
    except OSError as error:
        raise Misuse(
            f"The machine folder {machine_dir} cannot be used: {error}.",
            advice="Run as its owner, or name another folder with --machine.",
        ) from error
    if state is None:
        raise Misuse(f"There is no simulated machine in {machine_dir}.", advice="Name its folder with --machine.")
    return _parse(path, state)


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_STATE + 1)
    except FileNotFoundError:
        return None
    except IsADirectoryError as error:
        raise Corrupt(f"{path} is a folder, a simulated processor's state wanted.") from error


def _parse(path: Path, state: bytes) -> Processor:
    advice = "Restore it. A new machine (move the folder away) cannot open what this one sealed."
    if len(state) > _MAX_STATE:
        raise Corrupt(f"{path} is larger than the {_MAX_STATE} bytes a simulated processor takes.", advice=advice)
    try:
        found = msgspec.json.decode(state, type=_State)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Corrupt(f"{path} is no state of a simulated processor ({FORMAT}): {error}.", advice=advice) from error
    return Processor(
        fuses=bytes.fromhex(found.fuses),
        ppid=bytes.fromhex(found.ppid),
        cpu_svn=bytes.fromhex(found.cpu_svn),
        pce_svn=found.pce_svn,
    )


def _new_state() -> bytes:
    state = _State(
        format="rkeyserver-simulated-processor/v1",
        fuses=os.urandom(32).hex(),
        ppid=os.urandom(16).hex(),
        cpu_svn=CURRENT_CPU_SVN.hex(),
        pce_svn=CURRENT_PCE_SVN,
    )
    return msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n"


def _u16(number: int) -> bytes:
    return number.to_bytes(2, "little")
