"""docs/spec/README.md: notation. All modules here are written from the pages alone and import nothing of rkeyserver.

They leave copies of keys wherever they go: they are for comparing, not for use.
"""

from __future__ import annotations

import hmac
import json
import re
import struct
from typing import Any, Final

Json = dict[str, Any]


class Refused(Exception):
    """failure: a reason, or Corrupt or Misuse."""

    def __init__(self, failure: str) -> None:
        super().__init__(failure)
        self.failure = failure


def require(condition: object, failure: str) -> None:
    if not condition:
        raise Refused(failure)


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


def framed(*parts: bytes) -> bytes:
    return b"".join(struct.pack(">Q", len(part)) + part for part in parts)


def canonical_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def read_canonical_json(data: bytes) -> Any:
    try:
        value = json.loads(data)
        same = canonical_json(value) == data
    except (ValueError, RecursionError):
        raise Refused("Corrupt") from None
    require(same, "Corrupt")
    return value


HEX16: Final = "[0-9a-f]{32}"
HEX32: Final = "[0-9a-f]{64}"
LABEL: Final = "(?=.{1,256}$)[!-~]([ -~]*[!-~])?"
ADDRESS: Final = r"[0-9A-Za-z.:\[\]_%-]{0,300}"
NAME: Final = "[0-9a-z:._-]{1,128}"


def is_text(value: object, pattern: str) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def is_int(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def is_object(value: object, fields: list[str]) -> bool:
    return isinstance(value, dict) and list(value) == fields


def expand(key: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, section 2.3, with SHA-256."""
    out, block = b"", b""
    for number in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([number]), "sha256")
        out += block
    return out[:length]
