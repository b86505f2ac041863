"""What msgspec and tomllib find wrong, in the words of the people who have to put it right."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

_LONGEST: Final = 60
MOST_DOTS: Final = 64  # in one line of TOML
_PLACE: Final = re.compile(r"`\$\.(?P<name>[A-Za-z0-9_-]+)[^`]*`\Z")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(?P<name>.*)`\Z", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(?P<name>.*)`\Z", re.DOTALL)


def in_words(
    error: msgspec.ValidationError,
    wanted: Mapping[str, str],
    given: Mapping[str, object] | None = None,
    *,
    before: str = "",
) -> str:
    """Which field is wrong, what it is and what is wanted. No full stop.

    wanted: each field's name with what it has to be; given: the fields as they were given, None where they are not to
    be shown; before: what stands before a field's name where it was given.
    """
    text = str(error)
    if (match := _PLACE.search(text)) and (name := match["name"]) in wanted:
        found = "is wrong" if given is None else f"is {_shown(given.get(name))}"
        return f"{before}{name} {found}; wanted is {wanted[name]}"
    if match := _UNKNOWN.match(text):
        return f"{before}{match['name'][:_LONGEST]} is unknown; there is {', '.join(wanted)}"
    if (match := _MISSING.match(text)) and (name := match["name"]) in wanted:
        return f"{before}{name} is missing; wanted is {wanted[name]}"
    return text


def _shown(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def too_many_dots(toml: str) -> int | None:
    """The first line, from 1, that has more than MOST_DOTS dots and is no comment; None if there is none.

    A key of many parts (`a.b.c`) is not for tomllib: its time is their square, which for a file of 100 kB are minutes.
    """
    for number, line in enumerate(toml.split("\n"), start=1):
        # Behind the end of a string of several lines the statement goes on, whatever the line begins with.
        comment = line.lstrip().startswith("#") and '"""' not in line and "'''" not in line
        if line.count(".") > MOST_DOTS and not comment:
            return number
    return None
