"""A server process on a machine that is not what it should be.

    python -m tests.fakes.stranger NAME PYTHON -m rkeyserver WORDS...

Everything is the real program's, but the machine, which is one of STRANGERS, and its policy, which is an honest
machine's: whatever stands in its way is the other side. Given as what a real command runs under.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Final

from rkeyserver.appraisal.appraise import Verdict
from rkeyserver.appraisal.defaults import default_policy
from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.cli.main import main
from rkeyserver.clock import Clock
from rkeyserver.exchange.primary import Granter
from rkeyserver.platforms.simulated.platform import SimulatedPlatform
from rkeyserver.service.given import Given
from rkeyserver.service.instance import Instance
from tests.fakes import machines
from tests.fakes.claims import claims_with
from tests.sgx import program
from tests.sgx.state import IMAGE

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
    name = sys.argv[1]
    if sys.argv[4] == program.__name__:
        # What is another about a machine with SGX, its device says: SgxMachine.become().
        composition, *words = sys.argv[5:]
        return program.run(composition, words, as_a_stranger)
    words = sys.argv[5:]

    def opened(folder: Path, clock: Clock) -> SimulatedPlatform:
        return machines.machine(folder, clock, **STRANGERS[name])

    SimulatedPlatform.open = opened  # type: ignore[method-assign, assignment]  # what a stranger may change, the code itself
    as_a_stranger()
    return main(words)


def as_a_stranger() -> None:
    """Let this process take itself for what it is not, and anyone's policy for its own."""
    from rkeyserver.service import join, start  # noqa: PLC0415 - after the composition, where there is one

    async def pleased_with_itself(granter: Granter, policy: Policy) -> Verdict:  # noqa: ARG001 - whatever it is
        return Verdict(claims=claims_with(), policy=policy.digest, at=0)

    Granter.accepts_self = pleased_with_itself  # type: ignore[method-assign, assignment]  # what a stranger may change, the code itself
    start.domain_default = honest
    join.joiner_default = honest  # type: ignore[attr-defined]  # it has its own name for it


def honest(instance: Instance, given: Given | None = None) -> Policy:  # noqa: ARG001 - whatever it is given
    """What an honest instance of its platform would have."""
    enclave = IMAGE.identity if instance.platform.name == "sgx" else machines.running()
    policy = default_policy(
        instance.platform.name,
        mrsigner=enclave.mrsigner.hex(),
        isv_prod_id=enclave.isv_prod_id,
        machine=instance.platform.attester_identity().machine,
    )
    return parse_policy(re.sub(r"machines = \[.*\]", 'machines = "any"', policy.text))


if __name__ == "__main__":
    sys.exit(run())
