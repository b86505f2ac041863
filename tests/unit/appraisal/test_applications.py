"""Applications in a policy: what can be written, which one an enclave is, what less of them means."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.application import entry, provision
from tests.fakes.claims import CLAIMS, NOW, claims_with, document, table

from rkeyserver.appraisal.ambiguity import is_that
from rkeyserver.appraisal.applications import appraise_application, check_generations
from rkeyserver.appraisal.narrowing import narrows
from rkeyserver.appraisal.policy import MAX_APPLICATIONS, Policy, parse_policy
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.errors import Misuse, Reason, Rejected

M1, M2, M3 = ("11" * 32, "22" * 32, "33" * 32)
S1, S2 = "aa" * 32, "bb" * 32
P1, P2 = "01" * 16, "02" * 16
GENERATION = "0d" * 16


def text(*applications: str, ca: str = "first") -> str:
    return document(table()) + provision(ca) + "".join(applications)


def policy(*applications: str, ca: str = "first") -> Policy:
    return parse_policy(text(*applications, ca=ca))


def test_what_an_entry_says() -> None:
    found = policy(entry("db", size=32, encoding="hex", generation=GENERATION, mrenclave=[M1]), ca="current")
    (one,) = found.applications
    assert (one.label, one.size, one.encoding, one.generation, one.mrenclave) == ("db", 32, "hex", GENERATION, [M1])
    assert found.ca_generation == "current"
    assert found.generations_named() == {GENERATION}
    assert parse_policy(document(table())).ca_generation is None
    assert parse_policy(document(table())).generations_named() == set()
    assert policy(entry("db"), ca=GENERATION).generations_named() == {GENERATION}


LABELS = {
    "one character": "a",
    "what is printable": "a B~!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}",
    "256": "x" * 256,
}


@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
def test_labels(label: str) -> None:
    assert policy(entry(label)).applications[0].label == label


NO_LABELS = {
    "empty": "", "257": "x" * 257, "a space before": " a", "a space behind": "a ", "a line feed": "a\nb",
    "a line feed at its end": "a\n", "NUL": "a\0", "not ASCII": "schlüssel",
}  # fmt: skip


@pytest.mark.parametrize("label", NO_LABELS.values(), ids=NO_LABELS)
def test_no_labels(label: str) -> None:
    with pytest.raises(Misuse, match=r"applications\[1\]\.label: found .*; wanted is 1 to 256 printable ASCII"):
        policy(entry(label))


# What is written, and all that the error says of it.
WRONG: dict[str, tuple[str, str]] = {
    "no [provision]": (document(table()) + entry("a"), "line 1: provision: it is missing beside applications"),
    "[provision] alone": (
        document(table()) + provision(),
        "line 16: provision: there are no [[applications]], and no callers with a token, that it is for",
    ),
    "no ca_generation": (
        document(table()) + "\n[provision]\n" + entry("a"), "line 16: provision.ca_generation: it is missing;",
    ),
    "another word for a generation": (
        text(entry("a"), ca="newest"), 'line 17: provision.ca_generation: found "newest"; wanted is "first", "current"',
    ),
    "an unknown key": (text(entry("a", extra="b")), "line 36: applications[1].extra: there is no such key"),
    **{
        f"no {key}": (text(entry("a", **{key: None})), f"line 19: applications[1].{key}: it is missing; wanted is")
        for key in ("label", "size", "encoding", "generation", "machines", "mrenclave", "smt", "min_isv_svn")
    },
    "another size": (text(entry("a", size=24)), "line 21: applications[1].size: found 24; wanted is 16 or 32."),
    "size as text": (text(entry("a", size="16")), 'line 21: applications[1].size: found "16"; wanted is 16 or 32.'),
    "another encoding": (
        text(entry("a", encoding="base64")), 'line 22: applications[1].encoding: found "base64"; wanted is "raw" or',
    ),
    "a generation in upper case": (
        text(entry("a", generation=GENERATION.upper())), 'applications[1].generation: found "0D',
    ),
    "any code": (
        text(entry("a", mrenclave="any", mrsigner="any")),
        "line 26: applications[1].mrsigner: it accepts any code: neither mrenclave nor mrsigner is named",
    ),
    "a measurement twice": (
        text(entry("a", mrenclave=[M1, M1])), f"line 25: applications[1].mrenclave[2]: it names {M1} twice",
    ),
    "in the second, on its line": (
        text(entry("a", mrenclave=[M1]), entry("b", mrenclave=[M2], size=1)), "line 39: applications[2].size: found 1;",
    ),
    "a label twice": (
        text(entry("a", mrenclave=[M1]), entry("a", mrenclave=[M2])),
        "line 38: applications[2].label: application 1 has the label 'a' too",
    ),
    "a table and no array": (
        text(entry("a").replace("[[applications]]", "[applications]")), "line 19: applications: found a table;",
    ),
    "an empty array": (
        "applications = []\n" + document(table()) + provision(),
        "line 1: applications: found an empty list; wanted is 1 to 64 tables",
    ),
    "too many": (
        text(*(entry(f"a{number}", isv_prod_id=number) for number in range(MAX_APPLICATIONS + 1))),
        "applications: found a list; wanted is 1 to 64 tables",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("written", "says"), WRONG.values(), ids=WRONG)
def test_wrong(written: str, says: str) -> None:
    with pytest.raises(Misuse, match=re.escape(says)):
        parse_policy(written)


# Two entries; whether one enclave could be both.
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "the same": ({}, {}, True),
    "two measurements": ({"mrenclave": [M1]}, {"mrenclave": [M2]}, False),
    "a measurement in common": ({"mrenclave": [M1, M3]}, {"mrenclave": [M2, M3]}, True),
    "a measurement, and any of a signer": (
        {"mrenclave": [M1]}, {"mrenclave": "any", "mrsigner": [S1]}, True,
    ),
    "a measurement of one signer, and any of another": (
        {"mrenclave": [M1], "mrsigner": [S2]}, {"mrenclave": "any", "mrsigner": [S1]}, False,
    ),
    "two products": ({"isv_prod_id": 1}, {"isv_prod_id": 2}, False),
    "two machines": ({"machines": [P1]}, {"machines": [P2]}, False),
    "any machine, and one": ({"machines": "any"}, {"machines": [P2]}, True),
    "versions alone": ({"min_isv_svn": 1}, {"min_isv_svn": 9}, True),
    "statuses alone": ({"tcb_statuses": ["UpToDate"]}, {"tcb_statuses": ["SWHardeningNeeded"]}, True),
}  # fmt: skip


@pytest.mark.parametrize(("first", "second", "both"), PAIRS.values(), ids=PAIRS)
def test_one_enclave_has_one_label(first: dict[str, Any], second: dict[str, Any], *, both: bool) -> None:
    for one, other in ((first, second), (second, first)):
        made = text(entry("x", isv_prod_id=7), entry("a", **one), entry("b", **other))
        if both:
            says = r"applications\[3\]: an enclave could be both this one and application 2, and none says which key"
            with pytest.raises(Misuse, match=says):
                parse_policy(made)
        else:
            parse_policy(made)


NAMED = st.sampled_from(["any", [M1], [M2], [M1, M2]])
WHO = st.fixed_dictionaries(
    {
        "machines": st.sampled_from(["any", [P1], [P2], [P1, P2]]),
        "mrenclave": NAMED,
        "mrsigner": st.sampled_from([[S1], [S2], [S1, S2]]),
        "isv_prod_id": st.sampled_from([1, 2]),
    }
)


@given(entries=st.lists(WHO, min_size=1, max_size=4))
@settings(deadline=None)
def test_in_a_policy_that_is_read_no_enclave_is_two(entries: list[dict[str, Any]]) -> None:
    every = [
        claims_with(ppid=ppid, mrenclave=code, mrsigner=signer, isv_prod_id=product)
        for ppid in (P1, P2)
        for code in (M1, M2)
        for signer in (S1, S2)
        for product in (1, 2)
    ]
    alone = [policy(entry("a", **one)).applications[0] for one in entries]
    most = max(sum(is_that(claims, one) for one in alone) for claims in every)
    try:
        policy(*(entry(f"a{number}", **one) for number, one in enumerate(entries)))
    except Misuse:
        assert most > 1
    else:
        assert most <= 1


ENTRY: dict[str, Any] = {
    "machines": [CLAIMS.ppid],
    "mrenclave": [CLAIMS.mrenclave],
    "mrsigner": [CLAIMS.mrsigner],
    "isv_prod_id": CLAIMS.isv_prod_id,
    "min_isv_svn": CLAIMS.isv_svn,
    "min_tcb_evaluation_data_number": 17,
    "rejected_advisories": ["INTEL-SA-00615"],
    "dynamic_platform": "refuse",
    "cached_keys": "refuse",
    "smt": "refuse",
}
JUDGED = policy(entry("other", isv_prod_id=999), entry("db", **ENTRY))

# What differs, and the reason.
REFUSED: dict[str, tuple[dict[str, Any], Reason]] = {
    "another platform": ({"platform": "simulated"}, Reason.PLATFORM_NOT_NAMED),
    "another machine": ({"ppid": "00" * 16}, Reason.APPLICATION_NOT_NAMED),
    "another measurement": ({"mrenclave": "00" * 32}, Reason.APPLICATION_NOT_NAMED),
    "another signer": ({"mrsigner": "00" * 32}, Reason.APPLICATION_NOT_NAMED),
    "another product": ({"isv_prod_id": 8}, Reason.APPLICATION_NOT_NAMED),
    "debug": ({"debug": True}, Reason.DEBUG_ENCLAVE),
    "an older version": ({"isv_svn": 2}, Reason.VERSION_TOO_LOW),
    "a TCB status": ({"tcb_status": "SWHardeningNeeded"}, Reason.TCB_STATUS),
    "a revoked platform": ({"tcb_status": "Revoked"}, Reason.TCB_STATUS),
    "old collateral": ({"tcb_eval_data_number": 16}, Reason.TCB_TOO_OLD),
    "an advisory": ({"advisory_ids": ("INTEL-SA-00615",)}, Reason.ADVISORY),
    "SMT": ({"smt_enabled": "True"}, Reason.PLATFORM_CONFIGURATION),
    "expired collateral": ({"expires": NOW - 1}, Reason.TCB_TOO_OLD),
}


def test_which_application_it_is() -> None:
    verdict = appraise_application(CLAIMS, JUDGED, now=NOW)
    assert verdict.application.label == "db"
    assert (verdict.claims, verdict.policy, verdict.at) == (CLAIMS, JUDGED.digest, NOW)


@pytest.mark.parametrize(("differs", "reason"), REFUSED.values(), ids=REFUSED)
def test_refused(differs: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(Rejected) as refused:
        appraise_application(claims_with(**differs), JUDGED, now=NOW)
    assert refused.value.reason is reason


def test_a_policy_without_applications_gives_nothing_to_machines_it_names() -> None:
    with pytest.raises(Rejected, match=r"none of the policy's 0 application\(s\)") as refused:
        appraise_application(CLAIMS, parse_policy(document(table())), now=NOW)
    assert refused.value.reason is Reason.APPLICATION_NOT_NAMED


def test_the_refusal_says_what_was_found() -> None:
    found: SgxClaims = claims_with(mrenclave=M1)
    with pytest.raises(Rejected) as refused:
        appraise_application(found, JUDGED, now=NOW)
    assert all(one in str(refused.value) for one in (M1, found.mrsigner, found.ppid, "[[applications]]"))


def test_narrowing() -> None:
    both = policy(entry("a", mrenclave=[M1, M2]), entry("b", mrenclave=[M3]))
    less = policy(entry("a", mrenclave=[M1]))
    assert narrows(both, less) == [
        f"[applications 'a'] mrenclave: MRENCLAVE {M2} is no longer accepted.",
        "[applications 'b']: gets no key any more.",
    ]
    assert narrows(less, both) == []
    none = parse_policy(document(table()))
    assert narrows(less, none) == ["[applications 'a']: gets no key any more."]
    assert narrows(none, both) == []


OTHER_KEY: dict[str, dict[str, Any]] = {
    "size": {"size": 32}, "encoding": {"encoding": "hex"}, "generation": {"generation": "first"},
}  # fmt: skip


@pytest.mark.parametrize("differs", OTHER_KEY.values(), ids=OTHER_KEY)
def test_another_key_for_the_same_is_not_less(differs: dict[str, Any]) -> None:
    assert narrows(policy(entry("a")), policy(entry("a", **differs))) == []
    assert narrows(policy(entry("a")), policy(entry("a"), ca="current")) == []


def test_generations_that_a_policy_names() -> None:
    named = policy(entry("a", generation=GENERATION), ca="first")
    check_generations(named, [GENERATION, "0e" * 16])
    check_generations(policy(entry("a")), ())
    with pytest.raises(
        Misuse, match=f"names generation {GENERATION}, which is none of the keyring's: it has {'0e' * 16}"
    ):
        check_generations(named, ["0e" * 16])
    with pytest.raises(Misuse, match="a new domain has none yet"):
        check_generations(policy(entry("a"), ca=GENERATION), ())
