"""Messages as text that people can print, mail and paste (docs/spec/recovery.md, "Armour")."""

from __future__ import annotations

import base64
import binascii
import re
from enum import StrEnum
from typing import Final

from rkeyserver.errors import Reason, Rejected

WHOLE: Final = "Copy it from its line -----BEGIN to its line -----END, and nothing around it."
_COLUMNS: Final = 64
_FORM: Final = re.compile(
    rb"-----BEGIN RKEYSERVER ([A-Z ]+)-----\r?\n((?:[A-Za-z0-9+/=]{1,64}\r?\n)+)-----END RKEYSERVER \1-----\s*"
)


class Kind(StrEnum):
    """What stands in the first and last line."""

    RECOVERY_REQUEST = "RECOVERY REQUEST"
    RECOVERY_CONTRIBUTION = "RECOVERY CONTRIBUTION"
    MINT_STATEMENT = "MINT STATEMENT"


def armoured_size(size: int) -> int:
    """How long the text of `size` bytes is at most."""
    return 2 * size + 256


def armour(data: bytes, kind: Kind) -> str:
    """`data` as lines of base64 between a first and a last line."""
    text = base64.b64encode(data).decode()
    lines = [text[start : start + _COLUMNS] for start in range(0, len(text), _COLUMNS)]
    return "\n".join([f"-----BEGIN RKEYSERVER {kind}-----", *lines, f"-----END RKEYSERVER {kind}-----", ""])


def is_armoured(data: bytes) -> bool:
    """Whether it begins as such a text; no message does."""
    return data.lstrip().startswith(b"-----")


def dearmour(text: bytes, kind: Kind) -> bytes:
    """The bytes in a text; what stands around it is an error, for nobody would know that it does not count.

    Raises: Rejected(MALFORMED).
    """
    match = _FORM.fullmatch(text.lstrip())
    if match is None:
        raise Rejected(
            Reason.MALFORMED,
            f"This is no {kind.lower()}: its first or last line is missing, or changed.",
            advice=WHOLE,
        )
    if match[1].decode() != kind:
        raise Rejected(Reason.MALFORMED, f"This is a {match[1].decode().lower()}; wanted is a {kind.lower()}.")
    try:
        return base64.b64decode(re.sub(rb"\s", b"", match[2]), validate=True)
    except binascii.Error as error:
        raise Rejected(Reason.MALFORMED, f"This {kind.lower()} is damaged: {error}.") from error
