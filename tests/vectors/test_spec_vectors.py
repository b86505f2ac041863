"""The vectors of docs/spec/vectors, carried out by this implementation and by one written from the pages alone."""

from __future__ import annotations

import ast
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest
from tests.vectors import spec_operations, spec_rkeyserver
from tests.vectors.spec_cases import FOLDER, Case, all_cases
from tests.vectors.spec_reference import operations as reference
from tests.vectors.spec_reference.notation import Refused
from tests.vectors.spec_writers import openapi

from rkeyserver.errors import Corrupt, Misuse, Reason, RkeyError

CASES: Final = all_cases()
POSITIVE: Final = [case for case in CASES if case.error is None]
NEGATIVE: Final = [case for case in CASES if case.error is not None]
# The reference takes a quote's signatures for granted: what only they can show is not for it.
FOR_REFERENCE: Final = [case for case in NEGATIVE if not case.given.get("proved_only")]


def plain(out: object) -> object:
    return out.hex() if isinstance(out, bytes) else out


@pytest.mark.parametrize("case", POSITIVE, ids=str)
def test_rkeyserver_gives_the_output(case: Case) -> None:
    assert spec_operations.OPERATIONS[case.do](case.given) == case.expected


@pytest.mark.parametrize("case", POSITIVE, ids=str)
def test_the_reference_gives_the_output(case: Case) -> None:
    assert plain(reference.OPERATIONS[case.do](case.given)) == case.expected


@pytest.mark.parametrize("case", NEGATIVE, ids=str)
def test_rkeyserver_refuses_for_the_reason(case: Case) -> None:
    with pytest.raises(RkeyError) as caught:
        spec_operations.OPERATIONS[case.do](case.given)
    assert spec_rkeyserver.failure(caught.value) == case.error


@pytest.mark.parametrize("case", FOR_REFERENCE, ids=str)
def test_the_reference_refuses_for_the_reason(case: Case) -> None:
    with pytest.raises(Refused) as caught:
        reference.OPERATIONS[case.do](case.given)
    assert caught.value.failure == case.error


def test_every_operation_has_vectors_and_both_implementations() -> None:
    assert set(spec_operations.OPERATIONS) == set(reference.OPERATIONS) == {case.do for case in CASES}


def test_every_failure_is_a_reason_or_a_kind() -> None:
    known = {str(reason) for reason in Reason} | {Corrupt.__name__, Misuse.__name__}
    assert {case.error for case in NEGATIVE} <= known


# What the formats can refuse for, less what needs a whole instance or a peer.
BEYOND_VECTORS: Final = {
    Reason.NOT_AN_EXTENSION,
    Reason.REFUSED_BY_PEER,
    Reason.SHARE_GIVEN_TWICE,
    Reason.COLLATERAL_EXPIRED,
    Reason.TLS_FAILED,
    Reason.NO_LEASE,  # of what a coordinator says, never of a message
}


def test_every_reason_has_a_negative_vector() -> None:
    assert {case.error for case in NEGATIVE} >= {str(reason) for reason in set(Reason) - BEYOND_VECTORS}


def test_the_reference_imports_nothing_of_the_implementation() -> None:
    folder = Path(__file__).with_name("spec_reference")
    found: set[str] = set()
    for path in folder.glob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        found |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        found |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {"hashlib", "hmac", "tests.vectors.spec_reference.notation"} <= found
    ours = [name for name in found if name.startswith(("rkeyserver", "tests"))]
    assert all(name.startswith("tests.vectors.spec_reference.") for name in ours)


def generator() -> ModuleType:
    spec = spec_from_file_location("generate", FOLDER / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generator_writes_what_is_here() -> None:
    generate = generator()
    written = {name: generate.text(content) for name, content in generate.contents().items()}
    assert written == {path.name: path.read_text("utf-8") for path in FOLDER.glob("*.json")}


def test_the_schema_of_the_policy_is_the_programs() -> None:
    assert generator().policy_schema() == (FOLDER.parent / "policy.schema.json").read_text("utf-8")


@pytest.mark.parametrize("name", openapi.DOCUMENTS)
def test_the_descriptions_of_http_are_the_programs(name: str) -> None:
    assert openapi.DOCUMENTS[name]() == (FOLDER.parent / name).read_text("utf-8")


def test_the_generator_can_record_anew() -> None:
    """What is random by nature differs; every case in it still ends as it says."""
    generate = generator()
    new, old = generate.contents(new=True), generate.contents()
    random = {"exchange.json", "hpke.json", "mint-statement.json", "recovery.json", "release.json"}
    assert {name for name in new if new[name] != old[name]} == random
