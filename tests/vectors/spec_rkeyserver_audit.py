"""The operations of audit.json, carried out by rkeyserver."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.vectors.spec_cases import Json
from tests.vectors.spec_rkeyserver import key_memory

from rkeyserver.keyring.checkpoint_key import CheckpointKey
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.service.audit_chain import Head, checkpoint_bytes, parse_checkpoint
from rkeyserver.service.audit_match import match
from rkeyserver.service.audit_verify import Log, check_contains, verify


def line(case: Json) -> str:
    head = Head(case["chain"], case["number"], bytes.fromhex(case["prev"]))
    return head.append(case["body"].encode())[0].hex()


def _key(case: Json) -> CheckpointKey:
    keyring = Keyring.parse(key_memory(bytes.fromhex(case["keyring"])))
    try:
        return CheckpointKey.derive(keyring)
    finally:
        keyring.close()


def public(case: Json) -> str:
    key = _key(case)
    try:
        return key.public
    finally:
        key.close()


def sign(case: Json) -> str:
    key = _key(case)
    head = Head(case["chain"], case["lines"], bytes.fromhex(case["head"]))
    try:
        return key.sign(checkpoint_bytes(domain=key.domain, machine=case["machine"], head=head, at=case["at"]))
    finally:
        key.close()


def _log(folder: str, name: str, data: str, key: str) -> Log:
    path = Path(folder) / name
    path.write_bytes(bytes.fromhex(data))
    return verify([path], key=key)


def verify_file(case: Json) -> Json:
    with tempfile.TemporaryDirectory() as folder:
        log = _log(folder, "log", case["bytes"], case.get("key", ""))
    assert log.head is not None
    return {
        "chain": log.head.chain,
        "machine": log.machine,
        "begins": log.begins,
        "lines": log.head.lines,
        "head": log.head.digest.hex(),
        "signed": 0 if log.signed is None else log.signed.lines,
        "before": log.before,
        "torn": [size for _, size in log.torn],
        "rest": log.rest,
    }


def check_document(case: Json) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        log = _log(folder, "log", case["bytes"], "")
        check_contains(log, parse_checkpoint(case["document"].encode()), case.get("key", ""))
    return True


def compare(case: Json) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return match([_log(folder, str(index), data, "") for index, data in enumerate(case["logs"])]).pairs


OPERATIONS: Final[dict[str, Callable[[Json], Any]]] = {
    "audit line": line,
    "audit key": public,
    "audit signature": sign,
    "audit verify": verify_file,
    "audit checkpoint": check_document,
    "audit match": compare,
}
