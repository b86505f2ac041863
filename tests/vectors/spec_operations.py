"""All operations of the vectors, carried out by rkeyserver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tests.vectors import (
    spec_rkeyserver,
    spec_rkeyserver_audit,
    spec_rkeyserver_callers,
    spec_rkeyserver_mint,
    spec_rkeyserver_orders,
    spec_rkeyserver_ra_tls,
    spec_rkeyserver_recovery,
    spec_rkeyserver_release,
)
from tests.vectors.spec_cases import Json

OPERATIONS: Final[dict[str, Callable[[Json], Any]]] = (
    spec_rkeyserver.OPERATIONS
    | spec_rkeyserver_recovery.OPERATIONS
    | spec_rkeyserver_ra_tls.OPERATIONS
    | spec_rkeyserver_callers.OPERATIONS
    | spec_rkeyserver_release.OPERATIONS
    | spec_rkeyserver_mint.OPERATIONS
    | spec_rkeyserver_audit.OPERATIONS
    | spec_rkeyserver_orders.OPERATIONS
)
