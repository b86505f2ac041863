"""The operation of mint-statement.json, carried out by rkeyserver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from tests.vectors.spec_cases import Json
from tests.vectors.spec_rkeyserver import _verifiers

from rkeyserver.appraisal.policy import parse_policy
from rkeyserver.exchange.mint_statement import check_mint_statement


def check_statement(case: Json) -> Json:
    checking = check_mint_statement(
        bytes.fromhex(case["bytes"]),
        domain=case["domain"],
        policy=parse_policy(case["policy"]),
        verifiers=_verifiers(),
        now=case["now"],
    )
    minted = asyncio.run(checking)
    claims, proved = minted.claims, minted.verdict.claims.identity
    return {
        "machine": f"{proved.platform} {proved.machine}",
        "domain": claims.domain,
        "generation": claims.generation,
        "policy_sha256": claims.policy_sha256.hex(),
        "time": claims.time,
    }


OPERATIONS: Final[dict[str, Callable[[Json], Any]]] = {"check statement": check_statement}
