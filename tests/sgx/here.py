"""A machine with SGX in the test's own process: the platform itself, over pseudo-files that are answered here.

For tests of the exchange, which judge a thousand messages and open no file: what FUSE and a process of its own add to
that is time. What the pseudo-files say is what the device of tests/sgx/device.py says.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import msgspec
from tests.fakes.machines import HONEST, HostTime, Making, private_authority, set_microcode
from tests.sgx import answers
from tests.sgx.answers import Buffers
from tests.sgx.state import QUOTE, USER_REPORT_DATA

from rkeyserver.clock import Clock
from rkeyserver.platforms.sgx.device import DCAP, Device
from rkeyserver.platforms.sgx.platform import KeyPolicy, SgxPlatform
from rkeyserver.platforms.simulated import tcb
from rkeyserver.platforms.simulated.image import EnclaveIdentity
from rkeyserver.platforms.simulated.platform import BACKDATED
from rkeyserver.platforms.simulated.processor import Processor, look_at_processor, open_processor
from rkeyserver.platforms.simulated.quoting import QuotingEnclave
from rkeyserver.secret import copy_secret


@dataclass(frozen=True)
class DeviceHere(Device):
    """The device of an enclave on a chip (folder), and whose certificates its quoting enclave has."""

    enclave: EnclaveIdentity
    quoting: QuotingEnclave
    _buffers: Buffers = field(default_factory=Buffers, init=False, repr=False)

    @property
    def _chip(self) -> Processor:
        return look_at_processor(self.folder)

    def _read(self, name: str, most: int) -> bytes:
        return self._contents(name)[:most]

    def _write(self, name: str, data: bytes, wanted: int) -> None:
        assert len(data) == wanted
        self._buffers.write(name, data)

    def _contents(self, name: str) -> bytes:
        report_data = self._buffers.read(USER_REPORT_DATA)
        if name == "attestation_type":
            return DCAP
        if name == "my_target_info":
            return answers.target_info(self.enclave)
        if name == QUOTE:
            return self.quoting.quote(self.enclave, report_data)
        assert name == "report"
        return answers.report(self._chip, self.enclave, report_data, self._buffers.read("target_info"))

    def seal_key(self, policy: str, into: memoryview) -> None:
        """As Device."""
        copy_secret(memoryview(bytearray(answers.seal_key(self._chip, self.enclave, policy))), into)


@dataclass(frozen=True)
class SgxHere(SgxPlatform):
    """The platform with the collateral that its instance would hold, and send along (service.vouching)."""

    sent: bytes = field(default=b"", repr=False)

    def endorsements(self) -> bytes:
        """As evidence.Attester."""
        return self.sent

    def with_collateral(self, sent: bytes) -> Self:
        """The same, holding that."""
        return dataclasses.replace(self, sent=sent)


def machine_here(folder: Path, clock: Clock | None = None, **differences: Any) -> SgxHere:
    """A machine whose chip is in `folder`; `differences` as Making has them. Honest ones are under the private root."""
    making: Making = replace(HONEST, **({"authority": private_authority} | differences))
    clock = clock or Clock(HostTime())
    open_processor(folder)
    set_microcode(folder, tcb.cpu_svn(making.status))
    chip, authority = look_at_processor(folder), making.authority()
    collateral = making.collateral(authority, chip, clock.now() - BACKDATED)
    device = DeviceHere(folder, making.enclave(), QuotingEnclave(chip, authority.pck_chain(chip)))
    return SgxHere.open(device, KeyPolicy.MRSIGNER).with_collateral(msgspec.json.encode(collateral))
