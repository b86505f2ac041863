"""What docs/threat-model.md names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.fakes.processes import ROOT

PAGE = (ROOT / "docs" / "threat-model.md").read_text()
TESTS = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
NAMED = sorted(set(re.findall(r"`(test_\w+)`", PAGE)))
FILES = sorted(set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py|(?:[a-z_]+/)+)`", PAGE)))


@pytest.mark.parametrize("name", NAMED)
def test_every_test_that_it_names_is_there(name: str) -> None:
    assert any(path.stem == name or f"def {name}(" in path.read_text() for path in TESTS)


@pytest.mark.parametrize("name", FILES)
def test_every_file_and_room_that_it_names_is_there(name: str) -> None:
    assert (ROOT / "src" / "rkeyserver" / name).exists() or (ROOT / name).exists()


def test_every_row_of_what_a_host_hands_in_has_all_its_columns() -> None:
    (section,) = re.findall(r"^## Every byte a hostile host.*?(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert all(len(row.strip("|").split(" | ")) == 5 or "---" in row for row in rows)
    assert len(rows) > 40
