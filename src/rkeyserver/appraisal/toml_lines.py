"""On which line of a TOML document a key stands: tomllib tells that only where it could not read on.

Only for error messages. What the text says is for tomllib alone to tell; it has read it before.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

Path = tuple[str | int, ...]

# Strings and comments, which can hide what structures the text; that; and everything else.
_TOKEN: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|\#[^\n]*"
    r"|[\[\]{},=\n]"
    r"|[^\s\[\]{},=\#\"']+",
    re.DOTALL,
)


def line_of(text: str, path: Path) -> int:
    """The line, from 1, that sets `path` (keys, and indices of a list), or the first of what is nearest to it."""
    return max(_places(text), key=lambda place: _in_common(place[0], path))[1]


def _in_common(one: Path, other: Path) -> int:
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    return count


def _places(text: str) -> Iterator[tuple[Path, int]]:
    """The document, then every table, key and element of a list with its line, in the order of the text."""
    yield (), 1
    table: Path = ()
    count: Counter[Path] = Counter()
    for statement in _statements(text):
        words = [word for word, _ in statement]
        line = statement[0][1]
        if "=" not in words:
            table = _path("".join(words))
            if words[:2] == ["[", "["]:
                count[table] += 1
                table = (*table, count[table] - 1)
            yield table, line
            continue
        equals = words.index("=")
        key = table + _path("".join(words[:equals]) + "= 0")
        yield key, line
        for index, at in enumerate(_elements(statement[equals + 1 :])):
            yield (*key, index), at


def _path(statement: str) -> Path:
    """The keys that a header or a key leads to."""
    path: list[str] = []
    found: Any = tomllib.loads(statement)
    while isinstance(found, dict) and found:
        ((name, found),) = found.items()
        path.append(name)
    return tuple(path)


def _elements(value: list[tuple[str, int]]) -> Iterator[int]:
    """The line of each element, if it is a list."""
    if value[0][0] != "[":
        return
    depth, between = 0, False
    for word, line in value:
        if word in ("]", "}"):
            depth -= 1
        elif depth == 1 and word == ",":
            between = True
            continue
        elif depth == 1 and between:
            yield line
        between = depth == 0 and word == "["
        depth += word in ("[", "{")


def _statements(text: str) -> Iterator[list[tuple[str, int]]]:
    """The tokens of each statement with their lines, comments left out: up to the end of line outside of brackets."""
    line, depth = 1, 0
    statement: list[tuple[str, int]] = []
    for token in _TOKEN.finditer(text):
        kind = token[0]
        if kind == "\n" and depth == 0:
            if statement:
                yield statement
            statement = []
        elif kind[0] not in "\n#":
            depth += (kind in "[{") - (kind in "]}")
            statement.append((kind, line))
        line += kind.count("\n")
    if statement:
        yield statement
