from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sgx.machines import SgxMachines, sgx_machines_in


@pytest.fixture
def sgx_machines(tmp_path: Path) -> Iterator[SgxMachines]:
    """Machines whose instances are the closed program: they judge by what is measured into them."""
    with sgx_machines_in(tmp_path) as made:
        yield made


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[SgxMachines]:
    """What tests that are written for `simulated` get instead of its machines."""
    with sgx_machines_in(tmp_path, judged_as_simulated=True) as made:
        yield made
