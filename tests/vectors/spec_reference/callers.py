"""docs/spec/callers.md; docs/spec/keyring.md, "Keys for callers" and "Wrapping"; docs/spec/policy.md, "Callers"."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tomllib
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.vectors.spec_reference.keyring import read_keyring
from tests.vectors.spec_reference.notation import LABEL, Json, Refused, expand, framed, is_int, is_text, require, unhex
from tests.vectors.spec_reference.policy import read_policy

GENERATION: Final = "first|current|[0-9a-f]{32}"


def _held(case: Json) -> tuple[Json, str]:
    """The keyring, and the id of its current generation."""
    keyring = read_keyring(unhex(case["keyring"]))
    return keyring, next(one["id"] for one in keyring["generations"] if one["state"] == "current")


def _root_key(keyring: Json, generation: str) -> bytes:
    ids = [one["id"] for one in keyring["generations"]]
    require(generation in ids, "no-such-generation")
    require(keyring["generations"][ids.index(generation)]["state"] != "retired", "generation-retired")
    key = keyring["keys"][1 + ids.index(generation)]
    assert isinstance(key, bytes)
    return key


def _derived(keyring: Json, generation: str, purpose: bytes, label: bytes, length: int) -> bytes:
    info = framed(b"rkeyserver/v1", keyring["domain"].encode(), purpose, label)
    return expand(_root_key(keyring, generation), info, length)


def key_for_caller(case: Json) -> Json:
    keyring, current = _held(case)
    size = case["size"]
    require(16 <= size <= 64, "Misuse")
    named = {"current": current, "first": keyring["generations"][0]["id"]}
    generation: str = named.get(case["generation"]) or case["generation"]
    label = framed(case["label"].encode(), size.to_bytes(2, "big"))
    return {"key": _derived(keyring, generation, b"derived key", label, size).hex(), "generation": generation}


def _cipher(keyring: Json, case: Json, head: bytes) -> tuple[AESGCM, bytes]:
    label = case["label"].encode()
    key = _derived(keyring, head[1:17].hex(), b"wrap", framed(label, head[17:]), 32)
    about = unhex(case["associated_data"])
    return AESGCM(key), framed(b"rkeyserver/v1 wrapped", keyring["domain"].encode(), head, label, about)


def _wrapped(case: Json, plaintext: bytes, salt: bytes) -> bytes:
    require(len(plaintext) <= 65536 and len(unhex(case["associated_data"])) <= 65536, "Misuse")
    keyring, current = _held(case)
    head = b"\x01" + unhex(current) + salt
    cipher, bound = _cipher(keyring, case, head)
    return head + cipher.encrypt(bytes(12), plaintext, bound)


def wrap_secret(case: Json) -> bytes:
    return _wrapped(case, unhex(case["plaintext"]), unhex(case["salt"]))


def unwrap_secret(case: Json) -> Json:
    keyring, _ = _held(case)
    wrapped = unhex(case["bytes"])
    require(65 <= len(wrapped) <= 65601 and wrapped[0] == 1, "malformed")
    cipher, bound = _cipher(keyring, case, wrapped[:49])
    try:
        plaintext = cipher.decrypt(bytes(12), wrapped[49:], bound)
    except InvalidTag:
        raise Refused("does-not-open") from None
    return {"plaintext": plaintext.hex(), "generation": wrapped[1:17].hex()}


def rewrap_secret(case: Json) -> bytes:
    found = unwrap_secret(case)
    if found["generation"] == _held(case)[1]:
        return unhex(case["bytes"])
    return _wrapped(case, unhex(found["plaintext"]), unhex(case["salts"][0]))


def _is(entry: Json, who: Json) -> bool:
    if "uid" in entry:
        return bool(entry["uid"] == who.get("uid"))
    if "gid" in entry:
        return entry["gid"] in who.get("gids", [])
    return bool(entry["token_sha256"] == who.get("token_sha256"))


def _names(pattern: str, label: str) -> bool:
    return label.startswith(pattern[:-1]) if pattern.endswith("*") else label == pattern


def may(case: Json) -> bool:
    read_policy(case["policy"])
    entries = tomllib.loads(case["policy"]).get("callers", [])
    permitted = any(
        _is(entry, case["caller"])
        and case["action"] in entry["may"]
        and any(_names(pattern, case["label"]) for pattern in entry["labels"])
        for entry in entries
    )
    require(permitted, "not-permitted")
    return True


def who_shows_a_token(case: Json) -> str:
    read_policy(case["policy"])
    named = {entry.get("token_sha256") for entry in tomllib.loads(case["policy"]).get("callers", [])}
    require(len(case["authorization"]) == 1, "unknown-token")
    found = re.fullmatch(r"(?i:bearer) (rkt_[0-9A-Za-z_-]{43})", case["authorization"][0])
    require(found, "unknown-token")
    assert found is not None
    digest = hashlib.sha256(found[1].encode()).hexdigest()
    require(digest in named, "unknown-token")
    return digest


def _bytes(value: object, most: int) -> str:
    require(isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9+/]*={0,2}", value), "Misuse")
    assert isinstance(value, str)
    try:
        found = base64.b64decode(value, validate=True)
    except ValueError:
        raise Refused("Misuse") from None
    require(len(found) <= most, "Misuse")
    return found.hex()


def read_request(case: Json) -> Json:
    try:
        found: Any = json.loads(unhex(case["bytes"]).decode())
    except (ValueError, RecursionError):
        raise Refused("Misuse") from None
    require(isinstance(found, dict), "Misuse")
    bytes_field = {"Wrap": ("plaintext", 65536), "Unwrap": ("wrapped", 65601)}.get(case["kind"])
    if bytes_field is None:
        found = {"size": 32, "generation": "current"} | found
        require(set(found) == {"label", "size", "generation"}, "Misuse")
        require(is_int(found["size"], 16, 64) and is_text(found["generation"], GENERATION), "Misuse")
    else:
        name, most = bytes_field
        found = {"associated_data": ""} | found
        require(set(found) == {"label", name, "associated_data"}, "Misuse")
        found[name], found["associated_data"] = _bytes(found[name], most), _bytes(found["associated_data"], 65536)
    require(is_text(found["label"], LABEL), "Misuse")
    assert isinstance(found, dict)
    return found
