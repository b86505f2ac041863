from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.flavours import processes_in
from tests.fakes.processes import Machines


@pytest.fixture
def machines(tmp_path: Path, platform: str) -> Iterator[Machines]:
    with processes_in(platform, tmp_path) as made:
        yield made
