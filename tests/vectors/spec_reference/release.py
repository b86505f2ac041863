"""docs/spec/release.md."""

from __future__ import annotations

import hashlib
from typing import Final

from tests.vectors.spec_reference.exchange import prove, prove_named
from tests.vectors.spec_reference.hpke import check_public_key, hpke_open
from tests.vectors.spec_reference.keyring import read_keyring
from tests.vectors.spec_reference.messages import decode, mac, transcript
from tests.vectors.spec_reference.notation import Json, expand, framed, require, unhex
from tests.vectors.spec_reference.policy import appraise, appraise_enclave, check_enclave_named, read_policy

RELEASE_CHALLENGE: Final = b"rkeyserver/v1 release challenge"
REQUEST_CONTEXT: Final = "release request, enclave to server"
RELEASE_CONTEXT: Final = "release, server to enclave"


def _key(keyring: Json, wanted: Json) -> Json:
    generations = keyring["generations"]
    states = [one["state"] for one in generations]
    ids = [one["id"] for one in generations]
    named = {"first": 0, "current": states.index("current")} | {name: at for at, name in enumerate(ids)}
    require(wanted["generation"] in named, "no-such-generation")
    at = named[wanted["generation"]]
    size = wanted["size"]
    label = framed(wanted["label"].encode(), size.to_bytes(2, "big"))
    info = framed(b"rkeyserver/v1", keyring["domain"].encode(), b"derived key", label)
    return {"label": wanted["label"], "generation": ids[at], "key": expand(keyring["keys"][1 + at], info, size).hex()}


def answer_release_request(case: Json, data: bytes) -> list[Json]:
    keyring = read_keyring(unhex(case["keyring"]))
    policy = read_policy(case["policy"])
    request = decode("release-request", data)
    challenge = decode("challenge", request["challenge"])
    ours = mac(unhex(case["mac_key"]), request["hello"], challenge["body"], RELEASE_CHALLENGE)
    require(challenge["mac"] == ours, "bad-mac")
    hello, body = decode("hello", request["hello"]), decode("challenge-body", challenge["body"])
    require(body["time"] <= case["now"] <= body["time"] + 60, "challenge-expired")
    claims = decode("release-request-claims", request["attested"]["claims"])
    wanted = claims["keys"]
    require(len({tuple(one.values()) for one in wanted}) == len(wanted), "malformed")
    require(claims["domain"] == keyring["domain"], "another-domain")
    proved = prove_named(
        request["attested"],
        REQUEST_CONTEXT,
        transcript(request["hello"], request["challenge"]),
        identity=hello,
        policy=policy,
        now=case["now"],
        named=check_enclave_named,
    )
    require(not case.get("sent_before"), "challenge-reused")
    appraise_enclave(proved, policy, [one["label"] for one in wanted], case["now"])
    keys = [_key(keyring, one) for one in wanted]
    check_public_key(claims["kem_public_key"])
    return keys


def read_release(case: Json, data: bytes) -> list[Json]:
    release = decode("release", data)
    claims = decode("release-claims", release["attested"]["claims"])
    before = transcript(unhex(case["hello"]), unhex(case["challenge"]), unhex(case["request"]))
    policy = read_policy(case["server_policy"])
    peer = {"platform": "simulated", "machine": case["primary_machine"]}
    proved = prove(release["attested"], RELEASE_CONTEXT, before, identity=peer, policy=policy, now=case["now"])
    appraise(proved, policy, case["now"])
    require(claims["nonce"] == unhex(case["request_nonce"]), "not-bound")
    require(claims["ciphertext_sha512"] == hashlib.sha512(release["ciphertext"]).digest(), "not-bound")
    require(claims["domain"] == case["domain"], "another-domain")
    wanted = case["keys"]
    require(len(claims["generations"]) == len(wanted), "malformed")
    for one, found in zip(wanted, claims["generations"], strict=True):
        require(one["generation"] in ("first", "current", found), "not-bound")
    plaintext = hpke_open(case, release["ciphertext"], before)
    require(len(plaintext) == sum(one["size"] for one in wanted), "malformed")
    keys = []
    for one, generation in zip(wanted, claims["generations"], strict=True):
        keys.append({"label": one["label"], "generation": generation, "key": plaintext[: one["size"]].hex()})
        plaintext = plaintext[one["size"] :]
    return keys
