"""What is wrong with an option or a header, as people read it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest

from rkeyserver.config import WANTED, Options
from rkeyserver.plain import MOST_DOTS, in_words, too_many_dots
from rkeyserver.sealing import record


class Form(msgspec.Struct, forbid_unknown_fields=True):
    number: Annotated[int, msgspec.Meta(ge=1, le=9)]
    names: dict[str, Annotated[str, msgspec.Meta(pattern="^[a-z]+$")]] = {}
    kind: None = None


FORM = {"number": "a number from 1 to 9", "names": "names in lower case"}

CASES: dict[str, tuple[dict[str, Any], str]] = {
    "too large": ({"number": 10}, "number is 10; wanted is a number from 1 to 9"),
    "of another type": ({"number": "1"}, "number is '1'; wanted is a number from 1 to 9"),
    "true": ({"number": True}, "number is true; wanted is a number from 1 to 9"),
    "long": ({"number": "x" * 100}, f"number is '{'x' * 59}...; wanted is a number from 1 to 9"),
    "a value inside": ({"number": 1, "names": {"a": "A"}}, "names is {'a': 'A'}; wanted is names in lower case"),
    "a key inside": ({"number": 1, "names": {1: "a"}}, "names is {1: 'a'}; wanted is names in lower case"),
    "missing": ({}, "number is missing; wanted is a number from 1 to 9"),
    "unknown": ({"number": 1, "x": 2}, "x is unknown; there is number, names"),
    "unknown, with a quote": ({"number": 1, "`": 2}, "` is unknown; there is number, names"),
    "unknown, that looks like a place": (
        {"number": 1, "x` - at `$.other": 2}, "x` - at `$.other is unknown; there is number, names"),
    "unknown, of two lines": ({"number": 1, "a\nb": 2}, "a\nb is unknown; there is number, names"),
    "unknown and long": ({"number": 1, "x" * 100: 2}, f"{'x' * 60} is unknown; there is number, names"),
    "that nobody has words for": ({"number": 1, "kind": 1}, "Expected `null`, got `int` - at `$.kind`"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "says"), CASES.values(), ids=CASES)
def test_what_is_wrong_is_said_in_words(given: dict[str, Any], says: str) -> None:
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.convert(given, Form)
    assert in_words(raised.value, FORM, given) == says


def test_what_is_not_to_be_shown_is_not() -> None:
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.convert({"number": 10}, Form)
    assert in_words(raised.value, FORM) == "number is wrong; wanted is a number from 1 to 9"
    assert in_words(raised.value, FORM, {"number": 10}, before="--").startswith("--number is 10")


def test_there_are_words_for_every_field() -> None:
    assert [name.replace("-", "_") for name in WANTED] == list(Options.__struct_fields__)
    assert list(record._WANTED) == list(record.Header.__struct_fields__)


DOTS: dict[str, tuple[str, int | None]] = {
    "none": ("a = 1\n", None),
    "as many as may be": ("a." * MOST_DOTS + "a = 1", None),
    "behind a string that ends in what looks like a comment": (
        'a = {b = """\n#""", ' + "c." * MOST_DOTS + "c.c = 1}",
        2,
    ),
    "the same with the other quotes": ("a = {b = '''\n #''', " + "c." * MOST_DOTS + "c.c = 1}", 2),
    "one more": ("a = 1\n" + "a." * MOST_DOTS + "a.a = 1", 2),
    "in a comment": ("  # " + "." * 200, None),
    "over many lines": ("a.b = 1\n" * 200, None),
}


@pytest.mark.parametrize(("toml", "line"), DOTS.values(), ids=DOTS)
def test_a_line_with_too_many_dots(toml: str, line: int | None) -> None:
    assert too_many_dots(toml) == line
