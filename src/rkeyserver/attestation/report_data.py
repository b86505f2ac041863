"""The 64 bytes that bind evidence to the message it vouches for (docs/spec/exchange.md, "Report data")."""

from __future__ import annotations

import hashlib
from typing import Final

from rkeyserver.framing import framed

LABEL: Final = b"rkeyserver/v1"


def transcript_hash(*messages: bytes) -> bytes:
    """SHA-512 over the messages exchanged so far, exactly as they were sent."""
    return hashlib.sha512(framed(*messages)).digest()


def report_data(context: str, transcript: bytes, claims: bytes) -> bytes:
    """What evidence for `claims` must carry.

    context: names message type and direction; transcript: transcript_hash() of what came before;
    claims: the message's claims bytes as sent. Returns 64 bytes.
    """
    return hashlib.sha512(framed(LABEL, context.encode(), transcript, hashlib.sha512(claims).digest())).digest()
