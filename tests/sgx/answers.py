"""What is in the files of /dev/attestation, made by the software processor: state and buffers in, bytes out.

The layouts of TARGETINFO and REPORT are those of the Intel SDM, volume 3D. A report's MAC is a real one: AES-CMAC over
the 384 bytes of its body, under a key that follows from the processor's fuses, the target and KEYID. Nothing but
report_mac() makes that key: what a real processor derives it from beside these is left out.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from tests.fakes.machines import private_authority, unknown_authority
from tests.sgx.state import KEYS, QUOTE, USER_REPORT_DATA, State

from rkeyserver.platforms.simulated.image import EnclaveIdentity
from rkeyserver.platforms.simulated.processor import CONFIG_SVN, SEAL_KEY_SIZE, KeyPolicy, Processor, open_processor
from rkeyserver.platforms.simulated.quoting import QuotingEnclave, report_body

REPORT_DATA_SIZE: Final = 64
TARGET_INFO_SIZE: Final = 512
REPORT_SIZE: Final = 432
_KEY_ID_SIZE: Final = 32
_TARGETED: Final = 64  # of a TARGETINFO: the enclave that a report is for, in its first bytes

# The two that are written to, and how long their buffers are.
BUFFERS: Final = {USER_REPORT_DATA: REPORT_DATA_SIZE, "target_info": TARGET_INFO_SIZE}


@dataclass
class Buffers:
    """What one process has written. Nothing locks it: whoever writes last counts, as inside an enclave."""

    _kept: dict[str, bytes] = field(default_factory=dict)

    def write(self, name: str, data: bytes) -> None:
        """Replace a buffer: filled up with zeros, cut at its size."""
        size = BUFFERS[name]
        self._kept[name] = data[:size].ljust(size, b"\0")

    def read(self, name: str) -> bytes:
        """A buffer as it is now."""
        return self._kept.get(name, bytes(BUFFERS[name]))


def target_info(enclave: EnclaveIdentity) -> bytes:
    """The TARGETINFO of an enclave."""
    return struct.pack("<32s16s2xH460x", enclave.mrenclave, enclave.attributes, CONFIG_SVN)


def report_mac(processor: Processor, target: bytes, key_id: bytes, body: bytes) -> bytes:
    """The MAC that `processor` puts under a report's body for a target, and by which the target knows the report."""
    key = bytearray(16)
    processor._derive_into(memoryview(key), b"REPORT", target[:_TARGETED], key_id)
    mac = CMAC(AES(bytes(key)))
    mac.update(body)
    return mac.finalize()


def report(processor: Processor, enclave: EnclaveIdentity, report_data: bytes, target: bytes) -> bytes:
    """A REPORT. A target of zeros stands for the enclave itself."""
    if not any(target):
        target = target_info(enclave)
    body, key_id = report_body(processor, enclave, report_data), os.urandom(_KEY_ID_SIZE)
    return body + key_id + report_mac(processor, target, key_id, body)


def seal_key(processor: Processor, enclave: EnclaveIdentity, policy: str) -> bytes:
    """A sealing key, as the file under keys/ has it."""
    key = bytearray(SEAL_KEY_SIZE)
    processor.seal_key(KeyPolicy(policy), enclave, memoryview(key))
    return bytes(key)


@dataclass
class Quoting:
    """The quoting enclaves of the chips that a device has quoted for, certified by the private authority."""

    _made: dict[tuple[Processor, bool], QuotingEnclave] = field(default_factory=dict)

    def quote(self, state: State, report_data: bytes) -> bytes:
        """A quote; what a lying host has in it instead, state says."""
        processor = open_processor(Path(state.quoted_on or state.processor))
        which = processor, state.unknown_root
        if which not in self._made:
            authority = unknown_authority() if state.unknown_root else private_authority()
            self._made[which] = QuotingEnclave(processor, authority.pck_chain(processor))
        data = report_data if state.quoted_data is None else bytes.fromhex(state.quoted_data)
        return self._made[which].quote((state.quoted or state.enclave).identity, data)


def contents(name: str, state: State, buffers: Buffers, quoting: Quoting) -> bytes:
    """What an open of the file `name` finds in it, made now."""
    if name in BUFFERS:
        return b""
    if name == "attestation_type":
        return state.attestation_type.encode()
    if name == QUOTE:
        return quoting.quote(state, buffers.read(USER_REPORT_DATA))
    enclave = state.enclave.identity
    if name == "my_target_info":
        return target_info(enclave)
    processor = open_processor(Path(state.processor))
    if name in KEYS:
        return seal_key(processor, enclave, KEYS[name])
    return report(processor, enclave, buffers.read(USER_REPORT_DATA), buffers.read("target_info"))
