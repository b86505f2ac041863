"""Policies that are cheap to send and dear to read, from somebody on the machine who may change nothing."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from tests.fakes.claims import document, table
from tests.fakes.processes import DEADLINE, Machines, machines_in

from rkeyserver.appraisal.change import propose
from rkeyserver.appraisal.policy import MAX_POLICY, parse_admins, parse_policy
from rkeyserver.errors import Misuse
from rkeyserver.service.routes import POLICY_PATH

GOOD = document("", table())
ROOM = MAX_POLICY - len(GOOD) - 100
SLOW: dict[str, str] = {
    "one long dotted key": ".".join(["a"] * (ROOM // 2)) + " = 1",
    "one long dotted key with spaces": " . ".join(["a"] * (ROOM // 4)) + " = 1",
    "one long key of quoted parts": ".".join(['"\\""'] * (ROOM // 5)) + " = 1",
    "in an inline table behind a comment sign": '"a" = {b = """\n#""", ' + ".".join(["c"] * (ROOM // 2)) + " = 1}",
    "one long header": "[" + ".".join(["a"] * (ROOM // 2)) + "]",
    "many long headers": "".join(f"[{'.'.join(['a'] * 60)}.b{number}]\n" for number in range(ROOM // 130)),
    "many long tables of lists": f"[[{'.'.join(['a'] * 60)}]]\n" * (ROOM // 130),
    "many tables": "".join(f"[a{number}]\n" for number in range(ROOM // 9)),
    "many lists": "[[a]]\n" * (ROOM // 6),
    "many keys": "".join(f"a{number}=1\n" for number in range(ROOM // 10)),
    "a long list": "a = [" + "1," * (ROOM // 2) + "]",
    "many lines": "#\n" * (ROOM // 2) + "smt = 1",
    "a long number": "a = " + "1" * ROOM,
}
SECONDS = 5.0  # far more than it takes, far less than it took


@pytest.mark.parametrize("text", SLOW.values(), ids=SLOW)
def test_what_is_slow_to_read_is_refused_fast(text: str) -> None:
    for whole in (text, f"{GOOD}\n{text}"):
        start = time.process_time()  # how busy the machine is says nothing of it
        with pytest.raises(Misuse):
            parse_policy(whole)
        with pytest.raises(Misuse):
            parse_admins(whole)
        assert time.process_time() - start < SECONDS


def test_the_line_that_is_too_long_to_read_is_named() -> None:
    with pytest.raises(Misuse, match=r"line 3: it has more than 64 dots"):
        parse_policy("version = 1\n\n" + ".".join(["a"] * 66) + " = 1")
    parse_policy(f"{GOOD}\n# {'.' * 64}")


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Machines]:
    with machines_in(tmp_path) as made:
        yield made


def test_a_local_user_without_rights_stops_nobody_by_a_policy_that_is_slow_to_read(processes: Machines) -> None:
    host = processes("host")
    host.start()
    present = httpx.get(f"http://{host.ops}{POLICY_PATH}", trust_env=False, timeout=DEADLINE).json()
    change = propose(domain=present["domain"], sequence=1, replaces=present["policy"], policy=present["policy"])
    slow = msgspec.structs.replace(change, policy=SLOW["one long dotted key"]).text()

    def send() -> None:
        with contextlib.suppress(httpx.HTTPError):
            httpx.post(f"http://{host.ops}{POLICY_PATH}", content=slow.encode(), trust_env=False, timeout=DEADLINE)

    sender = threading.Thread(target=send)
    sender.start()
    time.sleep(0.5)
    answer = httpx.get(f"http://{host.address}/v1/hint", trust_env=False, timeout=SECONDS)
    assert answer.status_code == 200
    sender.join()
    assert len(host.audit()) == 1
