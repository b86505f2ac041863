"""Changing genuine bytes as an attacker or a bad disk would: small steps, each named, one after the other."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from hypothesis import strategies as st

MOST: Final = 400_000  # bytes that a mutation may grow to: above every cap that a parser has
_NUMBER: Final = re.compile(rb"[0-9]+")
HUGE: Final = (b"9" * 5000, b"1e99999", b"-1", b"18446744073709551616", b"0" * 400, b"1_0", b"NaN", b"0x7fffffff")
CHUNKS: Final = (
    b"\0", b"\xff" * 8, b"\n", b"\r\n", b"\x1b[31m", b'"', b"'", b"\\", b"\\ud800", b"{", b"}", b"[", b"]", b",", b"=",
    b"#", b"null", b"true", b"-", b" ", b"\xc3\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x80\xae", b"\x80",
    b"\xc1", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"'''", b'"""', b"-----BEGIN ",
)  # fmt: skip
NESTS: Final = (b"[", b'{"a":', b"\x91", b"\x81\xa1a", b"[[", b"a={b=", b"(", b"\x30\x80", b"x.")


@dataclass(frozen=True)
class Step:
    """One change. at, to: places, in thousandths of the length; pick: which chunk, bit or other input."""

    kind: str
    at: int
    to: int
    pick: int


Change = Callable[[bytes, int, int, int, Sequence[bytes]], bytes]


def _flip(data: bytes, at: int, _to: int, pick: int, _others: Sequence[bytes]) -> bytes:
    return data[:at] + bytes([data[at] ^ (1 << pick % 8)]) + data[at + 1 :] if at < len(data) else data


def _number(data: bytes, at: int, _to: int, pick: int, _others: Sequence[bytes]) -> bytes:
    if found := _NUMBER.search(data, at):
        return data[: found.start()] + HUGE[pick % len(HUGE)] + data[found.end() :]
    return data


def _splice(data: bytes, at: int, to: int, pick: int, others: Sequence[bytes]) -> bytes:
    return data[:at] + others[pick % len(others)][to:]


def _nest(data: bytes, at: int, _to: int, pick: int, _others: Sequence[bytes]) -> bytes:
    return data[:at] + NESTS[pick % len(NESTS)] * (100, 1_000, 20_000)[pick % 3] + data[at:]


CHANGES: Final[dict[str, Change]] = {
    "flip": _flip,
    "set": lambda data, at, _to, pick, _others: data[:at] + bytes([pick % 256]) + data[at + 1 :],
    "cut": lambda data, at, _to, _pick, _others: data[:at],
    "drop": lambda data, at, to, _pick, _others: data[:at] + data[max(at, to) :],
    "splice": _splice,
    "repeat": lambda data, at, to, pick, _others: data[:to] + data[at:to] * (pick % 64) + data[to:],
    "insert": lambda data, at, _to, pick, _others: data[:at] + CHUNKS[pick % len(CHUNKS)] + data[at:],
    "put": lambda data, at, to, pick, _others: data[:at] + CHUNKS[pick % len(CHUNKS)] + data[max(at, to) :],
    "number": _number,
    "nest": _nest,
    "zeros": lambda data, at, to, _pick, _others: data[:at] + bytes(max(0, to - at)) + data[max(at, to) :],
    "ones": lambda data, at, _to, pick, _others: data[:at] + b"\xff" * (pick % 9) + data[at + pick % 9 :],
    "swap": lambda data, at, to, _pick, _others: data[to:] + data[at:to] + data[:at],
    "grow": lambda data, _at, _to, pick, _others: data * (pick % 400),
}


def apply(data: bytes, steps: Sequence[Step], others: Sequence[bytes]) -> bytes:
    """`data` after all steps. others: genuine inputs to splice with."""
    for step in steps:
        at, to = (place * len(data) // 1000 for place in (step.at, step.to))
        data = CHANGES[step.kind](data, at, to, step.pick, others)[:MOST]
    return data


def steps() -> st.SearchStrategy[list[Step]]:
    """Up to five changes, for hypothesis."""
    place = st.integers(0, 1000)
    one = st.builds(Step, kind=st.sampled_from(list(CHANGES)), at=place, to=place, pick=st.integers(0, 999))
    return st.lists(one, max_size=5)


def random_steps(dice: random.Random) -> list[Step]:
    """The same by dice, for the long run: hypothesis spends most of its time on its own."""
    return [
        Step(dice.choice(list(CHANGES)), dice.randint(0, 1000), dice.randint(0, 1000), dice.randint(0, 999))
        for _ in range(dice.choice((0, 1, 1, 1, 2, 2, 3, 5)))
    ]
