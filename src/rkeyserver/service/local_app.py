"""What is answered on the local socket: keys and secrets for callers, and the policy for the machine's owner."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from starlette.routing import Router
from starlette.types import Scope

from rkeyserver.appraisal.callers import LocalCaller
from rkeyserver.errors import Unavailable
from rkeyserver.service.at_once import Call, refusal
from rkeyserver.service.audit_line import reason_of
from rkeyserver.service.authority import Authority
from rkeyserver.service.callers_app import MAX_ASKED, Callers, caller_routes
from rkeyserver.service.local_caller import LOCAL_CALLER, is_owner
from rkeyserver.service.orders_app import order_routes
from rkeyserver.service.policy_app import policy_routes
from rkeyserver.service.rates import REFUSED_DELAY, Rates

PER_SECOND: Final = 5000.0  # requests of one user; of the server's own, who may stop it, any number


class LocalApp(Router):
    """The application. Who asks, the kernel has said when he connected (service/limits.py)."""

    def __init__(self, authority: Authority) -> None:
        super().__init__(
            redirect_slashes=False,
            routes=[
                *caller_routes(),
                *policy_routes(authority, lambda request: is_owner(_who(request.scope))),
                *order_routes(authority.steward, lambda request: is_owner(_who(request.scope))),
            ],
        )
        self._actions = Callers(authority.instance).actions()
        self._instance = authority.instance
        self._rates = Rates(PER_SECOND, PER_SECOND, lambda: asyncio.get_running_loop().time())

    def at_once(self, scope: Scope) -> Call | None:
        """As at_once.AtOnce: the actions; and whatever a caller asks who asks too often."""
        caller = _who(scope)
        if not caller.own:
            try:
                self._rates.take(str(caller))
            except Unavailable as error:
                self._instance.refused[reason_of(error)] += 1
                return Call(str(caller), MAX_ASKED, refusal(error), delay=REFUSED_DELAY)
        does = self._actions.get(scope["path"])
        if does is None or scope["method"] != "POST":
            return None
        return Call(str(caller), MAX_ASKED, partial(does, caller))


def make_local_app(authority: Authority) -> LocalApp:
    """The application of the local socket."""
    return LocalApp(authority)


def _who(scope: Scope) -> LocalCaller:
    found: LocalCaller = scope["state"][LOCAL_CALLER]
    return found
