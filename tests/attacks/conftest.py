from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.attacks.parties import Machines, Pair, honest_pair
from tests.attacks.wire import Recorded
from tests.fakes.flavours import processes_in
from tests.fakes.processes import Machines as Processes


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory, platform: str) -> Machines:
    return Machines.in_folder(tmp_path_factory.mktemp("machines"), platform)


@pytest.fixture
def processes(tmp_path: Path, platform: str) -> Iterator[Processes]:
    with processes_in(platform, tmp_path) as made:
        yield made


@pytest.fixture
def pair(machines: Machines) -> Iterator[Pair]:
    with honest_pair(machines) as pair:
        yield pair


@pytest.fixture
def recorded(pair: Pair) -> Recorded:
    return Recorded.of(pair)
