"""docs/integrations: each page's commands, as they are written, in an empty folder against real servers.

Run are the blocks marked `sh`, in order, as one script; a block marked `python` is the file that the paragraph before
it names; one marked `text` is what the commands so far have printed since the one before it, where `...` is anything.
What is not as written: the ports, and `rkeyserver` and `python3`, which are those of the tests.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.fakes.processes import PROGRAM, ROOT, environment, reserve

FOLDER = ROOT / "docs" / "integrations"
PAGES = ("database.md", "backup.md")
DEADLINE = 120.0
PORTS = ("8888", "8889", "9888", "9889")
MARK = "--- here the page says what was printed ---"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"`([\w-]+\.py)`")


@dataclass(frozen=True)
class Page:
    """A page's script, the files that it makes by hand, and what it says is printed, part by part."""

    script: str
    files: dict[str, str]
    printed: list[str]

    @classmethod
    def read(cls, path: Path) -> Page:
        text = path.read_text()
        script, files, printed = ["set -eu"], dict[str, str](), list[str]()
        for block in BLOCK.finditer(text):
            kind, body = block.groups()
            if kind == "sh":
                script.append(body)
            elif kind == "python":
                files[NAMED.findall(text[: block.start()])[-1]] = body
            elif kind == "text":
                script.append(f"echo '{MARK}'")
                printed.append(body)
        return cls("\n".join(script), files, printed)


@pytest.fixture
def ports() -> Iterator[dict[str, str]]:
    held = [reserve() for _ in PORTS]
    yield {said: str(one.getsockname()[1]) for said, one in zip(PORTS, held, strict=True)}
    for one in held:
        one.close()


def matches(said: str, printed: str) -> bool:
    """Whether the last lines printed are those that the page has."""
    lines = said.splitlines()
    wanted = "\n".join(re.escape(line).replace(r"\.\.\.", ".*") for line in lines)
    return re.fullmatch(wanted, "\n".join(printed.splitlines()[-len(lines) :])) is not None


def commands_in(folder: Path) -> str:
    """A folder of the two commands that the pages take from a virtual environment."""
    folder.mkdir()
    for name, command in {"rkeyserver": PROGRAM, "python3": (sys.executable,)}.items():
        file = folder / name
        file.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        file.chmod(0o755)
    return str(folder)


@pytest.mark.parametrize("name", PAGES)
def test_the_page_does_what_it_says(name: str, tmp_path: Path, ports: dict[str, str]) -> None:
    page = Page.read(FOLDER / name)
    assert page.printed
    script = re.sub(r":(\d{4})\b", lambda found: f":{ports[found[1]]}", page.script)
    work = tmp_path / "empty"
    work.mkdir()
    for file, text in page.files.items():
        (work / file).write_text(text)
    env = environment()
    env["PATH"] = f"{commands_in(tmp_path / 'bin')}:{env['PATH']}"
    out = tmp_path / "out"
    # All of it in a session of its own, so that servers that a failed page leaves behind end with it.
    with out.open("w") as into:
        shell = subprocess.Popen(
            ["sh", "-c", script],
            cwd=work,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=into,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = shell.wait(DEADLINE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
    said = out.read_text()
    assert status == 0, said
    *parts, _rest = said.split(f"{MARK}\n")
    assert len(parts) == len(page.printed)
    for wanted, printed in zip(page.printed, parts, strict=True):
        assert matches(wanted, printed), f"said:\n{wanted}\nprinted:\n{printed}"


def test_the_index_names_every_page_that_is_there() -> None:
    index = (FOLDER / "README.md").read_text()
    assert {path.name for path in FOLDER.glob("*.md")} - {"README.md"} == set(re.findall(r"\]\(([\w-]+\.md)\)", index))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.md")), ids=lambda path: path.name)
def test_what_is_linked_is_there(path: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", path.read_text()):
        page = path.parent / target if target else path
        assert page.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, anchor
