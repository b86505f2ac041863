"""The second run: tests of hand-over, attacks and crash safety run on `simulated`, and once more on `sgx`.

Whatever asks for the fixture `platform` runs with each; docs/testing.md says what of the second run is in which
command.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.fakes.flavours import PLATFORMS, SGX, SIMULATED

# Of these the second run is part of every run: it is quick.
WHOLE: Final = Path(__file__).parent / "attacks"
_REASON_WANTED: Final = "simulated_only says why: give it a reason"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "platform" not in metafunc.fixturenames:
        return
    only = metafunc.definition.get_closest_marker("simulated_only")
    if only is not None and not (only.args and isinstance(only.args[0], str)):
        pytest.fail(_REASON_WANTED)
    names = PLATFORMS if only is None or len(only.args) > 1 else (SIMULATED,)
    metafunc.parametrize("platform", [pytest.param(name, marks=_marks(name)) for name in names], scope="session")


def _marks(name: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.sgx] if name == SGX else []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to `make test-sgx` what no marker `sgx_too` has in every run. Its arguments: the cases, none for all.

    Cases that are of `simulated` only are left out altogether.
    """
    items[:] = [item for item in items if not (item.get_closest_marker("sgx") and _is_only_simulated(item))]
    for item in items:
        if item.get_closest_marker("sgx") is None or item.path.is_relative_to(WHOLE):
            continue
        cases = [marker.args for marker in item.iter_markers("sgx_too")]
        if not any(not named or any(_is_case(item, name) for name in named) for named in cases):
            item.add_marker(pytest.mark.second)


def _is_only_simulated(item: pytest.Item) -> bool:
    return any(_is_case(item, name) for marker in item.iter_markers("simulated_only") for name in marker.args[1:])


def _is_case(item: pytest.Item, name: str) -> bool:
    """Whether a test is of the case `name`, one of the ids that its parameters have."""
    return f"-{name}-" in f"-{item.name.partition('[')[2].removesuffix(']')}-"
