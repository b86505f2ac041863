"""The list, filled."""

from __future__ import annotations

from tests.property import evidence_targets, ra_tls_targets, targets
from tests.property.registry import TARGETS, Target

__all__ = ["TARGETS", "Target", "evidence_targets", "ra_tls_targets", "targets"]
