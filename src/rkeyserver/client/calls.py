"""What is asked for and what comes back, as bytes (docs/spec/callers.md). No I/O."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Annotated, Final, Generic, Self, TypeVar

import msgspec

from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected, RkeyError, Unavailable, one_line
from rkeyserver.secret import SecretBytes, erase, take_bytes

DEFAULT_SIZE: Final = 32
MAX_PLAINTEXT: Final = 64 * 1024
MAX_WRAPPED: Final = MAX_PLAINTEXT + 65
MAX_ASSOCIATED_DATA: Final = 64 * 1024
MAX_ANSWER: Final = 4 * MAX_WRAPPED // 3 + 4096
MOST_RETRY_AFTER: Final = 60.0
_KINDS: Final[dict[str, Callable[..., RkeyError]]] = {"misuse": Misuse, "corrupt": Corrupt}
_DIGITS: Final = 4
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Generation = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]


@dataclass(frozen=True, eq=False)
class Secret:
    """A derived key or an unwrapped secret, and the id of the generation that it is from: store that beside your data.

    A context manager: leaving it erases the secret.
    """

    secret: SecretBytes
    generation: str

    @property
    def view(self) -> memoryview:
        """The secret in place: as the key of a cipher, or for a `write`. Not valid after the context.

        Raises: ValueError after close().
        """
        return self.secret.view

    def unprotected_bytes(self) -> bytes:
        """A copy as `bytes`, for libraries that take nothing else. Nothing erases it: it stays until it is overwritten.

        Raises: ValueError after close().
        """
        return self.secret.view.tobytes()

    def close(self) -> None:
        """Erase it."""
        self.secret.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True)
class Wrapped:
    """A wrapped secret, to be stored anywhere, and the id of the generation that it is under."""

    wrapped: bytes
    generation: str


@dataclass(frozen=True)
class Call(Generic[T_co]):
    """One request. body: JSON, erased by done(); read: makes the result of an answer that says 200.

    read raises ValueError or msgspec.DecodeError for what is no answer.
    """

    path: str
    body: bytes = field(repr=False)
    read: Callable[[bytearray], T_co]

    def done(self) -> None:
        """Erase the request: it may hold a secret."""
        erase(self.body)


@dataclass(frozen=True)
class Answer:
    """What a server answered. retry_after: the header, empty for none."""

    status: int
    retry_after: str
    body: bytearray = field(repr=False)


@dataclass(frozen=True)
class NoAnswer:
    """That a server gave none, and why."""

    why: str


class _Key(msgspec.Struct, frozen=True):
    key: bytes
    generation: Generation


class _Plaintext(msgspec.Struct, frozen=True):
    plaintext: bytes
    generation: Generation


class _Wrapped(msgspec.Struct, frozen=True):
    wrapped: bytes
    generation: Generation


class _Error(msgspec.Struct, frozen=True):
    error: str
    message: str
    advice: str = ""
    reason: str = ""


def derive(label: str, size: int, generation: str) -> Call[Secret]:
    """A key of `size` bytes for a label."""

    def read(body: bytearray) -> Secret:
        found = msgspec.json.decode(body, type=_Key)
        secret = _kept(found.key)
        if secret.size != size or generation not in ("first", "current", found.generation):
            secret.close()
            raise ValueError("another key than was asked for")
        return Secret(secret, found.generation)

    return Call("/v1/derive", _body({"label": label, "size": size, "generation": generation}), read)


def wrap(label: str, plaintext: bytes | bytearray | memoryview | SecretBytes, associated_data: bytes) -> Call[Wrapped]:
    """A secret to be wrapped.

    Raises: Misuse for what is too long.
    """
    view = plaintext.view if isinstance(plaintext, SecretBytes) else memoryview(plaintext)
    _check("secret", view.nbytes, MAX_PLAINTEXT)
    _check("associated data", len(associated_data), MAX_ASSOCIATED_DATA)
    return Call(
        "/v1/wrap", _body({"label": label, "plaintext": view, "associated_data": associated_data}), _read_wrapped
    )


def unwrap(label: str, wrapped: bytes, associated_data: bytes) -> Call[Secret]:
    """A wrapped secret to be opened.

    Raises: Misuse for what is too long.
    """

    def read(body: bytearray) -> Secret:
        found = msgspec.json.decode(body, type=_Plaintext)
        secret = _kept(found.plaintext)
        if found.generation != _generation(wrapped):
            secret.close()
            raise ValueError("a secret of another generation")
        return Secret(secret, found.generation)

    return Call("/v1/unwrap", _wrapped_body(label, wrapped, associated_data), read)


def rewrap(label: str, wrapped: bytes, associated_data: bytes) -> Call[Wrapped]:
    """A wrapped secret to be moved to the current generation.

    Raises: Misuse for what is too long.
    """
    return Call("/v1/rewrap", _wrapped_body(label, wrapped, associated_data), _read_wrapped)


def result_of(call: Call[T], answer: Answer, server: str) -> T:
    """What an answer comes to. server: as it was named.

    Raises: the error that the server tells, by its kind; Unavailable for an answer that is none.
    """
    try:
        if answer.status == 200:  # noqa: PLR2004 - HTTP's
            return call.read(answer.body)
        found = msgspec.json.decode(answer.body, type=_Error)
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError):
        found = None
    finally:
        answer.body[:] = bytes(len(answer.body))
    raise _error(answer, found, server)


def _error(answer: Answer, found: _Error | None, server: str) -> RkeyError:
    retry_after = _seconds(answer.retry_after)
    if found is None:
        return Unavailable(
            f"{server} answers {answer.status}, and nothing that an rkeyserver answers.",
            advice="Is that the local socket or the --callers of an instance?",
            retry_after=retry_after,
        )
    if found.error == Rejected.code:
        reason = Reason.REFUSED_BY_PEER  # for one that only a later version knows
        with contextlib.suppress(ValueError):
            reason = Reason(found.reason)
        return Rejected(reason, found.message, advice=found.advice)
    if found.error in _KINDS:
        return _KINDS[found.error](found.message, advice=found.advice)
    return Unavailable(found.message, advice=found.advice, retry_after=retry_after)


def _seconds(text: str) -> float:
    # RFC 9110 section 10.2.3 has a date too, by a clock that nobody here trusts.
    return min(float(text), MOST_RETRY_AFTER) if text.isdecimal() and len(text) <= _DIGITS else 0


def _body(named: dict[str, object]) -> bytes:
    try:
        return msgspec.json.encode(named)
    except UnicodeEncodeError as error:
        raise Misuse("The label or the generation is no Unicode text.") from error


def _wrapped_body(label: str, wrapped: bytes, associated_data: bytes) -> bytes:
    _check("wrapped secret", len(wrapped), MAX_WRAPPED)
    _check("associated data", len(associated_data), MAX_ASSOCIATED_DATA)
    return _body({"label": label, "wrapped": wrapped, "associated_data": associated_data})


def _read_wrapped(body: bytearray) -> Wrapped:
    found = msgspec.json.decode(body, type=_Wrapped)
    if found.generation != _generation(found.wrapped):
        raise ValueError("another generation than the one it is wrapped under")
    return Wrapped(found.wrapped, found.generation)


def _generation(wrapped: bytes) -> str:
    return wrapped[1:17].hex()  # docs/spec/keyring.md, "Wrapping"


def _check(what: str, size: int, most: int) -> None:
    if size > most:
        raise Misuse(f"The {what} has {size} bytes; at most {most} are taken.", advice="Wrap a key, and use that.")


def _kept(found: bytes) -> SecretBytes:
    """Moved into key memory, and erased where it was."""
    if len(found) != 1:
        return take_bytes(found)
    secret = SecretBytes(1)  # Python may have one object for all bytes of that value, and then it is not ours to erase
    secret.view[0] = found[0]
    return secret


def described(server: str, error: RkeyError | NoAnswer) -> str:
    """A server and why it did not help, in one clause."""
    return one_line(f"{server}: {error.why if isinstance(error, NoAnswer) else error.message.rstrip('.')}")
