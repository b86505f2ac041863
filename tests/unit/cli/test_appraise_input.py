from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rkeyserver.cli.appraise_input import decoded, hex64, moment
from rkeyserver.errors import Misuse

QUOTE = b"\x03\0\x02\0" + bytes(range(256))

FORMS: dict[str, tuple[bytes, bytes, str]] = {
    "raw": (QUOTE, QUOTE, "raw"),
    "hex": (QUOTE.hex().encode(), QUOTE, "hex"),
    "upper-case hex": (QUOTE.hex().upper().encode(), QUOTE, "hex"),
    "hex with 0x": (b"0x" + QUOTE.hex().encode() + b"\n", QUOTE, "hex"),
    "hex in lines": (QUOTE.hex("\n", 30).encode() + b"\r\n", QUOTE, "hex"),
    "hex in groups": (QUOTE.hex(" ", 2).encode(), QUOTE, "hex"),
    "base64": (base64.b64encode(QUOTE), QUOTE, "base64"),
    "base64 in lines": (base64.encodebytes(QUOTE), QUOTE, "base64"),
    "base64 without padding": (base64.b64encode(QUOTE).rstrip(b"="), QUOTE, "base64"),
    "base64 of URLs": (base64.urlsafe_b64encode(QUOTE), QUOTE, "base64"),
    "nothing": (b"", b"", "raw"),
    "blanks": (b" \n", b" \n", "raw"),
    "a sentence": (b"This is no quote.", b"This is no quote.", "raw"),
    "PEM": (b"-----BEGIN CERTIFICATE-----\nAAAA\n", b"-----BEGIN CERTIFICATE-----\nAAAA\n", "raw"),
    "one base64 digit too many": (b"AwACA", b"AwACA", "raw"),
    "text in another alphabet": ("Änderung".encode(), "Änderung".encode(), "raw"),
}


@pytest.mark.parametrize(("data", "evidence", "form"), FORMS.values(), ids=FORMS)
def test_the_form_is_recognised(data: bytes, evidence: bytes, form: str) -> None:
    assert decoded(data) == (evidence, form)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_as_something(data: bytes) -> None:
    evidence, form = decoded(data)
    assert evidence == data if form == "raw" else len(evidence) < len(data)


@given(st.binary(min_size=4, max_size=200), st.sampled_from(["hex", "base64"]), st.integers(1, 90))
def test_what_was_written_is_read_back(data: bytes, form: str, width: int) -> None:
    quote = b"\x03\0\x02\0" + data
    text = quote.hex() if form == "hex" else base64.b64encode(quote).decode()
    lines = "\n".join(text[start : start + width] for start in range(0, len(text), width))
    assert decoded(lines.encode()) == (quote, form)


TIMES: dict[str, int] = {
    "1780000000": 1_780_000_000,
    "0": 0,
    "2026-05-28T20:26:40Z": 1_780_000_000,
    "2026-05-28T20:26:40": 1_780_000_000,
    "2026-05-28T22:26:40+02:00": 1_780_000_000,
    "2026-05-28": 1_779_926_400,
    "20260528T202640Z": 1_780_000_000,
    "2026-05-28 20:26:40.9Z": 1_780_000_000,
    "1969-12-31T23:59:59Z": -1,
}


@pytest.mark.parametrize(("text", "seconds"), TIMES.items(), ids=TIMES)
def test_a_time(text: str, seconds: int) -> None:
    assert moment(text) == seconds


@pytest.mark.parametrize("text", ["", "now", "yesterday", "-1", "1e9", "1" * 16, "28.5.2026", "2026-13-01", "١٢٣"])
def test_no_time(text: str) -> None:
    with pytest.raises(Misuse, match="is no time; wanted are seconds since 1970"):
        moment(text)


def test_report_data() -> None:
    assert hex64("aB" * 64) == b"\xab" * 64


@pytest.mark.parametrize("text", ["", "00", "00" * 63, "00" * 65, "0x" + "00" * 63, "zz" * 64, "00" * 64 + "\n"])
def test_no_report_data(text: str) -> None:
    with pytest.raises(Misuse, match="64 bytes as 128 hex digits"):
        hex64(text)
