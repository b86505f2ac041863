"""The list, filled."""

from __future__ import annotations

from tests.property import caller_targets, coordinator_targets, evidence_targets, ra_tls_targets, targets
from tests.property.registry import TARGETS, Target

__all__ = [
    "TARGETS",
    "Target",
    "caller_targets",
    "coordinator_targets",
    "evidence_targets",
    "ra_tls_targets",
    "targets",
]
