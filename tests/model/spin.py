"""Runs Spin on a model of docs/spec/model: makes the checker for it, compiles and runs that, says what it found."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

MODELS = Path(__file__).resolve().parents[2] / "docs" / "spec" / "model"


@dataclass(frozen=True, slots=True)
class Found:
    """errors: how many; states: how many there were; said: all that the checker printed; steps: the counterexample."""

    errors: int
    states: int
    said: str
    steps: str


def check(model: str, defined: str, folder: Path, *, shortest: bool = False, seconds: int = 300) -> Found:
    """What the checker finds in `model` with these names defined, such as "LOSSES=1 NO_MERGE".

    With `shortest` it looks at the shortest runs first, and not for runs without end; else at all states, and for
    both. Raises: subprocess.CalledProcessError, TimeoutExpired; AssertionError if not every state was looked at.
    """
    source = MODELS / f"{model}.pml"
    options = [f"-D{name}" for name in defined.split()]
    how = ["-O0", "-DSAFETY", "-DBFS"] if shortest else ["-O1", "-DNOSTUTTER"]
    _run(["spin", *options, "-a", str(source)], folder)
    _run(["gcc", "-w", "-DMEMLIM=8000", *how, "-o", "pan", "pan.c"], folder)
    said = _run(["./pan", "-m100000", *([] if shortest else ["-a"])], folder, seconds)
    assert "max search depth too small" not in said, said
    errors, states = re.search(r"errors: (\d+)", said), re.search(r"(\d+\S*) states, stored", said)
    assert errors is not None, said
    assert states is not None, said
    whole = "Search not completed" not in said
    assert whole or int(errors[1]), said
    steps = "" if whole else _run(["spin", *options, "-t", "-k", f"{source.name}.trail", str(source)], folder)
    return Found(int(errors[1]), int(float(states[1])), said, steps)


def _run(command: list[str], folder: Path, seconds: int = 300) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds, check=True)
    return done.stdout + done.stderr
