"""What a genuine SGX quote proves. Whether that is acceptable is for the appraisal to say."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import msgspec

from rkeyserver.attestation.evidence import Identity
from rkeyserver.hex_types import Hex16, Hex32

_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]
_Bytes6 = Annotated[list[_Byte], msgspec.Meta(min_length=6, max_length=6)]
_Bytes16 = Annotated[list[_Byte], msgspec.Meta(min_length=16, max_length=16)]
_Hex64 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{128}\Z")]


@dataclass(frozen=True)
class SgxClaims:
    """Proved of an enclave, its processor and the collateral they were judged by. All hex is lower-case.

    platform: "sgx" or "simulated", by the trust anchor. ppid, fmspc: which processor, which model.
    mrenclave, mrsigner, isv_prod_id, isv_svn, attributes, debug: the enclave, from its report.
    cpu_svn, pce_svn: the level that the processor's PCK certificate is for.
    sgx_type: 0 standard, 1 scalable, 2 scalable with integrity.
    dynamic_platform, cached_keys, smt_enabled: "True", "False" or "Undefined", from that certificate.
    tcb_status: the platform's and the quoting enclave's joined, by Intel's names; those that no policy accepts too,
    since genuine is not yet acceptable. platform_status, qe_status: each alone. advisory_ids: of both.
    tcb_eval_data_number: the least of TCB info and QE identity. tcb_date, qe_tcb_date: when the level of
    the platform, and of the quoting enclave, was current.
    issued, expires: latest issue date and earliest expiration of everything verified.
    report_data: 64 bytes. Dates are seconds since 1970 UTC.
    """

    platform: str
    ppid: str
    fmspc: str
    mrenclave: str
    mrsigner: str
    isv_prod_id: int
    isv_svn: int
    debug: bool
    attributes: str
    cpu_svn: str
    pce_svn: int
    sgx_type: int
    dynamic_platform: str
    cached_keys: str
    smt_enabled: str
    tcb_status: str
    platform_status: str
    qe_status: str
    advisory_ids: tuple[str, ...]
    tcb_eval_data_number: int
    tcb_date: int
    qe_tcb_date: int
    issued: int
    expires: int
    report_data: bytes

    @property
    def identity(self) -> Identity:
        """The machine, proved."""
        return Identity(platform=self.platform, machine=self.ppid)


class _Level(msgspec.Struct, frozen=True):
    tcbDate: Annotated[datetime, msgspec.Meta(tz=True)]  # noqa: N815 - Intel's name
    tcbStatus: str  # noqa: N815 - Intel's name


class _Tcb(msgspec.Struct, frozen=True):
    status: str
    advisory_ids: list[str]
    eval_data_number: int


class _Pck(msgspec.Struct, frozen=True):
    ppid: _Bytes16
    cpu_svn: _Bytes16
    pce_svn: int
    fmspc: _Bytes6
    sgx_type: int
    dynamic_platform: str
    cached_keys: str
    smt_enabled: str


class _Platform(msgspec.Struct, frozen=True):
    tcb_level: _Level
    pck: _Pck


class _Qe(msgspec.Struct, frozen=True):
    tcb_level: _Level
    tcb_eval_data_number: int


class _Enclave(msgspec.Struct, frozen=True):
    attributes: Hex16
    mr_enclave: Hex32
    mr_signer: Hex32
    isv_prod_id: int
    isv_svn: int
    report_data: _Hex64


class _Report(msgspec.Struct, frozen=True):
    SgxEnclave: _Enclave


class _Verified(msgspec.Struct, frozen=True):
    """The part of the library's verified claims that is used; a change of their form is an error, not a guess."""

    tcb: _Tcb
    platform: _Platform
    qe: _Qe
    latest_issue_date: int
    earliest_expiration_date: int
    qe_iden_latest_issue_date: int
    qe_iden_earliest_expiration_date: int
    report: _Report


_DECODER: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_Verified)


def from_library(platform: str, verified: str) -> SgxClaims:
    """Claims from the JSON that the library made of a quote it had verified.

    Raises: msgspec.DecodeError or ValueError if the JSON has another form.
    """
    found: _Verified = _DECODER.decode(verified)
    enclave, pck = found.report.SgxEnclave, found.platform.pck
    return SgxClaims(
        platform=platform,
        ppid=bytes(pck.ppid).hex(),
        fmspc=bytes(pck.fmspc).hex(),
        mrenclave=enclave.mr_enclave,
        mrsigner=enclave.mr_signer,
        isv_prod_id=enclave.isv_prod_id,
        isv_svn=enclave.isv_svn,
        debug=bool(bytes.fromhex(enclave.attributes)[0] & 0x02),
        attributes=enclave.attributes,
        cpu_svn=bytes(pck.cpu_svn).hex(),
        pce_svn=pck.pce_svn,
        sgx_type=pck.sgx_type,
        dynamic_platform=pck.dynamic_platform,
        cached_keys=pck.cached_keys,
        smt_enabled=pck.smt_enabled,
        tcb_status=found.tcb.status,
        platform_status=found.platform.tcb_level.tcbStatus,
        qe_status=found.qe.tcb_level.tcbStatus,
        advisory_ids=tuple(found.tcb.advisory_ids),
        tcb_eval_data_number=min(found.tcb.eval_data_number, found.qe.tcb_eval_data_number),
        tcb_date=int(found.platform.tcb_level.tcbDate.timestamp()),
        qe_tcb_date=int(found.qe.tcb_level.tcbDate.timestamp()),
        issued=max(found.latest_issue_date, found.qe_iden_latest_issue_date),
        expires=min(found.earliest_expiration_date, found.qe_iden_earliest_expiration_date),
        report_data=bytes.fromhex(enclave.report_data),
    )
