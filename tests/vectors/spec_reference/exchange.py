"""docs/spec/exchange.md: the attested message, and what the primary and the standby check.

Of quotes it checks form and binding and believes the rest: verifying them is Intel's specification.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable

from tests.vectors.spec_reference.hpke import check_public_key, hpke_open
from tests.vectors.spec_reference.keyring import read_keyring
from tests.vectors.spec_reference.messages import (
    GRANT_CONTEXT,
    REQUEST_CONTEXT,
    decode,
    encode,
    mac,
    report_data,
    transcript,
)
from tests.vectors.spec_reference.notation import Json, Refused, require, unhex
from tests.vectors.spec_reference.policy import appraise, check_named, read_policy


def check_quote(quote: bytes) -> None:
    require(len(quote) >= 1014, "malformed")
    require(struct.unpack_from("<HHI", quote) == (3, 2, 0), "malformed")
    require(len(quote) == 436 + struct.unpack_from("<I", quote, 432)[0], "malformed")
    certification = 1014 + struct.unpack_from("<H", quote, 1012)[0]
    require(len(quote) >= certification + 6, "malformed")
    kind, size = struct.unpack_from("<HI", quote, certification)
    require(kind == 5 and len(quote) == certification + 6 + size, "malformed")


def prove(attested: Json, context: str, before: bytes, *, identity: Json, policy: Json, now: int) -> Json:
    """The claims of an attested message, its signatures taken for granted."""
    return prove_named(attested, context, before, identity=identity, policy=policy, now=now, named=check_named)


def prove_named(
    attested: Json,
    context: str,
    before: bytes,
    *,
    identity: Json,
    policy: Json,
    now: int,
    named: Callable[[Json, str, str], object],
) -> Json:
    quote = attested["evidence"]
    check_quote(quote)
    require(quote[368:432] == report_data(context, before, attested["claims"]), "not-bound")
    named(policy, identity["platform"], identity["machine"])
    require(identity["platform"] == "simulated", "platform-not-named")
    body = quote[48:432]
    prod, svn = struct.unpack_from("<HH", body, 256)
    return {
        "platform": "simulated",
        "ppid": identity["machine"],
        "mrenclave": body[64:96].hex(),
        "mrsigner": body[128:160].hex(),
        "isv_prod_id": prod,
        "isv_svn": svn,
        "debug": bool(body[48] & 2),
        "tcb_status": "UpToDate",
        "advisory_ids": [],
        "tcb_eval_data_number": 20,
        "dynamic_platform": "Undefined",
        "cached_keys": "Undefined",
        "smt_enabled": "Undefined",
        "expires": now,
    }


def hello_of(case: Json) -> bytes:
    return encode(
        "hello",
        {
            "version": 1,
            "instance": unhex(case["standby_instance"]),
            "platform": "simulated",
            "machine": case["standby_machine"],
            "identity": b"",
        },
    )


def answer_challenge(case: Json, challenge: bytes) -> str:
    body = decode("challenge-body", decode("challenge", challenge)["body"])
    require(body["instance"] != unhex(case["standby_instance"]), "talking-to-itself")
    require(body["credential"] == b"", "malformed")
    return str(case["request_nonce"])


def answer_request(case: Json, data: bytes) -> str:
    request = decode("request", data)
    challenge = decode("challenge", request["challenge"])
    require(challenge["mac"] == mac(unhex(case["mac_key"]), request["hello"], challenge["body"]), "bad-mac")
    hello, body = decode("hello", request["hello"]), decode("challenge-body", challenge["body"])
    require(body["time"] <= case["now"] <= body["time"] + 60, "challenge-expired")
    claims = decode("request-claims", request["attested"]["claims"])
    require(claims["credential_mac"] == b"" and claims["credential"] == b"", "malformed")
    before = transcript(request["hello"], request["challenge"])
    policy = read_policy(case["policy"])
    proved = prove(request["attested"], REQUEST_CONTEXT, before, identity=hello, policy=policy, now=case["now"])
    require(not case.get("sent_before"), "challenge-reused")
    appraise(proved, policy, case["now"])
    check_public_key(claims["kem_public_key"])
    return str(case["keyring"])


def read_grant(case: Json, data: bytes) -> str:
    grant = decode("grant", data)
    claims = decode("grant-claims", grant["attested"]["claims"])
    before = transcript(unhex(case["hello"]), unhex(case["challenge"]), unhex(case["request"]))
    policy = read_policy(case["policy"])
    peer = {"platform": "simulated", "machine": case["primary_machine"]}
    proved = prove(grant["attested"], GRANT_CONTEXT, before, identity=peer, policy=policy, now=case["now"])
    appraise(proved, policy, case["now"])
    require(claims["nonce"] == unhex(case["request_nonce"]), "not-bound")
    require(claims["ciphertext_sha512"] == hashlib.sha512(grant["ciphertext"]).digest(), "not-bound")
    require(claims["members_sha512"] == hashlib.sha512(grant["members"]).digest(), "not-bound")
    decode("members", grant["members"])
    require(claims["credential_answer"] == b"", "malformed")
    plaintext = hpke_open(case, grant["ciphertext"], before)
    try:
        keyring = read_keyring(plaintext)
    except Refused:
        raise Refused("key-id-mismatch") from None
    try:
        appraise(proved, read_policy(keyring["policy"]), case["now"])
    except Refused:
        raise Refused("policy-not-believed") from None
    return plaintext.hex()
