"""What runs under the filter is told of each system call what Gramine tells."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping

import pytest
from tests.fakes.processes import ROOT, environment
from tests.sgx.gramine_calls import NUMBERS
from tests.sgx.machines import PATH
from tests.sgx.tried_calls import CALLS


@pytest.fixture(scope="module")
def answers() -> Mapping[str, int]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.sgx.tried_calls"],
        cwd=ROOT,
        env=environment(PYTHONPATH=PATH),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", CALLS)
def test_answers(answers: Mapping[str, int], name: str) -> None:
    assert answers[name] == CALLS[name][1]


def test_the_list_is_the_one_that_was_read() -> None:
    """Some of each kind, by the numbers of Linux for x86-64; 170 are implemented."""
    assert len(NUMBERS) == 170
    assert {name: NUMBERS[name] for name in ("read", "clone", "openat", "getrandom", "mlock2")} == {
        "read": 0,
        "clone": 56,
        "openat": 257,
        "getrandom": 318,
        "mlock2": 325,
    }
    assert not {"memfd_secret", "prctl", "mremap", "link", "statx", "clone3", "pidfd_open", "utimensat"} & set(NUMBERS)
