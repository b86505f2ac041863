"""docs/spec/recovery.md. SLIP-39 and age themselves are their libraries'."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final

import pyrage  # type: ignore[import-untyped]
from shamir_mnemonic import MnemonicError, Share, combine_mnemonics  # type: ignore[import-untyped]
from tests.vectors.spec_reference.hpke import hpke_open
from tests.vectors.spec_reference.messages import decode, transcript
from tests.vectors.spec_reference.notation import (
    HEX16,
    Json,
    Refused,
    canonical_json,
    is_int,
    is_object,
    is_text,
    read_canonical_json,
    require,
    unhex,
)
from tests.vectors.spec_reference.record import open_contents, read_record, seal_record
from tests.vectors.spec_reference.recovery_slot import check_recovery_slot, unwrap_for_recovery, wrap_for_recovery

FIELDS: Final = ["format", "domain", "set", "index", "mnemonic"]


def seal_with_recovery(case: Json) -> bytes:
    slot = {
        "type": "recovery",
        "set": case["set"],
        "threshold": case["threshold"],
        "shares": [one | {"sealed": base64.b64encode(unhex(one["sealed"])).decode()} for one in case["shares"]],
    }
    wrapped = wrap_for_recovery(unhex(case["recovery_secret"]), unhex(case["record_key"]), case, slot)
    return seal_record(case, slot | {"wrapped": wrapped})


def open_recovered(case: Json, record: bytes) -> bytes:
    header, head, ciphertext = read_record(record)
    require(len(header["slots"]) == 2, "Corrupt")
    key = unwrap_for_recovery(unhex(case["recovery_secret"]), header, header["slots"][1])
    return open_contents(header, head, ciphertext, key)


def write_share(case: Json) -> bytes:
    return canonical_json({"format": "rkeyserver-share/v1"} | {name: case[name] for name in FIELDS[1:]})


def read_share(data: bytes) -> tuple[Json, Share]:
    require(len(data) <= 1024, "Corrupt")
    found = read_canonical_json(data)
    require(is_object(found, FIELDS) and found["format"] == "rkeyserver-share/v1", "Corrupt")
    require(all(is_text(found[name], HEX16) for name in ("domain", "set")), "Corrupt")
    require(is_int(found["index"], 0, 15) and is_text(found["mnemonic"], "[a-z]+( [a-z]+)*"), "Corrupt")
    require(len(found["mnemonic"]) <= 512, "Corrupt")
    try:
        share = Share.from_mnemonic(found["mnemonic"])
    except (MnemonicError, ValueError):
        raise Refused("Corrupt") from None
    require((share.group_count, share.group_threshold, share.iteration_exponent) == (1, 1, 0), "Corrupt")
    require(len(found["mnemonic"].split()) == 33, "Corrupt")
    require(share.member_threshold == 1 or share.index == found["index"], "Corrupt")
    assert isinstance(found, dict)
    return found, share


def combine(case: Json) -> bytes:
    found = [read_share(unhex(one)) for one in case["given"]]
    for document, share in found:
        require(all(document[name] == case[name] for name in ("domain", "set")), "Corrupt")
        require(share.member_threshold == case["threshold"], "Corrupt")
        require(document["index"] < len(case["shares"]), "Corrupt")
    require(len({document["index"] for document, _ in found}) == len(found) == case["threshold"], "Corrupt")
    try:
        return bytes(combine_mnemonics([document["mnemonic"] for document, _ in found]))
    except MnemonicError:
        raise Refused("Corrupt") from None


def decrypt_share(case: Json, sealed: bytes) -> bytes:
    try:
        return bytes(pyrage.decrypt(sealed, [pyrage.x25519.Identity.from_str(case["identity"])]))
    except pyrage.DecryptError:
        return b""


def dearmour(text: str, kind: str) -> bytes:
    pattern = rf"\s*-----BEGIN RKEYSERVER {kind}-----\r?\n((?:[\w+/=]{{1,64}}\r?\n)+)-----END RKEYSERVER {kind}-----\s*"
    match = re.fullmatch(pattern, text, re.ASCII)
    require(match and "_" not in match[1], "malformed")
    assert match is not None
    try:
        return base64.b64decode("".join(match[1].split()), validate=True)
    except ValueError:
        raise Refused("malformed") from None


def armour(data: bytes, kind: str) -> str:
    text = base64.b64encode(data).decode()
    lines = re.findall(".{1,64}", text)
    return "\n".join([f"-----BEGIN RKEYSERVER {kind}-----", *lines, f"-----END RKEYSERVER {kind}-----", ""])


def check_request(case: Json, message: bytes) -> None:
    """As far as the quote."""
    claims = decode("recovery-request-claims", decode("recovery-request", message)["attested"]["claims"])
    require(claims["version"] == 1, "wrong-version")
    require(claims["domain"] == case["domain"], "another-domain")
    require(-300 <= case["now"] - claims["time"] <= 86400, "request-expired")
    try:
        check_recovery_slot(read_canonical_json(claims["slot"]))
    except Refused:
        raise Refused("malformed") from None
    raise AssertionError("what has a quote is for the other implementation")


def open_contribution(case: Json, contribution: bytes) -> Json:
    found = decode("recovery-contribution", contribution)
    request = unhex(case["request"])
    require(found["request_sha512"] == hashlib.sha512(request).digest(), "not-bound")
    share = hpke_open(case, found["ciphertext"], transcript(request))
    claims = decode("recovery-request-claims", decode("recovery-request", request)["attested"]["claims"])
    digests = [one["digest"] for one in read_canonical_json(claims["slot"])["shares"]]
    digest = hashlib.sha256(share).hexdigest()
    require(digest in digests, "not-a-share")
    return {"index": digests.index(digest), "share": share.hex()}
