"""The operations of recovery.json, carried out by rkeyserver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import pyrage  # type: ignore[import-untyped]
from tests.vectors.spec_rkeyserver import Json, _sealer, _verifiers, key_memory, one_time_key, randomness

from rkeyserver.appraisal.policy import parse_policy
from rkeyserver.exchange import armour
from rkeyserver.exchange.messages import RecoveryRequest, RecoveryRequestClaims, decode
from rkeyserver.exchange.recovery import RecoveryAsking, check_request
from rkeyserver.keyring.sealed import open_recovered
from rkeyserver.sealing import record, shares
from rkeyserver.sealing.recovery import Recovery, RecoveryShare, ShareSet, parse_slot
from rkeyserver.secret import SecretBytes


@dataclass(frozen=True)
class GivenShares:
    """Gives these shares, whatever is to be shared."""

    given: list[RecoveryShare]

    def split(self, secret: memoryview, share_set: ShareSet) -> list[RecoveryShare]:
        del secret
        assert share_set.recipients == tuple(one.recipient for one in self.given)
        return self.given

    def combine(self, shares: Sequence[memoryview], share_set: ShareSet) -> SecretBytes:
        raise NotImplementedError


def _shares(case: Json) -> list[RecoveryShare]:
    return [RecoveryShare(one["recipient"], one["digest"], bytes.fromhex(one["sealed"])) for one in case["shares"]]


def seal_with_recovery(case: Json) -> str:
    contents = record.Contents(
        case["domain"], tuple(case["generations"]), case["epoch"], case["sequence"], case["written"], case["member"], ()
    )
    given = _shares(case)
    recovery = Recovery(case["threshold"], tuple(one.recipient for one in given), GivenShares(given))
    random = [bytes.fromhex(case[name]) for name in ("record_key", "salt", "set", "recovery_secret")]
    with randomness(*random), key_memory(bytes.fromhex(case["keyring"])) as plaintext:
        return record.seal(contents, plaintext.view, _sealer(case), recovery).hex()


def recovered(case: Json) -> str:
    with key_memory(bytes.fromhex(case["recovery_secret"])) as secret:
        keyring = open_recovered(record.parse(bytes.fromhex(case["bytes"])), secret.view)
    try:
        return keyring.view.hex()
    finally:
        keyring.close()


def write_share(case: Json) -> str:
    document = shares.ShareDocument(
        format=shares.SHARE_FORMAT,
        domain=case["domain"],
        set=case["set"],
        index=case["index"],
        mnemonic=case["mnemonic"],
    )
    return msgspec.json.encode(document).hex()


def read_share(case: Json) -> Json:
    found: Json = msgspec.to_builtins(shares.read_share(bytes.fromhex(case["bytes"])))
    return found


def combine(case: Json) -> str:
    recipients = tuple(one["recipient"] for one in case["shares"])
    share_set = ShareSet(case["domain"], case["set"], case["threshold"], recipients)
    return shares.combine_shares([bytes.fromhex(one) for one in case["given"]], share_set).hex()


def decrypt_share(case: Json) -> str:
    found = shares.open_share(bytes.fromhex(case["bytes"]), [pyrage.x25519.Identity.from_str(case["identity"])])
    return "" if found is None else found.hex()


def put_in_armour(case: Json) -> str:
    return armour.armour(bytes.fromhex(case["bytes"]), armour.Kind(case["kind"]))


def take_out_of_armour(case: Json) -> str:
    return armour.dearmour(case["text"].encode(), armour.Kind(case["kind"])).hex()


def checked(case: Json) -> None:
    message = bytes.fromhex(case["bytes"])
    policy = parse_policy(case["recipients_policy"])
    asyncio.run(check_request(message, domain=case["domain"], policy=policy, verifiers=_verifiers(), now=case["now"]))


def contributed(case: Json) -> Json:
    message = bytes.fromhex(case["request"])
    claims = decode(decode(message, RecoveryRequest).attested.claims, RecoveryRequestClaims)
    asking = RecoveryAsking(message, parse_slot(claims.slot), one_time_key(case))
    index, share = asking.opened(bytes.fromhex(case["bytes"]))
    with share:
        return {"index": index, "share": share.view.hex()}


OPERATIONS: Final[dict[str, Callable[[Json], Any]]] = {
    "seal with recovery": seal_with_recovery,
    "open recovered": recovered,
    "write share": write_share,
    "read share": read_share,
    "combine": combine,
    "decrypt share": decrypt_share,
    "armour": put_in_armour,
    "dearmour": take_out_of_armour,
    "check request": checked,
    "open contribution": contributed,
}
