"""The Dockerfile: hadolint finds no fault, no key gets into a layer, and nothing makes a keystore by itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.packaging.said import PACKAGING, PROGRAM, STATE

from rkeyserver.cli import main

FOLDER = PACKAGING / "docker"
DOCKERFILE = FOLDER / "Dockerfile"
HADOLINT = Path(sys.prefix) / "bin" / "hadolint"


def hadolint(text: str) -> tuple[int, str]:
    done = subprocess.run(
        [HADOLINT, "--failure-threshold", "style", "--no-color", "-"],
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=30,
    )
    return done.returncode, done.stdout


def instructions() -> list[tuple[str, str]]:
    """Instructions and what they say, lines joined."""
    joined = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE.read_text()))
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def stages() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for one in instructions():
        if one[0] == "FROM":
            image, word, name = one[1].split()
            assert (image, word) == ("${GRAMINE}", "AS"), "every stage is the one that is pinned"
            found[name] = []
        elif name:
            found[name].append(one)
    return found


def said(stage: str, instruction: str) -> list[str]:
    return [rest for name, rest in stages()[stage] if name == instruction]


def test_hadolint_finds_no_fault() -> None:
    assert hadolint(DOCKERFILE.read_text()) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong", "rule"),
    [
        pytest.param("USER 10001:10001", "USER root", "DL3002", id="root at last"),
        pytest.param("WORKDIR /src", "WORKDIR src", "DL3000", id="a relative folder"),
        pytest.param("--from=build", "--from=nowhere", "DL3022", id="a stage that is none"),
        pytest.param("install -y", "install", "DL3014", id="a question nobody answers"),
        pytest.param("if [ -e /domain/recovery.toml ]", "if [ -e $X ]", "SC2086", id="the shell"),
        pytest.param("EXPOSE 8888 4433", "EXPOSE 88888", "DL3011", id="a port that is none"),
        pytest.param(
            "STOPSIGNAL SIGTERM", "STOPSIGNALS SIGTERM", "missing whitespace", id="an instruction that is none"
        ),
    ],
)
def test_hadolint_would_find_a_fault(right: str, wrong: str, rule: str) -> None:
    text = DOCKERFILE.read_text()
    changed = text.replace(right, wrong)
    assert changed != text
    if rule == "DL3002":  # it looks at the last stage
        changed = changed[: changed.index("# The image above has aesmd")]
    status, found = hadolint(changed)
    assert status != 0
    assert rule in found


def test_base_is_pinned_by_digest() -> None:
    (base,) = [rest for name, rest in instructions() if name == "ARG"]
    assert re.fullmatch(r"GRAMINE=gramineproject/gramine:1\.9-[a-z]+@sha256:[0-9a-f]{64}", base)


def test_signing_key_is_a_secret_of_one_step_and_in_no_layer() -> None:
    with_key = [(name, rest) for name, rest in instructions() if "key" in rest.lower() and "rkeyserver" not in rest]
    assert [name for name, _ in with_key] == ["RUN"]
    secret = re.search(r"--mount=type=secret,(\S+)", with_key[0][1])
    assert secret
    assert "required=true" in secret[1].split(",")
    assert with_key[0] in stages()["build"]
    assert not {name for name, _ in instructions()} & {"ADD", "ONBUILD"}
    for stage in ("run", "aesmd"):
        assert not any("--mount" in rest for _, rest in stages()[stage])


@pytest.mark.parametrize("stage", ["run", "aesmd"])
def test_runs_as_nobody_special(stage: str) -> None:
    (user,) = said(stage, "USER")
    uid, gid = map(int, user.split(":"))
    assert uid == gid >= 10_000
    names = [name for name, _ in stages()[stage]]
    after = names[names.index("USER") :]
    assert "RUN" not in after, "what is there belongs to root, and the server cannot change it"


def test_only_what_was_built_is_taken_over() -> None:
    assert said("run", "COPY") == ["--from=build /src/out /opt/rkeyserver"]
    assert said("aesmd", "COPY") == []


def test_no_state_without_a_folder_of_the_host() -> None:
    assert not any(name == "VOLUME" for name, _ in instructions()), "it would be a new, empty keystore each time"


def test_nothing_is_started_by_a_container_that_is_told_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert [json.loads(rest) for rest in said("run", "ENTRYPOINT")] == [[PROGRAM]]
    (words,) = [json.loads(rest) for rest in said("run", "CMD")]
    with pytest.raises(SystemExit) as ended:
        main.main(words)
    assert ended.value.code == 0
    assert "usage: rkeyserver" in capsys.readouterr().out


def test_health_is_asked_of_the_program() -> None:
    (check,) = said("run", "HEALTHCHECK")
    program, *words = json.loads(check.partition("CMD")[2])
    assert program == PROGRAM
    assert words == ["status"]
    assert words[0] in main.COMMANDS


def test_home_is_the_state() -> None:
    assert f"--home-dir {STATE} " in "\n".join(said("run", "RUN"))


def test_context_has_what_a_build_reads_and_nothing_else() -> None:
    lines = [
        line for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] not in {"", "#"}
    ]
    assert lines[0] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    root = PACKAGING.parent
    assert all((root / name).exists() for name in let_in if "/" not in name)
    # What make and the programs that it runs name, of the tree.
    programs = [root / "Makefile", *(root / "tools").glob("build*.py"), *(root / "tools").glob("enclave*.py")]
    said_there = "\n".join(path.read_text() for path in programs)
    read = {"Makefile", *re.findall(r"\b(?:requirements|src|tools)\b", said_there)}
    read |= {f"packaging/{name}" for name in re.findall(r'"packaging" / "([\w.]+)"', said_there)}
    assert read <= let_in
    assert not {name.split("/")[0] for name in let_in} & {"tests", "docs", "bench", ".git", "out", "packaging/docker"}
