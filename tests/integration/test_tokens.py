"""Callers with a token, over TLS, and the relay that leads to them: real servers, asked by curl."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from tests.fakes.machines import running
from tests.fakes.processes import (
    DEADLINE,
    PROGRAM,
    Machine,
    Machines,
    Running,
    environment,
    machines_in,
    opened,
    reserve,
    rkeyserver,
)

from rkeyserver.appraisal.defaults import default_policy
from rkeyserver.keyring.derived import derive
from rkeyserver.tokens import digest, token_of

TOKEN: Final = token_of(bytes(range(32)))
OTHER: Final = token_of(bytes(32))
CURL: Final = shutil.which("curl") or "curl"
ASKED: Final = '{"label": "db/orders"}'
BIG: Final = b"x" * 200_000  # what curl has at its standard input


def base() -> str:
    image = running()
    return default_policy("simulated", mrsigner=image.mrsigner.hex(), isv_prod_id=image.isv_prod_id).text


def entry(token: str = TOKEN, may: tuple[str, ...] = ("derive", "wrap", "unwrap"), labels: str = "db/*") -> str:
    return f'\n[[callers]]\ntoken_sha256 = "{digest(token)}"\nmay = {json.dumps(may)}\nlabels = ["{labels}"]\n'


def written(machine: Machine, name: str, text: str) -> str:
    path = machine.folder / name
    path.write_text(text)
    return str(path)


def derived(machine: Machine, label: str = "db/orders") -> bytes:
    with (
        contextlib.closing(opened(machine)) as keyring,
        derive(keyring, label.encode(), size=32, generation="current").secret as secret,
    ):
        return secret.view.tobytes()


@dataclass(frozen=True)
class Listener:
    """A machine whose policy names TOKEN, and where its callers ask."""

    machine: Machine
    server: Running
    port: int
    ca: Path

    def curl(self, *words: str, host: str = "localhost", path: str = "/v1/derive") -> tuple[int, str, bytes]:
        """The status of curl, that of HTTP with the headers, and the body."""
        command = [CURL, "-sS", "-i", "--max-time", "20", "--cacert", str(self.ca), *words]
        url = f"https://{host}:{self.port}{path}"
        done = subprocess.run([*command, url], input=BIG, capture_output=True, check=False, timeout=DEADLINE, env={})
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        return done.returncode, head.decode().lower() + done.stderr.decode(), body


def bearer(token: str = TOKEN) -> list[str]:
    return ["-H", f"Authorization: Bearer {token}"]


def serving(machine: Machine, port: int, *tables: str) -> Listener:
    rules = written(machine, "policy.toml", base() + "".join(tables))
    server = machine.start("--policy", rules, "--callers", f"127.0.0.1:{port}")
    server.err.wait_for("Answering callers with 1 token")
    ca = Path(written(machine, "ca.pem", provision_ca(machine)))
    return Listener(machine, server, port, ca)


def provision_ca(machine: Machine) -> str:
    answer = httpx.get(f"http://{machine.ops}/provision-ca", trust_env=False, timeout=DEADLINE)
    return answer.raise_for_status().text


@contextlib.contextmanager
def relay(listener: Listener, *words: str, token: str = TOKEN) -> Iterator[tuple[Running, Path]]:
    """A relay, and its socket."""
    folder = listener.machine.folder
    path = folder / "relay.socket"
    file = Path(written(listener.machine, "token", token + "\n"))
    file.chmod(0o600)
    options = ["--to", f"127.0.0.1:{listener.port}", "--ca", str(listener.ca), "--token", str(file)]
    command = [*PROGRAM, "relay", *options, "--socket", str(path), *words]
    started = Running(command, cwd=folder, env=environment())
    try:
        yield started.ready(), path
    finally:
        if started.process.poll() is None:
            ended = started.stop()
            assert TOKEN not in ended.err + ended.out
            assert not path.exists()


def through(path: Path, *words: str, route: str = "/v1/derive") -> tuple[int, bytes]:
    """What curl gets through a relay's socket."""
    command = [CURL, "-sS", "--max-time", "20", "-w", "\n%{http_code}", "--unix-socket", str(path), *words]
    done = subprocess.run(
        [*command, f"http://localhost{route}"], input=BIG, capture_output=True, check=True, timeout=DEADLINE, env={}
    )
    body, _, status = done.stdout.rpartition(b"\n")
    return int(status), body


@pytest.fixture
def port() -> Iterator[int]:
    with reserve() as held:
        yield int(held.getsockname()[1])


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    with machines_in(tmp_path_factory.mktemp("tokens")) as machines, reserve() as held:
        yield serving(machines("host"), int(held.getsockname()[1]), entry())


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_curl_gets_the_key_of_a_label_that_the_policy_lets_its_token_have(listener: Listener, host: str) -> None:
    status, head, body = listener.curl(*bearer(), "-d", ASKED, host=host)
    assert (status, head.splitlines()[0]) == (0, "http/1.1 200 ok"), head
    assert "cache-control: no-store" in head
    assert "content-encoding" not in head
    found = json.loads(body)
    with contextlib.closing(opened(listener.machine)) as keyring:
        assert found["generation"] == keyring.current.id
    assert base64.b64decode(found["key"]) == derived(listener.machine)


# what is asked: with which words, by which host, on which path; the status of HTTP; what the answer says
REFUSED: Final[dict[str, tuple[list[str], str, str, int, str]]] = {
    "no token": (["-d", ASKED], "localhost", "/v1/derive", 401, "unknown-token"),
    "a token that the policy has not": ([*bearer(OTHER), "-d", ASKED], "localhost", "/v1/derive", 401, "unknown-token"),
    "the token as a password": (["-u", f"x:{TOKEN}", "-d", ASKED], "localhost", "/v1/derive", 401, "unknown-token"),
    "the digest for the token": (
        [*bearer(digest(TOKEN)), "-d", ASKED], "localhost", "/v1/derive", 401, "unknown-token",
    ),
    "two tokens": ([*bearer(OTHER), *bearer(), "-d", ASKED], "localhost", "/v1/derive", 401, "unknown-token"),
    "a ping without one": ([], "localhost", "/v1/ping", 401, "unknown-token"),
    "another label": ([*bearer(), "-d", '{"label": "web"}'], "localhost", "/v1/derive", 403, "not-permitted"),
    "another action": (
        [*bearer(), "-d", '{"label": "db/x", "wrapped": ""}'], "localhost", "/v1/rewrap", 403, "not-permitted",
    ),
    "no JSON": ([*bearer(), "-d", "{"], "localhost", "/v1/derive", 400, "cannot be read"),
    "a Host of somebody else": (
        [*bearer(), "-H", "Host: evil.example", "-d", ASKED], "localhost", "/v1/derive", 421, "not its own",
    ),
    "too much": ([*bearer(), "--data-binary", "@-"], "localhost", "/v1/derive", 403, "too-large"),
    "the policy": ([*bearer()], "localhost", "/v1/policy", 404, ""),
    "a change of the policy": ([*bearer(), "-d", "{}"], "localhost", "/v1/policy", 404, ""),
    "status": ([*bearer()], "localhost", "/status", 404, ""),
    "GET": ([*bearer()], "localhost", "/v1/derive", 405, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(listener: Listener, case: str) -> None:
    words, host, path, wanted, says = REFUSED[case]
    status, head, body = listener.curl(*words, host=host, path=path)
    assert (status, head.split()[1]) == (0, str(wanted)), (head, body)
    assert says in body.decode()
    if wanted == 401:
        assert "www-authenticate: bearer" in head
    assert TOKEN not in body.decode()
    assert TOKEN not in listener.server.err.text


def test_a_wrong_token_is_counted_slowed_and_holds_up_nobody_else(listener: Listener) -> None:
    before = listener.machine.status()["refused"].get("unknown-token", 0)
    wrong = [
        subprocess.Popen([CURL, "-s", "--cacert", str(listener.ca), *bearer(OTHER), f"https://localhost:{listener.port}/"],
                         stdout=subprocess.DEVNULL, env={})
        for _ in range(5)
    ]  # fmt: skip
    begun = time.monotonic()
    assert listener.curl(*bearer(), "-d", ASKED)[0] == 0
    for one in wrong:
        one.wait(DEADLINE)
    assert time.monotonic() - begun > 0.1
    assert listener.machine.status()["refused"]["unknown-token"] == before + 5
    assert listener.server.err.text.count("by what it says of itself: unknown-token") <= 2


WRONG_TLS: Final[dict[str, list[str]]] = {
    "TLS 1.2": ["--tls-max", "1.2"],
    "another CA": ["--cacert", "/etc/ssl/certs/ca-certificates.crt"],
    "another name": ["--connect-to", "::127.0.0.1:", "-H", "Host: localhost"],
}


@pytest.mark.parametrize("case", WRONG_TLS)
def test_what_tls_refuses(listener: Listener, case: str) -> None:
    host = "evil.example" if case == "another name" else "localhost"
    status, _, body = listener.curl(*WRONG_TLS[case], *bearer(), "-d", ASKED, host=host)
    assert (status, body) in [(35, b""), (60, b""), (77, b"")]


def test_plain_http_gets_no_answer(listener: Listener) -> None:
    with socket.create_connection(("127.0.0.1", listener.port), DEADLINE) as plain:
        plain.sendall(b"POST /v1/derive HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        answer = plain.recv(4096)
        assert b"HTTP" not in answer  # an alert of TLS at most
    assert listener.curl(*bearer(), "-d", ASKED)[0] == 0


def test_a_client_that_never_speaks_or_breaks_tls_is_dropped(listener: Listener) -> None:
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", listener.port))) for _ in range(140)]
        # More than one address may have: the oldest made room, and who asks in earnest gets his answer.
        assert listener.curl(*bearer(), "-d", ASKED)[0] == 0
        silent[0].settimeout(DEADLINE)
        with contextlib.suppress(ConnectionError):
            assert silent[0].recv(1) == b""
        silent[-1].sendall(b"\x16\x03\x01\x40\x00" + b"\x01" * 17_000)
        silent[-1].settimeout(DEADLINE)
        with contextlib.suppress(ConnectionError):
            assert silent[-1].recv(1) in (b"", b"\x15")


def tls(listener: Listener) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(listener.ca)
    return context


def test_each_request_of_a_connection_has_to_show_its_token(listener: Listener) -> None:
    with httpx.Client(verify=tls(listener), trust_env=False, timeout=DEADLINE) as client:
        url = f"https://localhost:{listener.port}/v1/derive"
        headers = {"authorization": f"Bearer {TOKEN}", "accept-encoding": "gzip, br"}
        for _ in range(3):
            answer = client.post(url, content=ASKED, headers=headers)
            assert answer.status_code == 200
            assert "content-encoding" not in answer.headers
            assert client.post(url, content=ASKED).status_code == 401
        # A connection that nears its limits says that it ends; none is cut off in the middle of a request.
        big = json.dumps({"label": "db/x", "plaintext": "A" * 87_380})
        said = [client.post(url.replace("derive", "wrap"), content=big, headers=headers) for _ in range(20)]
        assert {one.status_code for one in said} == {200}
        assert 1 <= sum(one.headers.get("connection") == "close" for one in said) < 10


def test_no_session_is_resumed(listener: Listener) -> None:
    context = tls(listener)
    session = None
    for _ in range(2):
        with (
            socket.create_connection(("127.0.0.1", listener.port), DEADLINE) as plain,
            context.wrap_socket(plain, server_hostname="localhost", session=session) as connection,
        ):
            request = f"GET /v1/ping HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
            connection.sendall(request.encode())
            assert connection.recv(4096).startswith(b"HTTP/1.1 204")
            assert not connection.session_reused
            assert connection.version() == "TLSv1.3"
            session = connection.session


def test_status_and_metrics_tell_of_the_listener(listener: Listener) -> None:
    found = listener.machine.status()["callers"]
    assert found["listening"] == [f"127.0.0.1:{listener.port}"]
    shown = rkeyserver("status", "--ops", listener.machine.ops, cwd=listener.machine.folder).out
    assert f"callers with one are answered on 127.0.0.1:{listener.port}" in shown
    der = ssl.PEM_cert_to_DER_cert(listener.ca.read_text())
    assert found["ca_sha256"] == hashlib.sha256(der).hexdigest()
    metrics = httpx.get(f"http://{listener.machine.ops}/metrics", trust_env=False, timeout=DEADLINE).text
    assert "rkeyserver_callers_listening 1.0" in metrics
    before = listener.machine.status()["refused"].get("not-permitted", 0)
    assert listener.curl(*bearer(), "-d", '{"label": "web"}', host="localhost")[1].split()[1] == "403"
    assert listener.machine.status()["refused"]["not-permitted"] == before + 1


# --- The relay


def test_what_comes_to_the_relays_socket_is_answered_by_the_server(listener: Listener) -> None:
    with relay(listener, "--mode", "0600") as (_, path):
        assert path.stat().st_mode & 0o777 == 0o600
        status, body = through(path, "-d", ASKED)
        assert status == 200
        assert through(path, route="/v1/ping") == (204, b"")
        secret = json.dumps({"label": "db/x", "plaintext": "c2VjcmV0", "associated_data": "YQ=="})
        wrapped = json.loads(through(path, "-d", secret, route="/v1/wrap")[1])["wrapped"]
        opening = json.dumps({"label": "db/x", "wrapped": wrapped, "associated_data": "YQ=="})
        assert json.loads(through(path, "-d", opening, route="/v1/unwrap")[1])["plaintext"] == "c2VjcmV0"
        # What the server refuses, it refuses here too, in its own words; the token is the relay's.
        status, body = through(path, *bearer(OTHER), "-d", '{"label": "web"}')
        assert (status, json.loads(body)["reason"]) == (403, "not-permitted")
        assert through(path, "--data-binary", "@-")[0] == 403
        assert through(path, route="/v1/policy")[0] == 404
        assert through(path, route="/status")[0] == 404


def test_a_relay_with_a_token_that_is_none_any_more(listener: Listener) -> None:
    with relay(listener, token=OTHER) as (_, path):
        status, body = through(path, "-d", ASKED)
        assert (status, json.loads(body)["reason"]) == (401, "unknown-token")


def test_a_relay_believes_no_other_ca(listener: Listener, machines: Machines, port: int) -> None:
    other = serving(machines("other"), port, entry())
    with relay(Listener(other.machine, other.server, listener.port, other.ca)) as (_, path):
        status, body = through(path, "-d", ASKED)
        assert (status, json.loads(body)["error"]) == (503, "unavailable")
        assert "unable to get local issuer certificate" in body.decode()


WRONG_RELAY: Final[dict[str, tuple[dict[str, str], str]]] = {
    "no token in the file": ({"token": "secret-of-something-else\n"}, "This is no token: 24 characters"),
    "no file": ({"token": ""}, "The token token cannot be read"),
    "no CA in the file": ({"ca": "nothing\n"}, "The CA ca cannot be used: there is none in it."),
    "no CA": ({"ca": ""}, "The CA ca cannot be used: No such file or directory."),
    "no mode": ({"mode": "0999"}, "The mode is '0999'; wanted are three octal digits"),
    "no address": ({"to": "::1:x:"}, "is no address"),
    "something else is there": ({"socket": "taken"}, "The local socket cannot be taken: there is something else."),
}


@pytest.mark.parametrize("case", WRONG_RELAY)
def test_what_a_relay_does_not_start_with(listener: Listener, tmp_path: Path, case: str) -> None:
    changed, says = WRONG_RELAY[case]
    (tmp_path / "taken").write_text("mine")
    for name, text in {"token": TOKEN, "ca": listener.ca.read_text()}.items():
        if (content := changed.get(name, text)) != "":
            (tmp_path / name).write_text(content)
    words = {"to": "127.0.0.1:1", "ca": "ca", "token": "token", "socket": "r", "mode": "0660"}
    words |= {name: value for name, value in changed.items() if name not in ("token", "ca")}
    ended = rkeyserver("relay", *(part for name, value in words.items() for part in (f"--{name}", value)), cwd=tmp_path)
    assert ended.status == 2
    assert says in ended.err
    assert "secret-of-something-else" not in ended.err
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_relay_outlives_its_server_and_its_server_a_relay(machines: Machines, port: int) -> None:
    host = machines("host")
    listener = serving(host, port, entry())
    with relay(listener) as (started, path):
        assert through(path, "-d", ASKED)[0] == 200
        listener.server.kill()
        status, body = through(path, "-d", ASKED)
        assert (status, json.loads(body)["error"]) == (503, "unavailable")
        assert "Connection refused" in body.decode()
        again = host.start("--callers", f"127.0.0.1:{port}")
        again.err.wait_for("Answering callers")
        assert through(path, "-d", ASKED)[0] == 200
        # A relay that was killed leaves its socket, which the next one takes over.
        started.kill()
        assert path.exists()
    with relay(listener) as (_, path):
        assert through(path, "-d", ASKED)[0] == 200


def test_a_relay_warns_of_a_token_that_everyone_can_read(listener: Listener, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o644)
    options = ["--ca", str(listener.ca), "--token", str(file), "--socket", str(tmp_path / "s")]
    started = Running([*PROGRAM, "relay", *options], cwd=tmp_path, env=environment())
    started.err.wait_for("can be read by everyone here: chmod 600 it")
    started.ready().stop()


# --- What opens and closes the listener


def apply(machine: Machine, text: str) -> None:
    change = str(machine.folder / "change.json")
    for words in (
        ["propose", written(machine, "next.toml", text), "-o", change, "--ops", machine.ops],
        ["apply", change, "--ops", machine.ops],
    ):
        ended = rkeyserver("policy", *words, cwd=machine.folder)
        assert ended.status == 0, ended


def test_the_policy_opens_and_closes_it(machines: Machines, port: int) -> None:
    host = machines("host")
    server = host.start("--policy", written(host, "policy.toml", base()), "--callers", f"127.0.0.1:{port}")
    assert host.status()["callers"]["listening"] == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    assert httpx.get(f"http://{host.ops}/provision-ca", trust_env=False, timeout=DEADLINE).status_code == 503
    # The keys to the machines by a uid are none: the listener stays closed.
    apply(host, base() + '\n[[callers]]\nuid = 4242\nmay = ["derive"]\nlabels = ["db/*"]\n')
    assert host.status()["callers"]["listening"] == []

    apply(host, base() + entry())
    server.err.wait_for("Answering callers with 1 token")
    listener = Listener(host, server, port, Path(written(host, "ca.pem", provision_ca(host))))
    assert listener.curl(*bearer(), "-d", ASKED)[1].split()[1] == "200"

    with httpx.Client(verify=tls(listener), trust_env=False, timeout=DEADLINE) as client:
        url = f"https://localhost:{port}/v1/derive"
        headers = {"authorization": f"Bearer {TOKEN}"}
        assert client.post(url, content=ASKED, headers=headers).status_code == 200
        # Another token in its place: the listener stays, and what was connected is refused from the next request on.
        apply(host, base() + entry(OTHER))
        assert client.post(url, content=ASKED, headers=headers).status_code == 401
        assert client.post(url, content=ASKED, headers={"authorization": f"Bearer {OTHER}"}).status_code == 200
        # No token any more: the listener closes, and what was connected with it.
        apply(host, base())
        server.err.wait_for("Callers with a token are not answered any more")
        with pytest.raises(httpx.TransportError):
            client.post(url, content=ASKED, headers=headers)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    assert server.stop().status == 0


def test_a_listener_whose_port_is_taken_says_so_and_stops_nothing(machines: Machines, port: int) -> None:
    host = machines("host")
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        rules = written(host, "policy.toml", base() + entry())
        server = host.start("--policy", rules, "--callers", f"127.0.0.1:{port}")
        server.err.wait_for("Callers with a token are not answered; trying again in 2 seconds")
        problem = host.status()["callers"]["problem"]
        assert "Address already in use" in problem
        assert "--callers" in problem
        shown = rkeyserver("status", "--ops", host.ops, cwd=host.folder).out
        assert "WARNING: callers with a token are not answered" in shown
    server.err.wait_for("Answering callers with 1 token")


def test_a_listener_on_all_addresses_says_so(machines: Machines, port: int) -> None:
    host = machines("host")
    rules = written(host, "policy.toml", base() + entry() + '\n[provision]\nca_generation = "current"\n')
    server = host.start("--policy", rules, "--callers", f"0.0.0.0:{port}")
    server.err.wait_for("are asked from the network: whoever has a token can use it from there")
    found: dict[str, Any] = host.status()
    assert found["callers"]["ca_generation"] == found["generations"][-1]["id"]
    assert found["provision"]["listening"] == []
