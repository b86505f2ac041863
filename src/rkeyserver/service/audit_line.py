"""What a line of the audit file says of a decision: what was decided, of whom, and why."""

from __future__ import annotations

from typing import Self

import msgspec

from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.errors import Rejected, RkeyError, Unavailable


def reason_of(error: RkeyError) -> str:
    """The code of a refusal, in audit lines, counters and logs."""
    if isinstance(error, Rejected | Unavailable) and error.reason is not None:
        return str(error.reason)
    return error.code


class Peer(msgspec.Struct, frozen=True):
    """Who it was, as proved by evidence."""

    address: str
    platform: str
    machine: str
    mrenclave: str
    mrsigner: str
    isv_prod_id: int
    isv_svn: int
    tcb_status: str

    @classmethod
    def of(cls, claims: SgxClaims, address: str) -> Self:
        """The peer at `address` that these claims are proved of."""
        return cls(
            address=address,
            platform=claims.platform,
            machine=claims.ppid,
            mrenclave=claims.mrenclave,
            mrsigner=claims.mrsigner,
            isv_prod_id=claims.isv_prod_id,
            isv_svn=claims.isv_svn,
            tcb_status=claims.tcb_status,
        )


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One decision. transcript: of hello, challenge and request, SHA-512, hex; the same at both ends of a hand-over.

    peer_head: the head of the peer's own log, as its evidence vouched for it, hex.

    event: mint, open, hand-over, join, acknowledge, recover, provision, release, contribution to a recovery, drill
    where its outcome changes, or audit where lines can be written again; of a primary also policy, rotate, activate,
    retire, promote, reunite and forget; verdict: accepted or refused. label: of the application that was given a key.
    labels, generations: of the keys that an enclave asked for.
    """

    event: str
    verdict: str
    domain: str = ""
    sequence: int = -1
    peer: Peer | None = None
    policy: str = ""
    reason: str = ""
    found: str = ""
    transcript: str = ""
    peer_head: str = ""
    label: str = ""
    labels: tuple[str, ...] = ()
    generations: tuple[str, ...] = ()

    def refused(self, error: RkeyError) -> Line:
        """The same decision, refused after all: a line before it may have said that it was accepted."""
        return msgspec.structs.replace(self, verdict="refused", reason=reason_of(error), found=error.message)
