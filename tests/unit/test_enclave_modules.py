"""Which modules of a made-up library the enclave's build finds, and which not."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.fakes.processes import ROOT

sys.path.insert(0, str(ROOT / "tools"))

import enclave_modules

# The text of `start`, and the modules that are found beside it.
FOUND: dict[str, tuple[str, set[str]]] = {
    "nothing": ("", set()),
    "at the top": ("import one", {"one"}),
    "inside of a function": ("def late():\n    import one\n", {"one"}),
    "after something failed": ("try:\n    import none\nexcept ImportError:\n    import one\n", {"one"}),
    "after everything": ("try:\n    pass\nfinally:\n    import one\n", {"one"}),
    "in a case": ("match 1:\n    case 1:\n        import one\n", {"one"}),
    "in a class, with, loop": ("class A:\n    with a:\n        for b in c:\n            import one\n", {"one"}),
    "under another name": ("import one as two", {"one"}),
    "several": ("import one, pack.inner", {"one", "pack", "pack.inner", "pack.sub", "pack.sub.leaf"}),
    "a name of a module": ("from one import value", {"one"}),
    "a module of a package": ("from pack import inner", {"pack", "pack.inner", "pack.sub", "pack.sub.leaf"}),
    "a name of a package": ("from pack import value", {"pack"}),
    "everything of a package": ("from pack import *", {"pack"}),
    "what a package imports of itself": ("import pack.up", {"pack", "pack.up", "one"}),
    "two packages above": ("import pack.sub.leaf", {"pack", "pack.sub", "pack.sub.leaf"}),
    "one of the interpreter's own": ("import sys", {"sys"}),
    "nothing of that name": ("import none.at.all", set()),
    "a module that is no package": ("import one.inner", {"one"}),
    "for a type checker": ("if TYPE_CHECKING:\n    import one\n", set()),
    "for a type checker, by its module": ("if typing.TYPE_CHECKING:\n    import one\n", set()),
    "where no type checker runs": ("if TYPE_CHECKING:\n    import none\nelse:\n    import one\n", {"one"}),
    "as a program": ("if __name__ == '__main__':\n    import one\n", set()),
    "of another system": ("if sys.platform == 'win32':\n    import one\n", set()),
    "left out": ("import doctest, unittest.mock", set()),
    "left out of a package": ("from asyncio import windows_events", {"asyncio"}),
}
LIBRARY: Mapping[str, str] = {
    "one.py": "value = 1",
    "pack/__init__.py": "value = 2",
    "pack/inner.py": "from .sub import leaf",
    "pack/up.py": "from .. import pack\nimport one",
    "pack/sub/__init__.py": "",
    "pack/sub/leaf.py": "from .. import value",
    "asyncio/__init__.py": "",
    "asyncio/windows_events.py": "",
    "doctest.py": "",
    "unittest/__init__.py": "",
    "unittest/mock.py": "",
}


@pytest.fixture
def library(tmp_path: Path) -> Path:
    for name, text in LIBRARY.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(("text", "wanted"), FOUND.values(), ids=FOUND)
def test_what_is_found(library: Path, text: str, wanted: set[str]) -> None:
    (library / "start.py").write_text(text)
    found = enclave_modules.find_modules([library], ["start"])
    assert {module.name for module in found} == {"start"} | wanted
    assert [module.name for module in found] == sorted(module.name for module in found)


def test_where_it_is(library: Path) -> None:
    (library / "start.py").write_text("import sys, pack")
    found = {module.name: module for module in enclave_modules.find_modules([library], ["start"])}
    assert found["pack"] == enclave_modules.Module("pack", library / "pack" / "__init__.py", is_package=True)
    assert found["sys"] == enclave_modules.Module("sys", None, is_package=False)
    assert not found["sys"].is_source


def test_a_root_that_is_not_there(library: Path) -> None:
    with pytest.raises(SystemExit, match="There is no module start"):
        enclave_modules.find_modules([library], ["start"])


def test_what_our_own_code_imports_has_to_be_there(library: Path) -> None:
    (library / "rkeyserver").mkdir()
    (library / "rkeyserver" / "__init__.py").write_text("")
    (library / "rkeyserver" / "start.py").write_text("def late():\n    import none\n")
    with pytest.raises(SystemExit, match=r"rkeyserver\.start imports none, which is not there"):
        enclave_modules.find_modules([library], ["rkeyserver.start"])


def test_what_our_own_code_names_by_a_string(library: Path) -> None:
    (library / "rkeyserver").mkdir()
    for name, text in {
        "__init__": "",
        "one": "",
        "start": 'A = {"a": "rkeyserver.one:VALUE"}\nB = "rkeyserver.one."',
    }.items():
        (library / "rkeyserver" / f"{name}.py").write_text(text)
    found = {module.name for module in enclave_modules.find_modules([library], ["rkeyserver.start"])}
    assert found == {"rkeyserver", "rkeyserver.one", "rkeyserver.start"}


def test_all_of_a_package_whose_shared_object_imports_by_name(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (library / "start.py").write_text("import pack")
    monkeypatch.setattr(enclave_modules, "WHOLE", ("pack", "none"))
    found = {module.name for module in enclave_modules.find_modules([library], ["start"])}
    assert found == {"start", "one", "pack", "pack.inner", "pack.up", "pack.sub", "pack.sub.leaf"}


def test_whatever_is_left_out_is_something_by_its_name() -> None:
    """A name that nothing has any more would stay in the list for ever."""
    version_of_another = {
        "_winapi",
        "_wmi",
        "_ios_support",
        "readline",
        "bz2",
        "lzma",
        "curses",
        "tarfile",
        "getpass",
        "statistics",
    }
    path = [str(ROOT / "src"), *sys.path]
    for name in enclave_modules.EXCLUDED:
        assert name in version_of_another or _exists(name, path), name


def _exists(name: str, path: list[str]) -> bool:
    parts = Path(*name.split("."))
    return any(
        (Path(folder) / parts).is_dir()
        or any((Path(folder) / parts.parent).glob(f"{parts.name}.*"))
        or name in sys.stdlib_module_names
        for folder in path
    )
