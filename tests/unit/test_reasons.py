"""Whatever switches a check off, or catches more than it names, has its reason beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.fakes.processes import ROOT

# The reason follows on the same line: `noqa: X - reason`, `type: ignore[x]  # reason`. Of `import-untyped` it is the
# name itself, and of `fmt: skip` that it switches no check off.
MARK: Final = re.compile(
    r"# ?(ruff: )?noqa|# ?type: ?ignore(?!\[import-untyped\])|# ?(ruff|mypy|pyright|pylint): |# ?pragma: ?no|# ?nosec"
    r"|# ?fmt: ?o|# ?hadolint ignore|# ?shellcheck disable"
)
WITH_REASON: Final = re.compile(
    r"# (ruff: )?noqa: [A-Z]+\d+(, [A-Z]+\d+)* - \w.+|# type: ignore\[[a-z-]+(, ?[a-z-]+)*\]  # (\w.+|noqa: .+)"
    r"|# pragma: no (cover|branch) - \w.+|# (hadolint ignore=|shellcheck disable=)[A-Z]+\d+ # \w.+"
)
# Here the reason is on the line, in the one above, or the first in what is done: a comment.
SWEEPING: Final = re.compile(
    r"^ *except( \(?(Base)?Exception\b.*)?:|\bsuppress\((.*\b)?((Base)?Exception|OSError)\b"
    r"|^ *except (OSError|\(.*\bOSError\b.*\)):"
    r"|suppress_health_check=|mark\.filterwarnings|simplefilter\(|action=.ignore."
)
DOES_NOTHING: Final = re.compile(r"^ *(pass|continue|return( None| False| \"\"| b\"\"| \(\)| \[\])?)( +#.*)?$")


def programs() -> list[Path]:
    rooms = ("src", "tests", "tools", "bench", "docs", "packaging")
    return [one for room in rooms for one in sorted((ROOT / room).rglob("*.py")) if one != Path(__file__)]


def unreasoned(text: str) -> Iterator[str]:
    """Each line of `text` that lacks its reason."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if MARK.search(line) and not WITH_REASON.search(line):
            yield line
        if not SWEEPING.search(line):
            continue
        after = lines[number + 1] if number + 1 < len(lines) else ""
        if line.lstrip().startswith("except (") and "Exception" not in line and not DOES_NOTHING.match(after):
            continue
        if line.lstrip().startswith("except OSError") and not DOES_NOTHING.match(after):
            continue
        if not any("#" in one for one in (lines[number - 1] if number else "", line, after)):
            yield line


def test_every_suppression_has_its_reason() -> None:
    files = [*programs(), ROOT / "packaging" / "docker" / "Dockerfile", ROOT / "tools" / "install-test-tools"]
    found = [f"{one.relative_to(ROOT)}: {line.strip()}" for one in files for line in unreasoned(one.read_text())]
    assert found == []


def test_what_is_switched_off_for_all_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    (everywhere,) = re.findall(r"^ignore = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    (here,) = re.findall(r"^\[tool\.ruff\.lint\.per-file-ignores\]\n(.*?)^\[", text, re.MULTILINE | re.DOTALL)
    reported = re.findall(r"^(?:exclude_also|omit) = .*$", text, re.MULTILINE)
    lines = [*everywhere.splitlines(), *reported]
    assert [line for line in lines if "  # " not in line] == []
    assert [one for one in re.findall(r"^\"[^\n]*\][^\n]*$", here, re.MULTILINE) if "  # " not in one] == []


LACKING: Final = {
    "bare": "x = 1  # noqa",
    "a rule": "x = 1  # noqa: E501",
    "a rule and a dash": "x = 1  # noqa: E501 - ",
    "a whole file": "# ruff: noqa: T201",
    "a type": "x = y  # type: ignore[misc]",
    "any type": "x = y  # type: ignore",
    "not covered": "    return  # pragma: no cover",
    "no branch": "    if x:  # pragma: no branch",
    "no formatter": "# fmt: off",
    "no mypy": "# mypy: ignore-errors",
    "a linter of files": "# hadolint ignore=DL3008",
    "a linter of shell": "# shellcheck disable=SC2086",
    "everything": "try:\n    f()\nexcept Exception:\n    pass",
    "everything, by no name": "try:\n    f()\nexcept:\n    g()",
    "everything, and more": "try:\n    f()\nexcept BaseException as error:\n    raise X from error",
    "whatever the system says": "try:\n    f()\nexcept OSError:\n    pass",
    "one of two": "try:\n    f()\nexcept (OSError, ValueError):\n    return False",
    "suppressed": "with contextlib.suppress(OSError):\n    f()",
    "suppressed with another": "with contextlib.suppress(ValueError, Exception):\n    f()",
    "warnings": 'with warnings.catch_warnings(action="ignore"):\n    f()',
    "health": "@settings(suppress_health_check=[HealthCheck.too_slow])\ndef test(): ...",
}


@pytest.mark.parametrize("text", LACKING.values(), ids=LACKING)
def test_what_lacks_a_reason_is_found(text: str) -> None:
    assert len(list(unreasoned(text))) == 1


def test_what_has_one_is_not() -> None:
    text = """
x = 1  # noqa: E501, S105 - a name
# ruff: noqa: T201 - a program that prints
import a  # type: ignore[import-untyped]
b = c  # type: ignore[misc, arg-type]  # it has one here
d = e  # type: ignore[attr-defined]  # noqa: SLF001 - as above
return  # pragma: no cover - never
# hadolint ignore=DL3008 # why
try:
    f()
except OSError:  # it is gone
    pass
except ValueError:
    pass
except OSError as error:
    raise X from error
# Whoever is there:
with suppress(OSError):
    g()
"""
    assert list(unreasoned(text)) == []
