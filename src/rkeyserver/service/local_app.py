"""What is answered on the local socket: keys and secrets for callers, and the policy for the machine's owner."""

from __future__ import annotations

from starlette.requests import Request
from starlette.routing import Router

from rkeyserver.appraisal.callers import LocalCaller
from rkeyserver.service.authority import Authority
from rkeyserver.service.callers_app import caller_routes
from rkeyserver.service.local_caller import LOCAL_CALLER, is_owner
from rkeyserver.service.orders_app import order_routes
from rkeyserver.service.policy_app import policy_routes


def make_local_app(authority: Authority) -> Router:
    """The application of the local socket. Who asks, the kernel has said when he connected (service/limits.py)."""
    return Router(
        redirect_slashes=False,
        routes=[
            *caller_routes(authority.instance, _who),
            *policy_routes(authority, lambda request: is_owner(_who(request))),
            *order_routes(authority.steward, lambda request: is_owner(_who(request))),
        ],
    )


def _who(request: Request) -> LocalCaller:
    found: LocalCaller = getattr(request.state, LOCAL_CALLER)
    return found
