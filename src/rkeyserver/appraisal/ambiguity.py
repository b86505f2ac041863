"""Could one enclave be two of a policy's applications? It sends no label: which key it gets follows from what it is.

Told by who it is (machine, MRENCLAVE, MRSIGNER, product) and not by what becomes of it: versions rise and TCB statuses
change, so that two entries that differ in these alone accept the same enclave sooner or later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rkeyserver.appraisal.policy import Application, EnclaveEntry
    from rkeyserver.attestation.sgx.claims import SgxClaims

_Named = frozenset[str] | None  # None for any


def same_enclave(applications: Sequence[Application]) -> tuple[int, int] | None:
    """The first two that one enclave could both be; None if there are none."""
    who = [_who(one) for one in applications]
    for second, (product, *sets) in enumerate(who):
        for first in range(second):
            other, *others = who[first]
            if product == other and all(map(_meet, sets, others)):
                return first, second
    return None


def is_that(claims: SgxClaims, application: Application | EnclaveEntry) -> bool:
    """Whether it is that enclave, on a machine of the entry; whether it is acceptable is for the rules to say."""
    return (
        (application.machines == "any" or claims.ppid in application.machines)
        and (application.mrenclave == "any" or claims.mrenclave in application.mrenclave)
        and (application.mrsigner == "any" or claims.mrsigner in application.mrsigner)
        and claims.isv_prod_id == application.isv_prod_id
    )


def _who(one: Application) -> tuple[int, _Named, _Named, _Named]:
    return one.isv_prod_id, _named(one.machines), _named(one.mrenclave), _named(one.mrsigner)


def _named(found: str | list[str]) -> _Named:
    return None if isinstance(found, str) else frozenset(found)


def _meet(one: _Named, other: _Named) -> bool:
    return one is None or other is None or not one.isdisjoint(other)
