"""docs/spec/policy.md: "Keys of admins", "Changes", "Links", "Who believes a policy"."""

from __future__ import annotations

import base64
import hashlib
import re
import tomllib
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from tests.vectors.spec_reference.notation import (
    HEX16,
    HEX32,
    Json,
    Refused,
    canonical_json,
    framed,
    is_int,
    is_object,
    is_text,
    read_canonical_json,
    require,
    unhex,
)
from tests.vectors.spec_reference.policy import admin_key, read_policy

FIELDS: Final = ["format", "domain", "sequence", "replaces", "policy", "signatures"]
LINK_FIELDS: Final = ["format", "domain", "sequence", "replaces", "policy", "admins", "signatures"]


def digest(policy: str) -> str:
    return hashlib.sha256(policy.encode()).hexdigest()


def admins_of(policy: str) -> Json | None:
    read_policy(policy)
    return tomllib.loads(policy).get("admins")


def link_of(change: Json) -> Json:
    """The link of a change, with all its signatures."""
    admins = admins_of(change["policy"])
    return {
        "format": "rkeyserver-policy-link/v1",
        "domain": change["domain"],
        "sequence": change["sequence"],
        "replaces": change["replaces"],
        "policy": digest(change["policy"]),
        "admins": admins and {"threshold": admins["threshold"], "keys": admins["keys"]},
        "signatures": change["signatures"],
    }


def signed_bytes(link: Json) -> bytes:
    admins = [] if link["admins"] is None else [str(link["admins"]["threshold"]), *link["admins"]["keys"]]
    parts = ["rkeyserver/v1 policy change", link["domain"], str(link["sequence"]), link["replaces"], link["policy"]]
    return framed(*(part.encode() for part in [*parts, *admins]))


def add_signature(document: Json, seed: bytes, message: bytes) -> Json:
    """The document with a signature over `message`; one that it had of that key is replaced."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    public = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + key.public_key().public_bytes_raw()
    line = "ssh-ed25519 " + base64.b64encode(public).decode()
    others = [one for one in document["signatures"] if one["key"] != line]
    return document | {"signatures": [*others, {"key": line, "signature": key.sign(message).hex()}]}


def sign(change: Json, seed: bytes) -> Json:
    return add_signature(change, seed, signed_bytes(link_of(change)))


def check_signatures(signatures: Any) -> None:
    require(isinstance(signatures, list) and len(signatures) <= 32, "Misuse")
    for one in signatures:
        require(is_object(one, ["key", "signature"]), "Misuse")
        require(is_text(one["signature"], "[0-9a-f]{128}"), "Misuse")
        require(admin_key(one["key"]) is not None and one["key"].count(" ") == 1, "Misuse")
    require(len({one["key"] for one in signatures}) == len(signatures), "Misuse")


def read_json(data: bytes) -> Any:
    require(len(data) <= 262144, "Misuse")
    try:
        return read_canonical_json(data)
    except Refused:
        raise Refused("Misuse") from None


def check_common(found: Json) -> None:
    require(is_text(found["domain"], HEX16) and is_int(found["sequence"], 1, 2**62), "Misuse")
    require(is_text(found["replaces"], HEX32), "Misuse")
    check_signatures(found["signatures"])


def read_change(data: bytes) -> Json:
    found = read_json(data.removesuffix(b"\n"))
    require(is_object(found, FIELDS) and found["format"] == "rkeyserver-policy-change/v1", "Misuse")
    check_common(found)
    require(isinstance(found["policy"], str) and 1 <= len(found["policy"]) <= 131072, "Misuse")
    assert isinstance(found, dict)
    return found


def read_link(text: str) -> Json:
    found = read_json(text.encode("utf-8", "surrogatepass"))
    require(is_object(found, LINK_FIELDS) and found["format"] == "rkeyserver-policy-link/v1", "Misuse")
    check_common(found)
    require(is_text(found["policy"], HEX32), "Misuse")
    admins = found["admins"]
    if admins is not None:
        require(is_object(admins, ["threshold", "keys"]) and is_int(admins["threshold"], 1, 16), "Misuse")
        require(isinstance(admins["keys"], list) and 1 <= len(admins["keys"]) <= 16, "Misuse")
        require(all(admin_key(one) is not None for one in admins["keys"]), "Misuse")
    assert isinstance(found, dict)
    return found


def have_signed(signatures_under: list[Json], message: bytes, admins: Json) -> list[str]:
    """The base64 of those of `admins` of whom a valid signature over `message` is there."""
    signatures = {one["key"].split(" ")[1]: unhex(one["signature"]) for one in signatures_under}
    found = []
    for line in admins["keys"]:
        key = admin_key(line)
        assert key is not None
        spelling = line.split(" ")[1]
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signatures.get(spelling, bytes(64)), message)
        except InvalidSignature:
            continue
        if spelling in signatures:
            found.append(spelling)
    return found


def signers(link: Json, admins: Json) -> list[str]:
    return have_signed(link["signatures"], signed_bytes(link), admins)


def require_enough(link: Json, admins: Json, failure: str) -> None:
    require(len(signers(link, admins)) >= admins["threshold"], failure)


def check_change(case: Json) -> Json:
    """Checks 1 to 6; the change."""
    change = read_change(case["change"].encode("utf-8", "surrogatepass"))
    require(change["domain"] == case["domain"], "another-domain")
    last = read_link(case["chain"][-1])["sequence"] if case["chain"] else 0
    require(change["sequence"] == last + 1, "not-the-next-change")
    require(change["replaces"] == digest(case["policy"]), "not-the-next-change")
    read_policy(change["policy"])
    now, link = admins_of(case["policy"]), link_of(change)
    if now is None:
        require(case["owner"], "not-signed")
    else:
        require_enough(link, now, "not-signed")
    if link["admins"] is not None and link["admins"] != now:
        require_enough(link, link["admins"], "not-signed")
    return change


def chain_after(case: Json) -> list[str]:
    change = check_change(case)
    now, link = admins_of(case["policy"]), link_of(change)
    count = [key for admins in (now, link["admins"]) if admins is not None for key in signers(link, admins)]
    link["signatures"] = [one for one in link["signatures"] if one["key"].split(" ")[1] in count]
    links = list(map(read_link, case["chain"]))
    if len(links) > 1 and links[-1]["admins"] == links[-2]["admins"]:
        links.pop()
    return [canonical_json(one).decode() for one in (*links, link)]


def links_of(keyring: Json) -> list[Json]:
    try:
        links = list(map(read_link, keyring["chain"]))
    except Refused:
        raise Refused("policy-not-believed") from None
    before = 0
    for link in links:
        require(link["domain"] == keyring["domain"] and link["sequence"] > before, "policy-not-believed")
        before = link["sequence"]
    require(not links or links[-1]["policy"] == digest(keyring["policy"]), "policy-not-believed")
    return links


def walk(links: list[Json], admins: Json) -> None:
    trusted, believed = admins, None
    for link in links:
        if len(signers(link, trusted)) >= trusted["threshold"]:
            believed, trusted = link, link["admins"] or admins
    require(links and believed is links[-1], "policy-not-believed")


def believe(case: Json) -> int:
    links = links_of(case)
    walk(links, case["admins"])
    return int(links[-1]["sequence"])


def succeed(case: Json) -> int:
    """found after held, which may be nothing, by admins given at the start, who may be none."""
    found, held = case["found"], case["held"]
    links = links_of(found)
    if case["admins"] is not None:
        walk(links, case["admins"])
    number = links[-1]["sequence"] if links else 0
    later = held and (found["epoch"], found["sequence"]) >= (held["epoch"], held["sequence"])
    if not later or found["domain"] != held["domain"]:
        return int(number)
    if (found["policy"], found["chain"]) != (held["policy"], held["chain"]):
        admins = admins_of(held["policy"])
        if admins is not None:
            walk(links, admins)
        require(number > (read_link(held["chain"][-1])["sequence"] if held["chain"] else 0), "policy-not-believed")
    return int(number)


def describe(change: Json) -> Json:
    keys = [re.sub("^ssh-ed25519 ", "", one["key"]) for one in change["signatures"]]
    return {name: change[name] for name in ("domain", "sequence", "replaces")} | {
        "policy": digest(change["policy"]),
        "signed_by": keys,
    }


def signed_bytes_of(case: Json) -> bytes:
    read_policy(case["policy"])
    change = {
        "format": "rkeyserver-policy-change/v1",
        "domain": case["domain"],
        "sequence": case["sequence"],
        "replaces": digest(case["replaces"]),
        "policy": case["policy"],
        "signatures": [],
    }
    return signed_bytes(link_of(change))


def signed(case: Json) -> str:
    data = canonical_json(sign(read_change(case["change"].encode()), unhex(case["seed"])))
    read_change(data)
    return data.decode()
