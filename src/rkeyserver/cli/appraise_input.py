"""What `appraise` is given, decoded: a quote in one of three forms, a time in one of two."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime
from typing import Final

from rkeyserver.attestation.sgx.bundle import read_bundle
from rkeyserver.attestation.sgx.model import model_of
from rkeyserver.errors import Misuse, Rejected

_TEXT: Final = re.compile(rb"[\x09\x0a\x0d\x20-\x7e]*\Z")
_HEX: Final = re.compile(rb"(?:0[xX])?([0-9a-fA-F]+)\Z")
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/]+={0,2}\Z")


def decoded(data: bytes) -> tuple[bytes, str]:
    """The evidence in `data`, and how it was written: "raw", "hex" or "base64".

    Text of hex digits alone is hex: no quote's base64 is that. What is neither, or not quite, is raw, and will say so.
    """
    if not data or not _TEXT.match(data) or data.lstrip().startswith(b"-----"):
        return data, "raw"
    text = b"".join(data.split())
    if (found := _HEX.match(text)) and len(found[1]) % 2 == 0:
        return bytes.fromhex(found[1].decode()), "hex"
    text = text.translate(bytes.maketrans(b"-_", b"+/"))
    if _BASE64.match(text):
        try:
            return base64.b64decode(text.rstrip(b"=") + b"=" * (-len(text.rstrip(b"=")) % 4), validate=True), "base64"
        except binascii.Error:
            return data, "raw"
    return data, "raw"


def collateral_for(evidence: bytes, data: bytes) -> bytes:
    """What is in `data` for a quote: `data` itself, or if that is a bundle, what it has for the quote's model.

    Raises: Misuse if the bundle has none for it; Rejected if it cannot be read.
    """
    if b'"entries"' not in data:
        return data
    entries = read_bundle(data)
    try:
        model = model_of(evidence)
    except Rejected:
        return b""  # what cannot be read of the quote is for its own checks to say
    for entry in entries:
        if entry.model == model:
            return entry.encoded
    named = "; ".join(str(entry.model) for entry in entries) or "nothing"
    raise Misuse(
        f"The bundle has no collateral for this quote's {model}; it has {named}.",
        advice="`rkeyserver collateral fetch --quote FILE` gets it from a PCCS.",
    )


def hex64(text: str) -> bytes:
    """64 bytes from hex.

    Raises: Misuse.
    """
    if not re.match(r"[0-9a-fA-F]{128}\Z", text):
        raise Misuse(f"--report-data has {len(text)} characters; wanted are 64 bytes as 128 hex digits.")
    return bytes.fromhex(text)


def moment(text: str) -> int:
    """Seconds since 1970 from a number or a date of ISO 8601, which without an offset is in UTC.

    Raises: Misuse.
    """
    if re.match(r"[0-9]{1,15}\Z", text):
        return int(text)
    try:
        found = datetime.fromisoformat(text)
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError) as error:
        raise Misuse(
            f"--at {text!r} is no time; wanted are seconds since 1970, or a date such as 2026-05-28T20:26:40Z."
        ) from error
