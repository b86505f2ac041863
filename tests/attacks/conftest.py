from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.attacks.parties import Machines, Pair, honest_pair
from tests.attacks.wire import Recorded


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Machines:
    return Machines.in_folder(tmp_path_factory.mktemp("machines"))


@pytest.fixture
def pair(machines: Machines) -> Iterator[Pair]:
    with honest_pair(machines) as pair:
        yield pair


@pytest.fixture
def recorded(pair: Pair) -> Recorded:
    return Recorded.of(pair)
