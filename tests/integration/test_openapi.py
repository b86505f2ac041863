"""A real instance keeps to the OpenAPI descriptions of its HTTP: whatever is sent, by Schemathesis."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.generation import GenerationMode
from tests.fakes.processes import DEADLINE, ROOT, Machine, machines_in
from tests.integration.test_tokens import OTHER, TOKEN, base, entry, provision_ca, written

from rkeyserver.service.routes import CONTENT_TYPE

SPEC = ROOT / "docs" / "spec"
EXAMPLES = 25  # of each route, and of each kind: as it should be, and not
BUG = 500
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
LISTENERS = ("callers", "tokens", "operations", "peers")


@schemathesis.serializer(CONTENT_TYPE)
def as_message(_context: Any, value: Any) -> bytes:
    """A body for peers: whatever it is, as MessagePack has it."""
    try:
        return msgspec.msgpack.encode(value)
    except OverflowError:  # a number that MessagePack has no form for
        return repr(value).encode(errors="replace")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machines_in(tmp_path_factory.mktemp("openapi")) as machines:
        made = machines("host")
        policy = written(made, "policy.toml", base() + entry(may=("derive", "wrap", "unwrap", "rewrap"), labels="*"))
        server = made.start("--socket", str(made.folder / "s"), "--policy", policy, "--callers", "127.0.0.1:0")
        server.err.wait_for("Answering callers with 1 token")
        yield made


@pytest.fixture(scope="module")
def clients(machine: Machine) -> Iterator[dict[str, httpx.Client]]:
    """By the description's name."""
    transport = httpx.HTTPTransport(uds=str(machine.folder / "s"))
    (there,) = machine.status()["callers"]["listening"]
    trusted = ssl.create_default_context(cadata=provision_ca(machine))
    shown = {"authorization": f"Bearer {TOKEN}"}
    with (
        httpx.Client(transport=transport, base_url="http://localhost", timeout=DEADLINE) as callers,
        httpx.Client(
            base_url=f"https://{there}", headers=shown, verify=trusted, trust_env=False, timeout=DEADLINE
        ) as tokens,
        httpx.Client(base_url=f"http://{machine.ops}", trust_env=False, timeout=DEADLINE) as operations,
        httpx.Client(base_url=f"http://{machine.address}", trust_env=False, timeout=DEADLINE) as peers,
    ):
        yield dict(zip(LISTENERS, (callers, tokens, operations, peers), strict=True))


def description(name: str) -> Any:
    return json.loads((SPEC / f"{name}.openapi.json").read_text())


POSITIVE, NEGATIVE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE


def routes(mode: GenerationMode) -> list[tuple[str, str, str]]:
    """Of what takes nothing, nothing is wrong; nor of what takes any bytes at all, as peers do."""
    return [
        (name, path, method)
        for name in LISTENERS
        for path, methods in description(name)["paths"].items()
        for method, said in methods.items()
        if mode is POSITIVE or (name != "peers" and ("requestBody" in said or "parameters" in said))
    ]


def answers(
    client: httpx.Client, name: str, path: str, method: str, mode: GenerationMode
) -> list[tuple[Any, httpx.Response]]:
    """What is answered to many requests, each as it is described."""
    said = description(name)
    said.pop("security", None)  # else what is wrong is the token, and the rest as it should be
    operation = schemathesis.openapi.from_dict(said)[path][method.upper()]
    found: list[tuple[Any, httpx.Response]] = []

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
        # Of health: what is generated is Schemathesis's, and each example asks a server.
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        sent = case.as_transport_kwargs(base_url=str(client.base_url))
        # Prepared by requests, for which it is meant; sent by httpx, which knows Unix sockets.
        prepared: Any = requests.Request(**sent).prepare()
        # Its length is told by whoever sends it; what an instance is asked for by another name, or with another token,
        # is not of this.
        told = {"content-length", "host", "authorization"}
        headers = {key: one for key, one in prepared.headers.items() if key.lower() not in told}
        url = str(prepared.url).removeprefix(str(client.base_url).rstrip("/"))
        answer = client.request(method, url, headers=headers, content=prepared.body or b"")
        case.validate_response(answer, checks=CHECKS)
        found.append((case, answer))

    ask()
    assert len(found) >= 1
    return found


def field(case: Any, name: str) -> Any:
    return case.body.get(name) if isinstance(case.body, dict) else None


@pytest.mark.parametrize(("name", "path", "method"), routes(POSITIVE))
def test_what_is_as_described_is_answered_as_described(
    clients: dict[str, httpx.Client], name: str, path: str, method: str
) -> None:
    found = answers(clients[name], name, path, method, POSITIVE)
    assert all(answer.status_code != BUG for _, answer in found)
    if name in {"callers", "tokens"} and path not in {"/v1/policy", "/v1/orders"}:
        # The owner may do everything, and so may this token: refused is at most a generation, or a wrapped secret, that
        # there is not.
        # To a schema 32.0 is an integer; to an instance it is none (callers.md, "Requests").
        found = [one for one in found if not isinstance(field(one[0], "size"), float)]
        assert {answer.status_code for _, answer in found} <= {200, 204, 403}
        if path in {"/v1/derive", "/v1/wrap"}:
            assert 200 in {answer.status_code for _, answer in found}


@pytest.mark.parametrize(("name", "path", "method"), routes(NEGATIVE))
def test_what_is_not_is_refused_as_described(
    clients: dict[str, httpx.Client], name: str, path: str, method: str
) -> None:
    found = answers(clients[name], name, path, method, NEGATIVE)
    assert all(answer.status_code != BUG for _, answer in found)
    if "/v1/" in path:
        assert {answer.status_code for _, answer in found} <= {400, 403}


STRANGERS = {
    "no token": ({"authorization": ""}, 401),
    "another token": ({"authorization": f"Bearer {OTHER}"}, 401),
    "another name": ({"host": "evil.example"}, 421),
}


@pytest.mark.parametrize("path", ["/v1/derive", "/v1/ping"])
@pytest.mark.parametrize(("headers", "status"), STRANGERS.values(), ids=STRANGERS)
def test_who_is_not_known_is_told_so_as_described(
    clients: dict[str, httpx.Client], path: str, headers: dict[str, str], status: int
) -> None:
    method = "GET" if path == "/v1/ping" else "POST"
    answer = clients["tokens"].request(method, path, headers=headers, content=b"" if method == "GET" else b"{}")
    assert answer.status_code == status
    case = schemathesis.openapi.from_dict(description("tokens"))[path][method].Case()
    case.validate_response(answer, checks=CHECKS)
