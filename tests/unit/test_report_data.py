from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from rkeyserver.attestation.report_data import report_data, transcript_hash
from rkeyserver.framing import framed

lists = st.lists(st.binary(max_size=20), max_size=4)


@given(lists, lists)
def test_no_two_lists_frame_alike(one: list[bytes], other: list[bytes]) -> None:
    assert (framed(*one) == framed(*other)) == (one == other)


def test_every_part_counts() -> None:
    base = report_data("context", transcript_hash(b"hello"), b"claims")
    assert len(base) == 64
    others = [
        report_data("contexts", transcript_hash(b"hello"), b"claims"),
        report_data("context", transcript_hash(b"hello", b""), b"claims"),
        report_data("context", transcript_hash(b"hello"), b"claim"),
    ]
    assert base not in others


def test_the_bytes_of_the_specification() -> None:
    claims = hashlib.sha512(b"claims").digest()
    transcript = hashlib.sha512((5).to_bytes(8, "big") + b"hello").digest()
    by_hand = b"".join(
        len(part).to_bytes(8, "big") + part for part in (b"rkeyserver/v1", b"context", transcript, claims)
    )
    assert report_data("context", transcript_hash(b"hello"), b"claims") == hashlib.sha512(by_hand).digest()
