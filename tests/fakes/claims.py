"""Claims of a machine that is in order, the policy that names just it, and what differs from both."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.attestation.sgx.claims import SgxClaims

NOW: Final = 1_780_000_000

CLAIMS: Final = SgxClaims(
    platform="sgx",
    ppid="a1" * 16,
    fmspc="00906ed50000",
    mrenclave="b2" * 32,
    mrsigner="c3" * 32,
    isv_prod_id=7,
    isv_svn=3,
    debug=False,
    attributes="0700000000000000e700000000000000",
    cpu_svn="0e" * 16,
    pce_svn=13,
    sgx_type=0,
    dynamic_platform="False",
    cached_keys="False",
    smt_enabled="False",
    tcb_status="UpToDate",
    platform_status="UpToDate",
    qe_status="UpToDate",
    advisory_ids=(),
    tcb_eval_data_number=17,
    tcb_date=NOW - 5_000_000,
    qe_tcb_date=NOW - 4_000_000,
    issued=NOW - 1_000_000,
    expires=NOW + 1_000_000,
    report_data=bytes(64),
)

TABLE: Final[dict[str, object]] = {
    "machines": [CLAIMS.ppid],
    "mrenclave": [CLAIMS.mrenclave],
    "mrsigner": [CLAIMS.mrsigner],
    "isv_prod_id": CLAIMS.isv_prod_id,
    "min_isv_svn": CLAIMS.isv_svn,
    "tcb_statuses": [CLAIMS.tcb_status],
    "out_of_date_grace_days": 0,
    "rejected_advisories": ["INTEL-SA-00615"],
    "min_tcb_evaluation_data_number": CLAIMS.tcb_eval_data_number,
    "dynamic_platform": "refuse",
    "cached_keys": "refuse",
    "smt": "refuse",
}


def claims_with(**differences: Any) -> SgxClaims:
    return replace(CLAIMS, **differences)


def table(name: str = "sgx", /, **differences: object) -> str:
    """One platform's table as TOML; JSON's strings, numbers and lists are TOML's. None leaves a key out."""
    rows = [f"{key} = {json.dumps(value)}" for key, value in (TABLE | differences).items() if value is not None]
    return "\n".join([f"[{name}]", *rows, ""])


def document(*tables: str) -> str:
    return "\n".join(["version = 1", *tables])


def policy_with(name: str = "sgx", /, **differences: object) -> Policy:
    return parse_policy(document(table(name, **differences)))
