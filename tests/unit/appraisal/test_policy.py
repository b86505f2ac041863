from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.claims import CLAIMS, TABLE, document, policy_with, table

from rkeyserver.appraisal.policy import MAX_POLICY, parse_policy
from rkeyserver.errors import Misuse


def test_a_policy_keeps_its_text_and_names_its_digest() -> None:
    text = document("# as an admin wrote it", table())
    policy = parse_policy(text)
    assert policy.text == text
    assert policy.digest == hashlib.sha256(text.encode()).hexdigest()
    assert list(policy.tables) == ["sgx"]


def test_a_change_of_a_comment_is_another_policy() -> None:
    assert parse_policy(document(table())).digest != parse_policy(document("#", table())).digest


def test_a_policy_is_text_in_any_language() -> None:
    text = document("# Änderung, 変更", table())
    assert parse_policy(text).digest == hashlib.sha256(text.encode()).hexdigest()


def test_a_comment_may_be_a_line_of_dots() -> None:
    assert parse_policy(document("  # " + "." * 100, table())).tables


WRONG: dict[str, tuple[str, str]] = {
    "empty": ("", "version"),
    "only blanks": (" \n\t\n", "version"),
    "no platform": (document(), "names no platform"),
    "no version": (table(), "version"),
    "version 0": ("version = 0\n" + table(), "version"),
    "version 2": ("version = 2\n" + table(), "version"),
    "version as text": ('version = "1"\n' + table(), "version"),
    "version true": ("version = true\n" + table(), "version"),
    "version 1.0": ("version = 1.0\n" + table(), "version"),
    "an unknown platform": (document(table("sgx2")), "sgx2"),
    "a platform that is not built": (document(table("tpm")), "tpm"),
    "a platform in another case": (document(table("SGX")), "SGX"),
    "an unknown key at the top": ("strict = false\n" + document(table()), "strict"),
    "simulated beside a real one": (document(table(), table("simulated")), "mixes `simulated`"),
    "simulated beside a real one, first": (document(table("simulated"), table()), "mixes `simulated`"),
    "a table twice": (document(table(), table()), "cannot be read"),
    "a key twice": (document(table() + 'machines = "any"\n'), "cannot be read"),
    "a key twice, in two forms": (document(table() + '"machines" = "any"\n'), "cannot be read"),
    "a table that is a list": (document("[[sgx]]\n" + table().removeprefix("[sgx]\n")), "sgx"),
    "a table that is a value": (document('sgx = "any"'), "sgx"),
    "an empty table": (document("[sgx]"), "machines"),
    "broken TOML": (document("[sgx"), "cannot be read"),
    "JSON": ('{"version": 1}', "cannot be read"),
    "a NUL": (document("\0", table()), "cannot be read"),
    "a lone surrogate": (document("# \ud800", table()), "cannot be read"),
    "carriage returns alone": (document(table()).replace("\n", "\r"), "cannot be read"),
    "any code": (document(table(mrenclave="any", mrsigner="any")), "accepts any code"),
    "any code, simulated": (document(table("simulated", mrenclave="any", mrsigner="any")), "accepts any code"),
    "a key of many parts": (document("x." * 60_000 + "x = 1", table()), "line 2: it has more than 64 dots"),
    "a key of many quoted parts": (document('"x\\"" . ' * 100 + "x = 1", table()), "line 2: it has more than 64 dots"),
    "a header of many parts": (document(f"[{'x.' * 100}x]", table()), "line 2: it has more than 64 dots"),
    "a number without end": (document(table(isv_prod_id=None) + f"isv_prod_id = {'9' * 5000}\n"), "cannot be read"),
    "not a number": (document(table(isv_prod_id=None) + "isv_prod_id = nan\n"), "isv_prod_id"),
    "a date": (document(table(isv_prod_id=None) + "isv_prod_id = 2026-01-01\n"), "isv_prod_id"),
}


@pytest.mark.parametrize(("text", "says"), WRONG.values(), ids=WRONG)
def test_a_wrong_document_is_no_policy(text: str, says: str) -> None:
    with pytest.raises(Misuse) as raised:
        parse_policy(text)
    assert says in raised.value.message


@pytest.mark.parametrize("key", TABLE)
def test_nothing_has_a_default(key: str) -> None:
    with pytest.raises(Misuse, match=key) as raised:
        policy_with(**{key: None})
    assert "docs/spec/policy.md" in raised.value.advice


@pytest.mark.parametrize("name", ["sgx", "simulated"])
def test_an_unknown_key_is_an_error_and_no_no_op(name: str) -> None:
    with pytest.raises(Misuse, match="min_isv_svm"):
        policy_with(name, min_isv_svm=1)


PPID, HASH = CLAIMS.ppid, CLAIMS.mrenclave
VALUES: dict[str, list[object]] = {
    "machines": [[], "", "all", "ANY", "any ", ["any"], [PPID, "any"], PPID, [PPID.upper()], [PPID[:-1]], [PPID + "0"],
                 [PPID + "\n"], [PPID, PPID], [[PPID]], [0], 0, True, {}],
    "mrenclave": [[], "", "all", "none", ["any"], HASH, [HASH.upper()], [HASH[:-2]], [HASH + "00"], [HASH, HASH], [1]],
    "mrsigner": [[], "", "all", "none", ["any"], HASH, [HASH.upper()], [HASH[:-2]], [HASH + "00"], [HASH + "\n"], [1]],
    "isv_prod_id": [-1, 65_536, "1", 1.5, True, [1], "any"],
    "min_isv_svn": [-1, 65_536, "1", 1.5, False, [1], "any"],
    "tcb_statuses": [[], "any", "UpToDate", ["any"], ["uptodate"], ["UpToDate", ""], ["Revoked"],
                     ["UpToDate", "Revoked"], ["UpToDate", "OutOfDate", "UpToDate"], [0]],
    "out_of_date_grace_days": [-1, 3651, "30", 30.5, True, [30], "any"],
    "rejected_advisories": [[], "", "any", "None", ["none"], ["INTEL-SA-0615"], ["INTEL-SA-006150"], ["intel-sa-00615"],
                            ["INTEL-SA-00615\n"], ["INTEL-SA-00615"] * 2, ["*"], "INTEL-SA-00615"],
    "min_tcb_evaluation_data_number": [0, -1, 2**31 + 1, "17", 17.5, True, "any"],
    "dynamic_platform": ["", "any", "Accept", True, False, 0, ["accept"]],
    "cached_keys": ["", "any", "Refuse", True, False, 0, ["accept"]],
    "smt": ["", "any", "yes", True, False, 0, ["accept"]],
}  # fmt: skip
CASES = [(key, value) for key, values in VALUES.items() for value in values]


@pytest.mark.parametrize(("key", "value"), CASES, ids=[f"{key}={value!r}" for key, value in CASES])
def test_a_value_of_another_form_is_refused(key: str, value: object) -> None:
    with pytest.raises(Misuse, match=key):
        policy_with(**{key: value})


def test_every_key_has_wrong_values() -> None:
    assert set(VALUES) == set(TABLE)


EDGES: dict[str, list[object]] = {
    "isv_prod_id": [0, 65_535],
    "min_isv_svn": [0, 65_535],
    "min_tcb_evaluation_data_number": [1, 2**31],
    "machines": ["any", [PPID], [PPID, "00" * 16]],
    "mrenclave": ["any", [HASH, "00" * 32]],
    "mrsigner": ["any", [HASH, "00" * 32]],
    "rejected_advisories": ["none", ["INTEL-SA-00000", "INTEL-SA-99999"]],
}
GOOD = [(key, value) for key, values in EDGES.items() for value in values]


@pytest.mark.parametrize(("key", "value"), GOOD, ids=[f"{key}={value!r}" for key, value in GOOD])
def test_a_value_at_its_edge_is_read_as_written(key: str, value: object) -> None:
    assert getattr(policy_with(**{key: value}).tables["sgx"], key) == value


def test_a_giant_document_is_refused_unread() -> None:
    filler = document(table()) + "#"
    at_the_edge = filler + "x" * (MAX_POLICY - len(filler))
    assert parse_policy(at_the_edge).text == at_the_edge
    with pytest.raises(Misuse, match=rf"{MAX_POLICY + 1} characters; at most {MAX_POLICY}"):
        parse_policy(at_the_edge + "x")


DEEP: dict[str, str] = {
    "lists": "a = " + "[" * 60_000 + "]" * 60_000,
    "lists that do not end": "a = " + "[" * 120_000,
    "tables in tables": "a = " + "{a=" * 20_000 + "1" + "}" * 20_000,
    "dotted keys": "a." * 10_000 + "a = 1",
    "a dotted table": "[" + "a." * 10_000 + "a]",
    "lists inside a known key": "[sgx]\nmachines = " + "[" * 60_000 + "]" * 60_000,
}


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_a_deep_document_is_refused_and_crashes_nothing(text: str) -> None:
    with pytest.raises(Misuse, match="cannot be read"):
        parse_policy(document(text))


@given(st.text(max_size=200))
def test_any_text_is_refused_or_read(text: str) -> None:
    with pytest.raises(Misuse):
        parse_policy(text)
    with pytest.raises(Misuse):
        parse_policy(document(table()) + "\n" + text + "\n= 1\n")
