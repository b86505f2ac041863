"""What the stand-in for SGX answers from: a file that a test writes anew while the device runs, read at every open.

It says which processor the machine has, which enclave is loaded on it, and what goes wrong with the pseudo-files.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Final

import msgspec

from rkeyserver import files
from rkeyserver.platforms import sigstruct
from rkeyserver.platforms.simulated.image import EnclaveIdentity

STATE: Final = "device.json"
QUOTE: Final = "quote"
USER_REPORT_DATA: Final = "user_report_data"
KEYS: Final = {"keys/_sgx_mrenclave": "mrenclave", "keys/_sgx_mrsigner": "mrsigner"}


class Enclave(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An enclave as it is loaded. mrenclave, mrsigner: 32 bytes, hex."""

    mrenclave: str
    mrsigner: str
    isv_prod_id: int = 1
    isv_svn: int = 1
    debug: bool = False

    @property
    def identity(self) -> EnclaveIdentity:
        """The same, as the software processor has it."""
        flags, xfrm = struct.unpack("<QQ", sigstruct.attributes(debug=self.debug))
        return EnclaveIdentity(
            mrenclave=bytes.fromhex(self.mrenclave),
            mrsigner=bytes.fromhex(self.mrsigner),
            isv_prod_id=self.isv_prod_id,
            isv_svn=self.isv_svn,
            attributes=struct.pack("<QQ", flags | sigstruct.FLAG_INIT, xfrm),
        )


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What goes wrong when one of the pseudo-files is opened.

    absent: it is not there. delay: seconds until it opens. error: the errno with which that fails, by its name.
    contents: what is in it instead, hex. size: to how many bytes it is then cut, or filled up with zeros.
    """

    absent: bool = False
    delay: float = 0.0
    error: str | None = None
    contents: str | None = None
    size: int | None = None


IMAGE: Final = Enclave(
    mrenclave=hashlib.sha256(b"the image of a test").hexdigest(),
    mrsigner=hashlib.sha256(b"its signer").hexdigest(),
)
NO_FAULT: Final = Fault()
FAILS: Final = Fault(error="EACCES")  # as every failure behind the files of /dev/attestation


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a machine is, and does. processor: the folder of the chip; faults: by the name of the file.

    What a lying host has in a quote instead: quoted, another enclave; quoted_on, the folder of another chip;
    quoted_data, other report data (64 bytes, hex). unknown_root: whether a root that nothing trusts certifies its chip.
    """

    processor: str
    enclave: Enclave
    attestation_type: str = "dcap"
    faults: dict[str, Fault] = {}
    quoted: Enclave | None = None
    quoted_on: str | None = None
    quoted_data: str | None = None
    unknown_root: bool = False

    def write(self, folder: Path) -> None:
        """Put it into force, whole: the next open goes by it."""
        files.replace(folder / STATE, msgspec.json.format(msgspec.json.encode(self)))


def read_state(folder: Path) -> State:
    """The state in force."""
    return msgspec.json.decode((folder / STATE).read_bytes(), type=State)
