"""An error in a policy names its line."""

from __future__ import annotations

import re
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.admins import bare_line

from rkeyserver.appraisal.policy import parse_policy
from rkeyserver.appraisal.toml_lines import Path, line_of
from rkeyserver.errors import Misuse

PPID, HASH = "a1" * 16, "b2" * 32
KEY_A = bare_line("ann")
KEY_B = bare_line("bob")
POLICY = f"""\
# A comment, with [brackets] and = signs
version = 1

[sgx]
machines = [
  "{PPID}",  # the first, "quoted"
  "{"00" * 16}",
]
mrenclave = "any"
mrsigner = ["{HASH}"]
isv_prod_id = 1
min_isv_svn = 2
tcb_statuses = ["UpToDate"]
out_of_date_grace_days = 0
rejected_advisories = "none"
min_tcb_evaluation_data_number = 17
dynamic_platform = "refuse"
cached_keys = "refuse"
smt = "accept"

[admins]
threshold = 1
keys = [
  "{KEY_A} alice",

  "{KEY_B} bob",
]

[recovery]
threshold = 2
recipients = ["{KEY_A}", "{KEY_B}"]
"""

# What is put for what, and all that the error says.
CASES: dict[str, tuple[str, str, str]] = {
    "no TOML": ('mrenclave = "any"', "mrenclave = any", "line 9: it is no TOML: Invalid value"),
    "a string that does not end": ('mrenclave = "any"', 'mrenclave = "any', "line 9: it is no TOML: Illegal character"),
    "a list that does not end": (POLICY[POLICY.index("[recovery]") :], "x = [", "line 29: it is no TOML: "),
    "a key twice": ("min_isv_svn = 2", "isv_prod_id = 2", "line 12: it is no TOML: Cannot overwrite a value"),
    "a number too long": (
        "min_isv_svn = 2",
        f"min_isv_svn = {'9' * 5000}",
        "line 12: it has a number that is too long",
    ),
    "no Unicode": ("# A", "#\n# \ud800", "line 2: it has a character that is none in Unicode"),
    "another version": ("version = 1", "version = 2", "line 2: version: found 2; wanted is 1"),
    "no version": ("version = 1\n", "", "line 1: version: it is missing; wanted is 1"),
    "a table as a value": ("[admins]", "simulated = 3\n[admins]", "line 21: sgx.simulated: there is no such key"),
    "an unknown key": ("smt = ", 'SMT = "refuse"\nsmt = ', "line 19: sgx.SMT: there is no such key"),
    "an unknown key in quotes": ("smt = ", '"a = [b].c" = 1\nsmt = ', "line 19: sgx.a = [b].c: there is no such key"),
    "an unknown platform": ("[recovery]", "[tpm]\nx = 1\n[recovery]", "line 29: tpm: there is no such key"),
    "a missing key": ("min_isv_svn = 2\n", "", "line 4: sgx.min_isv_svn: it is missing; wanted is a number from 0 to"),
    "an empty list": (f'["{HASH}"]', "[]", 'line 10: sgx.mrsigner: found an empty list; wanted is "any", or a list of'),
    "a wrong element": (
        f'"{"00" * 16}"',
        '"00"',
        'line 7: sgx.machines[2]: found "00"; wanted is "any", or a list of PP',
    ),
    "a machine twice": ("00" * 16, PPID, f"line 7: sgx.machines[2]: it names {PPID} twice"),
    "a number out of range": (
        "isv_prod_id = 1",
        "isv_prod_id = 65536",
        "line 11: sgx.isv_prod_id: found 65536; wanted is a",
    ),
    "a giant number in hex": (
        "isv_prod_id = 1",
        f"isv_prod_id = 0x{'f' * 9000}",
        "line 11: sgx.isv_prod_id: found a number beyond 64 bits; wanted is",
    ),
    "a long value": (
        "isv_prod_id = 1",
        f"isv_prod_id = '{'x' * 99}'",
        f'sgx.isv_prod_id: found "{"x" * 79}...; wanted',
    ),
    "a switch as a boolean": ('"accept"', "true", 'line 19: sgx.smt: found true; wanted is "accept" or "refuse"'),
    "a switch as a list": ('"accept"', '["accept"]', "line 19: sgx.smt: found a list; wanted is"),
    "a switch as a table": ('"accept"', "{a = [1, 2]}", "line 19: sgx.smt: found a table; wanted is"),
    "a date": (
        "isv_prod_id = 1",
        "isv_prod_id = 2026-01-01",
        "line 11: sgx.isv_prod_id: found 2026-01-01; wanted is a",
    ),
    "Revoked": (
        '"UpToDate"',
        '"Revoked"',
        'line 13: sgx.tcb_statuses[1]: found "Revoked"; wanted is a list of UpToDate',
    ),
    "any code": (f'["{HASH}"]', '"any"', "line 10: sgx.mrsigner: it accepts any code: neither mrenclave nor"),
    "out of date without grace": (
        '"UpToDate"',
        '"OutOfDate"',
        "line 14: sgx.out_of_date_grace_days: tcb_statuses names OutOfDate, which 0 days of",
    ),
    "grace for nothing": (
        "grace_days = 0",
        "grace_days = 9",
        "line 14: sgx.out_of_date_grace_days: there is grace, but tcb_statuses names no",
    ),
    "no platform": (POLICY[POLICY.index("[sgx]") :], "", "line 1: it names no platform, so it would accept nothing"),
    "simulated beside it": (
        "[admins]",
        POLICY[POLICY.index("[sgx]") : POLICY.index("[admins]")].replace("sgx", "simulated") + "[admins]",
        "line 21: simulated: it mixes `simulated`, which protects nothing, with a real platform",
    ),
    "an admin's key of another kind": (
        KEY_B,
        "ssh-rsa x",
        'line 26: admins.keys[2]: found "ssh-rsa x bob"; wanted is a',
    ),
    "an admin twice": (KEY_B, KEY_A, "line 26: admins.keys[2]: it names a key twice"),
    "admins that never are enough": (
        "threshold = 1",
        "threshold = 3",
        "line 22: admins.threshold: it wants 3 of 2 keys",
    ),
    "a threshold of none": (
        "threshold = 2",
        "threshold = 0",
        "line 30: recovery.threshold: found 0; wanted is a number fr",
    ),
    "a recipient twice": (f'"{KEY_B}"]', f'"{KEY_A} x"]', "line 31: recovery.recipients[2]: it names a key twice"),
    "an unknown key of recovery": (
        "recipients = [",
        "x = 1\nrecipients = [",
        "line 31: recovery.x: there is no such key",
    ),
}


def test_the_policy_is_one_as_it_stands() -> None:
    assert set(parse_policy(POLICY).tables) == {"sgx"}


@pytest.mark.parametrize(("found", "wrong", "says"), CASES.values(), ids=CASES)
def test_an_error_names_line_key_and_what_is_wanted(found: str, wrong: str, says: str) -> None:
    assert found in POLICY
    with pytest.raises(Misuse) as raised:
        parse_policy(POLICY.replace(found, wrong, 1))
    assert says in raised.value.message
    assert raised.value.message.startswith("The policy cannot be read: ")
    assert raised.value.message.isprintable()
    assert "regex" not in raised.value.message
    assert raised.value.advice


LINES: dict[str, tuple[str, Path, int]] = {
    "nothing": ("", ("a",), 1),
    "a key": ("a = 1\nb = 2\n", ("b",), 2),
    "the last, without an end of line": ("a = 1\nb = 2", ("b",), 2),
    "the nearest above": ("[a]\nb = 1\n[c]\nd = 1", ("c", "x"), 3),
    "a dotted key": ("\na.b.c = 1", ("a", "b", "c"), 2),
    "in a dotted table, quoted": ('[ "x.y" . z ]\na = 1', ("x.y", "z", "a"), 2),
    "after a text of many lines": ('a = """\nb = 1\n[x]\n"""\nb = 2', ("b",), 5),
    "after one in single quotes": ("a = '''\nb = 1\n'' '''\nb = 2", ("b",), 4),
    "after escaped quotes": ('a = "\\"" # "\nb = "#"\nc = 1', ("c",), 3),
    "an element in a list of lists": ("a = [[1,\n2], [3],\n{b = 4}]", ("a", 2), 3),
    "an element after a comment": ("a = [ # [\n1, # ]\n# x,\n2]", ("a", 1), 4),
    "in a table of a list": ("[[a]]\nb = 1\n[[a]]\nc = 2", ("a", 1, "c"), 4),
    "with carriage returns": ("a = 1\r\nb = [\r\n1,\r\n2]\r\n", ("b", 1), 4),
}


@pytest.mark.parametrize(("text", "path", "line"), LINES.values(), ids=LINES)
def test_the_line_of_a_key(text: str, path: Path, line: int) -> None:
    tomllib.loads(text)
    assert line_of(text, path) == line


VALUES = st.sampled_from(['"="', "'#'", "1", "[1,\n2]", "{a = [3]}", '"""\n[x]\n"""', "'''\n]'''", "[ ] # ]"])


@given(st.lists(st.tuples(VALUES, st.sampled_from(["\n", "\n\n", " # [ \" ' =\n"])), min_size=1, max_size=8), st.data())
def test_every_key_of_a_document_is_found(values: list[tuple[str, str]], data: st.DataObject) -> None:
    text, lines = "", []
    for index, (value, end) in enumerate(values):
        lines.append(text.count("\n") + 1)
        text += f"k{index} = {value}{end}"
    asked = data.draw(st.integers(0, len(values) - 1))
    assert f"k{asked}" in tomllib.loads(text)
    assert line_of(text, (f"k{asked}",)) == lines[asked]


@given(st.text(alphabet="ab=.[]{}\"'#, \n\\1", max_size=60))
def test_every_document_that_tomllib_reads_has_its_lines(text: str) -> None:
    try:
        found = tomllib.loads(text)
    except ValueError:
        return
    for key in found:
        assert 1 <= line_of(text, (key,)) <= text.count("\n") + 1


@given(
    st.integers(0, len(POLICY)),
    st.text(max_size=8) | st.sampled_from(["[", '"', "= ", "\n[sgx]\n", "a = 1\n"]),
    st.integers(0, 20),
)
def test_a_changed_policy_is_read_or_has_an_error_with_a_line(offset: int, inserted: str, removed: int) -> None:
    text = POLICY[:offset] + inserted + POLICY[offset + removed :]
    try:
        parse_policy(text)
    except Misuse as error:
        found = re.match(r"The policy cannot be read: line (\d+): ", error.message)
        if found is None or not 1 <= int(found[1]) <= text.count("\n") + 1:
            pytest.fail(f"no line in: {error}")
