"""docs/spec/audit.md: lines, checkpoints, verifying, two logs."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from tests.vectors.spec_reference.keyring import read_keyring
from tests.vectors.spec_reference.notation import Json, Refused, expand, framed, require, unhex

FORM: Final = re.compile(
    rb'\{"at":"[\x20-\x7e]*,"chain":"(?P<chain>[0-9a-f]{32})","number":(?P<number>0|[1-9][0-9]{0,17}),'
    rb'"prev":"(?P<prev>[0-9a-f]{64})"\}\n'
)
ZERO: Final = "0" * 64


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_line(case: Json) -> bytes:
    tail = f',"chain":"{case["chain"]}","number":{case["number"]},"prev":"{case["prev"]}"' + "}\n"
    return f"{case['body']}{tail}".encode()


def _private(case: Json) -> tuple[str, Ed25519PrivateKey]:
    data = unhex(case["keyring"])
    keyring = read_keyring(data)
    at = 4 + int.from_bytes(data[:4], "big")
    parts = framed(b"rkeyserver/v1", keyring["domain"].encode(), b"audit checkpoint", b"")
    return keyring["domain"], Ed25519PrivateKey.from_private_bytes(expand(data[at : at + 32], parts, 32))


def public(case: Json) -> str:
    return _private(case)[1].public_key().public_bytes_raw().hex()


def signed_bytes(*, domain: str, machine: str, chain: str, lines: int, head: str, at: str) -> bytes:
    label, texts = b"rkeyserver/v1 audit checkpoint", [one.encode() for one in (domain, machine, chain)]
    return framed(label, *texts, lines.to_bytes(8, "big"), unhex(head), at.encode())


def sign(case: Json) -> bytes:
    domain, key = _private(case)
    said = {name: case[name] for name in ("machine", "chain", "lines", "head", "at")}
    return key.sign(signed_bytes(domain=domain, **said))


def check_signature(key: object, signature: object, data: bytes, *, wanted: str) -> None:
    require(not wanted or key == wanted, "not-signed")
    require(isinstance(key, str) and re.fullmatch("[0-9a-f]{64}", key), "not-signed")
    require(isinstance(signature, str) and re.fullmatch("[0-9a-f]{128}", signature), "not-signed")
    try:
        Ed25519PublicKey.from_public_bytes(unhex(str(key))).verify(unhex(str(signature)), data)
    except (InvalidSignature, ValueError):
        raise Refused("not-signed") from None


def _told(line: bytes) -> Json:
    try:
        told = json.loads(line)
    except ValueError:
        told = None
    require(isinstance(told, dict) and isinstance(told.get("at"), str), "log-broken")
    require(isinstance(told.get("event"), str), "log-broken")
    assert isinstance(told, dict)
    return told


def read(data: bytes, key: str = "") -> Json:
    """A file that holds, with its lines: (digest, what it says)."""
    found: Json = {"chain": "", "machine": "", "begins": 0, "signed": 0, "before": 0, "torn": [], "rest": 0}
    lines: list[tuple[str, Json]] = []
    loose, head, number, by = b"", ZERO, None, ""
    for part in re.findall(rb"[^\n]*\n|[^\n]+\Z", data):
        form = FORM.fullmatch(part) if len(part) <= 131072 else None
        if form is None:
            loose += part
            continue
        told = _told(part)
        mine, prev = int(form["number"]), form["prev"].decode()
        require(not loose or told["event"] in ("begin", "torn"), "log-broken")
        if number is None:
            found["chain"] = form["chain"].decode()
            if mine:
                require(told["event"] == "checkpoint" and key and not loose, "log-broken")
                found["begins"], head = mine, prev
            else:
                require(told["event"] == "begin" and prev == ZERO, "log-broken")
                found["machine"] = told.get("machine", "")
            number = mine
        require((form["chain"].decode(), mine, prev) == (found["chain"], number, head), "log-broken")
        if told["event"] in ("begin", "torn"):
            require((told.get("size"), told.get("sha256")) == (len(loose), sha256(loose)), "log-broken")
            if mine:
                found["torn"].append(len(loose))
            else:
                found["before"] = len(loose)
        loose, head, number = b"", sha256(part), mine + 1
        lines.append((head, told))
        if told["event"] == "checkpoint":
            said = {name: told.get(name, "") for name in ("domain", "machine", "at")}
            signed = signed_bytes(chain=found["chain"], lines=mine, head=prev, **said)
            check_signature(told.get("key"), told.get("signature"), signed, wanted=key or by)
            found["signed"], by = number, told["key"]
            found["machine"] = found["machine"] or told["machine"]
    require(lines, "log-broken")
    return found | {"lines": number, "head": head, "rest": len(loose), "read": lines}


def verify(case: Json) -> Json:
    found = read(unhex(case["bytes"]), case.get("key", ""))
    return {name: value for name, value in found.items() if name != "read"}


def check_document(case: Json) -> bool:
    names = {"format", "domain", "machine", "chain", "lines", "head", "at", "key", "signature"}
    try:
        told = json.loads(case["document"])
    except ValueError:
        told = None
    require(isinstance(told, dict) and set(told) == names, "Misuse")
    assert isinstance(told, dict)
    require(told["format"] == "rkeyserver-audit-checkpoint/v1" and told["lines"] >= 1, "Misuse")
    signed = signed_bytes(**{name: told[name] for name in ("domain", "machine", "chain", "lines", "head", "at")})
    log = read(unhex(case["bytes"]))
    check_signature(told["key"], told["signature"], signed, wanted=case.get("key", ""))
    require(told["chain"] == log["chain"] and told["lines"] <= log["lines"], "log-broken")
    require(log["read"][told["lines"] - 1][0] == told["head"], "log-broken")
    return True


def _machine(told: Json) -> Any:
    return told.get("peer", {}).get("machine", "")


def compare(case: Json) -> int:
    logs = [read(unhex(one)) for one in case["logs"]]
    given = {
        told["transcript"]: (log, index, told)
        for log in logs
        for index, (_, told) in enumerate(log["read"])
        if (told["event"], told.get("verdict")) == ("hand-over", "accepted")
    }
    pairs = 0
    for log in logs:
        for _, told in log["read"]:
            if told["event"] not in ("hand-over", "join", "acknowledge"):
                continue
            heads = [{digest for digest, _ in one["read"]} for one in logs if one["machine"] == _machine(told)]
            named = told.get("peer_head", "")
            require(not heads or named in ("", ZERO) or any(named in one for one in heads), "logs-disagree")
            if told["event"] == "hand-over" or told.get("verdict") != "accepted":
                continue
            if told["transcript"] not in given:
                require(not heads, "logs-disagree")
                continue
            other, index, hand_over = given[told["transcript"]]
            require(
                (_machine(told), _machine(hand_over), told["domain"])
                == (other["machine"], log["machine"], hand_over["domain"]),
                "logs-disagree",
            )
            places = {digest: place for place, (digest, _) in enumerate(other["read"])}
            require(places.get(named, index) >= index, "logs-disagree")
            pairs += 1
    return pairs
