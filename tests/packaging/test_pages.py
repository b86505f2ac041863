"""The pages about SGX hosts: each command line in them is one that the program takes, each file is there."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from tests.packaging.said import PACKAGING

from rkeyserver.cli import main

DOCS = PACKAGING.parent / "docs"
PAGES = ("sgx.md", "sgx-containers.md")
BEFORE = re.compile(r"^(?:\$R|rkeyserver|.*/rkeyserver/rkeyserver) ")


def command_lines() -> list[str]:
    found = []
    for page in PAGES:
        text = (DOCS / "operations" / page).read_text().replace("\\\n", " ")
        for line in re.findall(r"^ {4,}(\S.*)$", text, re.MULTILINE):
            command = line.split(" #")[0].strip()
            if BEFORE.match(command):
                found.append(BEFORE.sub("", command))
    return found


def test_there_are_some() -> None:
    assert len(command_lines()) >= 10


@pytest.mark.parametrize("line", command_lines())
def test_program_takes_it(line: str) -> None:
    words = shlex.split(line)
    name = words.pop(0) if words[0] in main.COMMANDS else main.SERVE
    import_module(f"rkeyserver.cli.{name}").parser().parse_args(words)


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_are_there(page: str) -> None:
    text = (DOCS / "operations" / page).read_text()
    named = set(re.findall(r"\bpackaging/[\w./-]*\w", text)) - {"packaging/docker/.env"}
    # `make enclave` and its page come with the enclave.
    missing = {name for name in named if not (PACKAGING.parent / name).exists()}
    assert missing <= {"packaging/rkeyserver.manifest.template"}


@pytest.mark.parametrize("path", [*(DOCS / "operations" / page for page in PAGES), DOCS / "adr" / "0024-deployment.md"])
def test_pages_that_are_linked_are_there(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists() or target == "enclave.md", target
