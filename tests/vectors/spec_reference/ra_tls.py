"""docs/spec/ra-tls.md."""

from __future__ import annotations

import hashlib

from tests.vectors.spec_reference.keyring import read_keyring
from tests.vectors.spec_reference.notation import Json, expand, framed, unhex


def head(kind: int, size: int) -> bytes:
    """The head of a CBOR item (RFC 8949 section 3) in its shortest form."""
    if size < 24:
        return bytes([kind << 5 | size])
    if size < 256:
        return bytes([kind << 5 | 24, size])
    return bytes([kind << 5 | 25]) + size.to_bytes(2, "big")


def bstr(data: bytes) -> bytes:
    return head(2, len(data)) + data


def evidence(case: Json) -> Json:
    digest = hashlib.sha256(unhex(case["spki"])).digest()
    entry = head(4, 2) + head(0, 1) + bstr(digest)
    claims = head(5, 1) + head(3, 11) + b"pubkey-hash" + bstr(entry)
    extension = head(6, 60000) + head(4, 2) + bstr(unhex(case["quote"])) + bstr(claims)
    report_data = hashlib.sha256(claims).digest() + bytes(32)
    return {"claims": claims.hex(), "report_data": report_data.hex(), "extension": extension.hex()}


def answer(case: Json) -> bytes:
    header = read_keyring(unhex(case["keyring"]))
    ids = [one["id"] for one in header["generations"]]
    current = next(one["id"] for one in header["generations"] if one["state"] == "current")
    wanted = {"first": ids[0], "current": current}.get(case["generation"], case["generation"])
    root_key = header["keys"][1 + ids.index(wanted)]
    info = framed(b"rkeyserver/v1", header["domain"].encode(), b"ra-tls secret", case["label"].encode())
    key = expand(root_key, info, case["size"])
    secret = key if case["encoding"] == "raw" else key.hex().encode() + b"\0"
    return b"SECRET_PROVISION_RA_TLS_RESPONSE_V1:\0" + len(secret).to_bytes(4, "big") + secret
