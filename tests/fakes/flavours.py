"""The platforms that a test can run on: what differs between them, so that the test itself is written once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from rkeyserver.appraisal.defaults import default_policy
from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.attestation.sgx.verify import SgxVerifier
from rkeyserver.clock import Clock
from rkeyserver.platforms.interface import Platform
from rkeyserver.platforms.simulated import anchor
from rkeyserver.platforms.simulated.pki import Authority, development_authority
from tests.fakes.machines import anchor_of, private_authority
from tests.fakes.machines import machine as simulated_machine
from tests.fakes.processes import Machines, machines_in

SIMULATED: Final = "simulated"
SGX: Final = "sgx"
PLATFORMS: Final = (SIMULATED, SGX)

AUTHORITY: Final[dict[str, Callable[[], Authority]]] = {SIMULATED: development_authority, SGX: private_authority}
"""Who certifies the machines of each."""

VERIFY: Final[dict[str, SgxVerifier]] = {
    SIMULATED: anchor.verify,
    SGX: SgxVerifier(platform=SGX, anchor=anchor_of(private_authority())),
}
"""What verifies evidence of each: for `sgx` under the private root, which is the tests' own alone."""


def machine_of(platform: str, folder: Path, clock: Clock | None = None, **differences: Any) -> Platform:
    """A machine in `folder`, in this process; `differences` as tests.fakes.machines.Making has them."""
    if platform == SIMULATED:
        return simulated_machine(folder, clock, **differences)
    from tests.sgx.here import machine_here  # noqa: PLC0415 - it is built from what is here

    return machine_here(folder, clock, **differences)


def policy_of(platform: Platform) -> Policy:
    """The default policy of that platform, for machines that run what it runs: any of them, also where it is closed."""
    own = platform.attester_identity().machine
    found = default_policy(platform.name, mrsigner=platform.mrsigner, isv_prod_id=platform.isv_prod_id, machine=own)
    return parse_policy(found.text.replace(f'machines = ["{own}"]', 'machines = "any"'))


def other_than(platform: str) -> str:
    """The name of the other platform."""
    (other,) = (name for name in PLATFORMS if name != platform)
    return other


def for_the_other(policy: Policy) -> str:
    """The text of the same policy for the other platform."""
    (own,) = policy.tables
    return policy.text.replace(f"[{own}]", f"[{other_than(own)}]")


@contextlib.contextmanager
def processes_in(platform: str, folder: Path, **defaults: Any) -> Iterator[Machines]:
    """Machines in `folder` whose servers are processes, as machines_in(); they judge as `simulated` does by default.

    defaults: fields that a machine of that platform has, and a simulated one has not.
    """
    if platform == SIMULATED:
        with machines_in(folder) as made:
            yield made
        return
    from tests.sgx.machines import sgx_machines_in  # noqa: PLC0415 - it needs FUSE, which is for these alone

    with sgx_machines_in(folder, judged_as_simulated=True, **defaults) as made:
        yield made
