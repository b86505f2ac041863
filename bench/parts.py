"""What a hand-over cannot do without, each on its own: verifying a quote, sealing to the peer, signing the answer.

A process of its own: `python -m bench.parts PACE` prints the CPU seconds of each as JSON. Several at once keep the
machine as busy as several backups do; a pause before each round finds caches as cold as a request from outside does.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import dcap_qvl  # type: ignore[import-untyped]
from tests.fakes.keyrings import MEMBER

from rkeyserver.appraisal.defaults import default_policy
from rkeyserver.clock import Clock
from rkeyserver.exchange.hpke import OneTimeKey, seal
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.platforms.simulated.anchor import SIMULATED_ROOT
from rkeyserver.platforms.simulated.platform import SimulatedPlatform

ROUNDS: Final = 150


@dataclass(frozen=True)
class Parts:
    """CPU seconds of each part, the median of ROUNDS."""

    verify: float
    seal: float
    sign: float

    @property
    def total(self) -> float:
        """Their sum: one of each, as the primary does for one hand-over."""
        return self.verify + self.seal + self.sign


def measure(processes: int, pace: float) -> Parts:
    """Measure in so many processes at once, with `pace` seconds between rounds; the mean of their medians."""
    command = [sys.executable, "-m", "bench.parts", str(pace)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(processes)]
    found = [json.loads(one.communicate()[0]) for one in running]
    return Parts(**{name: statistics.mean(one[name] for one in found) for name in found[0]})


def _timed(action: Callable[[], object], took: list[int]) -> None:
    before = time.process_time_ns()
    action()
    took.append(time.process_time_ns() - before)


def _here(folder: Path, pace: float) -> Parts:
    """Measure in this process: the verification library bare, sealing and signing as the server does them."""
    clock = Clock()
    platform = SimulatedPlatform.open(folder, clock)
    report_data = bytes(range(64))
    evidence, endorsements = platform.evidence(report_data), platform.endorsements()
    now, verifier = clock.now(), dcap_qvl.QuoteVerifier(SIMULATED_ROOT.der)
    collateral = dcap_qvl.QuoteCollateralV3.from_json(endorsements.decode())
    accept = dcap_qvl.QuotePolicy.claims_only(now)
    policy = default_policy("simulated", mrsigner=platform.mrsigner, isv_prod_id=platform.isv_prod_id)
    keyring, key = Keyring.mint(primary=MEMBER, now=clock.now(), policy=policy.text), OneTimeKey()
    verify, sealing, sign = list[int](), list[int](), list[int]()
    for _ in range(ROUNDS):
        time.sleep(pace)
        _timed(lambda: verifier.verify_with_policy(evidence, collateral, now, accept), verify)
        _timed(lambda: seal(keyring.view, key.public, b"transcript"), sealing)
        _timed(lambda: platform.evidence(report_data), sign)
    return Parts(*(statistics.median(took) / 1e9 for took in (verify, sealing, sign)))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="rkeyserver-bench-") as name:
        json.dump(asdict(_here(Path(name) / "machine", float(sys.argv[1]))), sys.stdout)
