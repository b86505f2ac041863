"""A place on this machine that its other users reach."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter. Not one of pytest's: each run of it closes the folder above those again."""
    with tempfile.TemporaryDirectory(prefix="rk-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        yield folder
