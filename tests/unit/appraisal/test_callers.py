"""[[callers]] of the policy: what is no such entry, who may do what by one, and what is less than before."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.claims import document, table

from rkeyserver.appraisal.callers import Action, Caller, LocalCaller, TokenCaller, check_permitted
from rkeyserver.appraisal.narrowing import narrows, takes_from_users
from rkeyserver.appraisal.policy import MAX_CALLERS, Policy, parse_policy
from rkeyserver.errors import Misuse, Reason, Rejected

DIGEST, OTHER = "0a" * 32, "0b" * 32
HEAD = document(table())
FIRST = HEAD.count("\n") + 1  # the line of the first entry


def entry(who: str = "uid = 1000", may: str = '["derive"]', labels: str = '["db/*"]') -> str:
    return f"[[callers]]\n{who}\nmay = {may}\nlabels = {labels}\n"


def policy(*entries: str) -> Policy:
    return parse_policy(HEAD + "".join(entries))


# What stands there, on which line of the entry the fault is, and what is said of it.
WRONG: dict[str, tuple[str, int, str]] = {
    "uid and gid": (entry("uid = 1\ngid = 2"), 0, "it names uid and gid; wanted is uid, gid or token_sha256, one"),
    "uid and token": (entry(f'uid = 1\ntoken_sha256 = "{DIGEST}"'), 0, "it names uid and token_sha256"),
    "all three": (entry(f'uid = 1\ngid = 1\ntoken_sha256 = "{DIGEST}"'), 0, "uid and gid and token_sha256"),
    "nobody": (entry(""), 0, "it names nobody; wanted is uid, gid or token_sha256, one"),
    "a name": (entry('uid = "alice"'), 1, 'found "alice"; wanted is a user\'s number'),
    "a group's name": (entry('gid = "db"'), 1, 'found "db"; wanted is a group\'s number'),
    "a number below 0": (entry("uid = -1"), 1, "found -1"),
    "the number that means none": (entry(f"uid = {2**32 - 1}"), 1, f"found {2**32 - 1}"),
    "true": (entry("uid = true"), 1, "found true"),
    "whom the kernel has no number for": (entry("uid = 65534"), 1, "65534 is whoever the kernel has no number for"),
    "a group of those": (entry("gid = 65534"), 1, "65534 is whoever the kernel has no number for"),
    "a token itself": (entry('token_sha256 = "rkt_abc"'), 1, "wanted is the SHA-256 of a token, 64 lower-case hex"),
    "a digest in capitals": (entry(f'token_sha256 = "{DIGEST.upper()}"'), 1, "64 lower-case hex digits"),
    "a digest and a line feed": (entry(f'token_sha256 = "{DIGEST}\\n"'), 1, "64 lower-case hex digits"),
    "nothing that he may": (entry(may="[]"), 2, "found an empty list; wanted is a list of derive, wrap"),
    "an action that is none": (entry(may='["derive", "sign"]'), 2, 'found "sign"'),
    "everything": (entry(may='"any"'), 2, 'found "any"'),
    "an action twice": (entry(may='["wrap", "wrap"]'), 2, "it names wrap twice"),
    "no labels": (entry(labels="[]"), 3, "found an empty list; wanted is a list of labels"),
    "a label that is no list": (entry(labels='"db/*"'), 3, 'found "db/*"; wanted is a list of labels'),
    "an empty label": (entry(labels='[""]'), 3, 'found ""'),
    "a label with a space at its end": (entry(labels='["db "]'), 3, 'found "db "'),
    "a label in another script": (entry(labels='["d\u0431"]'), 3, "found"),
    "a label of 257": (entry(labels=f'["{"x" * 257}"]'), 3, "found"),
    "a label twice": (entry(labels='["a", "a"]'), 3, "it names a twice"),
    "a star in the middle": (entry(labels='["a", "d*b"]'), 3, "'d*b' has a \"*\" before its end"),
    "two stars": (entry(labels='["db/**"]'), 3, "'db/**' has a \"*\" before its end"),
    "no labels at all": ('[[callers]]\nuid = 1\nmay = ["wrap"]\n', 0, "labels: it is missing"),
    "nothing said of what he may": ('[[callers]]\nuid = 1\nlabels = ["a"]\n', 0, "may: it is missing"),
    "a key that is none": (entry() + "deny = true\n", 4, "there is no such key"),
    "a table of one": (entry().replace("[[callers]]", "[callers]"), 0, "found a table; wanted is 1 to 64 tables"),
}


@pytest.mark.parametrize(("text", "line", "says"), WRONG.values(), ids=WRONG)
def test_what_is_no_entry_is_said_with_its_line(text: str, line: int, says: str) -> None:
    with pytest.raises(Misuse) as raised:
        parse_policy(HEAD + text)
    assert f"line {FIRST + line}: callers" in raised.value.message
    assert says in raised.value.message


def test_the_second_entry_s_line_is_its_own() -> None:
    with pytest.raises(Misuse, match=re.escape(f"line {FIRST + 4}: callers[2]: it names nobody")):
        policy(entry(), entry(""))


def test_no_more_than_so_many() -> None:
    assert len(policy(*[entry()] * MAX_CALLERS).callers) == MAX_CALLERS
    with pytest.raises(Misuse, match="wanted is 1 to 64 tables"):
        policy(*[entry()] * (MAX_CALLERS + 1))


def test_a_list_without_any_is_an_error() -> None:
    with pytest.raises(Misuse, match="callers: found an empty list"):
        parse_policy(HEAD.replace("version = 1\n", "version = 1\ncallers = []\n"))


def user(uid: int = 1000, *gids: int, own: bool = False) -> LocalCaller:
    return LocalCaller(pid=1, uid=uid, gids=frozenset(gids or (uid,)), own=own)


DB = entry(labels='["db/*", "x"]', may='["derive", "wrap"]')
GROUP = entry("gid = 70", labels='["*"]', may='["unwrap"]')
TOKEN = entry(f'token_sha256 = "{DIGEST}"', labels='["app"]', may='["derive", "rewrap"]')

ASKED: dict[str, tuple[list[str], Caller, str, str, bool]] = {
    "by nothing, the server's own user": ([], user(own=True), "unwrap", "x", True),
    "by nothing, another": ([], user(), "derive", "x", False),
    "by nothing, root": ([], user(0), "derive", "x", False),
    "by nothing, a token": ([], TokenCaller(DIGEST), "derive", "x", False),
    "a label": ([DB], user(), "derive", "x", True),
    "a label that goes on": ([DB], user(), "derive", "xy", False),
    "a label that ends sooner": ([DB], user(), "derive", "db", False),
    "a prefix and more": ([DB], user(), "wrap", "db/main", True),
    "a prefix and nothing more": ([DB], user(), "wrap", "db/", True),
    "a prefix in another case": ([DB], user(), "wrap", "DB/main", False),
    "what is not among what he may": ([DB], user(), "unwrap", "x", False),
    "another user": ([DB], user(1001), "derive", "x", False),
    "root, as any other": ([DB], user(0), "derive", "x", False),
    "a user of a group's number": ([GROUP], user(70, 5), "unwrap", "x", False),
    "his own group": ([GROUP], user(1000, 70), "unwrap", "anything at all", True),
    "one of his groups": ([GROUP], user(1000, 1000, 69, 70), "unwrap", "x", True),
    "by one entry this and by another that": ([DB, GROUP], user(1000, 70), "unwrap", "x", True),
    "no entry has both": ([DB, GROUP], user(1000, 70), "wrap", "y", False),
    "a token": ([TOKEN], TokenCaller(DIGEST), "rewrap", "app", True),
    "another token": ([TOKEN], TokenCaller(OTHER), "rewrap", "app", False),
    "a user by a token's entry": ([TOKEN], user(), "rewrap", "app", False),
    "a token by a user's entry": ([DB], TokenCaller(DIGEST), "derive", "x", False),
}


@pytest.mark.parametrize(("entries", "caller", "action", "label", "may"), ASKED.values(), ids=ASKED)
def test_who_may_do_what(entries: list[str], caller: Caller, action: str, label: str, *, may: bool) -> None:
    if may:
        check_permitted(caller, Action(action), label, policy(*entries))
        return
    with pytest.raises(Rejected, match=f"does not let {caller} {action}") as raised:
        check_permitted(caller, Action(action), label, policy(*entries))
    assert raised.value.reason is Reason.NOT_PERMITTED
    assert DIGEST not in str(raised.value), "a token's digest is named by its beginning"


U = "[callers uid 1000]: may no longer "
LESS: dict[str, tuple[list[str], list[str], list[str]]] = {
    "nothing": ([DB], [DB], []),
    "more": ([DB], [DB, GROUP, TOKEN], []),
    "in two": ([DB], [entry(labels='["x"]', may='["wrap", "derive"]'), entry(may='["derive", "wrap"]')], []),
    "a wider pattern": ([entry(labels='["db/a", "db/b*"]')], [entry(labels='["db/*"]')], []),
    "a narrower pattern": ([entry(labels='["db/*"]')], [entry(labels='["db/a*"]')], [f"{U}derive for label 'db/*'."]),
    "one label of a pattern": ([entry(labels='["db*"]')], [entry(labels='["db"]')], [f"{U}derive for label 'db*'."]),
    "an action": ([DB], [entry(labels='["db/*", "x"]')], [f"{U}wrap for label 'db/*'.", f"{U}wrap for label 'x'."]),
    "an entry": ([entry()], [], [f"{U}derive for label 'db/*'."]),
    "an entry that was there twice": ([entry(), entry()], [], [f"{U}derive for label 'db/*'."]),
    "a group, now the user": (
        [GROUP], [entry("uid = 70", labels='["*"]', may='["unwrap"]')],
        ["[callers gid 70]: may no longer unwrap for label '*'."],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "says"), LESS.values(), ids=LESS)
def test_what_is_taken_from_users_is_said_and_adds_no_generation(
    old: list[str], new: list[str], says: list[str]
) -> None:
    assert takes_from_users(policy(*old), policy(*new)) == says
    assert narrows(policy(*old), policy(*new)) == []


def test_what_is_taken_from_a_token_narrows() -> None:
    says = [f"[callers token {DIGEST}]: may no longer {action} for label 'app'." for action in ("derive", "rewrap")]
    assert narrows(policy(DB, TOKEN), policy(DB)) == says
    assert takes_from_users(policy(DB, TOKEN), policy(DB)) == []
    assert narrows(policy(DB), policy(DB, TOKEN)) == []


PATTERNS = st.lists(st.sampled_from(["a", "ab", "a*", "ab*", "*", "b"]), min_size=1, unique=True)
ENTRIES = st.lists(
    st.tuples(st.integers(1, 2), st.lists(st.sampled_from(["derive", "wrap"]), min_size=1, unique=True), PATTERNS),
    max_size=3,
)


def of(entries: list[tuple[int, list[str], list[str]]]) -> Policy:
    return policy(*(entry(f"uid = {uid}", json.dumps(may), json.dumps(labels)) for uid, may, labels in entries))


@given(old=ENTRIES, new=ENTRIES, uid=st.integers(1, 2), label=st.sampled_from(["a", "ab", "abc", "b", "c"]))
def test_what_nothing_is_said_of_is_permitted_still(
    old: list[tuple[int, list[str], list[str]]], new: list[tuple[int, list[str], list[str]]], uid: int, label: str
) -> None:
    before, after = of(old), of(new)
    if takes_from_users(before, after):
        return
    for action in (Action.DERIVE, Action.WRAP):
        try:
            check_permitted(user(uid), action, label, before)
        except Rejected:
            continue
        check_permitted(user(uid), action, label, after)
