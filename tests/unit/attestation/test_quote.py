from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rkeyserver.attestation.evidence import MAX_EVIDENCE
from rkeyserver.attestation.sgx.quote import UnprovedQuote, require_report_data, view
from rkeyserver.errors import Reason, Rejected

REPORT_DATA = bytes(range(64))


def made(
    *,
    header: tuple[int, int, int] = (3, 2, 0),
    attributes: int = 0x05,
    authentication: bytes = bytes(32),
    kind: int = 5,
    chain: bytes = b"PEM",
) -> bytes:
    """A quote in shape alone; its signatures are zeros."""
    report = bytes(48) + bytes([attributes]) + bytes(271) + REPORT_DATA
    signed = struct.pack("<HHI", *header).ljust(48, b"\0") + report
    rest = bytes(64 + 64 + 384 + 64)
    rest += struct.pack("<H", len(authentication)) + authentication + struct.pack("<HI", kind, len(chain)) + chain
    return signed + struct.pack("<I", len(rest)) + rest


QUOTE = made()


def put(offset: int, new: bytes) -> bytes:
    return QUOTE[:offset] + new + QUOTE[offset + len(new) :]


@pytest.mark.parametrize(("attributes", "debug"), [(0x05, False), (0x07, True), (0x02, True), (0xFD, False)])
def test_what_is_read_of_a_quote(attributes: int, debug: bool) -> None:  # noqa: FBT001 - a column of the table
    assert view(made(attributes=attributes)) == UnprovedQuote(report_data=REPORT_DATA, debug=debug)


SHAPES: dict[str, bytes] = {
    "no authentication data": made(authentication=b""),
    "much authentication data": made(authentication=bytes(1_000)),
    "no chain": made(chain=b""),
    "as long as is read": made(chain=bytes(MAX_EVIDENCE - len(made(chain=b"")))),
}


@pytest.mark.parametrize("quote", SHAPES.values(), ids=SHAPES)
def test_shapes_that_are_quotes(quote: bytes) -> None:
    assert view(quote).report_data == REPORT_DATA


MALFORMED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "has 0 bytes, at least 1014"),
    "one byte": (b"\3", "has 1 bytes, at least 1014"),
    "one byte too few to be read": (QUOTE[:1013], "has 1013 bytes, at least 1014"),
    "version 2": (made(header=(2, 2, 0)), "version is 2, wanted 3"),
    "version 4": (made(header=(4, 2, 0)), "version is 4, wanted 3"),
    "version 5": (made(header=(5, 2, 0)), "version is 5, wanted 3"),
    "version in the other byte order": (made(header=(0x0300, 2, 0)), "version is 768, wanted 3"),
    "attestation key on P-384": (made(header=(3, 3, 0)), "attestation key type is 3, wanted 2"),
    "TDX": (made(header=(3, 2, 0x81)), "TEE type is 129, wanted 0"),
    "length too small": (put(432, struct.pack("<I", len(QUOTE) - 437)), "length is"),
    "length too large": (put(432, struct.pack("<I", len(QUOTE) - 435)), "length is"),
    "length of zero": (put(432, bytes(4)), "length is"),
    "greatest length": (put(432, b"\xff" * 4), "wanted 4294967731"),
    "a byte more": (QUOTE + b"\0", "length is"),
    "a byte fewer": (QUOTE[:-1], "length is"),
    "authentication data beyond the end": (put(1012, struct.pack("<H", 0xFFFF)), "in its authentication data"),
    "nothing after authentication data": (put(1012, struct.pack("<H", 36)), "in its authentication data"),
    "certification data: a PPID": (made(kind=1), "certification data type is 1, wanted 5"),
    "certification data: the QE's": (made(kind=6), "certification data type is 6, wanted 5"),
    "certification data shorter than it says": (put(1048, struct.pack("<I", 4)), "by its certification data"),
    "certification data longer than it says": (put(1048, struct.pack("<I", 2)), "by its certification data"),
    "certification data of the greatest length": (put(1048, b"\xff" * 4), "by its certification data"),
}


@pytest.mark.parametrize(("quote", "says"), MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_quote_is_named(quote: bytes, says: str) -> None:
    with pytest.raises(Rejected, match=says) as refused:
        view(quote)
    assert refused.value.reason is Reason.MALFORMED


@pytest.mark.parametrize("size", [MAX_EVIDENCE + 1, 10 * MAX_EVIDENCE])
def test_a_quote_that_is_too_large(size: int) -> None:
    with pytest.raises(Rejected, match=f"has {size} bytes, at most {MAX_EVIDENCE}") as refused:
        view(made(chain=bytes(size - len(made(chain=b"")))))
    assert refused.value.reason is Reason.TOO_LARGE


@given(st.binary(max_size=2_000) | st.binary(max_size=1_200).map(lambda tail: QUOTE[:1012] + tail))
def test_any_bytes_are_a_quote_or_malformed(evidence: bytes) -> None:
    try:
        found = view(evidence)
    except Rejected as error:
        assert error.reason is Reason.MALFORMED  # noqa: PT017 - either of two outcomes is right
    else:
        assert len(found.report_data) == 64


@given(st.integers(0, len(QUOTE) - 1))
def test_cut_anywhere(length: int) -> None:
    with pytest.raises(Rejected):
        view(QUOTE[:length])


def test_bound_to_what_is_expected() -> None:
    assert require_report_data(QUOTE, REPORT_DATA) == view(QUOTE)


OTHERS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _right: b"",
    "zeros": lambda _right: bytes(64),
    "its beginning": lambda right: right[:63],
    "longer": lambda right: right + b"\0",
    "reversed": lambda right: right[::-1],
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_bound_to_something_else(change: Callable[[bytes], bytes]) -> None:
    wanted = change(REPORT_DATA)
    with pytest.raises(Rejected) as refused:
        require_report_data(QUOTE, wanted)
    assert refused.value.reason is Reason.NOT_BOUND
    assert REPORT_DATA.hex() in str(refused.value)
    assert f"want {wanted.hex()}." in str(refused.value)


@given(st.integers(0, 511))
def test_one_bit_of_the_report_data_is_enough(bit: int) -> None:
    wanted = bytearray(REPORT_DATA)
    wanted[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Rejected) as refused:
        require_report_data(QUOTE, bytes(wanted))
    assert refused.value.reason is Reason.NOT_BOUND


def test_shape_comes_before_binding() -> None:
    with pytest.raises(Rejected) as refused:
        require_report_data(QUOTE[:-1], bytes(64))
    assert refused.value.reason is Reason.MALFORMED
