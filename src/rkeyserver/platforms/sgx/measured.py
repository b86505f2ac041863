"""Where in the enclave the file lies that names a domain's operators (appraisal.measured has what is in it)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rkeyserver import files
from rkeyserver.errors import Corrupt, Misuse

MEASURED: Final = Path("/rkeyserver/measured.toml")
MAX_MEASURED: Final = 64 * 1024  # bytes


def read_measured(path: Path) -> str:
    """The text of that file.

    Raises: Corrupt if it cannot be read: an image without it does not start.
    """
    try:
        return files.read_text(path, MAX_MEASURED, "file that is measured into the image")
    except Misuse as error:
        raise Corrupt(error.message, advice="The image is not whole: build it again with `make enclave`.") from error
