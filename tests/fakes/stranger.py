"""A server process on a machine that is not what it should be.

    python -m tests.fakes.stranger NAME PYTHON -m rkeyserver WORDS...

Everything is the real program's, but the machine, which is one of STRANGERS, and its policy, which is an honest
machine's: whatever stands in its way is the other side. Given as what a real command runs under.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

from rkeyserver.appraisal.appraise import Verdict
from rkeyserver.appraisal.defaults import default_policy
from rkeyserver.appraisal.policy import Policy
from rkeyserver.cli.main import main
from rkeyserver.clock import Clock
from rkeyserver.exchange.primary import Granter
from rkeyserver.platforms.simulated.platform import SimulatedPlatform
from rkeyserver.service import join, start
from rkeyserver.service.given import Given
from rkeyserver.service.instance import Instance
from tests.fakes import machines
from tests.fakes.claims import claims_with

STRANGERS: Final[dict[str, dict[str, Any]]] = {
    "another signer": {"enclave": lambda: machines.loaded(key=machines.other_signer())},
    "another product": {"enclave": lambda: machines.loaded(isv_prod_id=2)},
    "a lower version": {"enclave": lambda: machines.loaded(isv_svn=0)},
    "a debug enclave": {"enclave": lambda: machines.loaded(debug=True)},
    "a TCB out of date": {"status": "OutOfDate"},
    "a revoked processor": {"collateral": machines.revoking_the_processor},
    "collateral out of date": {"collateral": machines.expired},
    "a root of its own": {"authority": machines.private_authority},
}


def run() -> int:
    name, words = sys.argv[1], sys.argv[5:]

    def opened(folder: Path, clock: Clock) -> SimulatedPlatform:
        return machines.machine(folder, clock, **STRANGERS[name])

    def honest(instance: Instance, given: Given | None = None) -> Policy:  # noqa: ARG001 - what it is like does not matter
        enclave = machines.running()
        return default_policy("simulated", mrsigner=enclave.mrsigner.hex(), isv_prod_id=enclave.isv_prod_id)

    async def pleased_with_itself(granter: Granter, policy: Policy) -> Verdict:  # noqa: ARG001 - whatever it is
        return Verdict(claims=claims_with(), policy=policy.digest, at=0)

    SimulatedPlatform.open = opened  # type: ignore[method-assign, assignment]
    Granter.accepts_self = pleased_with_itself  # type: ignore[method-assign, assignment]
    start.domain_default = honest
    join.joiner_default = honest  # type: ignore[attr-defined]  # it has its own name for it
    return main(words)


if __name__ == "__main__":
    sys.exit(run())
