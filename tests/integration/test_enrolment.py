"""A machine from being refused to being enrolled, and off again, as those see it who run the machines."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
import pytest
from tests.fakes.processes import (
    DEADLINE,
    PROGRAM,
    Ended,
    Machine,
    Machines,
    Running,
    environment,
    key_proof,
    opened,
    rkeyserver,
)
from tests.fakes.signing import policy_text

from rkeyserver.errors import EXIT_STATUS, Misuse, Rejected, Unavailable
from rkeyserver.service.hints import Hint, parse_hint
from rkeyserver.service.routes import HINT_PATH

REFUSED, UNAVAILABLE, MISUSE = (EXIT_STATUS[kind] for kind in (Rejected, Unavailable, Misuse))
NOBODY = 65534


def identity(machine: Machine) -> str:
    """The line by which a policy names a machine, as the machine prints it."""
    ended = machine.command("identity", *machine.platform_words())
    assert ended.status == 0, ended
    return ended.out.strip()


def ppid(machine: Machine) -> str:
    return identity(machine).split()[1]


def policy(*machines: Machine, admins: str = "") -> str:
    """A policy that names these machines, whose software is what runs here."""
    platform = machines[0].platform()
    named = [ppid(machine) for machine in machines]
    text = policy_text(*named, mrsigner=platform.mrsigner, isv_prod_id=platform.isv_prod_id, platform=platform.name)
    return text + admins


@dataclass(frozen=True)
class Admin:
    """One with a key of ssh-keygen."""

    key: Path

    @property
    def line(self) -> str:
        return self.key.with_suffix(".pub").read_text().strip()


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> list[Admin]:
    folder = tmp_path_factory.mktemp("admins")
    made = []
    for name in ("alice", "bob", "carol"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{name}@example", "-f", str(folder / name)]
        subprocess.run(command, check=True, timeout=DEADLINE)
        made.append(Admin(folder / name))
    return made


def admins_table(people: list[Admin], threshold: int) -> str:
    return f"\n[admins]\nthreshold = {threshold}\nkeys = {json.dumps([one.line for one in people])}\n"


def written(machine: Machine, name: str, text: str) -> str:
    path = machine.folder / name
    path.write_text(text)
    return str(path)


def told(machine: Machine, action: str, *words: str) -> Ended:
    """`rkeyserver policy` of the instance on a machine."""
    return rkeyserver("policy", action, "--ops", machine.ops, *words, cwd=machine.folder)


def signing(machine: Machine, *people: Admin) -> list[str]:
    """The words of admins who have noted the id of the domain that a machine serves."""
    return [*(word for one in people for word in ("--key", str(one.key))), "--domain", machine.status()["domain"]]


def done(ended: Ended) -> str:
    assert ended.status == 0, ended
    return ended.out


def generations(machine: Machine) -> list[str]:
    return [one["id"] for one in machine.status()["generations"]]


def until(found: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not found():
        assert time.monotonic() < end, f"{what}: not in time"
        time.sleep(0.1)


def sequence(machine: Machine) -> int:
    return int(machine.status()["sequence"])


@pytest.fixture
def host(machines: Machines) -> Machine:
    return machines("host")


def test_a_refused_machine_is_admitted_and_gets_the_key_within_seconds(
    machines: Machines, host: Machine, people: list[Admin]
) -> None:
    standby, new = machines("standby"), machines("new")
    rules = written(host, "policy.toml", policy(host, standby, admins=admins_table(people[:1], 1)))
    primary = host.start("--policy", rules)
    standby.start("-i", host.address)
    before = generations(host)

    waiting = new.begin("-i", host.address, "--wait", "60")
    line = identity(new)
    waiting.err.wait_for(f"This machine is: {re.escape(line)} ")
    primary.err.wait_for(rf"Refused .*{re.escape(line)}")
    assert not new.keystore.exists()

    begun = time.monotonic()
    said = done(told(host, "admit", f"{line} rack 3", *signing(host, people[0])))
    assert said.startswith(f"Change 1 of domain {host.status()['domain']} is in force: policy ")
    waiting.ready()
    assert time.monotonic() - begun < 10
    assert key_proof(new) == key_proof(host)
    assert generations(host) == before, "nothing was taken from anybody"

    # The other standby learns of it by the exchange, and admits the new machine by itself.
    until(lambda: sequence(standby) == 2, "the standby follows")
    with closing(opened(standby)) as there, closing(opened(host)) as here:
        assert there.same_as(here)
        assert f'"{line.split()[1]}", # rack 3' in there.header.policy
    assert done(told(standby, "show")) == done(told(host, "show"))
    waiting.stop()
    assert new.run("-i", standby.address, "--once").status == 0
    refused = told(standby, "admit", f"{standby.platform_name} {'cd' * 16}", *signing(standby, people[0]))
    assert refused.status == MISUSE
    assert f"is a standby; what is changed is changed at the primary, {host.status()['member']}" in refused.err

    # And a primary that is started again goes on with it.
    primary.stop()
    host.start("--policy", rules)
    assert sequence(host) == 2
    assert "# policy " in done(told(host, "show"))
    last = [line for line in host.audit() if line["event"] == "policy"]
    assert [(one["verdict"], one["sequence"]) for one in last] == [("accepted", 2)]
    assert "alice@example" in last[0]["found"]


def test_a_removed_machine_is_refused_and_keeps_only_what_it_held(
    machines: Machines, host: Machine, people: list[Admin]
) -> None:
    stays, goes = machines("stays"), machines("goes")
    rules = written(host, "policy.toml", policy(host, stays, goes, admins=admins_table(people[:1], 1)))
    host.start("--policy", rules)
    for machine in (stays, goes):
        machine.start("-i", host.address)
    (old,) = generations(host)
    said = done(told(host, "remove", identity(goes), *signing(host, people[0])))
    assert f"Accepts less: [{host.platform_name}] machines: machine {ppid(goes)} is no longer accepted." in said
    found = generations(host)
    assert found[0] == old
    assert len(found) == 2
    assert f"A generation was added: {found[1]}." in said
    until(lambda: generations(stays) == found, "the standby that stays has the new generation")
    goes.started[-1].err.wait_for("refused this machine")
    assert generations(goes) == [old]
    goes.started[-1].stop()
    again = goes.run("-i", host.address, "--once", "--wait", "0")
    assert again.status == REFUSED
    with closing(opened(goes)) as kept:
        assert kept.generation_ids == (old,)
    # It is not locked out for ever.
    done(told(host, "admit", identity(goes), *signing(host, people[0])))
    assert goes.run("-i", host.address, "--once").status == 0
    assert key_proof(goes) == key_proof(host)


def test_two_of_three_sign_in_files_that_go_from_one_to_the_next(
    machines: Machines, host: Machine, people: list[Admin]
) -> None:
    new = machines("new")
    admins = written(host, "admins.toml", admins_table(people, 2))
    rules = written(host, "policy.toml", policy(host))
    host.start("--policy", rules, "--admins", admins)
    before = host.record
    change = str(host.folder / "change.json")
    asked = told(host, "admit", identity(new), *signing(host, people[0]), "-o", change)
    assert asked.status == REFUSED
    assert "1 valid signature(s) of the admins; 2 of 3 wanted" in asked.err
    assert "bob@example" in asked.err
    assert "alice@example" not in asked.err
    assert told(host, "apply", change).status == REFUSED
    assert host.record == before

    signed = rkeyserver("policy", "sign", change, *signing(host, people[2]), "-o", change, cwd=host.folder)
    assert (signed.status, signed.out) == (0, f"Written to {change}.\n")
    assert ppid(new) in signed.err
    assert done(told(host, "apply", change)).startswith("Change 1 ")
    assert new.run("-i", host.address, "--once").status == 0

    after = host.record
    replayed = told(host, "apply", change)
    assert replayed.status == REFUSED
    assert "is number 1; the next one of this domain is 2" in replayed.err
    assert host.record == after


@pytest.mark.sgx_too
def test_documents_that_nobody_may_have_applied_leave_the_record_to_the_byte(
    machines: Machines, host: Machine, people: list[Admin]
) -> None:
    other = machines("other")
    text = policy(host, admins=admins_table(people, 2))
    host.start("--policy", written(host, "policy.toml", text))
    other.start("--policy", written(other, "policy.toml", policy(other, admins=admins_table(people, 2))))
    looser = written(host, "looser.toml", text.replace("min_isv_svn = 1", "min_isv_svn = 0"))
    before, lines = host.record, host.audit()

    proposal = written(host, "proposal.json", done(told(host, "propose", looser)))
    for_the_other = written(host, "other.json", done(told(other, "propose", looser)))
    signed = done(rkeyserver("policy", "sign", proposal, *signing(host, *people[:2]), cwd=host.folder))
    stale = written(host, "stale.json", signed.replace('"sequence":1', '"sequence":2'))
    edited = written(host, "edited.json", signed.replace("min_isv_svn = 0", "min_isv_svn = 9"))
    foreign = written(
        host,
        "foreign.json",
        done(rkeyserver("policy", "sign", for_the_other, *signing(other, *people[:2]), cwd=host.folder)),
    )
    one = written(
        host, "one.json", done(rkeyserver("policy", "sign", proposal, *signing(host, people[0]), cwd=host.folder))
    )
    for name in (proposal, stale, edited, foreign, one):
        assert told(host, "apply", name).status == REFUSED, name
    # As anyone on this machine may send it, past every check of the command.
    for body in (Path(proposal).read_bytes(), b"{}", signed.encode().replace(b'"signatures"', b'"signature"')):
        answer = httpx.post(f"http://{host.ops}/v1/policy", content=body, trust_env=False, timeout=DEADLINE)
        assert answer.status_code in {400, 403}
    assert host.record == before
    assert host.audit() == lines
    assert sum(host.status()["refused"].values()) >= 6
    written(host, "good.json", signed)
    assert done(told(host, "apply", str(host.folder / "good.json"))).startswith("Change 1 ")


# Without admins


@pytest.mark.simulated_only("the local socket: on sgx nobody on the host is the owner, and there is none")
def test_without_admins_the_owner_alone_admits(machines: Machines, host: Machine) -> None:
    new = machines("new")
    host.start("--policy", written(host, "policy.toml", policy(host)))
    socket = Path(host.status()["socket"])
    before = host.record

    # By the operations listener, which anyone can reach, it is refused.
    proposal = written(host, "change.json", done(told(host, "propose", written(host, "new.toml", policy(host, new)))))
    body = Path(proposal).read_bytes()
    answer = httpx.post(f"http://{host.ops}/v1/policy", content=body, trust_env=False, timeout=DEADLINE)
    assert (answer.status_code, answer.json()["reason"]) == (403, "not-signed")
    if os.geteuid() == 0:
        refused = as_nobody(host, "policy", "admit", "--ops", host.ops, identity(new))
        assert refused.status == REFUSED, refused
        assert "owner" in refused.err
    assert host.record == before

    done(told(host, "admit", identity(new)))
    assert new.run("-i", host.address, "--once").status == 0
    assert host.audit()[-2]["found"].endswith("by the owner")
    host.started[-1].stop()
    assert not socket.exists()


def as_nobody(machine: Machine, *words: str) -> Ended:
    """A command as another user, who can reach the machine's folder."""
    for folder in (machine.folder, *machine.folder.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    # It becomes that user when all of it is loaded: where the interpreter lies, others may have no way to.
    script = (
        "import os, sys, httpx, httpcore, anyio, anyio._backends._asyncio, rkeyserver.cli.policy as _; "
        "from rkeyserver.cli.main import main; "
        f"os.setgroups([]); os.setresgid(*[{NOBODY}] * 3); os.setresuid(*[{NOBODY}] * 3); "
        "sys.exit(main(sys.argv[1:]))"
    )
    return Running([PROGRAM[0], "-c", script, *words], cwd=Path("/"), env=environment()).wait()


@pytest.mark.simulated_only("the local socket: on sgx nobody on the host is the owner, and there is none")
def test_a_socket_that_a_killed_instance_left_is_in_nobody_s_way(host: Machine) -> None:
    first = host.start()
    socket = Path(host.status()["socket"])
    first.kill()
    assert socket.exists()
    host.start()
    assert Path(host.status()["socket"]) == socket


@pytest.mark.simulated_only("the local socket: on sgx nobody on the host is the owner, and there is none")
def test_a_keystore_in_a_deep_folder(machines: Machines) -> None:
    host, new = machines("h" * 120), machines("new")
    host.start("--policy", written(host, "policy.toml", policy(host)))
    assert len(host.status()["socket"]) > 107
    done(told(host, "admit", identity(new)))
    assert new.run("-i", host.address, "--once").status == 0


@pytest.mark.simulated_only("the local socket: on sgx nobody on the host is the owner, and there is none")
def test_something_else_where_the_socket_would_be(host: Machine) -> None:
    path = host.folder / "rkey.bin.socket"
    path.write_text("somebody's")
    ended = host.run()
    assert ended.status == MISUSE
    assert "there is something else" in ended.err
    assert path.read_text() == "somebody's"
    assert not host.keystore.exists()
    host.start("--socket", str(host.folder / "another"))
    assert host.status()["socket"] == str(host.folder / "another")


@pytest.mark.simulated_only("the local socket: on sgx nobody on the host is the owner, and there is none")
@pytest.mark.parametrize("name", ["rkey.bin", "rkey.bin.lock", "rkey.bin.kept.1"])
def test_the_socket_is_no_part_of_the_keystore(host: Machine, name: str) -> None:
    ended = host.run("--socket", str(host.folder / name))
    assert ended.status == MISUSE
    assert "is part of the keystore" in ended.err
    assert not host.keystore.exists()


# What a joiner goes by


def test_a_joiner_with_admins_waits_until_they_have_signed(
    machines: Machines, host: Machine, people: list[Admin]
) -> None:
    careful = machines("careful")
    table = admins_table(people, 2)
    admins = written(careful, "admins.toml", table)
    host.start("--policy", written(host, "policy.toml", policy(host, careful, admins=table)))
    ended = careful.run("-i", host.address, "--admins", admins, "--once", "--wait", "0")
    assert ended.status == REFUSED
    assert "was never signed by admins" in ended.err
    assert not careful.keystore.exists()

    change = written(host, "change.json", done(told(host, "propose")))
    for one in people[1:]:
        command = ("policy", "sign", change, *signing(host, one), "-o", change)
        assert rkeyserver(*command, cwd=host.folder).status == 0
    done(told(host, "apply", change))
    assert careful.run("-i", host.address, "--admins", admins, "--once").status == 0
    assert key_proof(careful) == key_proof(host)

    mallory = written(careful, "mallory.toml", admins_table(people[:1], 1))
    record = careful.record
    ended = careful.run("-i", host.address, "--admins", mallory, "--once", "--wait", "0")
    assert ended.status == REFUSED
    assert "is not signed by 1 of the 1 admins" in ended.err
    assert careful.record == record


def test_a_joiner_with_admins_refuses_a_domain_of_others(
    machines: Machines, host: Machine, people: list[Admin]
) -> None:
    careful = machines("careful")
    host.start("--policy", written(host, "policy.toml", policy(host, careful, admins=admins_table(people[:1], 1))))
    change = written(host, "change.json", done(told(host, "propose")))
    signed = rkeyserver("policy", "sign", change, *signing(host, people[0]), "-o", change, cwd=host.folder)
    assert signed.status == 0
    done(told(host, "apply", change))
    admins = written(careful, "admins.toml", admins_table(people[1:], 1))
    ended = careful.run("-i", host.address, "--admins", admins, "--once", "--wait", "0")
    assert ended.status == REFUSED
    assert "is not signed by 1 of the 2 admins that this instance goes by" in ended.err
    assert not careful.keystore.exists()


def test_a_joiner_with_a_policy_refuses_a_primary_that_it_does_not_name(machines: Machines, host: Machine) -> None:
    careful = machines("careful")
    host.start()
    rules = written(careful, "policy.toml", policy(careful))
    ended = careful.run("-i", host.address, "--policy", rules, "--once", "--wait", "0")
    assert ended.status == REFUSED
    assert ppid(host) in ended.err
    assert not careful.keystore.exists()
    rules = written(careful, "policy.toml", policy(careful, host))
    assert careful.run("-i", host.address, "--policy", rules, "--once").status == 0


def test_a_new_domain_whose_policy_leaves_its_own_machine_out_is_not_made(machines: Machines, host: Machine) -> None:
    other = machines("other")
    ended = host.run("--policy", written(host, "policy.toml", policy(other)))
    assert ended.status == REFUSED
    assert "does not accept this very machine" in ended.err
    assert not host.keystore.exists()


def test_a_primary_is_not_taken_off_its_own_list(machines: Machines, host: Machine, people: list[Admin]) -> None:
    other = machines("other")
    host.start("--policy", written(host, "policy.toml", policy(host, other, admins=admins_table(people[:1], 1))))
    before = host.record
    ended = told(host, "remove", identity(host), *signing(host, people[0]))
    assert ended.status == REFUSED
    assert "does not accept this very machine" in ended.err
    assert "make another one the primary first" in ended.err
    assert host.record == before
    assert host.audit()[-1]["verdict"] == "refused"


# Hints


@contextmanager
def liar(hint: Hint) -> Iterator[tuple[int, list[str]]]:
    """Whoever answers on a host's address: later and later hints, and nothing else. Its port, and what it was asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 5

        def do_GET(self) -> None:
            asked.append("hint")
            later = msgspec.structs.replace(hint, epoch=9, sequence=len(asked), digest=f"{len(asked):064x}")
            body = msgspec.json.encode(later)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            asked.append("hello")
            self.send_error(503)

        def log_message(self, *_args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port, asked
        server.shutdown()
        thread.join(DEADLINE)


def test_hints_that_lie_cost_a_question_now_and_then_and_change_nothing(
    machines: Machines, host: Machine, people: list[Admin]
) -> None:
    standby = machines("standby")
    host.start("--policy", written(host, "policy.toml", policy(host, standby, admins=admins_table(people[:1], 1))))
    hint = parse_hint(httpx.get(f"http://{host.address}{HINT_PATH}", trust_env=False).content)
    assert hint is not None
    with liar(msgspec.structs.replace(hint, member="ab" * 16)) as (port, asked):
        running = standby.start("-i", host.address, "-i", f"127.0.0.1:{port}")
        before, lines = standby.record, standby.audit()
        until(lambda: asked.count("hello") >= 2, "it is asked")
        questions = asked.count("hello")
        assert questions <= asked.count("hint")
        assert standby.record == before
        assert standby.audit() == lines
        assert running.out.text.count("Successfully received") == 1
        # Nobody else is believed the less.
        change = written(host, "change.json", done(told(host, "propose")))
        signed = done(rkeyserver("policy", "sign", change, *signing(host, people[0]), cwd=host.folder))
        done(told(host, "apply", written(host, "change.json", signed)))
        until(lambda: sequence(standby) == 2, "the standby follows")
