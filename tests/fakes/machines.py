"""Simulated machines that differ from an honest one in one thing, made of the real classes.

What a test turns is what an attacker who has such a machine could turn: which image is loaded, which key signed it,
what lies in the machine's folder, and who issued its certificates. Nothing here is known to the code under test.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from rkeyserver.attestation.sgx.anchors import TrustAnchor
from rkeyserver.attestation.sgx.collateral import Collateral
from rkeyserver.clock import Clock
from rkeyserver.platforms import sigstruct
from rkeyserver.platforms.product import ISV_PROD_ID, ISV_SVN
from rkeyserver.platforms.simulated import certificates, keys, tcb
from rkeyserver.platforms.simulated.image import EnclaveIdentity, load_signed, measure, running_image
from rkeyserver.platforms.simulated.pki import Authority, development_authority
from rkeyserver.platforms.simulated.platform import BACKDATED, PROVISIONED_FILE, SimulatedPlatform
from rkeyserver.platforms.simulated.processor import STATE_FILE, Processor, open_processor

NOW: Final = 1_780_000_000
STATUSES: Final = tuple(tcb.LEVELS)
OTHER_CODE: Final = b"another image than the one that runs"
PRIVATE_ROOT_NAME: Final = "a private root of a test"
UNKNOWN_ROOT_NAME: Final = "an unknown root of a test"


@dataclass
class HostTime:
    """A host's clock that stands where a test puts it, in seconds since 1970."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


@cache
def other_signer() -> rsa.RSAPrivateKey:
    """A signing key that is not the product's."""
    return rsa.generate_private_key(public_exponent=3, key_size=3072)


def signed(
    code: bytes,
    *,
    key: rsa.RSAPrivateKey | None = None,
    isv_prod_id: int = ISV_PROD_ID,
    isv_svn: int = ISV_SVN,
    debug: bool = False,
) -> bytes:
    """A signed image of any bytes; its signer may let it run as a debug enclave."""
    structure = sigstruct.sign(
        key or keys.image_signing_key(),
        mrenclave=measure(code),
        attributes=sigstruct.attributes(debug=debug),
        isv_prod_id=isv_prod_id,
        isv_svn=isv_svn,
    )
    return structure + code


@cache
def running() -> EnclaveIdentity:
    """The image of the code that runs, as an honest machine loads it."""
    return load_signed(running_image())


def loaded(code: bytes = OTHER_CODE, **differences: Any) -> EnclaveIdentity:
    """Another image, loaded as a processor loads it; `differences` as signed() takes them."""
    return load_signed(signed(code, **differences))


def _authority(whose: str, root_name: str) -> Authority:
    pki_keys = keys.PkiKeys(
        root=keys.ec_key(f"{whose} root CA"),
        pck_ca=keys.ec_key(f"{whose} PCK CA"),
        tcb_signing=keys.ec_key(f"{whose} TCB signing"),
    )
    root = certificates.root(pki_keys.root, root_name).public_bytes(Encoding.DER)
    return Authority(keys=pki_keys, root=root, root_name=root_name)


@cache
def private_authority() -> Authority:
    """Somebody's own authority: everything as the development one has it, but for the keys."""
    return _authority("a private", PRIVATE_ROOT_NAME)


@cache
def unknown_authority() -> Authority:
    """Another, which nothing here trusts: the private one is that of `sgx` where tests run on its stand-in."""
    return _authority("an unknown", UNKNOWN_ROOT_NAME)


def anchor_of(authority: Authority) -> TrustAnchor:
    """The trust anchor of whoever believes that authority."""
    return TrustAnchor(name=authority.root_name, der=authority.root, sha256=hashlib.sha256(authority.root).hexdigest())


def serials(chain: str) -> list[int]:
    """The serial numbers of a PEM chain, leaf first."""
    return [one.serial_number for one in x509.load_pem_x509_certificates(chain.encode())]


def resigned(
    collateral: Collateral,
    authority: Authority,
    *,
    tcb_info: Callable[[dict[str, Any]], None] | None = None,
    qe_identity: Callable[[dict[str, Any]], None] | None = None,
) -> Collateral:
    """`collateral` with its documents changed by the given functions and signed anew by their issuer."""
    changes: dict[str, str] = {}
    for name, change in (("tcb_info", tcb_info), ("qe_identity", qe_identity)):
        if change is None:
            continue
        document = json.loads(getattr(collateral, name))
        change(document)
        text = json.dumps(document, separators=(",", ":"))
        changes[name] = text
        changes[f"{name}_signature"] = keys.sign_raw(authority.keys.tcb_signing, text.encode()).hex()
    return msgspec.structs.replace(collateral, **changes)


MakeCollateral = Callable[[Authority, Processor, int], Collateral]
"""(authority, processor, when it is issued) -> what the machine sends along."""


def plain(authority: Authority, _processor: Processor, issued: int) -> Collateral:
    return authority.collateral(issued)


def revoking_the_processor(authority: Authority, processor: Processor, issued: int) -> Collateral:
    return authority.collateral(issued, revoked_processors=serials(authority.pck_chain(processor))[:1])


def revoking_the_pck_ca(authority: Authority, _processor: Processor, issued: int) -> Collateral:
    return authority.collateral(issued, revoked_cas=serials(authority.pck_ca_chain())[:1])


def revoking_the_tcb_signer(authority: Authority, _processor: Processor, issued: int) -> Collateral:
    chain = authority.collateral(issued).tcb_info_issuer_chain
    return authority.collateral(issued, revoked_cas=serials(chain)[:1])


def expired(authority: Authority, _processor: Processor, issued: int) -> Collateral:
    return authority.collateral(issued - tcb.VALID_FOR)


def expired_in(*parts: str) -> MakeCollateral:
    """Collateral of which only these parts are out of date."""

    def make(authority: Authority, processor: Processor, issued: int) -> Collateral:
        old = expired(authority, processor, issued)
        return msgspec.structs.replace(authority.collateral(issued), **{part: getattr(old, part) for part in parts})

    return make


def from_the_future(authority: Authority, _processor: Processor, issued: int) -> Collateral:
    return authority.collateral(issued + 2 * BACKDATED)


def with_tcb_info(change: Callable[[dict[str, Any]], None]) -> MakeCollateral:
    """Collateral whose TCB info `change` has changed before it was signed."""

    def make(authority: Authority, _processor: Processor, issued: int) -> Collateral:
        return resigned(authority.collateral(issued), authority, tcb_info=change)

    return make


def with_qe_identity(change: Callable[[dict[str, Any]], None]) -> MakeCollateral:
    """Collateral whose QE identity `change` has changed before it was signed."""

    def make(authority: Authority, _processor: Processor, issued: int) -> Collateral:
        return resigned(authority.collateral(issued), authority, qe_identity=change)

    return make


def set_microcode(folder: Path, cpu_svn: bytes) -> None:
    """What a microcode update changes of a chip: its CPUSVN and nothing else. Its folder has to be there."""
    path = folder / STATE_FILE
    state = json.loads(path.read_text())
    state["cpu_svn"] = cpu_svn.hex()
    path.write_text(json.dumps(state))


def provision(
    folder: Path, processor: Processor, authority: Authority, *, issued: int, make: MakeCollateral = plain
) -> None:
    """Put into a machine's folder what it would otherwise have been issued; it believes what lies there."""
    public = processor.pck_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    kept = {
        "pck_sha256": hashlib.sha256(public).hexdigest(),
        "issued": issued,
        "pck_chain": authority.pck_chain(processor),
        "collateral": msgspec.to_builtins(make(authority, processor, issued)),
    }
    (folder / PROVISIONED_FILE).write_text(json.dumps(kept))


@dataclass(frozen=True)
class Making:
    """How a machine is made. The defaults are an honest one's."""

    enclave: Callable[[], EnclaveIdentity] = running
    status: str = "UpToDate"
    authority: Callable[[], Authority] = development_authority
    collateral: MakeCollateral = plain

    def open(self, folder: Path, clock: Clock | None = None) -> SimulatedPlatform:
        """The machine of `folder`, made there if it is not there yet."""
        clock = clock or Clock(HostTime())
        open_processor(folder)
        set_microcode(folder, tcb.cpu_svn(self.status))
        processor = open_processor(folder)
        provision(folder, processor, self.authority(), issued=clock.now() - BACKDATED, make=self.collateral)
        return SimulatedPlatform(processor=processor, enclave=self.enclave(), folder=folder, clock=clock)


HONEST: Final = Making()


def machine(folder: Path, clock: Clock | None = None, **differences: Any) -> SimulatedPlatform:
    """A machine in `folder`; `differences` as Making has them, none for an honest one."""
    return replace(HONEST, **differences).open(folder, clock)
