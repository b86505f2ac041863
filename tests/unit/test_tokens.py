"""Tokens, and who shows one."""

from __future__ import annotations

import hashlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.signing import policy_text

from rkeyserver.appraisal.callers import Action, TokenCaller, check_permitted
from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.appraisal.token_callers import caller_of
from rkeyserver.errors import Misuse, Reason, Rejected
from rkeyserver.tokens import LENGTH, check_token, digest, token_of

TOKEN = token_of(bytes(range(32)))
OTHER = token_of(bytes(32))


def policy(*tokens: str) -> Policy:
    entries = [f'[[callers]]\ntoken_sha256 = "{digest(one)}"\nmay = ["derive"]\nlabels = ["a/*"]\n' for one in tokens]
    return parse_policy(policy_text("00" * 16) + "\n" + "\n".join(entries))


@given(st.binary(min_size=32, max_size=32))
def test_a_token_is_what_was_random_in_printable_form(random: bytes) -> None:
    token = token_of(random)
    assert len(token) == LENGTH
    assert check_token(token) == token
    assert digest(token) == hashlib.sha256(token.encode("ascii")).hexdigest()


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_less_or_more_random_bytes_make_no_token(size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} bytes"):
        token_of(os.urandom(size))


NONE = [
    "",
    "rkt_",
    TOKEN[:-1],
    TOKEN + "A",
    TOKEN + "\n",
    " " + TOKEN,
    TOKEN.upper(),
    TOKEN[:-1] + "=",
    TOKEN[:-1] + "é",
]


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_token_is_not_quoted(text: str) -> None:
    with pytest.raises(Misuse) as raised:
        check_token(text)
    assert len(text) < LENGTH - 1 or text.strip() not in str(raised.value)


def test_whoever_shows_a_token_of_the_policy_is_its_caller() -> None:
    both = policy(TOKEN, OTHER)
    assert both.tokens == sorted([digest(TOKEN), digest(OTHER)])
    for token in (TOKEN, OTHER):
        for scheme in ("Bearer", "bearer", "BEARER"):
            caller = caller_of([f"{scheme} {token}"], both)
            assert caller == TokenCaller(digest(token))
            check_permitted(caller, Action.DERIVE, "a/b", both)
    assert both.ca == "first"
    assert policy().ca is None


WRONG = {
    "none": [],
    "empty": [""],
    "two": [f"Bearer {TOKEN}", f"Bearer {TOKEN}"],
    "no scheme": [TOKEN],
    "another scheme": [f"Basic {TOKEN}"],
    "two spaces": [f"Bearer  {TOKEN}"],
    "more behind it": [f"Bearer {TOKEN} {TOKEN}"],
    "the digest": [f"Bearer {digest(TOKEN)}"],
    "another token": [f"Bearer {token_of(bytes([1]) * 32)}"],
    "not ASCII": ["Bearer " + "\xff" * LENGTH],
    "endless": ["Bearer " + "A" * 100_000],
}


@pytest.mark.parametrize("case", WRONG)
def test_whoever_shows_none_is_told_so_and_no_more(case: str) -> None:
    with pytest.raises(Rejected) as raised:
        caller_of(WRONG[case], policy(TOKEN))
    assert raised.value.reason is Reason.UNKNOWN_TOKEN
    assert TOKEN not in str(raised.value)
    assert digest(TOKEN) not in str(raised.value)


def test_a_policy_without_tokens_lets_none_in() -> None:
    with pytest.raises(Rejected):
        caller_of([f"Bearer {TOKEN}"], policy())


def test_a_ca_may_be_named_where_there_are_tokens_and_is_for_nothing_without() -> None:
    named = '\n[provision]\nca_generation = "current"\n'
    assert parse_policy(policy(TOKEN).text + named).ca == "current"
    with pytest.raises(Misuse, match="no callers with a token"):
        parse_policy(policy().text + named)
