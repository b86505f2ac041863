"""The list, filled."""

from __future__ import annotations

from tests.property import audit_targets, caller_targets, coordinator_targets, evidence_targets, ra_tls_targets, targets
from tests.property.registry import TARGETS, Target

__all__ = [
    "TARGETS",
    "Target",
    "audit_targets",
    "caller_targets",
    "coordinator_targets",
    "evidence_targets",
    "ra_tls_targets",
    "targets",
]
