"""The policy over HTTP: what anyone on this machine is told of it, and what comes of a change that is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from tests.fakes.keyrings import MEMBER
from tests.fakes.platform import FakePlatform
from tests.fakes.scene import Scene
from tests.fakes.signing import HERE, NEW, change_of, policy_text

from rkeyserver.appraisal.callers import LocalCaller
from rkeyserver.appraisal.change import MAX_CHANGE, PolicyChange, digest
from rkeyserver.errors import Unavailable
from rkeyserver.service.authority import Authority
from rkeyserver.service.local_app import make_local_app
from rkeyserver.service.local_caller import LOCAL_CALLER
from rkeyserver.service.members import Members
from rkeyserver.service.ops import make_ops_app
from rkeyserver.service.routes import (
    DERIVE_PATH,
    ORDERS_PATH,
    PING_PATH,
    POLICY_PATH,
    REWRAP_PATH,
    UNWRAP_PATH,
    WRAP_PATH,
)
from rkeyserver.service.steward import Steward

SIGNED = policy_text(HERE, admins=["alice"])
OWNED = policy_text(HERE)


def of_owner(app: Any) -> Any:
    """The application of the local socket as its owner has it: the server adds who has connected."""
    return connected(app, LocalCaller(pid=1, uid=4711, gids=frozenset({4711}), own=True))


def connected(app: Any, caller: LocalCaller) -> Any:
    async def called(scope: Any, receive: Any, send: Any) -> None:
        await app(scope | {"state": {LOCAL_CALLER: caller}}, receive, send)

    return called


def app_of(scene: Scene, policy: str = SIGNED, *, owner: bool = False) -> Any:
    scene.instance.members = Members(MEMBER)
    keyring = scene.keyring(policy=policy)
    scene.holds_record_of(keyring)
    scene.instance.hold(keyring)
    authority = Authority(Steward(scene.instance))
    return of_owner(make_local_app(authority)) if owner else make_ops_app(authority, "127.0.0.1")


def asked(app: Any, method: str, body: bytes = b"", *, path: str = POLICY_PATH, **headers: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, content=body or None, headers=headers)

    return asyncio.run(ask())


def next_change(scene: Scene, *signers: str, policy: str = policy_text(HERE, NEW, admins=["alice"])) -> PolicyChange:
    assert scene.instance.keyring is not None
    return change_of(scene.instance.keyring.header, policy, *signers)


@pytest.mark.parametrize("owner", [False, True], ids=["operations listener", "local socket"])
def test_the_policy_is_shown_with_what_a_change_has_to_name(scene: Scene, *, owner: bool) -> None:
    answer = asked(app_of(scene, owner=owner), "GET")
    assert scene.instance.keyring is not None
    assert answer.json() == {
        "domain": scene.instance.keyring.domain,
        "change": 0,
        "digest": digest(SIGNED),
        "policy": SIGNED,
    }


@pytest.mark.parametrize("owner", [False, True], ids=["operations listener", "local socket"])
def test_a_signed_change_is_applied_wherever_it_comes_from(scene: Scene, *, owner: bool) -> None:
    app = app_of(scene, owner=owner)
    change = next_change(scene, "alice")
    answer = asked(app, "POST", change.text().encode())
    assert (answer.status_code, answer.json()["change"]) == (200, 1)
    assert asked(app, "GET").json()["change"] == 1
    assert scene.instance.keyring is not None
    assert scene.instance.keyring.header.policy == change.policy


def test_an_unsigned_one_is_applied_for_the_owner_alone(scene: Scene) -> None:
    app = app_of(scene, OWNED)
    document = next_change(scene, policy=policy_text(HERE, NEW)).text().encode()
    refused = asked(app, "POST", document)
    assert (refused.status_code, refused.json()["reason"]) == (403, "not-signed")
    assert scene.store.writes == 0
    answer = asked(of_owner(make_local_app(Authority(Steward(scene.instance)))), "POST", document)
    assert (answer.status_code, answer.json()["change"]) == (200, 1)


class Untrusting(FakePlatform):
    trusts_host = False


def test_not_even_for_him_where_the_platform_does_not_trust_its_host(scene: Scene) -> None:
    scene.instance.platform = Untrusting()
    app = app_of(scene, OWNED, owner=True)
    answer = asked(app, "POST", next_change(scene).text().encode())
    assert (answer.status_code, answer.json()["reason"]) == (403, "not-signed")


REFUSED: dict[str, tuple[Callable[[Scene], bytes], int, dict[str, str]]] = {
    "nothing": (lambda _scene: b"", 400, {"error": "misuse"}),
    "no change": (lambda _scene: b"\xff", 400, {"error": "misuse"}),
    "unsigned": (lambda s: next_change(s).text().encode(), 403, {"error": "rejected", "reason": "not-signed"}),
    "by another": (lambda s: next_change(s, "bob").text().encode(), 403, {"error": "rejected", "reason": "not-signed"}),
    "too large": (lambda _scene: b"x" * (MAX_CHANGE + 1), 403, {"error": "rejected", "reason": "too-large"}),
}


@pytest.mark.parametrize(("make", "status", "told"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_told_whole(
    scene: Scene, make: Callable[[Scene], bytes], status: int, told: dict[str, str]
) -> None:
    app = app_of(scene)
    answer = asked(app, "POST", make(scene))
    found = answer.json()
    assert answer.status_code == status
    assert found.items() >= told.items()
    assert found["message"]
    assert set(found) <= {"error", "reason", "message", "advice"}
    assert scene.store.writes == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_a_keyring_there_is_none(scene: Scene, method: str) -> None:
    app = app_of(scene)
    document = next_change(scene, "alice").text().encode()
    scene.instance.close()
    answer = asked(app, method, document if method == "POST" else b"")
    assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")


def test_without_a_keyring_nothing_is_derived(scene: Scene) -> None:
    app = app_of(scene, owner=True)
    scene.instance.close()
    answer = asked(app, "POST", b'{"label": "db"}', path=DERIVE_PATH)
    assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_nothing_else_is_answered(scene: Scene, method: str) -> None:
    assert asked(app_of(scene), method).status_code == 405


def test_a_page_of_another_name_reads_and_changes_nothing(scene: Scene) -> None:
    app = app_of(scene)
    document = next_change(scene, "alice").text().encode()
    for method, body in (("GET", b""), ("POST", document)):
        assert asked(app, method, body, host="attacker.example").status_code == 421
    assert scene.store.writes == 0


def test_the_local_socket_has_the_policy_and_what_callers_ask_for(scene: Scene) -> None:
    app_of(scene)
    app = make_local_app(Authority(Steward(scene.instance)))
    found = {(path, *sorted(methods - {"HEAD"})) for path, methods in ((r.path, r.methods) for r in app.routes)}  # type: ignore[attr-defined]  # they are Routes
    assert found == {
        *((POLICY_PATH, method) for method in ("GET", "POST")),
        (ORDERS_PATH, "POST"),
        (PING_PATH, "GET"),
        *((path, "POST") for path in (DERIVE_PATH, WRAP_PATH, UNWRAP_PATH, REWRAP_PATH)),
    }


@pytest.mark.parametrize("path", ["/status", "/metrics"])
def test_what_cannot_be_told_now_says_why(scene: Scene, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    app = app_of(scene)

    def fail() -> None:
        raise Unavailable("There is no key memory.", advice="Raise RLIMIT_MEMLOCK.")

    monkeypatch.setattr(scene.instance, "status", fail)
    answer = asked(app, "GET", path=path)
    assert answer.status_code == 503
    said = {"error": "unavailable", "message": "There is no key memory.", "advice": "Raise RLIMIT_MEMLOCK."}
    assert answer.json() == said


NOT_OWNERS = {
    "another user": LocalCaller(pid=1, uid=4711, gids=frozenset({4711}), own=False),
    "another user in root's group": LocalCaller(pid=1, uid=4711, gids=frozenset({0}), own=False),
}


@pytest.mark.parametrize("caller", NOT_OWNERS.values(), ids=NOT_OWNERS)
def test_whoever_else_can_connect_changes_nothing(scene: Scene, caller: LocalCaller) -> None:
    app_of(scene, OWNED)
    app = connected(make_local_app(Authority(Steward(scene.instance))), caller)
    answer = asked(app, "POST", next_change(scene).text().encode())
    assert (answer.status_code, answer.json()["reason"]) == (403, "not-signed")
    assert asked(app, "GET").json()["policy"] == OWNED


def test_root_is_an_owner(scene: Scene) -> None:
    app_of(scene, OWNED)
    root = LocalCaller(pid=1, uid=0, gids=frozenset({0}), own=False)
    app = connected(make_local_app(Authority(Steward(scene.instance))), root)
    assert asked(app, "POST", next_change(scene, policy=policy_text(HERE, NEW)).text().encode()).status_code == 200
