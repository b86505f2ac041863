"""The HTTP surfaces in OpenAPI 3.1, one document for each listener, made from the program's own types and limits."""

from __future__ import annotations

import inspect
import json
from typing import Any, Final

import msgspec
from tests.vectors.spec_cases import Json

from rkeyserver.appraisal.change import MAX_CHANGE
from rkeyserver.appraisal.orders import MAX_ORDER
from rkeyserver.errors import HTTP_STATUS, Reason, RkeyError, Unavailable
from rkeyserver.exchange import messages
from rkeyserver.keyring.derived import MAX_SIZE, MIN_SIZE
from rkeyserver.keyring.wrapping import MAX_PLAINTEXT, OVERHEAD
from rkeyserver.service import local_app, routes, token_listener
from rkeyserver.service.app import MAX_CONTRIBUTION_BODY
from rkeyserver.service.callers_requests import MAX_WRAPPED, DeriveRequest, UnwrapRequest, WrapRequest
from rkeyserver.service.ops import HTTP_MISDIRECTED
from rkeyserver.service.token_listener import HTTP_UNAUTHORIZED

BASE64: Final = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
HEX16: Final[Json] = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
BINARY: Final = routes.CONTENT_TYPE


def base64_of(least: int, most: int) -> Json:
    """Bytes in base64."""
    sizes = {"minLength": -(-least // 3) * 4, "maxLength": -(-most // 3) * 4}
    return {"type": "string", "contentEncoding": "base64", "pattern": BASE64} | sizes


def plain(node: Any) -> Any:
    """A schema of msgspec's, for everybody: Python's end of the text is not everybody's, and base64 has a form."""
    if isinstance(node, list):
        return [plain(one) for one in node]
    if not isinstance(node, dict):
        return node
    told = {key: plain(value) for key, value in node.items()}
    if isinstance(told.get("description"), str):
        told["description"] = inspect.cleandoc(told["description"])
    if isinstance(told.get("pattern"), str):
        told["pattern"] = told["pattern"].replace("\\Z", "$")
    if told.get("contentEncoding") == "base64":
        told["pattern"] = BASE64
    return told


def _object(**fields: Json) -> Json:
    return {"type": "object", "required": list(fields), "properties": fields}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


ERROR: Final[Json] = _object(
    error={"enum": [kind.code for kind in HTTP_STATUS]}, message={"type": "string"}, advice={"type": "string"}
) | {"description": "What went wrong, for people; `reason` where `error` is `rejected`."}
ERROR["properties"]["reason"] = {"enum": [str(reason) for reason in Reason]}
RETRY_AFTER: Final[Json] = {
    "description": "Seconds.",
    "required": True,
    "schema": {"type": "string", "pattern": "^[1-9][0-9]*$"},
}
COARSE: Final[Json] = _object(error={"enum": [kind.code for kind in HTTP_STATUS]})


def _errors(schema: Json, *kinds: type[RkeyError]) -> Json:
    told = {str(HTTP_STATUS[kind]): kind for kind in HTTP_STATUS if not kinds or kind in kinds}
    return {
        code: {"description": f"`{kind.code}`", "content": _json(schema)}
        | ({"headers": {"Retry-After": RETRY_AFTER}} if kind is Unavailable else {})
        for code, kind in sorted(told.items())
    }


def _document(title: str, server: str, description: str, paths: Json, schemas: Json) -> str:
    content = {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1", "description": description},
        "servers": [{"url": server}],
        "paths": paths,
        "components": {"schemas": schemas},
    }
    return json.dumps(content, indent=1) + "\n"


POLICY: Final[Json] = {
    "get": {
        "operationId": "policy",
        "summary": "The policy that is in force.",
        "responses": {
            "200": {
                "description": "The document, whose it is, and which change made it.",
                "content": _json(
                    _object(
                        domain=HEX16, change={"type": "integer", "minimum": 0}, digest={"type": "string"},
                        policy={"type": "string"},
                    )
                ),
            },
            **_errors(_ref("Error")),
        },
    },
    "post": {
        "operationId": "changePolicy",
        "summary": "Apply a change that its admins have signed; where there are none, the owner's by the local socket.",
        "requestBody": {
            "required": True,
            "description": f"A change (docs/spec/policy.md), at most {MAX_CHANGE} bytes.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        },
        "responses": {
            "200": {
                "description": "It is in force.",
                "content": _json(
                    _object(
                        domain=HEX16, change={"type": "integer"}, sequence={"type": "integer"},
                        policy={"type": "string"}, narrowed={"type": "array", "items": {"type": "string"}},
                        generation={"type": ["string", "null"]},
                    )
                ),
            },
            **_errors(_ref("Error")),
        },
    },
}  # fmt: skip


ORDERS: Final[Json] = {
    "post": {
        "operationId": "order",
        "summary": "Rotate, retire, promote or forget (docs/spec/orders.md).",
        "requestBody": {
            "description": f"An order, at most {MAX_ORDER} bytes.",
            "required": True,
            "content": {"application/json": {"schema": {"type": "object"}}},
        },
        "responses": {
            "200": {
                "description": "It is done.",
                "content": _json(
                    _object(
                        order={"type": "string"},
                        domain=HEX16,
                        epoch={"type": "integer"},
                        sequence={"type": "integer"},
                        primary=HEX16,
                        generation={"type": "string"},
                        state={"type": "string"},
                        waiting={"type": "array", "items": HEX16},
                    )
                ),
            },
            **_errors(_ref("Error")),
        },
    },
}


def _actions() -> tuple[Json, Json]:
    """The paths of what callers ask for on either listener, and the schemas."""
    _, requests = msgspec.json.schema_components(
        [DeriveRequest, WrapRequest, UnwrapRequest], ref_template="#/components/schemas/{name}"
    )
    schemas = plain(requests) | {
        "Key": _object(key=base64_of(MIN_SIZE, MAX_SIZE), generation=HEX16),
        "Wrapped": _object(wrapped=base64_of(OVERHEAD, MAX_WRAPPED), generation=HEX16),
        "Secret": _object(plaintext=base64_of(0, MAX_PLAINTEXT), generation=HEX16),
        "Error": ERROR,
    }

    def post(name: str, summary: str, asked: str, answered: str) -> Json:
        return {
            "post": {
                "operationId": name,
                "summary": summary,
                "requestBody": {"required": True, "content": _json(_ref(asked))},
                "responses": {
                    "200": {"description": "Done.", "content": _json(_ref(answered))},
                    **_errors(_ref("Error")),
                },
            }
        }

    paths = {
        routes.PING_PATH: {
            "get": {
                "operationId": "ping",
                "summary": "Nothing: somebody is there.",
                "responses": {"204": {"description": "Somebody is there."}, **_errors(_ref("Error"), Unavailable)},
            }
        },
        routes.DERIVE_PATH: post("derive", "The key of a label.", "DeriveRequest", "Key"),
        routes.WRAP_PATH: post("wrap", "Wrap a secret.", "WrapRequest", "Wrapped"),
        routes.UNWRAP_PATH: post("unwrap", "Open a wrapped secret.", "UnwrapRequest", "Secret"),
        routes.REWRAP_PATH: post("rewrap", "Wrap anew, under the current generation.", "UnwrapRequest", "Wrapped"),
    }
    return paths, schemas


def callers() -> str:
    """callers.openapi.json: the local socket."""
    paths, schemas = _actions()
    about = (
        "HTTP on a Unix socket. Who asks is who connected, by the kernel; what he may do is the policy's (callers.md). "
        f"Each user may ask {local_app.PER_SECOND:.0f} times in a second; the server's own, as often as he likes."
    )
    paths = paths | {routes.POLICY_PATH: POLICY, routes.ORDERS_PATH: ORDERS}
    return _document("rkeyserver: the local socket", "http://localhost", about, paths, schemas)


_DIGITS: Final = {"type": "string", "pattern": "^[0-9a-f]+$"}
CHECKPOINT: Final = _object(
    **{name: {"type": "string"} for name in ("format", "machine", "at")},
    **dict.fromkeys(("domain", "chain", "head", "key", "signature"), _DIGITS),
    lines={"type": "integer", "minimum": 1},
)


def tokens() -> str:
    """tokens.openapi.json: the listener for callers with a token."""
    paths, schemas = _actions()
    error = _json(_ref("Error"))
    answers: Json = {
        str(HTTP_UNAUTHORIZED): {
            "description": "`rejected`, for `unknown-token`: no token, or one that the policy does not name",
            "headers": {"WWW-Authenticate": {"required": True, "schema": {"const": "Bearer"}}},
            "content": error,
        },
        str(HTTP_MISDIRECTED): {"description": "`misuse`: asked for by a name that is not its own", "content": error},
    }
    for methods in paths.values():
        for one in methods.values():
            one["responses"] = dict(sorted((one["responses"] | answers).items()))
    about = (
        "HTTP over TLS 1.3, while the policy names tokens. Who asks is who shows a token; what he may do is the "
        f"policy's (callers.md). Each token may have {token_listener.PER_TOKEN} requests at once and "
        f"{token_listener.PER_SECOND:.0f} in a second. Host is an IP address, localhost or the name in --callers."
    )
    scheme = {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "rkt_ and 43 characters"}}
    document = json.loads(
        _document("rkeyserver: callers with a token", "https://localhost:8890", about, paths, schemas)
    )
    document["components"]["securitySchemes"] = scheme
    document["security"] = [{"token": []}]
    return json.dumps(document, indent=1) + "\n"


def operations() -> str:
    """operations.openapi.json: the operations listener."""

    def get(name: str, summary: str, content: Json, *kinds: type[RkeyError], **more: Any) -> Json:
        answer = {"200": {"description": "That.", "content": content}, **_errors(_ref("Error"), *kinds)}
        return {"get": {"operationId": name, "summary": summary, **more, "responses": answer}}

    text: Json = {"schema": {"type": "string"}}
    boolean: Json = {"type": "boolean"}
    serving = _json(_object(serving=boolean))
    string: Json = {"type": "string"}
    check = _object(good=boolean, found=string, stops=string, stops_callers=boolean)
    checks: Json = {"type": "object", "additionalProperties": check}
    ready = _json(_object(ready=boolean, serving=boolean, checks=checks))
    proof = _json(_object(at=string, passed=boolean, reason=string, found=string, advice=string))
    paths = {
        "/status": get(
            "status", "What the instance is; docs/operations/commands.md has every field.", _json({"type": "object"})
        ),
        "/healthz": {
            "get": {
                "operationId": "healthz",
                "summary": "Whether it serves a keyring.",
                "responses": {
                    "200": {"description": "It does.", "content": serving},
                    "503": {"description": "Not yet.", "content": serving},
                },
            }
        },
        "/readyz": {
            "get": {
                "operationId": "readyz",
                "summary": "Whether all that it needs is there; docs/operations/metrics.md has every check.",
                "responses": {
                    "200": {"description": "It is.", "content": ready},
                    "503": {"description": "A check found something wrong.", "content": ready},
                },
            }
        },
        routes.DRILL_PATH: {
            "post": get("drill", "Have it open its record, and compare it with what it serves.", proof)["get"]
        },
        "/metrics": get("metrics", "Its numbers, for Prometheus.", {"text/plain": text}),
        "/provision-ca": get(
            "provisionCa",
            "The CA by which applications know it, PEM.",
            {"application/x-pem-file": text},
            parameters=[
                {
                    "name": "generation",
                    "in": "query",
                    "description": "first, current, or an id; without it the policy's own",
                    "schema": {"type": "string"},
                }
            ],
        ),
        routes.AUDIT_CHECKPOINT_PATH: get(
            "auditCheckpoint",
            "The head of its audit file, signed with a key of the domain (audit.md).",
            _json(CHECKPOINT),
        ),
        routes.POLICY_PATH: POLICY,
        routes.ORDERS_PATH: ORDERS,
    }
    for path, methods in paths.items():
        for one in methods.values():
            if path not in {"/healthz", "/readyz"}:
                one["responses"] = one["responses"] | {
                    "421": _errors(_ref("Error"))["400"] | {"description": "Asked for by a name that is not its own."}
                }
    about = "For whoever watches an instance; nothing is secret. Host is an IP address, localhost or the name in --ops."
    return _document("rkeyserver: the operations listener", "http://127.0.0.1:9888", about, paths, {"Error": ERROR})


def peers() -> str:
    """peers.openapi.json: the peers' listener."""
    binary: Json = {"content": {BINARY: {"schema": {}}}}

    def post(name: str, summary: str, most: int, answer: Json) -> Json:
        too_large = {"413": {"description": "`rejected`: longer than is read", "content": _json(_ref("Error"))}}
        return {
            "operationId": name,
            "summary": summary,
            "requestBody": {"required": True, "description": f"At most {most} bytes.", **binary},
            "responses": {"200": {"description": "That."} | answer, **_errors(_ref("Error")), **too_large},
        }

    def get(name: str, summary: str, answer: Json) -> Json:
        responses = {"200": {"description": "That."} | answer, **_errors(_ref("Error"))}
        return {"operationId": name, "summary": summary, "responses": responses}

    count: Json = {"type": "integer", "minimum": 0}
    hint = {
        "content": _json(
            _object(
                domain=HEX16,
                epoch=count,
                sequence=count,
                primary=HEX16,
                digest={"type": "string", "pattern": "^[0-9a-f]{64}$"},
                member=HEX16,
                role={"enum": ["primary", "standby"]},
                generations={"type": "array", "items": HEX16},
                change=count,
                pending={"type": "boolean"},
            )
        )
    }
    shares = {"content": _json(_object(shares=count, threshold=count))}
    paths = {
        routes.HELLO_PATH: {
            "post": post("hello", "A Hello in, a Challenge out.", messages.MAX_MESSAGE[messages.Hello], binary)
        },
        routes.HAND_OVER_PATH: {
            "post": post("handOver", "A Request in, a Grant out.", messages.MAX_MESSAGE[messages.Request], binary)
        },
        routes.RELEASE_HELLO_PATH: {
            "post": post("releaseHello", "A Hello in, a Challenge out.", messages.MAX_MESSAGE[messages.Hello], binary)
        },
        routes.RELEASE_PATH: {
            "post": post(
                "release", "A ReleaseRequest in, a Release out.", messages.MAX_MESSAGE[messages.ReleaseRequest], binary
            )
        },
        routes.HINT_PATH: {"get": get("hint", "Which state it holds. Nothing proves it.", hint)},
        routes.RECOVERY_PATH: {
            "get": get("recoveryRequest", "Its RecoveryRequest, while it asks for one.", binary),
            "post": post("contribute", "A RecoveryContribution in.", MAX_CONTRIBUTION_BODY, shares),
        },
    }
    about = "Messages are canonical MessagePack (exchange.md), in which everything is proved; HTTP only carries them."
    return _document("rkeyserver: the peers' listener", "http://127.0.0.1:8888", about, paths, {"Error": COARSE})


DOCUMENTS: Final = {
    "callers.openapi.json": callers,
    "tokens.openapi.json": tokens,
    "operations.openapi.json": operations,
    "peers.openapi.json": peers,
}
