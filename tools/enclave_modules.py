"""Which Python modules the enclave can ever import, found in their source without running any of it.

From the roots every import statement is followed, at the top of a module or inside of a function. What is left out is
in EXCLUDED, each with its reason; tests/enclave/ imports every module of the tree that is built, and runs what it can.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import BuiltinImporter, ExtensionFileLoader, PathFinder, SourceFileLoader
from pathlib import Path
from typing import Final

# The program, and what others than our own code name by a string: codecs, uvicorn's and anyio's back ends as we
# configure them, and what a shared object imports by itself.
ROOTS: Final = (
    "rkeyserver.cli.enclave",
    "_cffi_backend",
    "anyio._backends._asyncio",
    "encodings.ascii",
    "encodings.cp437",
    "encodings.idna",
    "encodings.latin_1",
    "encodings.utf_8",
    "numbers",
    "uvicorn.lifespan.off",
    "uvloop._noop",
    "zipimport",
)
# Packages whose shared object imports modules of its own package by their names: all of these are taken.
WHOLE: Final = ("cryptography",)

_PERSON: Final = "for a person at a terminal, in a debugger or at a command line"
_SYSTEM: Final = "for another operating system"
_PROCESSES: Final = "starts processes or shares memory with them; the enclave has one process"
_COMPRESSED: Final = "nothing is unpacked in the enclave; whoever imports it goes on without"
_NOT_INSTALLED: Final = "needs a library that requirements/runtime.lock does not name; its importer goes on without"
_UNASKED: Final = "imported only inside a function that nothing here calls"

EXCLUDED: Final[dict[str, str]] = {
    "rkeyserver.platforms.simulated": "one platform in an image, and in this one nothing that protects nothing",
    "rkeyserver.keystore.databases": "an enclave takes a file only (docs/adr/0032-database-keystores.md)",
    # Libraries.
    "bcrypt": "opens OpenSSH keys with a passphrase; recipients and admins have those, on their machines",
    "anyio.pytest_plugin": "for tests",
    "certifi.__main__": _PERSON,
    "click._winconsole": _SYSTEM,
    "httpcore._async.http2": _NOT_INSTALLED,
    "httpcore._async.socks_proxy": _NOT_INSTALLED,
    "httpcore._backends.trio": _NOT_INSTALLED,
    "httpcore._sync.http2": _NOT_INSTALLED,
    "httpcore._sync.socks_proxy": _NOT_INSTALLED,
    "httpx._main": _PERSON,
    "shamir_mnemonic.cli": _PERSON,
    "uvicorn.__main__": _PERSON,
    "uvicorn.supervisors.watchfilesreload": _NOT_INSTALLED,
    # The standard library.
    "asyncio.__main__": _PERSON,
    "asyncio.proactor_events": _SYSTEM,
    "asyncio.windows_events": _SYSTEM,
    "asyncio.windows_utils": _SYSTEM,
    "bz2": _COMPRESSED,
    "concurrent.futures.process": _PROCESSES,
    "ctypes.macholib": _SYSTEM,
    "ctypes.wintypes": _SYSTEM,
    "curses": _PERSON,
    "doctest": _PERSON,
    "encodings.mbcs": _SYSTEM,
    "encodings.oem": _SYSTEM,
    "ftplib": _UNASKED,
    "getopt": _PERSON,
    "getpass": _PERSON,
    "lzma": _COMPRESSED,
    **{
        f"multiprocessing.{name}": _PROCESSES
        for name in (
            *("dummy", "forkserver", "heap", "managers", "pool", "popen_fork", "popen_forkserver", "popen_spawn_posix"),
            *("popen_spawn_win32", "queues", "resource_sharer", "resource_tracker", "shared_memory", "sharedctypes"),
            *("spawn", "synchronize"),
        )
    },
    "nturl2path": _SYSTEM,
    "pdb": _PERSON,
    "plistlib": _SYSTEM,
    "pydoc": _PERSON,
    "readline": _PERSON,
    "smtplib": _UNASKED,
    "statistics": _UNASKED,
    "tarfile": _COMPRESSED,
    "test": "for tests",
    "unittest": "for tests",
    "webbrowser": _PERSON,
    "xmlrpc": _UNASKED,
    "_aix_support": _SYSTEM,
    "_ios_support": _SYSTEM,
    "_osx_support": _SYSTEM,
    "_pydecimal": "where there is no _decimal",
    "_winapi": _SYSTEM,
    "_wmi": _SYSTEM,
}


_NEVER: Final = frozenset(
    {"TYPE_CHECKING", "typing.TYPE_CHECKING", "__name__ == '__main__'", "sys.platform == 'win32'"}
)
_PARTS: Final = ("body", "handlers", "orelse", "finalbody", "cases")  # where statements are in statements
_NAME: Final = re.compile(r"rkeyserver(\.\w+)+(:\w+)?\Z")


@dataclass(frozen=True)
class Module:
    """A module that was found. path: its file, None for one that is built into the interpreter."""

    name: str
    path: Path | None
    is_package: bool

    @property
    def is_source(self) -> bool:
        """Whether it is Python source, so that it becomes bytecode; else it is a shared object."""
        return self.path is not None and self.path.suffix == ".py"


def excluded(name: str) -> bool:
    """Whether a module, or a package that it is in, is left out."""
    parts = name.split(".")
    return any(".".join(parts[:count]) in EXCLUDED for count in range(1, len(parts) + 1))


@dataclass
class _Search:
    path: Sequence[str]
    found: dict[str, Module | None]
    to_read: list[Module]

    def want(self, name: str) -> Module | None:
        """That module with the packages that it is in, unless it is left out or is none."""
        module = None
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            one = ".".join(parts[:count])
            if excluded(one):
                return None
            if one not in self.found:
                self.found[one] = module = self._look(one, None if count == 1 else self.found[one.rpartition(".")[0]])
                if module is not None and module.is_source:
                    self.to_read.append(module)
            module = self.found[one]
            if module is None:
                return None
        return module

    def take_all_of(self, name: str) -> None:
        """Every module of a package, where there is that package."""
        package = self.want(name)
        if package is None or package.path is None:
            return
        folder = package.path.parent
        for path in folder.rglob("*.py"):
            inner = path.relative_to(folder).with_suffix("").parts
            self.want(".".join((name, *(inner[:-1] if inner[-1] == "__init__" else inner))))

    def _look(self, name: str, package: Module | None) -> Module | None:
        if package is None:
            spec = BuiltinImporter.find_spec(name) or PathFinder.find_spec(name, self.path)
        elif package.is_package and package.path is not None:
            spec = PathFinder.find_spec(name, [str(package.path.parent)])
        else:
            return None
        if spec is None:
            return None
        if isinstance(spec.loader, SourceFileLoader | ExtensionFileLoader):
            return Module(name, Path(spec.loader.path), spec.submodule_search_locations is not None)
        return Module(name, None, is_package=False)

    def read(self, module: Module) -> None:
        """Follow what a module imports."""
        assert module.path is not None  # noqa: S101 - it has source
        package = module.name if module.is_package else module.name.rpartition(".")[0]
        tree = ast.parse(module.path.read_bytes())
        if module.name.startswith("rkeyserver."):
            for name in _named(tree):
                self.want(name)
        for statement in _imports(tree):
            if isinstance(statement, ast.Import):
                for alias in statement.names:
                    self._want_for(module, alias.name)
                continue
            base = _absolute(statement, package)
            source = self._want_for(module, base)
            for alias in statement.names:
                # Of a package the name may be a module; where it is none, nothing is found.
                if source is not None and source.is_package:
                    self.want(f"{base}.{alias.name}")

    def _want_for(self, module: Module, name: str) -> Module | None:
        found = self.want(name)
        # A library may try whether another one is there; what our own code asks for has to be.
        if found is None and module.name.startswith("rkeyserver.") and not excluded(name):
            sys.exit(f"{module.name} imports {name}, which is not there.")
        return found


def _named(tree: ast.AST) -> Iterator[str]:
    """What may be a module of ours that a string names, as in platforms/registry.py; a logger may be called alike."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _NAME.match(node.value):
            yield node.value.partition(":")[0]


def _absolute(statement: ast.ImportFrom, package: str) -> str:
    if not statement.level:
        return statement.module or ""
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - statement.level + 1], *([statement.module] if statement.module else [])])


def _imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import below `node` but those for a type checker and those of a module that is run as a program."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
        return
    never = isinstance(node, ast.If) and ast.unparse(node.test) in _NEVER
    for part in ("orelse",) if never else _PARTS:
        for statement in getattr(node, part, ()):
            yield from _imports(statement)


def find_modules(path: Sequence[Path], roots: Sequence[str] = ROOTS) -> list[Module]:
    """The modules that `roots` can reach, in the order of their names. path: where they are looked for, in this order.

    Raises: SystemExit if a root is not there.
    """
    search = _Search([str(folder) for folder in path], {}, [])
    for name in roots:
        if search.want(name) is None:
            sys.exit(f"There is no module {name} below {', '.join(search.path)}.")
    for name in WHOLE:
        search.take_all_of(name)
    while search.to_read:
        search.read(search.to_read.pop())
    return sorted((module for module in search.found.values() if module is not None), key=lambda one: one.name)
