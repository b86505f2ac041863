"""Messages as text: every message comes back from its text, and nothing else does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rkeyserver.errors import Reason, Rejected
from rkeyserver.exchange.armour import Kind, armour, armoured_size, dearmour, is_armoured

kinds = st.sampled_from(Kind)


@given(st.binary(min_size=1, max_size=300), kinds, st.sampled_from(["\n", "\r\n"]), st.text(" \r\n\t", max_size=9))
def test_what_was_put_in_comes_out(data: bytes, kind: Kind, end: str, space: str) -> None:
    text = armour(data, kind)
    assert text.isascii()
    assert all(len(line) <= 64 for line in text.splitlines())
    assert len(text) <= armoured_size(len(data))
    sent = (space + text.replace("\n", end) + space).encode()
    assert is_armoured(sent)
    assert dearmour(sent, kind) == data


@given(st.binary(max_size=300), kinds)
def test_anything_else_is_refused(data: bytes, kind: Kind) -> None:
    for text in (data, b"-----BEGIN RKEYSERVER " + data, armour(b"x" * 99, kind).encode() + data.strip() + b"."):
        with pytest.raises(Rejected) as refused:
            dearmour(text, kind)
        assert refused.value.reason is Reason.MALFORMED


@given(st.integers(0, 400), st.integers(1, 255), kinds)
def test_a_changed_byte_gives_another_message_or_none(position: int, difference: int, kind: Kind) -> None:
    text = bytearray(armour(b"a message" * 20, kind).encode())
    text[position % len(text)] ^= difference
    with contextlib.suppress(Rejected):
        assert len(dearmour(bytes(text), kind)) <= len(b"a message" * 20)


TEXT = armour(bytes(range(100)), Kind.RECOVERY_REQUEST)
WRONG: dict[str, tuple[Callable[[str], str], str]] = {
    "nothing": (lambda _text: "", "first or last line"),
    "no first line": (lambda text: text.split("\n", 1)[1], "first or last line"),
    "no last line": (lambda text: text.rsplit("\n", 2)[0], "first or last line"),
    "nothing between": (lambda text: "\n".join(text.splitlines()[:1] + text.splitlines()[-1:]), "first or last line"),
    "two texts": (lambda text: text + text, "first or last line"),
    "something before": (lambda text: "please:\n" + text, "first or last line"),
    "an empty line": (lambda text: text.replace("\n", "\n\n", 1), "first or last line"),
    "a line quoted": (lambda text: text.replace("\nAA", "\n> AA", 1), "first or last line"),
    "a character of another alphabet": (lambda text: text.replace("A", "-", 8), "first or last line"),
    "another kind": (lambda text: text.replace("REQUEST", "CONTRIBUTION"), "wanted is a recovery request"),
    "two kinds": (lambda text: text.replace("REQUEST", "CONTRIBUTION", 1), "first or last line"),
    "a kind that is none": (lambda text: text.replace("REQUEST", "LETTER"), "wanted is a recovery request"),
    "padding taken off": (lambda text: text.replace("=", ""), "damaged"),
    "padding within": (lambda text: text.replace("AAEC", "A=EC"), "damaged"),
    "a character missing": (lambda text: text.replace("AAEC", "AEC"), "damaged"),
}


@pytest.mark.parametrize(("change", "says"), WRONG.values(), ids=WRONG)
def test_what_is_no_text_of_that_kind_is_named(change: Callable[[str], str], says: str) -> None:
    assert dearmour(TEXT.encode(), Kind.RECOVERY_REQUEST) == bytes(range(100))
    with pytest.raises(Rejected, match=says):
        dearmour(change(TEXT).encode(), Kind.RECOVERY_REQUEST)


@pytest.mark.parametrize("data", [b"", b"\x81", b"junk", b"\x82\xa4type"], ids=repr)
def test_a_message_is_no_text(data: bytes) -> None:
    assert not is_armoured(data)
