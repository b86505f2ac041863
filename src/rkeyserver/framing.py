"""One unambiguous way to put several byte strings into one."""

from __future__ import annotations


def framed(*parts: bytes) -> bytes:
    """`parts` one after the other, each behind its length as a 64-bit big-endian number: no two lists collide."""
    return b"".join([len(part).to_bytes(8, "big") + part for part in parts])
