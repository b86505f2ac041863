"""Putting a machine into a policy and taking it out, with all else left as it was written."""

from __future__ import annotations

import pytest
from tests.fakes.application import entry, provision
from tests.fakes.recipients import age, recovery_table
from tests.fakes.signing import HERE, NEW, PEER, admins_table, policy_text

from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.cli.policy_edit import MachineLine, admitted, parse_line, removed
from rkeyserver.errors import Misuse

LISTED = f"""\
# who is who
version = 1

[simulated]
machines = [
    # the first one
    "{HERE}", # rack 1
    "{PEER}", # rack 2
] # and no more
"""
REST = policy_text(HERE).partition("[simulated]\n")[2].partition("\n")[2]


def policy(machines: str) -> Policy:
    return parse_policy(f"version = 1\n[simulated]\nmachines = {machines}\n{REST}")


def machines_of(text: str) -> object:
    return parse_policy(text).tables["simulated"].machines


LINES: dict[str, tuple[str, MachineLine]] = {
    "as it is printed": (f"simulated {NEW}", MachineLine("simulated", NEW)),
    "with a name": (f"simulated {NEW} rack 3", MachineLine("simulated", NEW, "rack 3")),
    "with spaces and an end": (f"  simulated   {NEW}\n", MachineLine("simulated", NEW)),
}


@pytest.mark.parametrize(("text", "line"), LINES.values(), ids=LINES)
def test_a_line(text: str, line: MachineLine) -> None:
    assert parse_line(text) == line


NO_LINES = {
    "nothing": "",
    "a platform alone": "simulated",
    "a machine alone": NEW,
    "two lines": f'simulated {NEW} rack 3\n"{PEER}",',
    "a carriage return": f"simulated {NEW} rack\r3",
    "a line separator": f"simulated {NEW} rack\u20283",
    "what a terminal obeys": f"simulated {NEW} \x1b[2J",
    "what turns text around": f"simulated {NEW} \u202e",
}


@pytest.mark.parametrize("text", NO_LINES.values(), ids=NO_LINES)
def test_what_is_no_line(text: str) -> None:
    with pytest.raises(Misuse, match="names no machine") as raised:
        parse_line(text)
    assert "rkeyserver identity" in raised.value.advice


def test_a_machine_gets_a_line_of_its_own_and_all_else_stays() -> None:
    text = admitted(parse_policy(LISTED + REST), MachineLine("simulated", NEW, "rack 3"))
    assert machines_of(text) == [HERE, PEER, NEW]
    assert text == (LISTED + REST).replace("rack 2\n", f'rack 2\n    "{NEW}", # rack 3\n')


ONE_LINE = {"one": [HERE], "two": [HERE, PEER]}


@pytest.mark.parametrize("before", ONE_LINE.values(), ids=ONE_LINE)
def test_a_list_on_one_line_is_spread(before: list[str]) -> None:
    text = admitted(policy(str(before).replace("'", '"') + " # ours"), MachineLine("simulated", NEW, "rack 3"))
    assert machines_of(text) == [*before, NEW]
    assert f'    "{NEW}", # rack 3\n] # ours\n' in text


def test_tables_written_in_another_way() -> None:
    text = policy_text(HERE).replace("[simulated]", '["simulated"]')
    assert machines_of(admitted(parse_policy(text), MachineLine("simulated", NEW))) == [HERE, NEW]


def test_admins_stay() -> None:
    text = admitted(parse_policy(policy_text(HERE, admins=["alice"])), MachineLine("simulated", NEW))
    assert text.endswith(admins_table(["alice"]))


def test_a_machine_is_taken_out_with_its_line() -> None:
    text = removed(parse_policy(LISTED + REST), MachineLine("simulated", PEER))
    assert machines_of(text) == [HERE]
    assert text == (LISTED + REST).replace(f'    "{PEER}", # rack 2\n', "")


def test_in_and_out_again_names_the_same_machines() -> None:
    line = MachineLine("simulated", NEW, "rack 3")
    before = parse_policy(LISTED + REST)
    assert removed(parse_policy(admitted(before, line)), line) == before.text


ADMIT_REFUSED: dict[str, tuple[str, MachineLine, str]] = {
    "accepted already": (LISTED + REST, MachineLine("simulated", PEER), "already"),
    "any is accepted": (policy_text(), MachineLine("simulated", NEW), "accepts any machine"),
    "a platform without a table": (LISTED + REST, MachineLine("sgx", NEW), "no machine of platform sgx; it has: sim"),
    "a table that is none": (LISTED + REST, MachineLine("admins", NEW), "no machine of platform admins"),
    "in capitals": (LISTED + REST, MachineLine("simulated", NEW.upper()), f"With machine {NEW.upper()} the policy"),
    "too short": (LISTED + REST, MachineLine("simulated", "c3"), "32 lower-case hex digits"),
    "any": (LISTED + REST, MachineLine("simulated", "any"), "32 lower-case hex digits"),
    "a comma before which a comment stands": (
        f'version = 1\n[simulated]\nmachines = [\n"{HERE}" # rack 1\n,]\n{REST}',
        MachineLine("simulated", NEW),
        "cannot be read",
    ),
}


@pytest.mark.parametrize(("text", "line", "says"), ADMIT_REFUSED.values(), ids=ADMIT_REFUSED)
def test_what_cannot_be_admitted(text: str, line: MachineLine, says: str) -> None:
    with pytest.raises(Misuse, match=says):
        admitted(parse_policy(text), line)


REMOVE_REFUSED: dict[str, tuple[str, MachineLine, str]] = {
    "not named": (LISTED + REST, MachineLine("simulated", NEW), "does not name machine"),
    "the only one": (policy_text(HERE), MachineLine("simulated", HERE), "is the only one"),
    "any is accepted": (policy_text(), MachineLine("simulated", HERE), "there is no list"),
    "a platform without a table": (LISTED + REST, MachineLine("sgx", HERE), "no machine of platform sgx"),
}


@pytest.mark.parametrize(("text", "line", "says"), REMOVE_REFUSED.values(), ids=REMOVE_REFUSED)
def test_what_cannot_be_removed(text: str, line: MachineLine, says: str) -> None:
    with pytest.raises(Misuse, match=says):
        removed(parse_policy(text), line)


WHOLE = LISTED + REST + admins_table(["alice", "bob"]) + recovery_table(1, [age(), age()]) + provision() + entry("db")
TOO_MUCH = {
    "a floor": ("min_isv_svn = 1", "min_isv_svn = 0"),
    "the admins": ("[admins]\nthreshold = 1", "[admins]\nthreshold = 2"),
    "the recipients": ("[recovery]\nthreshold = 1", "[recovery]\nthreshold = 2"),
    "whose key an application trusts": ('ca_generation = "first"', 'ca_generation = "current"'),
    "what an application gets": ("size = 16", "size = 32"),
    "which application it is": ('label = "db"', 'label = "log"'),
    "an application more": (entry("db"), entry("db") + entry("log", mrenclave=["00" * 32])),
    "an application less": (provision() + entry("db"), ""),
}


@pytest.mark.parametrize(("before", "after"), TOO_MUCH.values(), ids=TOO_MUCH)
def test_an_editor_that_changes_more_than_it_was_asked_to_is_caught(
    monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    policy, line = parse_policy(WHOLE), MachineLine("simulated", NEW)
    good = admitted(policy, line)
    assert before in good
    monkeypatch.setattr("rkeyserver.cli.policy_edit.tomlkit.dumps", lambda _document: good.replace(before, after))
    with pytest.raises(Misuse, match="cannot be edited"):
        admitted(policy, line)
