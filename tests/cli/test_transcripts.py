"""Every transcript, line by line."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.transcript import player, read

FILES = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_transcript(path: Path, tmp_path: Path) -> None:
    with player(tmp_path) as made:
        for step in read(path.read_text()):
            assert "\n".join(made.play(step)) == "\n".join(step.answer), step.line
        assert not made.running, "a transcript stops what it starts"


def test_every_transcript_is_found() -> None:
    assert {"help", "usage", "hand-over", "records", "status"} <= {path.stem for path in FILES}
