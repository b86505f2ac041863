"""Changes of a policy: each rule alone, and what its error says to people."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.fakes.admins import DOMAIN, OTHER_DOMAIN, admins, bare_line, change, key, line, policy

from rkeyserver.appraisal.change import (
    MAX_CHANGE,
    PolicyChange,
    appended,
    check_authority,
    check_next,
    digest,
    last_sequence,
    parse_change,
    propose,
    require_signed,
    sign,
    signers,
)
from rkeyserver.appraisal.policy import MAX_POLICY, AdminsTable, parse_policy
from rkeyserver.appraisal.signatures import MAX_SIGNATURES, Signature
from rkeyserver.appraisal.succession import Held, believe, check_succession
from rkeyserver.errors import Misuse, Reason, Rejected
from rkeyserver.framing import framed

THREE: Final = admins(2, ["ann", "bob", "cy"])
NEXT: Final = admins(2, ["ann", "bob", "dora"])
ALONE: Final = admins(1, ["dora"])
P: Final = [policy(number, THREE) for number in range(5)]
Q: Final = [policy(number, NEXT) for number in range(5)]
OPEN: Final = [policy(number, None) for number in range(3)]
GOOD: Final = change(1, P[0], P[1], ["ann", "bob"])


def applied(changes: list[str], before: str, made: PolicyChange, *, owner: bool = False) -> list[str]:
    """As a primary does."""
    check_next(made, domain=DOMAIN, policy=before, changes=changes)
    now = parse_policy(before).admins
    check_authority(made, now, owner=owner)
    return appended(changes, made, admins=now)


def chain(*steps: tuple[str, str, list[str]], start: list[str] | None = None) -> list[str]:
    changes = list(start or [])
    for before, after, names in steps:
        made = change(last_sequence(changes) + 1, before, after, names)
        changes = applied(changes, before, made, owner=True)
    return changes


# --- the document


def test_a_change_says_what_it_was_made_for() -> None:
    assert (GOOD.domain, GOOD.sequence, GOOD.replaces, GOOD.policy) == (DOMAIN, 1, digest(P[0]), P[1])
    assert parse_change(GOOD.text()) == parse_change(GOOD.text().encode() + b"\n") == GOOD
    assert [one.key for one in GOOD.signatures] == [bare_line("ann"), bare_line("bob")]


def test_what_is_signed_is_everything_but_the_signatures() -> None:
    parts = ("rkeyserver/v1 policy change", DOMAIN, "1", digest(P[0]), digest(P[1]), "2", *THREE.keys)
    assert GOOD.signed_bytes() == framed(*(part.encode() for part in parts))
    assert GOOD.link().signed_bytes() == change(1, P[0], P[1]).signed_bytes() == GOOD.signed_bytes()
    others = {
        change(2, P[0], P[1]).signed_bytes(),
        change(1, P[2], P[1]).signed_bytes(),
        change(1, P[0], P[2]).signed_bytes(),
        change(1, P[0], Q[1]).signed_bytes(),
        change(1, P[0], OPEN[1]).signed_bytes(),
        change(1, P[0], P[1], domain=OTHER_DOMAIN).signed_bytes(),
    }
    assert len(others | {GOOD.signed_bytes()}) == 7


def test_nothing_that_ssh_signs_begins_as_a_change_does() -> None:
    assert GOOD.signed_bytes()[:4] == bytes(4)  # SSH's data: the length of a session id or a type, or "SSHSIG"


def test_a_signature_takes_the_place_of_the_one_before() -> None:
    again = sign(sign(change(1, P[0], P[1]), key("ann")), key("ann"))
    assert again.signatures == GOOD.signatures[:1]
    worthless = [Signature(key=bare_line("ann"), signature="00" * 64)]
    mended = sign(msgspec.structs.replace(GOOD, signatures=worthless), key("ann"))
    assert signers(mended, THREE) == [line("ann")]


def numbered_key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def test_a_change_under_which_many_have_signed_takes_no_more() -> None:
    full = change(1, P[0], P[1])
    for number in range(MAX_SIGNATURES):
        full = sign(full, numbered_key(number))
    assert sign(full, numbered_key(0)).signatures != full.signatures  # in its own place there is room
    with pytest.raises(Misuse, match="length <= 32"):
        sign(full, key("ann"))


def test_as_many_admins_as_there_may_be_change_all_of_themselves() -> None:
    old, new = (admins(16, [f"{kind}{number}" for number in range(16)]) for kind in ("old", "new"))
    names = [f"{kind}{number}" for kind in ("old", "new") for number in range(16)]
    made = change(1, policy(0, old), policy(1, new), names)
    assert len(parse_change(made.text()).signatures) == MAX_SIGNATURES
    check_authority(made, old, owner=False)


PROPOSED: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "no policy": ({"policy": ""}, "policy"),
    "a policy that cannot be read": ({"policy": "version = 2"}, "policy"),
    "a policy with a lone surrogate": ({"policy": P[1] + "# \ud800"}, "cannot be read"),
    "a policy of too many bytes": (
        {"policy": P[1] + "#" + "\U0001f511" * (MAX_CHANGE // 4)},
        "at most 262144 are read",
    ),
    "no domain": ({"domain": ""}, "domain"),
    "a domain in upper case": ({"domain": "AB" * 16}, "domain"),
    "place 0": ({"sequence": 0}, "sequence"),
    "a place beyond all": ({"sequence": 2**62 + 1}, "sequence"),
}


@pytest.mark.parametrize(("said", "says"), PROPOSED.values(), ids=PROPOSED)
def test_what_could_not_be_read_again_is_not_proposed(said: dict[str, Any], says: str) -> None:
    given: dict[str, Any] = {"domain": DOMAIN, "sequence": 1, "replaces": P[0], "policy": P[1]} | said
    with pytest.raises(Misuse, match=says):
        propose(**given)


UNREAD: Final[dict[str, tuple[str | bytes, str]]] = {
    "nothing": ("", "This is no policy change (rkeyserver-policy-change/v1)"),
    "another document": (P[1], "This is no policy change"),
    "a link": (GOOD.link().text(), "This is no policy change"),
    "half of one": (GOOD.text()[:100], "This is no policy change"),
    "a number for text": (GOOD.text().replace(f'"{DOMAIN}"', "1"), "domain"),
    "a lone surrogate": (GOOD.text().replace("# 1", "# \ud800"), "This is no policy change"),
    "a lone surrogate, escaped": (GOOD.text().replace("# 1", "# \\ud800"), "This is no policy change"),
    "no UTF-8": (GOOD.text().encode().replace(b"# 1", b"# \xff"), "This is no policy change"),
    "a depth without end": ("[" * 200_000, "This is no policy change"),
    "white space": (GOOD.text().replace(",", ", ", 1), "not in its canonical form: it was edited"),
    "two line feeds": (f"{GOOD.text()}\n\n", "not in its canonical form"),
    "a field twice": (GOOD.text().replace('"sequence":1', '"sequence":2,"sequence":1'), "not in its canonical form"),
    "too long": (b" " * (MAX_CHANGE + 1), f"has {MAX_CHANGE + 1} bytes; at most {MAX_CHANGE}"),
    "two signatures of one key": (
        msgspec.structs.replace(GOOD, signatures=[*GOOD.signatures, GOOD.signatures[0]]).text(),
        "two signatures of one key",
    ),
}


@pytest.mark.parametrize(("data", "says"), UNREAD.values(), ids=UNREAD)
def test_what_is_no_change(data: str | bytes, says: str) -> None:
    with pytest.raises(Misuse) as raised:
        parse_change(data)
    assert says in raised.value.message
    assert raised.value.advice


def test_the_longest_policy_can_be_changed_to() -> None:
    text = P[1] + "#" * (MAX_POLICY - len(P[1]))
    assert parse_change(change(1, P[0], text, ["ann"]).text()).policy == text


# --- who has signed


def edited(**fields: Any) -> PolicyChange:
    """The good change, with its signatures under something else."""
    return msgspec.structs.replace(GOOD, **fields)


def with_signature(which: int, hexed: Callable[[str], str]) -> PolicyChange:
    made = list(GOOD.signatures)
    made[which] = msgspec.structs.replace(made[which], signature=hexed(made[which].signature))
    return edited(signatures=made)


ORDER: Final = 2**252 + 27742317777372353535851937790883648493


def malleated(signature: str) -> str:
    """The same with its S one group order higher: where that is not checked, a second valid signature."""
    raw = bytes.fromhex(signature)
    return (raw[:32] + (int.from_bytes(raw[32:], "little") + ORDER).to_bytes(32, "little")).hex()


COUNTED: Final[dict[str, tuple[PolicyChange, list[str]]]] = {
    "two": (GOOD, ["ann", "bob"]),
    "two, in another order": (change(1, P[0], P[1], ["bob", "ann"]), ["ann", "bob"]),
    "all": (change(1, P[0], P[1], ["cy", "bob", "ann"]), ["ann", "bob", "cy"]),
    "none": (change(1, P[0], P[1]), []),
    "strangers": (change(1, P[0], P[1], ["eve", "dora"]), []),
    "one and a stranger": (change(1, P[0], P[1], ["eve", "bob"]), ["bob"]),
    "over another place": (edited(sequence=2), []),
    "over another domain": (edited(domain=OTHER_DOMAIN), []),
    "over another policy replaced": (edited(replaces=digest(P[2])), []),
    "over another policy": (edited(policy=P[2]), []),
    "over a policy with other admins": (edited(policy=Q[1]), []),
    "a bit of R flipped": (with_signature(0, lambda one: f"{int(one, 16) ^ 1 << 511:0128x}"), ["bob"]),
    "a bit of S flipped": (with_signature(1, lambda one: f"{int(one, 16) ^ 1 << 200:0128x}"), ["ann"]),
    "a signature of zeros": (with_signature(0, lambda _: "00" * 64), ["bob"]),
    "a signature that was malleated": (with_signature(0, malleated), ["bob"]),
    "a signature under another admin's key": (
        edited(signatures=[Signature(key=bare_line("cy"), signature=GOOD.signatures[0].signature)]),
        [],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("made", "names"), COUNTED.values(), ids=COUNTED)
def test_whose_signatures_count(made: PolicyChange, names: list[str]) -> None:
    assert signers(made, THREE) == [line(name) for name in names]


def test_the_error_says_how_many_and_who_could() -> None:
    with pytest.raises(Rejected) as raised:
        require_signed(change(4, P[0], P[1], ["bob", "eve"]), THREE)
    assert raised.value.reason is Reason.NOT_SIGNED
    assert raised.value.message == "Policy change 4 has 1 valid signature(s) of the admins; 2 of 3 wanted."
    assert raised.value.advice == f"It can be signed by: {line('ann')}, {line('cy')}."


# --- whether it may be applied


NOT_NEXT: Final[dict[str, tuple[PolicyChange, Reason, str]]] = {
    "another domain's": (
        change(2, P[1], P[2], domain=OTHER_DOMAIN),
        Reason.ANOTHER_DOMAIN,
        f"The policy change is for domain {OTHER_DOMAIN}; this is domain {DOMAIN}.",
    ),
    "replayed": (
        GOOD,
        Reason.NOT_THE_NEXT_CHANGE,
        "The policy change is number 1; the next one of this domain is 2.",
    ),
    "ahead": (
        change(3, P[1], P[2]),
        Reason.NOT_THE_NEXT_CHANGE,
        "The policy change is number 3; the next one of this domain is 2.",
    ),
    "for another policy": (
        change(2, P[0], P[2]),
        Reason.NOT_THE_NEXT_CHANGE,
        f"The policy change was made for policy {digest(P[0])}; the policy here is {digest(P[1])}.",
    ),
}


@pytest.mark.parametrize(("made", "reason", "says"), NOT_NEXT.values(), ids=NOT_NEXT)
def test_only_the_next_change_is_next(made: PolicyChange, reason: Reason, says: str) -> None:
    with pytest.raises(Rejected) as raised:
        check_next(made, domain=DOMAIN, policy=P[1], changes=chain((P[0], P[1], ["ann", "bob"])))
    assert (raised.value.reason, raised.value.message) == (reason, says)
    if reason is Reason.NOT_THE_NEXT_CHANGE:
        done = "Nothing was changed: what it asks for is in force already."
        assert raised.value.advice == (
            done if made is GOOD else "Nothing was changed. Propose it anew, to be signed anew."
        )


MISSING: Final = "It can be signed by: "
REFUSED: Final[dict[str, tuple[str, str, list[str], bool, str]]] = {
    "nobody": (P[0], P[1], [], False, "0 valid signature(s) of the admins; 2 of 3 wanted"),
    "the owner, where there are admins": (P[0], P[1], [], True, "0 valid signature(s) of the admins; 2 of 3 wanted"),
    "one too few": (P[0], P[1], ["cy"], False, "1 valid signature(s) of the admins; 2 of 3 wanted"),
    "one too few, and the coming admin": (P[0], Q[1], ["ann", "dora"], False, "1 valid signature(s) of the admins; 2"),
    "none of the coming": (
        P[0], policy(1, ALONE), ["ann", "bob"], False, "0 valid signature(s) of the admins that it names; 1 of 1",
    ),
    "too few of the same with a higher threshold": (
        P[0], policy(1, admins(3, ["ann", "bob", "cy"])), ["ann", "bob"], False,
        "2 valid signature(s) of the admins that it names; 3 of 3",
    ),
    "without admins, not the owner": (OPEN[0], OPEN[1], ["ann"], False, "This domain has no admins whose signatures"),
    "without admins, those that it names": (OPEN[0], P[1], ["ann", "bob"], False, "This domain has no admins"),
    "the owner, for admins that have not signed": (
        OPEN[0], P[1], ["ann"], True, "1 valid signature(s) of the admins that it names; 2 of 3 wanted",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after", "names", "owner", "says"), REFUSED.values(), ids=REFUSED)
def test_who_may_not_change_a_policy(before: str, after: str, names: list[str], owner: bool, says: str) -> None:  # noqa: FBT001 - a column of the table
    with pytest.raises(Rejected) as raised:
        check_authority(change(1, before, after, names), parse_policy(before).admins, owner=owner)
    assert raised.value.reason is Reason.NOT_SIGNED
    assert says in raised.value.message
    assert raised.value.advice.startswith((MISSING, "Its owner may change it on the machine itself"))


ALLOWED: Final[dict[str, tuple[str, str, list[str], bool]]] = {
    "enough": (P[0], P[1], ["cy", "ann"], False),
    "all and strangers": (P[0], P[1], ["eve", "cy", "ann", "bob"], False),
    "enough of both": (P[0], policy(1, ALONE), ["cy", "dora", "ann"], False),
    "who leaves": (P[0], Q[1], ["ann", "bob"], False),
    "to none": (P[0], OPEN[1], ["ann", "bob"], False),
    "the owner": (OPEN[0], OPEN[1], [], True),
    "the owner, for admins that have signed": (OPEN[0], P[1], ["ann", "bob"], True),
}


@pytest.mark.parametrize(("before", "after", "names", "owner"), ALLOWED.values(), ids=ALLOWED)
def test_who_may_change_a_policy(before: str, after: str, names: list[str], owner: bool) -> None:  # noqa: FBT001 - a column of the table
    assert last_sequence(applied([], before, change(1, before, after, names), owner=owner)) == 1


# --- the chain


def test_the_chain_keeps_its_ends_and_where_admins_changed() -> None:
    path = [P[0], P[1], P[2], P[3], Q[0], Q[1], Q[2], P[0], P[4]]
    changes = chain(*((before, after, ["ann", "bob"]) for before, after in pairwise(path)))
    assert [link["sequence"] for link in map(msgspec.json.decode, changes)] == [1, 4, 7, 8]
    assert last_sequence(changes) == 8
    assert last_sequence([]) == 0


def test_a_chain_does_not_grow_with_policies_and_strangers() -> None:
    filler = "#" * 100_000
    first = change(1, P[0], P[1] + filler, ["ann", "bob"])
    for number in range(30):
        first = sign(first, numbered_key(number))
    (link,) = applied([], P[0], first)
    assert len(link) < 2_000
    assert [one["key"] for one in msgspec.json.decode(link)["signatures"]] == [bare_line("ann"), bare_line("bob")]


# --- who believes it


ONE: Final = chain((P[0], P[1], ["ann", "bob"]))
MOVED: Final = chain((P[1], Q[1], ["bob", "cy", "dora"]), start=ONE)
LATER: Final = chain((Q[1], Q[2], ["ann", "dora"]), start=MOVED)


def believed(changes: list[str], text: str, who: AdminsTable, domain: str = DOMAIN) -> int:
    return believe(domain=domain, policy=text, changes=changes, admins=who)


def test_a_policy_is_believed_by_whoever_was_admin() -> None:
    assert believed(ONE, P[1], THREE) == 1
    assert believed(LATER, Q[2], THREE) == 3
    assert believed(LATER, Q[2], NEXT) == 3


UNBELIEVED: Final[dict[str, tuple[list[str], str, AdminsTable, str]]] = {
    "never signed": ([], P[0], THREE, "was never signed by admins"),
    "strangers": (LATER, Q[2], admins(1, ["eve"]), "(change 3) is not signed by 1 of the 1 admins that this instance"),
    "another policy": (LATER, Q[1], THREE, f"is {digest(Q[1])}; its last change (3) made {digest(Q[2])}"),
    "a link left out": ([LATER[0], LATER[2]], Q[2], THREE, "(change 3) is not signed by 2 of the 3"),
    "the last left out": (LATER[:2], Q[2], THREE, "its last change (2) made"),
    "out of order": ([LATER[1], LATER[0]], P[1], THREE, f"out of order: number 1 of domain {DOMAIN} after number 2"),
    "twice": ([*ONE, *ONE], P[1], THREE, "out of order: number 1"),
    "no link": ([GOOD.text()], P[1], THREE, "is not to be believed. This is no policy change"),
    "a lone surrogate": ([LATER[0].replace("ann@", "\ud800@")], P[1], THREE, "is not to be believed. This is no"),
    "a link with a line feed": ([f"{ONE[0]}\n"], P[1], THREE, "canonical form"),
    "a link too long": (["x" * (MAX_CHANGE + 1)], P[1], THREE, "bytes; at most"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "text", "who", "says"), UNBELIEVED.values(), ids=UNBELIEVED)
def test_what_is_not_believed(changes: list[str], text: str, who: AdminsTable, says: str) -> None:
    with pytest.raises(Rejected) as raised:
        believed(changes, text, who)
    assert raised.value.reason is Reason.POLICY_NOT_BELIEVED
    assert says in raised.value.message


def test_the_domain_counts() -> None:
    with pytest.raises(Rejected, match="out of order: number 1 of domain"):
        believed(ONE, P[1], THREE, OTHER_DOMAIN)


def test_a_branch_of_admins_who_were_replaced_is_believed_only_by_who_still_goes_by_them() -> None:
    """The known limit (docs/limitations.md): whoever goes by the old admins believes either branch."""
    gone = admins(2, ["ann", "bob"])
    after = admins(2, ["cy", "dora"])
    real = chain((policy(0, gone), policy(1, after), ["ann", "bob", "cy", "dora"]))
    fork = chain((policy(0, gone), policy(2, gone), ["ann", "bob"]))
    assert believed(real, policy(1, after), gone) == believed(fork, policy(2, gone), gone) == 1
    assert believed(real, policy(1, after), after) == 1
    for changes in (fork, [*real, change(2, policy(1, after), policy(2, gone), ["ann", "bob"]).link().text()]):
        with pytest.raises(Rejected, match="is not signed by 2 of the 2"):
            believed(changes, policy(2, gone), after)


def test_a_change_that_too_few_signed_is_believed_by_who_goes_by_fewer() -> None:
    """Another limit: a signature is for ever. A threshold lowered later lowers it for what was signed before."""
    abandoned = change(1, P[0], P[2], ["ann"])
    with pytest.raises(Rejected):
        check_authority(abandoned, THREE, owner=False)
    one = admins(1, ["ann", "bob", "cy"])
    assert believed([abandoned.link().text()], P[2], one) == 1
    with pytest.raises(Rejected):
        believed([abandoned.link().text()], P[2], THREE)


def test_admins_who_gave_it_up_believe_what_they_sign_again() -> None:
    given_up = chain((Q[2], OPEN[0], ["ann", "bob"]), start=LATER)
    assert believed(given_up, OPEN[0], NEXT) == 4
    by_owner = chain((OPEN[0], OPEN[1], []), start=given_up)
    for who in (THREE, NEXT):
        with pytest.raises(Rejected):
            believed(by_owner, OPEN[1], who)
    again = chain((OPEN[1], Q[3], ["ann", "dora"]), start=by_owner)
    assert believed(again, Q[3], NEXT) == 6
    with pytest.raises(Rejected):
        believed(again, Q[3], THREE)


# --- what may follow what one holds


def state(changes: list[str], text: str, sequence: int, domain: str = DOMAIN) -> Held:
    return Held(domain, 0, sequence, text, changes)


BY_OWNER: Final = chain((OPEN[0], OPEN[1], []))
OTHER_TWO: Final = chain((P[1], P[3], ["ann", "cy"]), start=ONE)
TWO: Final = chain((P[1], P[2], ["ann", "cy"]), start=ONE)
FOLLOWS: Final[dict[str, tuple[Held, Held | None, AdminsTable | None]]] = {
    "the first that is seen, by nobody": (state(LATER, Q[2], 4), None, None),
    "the first that is seen, by the first admins": (state(LATER, Q[2], 4), None, THREE),
    "one without any change, by nobody": (state([], P[0], 1), None, None),
    "a later one": (state(LATER, Q[2], 4), state(ONE, P[1], 2), None),
    "a later one, by both": (state(LATER, Q[2], 4), state(MOVED, Q[1], 3), THREE),
    "the same policy in a later keyring": (state(ONE, P[1], 9), state(ONE, P[1], 2), None),
    "the same, never signed": (state([], P[0], 9), state([], P[0], 1), None),
    "an earlier one, which is not adopted anyway": (state(ONE, P[1], 2), state(LATER, Q[2], 4), None),
    "another domain's, which was asked for": (state(ONE, P[1], 9), state([], P[0], 1, OTHER_DOMAIN), None),
    "the owner's": (state(BY_OWNER, OPEN[1], 2), state([], OPEN[0], 1), None),
}


@pytest.mark.parametrize(("found", "held", "root"), FOLLOWS.values(), ids=FOLLOWS)
def test_what_may_follow(found: Held, held: Held | None, root: AdminsTable | None) -> None:
    check_succession(found, held=held, root=root)


NOT_FOLLOWING: Final[dict[str, tuple[Held, Held | None, AdminsTable | None, str]]] = {
    "never signed, by admins": (state([], P[0], 1), None, THREE, "was never signed"),
    "signed by others than those of the start": (
        state(LATER, Q[2], 4), state(ONE, P[1], 2), admins(1, ["eve"]), "(change 3)",
    ),
    "not signed by those of the policy held": (
        state(chain((OPEN[0], OPEN[1], []), (OPEN[1], OPEN[2], [])), OPEN[2], 9), state(ONE, P[1], 2), None,
        "is not signed by 2 of the 3",
    ),
    "an earlier policy in a later keyring": (state(ONE, P[1], 9), state(TWO, P[2], 3), None, "has another one"),
    "a policy before all changes": (state([], OPEN[0], 9), state(BY_OWNER, OPEN[1], 2), None, "made by change 0"),
    "another for the same place": (state(OTHER_TWO, P[3], 9), state(TWO, P[2], 3), None, "made by change 2; this"),
    "another for the same place, by the owner": (
        state(chain((OPEN[0], OPEN[2], [])), OPEN[2], 9), state(BY_OWNER, OPEN[1], 2), None, "Two primaries",
    ),
    "links that cannot be read, by nobody": (state(["x"], P[1], 2), None, None, "is not to be believed"),
    "links of another domain, by nobody": (state(ONE, P[1], 2, OTHER_DOMAIN), None, None, "out of order"),
    "links to another policy, by nobody": (state(ONE, P[2], 2), None, None, "its last change (1) made"),
}  # fmt: skip


@pytest.mark.parametrize(("found", "held", "root", "says"), NOT_FOLLOWING.values(), ids=NOT_FOLLOWING)
def test_what_may_not_follow(found: Held, held: Held | None, root: AdminsTable | None, says: str) -> None:
    with pytest.raises(Rejected) as raised:
        check_succession(found, held=held, root=root)
    assert raised.value.reason is Reason.POLICY_NOT_BELIEVED
    assert says in str(raised.value)
