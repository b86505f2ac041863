"""Who shows a token, by the [[callers]] of the policy (docs/spec/policy.md, "Callers")."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Final

from rkeyserver.appraisal.callers import TokenCaller
from rkeyserver.appraisal.policy import Policy
from rkeyserver.errors import Reason, Rejected
from rkeyserver.tokens import FORM, digest

_SCHEME: Final = "bearer"  # RFC 6750 section 2.1; RFC 9110 section 11.1: in any case


def caller_of(authorizations: Sequence[str], policy: Policy) -> TokenCaller:
    """Who shows a token, by all Authorization headers of a request. How long it takes tells nothing of a token.

    Raises: Rejected(UNKNOWN_TOKEN) if there is not exactly one, if it has no token, or one that the policy has not.
    """
    if len(authorizations) != 1:
        raise _unknown(f"The request has {len(authorizations)} Authorization headers; wanted is one.")
    scheme, _, token = authorizations[0].partition(" ")
    if scheme.lower() != _SCHEME or FORM.fullmatch(token) is None:
        raise _unknown("The Authorization header has no token: wanted is `Bearer rkt_...`.")
    shown = digest(token)
    found = [one for one in policy.tokens if hmac.compare_digest(one, shown)]
    if not found:
        raise _unknown("The policy does not name this token.")
    return TokenCaller(found[0])


def _unknown(message: str) -> Rejected:
    return Rejected(
        Reason.UNKNOWN_TOKEN,
        message,
        advice="`rkeyserver token new` makes one, and the entry under [[callers]] that a policy names it by.",
    )
