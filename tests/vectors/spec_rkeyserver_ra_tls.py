"""The operations of ra-tls.json, carried out by rkeyserver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tests.fakes.claims import CLAIMS, NOW
from tests.vectors.spec_cases import Json

from rkeyserver.appraisal.applications import ApplicationVerdict
from rkeyserver.appraisal.policy import Application
from rkeyserver.attestation.sgx import ra_tls
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.secret import SecretBytes
from rkeyserver.service.provision import answer


def evidence(case: Json) -> Json:
    claims = ra_tls.claims_of(bytes.fromhex(case["spki"]))
    extension = ra_tls.extension_of(bytes.fromhex(case["quote"]), claims)
    return {
        "claims": claims.hex(),
        "report_data": ra_tls.report_data(claims).hex(),
        "extension": extension.value.hex(),
    }


def answered(case: Json) -> str:
    secret = SecretBytes(len(case["keyring"]) // 2)
    secret.view[:] = bytes.fromhex(case["keyring"])
    keyring = Keyring.parse(secret)
    application = Application(
        label=case["label"],
        size=case["size"],
        encoding=case["encoding"],
        generation=case["generation"],
        machines="any",
        mrenclave="any",
        mrsigner="any",
        isv_prod_id=0,
        min_isv_svn=0,
        tcb_statuses=["UpToDate"],
        out_of_date_grace_days=0,
        rejected_advisories="none",
        min_tcb_evaluation_data_number=1,
        dynamic_platform="accept",
        cached_keys="accept",
        smt="accept",
    )
    try:
        with answer(keyring, ApplicationVerdict(CLAIMS, application, "", NOW)) as found:
            return bytes(found.view).hex()
    finally:
        keyring.close()


OPERATIONS: Final[dict[str, Callable[[Json], Any]]] = {"ra-tls evidence": evidence, "ra-tls answer": answered}
