"""Who asks too often on the local socket, and who does not."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rkeyserver.appraisal.callers import LocalCaller
from rkeyserver.errors import Unavailable
from rkeyserver.service.at_once import Call
from rkeyserver.service.authority import Authority
from rkeyserver.service.local_app import PER_SECOND, make_local_app
from rkeyserver.service.local_caller import LOCAL_CALLER
from rkeyserver.service.rates import REFUSED_DELAY

MOST = int(PER_SECOND)


def caller(uid: int, *, own: bool = False) -> LocalCaller:
    return LocalCaller(pid=1, uid=uid, gids=frozenset({uid}), own=own)


def scope(who: LocalCaller, path: str = "/v1/derive", method: str = "POST") -> dict[str, Any]:
    return {"path": path, "method": method, "state": {LOCAL_CALLER: who}}


def test_each_user_may_ask_so_often_whatever_he_asks() -> None:
    counted = Counter[str]()

    async def run() -> None:
        instance = SimpleNamespace(refused=counted)
        app = make_local_app(cast("Authority", SimpleNamespace(instance=instance, steward=None)))
        app._rates.now = lambda: 0.0
        for number in range(MOST):
            found = app.at_once(scope(caller(1), "/v1/ping" if number % 2 else "/v1/derive"))
            assert found is None or not found.delay
        for path in ("/v1/derive", "/v1/ping", "/v1/policy", "/nowhere"):
            refused = app.at_once(scope(caller(1), path))
            assert isinstance(refused, Call)
            assert refused.delay == REFUSED_DELAY
            with pytest.raises(Unavailable, match="More requests than 5000 in a second") as raised:
                refused.answer(b"a body")
            assert raised.value.retry_after == 1
        other = app.at_once(scope(caller(2)))
        assert other is not None
        assert not other.delay
        for _ in range(MOST + 1):
            own = app.at_once(scope(caller(0, own=True)))
            assert own is not None
            assert not own.delay
        app._rates.now = lambda: 1.0
        again = app.at_once(scope(caller(1)))
        assert again is not None
        assert not again.delay

    asyncio.run(run())
    assert counted == {"unavailable": 4}


@pytest.mark.parametrize(("path", "method"), [("/v1/ping", "GET"), ("/v1/derive", "GET"), ("/v1/policy", "POST")])
def test_what_is_no_action_goes_as_ever(path: str, method: str) -> None:
    app = make_local_app(cast("Authority", SimpleNamespace(instance=None, steward=None)))
    assert app.at_once(scope(caller(0, own=True), path, method)) is None
