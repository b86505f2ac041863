"""What `derive`, `wrap`, `unwrap` and `rewrap` have in common: callers of an instance, by its local socket.

A secret comes in by standard input and goes out by standard output, never by an argument: those every user can read.
It goes to a pipe or a file; a terminal shows it, and keeps it, only where it was asked for as text.
"""

from __future__ import annotations

import argparse
import base64
import sys
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec

from rkeyserver import files
from rkeyserver.appraisal.policy import Label
from rkeyserver.cli import talk
from rkeyserver.cli.command import Parser, put_bytes
from rkeyserver.config import DEFAULT_SOCKET, Config
from rkeyserver.errors import Misuse, Unavailable
from rkeyserver.keyring.wrapping import MAX_ASSOCIATED_DATA, MAX_PLAINTEXT, OVERHEAD
from rkeyserver.secret import harden_process
from rkeyserver.service.callers_requests import MAX_WRAPPED, WANTED

# Base64 with a line break after as few characters as anybody sets one.
MAX_WRAPPED_TEXT: Final = 2 * MAX_WRAPPED
# Of an instance that runs as the README has it, without the unit file.
_BESIDE: Final = Config().socket_path
_ASK_AGAIN: Final = "Ask again: nothing is changed by it."
T = TypeVar("T")


class Wrapped(msgspec.Struct):
    """What POST /v1/wrap and /v1/rewrap answer."""

    wrapped: Annotated[bytes, msgspec.Meta(min_length=OVERHEAD, max_length=MAX_WRAPPED)]


def parser(name: str, description: str, *, base64_help: str, associated: bool = True) -> argparse.ArgumentParser:
    """Of a caller's command, with what all of them take."""
    made = Parser(prog=f"rkeyserver {name}", description=description)
    made.add_argument("label", metavar="LABEL", help="whose it is, such as backup/2026")
    if associated:
        group = made.add_mutually_exclusive_group()
        group.add_argument("--associated-data", metavar="TEXT", help="what it belongs to; the same opens it, no other")
        group.add_argument("--associated-data-file", metavar="FILE", help="the same, as the bytes of a file")
    made.add_argument("--base64", action="store_true", help=base64_help)
    made.add_argument("--socket", metavar="PATH", help=f"the instance's (default {DEFAULT_SOCKET}, or {_BESIDE})")
    return made


def _socket(found: argparse.Namespace) -> str:
    """The instance's local socket. Both defaults lie where root alone can put one."""
    if found.socket is not None:
        return str(found.socket)
    return str(_BESIDE if _BESIDE.is_socket() and not DEFAULT_SOCKET.exists() else DEFAULT_SOCKET)


def label_of(found: argparse.Namespace) -> str:
    """The label that was given.

    Raises: Misuse.
    """
    try:
        label: str = msgspec.convert(found.label, Label)
    except msgspec.ValidationError as error:
        raise Misuse(f"The label {found.label!r} cannot be used; wanted is {WANTED['label']}.") from error
    return label


def associated_data(found: argparse.Namespace) -> bytes:
    """What was given as such, nothing if nothing was.

    Raises: Misuse.
    """
    if found.associated_data_file is not None:
        return files.read(Path(found.associated_data_file), MAX_ASSOCIATED_DATA, "associated data")
    data = (found.associated_data or "").encode(errors="surrogateescape")
    if len(data) > MAX_ASSOCIATED_DATA:
        raise Misuse(f"The associated data has {len(data)} bytes; at most {MAX_ASSOCIATED_DATA} are taken.")
    return data


def read_secret() -> bytes:
    """What is to be wrapped, from standard input.

    Raises: Misuse.
    """
    return _stdin(MAX_PLAINTEXT, "secret", "To wrap more, wrap a random key, and encrypt with that.")


def read_wrapped(found: argparse.Namespace) -> bytes:
    """What was wrapped, from standard input: bytes, or with --base64 text.

    Raises: Misuse.
    """
    if not found.base64:
        data = _stdin(MAX_WRAPPED, "wrapped secret", "Is it text? Then say --base64.")
        if not data:
            raise Misuse("The wrapped secret on standard input is empty.")
        return data
    text = _stdin(MAX_WRAPPED_TEXT, "wrapped secret", "")
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except ValueError as error:
        raise Misuse(
            "The wrapped secret on standard input is no base64.", advice="Is it binary? Then leave --base64 out."
        ) from error


def _stdin(most: int, what: str, advice: str) -> bytes:
    if sys.stdin.isatty():
        raise Misuse(
            f"Standard input is a terminal; the {what} comes by a pipe or a file.",
            advice="For example: rkeyserver ... < FILE",
        )
    try:
        data = sys.stdin.buffer.read(most + 1)
    except OSError as error:
        raise Misuse(f"The {what} on standard input cannot be read: {error.strerror}.") from error
    if len(data) > most:
        raise Misuse(
            f"The {what} on standard input has more than {most} bytes; at most so many are taken.", advice=advice
        )
    return data


def ask(found: argparse.Namespace, path: str, question: dict[str, Any], answer: type[T]) -> T:
    """POST it to the instance. answer: what it answers with.

    Raises: what the instance answers; Unavailable where it does not.
    """
    harden_process()
    socket = _socket(found)
    body = msgspec.json.encode({name: value for name, value in question.items() if value is not None})
    told = talk.post("", path, body, "answer to a caller", socket=socket, unanswered=_ASK_AGAIN)
    try:
        return msgspec.convert(told, answer)
    except msgspec.ValidationError as error:
        raise Unavailable(f"What is on {socket} answers with something else than was asked for.") from error


def check_output(found: argparse.Namespace) -> None:
    """Whether the answer may go where it would, before anything is asked.

    Raises: Misuse.
    """
    if sys.stdout.isatty() and not found.base64:
        raise Misuse(
            "Standard output is a terminal, and what comes is binary.",
            advice="Send it to a file or a pipe, or say --base64 to see it as text.",
        )


def put_found(found: argparse.Namespace, data: bytes) -> None:
    """Print bytes as they are, or with --base64 as one line of text."""
    put_bytes(base64.b64encode(data) + b"\n" if found.base64 else data)
