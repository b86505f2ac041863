"""What goes wrong in servers that replicate a key between trusted execution environments, and does not here.

Read in public sources of such servers; each row is what must hold. A row is a case in this file, or names the test that
holds it.
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import secrets
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import httpx
import msgspec
import pytest
from tests.fakes import stranger
from tests.fakes.flavours import VERIFY, policy_of, processes_in
from tests.fakes.keyrings import MEMBER, OWNER
from tests.fakes.machines import set_microcode
from tests.fakes.processes import DEADLINE, ROOT, Machine, Machines, key_proof
from tests.sgx.machines import SgxMachine

from rkeyserver.clock import Clock
from rkeyserver.config import Options
from rkeyserver.errors import EXIT_STATUS, Corrupt, Misuse, Reason, Rejected, Unavailable
from rkeyserver.exchange.messages import AttestedMessage, Request, decode, encode
from rkeyserver.exchange.standby import Asking, Greeting
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.sealed import seal_keyring
from rkeyserver.service.routes import HAND_OVER_PATH, HELLO_PATH
from rkeyserver.service.verification import InlineVerifier

REFUSED, UNAVAILABLE, CORRUPT, MISUSE = (EXIT_STATUS[kind] for kind in (Rejected, Unavailable, Corrupt, Misuse))

HELD_ELSEWHERE: Final = {
    "no key byte in any output": "integration/test_no_key_in_output.py::"
    "test_no_key_in_what_is_printed_or_stored_or_in_memory",
    "minting needs an explicit primary": "integration/test_hand_over.py::"
    "test_no_record_and_no_host_asks_for_as_long_as_wait_says",
    "minting needs an empty store": "unit/service/test_start.py::"
    "test_a_start_that_is_refused_touches_nothing_and_is_on_record",
    "another domain's key is never adopted silently": "integration/test_hand_over.py::"
    "test_another_domain_is_refused_with_both_ids_named",
    "a backup with a sealed copy starts and serves without the primary": "integration/test_hand_over.py::"
    "test_hosts_down_and_an_own_record_serves_and_asks_on",
    "old or new record, never neither": "integration/test_crash_safety.py::test_killed_at_every_system_call",
    "one exchange, one transcript": "attacks/test_relay.py::test_one_that_puts_its_own_key_into_the_request",
    "argv and environment are fixed": "integration/test_build.py::test_runs_alone",
    "retries are bounded": "unit/service/test_start.py::"
    "test_it_asks_again_with_growing_jittered_pauses_until_the_time_is_over",
    "slow, idle and half-open clients cost the others nothing": "integration/test_connections.py::"
    "test_hundreds_of_connections_cost_the_others_nothing",
    "no switch is in a configuration by another name": "unit/test_config.py::test_an_unknown_option_is_an_error",
}


@pytest.mark.parametrize("held_by", HELD_ELSEWHERE.values(), ids=HELD_ELSEWHERE)
def test_what_is_held_elsewhere_is_there(held_by: str) -> None:
    name, _, test = held_by.partition("::")
    module = ast.parse((ROOT / "tests" / name).read_text())
    assert test in {one.name for one in module.body if isinstance(one, ast.FunctionDef)}
    assert test.startswith("test_")


# No hand-over without appraised evidence, whatever is missing or empty.


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, platform: str) -> Iterator[Machine]:
    """A primary that everything below is tried on; it never hands over."""
    with processes_in(platform, tmp_path_factory.mktemp("lessons")) as machines:
        host = machines("host")
        host.start()
        yield host
        assert host.status()["hand_overs"] == 0
        assert [line["event"] for line in host.audit()] == ["mint"], "nothing of what was tried is worth a line"
        assert "Refused" not in host.started[0].err.text


@pytest.fixture(scope="module")
def asking(host: Machine) -> Asking:
    """An honest machine's, to be spoilt."""
    own = host.another("asking")
    return Asking(
        attester=own,
        verifiers={own.name: InlineVerifier(VERIFY[own.name])},
        policy=policy_of(own),
        clock=Clock(),
        random=secrets.token_bytes,
        instance=secrets.token_bytes(16),
        held=None,
        admins=None,
        member=MEMBER,
        address="",
        holds=None,
        audit_head=lambda: bytes(32),
    )


def post(host: Machine, path: str, body: bytes) -> httpx.Response:
    return httpx.post(f"http://{host.address}{path}", content=body, trust_env=False, timeout=DEADLINE)


def request(host: Machine, asking: Asking) -> Request:
    """A request that would be granted."""
    greeting = Greeting.begin(asking)
    return decode(greeting.challenged(post(host, HELLO_PATH, greeting.message).content).message, Request)


def attested(change: Callable[[AttestedMessage], dict[str, bytes]]) -> Callable[[Request], bytes]:
    def spoil(good: Request) -> bytes:
        return encode(
            msgspec.structs.replace(good, attested=msgspec.structs.replace(good.attested, **change(good.attested)))
        )

    return spoil


def without(*names: str) -> Callable[[Request], bytes]:
    def spoil(good: Request) -> bytes:
        fields = msgspec.to_builtins(good, builtin_types=(bytes,))
        inner = fields["attested"]
        return msgspec.msgpack.encode(
            {
                name: {key: value for key, value in inner.items() if key not in names} if name == "attested" else found
                for name, found in fields.items()
                if name not in names
            }
        )

    return spoil


SPOILT: dict[str, Callable[[Request], bytes]] = {
    "nothing": lambda _good: b"",
    "an empty map": lambda _good: b"\x80",
    "nil": lambda _good: b"\xc0",
    "no attested message": without("attested"),
    "no evidence": without("evidence"),
    "no claims": without("claims"),
    "no endorsements": without("endorsements"),
    "empty evidence": attested(lambda _good: {"evidence": b""}),
    "empty endorsements": attested(lambda _good: {"endorsements": b""}),
    "endorsements of nothing": attested(lambda _good: {"endorsements": b"{}"}),
    "empty claims": attested(lambda _good: {"claims": b""}),
    "everything empty": attested(lambda _good: {"evidence": b"", "endorsements": b"", "claims": b""}),
    "evidence of zeros": attested(lambda good: {"evidence": bytes(len(good.evidence))}),
    "evidence cut short": attested(lambda good: {"evidence": good.evidence[:-1]}),
    "a quote without its signature": attested(
        lambda good: {"evidence": good.evidence[:436] + bytes(len(good.evidence) - 436)}
    ),
    "no challenge": lambda good: encode(msgspec.structs.replace(good, challenge=b"")),
    "no hello": lambda good: encode(msgspec.structs.replace(good, hello=b"")),
    "a challenge of its own": lambda good: encode(
        msgspec.structs.replace(good, challenge=good.challenge[:-32] + bytes(32))
    ),
    "the hello alone": lambda good: good.hello,
}


@pytest.mark.sgx_too
@pytest.mark.simulated_only("on sgx a host that holds collateral needs none to be sent along", "empty endorsements")
@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_no_hand_over_without_evidence(host: Machine, asking: Asking, spoil: Callable[[Request], bytes]) -> None:
    before = sum(host.status()["refused"].values())
    answer = post(host, HAND_OVER_PATH, spoil(request(host, asking)))
    assert (answer.status_code, answer.json()) == (403, {"error": "rejected"})
    assert sum(host.status()["refused"].values()) == before + 1


@pytest.mark.sgx_too
def test_evidence_of_another_exchange(host: Machine, asking: Asking) -> None:
    old, new = request(host, asking), request(host, asking)
    answer = post(host, HAND_OVER_PATH, encode(msgspec.structs.replace(new, attested=old.attested)))
    assert answer.status_code == 403
    assert host.status()["refused"]["not-bound"] >= 1


@pytest.mark.parametrize("path", ["/", "/status", "/healthz", "/v1", "/v1/hand-over/", "/v2/hand-over", "/v1/derive"])
def test_nothing_else_is_answered(host: Machine, path: str) -> None:
    for method in ("GET", "POST"):
        assert httpx.request(method, f"http://{host.address}{path}", trust_env=False).status_code == 404


def test_what_a_stranger_may_read_is_a_hint_without_secrets(host: Machine) -> None:
    found = httpx.get(f"http://{host.address}/v1/hint", trust_env=False).json()
    status, digest = host.status(), found.pop("digest")
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert found == {
        **{name: status[name] for name in ("domain", "epoch", "sequence", "primary", "member", "role")},
        "generations": [one["id"] for one in status["generations"]],
        "change": 0,
        "pending": False,
    }


# Nonces are fresh and random, and are used once.


def test_challenges_are_fresh(host: Machine, asking: Asking) -> None:
    greeting = Greeting.begin(asking)
    challenges = [post(host, HELLO_PATH, greeting.message).content for _ in range(50)]
    nonces = {msgspec.msgpack.decode(msgspec.msgpack.decode(one)["body"])["nonce"] for one in challenges}
    assert len(nonces) == len(challenges)
    ones = sum(int.from_bytes(nonce, "big").bit_count() for nonce in nonces)
    assert 0.45 < ones / (256 * len(nonces)) < 0.55  # twelve standard deviations


@pytest.mark.sgx_too
def test_a_challenge_serves_once(machines: Machines, asking: Asking) -> None:
    host = machines("host")
    host.start()
    good = encode(request(host, asking))
    assert post(host, HAND_OVER_PATH, good).status_code == 200
    assert post(host, HAND_OVER_PATH, good).status_code == 403
    assert host.status()["refused"] == {"challenge-reused": 1}
    assert [line["event"] for line in host.audit()] == ["mint", "hand-over"]


# Sizes are capped before anything is read, and an early end is no success.

HEAD: Final = b"POST /v1/hand-over HTTP/1.1\r\nhost: x\r\n"

CHUNKED: Final = HEAD + b"transfer-encoding: chunked\r\n\r\n"

LIES: dict[str, tuple[bytes, bytes]] = {
    "a length of a terabyte": (HEAD + b"content-length: 1099511627776\r\n\r\n", b"HTTP/1.1 413"),
    "a length that no number holds": (HEAD + b"content-length: " + b"9" * 40 + b"\r\n\r\n", b"HTTP/1.1 400"),
    "a negative length": (HEAD + b"content-length: -1\r\n\r\n", b"HTTP/1.1 400"),
    "two lengths": (HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\nxx", b"HTTP/1.1 400"),
    "a length and chunks": (HEAD + b"content-length: 4\r\n" + CHUNKED[len(HEAD) :] + b"0\r\n\r\n", b"HTTP/1.1 400"),
    "chunks without an end": (CHUNKED + b"8000\r\n%s\r\n" % bytes(0x8000) * 16, b"HTTP/1.1 413"),
    "a chunk of a terabyte": (CHUNKED + b"10000000000\r\n" + bytes(500_000), b"HTTP/1.1 413"),
    "an end before the length": (HEAD + b"content-length: 1000\r\n\r\nshort", b""),
    "an end in a chunk": (CHUNKED + b"1000\r\nshort", b""),
    "an end in the headers": (HEAD, b""),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), b"HTTP/1.1 400"),
}


@pytest.mark.parametrize(("sent", "answer"), LIES.values(), ids=LIES)
def test_lengths_that_lie(host: Machine, sent: bytes, answer: bytes) -> None:
    found = b""
    # A server that hangs up on somebody who is still sending resets the connection, and its answer may be lost with it.
    with socket.create_connection((host.host, host.port), DEADLINE) as client, contextlib.suppress(ConnectionError):
        with contextlib.suppress(ConnectionError):
            client.sendall(sent)
        if not answer:
            client.shutdown(socket.SHUT_WR)
        found = client.recv(4096)
    if answer and (found or len(sent) < 4096):
        assert found.startswith(answer)
    else:
        assert found == b""
    assert host.status()["role"] == "primary", "it serves on"


# Any genuine enclave passes elsewhere; here both sides compare everything, and each difference has its reason.

GENUINE: Final = {
    "another signer": Reason.WRONG_SIGNER,
    "another product": Reason.WRONG_PRODUCT,
    "a lower version": Reason.VERSION_TOO_LOW,
    "a TCB out of date": Reason.TCB_STATUS,
}
UNPROVED: Final = {
    "a debug enclave": Reason.DEBUG_ENCLAVE,  # it says so itself, and is refused before anything is verified
    "a revoked processor": Reason.NOT_GENUINE,
    "collateral out of date": Reason.NOT_GENUINE,
    "a root of its own": Reason.NOT_GENUINE,
}


def under(name: str, machine: Machine) -> dict[str, object]:
    """What a server of that machine is started with, to be that stranger."""
    if isinstance(machine, SgxMachine):
        machine.become(name)
    return {"under": [sys.executable, "-m", stranger.__name__, name], "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}


OF_COLLATERAL: Final = pytest.mark.simulated_only(
    "on sgx a peer is judged by the newest collateral that either side has, so that old of its own hides nothing: "
    "test_collateral.py; and attacks/test_appraisal.py, where nobody has other",
    "a revoked processor",
    "collateral out of date",
)


@pytest.mark.sgx_too("another signer", "a debug enclave", "a root of its own")
@OF_COLLATERAL
@pytest.mark.parametrize(("name", "reason"), (GENUINE | UNPROVED).items(), ids=GENUINE | UNPROVED)
def test_a_stranger_gets_nothing(machines: Machines, name: str, reason: Reason) -> None:
    host, other = machines("host"), machines("other")
    host.start()
    ended = other.run("-i", host.address, "--once", "--wait", "0", **under(name, other))  # type: ignore[arg-type]  # a table has no narrower type
    assert (ended.status, ended.out, other.keystore.exists()) == (REFUSED, "", False)
    assert "refused this machine. The log and the audit file there have the reason." in ended.err
    assert host.status()["refused"] == {str(reason): 1}
    lines, said = host.audit()[1:], host.started[0].err.text
    if name in GENUINE:
        (line,) = lines
        assert (line["event"], line["verdict"], line["reason"]) == ("hand-over", "refused", str(reason))
        assert line["found"] in said
        assert re.search(
            rf"^WARNING .*Refused machine {line['peer']['machine']} at 127\.0\.0\.1: {reason}\. ", said, re.MULTILINE
        )
    else:
        assert lines == []
        assert "Refused" not in said
        assert str(reason) not in said


@pytest.mark.sgx_too("another signer", "a debug enclave", "a root of its own")
@OF_COLLATERAL
@pytest.mark.parametrize(("name", "reason"), (GENUINE | UNPROVED).items(), ids=GENUINE | UNPROVED)
def test_nothing_is_taken_from_a_stranger(machines: Machines, name: str, reason: Reason) -> None:
    """A backup knows its primary by what it proves, not by an address or a key in a file."""
    other, backup = machines("other"), machines("backup")
    other.start(**under(name, other))  # type: ignore[arg-type]  # a table has no narrower type
    ended = backup.run("-i", other.address, "--once", "--wait", "0")
    assert other.status()["hand_overs"] == 1, "it is the backup alone that refuses"
    assert (ended.status, ended.out, backup.keystore.exists()) == (REFUSED, "", False)
    (line,) = backup.audit()
    assert (line["event"], line["verdict"], line["reason"]) == ("join", "refused", str(reason))
    assert line["found"].removeprefix(f"{other.address}: ") in ended.err


# Anyone's genuine machine may join elsewhere; here the policy names machines.


@pytest.mark.sgx_too
def test_a_refused_join_prints_the_line_that_would_enrol_it(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    platform = host.platform()
    own = platform.attester_identity().machine
    policy = host.new_policy().text
    with contextlib.closing(
        Keyring.mint(primary=MEMBER, now=1, policy=policy.replace('machines = "any"', f'machines = ["{own}"]'))
    ) as keyring:
        host.keystore.write_bytes(seal_keyring(keyring, platform, OWNER, now=1))
    host.keystore.chmod(0o600)
    running = host.start()
    for _ in range(2):
        ended = backup.run("-i", host.address, "--once", "--wait", "0")
        assert (ended.status, backup.keystore.exists()) == (REFUSED, False)
    machine = backup.platform().attester_identity().machine
    said = running.err.text
    assert f"machine-not-named. Machine {machine} is not among the 1 that the policy names." in said
    assert f"The line that would admit it: {platform.name} {machine}" in said
    assert said.count("Refused") == 1, "it is only claimed, so that anyone could fill the log"
    assert host.status()["refused"] == {"machine-not-named": 2}


# A failed step leaves the old record, and the exit status says so.


def damaged(record: bytes) -> bytes:
    return record[:-1] + bytes([record[-1] ^ 1])


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "changed at its end": damaged,
    "cut short": lambda record: record[:-100],
    "its header cut": lambda record: record[:100],
    "empty": lambda _record: b"",
    "zeros": lambda record: bytes(len(record)),
    "a byte longer": lambda record: record + b"\0",
}


@pytest.mark.sgx_too("changed at its end")
@pytest.mark.parametrize("breaking", BROKEN.values(), ids=BROKEN)
def test_a_record_that_does_not_open_stays(machines: Machines, breaking: Callable[[bytes], bytes]) -> None:
    host = machines("host")
    host.start().stop()
    host.keystore.write_bytes(breaking(host.record))
    before = host.record
    ended = host.run()
    assert (ended.status, ended.out) == (CORRUPT, "")
    assert host.record == before
    assert host.kept() == []
    assert host.audit()[-1]["verdict"] == "refused"


def test_a_backup_whose_record_does_not_open_gets_the_same_domain_again(machines: Machines) -> None:
    host, other, backup = machines("host"), machines("other"), machines("backup")
    host.start()
    other.start()
    assert backup.run("-i", host.address, "--once").status == 0
    broken = damaged(backup.record)
    backup.keystore.write_bytes(broken)
    ended = backup.run("-i", other.address, "--once", "--wait", "0")
    assert ended.status == REFUSED
    assert "the record here, which does not open, is of" in ended.err
    assert backup.record == broken
    assert backup.run("-i", host.address, "--once").status == 0
    assert key_proof(backup) == key_proof(host)
    assert [path.read_bytes() for path in backup.kept()] == [broken]


# A microcode update changes the sealing key: the ways back are counted and shown before it, and one of them is a peer.


@pytest.mark.sgx_too
def test_a_microcode_update_is_survived_by_a_living_peer(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    host.start()
    proof = key_proof(host)
    assert backup.run("-i", host.address, "--once").status == 0
    assert host.status()["ways_back"] == {"record": 1, "hosts": 0, "recovery": 0}
    host.started[0].stop()
    set_microcode(host.processor, bytes([8] * 16))
    ended = host.run()
    assert ended.status == CORRUPT
    assert "since it was sealed, cpu_svn was" in ended.err
    backup.start()
    assert host.run("-i", backup.address, "--once").status == 0
    assert key_proof(host) == proof
    assert len(host.kept()) == 1


# One record, one commit; two writers: one wins, the other is told.


def test_a_domain_is_one_file(machines: Machines) -> None:
    host = machines("host")
    host.start().stop()
    of_the_machine = {"machine"} if host.platform_name == "simulated" else {"machine", "rkey.bin.collateral.json"}
    assert {path.name for path in host.folder.iterdir()} - of_the_machine == {
        "rkey.bin",
        "rkey.bin.lock",
        "rkey.bin.audit.jsonl",
    }


@pytest.mark.sgx_too
def test_two_that_start_at_once_make_one_domain(machines: Machines) -> None:
    one = machines("one")
    other = machines("other", beside=one)
    both = [one.begin(), other.begin("--keystore", str(one.keystore))]
    ends = {os.pidfd_open(running.pid): running for running in both}
    ended = select.select(list(ends), [], [], DEADLINE)[0]
    for pidfd in ends:
        os.close(pidfd)
    assert len(ended) == 1
    loser = ends.pop(ended[0]).wait()
    assert loser.status == UNAVAILABLE
    assert "The keystore is held by" in loser.err
    (winner,) = ends.values()
    winner.ready()
    assert [line["event"] for line in one.audit()] == ["mint"]


# What was attested is what carries the key: no redirect leads to another connection.


class _Redirecting(BaseHTTPRequestHandler):
    target = ""

    def do_POST(self) -> None:
        self.send_response(307)
        self.send_header("Location", f"http://{self.target}{self.path}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        pass


def test_a_redirect_is_not_followed(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    host.start()
    handler = type("Handler", (_Redirecting,), {"target": host.address})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        ended = backup.run("-i", f"127.0.0.1:{server.server_port}", "--once", "--wait", "0")
        server.shutdown()
        thread.join(DEADLINE)
    assert (ended.status, backup.keystore.exists()) == (UNAVAILABLE, False)
    assert "it answers 307 to /v1/hello" in ended.err
    assert host.status()["hand_overs"] == 0


# There is no switch that turns a check off.

OPTIONS: Final = {
    "host", "peer", "port", "keystore", "domain", "wait", "once", "listen", "platform", "machine", "ops", "audit",
    "log-level",
    "policy", "admins", "socket", "recover", "change", "pccs", "pccs-ca", "collateral", "provision", "callers",
    "coordinator", "coordinator-ca", "coordinator-cert", "coordinator-key", "lease",
}  # fmt: skip
A_CHECK: Final = re.compile(
    r"insecure|unsafe|skip|trust|verif|check|allow|disable|debug|force|any|mock|test|tls|auth|pass"
)


def test_no_option_turns_a_check_off() -> None:
    """A list that is closed: whoever adds an option reads here what none may do."""
    assert {name.replace("_", "-") for name in Options.__struct_fields__} == OPTIONS
    assert not [name for name in OPTIONS if A_CHECK.search(name)]


def test_no_environment_variable_is_read() -> None:
    reads = re.compile(r"environ|getenv|expandvars|expanduser|trust_env=True")
    found = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src").rglob("*.py")
        if reads.search(
            path.read_text()
            .replace("no proxy of the environment", "")
            .replace("no environment says", "")
            .replace("Nothing of the environment", "")
        )
    }
    assert found == {
        "rkeyserver/service/notify.py",  # where the service manager listens
        "rkeyserver/service/interpreter.py",  # where the interpreter of the workers finds its own library
        "rkeyserver/cli/enclave.py",  # takes all of it away
        "rkeyserver/cli/launch.py",  # outside of the enclave, trusted with nothing: whether a service manager waits
        "rkeyserver/cli/run_folder.py",  # the same: where folders of this run may be
    }


def test_the_environment_changes_nothing(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    host.start()
    proxy = "http://127.0.0.1:1"
    ended = backup.run(
        "-i", host.address, "--once", http_proxy=proxy, ALL_PROXY=proxy, SSL_CERT_FILE="/nowhere", DEBUG="1"
    )
    assert ended.status == 0
