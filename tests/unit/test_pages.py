"""Whatever README.md and docs/ link to is there, and the index of docs/operations names every page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.fakes.processes import ROOT

DOCS = ROOT / "docs"
OPERATIONS = DOCS / "operations"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"\]\(([^)#:]*)(?:#([^)]*))?\)")


def text_of(page: Path) -> str:
    """What a page says, without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_linked_is_there(page: Path) -> None:
    for target, anchor in LINK.findall(text_of(page)):
        linked = page.parent / target if target else page
        assert linked.exists(), target
        if anchor and linked.suffix == ".md":
            assert anchor in anchors(linked), f"{target}#{anchor}"


def test_the_index_of_operations_names_every_page() -> None:
    named = set(re.findall(r"\]\(([\w-]+\.md)\)", (OPERATIONS / "README.md").read_text()))
    assert named == {page.name for page in OPERATIONS.glob("*.md")} - {"README.md"}
