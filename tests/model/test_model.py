"""The models of docs/spec/model.md hold, and every rule of theirs is needed: without it the checker finds a run that
shows why. More than this, within bounds that take minutes, is `make model`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.model.spin import MODELS, check

PAGE = MODELS.parent / "model.md"

HOLDS = {
    "operators": ("reunion", ""),
    "a disk lost for good": ("reunion", "LOSSES=1 RESTARTS=0"),
    "a domain that begins": ("reunion", "FOUNDING LOSSES=1 RESTARTS=0 ROTATIONS=1"),
    "retirement": ("reunion", "RETIREMENTS=1"),
    "a coordinator": ("lease", ""),
}

ASSERTION, CYCLE = "assertion violated", "acceptance cycle"
LONG = {"MERGES_NOTHING", "ASKS_IN_VAIN"}  # whose shortest counterexample takes long to find
WITHOUT = {
    "NO_MERGE": ("reunion", "", ASSERTION),
    "MERGE_IN_PLACE": ("reunion", "", ASSERTION),
    "MERGES_NOTHING": ("reunion", "", ASSERTION),
    "ADOPT_ANYWAY": ("reunion", "", ASSERTION),
    "NO_RECHECK": ("reunion", "", ASSERTION),
    "TIES": ("reunion", "", ASSERTION),
    "HINT_BELIEVED": ("reunion", "", ASSERTION),
    "PENDING_WRAPS": ("reunion", "", ASSERTION),
    "ACK_NOT_DURABLE": ("reunion", "", ASSERTION),
    "ACK_OF_ANOTHER": ("reunion", "", ASSERTION),
    "ACK_ONCE": ("reunion", "", ASSERTION),
    "PROMOTION_DROPS_PENDING": ("reunion", "", ASSERTION),
    "ACK_UNTIL_ANSWERED": ("reunion", "RETIREMENTS=1", ASSERTION),
    "RETIRED_UNHEARD": ("reunion", "RETIREMENTS=1", ASSERTION),
    "KNOWN_LATER": ("reunion", "FOUNDING", ASSERTION),
    "GRANT_NAMES_NOBODY": ("reunion", "FOUNDING", ASSERTION),
    "ASKS_IN_VAIN": ("reunion", "", CYCLE),
    "NO_FENCE": ("lease", "", ASSERTION),
    "NO_CAS": ("lease", "", ASSERTION),
    "NO_MAX": ("lease", "", ASSERTION),
    "USED_FIRST": ("lease", "", ASSERTION),
}


@pytest.mark.parametrize("case", HOLDS)
def test_it_holds(case: str, tmp_path: Path) -> None:
    model, defined = HOLDS[case]
    found = check(model, defined, tmp_path)
    assert found.errors == 0, found.said + found.steps
    assert found.states > 50_000  # a model that stands still holds too


@pytest.mark.parametrize("rule", WITHOUT)
def test_it_does_not_hold_without(rule: str, tmp_path: Path) -> None:
    model, defined, wanted = WITHOUT[rule]
    found = check(model, f"{defined} {rule}", tmp_path, shortest=rule not in LONG)
    assert found.errors == 1, found.said
    assert wanted in found.said, found.said
    assert re.search(r"^ *(late: +)?(the lease of )?machine \d ", found.steps, re.MULTILINE), (
        found.steps
    )  # it can be read


def test_each_rule_is_tried_and_explained() -> None:
    there, bounds = set(), set()
    for source in MODELS.glob("*.pml"):
        text = source.read_text()
        there |= set(re.findall(r"(?:^#ifn?def |defined\()(\w+)", text, re.MULTILINE))
        bounds |= set(re.findall(r"^#ifndef (\w+)\n#define \1 \d", text, re.MULTILINE))
    assert there - bounds - {"FOUNDING"} == set(WITHOUT)
    page = PAGE.read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == set(WITHOUT)
