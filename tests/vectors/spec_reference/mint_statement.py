"""docs/spec/mint-statement.md."""

from __future__ import annotations

from typing import Final

from tests.vectors.spec_reference.exchange import prove
from tests.vectors.spec_reference.messages import decode, transcript
from tests.vectors.spec_reference.notation import Json, require
from tests.vectors.spec_reference.policy import appraise, read_policy

CONTEXT: Final = "mint statement, instance to admins"


def check_statement(case: Json, statement: bytes) -> Json:
    attested = decode("mint-statement", statement)["attested"]
    claims = decode("mint-statement-claims", attested["claims"])
    require(claims["version"] == 1, "wrong-version")
    require(claims["domain"] == case["domain"], "another-domain")
    policy = read_policy(case["policy"])
    proved = prove(attested, CONTEXT, transcript(), identity=claims, policy=policy, now=case["now"])
    appraise(proved, policy, case["now"])
    return {
        "machine": f"{claims['platform']} {claims['machine']}",
        "domain": claims["domain"],
        "generation": claims["generation"],
        "policy_sha256": claims["policy_sha256"].hex(),
        "time": claims["time"],
    }
