from __future__ import annotations

import json
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.claims import CLAIMS, NOW, TABLE, claims_with, document, table

from rkeyserver.appraisal.enclaves import appraise_enclave, check_enclave
from rkeyserver.appraisal.labels import covers, names
from rkeyserver.appraisal.narrowing import narrows
from rkeyserver.appraisal.policy import MAX_ENCLAVES, Policy, parse_policy
from rkeyserver.attestation.evidence import Identity
from rkeyserver.errors import Misuse, Reason, Rejected

A, B = "aa" * 16, "bb" * 16


def enclave(*labels: str, **differences: object) -> str:
    """An entry that names the enclave of CLAIMS; differences: other keys, None leaves one out."""
    rows = TABLE | {"may": ["derive"], "labels": list(labels)} | differences
    given_rows = [f"{key} = {json.dumps(value)}" for key, value in rows.items() if value is not None]
    return "\n".join(["[[enclaves]]", *given_rows, ""])


def policy(*entries: str) -> Policy:
    """A domain that accepts none of the claims' machine, and these enclaves."""
    return parse_policy(document(table(machines=[A], isv_prod_id=1), *entries))


TWO: Final = policy(enclave("db/*"), enclave("web", isv_prod_id=9), enclave("log", min_isv_svn=4), enclave("log2"))

ACCEPTED: dict[str, list[str]] = {
    "a label": ["db/a"],
    "more of one entry": ["db/a", "db/b", "db/"],
    "of two entries": ["db/a", "log2"],
    "none": [],
}


@pytest.mark.parametrize("labels", ACCEPTED.values(), ids=ACCEPTED)
def test_labels_that_are_listed(labels: list[str]) -> None:
    verdict = appraise_enclave(CLAIMS, TWO, labels, now=NOW)
    assert (verdict.claims, verdict.labels, verdict.policy, verdict.at) == (CLAIMS, tuple(labels), TWO.digest, NOW)


REFUSED: dict[str, tuple[list[str], dict[str, Any], Reason, str]] = {
    "a label of no entry": (["db/a", "x"], {}, Reason.NOT_PERMITTED, "label 'x'"),
    "a label of another enclave's entry": (["web"], {}, Reason.NOT_PERMITTED, "label 'web'"),
    "a label whose entry wants a later version": (["db/a", "log"], {}, Reason.VERSION_TOO_LOW, "For label 'log': "),
    "a debug enclave": (["db/a"], {"debug": True}, Reason.DEBUG_ENCLAVE, "For label 'db/a': "),
    "a status that is not accepted": (["db/a"], {"tcb_status": "OutOfDate"}, Reason.TCB_STATUS, "For label"),
    "another machine": (["db/a"], {"ppid": B}, Reason.MACHINE_NOT_NAMED, f"machine {B}"),
    "the domain's own machine": (["db/a"], {"ppid": A, "isv_prod_id": 1}, Reason.MACHINE_NOT_NAMED, A),
    "other code": (["db/a"], {"mrenclave": "00" * 32}, Reason.ENCLAVE_NOT_NAMED, "00" * 32),
    "another signer": (["db/a"], {"mrsigner": "00" * 32}, Reason.ENCLAVE_NOT_NAMED, "00" * 32),
    "another product": (["db/a"], {"isv_prod_id": 8}, Reason.ENCLAVE_NOT_NAMED, "product id 8"),
    "another platform": (["db/a"], {"platform": "simulated"}, Reason.PLATFORM_NOT_NAMED, "simulated"),
}


@pytest.mark.parametrize(("labels", "differences", "reason", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_and_for_which_label(
    labels: list[str], differences: dict[str, Any], reason: Reason, says: str
) -> None:
    with pytest.raises(Rejected) as refused:
        appraise_enclave(claims_with(**differences), TWO, labels, now=NOW)
    assert refused.value.reason is reason
    assert says in refused.value.message


def test_one_of_several_entries_for_a_label_is_enough() -> None:
    entries = enclave("db", min_isv_svn=9), enclave("d*"), enclave("db", tcb_statuses=["SWHardeningNeeded"])
    assert appraise_enclave(CLAIMS, policy(*entries), ["db"], now=NOW).labels == ("db",)


def test_of_several_entries_that_all_fail_the_first_is_told() -> None:
    entries = enclave("db", min_isv_svn=9), enclave("db", tcb_statuses=["SWHardeningNeeded"])
    with pytest.raises(Rejected, match="version") as refused:
        appraise_enclave(CLAIMS, policy(*entries), ["db"], now=NOW)
    assert refused.value.reason is Reason.VERSION_TOO_LOW


def test_a_policy_without_enclaves_has_none() -> None:
    for identity, reason in (
        (CLAIMS.identity, Reason.MACHINE_NOT_NAMED),
        (Identity("simulated", A), Reason.PLATFORM_NOT_NAMED),
    ):
        with pytest.raises(Rejected) as refused:
            check_enclave(identity, policy())
        assert refused.value.reason is reason


def test_a_machine_that_any_entry_is_on_is_known() -> None:
    check_enclave(CLAIMS.identity, TWO)
    check_enclave(Identity("sgx", B), policy(enclave("a"), enclave("b", machines="any")))


WRONG: dict[str, tuple[str, str]] = {
    "no label": (enclave(), "enclaves[1].labels: found an empty list; wanted is a list of labels"),
    "a label twice": (enclave("a", "a"), "enclaves[1].labels[2]: it names a twice"),
    "a label with a space behind": (enclave("a "), 'enclaves[1].labels[1]: found "a "; wanted is a list of labels'),
    "a star in the middle": (enclave("a", "d*b"), "enclaves[1].labels[2]: 'd*b' has a \"*\" before its end"),
    "no labels": (enclave("a", labels=None), "enclaves[1].labels: it is missing"),
    "nothing that it may": (enclave("a", may=[]), "enclaves[1].may: found an empty list"),
    "no may": (enclave("a", may=None), "enclaves[1].may: it is missing; wanted is a list of derive"),
    "what no enclave may": (enclave("a", may=["wrap"]), 'enclaves[1].may[1]: found "wrap"; wanted is a list of derive'),
    "the same twice": (enclave("a", may=["derive", "derive"]), "enclaves[1].may[2]: it names derive twice"),
    "any code": (enclave("a", mrenclave="any", mrsigner="any"), "enclaves[1].mrsigner: it accepts any code"),
    "no machines": (enclave("a", machines=None), "enclaves[1].machines: it is missing"),
    "an unknown key": (enclave("a", label="a"), "enclaves[1].label: there is no such key"),
    "grace for nothing": (enclave("a", out_of_date_grace_days=3), "enclaves[1].out_of_date_grace_days: there is grace"),
    "the second": (enclave("a") + enclave("b", may=["x"]), 'enclaves[2].may[1]: found "x"'),
    "too many": ("".join(enclave("a") for _ in range(MAX_ENCLAVES + 1)), "enclaves: found a list; wanted is 1 to 64"),
    "a value": ("enclaves = 3\n", "enclaves: found 3; wanted is 1 to 64 tables"),
}


@pytest.mark.parametrize(("text", "says"), WRONG.values(), ids=WRONG)
def test_an_entry_that_cannot_be_read(text: str, says: str) -> None:
    whole = f"version = 1\n{text}{table()}" if text.startswith("enclaves =") else document(table(), text)
    with pytest.raises(Misuse) as refused:
        parse_policy(whole)
    assert says in refused.value.message
    assert "line " in refused.value.message


def test_the_error_names_the_line_of_the_entry() -> None:
    text = document(table(), enclave("a"), enclave("b", smt="maybe"))
    line = text.splitlines().index('smt = "maybe"') + 1
    with pytest.raises(Misuse, match=rf"line {line}: enclaves\[2\].smt: found \"maybe\""):
        parse_policy(text)


NARROWER: dict[str, tuple[list[str], list[str], int]] = {
    "the same": ([enclave("a")], [enclave("a")], 0),
    "in another order": ([enclave("a"), enclave("b")], [enclave("b"), enclave("a")], 0),
    "one more": ([enclave("a")], [enclave("b"), enclave("a")], 0),
    "the first": ([], [enclave("a")], 0),
    "taken off": ([enclave("a"), enclave("b")], [enclave("b")], 1),
    "the last taken off": ([enclave("a")], [], 1),
    "all taken off": ([enclave("a"), enclave("b")], [], 2),
    "a label less": ([enclave("a", "b")], [enclave("a")], 1),
    "a label more": ([enclave("a")], [enclave("a", "b")], 0),
    "a pattern that covers": ([enclave("db/a", "db/b*")], [enclave("db/*")], 0),
    "a pattern that does not": ([enclave("db/*")], [enclave("db/a*")], 1),
    "a machine less": ([enclave("a", machines=[A, B])], [enclave("a", machines=[A])], 1),
    "any machine": ([enclave("a", machines=[A])], [enclave("a", machines="any")], 0),
    "a later version": ([enclave("a", min_isv_svn=3)], [enclave("a", min_isv_svn=4)], 1),
    "an earlier version": ([enclave("a", min_isv_svn=3)], [enclave("a", min_isv_svn=2)], 0),
    "two for one, which none is as wide as": ([enclave("a", "b")], [enclave("a"), enclave("b")], 1),
}


@pytest.mark.parametrize(("old", "new", "count"), NARROWER.values(), ids=NARROWER)
def test_what_narrows(old: list[str], new: list[str], count: int) -> None:
    said = narrows(policy(*old), policy(*new))
    assert len(said) == count
    assert all(one.startswith("[enclaves] no entry accepts all that the entry ") for one in said)


def test_the_labels_that_are_no_longer_given_are_said() -> None:
    (said,) = narrows(policy(enclave("a"), enclave("b", "c/*")), policy(enclave("a")))
    assert said == "[enclaves] no entry accepts all that the entry 2 of before did, for b, c/*."


LETTERS: Final = st.text("ab*", min_size=1, max_size=4)


@given(st.lists(LETTERS, max_size=3), LETTERS, st.text("ab", max_size=5))
def test_what_covers_a_pattern_names_all_that_it_names(patterns: list[str], pattern: str, label: str) -> None:
    if covers(patterns, pattern) and names([pattern], label):
        assert names(patterns, label)


@given(LETTERS)
def test_a_pattern_covers_itself_and_any_is_all(pattern: str) -> None:
    assert covers([pattern], pattern)
    assert covers(["*"], pattern)
    assert not covers([], pattern)
