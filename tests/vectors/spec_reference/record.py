"""docs/spec/record.md."""

from __future__ import annotations

import base64
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.vectors.spec_reference.keyring import read_keyring
from tests.vectors.spec_reference.notation import (
    ADDRESS,
    HEX16,
    HEX32,
    NAME,
    Json,
    Refused,
    canonical_json,
    expand,
    framed,
    is_int,
    is_object,
    is_text,
    read_canonical_json,
    require,
    unhex,
)
from tests.vectors.spec_reference.recovery_slot import check_recovery_slot, unbase64

MAGIC: Final = b"rkeyserver-record/v1\n"


def wrapping_key(platform_key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(expand(platform_key, framed(b"rkeyserver/v1 platform wrap", salt), 32))


def wrap(case: Json, slot_data: bytes) -> bytes:
    salt = unhex(case["salt"])
    key = wrapping_key(unhex(case["platform_key"]), salt)
    return salt + key.encrypt(bytes(12), unhex(case["record_key"]), slot_data)


def unwrap(platform_key: bytes, wrapped: bytes, slot_data: bytes) -> bytes:
    require(len(wrapped) == 80, "Corrupt")
    try:
        return wrapping_key(platform_key, wrapped[:32]).decrypt(bytes(12), wrapped[32:], slot_data)
    except InvalidTag:
        raise Refused("Corrupt") from None


def slot_data_of(header: Json, slot: Json) -> bytes:
    numbers = (str(header["epoch"]), str(header["sequence"]))
    texts = (header["domain"], *numbers, slot["platform"], slot["machine"], slot["policy"])
    return framed(b"rkeyserver/v1 platform slot", *(text.encode() for text in texts))


def seal_record(case: Json, *more: Json) -> bytes:
    slot = {
        "type": "platform",
        "platform": case["platform"],
        "machine": case["machine"],
        "policy": case["policy"],
        "versions": case["versions"],
        "wrapped": base64.b64encode(wrap(case, slot_data_of(case, case))).decode(),
    }
    names = ("domain", "generations", "epoch", "sequence", "written", "member", "members")
    header = {name: case[name] for name in names}
    head = MAGIC + canonical_json(header | {"slots": [slot, *more]}) + b"\n"
    return head + AESGCM(unhex(case["record_key"])).encrypt(bytes(12), unhex(case["keyring"]), head)


def check_slot(slot: Json) -> None:
    require(is_object(slot, ["type", "platform", "machine", "policy", "versions", "wrapped"]), "Corrupt")
    require(slot["type"] == "platform", "Corrupt")
    require(all(is_text(slot[name], NAME) for name in ("platform", "machine", "policy")), "Corrupt")
    require(isinstance(slot["versions"], dict), "Corrupt")
    require(all(is_text(text, NAME) for item in slot["versions"].items() for text in item), "Corrupt")
    unbase64(slot["wrapped"])


def check_member(member: Json) -> None:
    names = ["member", "machine", "address", "epoch", "sequence", "digest", "seen"]
    require(is_object(member, names), "Corrupt")
    require(is_text(member["member"], HEX16) and is_text(member["machine"], NAME), "Corrupt")
    require(is_text(member["digest"], HEX32) and is_text(member["address"], ADDRESS), "Corrupt")
    require(all(is_int(member[name], 0, 2**62) for name in ("epoch", "sequence", "seen")), "Corrupt")


def read_record(record: bytes) -> tuple[Json, bytes, bytes]:
    """Header, everything before the ciphertext, ciphertext."""
    require(record.startswith(MAGIC), "Corrupt")
    end = record.find(b"\n", len(MAGIC))
    require(0 <= end - len(MAGIC) <= 524287, "Corrupt")
    header = read_canonical_json(record[len(MAGIC) : end])
    names = ["domain", "generations", "epoch", "sequence", "written", "member", "members", "slots"]
    require(is_object(header, names), "Corrupt")
    require(is_text(header["domain"], HEX16) and is_text(header["member"], HEX16), "Corrupt")
    require(isinstance(header["members"], list) and len(header["members"]) <= 1024, "Corrupt")
    for one in header["members"]:
        check_member(one)
    require(all(is_int(header[name], 0, 2**62) for name in ("epoch", "sequence", "written")), "Corrupt")
    ids, slots = header["generations"], header["slots"]
    require(isinstance(ids, list) and 1 <= len(ids) <= 1024 and all(is_text(one, HEX16) for one in ids), "Corrupt")
    require(isinstance(slots, list) and 1 <= len(slots) <= 2, "Corrupt")
    check_slot(slots[0])
    for slot in slots[1:]:
        check_recovery_slot(slot)
    require(len(record) - end - 1 >= 17, "Corrupt")
    return header, record[: end + 1], record[end + 1 :]


def open_contents(header: Json, head: bytes, ciphertext: bytes, record_key: bytes) -> bytes:
    try:
        plaintext = AESGCM(record_key).decrypt(bytes(12), ciphertext, head)
    except InvalidTag:
        raise Refused("Corrupt") from None
    inside = read_keyring(plaintext)
    require(header["generations"] == [one["id"] for one in inside["generations"]], "Corrupt")
    require(all(header[name] == inside[name] for name in ("domain", "epoch", "sequence")), "Corrupt")
    return plaintext


def open_record(case: Json, record: bytes) -> bytes:
    header, head, ciphertext = read_record(record)
    slot = header["slots"][0]
    require((slot["platform"], slot["machine"]) == (case["platform"], case["machine"]), "Corrupt")
    wrapped = base64.b64decode(slot["wrapped"])
    key = unwrap(unhex(case["platform_key"]), wrapped, slot_data_of(header, slot))
    return open_contents(header, head, ciphertext, key)
