"""The authority over simulated processors: it certifies them and issues the collateral that their quotes need.

Imported only when something is issued, as certificates.py is.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from rkeyserver.attestation.sgx.collateral import Collateral
from rkeyserver.platforms.simulated import certificates, tcb
from rkeyserver.platforms.simulated.anchor import SIMULATED_ROOT
from rkeyserver.platforms.simulated.keys import PkiKeys, development_keys, sign_raw

if TYPE_CHECKING:
    from rkeyserver.platforms.simulated.processor import Processor


@dataclass(frozen=True)
class Authority:
    """A root certificate (DER) and the keys under it. root_name: the root's common name."""

    keys: PkiKeys
    root: bytes
    root_name: str

    def pck_chain(self, processor: Processor) -> str:
        """The PCK certificate of a processor at its current versions, then its CA's and the root's, PEM."""
        leaf = certificates.pck(
            processor.pck_key().public_key(),
            self.keys.pck_ca,
            ppid=processor.ppid,
            cpu_svn=processor.cpu_svn,
            pce_svn=processor.pce_svn,
        )
        return _pem(leaf) + self.pck_ca_chain()

    def pck_ca_chain(self) -> str:
        """The PCK CA's certificate and the root's, PEM."""
        return self._chain(certificates.pck_ca(self.keys.pck_ca.public_key(), self.root_name, self.keys.root))

    def _chain(self, certificate: x509.Certificate) -> str:
        return _pem(certificate) + _pem(x509.load_der_x509_certificate(self.root))

    def collateral(
        self, issued: int, *, revoked_processors: Collection[int] = (), revoked_cas: Collection[int] = ()
    ) -> Collateral:
        """All that verifies a quote of this authority's processors, valid for tcb.VALID_FOR seconds from `issued`.

        revoked_processors, revoked_cas: serial numbers for the CRLs of the PCK CA and of the root.
        """
        keys = self.keys
        signing_chain = self._chain(
            certificates.tcb_signing(keys.tcb_signing.public_key(), self.root_name, keys.root),
        )
        tcb_info, qe_identity = tcb.tcb_info(issued), tcb.qe_identity(issued)
        return Collateral(
            pck_crl_issuer_chain=self.pck_ca_chain(),
            root_ca_crl=certificates.crl(self.root_name, keys.root, revoked_cas, issued).hex(),
            pck_crl=certificates.crl(certificates.PCK_CA_NAME, keys.pck_ca, revoked_processors, issued).hex(),
            tcb_info_issuer_chain=signing_chain,
            tcb_info=tcb_info,
            tcb_info_signature=sign_raw(keys.tcb_signing, tcb_info.encode()).hex(),
            qe_identity_issuer_chain=signing_chain,
            qe_identity=qe_identity,
            qe_identity_signature=sign_raw(keys.tcb_signing, qe_identity.encode()).hex(),
        )


def development_authority() -> Authority:
    """The authority whose keys are public, under the root that every simulated verifier trusts."""
    return Authority(keys=development_keys(), root=SIMULATED_ROOT.der, root_name=certificates.ROOT_NAME)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()
