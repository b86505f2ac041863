"""What callers send and are sent: requests, wrapped secrets, answers, and what a command is given."""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import sys
from collections.abc import Callable
from typing import Final
from unittest import mock

import msgspec
from tests.fakes.keyrings import keyring_of
from tests.property.inputs import KEYS, SECRET, SECRETS
from tests.property.registry import Run, target, text_of

from rkeyserver.cli import caller, derive, talk, unwrap
from rkeyserver.errors import Misuse, Rejected, RkeyError
from rkeyserver.keyring.wrapping import rewrap, wrap
from rkeyserver.keyring.wrapping import unwrap as open_wrapped
from rkeyserver.service.callers_requests import DeriveRequest, UnwrapRequest, WrapRequest, read_request

PLAINTEXT: Final = b"qzxplaintext of a caller's"
ENCODED: Final = base64.b64encode(PLAINTEXT).decode()
TOLD: Final = (*SECRETS, "qzxplaintext", ENCODED[:12])  # none of it in an error
GENERATION: Final = "00112233445566778899aabbccddeeff"

for _kind, _bodies in {
    DeriveRequest: [{"label": "qzxplaintext"}, {"label": "a", "size": 16, "generation": GENERATION}],
    WrapRequest: [
        {"label": "a", "plaintext": ENCODED},
        {"label": "a", "plaintext": ENCODED, "associated_data": ENCODED},
    ],
    UnwrapRequest: [{"label": "a", "wrapped": ENCODED}, {"associated_data": ENCODED, "label": "a", "wrapped": ""}],
}.items():
    target(
        f"caller's {_kind.__name__}",
        lambda bodies=_bodies: [json.dumps(one).encode() for one in bodies],  # type: ignore[misc]  # mypy has no type for a lambda's default
        lambda data, kind=_kind: read_request(data, kind),  # type: ignore[misc]  # mypy has no type for a lambda's default
        Misuse,
        secrets=lambda: TOLD,
    )


def wrapped() -> list[bytes]:
    found = []
    for count in (1, 2):
        with contextlib.closing(keyring_of(KEYS[:count], secret=SECRET)) as keyring:
            found += [wrap(keyring, b"a", memoryview(one), b"about") for one in (PLAINTEXT, b"")]
    return found


def opened(data: bytes) -> bytes:
    with (
        contextlib.closing(keyring_of(KEYS, secret=SECRET)) as keyring,
        open_wrapped(keyring, b"a", data, b"about").secret as secret,
    ):
        return secret.view.tobytes()


def wrapped_anew(data: bytes) -> bytes:
    with contextlib.closing(keyring_of(KEYS, secret=SECRET)) as keyring:
        return rewrap(keyring, b"a", data, b"about")


target("wrapped secret", wrapped, opened, Rejected, secrets=lambda: TOLD)
target("wrapped secret, wrapped anew", wrapped, wrapped_anew, Rejected, secrets=lambda: TOLD)


def answered(command: Callable[[], object]) -> Run:
    """A command that an instance answers with whatever it is, and that prints nothing."""

    def run(data: bytes) -> None:
        async def ask(*_: object) -> tuple[int, bytes]:
            return 200, data

        with (
            mock.patch.object(talk, "_ask", ask),
            mock.patch.object(caller, "harden_process"),  # this process has to be looked at
            mock.patch.object(caller, "put_bytes"),
            mock.patch.object(unwrap, "put_bytes"),
            mock.patch.object(sys, "stdout", io.TextIOWrapper(io.BytesIO())),
            mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x"))),
            mock.patch.object(sys, "stderr", io.StringIO()),
        ):
            command()

    return run


DERIVE: Final = ["a", "--size", str(len(PLAINTEXT)), "--socket", "s", "--generation", "first"]
target(
    "answer to derive",
    lambda: [msgspec.json.encode({"key": PLAINTEXT, "generation": GENERATION})],
    answered(lambda: derive.run(derive.parser().parse_args(DERIVE))),
    RkeyError,
    secrets=lambda: TOLD,
)
target(
    "answer to unwrap",
    lambda: [msgspec.json.encode({"plaintext": PLAINTEXT, "generation": GENERATION})],
    answered(lambda: unwrap.run(unwrap.parser().parse_args(["a", "--socket", "s"]))),
    RkeyError,
    secrets=lambda: TOLD,
)
target(
    "label of a command",
    lambda: [b"db/main", b"a b"],
    lambda data: caller.label_of(argparse.Namespace(label=text_of(data))),
    Misuse,
)


def typed(data: bytes) -> bytes:
    with mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(data))):
        return caller.read_wrapped(argparse.Namespace(base64=True))


target("wrapped secret as text", lambda: [ENCODED.encode(), b"AQ\n==\n"], typed, Misuse, secrets=lambda: TOLD)
