"""No address keeps others out of the queue for verification."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

import httpx
import pytest
from tests.fakes.scene import Scene

from rkeyserver.appraisal.policy import Policy
from rkeyserver.errors import Reason, Rejected, Unavailable
from rkeyserver.exchange.primary import Granter, Proved
from rkeyserver.service.app import MAX_RELEASES, MAX_SHARE, make_app
from rkeyserver.service.limits import PER_ADDRESS, Shares
from rkeyserver.service.routes import HAND_OVER_PATH, RELEASE_HELLO_PATH, RELEASE_PATH
from rkeyserver.service.steward import Steward
from rkeyserver.service.verification import MAX_WAITING

ONE, OTHER = "10.0.0.1", "10.0.0.2"


def test_an_address_has_so_many_and_gives_them_back() -> None:
    shares = Shares(2)
    with shares.of(ONE):
        with shares.of(ONE), pytest.raises(Unavailable, match="2 requests of 10"), shares.of(ONE):
            pass
        with contextlib.suppress(ZeroDivisionError), shares.of(ONE):
            raise ZeroDivisionError
        with shares.of(ONE), shares.of(OTHER):
            pass
    assert not shares._taken, "nothing is remembered of who is gone"


def test_what_one_machine_has_of_ipv6_is_one_address() -> None:
    shares = Shares(1)
    with shares.of("fd00::1"):
        with pytest.raises(Unavailable), shares.of("fd00::ffff:2"):
            pass
        with shares.of("fd00:0:0:1::1"):
            pass


@dataclass
class _Slow(Granter):
    """Proves nothing, and takes its time."""

    go: asyncio.Event = field(default_factory=asyncio.Event)
    began: int = 0

    async def prove(self, request_bytes: bytes, policy: Policy) -> Proved:  # noqa: ARG002 - as the real one
        self.began += 1
        await self.go.wait()
        raise Rejected(Reason.NOT_GENUINE, "garbage")


def test_garbage_of_one_address_leaves_room_for_the_others(scene: Scene) -> None:
    granter = _Slow()
    scene.instance.granter = granter
    scene.instance.hold(scene.keyring())
    app = make_app(Steward(scene.instance))

    async def ask(address: str) -> int:
        transport = httpx.ASGITransport(app, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
            return (await client.post(HAND_OVER_PATH, content=b"garbage")).status_code

    async def until(began: int) -> None:
        while granter.began < began:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)

    async def check() -> None:
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            garbage = [group.create_task(ask(ONE)) for _ in range(MAX_SHARE)]
            await until(MAX_SHARE)
            assert await ask(ONE) == 503
            honest = group.create_task(ask(OTHER))
            await until(MAX_SHARE + 1)
            granter.go.set()
        assert {task.result() for task in [*garbage, honest]} == {403}
        assert await ask(ONE) == 403

    asyncio.run(check())
    assert scene.instance.refused["unavailable"] == 1


@dataclass
class _SlowReleases:
    """Releases nothing, and takes its time."""

    go: asyncio.Event = field(default_factory=asyncio.Event)
    began: int = 0

    def challenge(self, hello: bytes) -> bytes:
        return hello

    async def release(self, request: bytes, address: str) -> bytes:  # noqa: ARG002 - as the real one
        self.began += 1
        await self.go.wait()
        raise Rejected(Reason.NOT_GENUINE, "garbage")


def test_enclaves_of_one_address_leave_room_for_others_and_for_machines(scene: Scene) -> None:
    granter, releases = _Slow(), _SlowReleases()
    scene.instance.granter, scene.instance.releases = granter, releases
    scene.instance.hold(scene.keyring())
    app = make_app(Steward(scene.instance))

    async def ask(address: str, path: str = RELEASE_PATH) -> int:
        transport = httpx.ASGITransport(app, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
            return (await client.post(path, content=b"garbage")).status_code

    async def check() -> None:
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            asked = [group.create_task(ask(ONE)) for _ in range(MAX_RELEASES)]
            while releases.began < MAX_RELEASES:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0)
            assert await ask(ONE) == 503
            assert await ask(ONE, RELEASE_HELLO_PATH) == 200
            asked += [group.create_task(ask(OTHER)), group.create_task(ask(ONE, HAND_OVER_PATH))]
            while releases.began + granter.began < MAX_RELEASES + 2:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0)
            releases.go.set()
            granter.go.set()
        assert {task.result() for task in asked} == {403}

    asyncio.run(check())
    assert scene.instance.refused == {"unavailable": 1, "not-genuine": MAX_RELEASES + 2}


def test_an_instance_that_releases_nothing_says_not_now(scene: Scene) -> None:
    async def ask(path: str) -> int:
        transport = httpx.ASGITransport(make_app(Steward(scene.instance)), client=(ONE, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
            return (await client.post(path, content=b"garbage")).status_code

    assert [asyncio.run(ask(path)) for path in (RELEASE_HELLO_PATH, RELEASE_PATH)] == [503, 503]


def test_a_share_is_a_fraction_of_the_queue() -> None:
    assert 0 < MAX_SHARE <= MAX_WAITING / 8
    assert MAX_SHARE < PER_ADDRESS
