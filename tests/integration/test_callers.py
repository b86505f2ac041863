"""Users of a machine, real ones, at a real instance: by number, by group, and by the policy that is in force."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.fakes.others import open_folder
from tests.fakes.processes import DEADLINE, PROGRAM, Ended, Machine, Machines, Running, environment
from tests.integration.test_enrolment import done, identity, policy, told, written

from rkeyserver.errors import EXIT_STATUS, Rejected, Unavailable

REFUSED, UNAVAILABLE = (EXIT_STATUS[kind] for kind in (Rejected, Unavailable))
USER, GROUP = 4711, 4712
ENTRIES = f"""
[[callers]]
uid = {USER}
may = ["derive", "wrap"]
labels = ["db/*"]

[[callers]]
gid = {GROUP}
may = ["unwrap", "rewrap"]
labels = ["db/main"]
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def path() -> Iterator[Path]:
    """Of the host's socket; everybody can reach it."""
    with open_folder() as folder:
        yield folder / "s"


@pytest.fixture
def host(machines: Machines, path: Path) -> Machine:
    made = machines("host")
    made.start("--policy", written(made, "policy.toml", policy(made) + ENTRIES), "--socket", str(path))
    return made


def as_user(host: Machine, uid: int, gids: list[int], *words: str, stdin: str = "/dev/null", out: str = "") -> Ended:
    """A command of another user. stdin, out: files in the machine's folder."""
    # It becomes that user when all of it is loaded: where the interpreter lies, others may have no way to.
    script = (
        "import os, sys, httpx, httpcore, anyio, anyio._backends._asyncio; "
        "from rkeyserver.cli import derive, rewrap, unwrap, wrap; from rkeyserver.cli.main import main; "
        "source, into, uid, gids = sys.argv[1], sys.argv[2], int(sys.argv[3]), eval(sys.argv[4]); "
        "os.dup2(os.open(source, os.O_RDONLY), 0); "
        "into and os.dup2(os.open(into, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1); "
        "os.setgroups(gids[1:]); os.setresgid(*[gids[0]] * 3); os.setresuid(*[uid] * 3); "
        "sys.exit(main(sys.argv[5:]))"
    )
    ids = [str(host.folder / stdin), str(host.folder / out) if out else "", str(uid), str(gids)]
    command = [PROGRAM[0], "-c", script, *ids, *words, "--socket", host.status()["socket"]]
    return Running(command, cwd=Path("/"), env=environment()).wait()


@needs_root
def test_each_user_may_what_the_policy_says(host: Machine) -> None:
    (host.folder / "secret").write_bytes(b"a secret")
    derived = as_user(host, USER, [USER], "derive", "db/main", out="key")
    assert derived.status == 0, derived
    assert len((host.folder / "key").read_bytes()) == 32
    wrapped = as_user(host, USER, [USER], "wrap", "db/main", stdin="secret", out="wrapped")
    assert wrapped.status == 0, wrapped

    for uid, gids in ((USER, [USER]), (4713, [4713]), (GROUP, [4713])):
        refused = as_user(host, uid, gids, "unwrap", "db/main", stdin="wrapped")
        assert refused.status == REFUSED, refused
        assert f"The policy does not let uid {uid} unwrap for label 'db/main'." in refused.err
        assert refused.out == ""
    for uid, gids in ((USER, [GROUP]), (4713, [4713, GROUP]), (4713, [4713, 4714, GROUP])):
        opened = as_user(host, uid, gids, "unwrap", "db/main", stdin="wrapped", out="opened")
        assert opened.status == 0, opened
        assert (host.folder / "opened").read_bytes() == b"a secret"

    before = host.status()["refused"]["not-permitted"]
    assert before == 3
    assert as_user(host, USER, [USER], "derive", "other").status == REFUSED
    assert as_user(host, 65534, [65534], "derive", "db/main").status == REFUSED
    assert host.status()["refused"]["not-permitted"] == before + 2


@needs_root
def test_what_is_taken_back_is_refused_from_then_on(host: Machine) -> None:
    assert as_user(host, USER, [USER], "derive", "db/main", out="key").status == 0
    before = host.status()["generations"]
    proposed = told(host, "propose", written(host, "less.toml", policy(host)))
    assert f"Accepts less: [callers uid {USER}]: may no longer derive for label 'db/*'." in proposed.err
    assert "add a generation" not in proposed.err
    change = written(host, "change.json", done(proposed))
    applied = done(told(host, "apply", change))
    assert f"[callers gid {GROUP}]: may no longer unwrap for label 'db/main'." in applied
    assert "generation was added" not in applied
    assert host.status()["generations"] == before
    assert as_user(host, USER, [USER], "derive", "db/main").status == REFUSED


@needs_root
def test_a_folder_that_lets_nobody_in_is_said_to_be_so(host: Machine, path: Path) -> None:
    path.parent.chmod(0o700)
    refused = as_user(host, USER, [USER], "derive", "db/main")
    assert refused.status == UNAVAILABLE, refused
    assert "Permission denied" in refused.err
    assert "Where its folder does not let this user in" in refused.err


def asked(host: Machine, path: str, **said: Any) -> httpx.Response:
    transport = httpx.HTTPTransport(uds=host.status()["socket"])
    with httpx.Client(transport=transport, base_url="http://localhost", timeout=DEADLINE) as client:
        return client.post(path, content=json.dumps(said))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_nothing_of_what_is_sent_comes_back_in_an_error_or_the_log(host: Machine) -> None:
    secret = "qzx-" + "a-secret-of-the-caller"
    for path, said in {
        "/v1/wrap": {"label": "a", "plaintext": secret},
        "/v1/unwrap": {"label": "a", "wrapped": b64(secret.encode())},
        "/v1/rewrap": {"label": "a", "wrapped": b64(bytes([1]) + secret.encode() * 4), "associated_data": b64(b"x")},
        "/v1/derive": {"label": secret + "\n"},
    }.items():
        answer = asked(host, path, **said)
        assert answer.status_code in {400, 403}
        assert secret not in answer.text
    assert secret not in asked(host, "/v1/derive", label="a", **{secret: 1}).text
    assert secret not in host.started[-1].err.text
    assert secret not in (host.folder / "rkey.bin.audit.jsonl").read_text()


def test_another_machine_of_the_domain_opens_it_and_derives_the_same(machines: Machines, host: Machine) -> None:
    new = machines("new")
    done(told(host, "admit", identity(new)))
    new.start("-i", host.address, "--socket", str(new.folder / "s"))
    wrapped = asked(host, "/v1/wrap", label="db/main", plaintext=b64(b"a secret")).json()["wrapped"]
    assert asked(new, "/v1/unwrap", label="db/main", wrapped=wrapped).json()["plaintext"] == b64(b"a secret")
    assert asked(new, "/v1/derive", label="db/main").json() == asked(host, "/v1/derive", label="db/main").json()
