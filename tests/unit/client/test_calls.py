"""What a client makes of every answer that there can be."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest

from rkeyserver.client import calls
from rkeyserver.client.calls import Answer, Call, result_of
from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected, RkeyError, Unavailable
from rkeyserver.keyring import derived, wrapping
from rkeyserver.secret import SecretBytes

GENERATION = "0a" * 16
KEY = bytes(range(32))
WRAPPED = b"\x01" + bytes.fromhex(GENERATION) + b"and more"


def answer(status: int = 200, retry_after: str = "", **found: object) -> Answer:
    return Answer(status, retry_after, bytearray(json.dumps(found).encode()))


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_derived_key_comes_in_key_memory_and_is_bytes_only_if_asked_by_name() -> None:
    call = calls.derive("db", 32, "current")
    assert json.loads(call.body) == {"label": "db", "size": 32, "generation": "current"}
    said = answer(key=encoded(KEY), generation=GENERATION)
    with result_of(call, said, "a") as found:
        assert found.view == KEY
        assert found.unprotected_bytes() == KEY
        assert found.generation == GENERATION
        with pytest.raises(TypeError):
            bytes(found.secret)
        with pytest.raises(TypeError):
            bytes(found)  # type: ignore[call-overload]  # that it cannot be is what is shown
        assert KEY.hex() not in repr(found)
        assert encoded(KEY) not in repr(found) + repr(said)
    with pytest.raises(ValueError, match="released"):
        found.unprotected_bytes()
    assert not any(said.body), "the answer is erased"


@pytest.mark.parametrize("size", [0, 1, 2, 65_536])
def test_an_unwrapped_secret_of_any_size(size: int) -> None:
    call = calls.unwrap("db", WRAPPED, b"a")
    assert json.loads(call.body) == {"label": "db", "wrapped": encoded(WRAPPED), "associated_data": encoded(b"a")}
    plaintext = b"\x07" * size
    with result_of(call, answer(plaintext=encoded(plaintext), generation=GENERATION), "a") as found:
        assert found.view == plaintext
    assert bytes([7]) == b"\x07"  # nobody's object of one byte was erased


@pytest.mark.parametrize("kind", ["bytes", "bytearray", "memoryview", "SecretBytes"])
def test_what_is_wrapped_may_be_of_any_kind_and_is_erased_in_the_request(kind: str) -> None:
    with SecretBytes(32) as secret:
        secret.view[:] = KEY
        given = {"bytes": KEY, "bytearray": bytearray(KEY), "memoryview": memoryview(KEY), "SecretBytes": secret}[kind]
        call = calls.wrap("db", given, b"")  # type: ignore[arg-type]  # a table has no narrower type
        assert json.loads(call.body) == {"label": "db", "plaintext": encoded(KEY), "associated_data": ""}
        assert encoded(KEY) not in repr(call)
        call.done()
        assert not any(call.body)
        if kind == "SecretBytes":
            assert secret.view == KEY
    found = result_of(call, answer(wrapped=encoded(WRAPPED), generation=GENERATION), "a")
    assert (found.wrapped, found.generation) == (WRAPPED, GENERATION)


def test_rewrap() -> None:
    call = calls.rewrap("db", b"w", b"")
    assert call.path == "/v1/rewrap"
    assert result_of(call, answer(wrapped=encoded(WRAPPED), generation=GENERATION), "a").wrapped == WRAPPED


ANOTHER = "0b" * 16
LIES: dict[str, tuple[Callable[[], Call[object]], dict[str, str]]] = {
    "a key of another generation than was asked for": (
        lambda: calls.derive("db", 32, ANOTHER), {"key": encoded(KEY)},
    ),
    "wrapped under another than it says": (
        lambda: calls.wrap("db", b"x", b""), {"wrapped": encoded(WRAPPED.replace(b"\x0a", b"\x0b"))},
    ),
    "wrapped, and too short to say": (lambda: calls.rewrap("db", b"w", b""), {"wrapped": encoded(b"w")}),
    "a secret of another than it was wrapped under": (
        lambda: calls.unwrap("db", WRAPPED.replace(b"\x0a", b"\x0b"), b""), {"plaintext": encoded(b"x")},
    ),
}  # fmt: skip  # one row, one case


@pytest.mark.parametrize("case", LIES)
def test_a_server_that_lies_about_the_generation_gives_no_answer(case: str) -> None:
    call, said = LIES[case]
    with pytest.raises(Unavailable, match="nothing that an rkeyserver answers"):
        result_of(call(), answer(200, "", **said, generation=GENERATION), "a")


@pytest.mark.parametrize("generation", ["first", "current", GENERATION])
def test_a_generation_that_was_asked_for(generation: str) -> None:
    said = answer(key=encoded(KEY), generation=GENERATION)
    with result_of(calls.derive("db", 32, generation), said, "a") as found:
        assert found.generation == GENERATION


def test_a_label_that_is_no_text_is_not_sent() -> None:
    with pytest.raises(Misuse, match="no Unicode"):
        calls.derive("\ud800", 32, "current")
    with pytest.raises(Misuse, match="no Unicode"):
        calls.wrap("\ud800", b"", b"")


def test_the_limits_are_the_servers() -> None:
    assert calls.MAX_PLAINTEXT == wrapping.MAX_PLAINTEXT
    assert calls.MAX_WRAPPED == wrapping.MAX_PLAINTEXT + wrapping.OVERHEAD
    assert calls.MAX_ASSOCIATED_DATA == wrapping.MAX_ASSOCIATED_DATA
    assert calls.DEFAULT_SIZE == derived.DEFAULT_SIZE


LONG: dict[str, Callable[[], object]] = {
    "secret": lambda: calls.wrap("db", bytes(calls.MAX_PLAINTEXT + 1), b""),
    "associated data": lambda: calls.wrap("db", b"", bytes(calls.MAX_ASSOCIATED_DATA + 1)),
    "wrapped secret": lambda: calls.unwrap("db", bytes(calls.MAX_WRAPPED + 1), b""),
    "associated data of a wrapped one": lambda: calls.rewrap("db", b"", bytes(calls.MAX_ASSOCIATED_DATA + 1)),
}


@pytest.mark.parametrize("case", LONG)
def test_what_is_too_long_is_not_sent(case: str) -> None:
    with pytest.raises(Misuse, match=f"The {case.partition(' of ')[0]} has"):
        LONG[case]()


# what is answered; the kind of error, its reason, and what it says
ERRORS: dict[str, tuple[Answer, type[RkeyError], str | None, str]] = {
    "rejected": (
        answer(403, error="rejected", message="No.", advice="Ask.", reason="not-permitted"),
        Rejected, "not-permitted", "No. Ask.",
    ),
    "a reason of a later version": (
        answer(403, error="rejected", message="No.", reason="too-blue"), Rejected, "refused-by-peer", "No.",
    ),
    "no reason": (answer(401, error="rejected", message="No."), Rejected, "refused-by-peer", "No."),
    "misuse": (answer(400, error="misuse", message="Wrong.", advice=""), Misuse, None, "Wrong."),
    "corrupt": (answer(500, error="corrupt", message="Broken."), Corrupt, None, "Broken."),
    "unavailable": (answer(503, error="unavailable", message="Later."), Unavailable, None, "Later."),
    "an error of a later version": (answer(418, error="teapot", message="Short."), Unavailable, None, "Short."),
    "no JSON": (Answer(200, "", bytearray(b"<html>")), Unavailable, None, "unix:/a answers 200, and nothing that"),
    "no text": (Answer(200, "", bytearray(b"\xff")), Unavailable, None, "answers 200"),
    "nothing": (Answer(204, "", bytearray()), Unavailable, None, "answers 204"),
    "deep": (Answer(200, "", bytearray(b"[" * 100_000)), Unavailable, None, "answers 200"),
    "another object": (answer(answer="x"), Unavailable, None, "answers 200"),
    "a redirect": (answer(302), Unavailable, None, "answers 302"),
    "no base64": (answer(key="!", generation=GENERATION), Unavailable, None, "answers 200"),
    "a key of another size": (answer(key=encoded(KEY[:16]), generation=GENERATION), Unavailable, None, "answers 200"),
    "no generation": (answer(key=encoded(KEY)), Unavailable, None, "answers 200"),
    "a generation that is none": (answer(key=encoded(KEY), generation="current"), Unavailable, None, "answers 200"),
    "an error with 200": (answer(error="rejected", message="No."), Unavailable, None, "answers 200"),
    "an error that a terminal would obey": (
        answer(503, error="unavailable", message="\x1b[31m"), Unavailable, None, "\\x1b",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_every_answer_is_a_result_or_one_of_four_errors(case: str) -> None:
    said, kind, reason, says = ERRORS[case]
    call: Call[calls.Secret] = calls.derive("db", 32, "current")
    with pytest.raises(kind) as raised:
        result_of(call, Answer(said.status, said.retry_after, bytearray(said.body)), "unix:/a")
    assert says in str(raised.value)
    assert (raised.value.reason if isinstance(raised.value, Rejected) else None) == reason


RETRY_AFTER = {"": 0.0, "0": 0.0, "3": 3.0, "9999": 60.0, "99999": 0.0, "-1": 0.0, "1.5": 0.0, "soon": 0.0, "²": 0.0}


@pytest.mark.parametrize("said", RETRY_AFTER)
def test_how_long_a_server_asks_to_wait(said: str) -> None:
    with pytest.raises(Unavailable) as raised:
        result_of(calls.derive("x", 32, "first"), answer(503, said, error="unavailable", message="L."), "a")
    assert raised.value.retry_after == RETRY_AFTER[said]


def test_reasons_are_the_servers() -> None:
    for one in Reason:
        with pytest.raises(Rejected) as raised:
            result_of(calls.derive("x", 32, "first"), answer(403, error="rejected", message="N.", reason=one), "a")
        assert raised.value.reason is one
