"""The operations of callers.json, carried out by rkeyserver."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from tests.vectors.spec_rkeyserver import Json, Operation, key_memory, randomness

from rkeyserver.appraisal.callers import Action, Caller, LocalCaller, TokenCaller, check_permitted
from rkeyserver.appraisal.policy import parse_policy
from rkeyserver.appraisal.token_callers import caller_of
from rkeyserver.keyring.derived import derive
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.wrapping import rewrap, unwrap, wrap
from rkeyserver.service.callers_requests import DeriveRequest, UnwrapRequest, WrapRequest, read_request

KINDS: Final[dict[str, Any]] = {
    "Derive": DeriveRequest,
    "Wrap": WrapRequest,
    "Unwrap": UnwrapRequest,
}


@contextlib.contextmanager
def held(case: Json) -> Iterator[Keyring]:
    with contextlib.closing(Keyring.parse(key_memory(bytes.fromhex(case["keyring"])))) as keyring:
        yield keyring


def _about(case: Json) -> tuple[bytes, bytes]:
    return case["label"].encode(), bytes.fromhex(case["associated_data"])


def _key(case: Json) -> Json:
    with held(case) as keyring:
        found = derive(keyring, case["label"].encode(), size=case["size"], generation=case["generation"])
        with found.secret as secret:
            return {"key": secret.view.hex(), "generation": found.generation}


def _wrap(case: Json) -> str:
    label, about = _about(case)
    with held(case) as keyring, randomness(bytes.fromhex(case["salt"])):
        return wrap(keyring, label, memoryview(bytes.fromhex(case["plaintext"])), about).hex()


def _unwrap(case: Json) -> Json:
    label, about = _about(case)
    with held(case) as keyring:
        found = unwrap(keyring, label, bytes.fromhex(case["bytes"]), about)
        with found.secret as secret:
            return {"plaintext": secret.view.hex(), "generation": found.generation}


def _rewrap(case: Json) -> str:
    label, about = _about(case)
    with held(case) as keyring, randomness(*map(bytes.fromhex, case["salts"])):
        return rewrap(keyring, label, bytes.fromhex(case["bytes"]), about).hex()


def _may(case: Json) -> bool:
    who = case["caller"]
    caller: Caller = (
        TokenCaller(who["token_sha256"])
        if "token_sha256" in who
        else LocalCaller(pid=1, uid=who["uid"], gids=frozenset(who["gids"]), own=False)
    )
    check_permitted(caller, Action(case["action"]), case["label"], parse_policy(case["policy"]))
    return True


def _shows(case: Json) -> str:
    return caller_of(case["authorization"], parse_policy(case["policy"])).digest


def _read(case: Json) -> Json:
    found = msgspec.structs.asdict(read_request(bytes.fromhex(case["bytes"]), KINDS[case["kind"]]))
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in found.items()}


OPERATIONS: Final[dict[str, Operation]] = {
    "key for a caller": _key,
    "wrap a secret": _wrap,
    "unwrap a secret": _unwrap,
    "rewrap a secret": _rewrap,
    "may": _may,
    "who shows a token": _shows,
    "read a caller's request": _read,
}
