"""What callers ask for, over HTTP: derive, wrap, unwrap, rewrap (docs/spec/callers.md). JSON in, JSON out.

Whoever asks is known before: by the kernel on a Unix socket, by a token elsewhere. What he may do is the policy's.
What is secret in a request is overwritten as soon as it was used, and in an answer as soon as it is sent.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Final

from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from rkeyserver.appraisal.callers import Action, Caller, check_permitted
from rkeyserver.errors import RkeyError, Unavailable
from rkeyserver.keyring.derived import derive
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.wrapping import MAX_PLAINTEXT, rewrap, unwrap, wrap
from rkeyserver.secret import erase
from rkeyserver.service.app import NO_KEYRING
from rkeyserver.service.at_once import Answer
from rkeyserver.service.audit_line import reason_of
from rkeyserver.service.callers_requests import MAX_BODY, DeriveRequest, T, UnwrapRequest, WrapRequest, read_request
from rkeyserver.service.instance import Instance
from rkeyserver.service.policy_app import told
from rkeyserver.service.routes import DERIVE_PATH, PING_PATH, REWRAP_PATH, UNWRAP_PATH, WRAP_PATH

_ZEROS: Final = memoryview(bytes(MAX_PLAINTEXT))
MAX_ASKED: Final = MAX_BODY  # bytes of a body
Does = Callable[[Caller, bytes], Answer]


@dataclass(frozen=True)
class Callers:
    """What an instance does for callers, each action by its path. It is done at once, and waits for nothing."""

    instance: Instance

    def actions(self) -> dict[str, Does]:
        """By path. Each takes who asks and the body, which it overwrites; and raises RkeyError."""
        by_path = {
            DERIVE_PATH: self.derive,
            WRAP_PATH: self.wrap,
            UNWRAP_PATH: self.unwrap,
            REWRAP_PATH: self.rewrap,
        }
        return {path: partial(self._timed, path, does) for path, does in by_path.items()}

    def _timed(self, path: str, does: Does, caller: Caller, body: bytes) -> Answer:
        began = perf_counter()
        try:
            return does(caller, body)
        except RkeyError as error:
            self.instance.refused[reason_of(error)] += 1
            raise
        finally:
            self.instance.latency[path].observe(perf_counter() - began)

    def derive(self, caller: Caller, body: bytes) -> Answer:
        """A Derive in, a Key out."""
        asked = _asked(body, DeriveRequest)
        keyring = self._permitted(caller, Action.DERIVE, asked.label)
        found = derive(keyring, asked.label.encode(), size=asked.size, generation=asked.generation)
        with found.secret as secret:
            return _secret(b'{"key":"', secret.view, found.generation)

    def wrap(self, caller: Caller, body: bytes) -> Answer:
        """A Wrap in, a Wrapped out."""
        asked = _asked(body, WrapRequest)
        try:
            keyring = self._permitted(caller, Action.WRAP, asked.label)
            blob = wrap(keyring, asked.label.encode(), memoryview(asked.plaintext), asked.associated_data)
        finally:
            erase(asked.plaintext)
        return _wrapped(blob, keyring.current.id)

    def unwrap(self, caller: Caller, body: bytes) -> Answer:
        """An Unwrap in, a Secret out."""
        asked = _asked(body, UnwrapRequest)
        keyring = self._permitted(caller, Action.UNWRAP, asked.label)
        found = unwrap(keyring, asked.label.encode(), asked.wrapped, asked.associated_data)
        with found.secret as secret:
            return _secret(b'{"plaintext":"', secret.view, found.generation)

    def rewrap(self, caller: Caller, body: bytes) -> Answer:
        """An Unwrap in, a Wrapped out."""
        asked = _asked(body, UnwrapRequest)
        keyring = self._permitted(caller, Action.REWRAP, asked.label)
        blob = rewrap(keyring, asked.label.encode(), asked.wrapped, asked.associated_data)
        return _wrapped(blob, keyring.current.id)

    def _permitted(self, caller: Caller, action: Action, label: str) -> Keyring:
        keyring, policy = self.instance.keyring, self.instance.policy
        if keyring is None or policy is None:
            raise Unavailable(NO_KEYRING)
        check_permitted(caller, action, label, policy)
        return keyring


@dataclass(frozen=True)
class _AskAgain:
    """An action's route: what comes here by the right method was not answered at once (service/at_once.py)."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await told(Unavailable("The policy changed while this was asked."))(scope, receive, send)


def caller_routes() -> list[Route]:
    """The routes of callers: of an action, the path and the method."""
    paths = (DERIVE_PATH, WRAP_PATH, UNWRAP_PATH, REWRAP_PATH)

    async def ping(_request: object) -> Response:
        return Response(status_code=204)

    return [*(Route(path, _AskAgain(), methods=["POST"]) for path in paths), Route(PING_PATH, ping, methods=["GET"])]


def _asked(body: bytes, kind: type[T]) -> T:
    try:
        return read_request(body, kind)
    finally:
        erase(body)


def _wrapped(blob: bytes, generation: str) -> Answer:
    return Answer((b'{"wrapped":"', b2a_base64(blob, newline=False), b'","generation":"', generation.encode(), b'"}'))


def _secret(begin: bytes, secret: memoryview, generation: str) -> Answer:
    encoded = b2a_base64(secret, newline=False)
    b2a_base64(_ZEROS[: len(secret)])  # what is short is made on the C stack: let it be zeros that stay there
    return Answer((begin, encoded, b'","generation":"', generation.encode(), b'"}'), encoded)
