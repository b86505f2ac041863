"""Tokens: 256 random bits by which a caller without a uid is known (docs/operations/tokens-and-relay.md).

The policy has the SHA-256 of a token's text. A fast hash is enough: there is nothing to guess in 256 random bits.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final

from rkeyserver.errors import Misuse

SIZE: Final = 32  # bytes at random
PREFIX: Final = "rkt_"
LENGTH: Final = len(PREFIX) + 43
FORM: Final = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")


def token_of(random: bytes) -> str:
    """The text of a token. random: SIZE bytes.

    Raises: ValueError for another number of them.
    """
    if len(random) != SIZE:
        raise ValueError(f"{len(random)} bytes do not make a token")
    return PREFIX + base64.urlsafe_b64encode(random).decode().rstrip("=")


def check_token(text: str) -> str:
    """A token's text.

    Raises: Misuse for what has not the form of one; it is not quoted, for it may be another secret.
    """
    if FORM.fullmatch(text) is None:
        raise Misuse(
            f"This is no token: {len(text)} characters; wanted is {PREFIX} and 43 more of A-Z, a-z, 0-9, _ and -.",
            advice="`rkeyserver token new` makes one.",
        )
    return text


def digest(token: str) -> str:
    """What a policy has of a token: the SHA-256 of its text, hex."""
    return hashlib.sha256(token.encode()).hexdigest()
