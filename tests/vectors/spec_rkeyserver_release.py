"""The operations of release.json, and of policy.json on enclaves, carried out by rkeyserver."""

from __future__ import annotations

import asyncio
from typing import Final

from tests.vectors.spec_cases import Json
from tests.vectors.spec_rkeyserver import (
    FixedAttester,
    Operation,
    _verifiers,
    key_memory,
    one_time_key,
    randomness,
)
from tests.vectors.spec_rkeyserver import proved as claims_of

from rkeyserver.appraisal.enclaves import appraise_enclave
from rkeyserver.appraisal.policy import parse_policy
from rkeyserver.attestation.evidence import Identity
from rkeyserver.attestation.report_data import transcript_hash
from rkeyserver.clock import Clock
from rkeyserver.exchange import messages
from rkeyserver.exchange.releaser import Releaser
from rkeyserver.exchange.requester import Requesting, Wanting
from rkeyserver.keyring.keyring import Keyring


def _releaser(case: Json) -> Releaser:
    with randomness(bytes.fromhex(case["mac_key"])):
        return Releaser(
            attester=FixedAttester("simulated", case["primary_machine"]),
            verifiers=_verifiers(),
            clock=Clock(lambda: case["now"]),
            random=lambda _size: bytes.fromhex(case["challenge_nonce"]),
            instance=bytes.fromhex(case["primary_instance"]),
        )


def challenge(case: Json) -> str:
    releaser = _releaser(case)
    try:
        return releaser.challenge(bytes.fromhex(case["bytes"])).hex()
    finally:
        releaser.close()


def server(case: Json) -> list[Json]:
    """The keys that the enclave would get for this request."""
    releaser, policy = _releaser(case), parse_policy(case["policy"])
    keyring = Keyring.parse(key_memory(bytes.fromhex(case["keyring"])))
    request = bytes.fromhex(case["bytes"])
    try:
        for _ in range(1 + case.get("sent_before", 0)):
            proved = asyncio.run(releaser.prove(request, policy, domain=keyring.domain))
        found = releaser.find(releaser.appraise(proved, policy), keyring)
        release = messages.decode(releaser.release(releaser.seal(found, keyring)), messages.Release)
    finally:
        releaser.close()
        keyring.close()
    keys = []
    with one_time_key(case).open(release.ciphertext, proved.transcript) as secret:
        at = 0
        for one, generation in zip(proved.request.keys, found.generations, strict=True):
            keys.append({"label": one.label, "generation": generation, "key": secret.view[at : at + one.size].hex()})
            at += one.size
    return keys


def wanted_of(case: Json) -> tuple[messages.WantedKey, ...]:
    return tuple(messages.WantedKey(**one) for one in case["keys"])


def enclave(case: Json) -> list[Json]:
    """The keys that the enclave takes from this release."""
    hello, chall, request = (bytes.fromhex(case[name]) for name in ("hello", "challenge", "request"))
    requesting = Requesting(
        message=request,
        wanting=Wanting(
            attester=FixedAttester("simulated", case["standby_machine"]),
            verifiers=_verifiers(),
            policy=parse_policy(case["server_policy"]),
            clock=Clock(lambda: case["now"]),
            random=lambda _size: bytes.fromhex(case["request_nonce"]),
            instance=bytes.fromhex(case["standby_instance"]),
            domain=case["domain"],
            keys=wanted_of(case),
        ),
        peer=Identity("simulated", case["primary_machine"]),
        nonce=bytes.fromhex(case["request_nonce"]),
        transcript=transcript_hash(hello, chall, request),
        _key=one_time_key(case),
    )
    released = asyncio.run(requesting.released(bytes.fromhex(case["bytes"])))
    try:
        return [
            {"label": one.label, "generation": one.generation, "key": one.secret.view.hex()} for one in released.keys
        ]
    finally:
        released.close()


def judge(case: Json) -> str:
    appraise_enclave(claims_of(case["claims"]), parse_policy(case["text"]), case["labels"], now=case["now"])
    return "accepted"


OPERATIONS: Final[dict[str, Operation]] = {
    "release challenge": challenge,
    "answer release request": server,
    "read release": enclave,
    "appraise enclave": judge,
}
