"""What holds of every file that is packaged, and what `make` fetches for whom."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.packaging.said import PACKAGING

ROOT = PACKAGING.parent
FILES = sorted(path for path in PACKAGING.rglob("*") if path.is_file() and path.suffix != ".pyc")
SECRET = re.compile(r"-----BEGIN|AGE-SECRET-KEY|PRIVATE KEY|(?i:password|api[_-]?key|token)['\"]?\s*[:=]\s*['\"]?\w{8}")


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGING)) for path in FILES])
def test_no_secret_and_no_address_but_examples(path: Path) -> None:
    text = path.read_text()
    assert not SECRET.search(text)
    hosts = {urlsplit(url).hostname or "" for url in re.findall(r"https?://[\w.:/-]+", text)}
    # Names that are nobody's, the service of the Compose file, and what schemas are named by.
    assert all(re.search(r"(^|\.)example$", host) for host in hosts - {"pccs", "json-schema.org"})
    assert not re.search(r"/(?:home|root|tmp)/(?!\.)", text), "a path of somebody's machine"


@pytest.mark.parametrize(
    ("target", "fetched"), [("out", False), ("demo", False), ("venv", True), ("lint", True), ("check", True)]
)
def test_the_tools_for_these_files_are_fetched_for_tests_alone(tmp_path: Path, target: str, *, fetched: bool) -> None:
    done = subprocess.run(
        ["make", "-n", f"VENV={tmp_path / 'venv'}", target],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert ("requirements/packaging.lock" in done.stdout) == fetched
    assert "requirements/dev.lock" in done.stdout
