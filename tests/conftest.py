"""The second run: tests of hand-over, attacks and crash safety run on `simulated`, and once more on `sgx`.

Whatever asks there for the fixture `platform` runs with each; docs/testing.md says what of the second run is in which
command.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.fakes import measured
from tests.fakes.flavours import PLATFORMS, SGX, SIMULATED

if TYPE_CHECKING:
    from tests.fakes.postgres import Cluster

# Of the first the second run is part of every run: it is quick.
WHOLE: Final = Path(__file__).parent / "attacks"
RUN_TWICE: Final = (WHOLE, WHOLE.with_name("integration"))
_REASON_WANTED: Final = "simulated_only says why: give it a reason"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL cluster, started when a test first asks for it."""
    from tests.fakes.postgres import cluster_in  # noqa: PLC0415 - most tests ask for none

    with cluster_in() as cluster:
        yield cluster


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtestloop() -> Generator[None, object, object]:
    """Before Coverage gathers what it has, have it what the processes of the tests left."""
    ran = yield
    measured.collect()
    return ran


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "platform" not in metafunc.fixturenames or not any(map(metafunc.definition.path.is_relative_to, RUN_TWICE)):
        return
    only = metafunc.definition.get_closest_marker("simulated_only")
    if only is not None and not (only.args and isinstance(only.args[0], str)):
        pytest.fail(_REASON_WANTED)
    names = PLATFORMS if only is None or len(only.args) > 1 else (SIMULATED,)
    metafunc.parametrize("platform", [pytest.param(name, marks=_marks(name)) for name in names], scope="session")


def _marks(name: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.sgx] if name == SGX else []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave to `make test-sgx` what no marker `sgx_too` has in every run. Its arguments: the cases, none for all.

    Cases that are of `simulated` only are left out altogether.
    """
    if not any("::" in argument for argument in config.args):
        _check_names(items)
    items[:] = [item for item in items if not (item.get_closest_marker("sgx") and _is_only_simulated(item))]
    for item in items:
        if item.get_closest_marker("sgx") is None or item.path.is_relative_to(WHOLE):
            continue
        cases = [marker.args for marker in item.iter_markers("sgx_too")]
        if not any(not named or any(_is_case(item, name) for name in named) for named in cases):
            item.add_marker(pytest.mark.second)


def _check_names(items: list[pytest.Item]) -> None:
    """Each case that a marker names is one: of a word misspelt nobody would hear."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for test, found in cases.items():
        named = [*(marker.args for marker in found[0].iter_markers("sgx_too"))]
        named += [marker.args[1:] for marker in found[0].iter_markers("simulated_only")]
        for name in {name for names in named for name in names}:
            if not any(_is_case(item, name) for item in found):
                raise pytest.UsageError(f"{test} has no case {name!r}, which a marker names.")


def _is_only_simulated(item: pytest.Item) -> bool:
    return any(_is_case(item, name) for marker in item.iter_markers("simulated_only") for name in marker.args[1:])


def _is_case(item: pytest.Item, name: str) -> bool:
    """Whether a test is of the case `name`, one of the ids that its parameters have."""
    return f"-{name}-" in f"-{item.name.partition('[')[2].removesuffix(']')}-"
