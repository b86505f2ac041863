from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rkeyserver.errors import LONGEST, Corrupt, Misuse, Reason, Rejected, RkeyError, Unavailable, one_line

HOSTILE: dict[str, tuple[str, str]] = {
    "a second line": ("field `a\nINFO: all is well`", "field `a\\nINFO: all is well`"),
    "a carriage return": ("a\rb", "a\\rb"),
    "an escape sequence": ("\x1b[31mred", "\\x1b[31mred"),
    "an 8-bit escape sequence": ("\x9b31m", "\\x9b31m"),
    "a NUL": ("\0", "\\x00"),
    "delete": ("\x7f", "\\x7f"),
    "a line separator": ("a\u2028b", "a\\u2028b"),
    "text that turns around": ("a\u202eb", "a\\u202eb"),
    "a lone surrogate": ("\ud800", "\\ud800"),
    "what can be printed": ("Änderung 変更 \\n 'x'", "Änderung 変更 \\n 'x'"),
}


@pytest.mark.parametrize(("text", "reads"), HOSTILE.values(), ids=HOSTILE)
def test_what_an_error_quotes_stays_one_printable_line(text: str, reads: str) -> None:
    for error in (Misuse(text, advice=text), Corrupt(text, advice=text), Unavailable(text, advice=text)):
        assert (error.message, error.advice, str(error)) == (reads, reads, f"{reads} {reads}")
    rejected = Rejected(Reason.MALFORMED, text, advice=text)
    assert (rejected.message, rejected.advice) == (reads, reads)


@pytest.mark.parametrize("unit", ["x", "\x1b", "é"])
def test_what_is_longer_than_anybody_reads_is_cut(unit: str) -> None:
    for length in (LONGEST - 1, LONGEST, LONGEST + 1, 1_000_000):
        error = Misuse(unit * length, advice=unit * length)
        assert len(error.message) <= LONGEST
        assert error.message == error.advice
        whole = one_line(unit * length)
        if len(whole) <= LONGEST:
            assert error.message == whole
        else:
            assert len(error.message) == LONGEST
            head, _, tail = error.message.partition("...")
            assert whole.startswith(head)
            assert whole.endswith(tail)


@given(st.text(), st.text())
def test_any_text_reads_as_one_line(message: str, advice: str) -> None:
    error = RkeyError(message, advice=advice)
    assert str(error).isprintable()
    assert repr(error).isprintable()
    assert str(error).encode().decode() == str(error)
    if message.isprintable() and advice.isprintable():
        assert str(error) == f"{message} {advice}".rstrip()
