"""Which collateral a quote is verified with: of each part the newer one of what was sent and what is held here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from rkeyserver.attestation.sgx.bundle import MAX_ENTRIES
from rkeyserver.attestation.sgx.collateral import decode, fmspc, newer
from rkeyserver.attestation.sgx.model import model_of
from rkeyserver.attestation.sgx.parts import Described, describe, in_force
from rkeyserver.clock import utc
from rkeyserver.errors import Reason, Rejected


@lru_cache(maxsize=2 * MAX_ENTRIES)  # of what is held only: nothing that is sent pushes it out
def _about(held: bytes) -> Described:
    return describe(decode(held))


def choose(evidence: bytes, sent: bytes, held: Sequence[bytes], now: int) -> bytes:
    """Collateral for `evidence` at `now` (seconds since 1970).

    sent: what came with it, perhaps nothing; then what is held for the model that the quote names is taken. What is
    held and has expired stands in for nothing: it may have a higher evaluation number than what is in force. That goes
    by parts: an old CRL beside it is no reason to forget newer TCB info.

    Raises: Rejected (TOO_LARGE, MALFORMED) if `sent` or the quote cannot be read; COLLATERAL_EXPIRED if nothing was
    sent and what is held has expired.
    """
    if all(one == sent for one in held):
        return sent
    wanted = fmspc(decode(sent)) if sent else model_of(evidence).fmspc
    for_model = [one for one in held if one != sent and _about(one).model.fmspc == wanted]
    usable = [one for one in for_model if _about(one).expires >= now]
    if not sent and for_model and not usable:
        latest = max(_about(one).expires for one in for_model)
        raise Rejected(
            Reason.COLLATERAL_EXPIRED,
            f"No collateral was sent with the quote, and what is here for FMSPC {wanted} expired at {utc(latest)}; it "
            f"is now {utc(now)}.",
            advice="See in `rkeyserver status` why the PCCS gave none, or bring a new bundle, or set the clock.",
        )
    if not sent:
        # Both PCK CAs may certify a model: the CRL of the quote's own one is the one that helps.
        own = model_of(evidence)
        usable.sort(key=lambda one: _about(one).model != own)
    else:
        usable = [one if one in usable else _in_force(one, sent, now) for one in for_model]
    chosen = sent
    for one in usable:
        chosen = newer(one, chosen)
    return chosen


def _in_force(held: bytes, sent: bytes, now: int) -> bytes:
    return msgspec.json.encode(in_force(decode(held), decode(sent), now))
