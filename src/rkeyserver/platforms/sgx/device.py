"""/dev/attestation, as Gramine has it (Gramine 1.9, "Attestation and Secret Provisioning").

    attestation_type     "dcap"
    user_report_data     64 bytes; what is written stays until the next write, for the whole process
    quote                made when it is opened, over user_report_data
    my_target_info       what a report for this very enclave is made for; target_info takes it
    report               made when it is opened, over user_report_data, for target_info
    keys/_sgx_mrsigner   the sealing key of this signer's enclaves, 16 bytes; keys/_sgx_mrenclave of this one alone

The buffers are one for the process and have no lock, so one is held here from the first write to the last byte read.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rkeyserver.attestation.evidence import REPORT_DATA_SIZE
from rkeyserver.errors import Corrupt, Misuse, Unavailable

DEVICE: Final = Path("/dev/attestation")
DCAP: Final = b"dcap"
MAX_QUOTE: Final = 8192
TARGET_INFO_SIZE: Final = 512
REPORT_SIZE: Final = 432
SEAL_KEY_SIZE: Final = 16

_MAX_TYPE: Final = 32
_NO_QUOTE: Final = (
    "Is the quoting service (aesmd) running on the host and its socket in reach of the enclave, is the machine "
    "registered, and does the PCCS that it asks answer?"
)


@dataclass(frozen=True)
class Device:
    """The pseudo-files under `folder`."""

    folder: Path
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def check(self) -> None:
        """Whether this is an enclave that can be attested by DCAP.

        Raises: Misuse.
        """
        try:
            found = self._read("attestation_type", _MAX_TYPE)
        except OSError as error:
            raise Misuse(
                f"There is no {self.folder}: this process is in no SGX enclave of Gramine's.",
                advice="Start the program that `make enclave` has built; it runs the server inside one.",
            ) from error
        if found != DCAP:
            raise Misuse(
                f"{self.folder}/attestation_type is {found.decode('ascii', 'replace')!r}; wanted is 'dcap'.",
                advice="The enclave was built without remote attestation: build it with `make enclave`.",
            )

    def quote(self, report_data: bytes) -> bytes:
        """A quote over 64 bytes of `report_data`, at most MAX_QUOTE bytes long. Waits for the quoting enclave.

        Raises: Unavailable if none can be had now, Corrupt if it is too long.
        """
        with self._lock, self._asking("quote", _NO_QUOTE):
            self._write("user_report_data", report_data, REPORT_DATA_SIZE)
            found = self._read("quote", MAX_QUOTE + 1)
        if len(found) > MAX_QUOTE:
            raise Corrupt(f"{self.folder}/quote has over {MAX_QUOTE} bytes.")
        return found

    def report(self) -> bytes:
        """The processor's report about this enclave, for itself: REPORT_SIZE bytes.

        Raises: Unavailable if none can be had now, Corrupt if it has another length.
        """
        with self._lock, self._asking("report", ""):
            target = self._read("my_target_info", TARGET_INFO_SIZE + 1)
            self._write("target_info", target, TARGET_INFO_SIZE)
            self._write("user_report_data", bytes(REPORT_DATA_SIZE), REPORT_DATA_SIZE)
            found = self._read("report", REPORT_SIZE + 1)
        if len(found) != REPORT_SIZE:
            raise Corrupt(f"{self.folder}/report has {len(found)} bytes; wanted are {REPORT_SIZE}.")
        return found

    def seal_key(self, policy: str, into: memoryview) -> None:
        """The sealing key of `policy` ("mrsigner" or "mrenclave"), SEAL_KEY_SIZE bytes into key memory.

        Raises: Unavailable if it cannot be had, Corrupt if it has another length.
        """
        name = f"keys/_sgx_{policy}"
        with self._asking(name, ""), (self.folder / name).open("rb", buffering=0) as file:
            size = file.readinto(into)
            more = file.read(1)
        if size != SEAL_KEY_SIZE or more:
            raise Corrupt(f"{self.folder}/{name} has {size + len(more or b'')} bytes; wanted are {SEAL_KEY_SIZE}.")

    def _read(self, name: str, most: int) -> bytes:
        found = bytearray()
        with (self.folder / name).open("rb", buffering=0) as file:
            while len(found) < most and (part := file.read(most - len(found))):
                found += part
        return bytes(found)

    def _write(self, name: str, data: bytes, wanted: int) -> None:
        # The file would pad what is too short and cut what is too long, and say nothing.
        if len(data) != wanted:
            raise Corrupt(f"{self.folder}/{name} takes {wanted} bytes; {len(data)} are to be written.")
        with (self.folder / name).open("wb", buffering=0) as file:
            if file.write(data) != wanted:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    @contextmanager
    def _asking(self, name: str, advice: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Unavailable(f"{self.folder}/{name} gives nothing now: {error.strerror}.", advice=advice) from error
