"""The SGX platform: this enclave's quotes and sealing keys, from Gramine's pseudo-files.

Who this enclave is, its own report says: that comes from the processor. Which machine it is on, the PCK certificate in
a quote says: that comes through the host, and whoever is shown a quote verifies it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

from rkeyserver.attestation.evidence import REPORT_DATA_SIZE, Identity
from rkeyserver.attestation.sgx import fields, quote
from rkeyserver.attestation.sgx.pck import ppid_of
from rkeyserver.errors import Corrupt, Rejected, Unavailable
from rkeyserver.platforms.sgx.device import SEAL_KEY_SIZE, Device
from rkeyserver.sealing.sealer import SealingIdentity
from rkeyserver.sealing.wrap import unwrap, wrap
from rkeyserver.secret import SecretBytes

PROTECTS: Final = (
    "Against the host and its administrators, as far as the processor does: not against denial of service, "
    "rollback of the record, side channels, or physical attacks on the processor."
)
_OF_THE_ENCLAVE: Final = ("mrenclave", "mrsigner", "isv_prod_id", "isv_svn", "config_svn", "attributes")


class KeyPolicy(StrEnum):
    """Whose sealing key: of every image of this signer and product, or of this very image only."""

    MRSIGNER = "mrsigner"
    MRENCLAVE = "mrenclave"


@dataclass(frozen=True)
class SgxPlatform:
    """The enclave that this process runs in, on its machine; implements platforms.interface.Platform.

    key_policy: whose sealing key records are sealed with. machine: the PPID, hex. own: the fields of its report.
    """

    device: Device
    key_policy: KeyPolicy
    machine: str
    own: dict[str, Any] = field(repr=False)

    name = "sgx"
    simulated = False
    trusts_host = False
    hides_memory = True
    starts_processes = False
    waits = True
    protects = PROTECTS

    @classmethod
    def open(cls, device: Device, key_policy: KeyPolicy) -> Self:
        """The enclave that this process runs in. Nothing is made or changed by it.

        Raises: Misuse outside of an enclave; Unavailable if it gives no report or quote now; Corrupt if they are not of
        this very enclave, or cannot be read.
        """
        device.check()
        own = fields.report(device.report())
        fresh = os.urandom(REPORT_DATA_SIZE)
        evidence = device.quote(fresh)
        try:
            quote.require_report_data(evidence, fresh)
            machine = ppid_of(fields.parts(evidence).certification)
        except Rejected as error:
            raise Corrupt(f"The quote of this enclave cannot be read. {error.message}") from error
        quoted = fields.report(fields.parts(evidence).report)
        if different := [name for name in _OF_THE_ENCLAVE if quoted[name] != own[name]]:
            raise Corrupt(
                f"The quote is of another enclave than this one: its {different[0]} is {quoted[different[0]]}, this "
                f"one's is {own[different[0]]}.",
                advice="The host answered with what is not this enclave's. Look at its quoting service.",
            )
        return cls(device=device, key_policy=key_policy, machine=machine, own=own)

    @property
    def mrsigner(self) -> str:
        """Own MRSIGNER, hex."""
        return str(self.own["mrsigner"])

    @property
    def mrenclave(self) -> str:
        """Own MRENCLAVE, hex."""
        return str(self.own["mrenclave"])

    @property
    def isv_prod_id(self) -> int:
        """Own product id."""
        return int(self.own["isv_prod_id"])

    @property
    def isv_svn(self) -> int:
        """Own version."""
        return int(self.own["isv_svn"])

    def attester_identity(self) -> Identity:
        """As evidence.Attester."""
        return Identity(platform=self.name, machine=self.machine)

    def evidence(self, report_data: bytes) -> bytes:
        """As evidence.Attester: a quote."""
        found = self.device.quote(report_data)
        try:
            quote.require_report_data(found, report_data)
        except Rejected as error:
            # The host carried it here; a peer would refuse it, and this machine knows it first.
            raise Unavailable(f"The host gave a quote that does not fit what was asked. {error.message}") from error
        return found

    def endorsements(self) -> bytes:
        """As evidence.Attester: none of its own. The collateral that is held goes along (service.vouching)."""
        return b""

    def identity(self) -> SealingIdentity:
        """As sealer.PlatformSealer."""
        return SealingIdentity(
            platform=self.name,
            machine=self.machine,
            policy=str(self.key_policy),
            # Gramine asks for its sealing keys with the present versions, and leaves nothing else out of them (Gramine
            # 1.9, pal/src/host/linux-sgx/enclave_framework.c, sgx_get_seal_key).
            versions={
                "cpu_svn": str(self.own["cpu_svn"]),
                "isv_svn": str(self.isv_svn),
                "config_svn": str(self.own["config_svn"]),
                "isv_prod_id": str(self.isv_prod_id),
                str(self.key_policy): str(self.own[self.key_policy]),
            },
        )

    def seal(self, secret: memoryview, associated_data: bytes) -> bytes:
        """As sealer.PlatformSealer."""
        with SecretBytes(SEAL_KEY_SIZE) as key:
            self.device.seal_key(self.key_policy, key.view)
            return wrap(key.view, secret, associated_data)

    def unseal(self, blob: bytes, associated_data: bytes, into: memoryview) -> None:
        """As sealer.PlatformSealer."""
        with SecretBytes(SEAL_KEY_SIZE) as key:
            self.device.seal_key(self.key_policy, key.view)
            unwrap(key.view, blob, associated_data, into)
