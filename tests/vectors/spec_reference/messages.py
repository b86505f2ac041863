"""docs/spec/exchange.md: messages, transcript, report data."""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Final

import msgspec
from tests.vectors.spec_reference.notation import (
    ADDRESS,
    HEX16,
    HEX32,
    LABEL,
    NAME,
    Json,
    Refused,
    framed,
    is_int,
    is_text,
    require,
    unhex,
)

MESSAGES: Final[dict[str, list[tuple[str, str, int, int]]]] = {
    "hello": [
        ("version", "int", -(2**63), 2**64 - 1),
        ("instance", "bytes", 16, 16),
        ("platform", "name", 0, 0),
        ("machine", "name", 0, 0),
        ("identity", "bytes", 0, 16384),
    ],
    "challenge-body": [
        ("nonce", "bytes", 32, 32),
        ("time", "int", 0, 2**62),
        ("instance", "bytes", 16, 16),
        ("platform", "name", 0, 0),
        ("machine", "name", 0, 0),
        ("identity", "bytes", 0, 16384),
        ("credential", "bytes", 0, 16384),
    ],
    "challenge": [("body", "bytes", 0, 49152), ("mac", "bytes", 32, 32)],
    "attested": [
        ("claims", "bytes", 0, 49152),
        ("evidence", "bytes", 1, 16384),
        ("endorsements", "bytes", 0, 131072),
    ],
    "request-claims": [
        ("nonce", "bytes", 32, 32),
        ("kem_public_key", "bytes", 1216, 1216),
        ("credential_mac", "bytes", 0, 32),
        ("credential", "bytes", 0, 16384),
        ("member", "hex16", 0, 0),
        ("address", "address", 0, 0),
        ("epoch", "int", 0, 2**62),
        ("sequence", "int", 0, 2**62),
        ("digest", "bytes", 0, 32),
        ("audit_head", "bytes", 32, 32),
    ],
    "members": [("member", "hex16", 0, 0), ("members", "known-member list", 0, 1024)],
    "request": [("hello", "bytes", 0, 32768), ("challenge", "bytes", 0, 65536), ("attested", "attested", 0, 0)],
    "grant-claims": [
        ("ciphertext_sha512", "bytes", 64, 64),
        ("members_sha512", "bytes", 64, 64),
        ("nonce", "bytes", 32, 32),
        ("credential_answer", "bytes", 0, 32),
        ("audit_head", "bytes", 32, 32),
    ],
    "grant": [("attested", "attested", 0, 0), ("ciphertext", "bytes", 1, 264192), ("members", "bytes", 1, 524288)],
    "recovery-request-claims": [
        ("version", "int", -(2**63), 2**64 - 1),
        ("platform", "name", 0, 0),
        ("machine", "name", 0, 0),
        ("domain", "hex16", 0, 0),
        ("epoch", "int", 0, 2**62),
        ("sequence", "int", 0, 2**62),
        ("record_sha512", "bytes", 64, 64),
        ("slot", "bytes", 0, 49152),
        ("kem_public_key", "bytes", 1216, 1216),
        ("nonce", "bytes", 32, 32),
        ("time", "int", 0, 2**62),
    ],
    "recovery-request": [("attested", "attested", 0, 0)],
    "recovery-contribution": [("request_sha512", "bytes", 64, 64), ("ciphertext", "bytes", 1, 3072)],
    "wanted-key": [("label", "label", 0, 0), ("size", "int", 16, 64), ("generation", "generation", 0, 0)],
    "release-request-claims": [
        ("domain", "hex16", 0, 0),
        ("keys", "wanted-key list", 1, 16),
        ("nonce", "bytes", 32, 32),
        ("kem_public_key", "bytes", 1216, 1216),
    ],
    "release-request": [("hello", "bytes", 0, 32768), ("challenge", "bytes", 0, 65536), ("attested", "attested", 0, 0)],
    "release-claims": [
        ("domain", "hex16", 0, 0),
        ("generations", "hex16 list", 1, 16),
        ("ciphertext_sha512", "bytes", 64, 64),
        ("nonce", "bytes", 32, 32),
    ],
    "release": [("attested", "attested", 0, 0), ("ciphertext", "bytes", 1, 3072)],
    "mint-statement-claims": [
        ("version", "int", -(2**63), 2**64 - 1),
        ("platform", "name", 0, 0),
        ("machine", "name", 0, 0),
        ("domain", "hex16", 0, 0),
        ("generation", "hex16", 0, 0),
        ("policy_sha256", "bytes", 32, 32),
        ("time", "int", 0, 2**62),
    ],
    "mint-statement": [("attested", "attested", 0, 0)],
    "known-member": [
        ("member", "hex16", 0, 0),
        ("machine", "name", 0, 0),
        ("address", "address", 0, 0),
        ("epoch", "int", 0, 2**62),
        ("sequence", "int", 0, 2**62),
        ("digest", "hex32", 0, 0),
        ("seen", "int", 0, 2**62),
    ],
}
UNTAGGED: Final = {"known-member"}
MOST: Final = {
    "hello": 32768,
    "challenge-body": 49152,
    "challenge": 65536,
    "request-claims": 49152,
    "request": 294912,
    "grant-claims": 1024,
    "members": 524288,
    "grant": 985088,
    "recovery-request-claims": 49152,
    "recovery-request": 212992,
    "recovery-contribution": 6144,
    "release-request-claims": 16384,
    "release-request": 278528,
    "release-claims": 2048,
    "release": 163840,
    "mint-statement-claims": 32768,
    "mint-statement": 196608,
}


def _sized(size: int, forms: list[tuple[int, int, str]]) -> bytes:
    """The shortest header for a size: (largest size, first byte, struct of the size behind it)."""
    for most, first, form in forms:
        if size <= most:
            return bytes([first + (size if not form else 0)]) + (struct.pack(form, size) if form else b"")
    raise ValueError(size)


def pack(value: object) -> bytes:  # noqa: PLR0911 - one for each kind of value
    """Canonical MessagePack, of what messages are made of."""
    if isinstance(value, dict):
        head = _sized(len(value), [(15, 0x80, ""), (0xFFFF, 0xDE, ">H")])
        return head + b"".join(pack(key) + pack(item) for key, item in value.items())
    if isinstance(value, str):
        text = value.encode()
        return _sized(len(text), [(31, 0xA0, ""), (0xFF, 0xD9, ">B"), (0xFFFF, 0xDA, ">H")]) + text
    if isinstance(value, list):
        head = _sized(len(value), [(15, 0x90, ""), (0xFFFF, 0xDC, ">H")])
        return head + b"".join(map(pack, value))
    if isinstance(value, bytes):
        return _sized(len(value), [(0xFF, 0xC4, ">B"), (0xFFFF, 0xC5, ">H"), (0xFFFFFFFF, 0xC6, ">I")]) + value
    if type(value) is int and value >= 0:
        forms = [(0x7F, 0, ""), (0xFF, 0xCC, ">B"), (0xFFFF, 0xCD, ">H"), (2**32 - 1, 0xCE, ">I")]
        return _sized(value, [*forms, (2**64 - 1, 0xCF, ">Q")])
    if type(value) is int:
        for least, first, form in (
            (-32, None, ">b"),
            (-128, 0xD0, ">b"),
            (-(2**15), 0xD1, ">h"),
            (-(2**31), 0xD2, ">i"),
        ):
            if value >= least:
                return (b"" if first is None else bytes([first])) + struct.pack(form, value)
        return b"\xd3" + struct.pack(">q", value)
    raise TypeError(value)


def encode(kind: str, fields: Json) -> bytes:
    tag = {} if kind in UNTAGGED else {"type": kind}
    return pack(tag | {name: fields[name] for name, *_ in MESSAGES[kind]})


def check_fields(kind: str, found: object) -> None:
    assert_fields = MESSAGES[kind]
    require(isinstance(found, dict), "malformed")
    assert isinstance(found, dict)
    tag = [] if kind in UNTAGGED else ["type"]
    require(list(found) == [*tag, *(name for name, *_ in assert_fields)], "malformed")
    require(found.get("type", kind) == kind, "malformed")
    for name, form, least, most in assert_fields:
        check_value(form, found[name], least, most)


TEXTS: Final = {
    "name": NAME,
    "hex16": HEX16,
    "label": LABEL,
    "generation": f"first|current|{HEX16}",
    "hex32": HEX32,
    "address": ADDRESS,
}


def check_value(form: str, value: object, least: int, most: int) -> None:
    if form.endswith(" list"):
        require(isinstance(value, list) and least <= len(value) <= most, "malformed")
        assert isinstance(value, list)
        for one in value:
            check_value(form.removesuffix(" list"), one, 0, 0)
    elif form in MESSAGES:
        check_fields(form, value)
    elif form == "bytes":
        require(isinstance(value, bytes) and least <= len(value) <= most, "malformed")
    elif form in TEXTS:
        require(is_text(value, TEXTS[form]), "malformed")
    else:
        require(is_int(value, least, most), "malformed")


def decode(kind: str, data: bytes) -> Json:
    require(len(data) <= MOST[kind], "too-large")
    try:
        found = msgspec.msgpack.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refused("malformed") from None
    check_fields(kind, found)
    require(pack(found) == data, "malformed")
    assert isinstance(found, dict)
    return found


CHALLENGE: Final = b"rkeyserver/v1 challenge"


def mac(key: bytes, hello: bytes, body: bytes, label: bytes = CHALLENGE) -> bytes:
    return hmac.digest(key, framed(label, hello, body), "sha256")


def transcript(*messages: bytes) -> bytes:
    return hashlib.sha512(framed(*messages)).digest()


def report_data(context: str, transcript_hash: bytes, claims: bytes) -> bytes:
    parts = framed(b"rkeyserver/v1", context.encode(), transcript_hash, hashlib.sha512(claims).digest())
    return hashlib.sha512(parts).digest()


REQUEST_CONTEXT: Final = "hand-over request, standby to primary"
GRANT_CONTEXT: Final = "hand-over grant, primary to standby"


def make_challenge(case: Json, hello_bytes: bytes, label: bytes = CHALLENGE) -> bytes:
    hello = decode("hello", hello_bytes)
    require(hello["version"] == 1, "wrong-version")
    require(hello["instance"] != unhex(case["primary_instance"]), "talking-to-itself")
    body = encode(
        "challenge-body",
        {
            "nonce": unhex(case["challenge_nonce"]),
            "time": case["now"],
            "instance": unhex(case["primary_instance"]),
            "platform": "simulated",
            "machine": case["primary_machine"],
            "identity": b"",
            "credential": b"",
        },
    )
    return encode("challenge", {"body": body, "mac": mac(unhex(case["mac_key"]), hello_bytes, body, label)})
