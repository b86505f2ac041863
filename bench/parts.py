"""What a hand-over cannot do without, each on its own: verifying a quote, sealing to the peer, signing the answer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import dcap_qvl  # type: ignore[import-untyped]

from rkeyserver.appraisal.defaults import default_policy
from rkeyserver.clock import Clock
from rkeyserver.exchange.hpke import OneTimeKey, seal
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.platforms.simulated.anchor import SIMULATED_ROOT
from rkeyserver.platforms.simulated.platform import SimulatedPlatform

ROUNDS: Final = 400


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


def _median(action: Callable[[], object]) -> float:
    found = []
    for _ in range(ROUNDS):
        before = time.process_time_ns()
        action()
        found.append(time.process_time_ns() - before)
    return statistics.median(found) / 1e9


def measure(folder: Path) -> Parts:
    """Measure in this process: the verification library bare, sealing and signing as the server does them."""
    clock = Clock()
    platform = SimulatedPlatform.open(folder / "parts", clock)
    report_data = bytes(range(64))
    evidence, endorsements = platform.evidence(report_data), platform.endorsements()
    now, verifier = clock.now(), dcap_qvl.QuoteVerifier(SIMULATED_ROOT.der)
    collateral = dcap_qvl.QuoteCollateralV3.from_json(endorsements.decode())
    accept = dcap_qvl.QuotePolicy.claims_only(now)
    policy = default_policy("simulated", mrsigner=platform.mrsigner, isv_prod_id=platform.isv_prod_id)
    keyring, key = Keyring.mint(now=clock.now(), policy=policy.text), OneTimeKey()
    return Parts(
        verify=_median(lambda: verifier.verify_with_policy(evidence, collateral, now, accept)),
        seal=_median(lambda: seal(keyring.view, key.public, b"transcript")),
        sign=_median(lambda: platform.evidence(report_data)),
    )
