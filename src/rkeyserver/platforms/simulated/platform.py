"""The simulated platform: a software processor, the signed image loaded on it, its quotes and its sealing keys."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Self

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from rkeyserver import files
from rkeyserver.attestation.evidence import Identity
from rkeyserver.attestation.sgx.collateral import Collateral
from rkeyserver.clock import Clock
from rkeyserver.platforms.simulated import anchor, tcb
from rkeyserver.platforms.simulated.image import EnclaveIdentity, load_signed, running_image
from rkeyserver.platforms.simulated.processor import (
    CONFIG_SVN,
    SEAL_KEY_SIZE,
    KeyPolicy,
    Processor,
    look_at_processor,
    open_processor,
)
from rkeyserver.platforms.simulated.quoting import QuotingEnclave
from rkeyserver.sealing.sealer import SealingIdentity
from rkeyserver.sealing.wrap import unwrap, wrap
from rkeyserver.secret import SecretBytes

PROVISIONED_FILE: Final = "provisioned.json"
BACKDATED: Final = 86400  # seconds: so that a peer whose clock is behind does not see a document from the future
PROTECTS: Final = "Nothing: its fuses lie in a file and the keys above it are public. For trying out and for tests."
log = logging.getLogger(__name__)


class _Provisioned(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a machine fetches once and keeps, as from a PCCS. pck_sha256: of the key that the chain certifies."""

    pck_sha256: str
    issued: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    pck_chain: str
    collateral: Collateral


@dataclass
class SimulatedPlatform:
    """One simulated machine with this program loaded; implements platforms.interface.Platform.

    key_policy: whose sealing key, every image's of this signer (as the SGX SDK's default) or this one's only.
    keeps: whether what is issued to the machine is kept in its folder.
    """

    processor: Processor
    enclave: EnclaveIdentity
    folder: Path
    clock: Clock
    key_policy: KeyPolicy = KeyPolicy.MRSIGNER
    keeps: bool = True
    _provisioned: _Provisioned = field(init=False, repr=False)
    _endorsements: bytes = field(init=False, repr=False)
    _quoting: QuotingEnclave = field(init=False, repr=False)

    name = "simulated"
    simulated = True
    trusts_host = True
    hides_memory = False
    starts_processes = True
    waits = False
    protects = PROTECTS
    verify = anchor.verify

    @classmethod
    def open(cls, machine_dir: Path, clock: Clock) -> Self:
        """The machine of a folder (made where there is none), with the image of the running code loaded.

        Raises: Corrupt if image or machine state are damaged; Misuse, Unavailable if the folder cannot be used.
        """
        enclave = load_signed(running_image())
        return cls(processor=open_processor(machine_dir), enclave=enclave, folder=machine_dir, clock=clock)

    @classmethod
    def look(cls, machine_dir: Path, clock: Clock) -> Self:
        """The machine of a folder, if it is there; nothing in the folder is made or changed.

        Raises: Corrupt if image or machine state are damaged; Misuse if there is none.
        """
        enclave = load_signed(running_image())
        return cls(look_at_processor(machine_dir), enclave, folder=machine_dir, clock=clock, keeps=False)

    def __post_init__(self) -> None:
        self._provision()

    @property
    def mrsigner(self) -> str:
        """Own MRSIGNER, hex."""
        return self.enclave.mrsigner.hex()

    @property
    def isv_prod_id(self) -> int:
        """Own product id."""
        return self.enclave.isv_prod_id

    def attester_identity(self) -> Identity:
        """As evidence.Attester."""
        return Identity(platform=self.name, machine=self.processor.ppid.hex())

    def evidence(self, report_data: bytes) -> bytes:
        """As evidence.Attester: a quote."""
        return self._quoting.quote(self.enclave, report_data)

    def endorsements(self) -> bytes:
        """As evidence.Attester: the collateral, issued anew when half its time is over."""
        if not self._fresh(self._provisioned):
            self._provision()
        return self._endorsements

    def identity(self) -> SealingIdentity:
        """As sealer.PlatformSealer."""
        return SealingIdentity(
            platform=self.name,
            machine=self.processor.ppid.hex(),
            policy=str(self.key_policy),
            versions={
                "cpu_svn": self.processor.cpu_svn.hex(),
                "isv_svn": str(self.enclave.isv_svn),
                "config_svn": str(CONFIG_SVN),
            },
        )

    def seal(self, secret: memoryview, associated_data: bytes) -> bytes:
        """As sealer.PlatformSealer."""
        with SecretBytes(SEAL_KEY_SIZE) as key:
            self.processor.seal_key(self.key_policy, self.enclave, key.view)
            return wrap(key.view, secret, associated_data)

    def unseal(self, blob: bytes, associated_data: bytes, into: memoryview) -> None:
        """As sealer.PlatformSealer."""
        with SecretBytes(SEAL_KEY_SIZE) as key:
            self.processor.seal_key(self.key_policy, self.enclave, key.view)
            unwrap(key.view, blob, associated_data, into)

    def _fresh(self, provisioned: _Provisioned) -> bool:
        return provisioned.issued <= self.clock.now() <= provisioned.issued + tcb.VALID_FOR // 2

    def _provision(self) -> None:
        kept = self._kept()
        if kept is None:
            kept = self._issued()
            if self.keeps:
                self._keep(kept)
        self._provisioned = kept
        self._endorsements = msgspec.json.encode(kept.collateral)
        self._quoting = QuotingEnclave(self.processor, kept.pck_chain)

    def _kept(self) -> _Provisioned | None:
        try:
            kept = msgspec.json.decode((self.folder / PROVISIONED_FILE).read_bytes(), type=_Provisioned)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None  # nothing is lost: the authority is in this program, and issues it again
        return kept if kept.pck_sha256 == self._pck_sha256() and self._fresh(kept) else None

    def _pck_sha256(self) -> str:
        public = self.processor.pck_key().public_key()
        return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()

    def _issued(self) -> _Provisioned:
        from rkeyserver.platforms.simulated.pki import development_authority  # noqa: PLC0415 - X.509 costs 50 ms

        authority, issued = development_authority(), self.clock.now() - BACKDATED
        return _Provisioned(
            pck_sha256=self._pck_sha256(),
            issued=issued,
            pck_chain=authority.pck_chain(self.processor),
            collateral=authority.collateral(issued),
        )

    def _keep(self, provisioned: _Provisioned) -> None:
        try:
            files.replace(self.folder / PROVISIONED_FILE, msgspec.json.encode(provisioned))
        except OSError as error:
            # Nothing is lost: it is made anew at the next start.
            log.warning("%s cannot be written: %s.", self.folder / PROVISIONED_FILE, error.strerror)
