"""The operations of the test vectors, carried out by the reference."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

from tests.vectors.spec_reference.audit import check_document, compare, public, sign, verify, write_line
from tests.vectors.spec_reference.callers import (
    key_for_caller,
    may,
    read_request,
    rewrap_secret,
    unwrap_secret,
    who_shows_a_token,
    wrap_secret,
)
from tests.vectors.spec_reference.change import (
    believe,
    chain_after,
    check_change,
    describe,
    read_change,
    signed,
    signed_bytes_of,
    succeed,
)
from tests.vectors.spec_reference.exchange import answer_challenge, answer_request, hello_of, read_grant
from tests.vectors.spec_reference.hpke import check_public_key, hpke_open, public_key
from tests.vectors.spec_reference.keyring import (
    describe_keyring,
    domain_id,
    extends,
    generation_id,
    read_keyring,
    write_keyring,
)
from tests.vectors.spec_reference.messages import UNTAGGED, decode, encode, make_challenge, report_data, transcript
from tests.vectors.spec_reference.mint_statement import check_statement
from tests.vectors.spec_reference.notation import Json, expand, framed, unhex
from tests.vectors.spec_reference.orders import judge_order, read_order, sign_order
from tests.vectors.spec_reference.orders import signed_bytes as signed_order_bytes
from tests.vectors.spec_reference.policy import appraise, appraise_application, appraise_enclave, read_policy
from tests.vectors.spec_reference.ra_tls import answer, evidence
from tests.vectors.spec_reference.record import open_record, seal_record, unwrap, wrap
from tests.vectors.spec_reference.recovery import (
    armour,
    check_request,
    combine,
    dearmour,
    decrypt_share,
    open_contribution,
    open_recovered,
    read_share,
    seal_with_recovery,
    write_share,
)
from tests.vectors.spec_reference.release import RELEASE_CHALLENGE, answer_release_request, read_release
from tests.vectors.spec_reference.simulated import (
    load_image,
    measure,
    p256_point,
    pck,
    quote_head,
    quoting_enclave,
    read_processor,
    sealing_key,
    sign_image,
)


def fields_of(value: Any) -> Any:
    if isinstance(value, dict) and "hex" in value:
        return unhex(value["hex"])
    if isinstance(value, dict) and "message" in value:
        tag = {} if value["message"] in UNTAGGED else {"type": value["message"]}
        return tag | {name: fields_of(one) for name, one in value["fields"].items()}
    if isinstance(value, list):
        return [fields_of(one) for one in value]
    return value


def _bytes(case: Json) -> bytes:
    return unhex(case["bytes"])


def _image(case: Json) -> bytes:
    return unhex(case["image"]) * int(case.get("repeat", 1))


def _encode(case: Json) -> bytes:
    return encode(case["message"], {name: fields_of(value) for name, value in case["fields"].items()})


def _decode(case: Json) -> bytes:
    found = decode(case["message"], _bytes(case))
    return encode(found.pop("type"), found)


def _derive(case: Json) -> bytes:
    info = framed(b"rkeyserver/v1", case["domain"].encode(), case["purpose"].encode(), unhex(case["label"]))
    return expand(unhex(case["root_key"]), info, case["length"])


def _mint(case: Json) -> bytes:
    first = {"root_key": case["root_key"], "created": case["now"], "state": "current"}
    return write_keyring(case | {"epoch": 0, "sequence": 1, "generations": [first]})


def _digest(case: Json) -> str:
    text = case["text"] + "#" * case.get("comment", 0)
    read_policy(text)
    return hashlib.sha256(text.encode()).hexdigest()


def _appraise(case: Json) -> str:
    appraise(case["claims"], read_policy(case["text"]), case["now"])
    return hashlib.sha256(case["text"].encode()).hexdigest()


def _seal_to(case: Json) -> None:
    check_public_key(_bytes(case))


OPERATIONS: Final[dict[str, Callable[[Json], Any]]] = {
    "frame": lambda case: framed(*map(unhex, case["parts"])),
    "transcript": lambda case: transcript(*map(unhex, case["messages"])),
    "bind": lambda case: report_data(case["context"], unhex(case["transcript"]), unhex(case["claims"])),
    "encode": _encode,
    "decode": _decode,
    "challenge": lambda case: make_challenge(case, _bytes(case)),
    "hpke public key": public_key,
    "hpke open": lambda case: hpke_open(case, _bytes(case), unhex(case["info"])),
    "hpke seal": _seal_to,
    "domain id": lambda case: domain_id(unhex(case["domain_secret"])),
    "generation id": lambda case: generation_id(unhex(case["root_key"]), case["domain"]),
    "derive": _derive,
    "ra-tls evidence": evidence,
    "ra-tls answer": answer,
    "mint": _mint,
    "write keyring": write_keyring,
    "read keyring": lambda case: describe_keyring(_bytes(case)),
    "extends": lambda case: extends(read_keyring(unhex(case["new"])), read_keyring(unhex(case["old"]))),
    "wrap": lambda case: wrap(case, unhex(case["slot_data"])),
    "unwrap": lambda case: unwrap(unhex(case["platform_key"]), _bytes(case), unhex(case["slot_data"])),
    "seal": seal_record,
    "open": lambda case: open_record(case, _bytes(case)),
    "seal with recovery": seal_with_recovery,
    "open recovered": lambda case: open_recovered(case, _bytes(case)),
    "write share": write_share,
    "read share": lambda case: read_share(_bytes(case))[0],
    "combine": combine,
    "decrypt share": lambda case: decrypt_share(case, _bytes(case)),
    "armour": lambda case: armour(_bytes(case), case["kind"]),
    "dearmour": lambda case: dearmour(case["text"], case["kind"]),
    "check request": lambda case: check_request(case, _bytes(case)),
    "open contribution": lambda case: open_contribution(case, _bytes(case)),
    "check statement": lambda case: check_statement(case, _bytes(case)),
    "sealing key": sealing_key,
    "pck": pck,
    "development key": lambda case: p256_point(hashlib.sha256(case["sentence"].encode()).digest()),
    "quote head": quote_head,
    "quoting enclave": quoting_enclave,
    "measure": lambda case: measure(_image(case)),
    "sign": lambda case: sign_image(case, _image(case)),
    "load": lambda case: load_image(_bytes(case)),
    "read processor": lambda case: read_processor(case["text"]),
    "read policy": _digest,
    "appraise": _appraise,
    "appraise application": lambda case: appraise_application(case["claims"], case["text"], case["now"]),
    "signed bytes": signed_bytes_of,
    "sign change": signed,
    "read change": lambda case: describe(read_change(_bytes(case))),
    "apply": lambda case: check_change(case)["sequence"],
    "chain after": chain_after,
    "believe": believe,
    "succeed": succeed,
    "signed bytes of an order": lambda case: signed_order_bytes(read_order(_bytes(case))).hex(),
    "sign order": sign_order,
    "judge order": judge_order,
    "audit line": write_line,
    "audit key": public,
    "audit signature": lambda case: sign(case).hex(),
    "audit verify": verify,
    "audit checkpoint": check_document,
    "audit match": compare,
    "greet": hello_of,
    "answer challenge": lambda case: answer_challenge(case, _bytes(case)),
    "answer request": lambda case: answer_request(case, _bytes(case)),
    "key for a caller": key_for_caller,
    "wrap a secret": wrap_secret,
    "unwrap a secret": unwrap_secret,
    "rewrap a secret": rewrap_secret,
    "may": may,
    "who shows a token": who_shows_a_token,
    "read a caller's request": read_request,
    "read grant": lambda case: read_grant(case, _bytes(case)),
    "release challenge": lambda case: make_challenge(case, _bytes(case), RELEASE_CHALLENGE),
    "answer release request": lambda case: answer_release_request(case, _bytes(case)),
    "read release": lambda case: read_release(case, _bytes(case)),
    "appraise enclave": lambda case: appraise_enclave(
        case["claims"], read_policy(case["text"]), case["labels"], case["now"]
    ),
}
