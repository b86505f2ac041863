"""The decisions in an audit file, without what chains its lines: tests of what was decided do not look at that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

CHAIN: Final = ("chain", "number", "prev")


def decisions_in(path: Path) -> list[dict[str, Any]]:
    """Every line that has a verdict, in order."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: one[name] for name in one if name not in CHAIN} for one in found if "verdict" in one]
