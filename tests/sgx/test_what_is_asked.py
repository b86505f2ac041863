"""What a server asks of its kernel is what Gramine was read to give: a library that begins to ask for more is found.

Servers over the stand-in are traced by strace(1), and each call of theirs looked up in asked.toml.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.fakes.processes import DEADLINE, ROOT, Ended, Running
from tests.fakes.recipients import one_of_each, recovery_table
from tests.sgx.gramine_calls import NUMBERS
from tests.sgx.machines import SgxMachine, sgx_machines_in

from rkeyserver.sealing.record import parse

ASKED: Final[dict[str, Any]] = tomllib.loads(Path(__file__).with_name("asked.toml").read_text())
REFUSED: Final = ASKED["refused"]
WORDS: Final[dict[str, set[str]]] = {name: set(table["words"]) for name, table in ASKED.items() if "words" in table}
RECIPIENTS: Final = one_of_each()
PLAIN: Final = set(ASKED["plain"]["calls"])

_CALL: Final = re.compile(r"\d+ +(?:<\.\.\. )?(?P<name>[a-z_0-9]+)(?:\(| resumed>)(?P<rest>.*)")
_TEXT: Final = re.compile(r'"(?:[^"\\]|\\.)*"|/\*.*?\*/|\[E[A-Z]+\]')  # in brackets an error that was given back
_RESULT: Final = re.compile(r" = -?(?:\d|0x).*$")
_WORD: Final = re.compile(r"\b[A-Z][A-Z0-9_]{2,}\b")
# The test's own way to be told, its filter, and glibc's daemon for names of users, for which an enclave has no use.
_OF_THE_TEST: Final = re.compile(
    r'/notify"|SOCK_DGRAM|PR_SET_SECCOMP|PR_SET_NO_NEW_PRIVS'
    r"|/nscd/|socket\(AF_UNIX, SOCK_STREAM\|SOCK_CLOEXEC\|SOCK_NONBLOCK"
)
_MONOTONIC: Final = re.compile(r"monotonic|perf_counter|CLOCK_")
MEASURES: Final = {
    "keystore/patience.py": "for how long a database is waited for; an enclave has none",
    "keystore/sql.py": "the same",
    "service/app.py": "a histogram for the host's own monitoring",
    "service/callers_app.py": "the same",
    "service/instance.py": "when a keystore that failed is tried again for what nobody asked for",
    "service/living.py": "which address is asked first; none is left out",
}
_ENDED: Final = re.compile(r"\+\+\+ (?:exited|killed)")


def asked(trace: str) -> Iterator[tuple[str, set[str], str]]:
    """Each call of a trace: its name, the words that it is asked with, and the line."""
    for line in trace.splitlines():
        found = _CALL.match(line)
        if found is not None and not _OF_THE_TEST.search(line):
            yield found["name"], set(_WORD.findall(_RESULT.sub("", _TEXT.sub("", found["rest"])))), line


def unknown(trace: str) -> list[str]:
    """The calls of a trace that are not in the table, one line of each kind."""
    found: dict[str, str] = {}
    for name, words, line in asked(trace):
        if name in REFUSED or name in PLAIN:
            continue
        strange = {name} if name not in WORDS else words - WORDS[name]
        found |= {f"{name} {one}": line for one in strange}
    return [f"{what}: {line[:200]}" for what, line in sorted(found.items())]


class Traced:
    """Processes under strace. folder: where their traces are written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0

    def under(self) -> list[str]:
        """What the next process is started by: strace stands beside it, and its id stays the server's."""
        strace = shutil.which("strace")
        if strace is None:
            pytest.fail("strace is not installed; without it nothing here is tested (apt-get install strace)")
        self._number += 1
        trace = str(self._folder / f"{self._number}.trace")
        # What measures the tests' coverage writes a database of its own, for which no enclave has a use.
        unmeasured = [word for name in os.environ if name.startswith("COVERAGE_") for word in ("-u", name)]
        return ["/usr/bin/env", *unmeasured, strace, "-D", "-f", "-q", "-s", "120", "-e", "signal=none", "-o", trace]

    def text(self) -> str:
        """All traces, once the processes are over."""
        traces = [self._folder / f"{number}.trace" for number in range(1, self._number + 1)]
        end = time.monotonic() + DEADLINE
        while not all(_ENDED.search(path.read_text(errors="replace").rstrip().rpartition("\n")[2]) for path in traces):
            assert time.monotonic() < end, "strace did not finish"
            time.sleep(0.02)
        return "\n".join(path.read_text(errors="replace") for path in traces)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What machines ask for: a domain is made, handed over, opened again, looked at; another has recovery; all stop."""
    traced = Traced(tmp_path_factory.mktemp("traces"))
    with sgx_machines_in(tmp_path_factory.mktemp("machines"), judged_as_simulated=True) as machines:
        alone = machines("alone", judged_as_simulated=False, recovery=recovery_table(2, RECIPIENTS))
        alone.start(under=traced.under()).stop()
        assert slots(alone) == len(RECIPIENTS)
        host, backup = machines("host"), machines("backup")
        first = host.start(under=traced.under())
        second = backup.start("-i", host.address, under=traced.under())
        assert [line["event"] for line in host.audit()] == ["mint", "hand-over", "hand-over"]
        assert [line["event"] for line in backup.audit()] == ["join", "acknowledge"]
        first.stop()
        second.stop()
        again = host.start(under=traced.under())
        assert backup.run("-i", host.address, "--once", under=traced.under()).status == 0
        again.stop()
        assert "the record opens here now" in doctor(host, traced).out
    return traced.text()


def slots(machine: SgxMachine) -> int:
    """How many shares there are in a machine's record."""
    recovery = parse(machine.record).header.recovery
    return 0 if recovery is None else len(recovery.shares)


def doctor(machine: SgxMachine, traced: Traced) -> Ended:
    """The doctor's findings on a machine that serves no more."""
    words = ["doctor", "--platform", "sgx", "--keystore", str(machine.keystore)]
    command = [*traced.under(), *machine.program(), *words]
    return Running(command, cwd=machine.folder, env=machine.environment()).wait()


def test_nothing_is_asked_for_that_was_not_looked_up(trace: str) -> None:
    assert unknown(trace) == []


def test_the_trace_is_of_a_whole_life(trace: str) -> None:
    calls = {name for name, _, _ in asked(trace)}
    assert {"accept4", "bind", "clone", "connect", "fdatasync", "fsync", "getrandom", "mlock", "rename"} <= calls
    assert set(REFUSED) & calls >= {"io_uring_setup", "memfd_secret", "mremap", "prctl"}


def test_the_table_is_of_what_gramine_has() -> None:
    """One table says which calls there are: gramine_calls.py. This one says what they are asked with."""
    assert set(WORDS) | PLAIN <= set(NUMBERS) | {"restart_syscall", "set_thread_area"}
    assert not set(REFUSED) & set(NUMBERS)
    assert not set(WORDS) & PLAIN
    assert not set(REFUSED) & (set(WORDS) | PLAIN)
    for name, table in ASKED.items():
        assert name in {"refused", "refused_words"} or table["source"].strip(), name
    assert set(ASKED["refused_words"]) <= set.union(*WORDS.values())


def test_nothing_is_judged_by_a_monotonic_clock() -> None:
    """Inside Gramine it is the host's clock, and goes back when that does."""
    # The client is a program's of another machine, and no part of the server.
    sources = [one for one in (ROOT / "src").rglob("*.py") if "client" not in one.parts]
    assert len(sources) > 100
    found = [
        str(path.relative_to(ROOT / "src" / "rkeyserver")) for path in sources if _MONOTONIC.search(path.read_text())
    ]
    assert set(found) == set(MEASURES)


NEW = {
    "a call that Gramine lacks": ('1 memfd_create("x", MFD_CLOEXEC) = 3', ["memfd_create memfd_create"]),
    "a call that it has and nobody looked up": ("1 sendfile(3, 4, NULL, 10) = 10", ["sendfile sendfile"]),
    "a flag that it drops": ('1 openat(AT_FDCWD, "a", O_RDWR|O_DSYNC) = 3', ["openat O_DSYNC"]),
    "an option": ("1 setsockopt(3, SOL_TCP, TCP_FASTOPEN, [1], 4) = 0", ["setsockopt TCP_FASTOPEN"]),
    "in two halves": ("1 setsockopt(3, SOL_SOCKET, SO_MARK <unfinished ...>", ["setsockopt SO_MARK"]),
    "in the second half": ("1 <... fcntl resumed>F_SETLEASE) = 0", ["fcntl F_SETLEASE"]),
    "a file of such a name": ('1 openat(AT_FDCWD, "O_DSYNC", O_RDWR) = 3', []),
    "an error that is given back": ("1 getsockopt(3, SOL_SOCKET, SO_ERROR, [ECONNREFUSED], [4]) = 0", []),
    "an error": ('1 openat(AT_FDCWD, "a", O_RDWR) = -1 ENOENT (No such file or directory)', []),
    "what is refused and known to be": ("1 memfd_secret(O_CLOEXEC) = -1 ENOSYS (Function not implemented)", []),
    "no call": ("1 +++ exited with 0 +++", []),
}


@pytest.mark.parametrize(("line", "says"), NEW.values(), ids=NEW)
def test_what_is_new_is_found(line: str, says: list[str]) -> None:
    assert [one.partition(": ")[0] for one in unknown(line)] == says
