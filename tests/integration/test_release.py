"""An enclave elsewhere gets its derived keys from real instances, by the client library, over the network."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from tests.fakes.machines import loaded, machine, other_signer, running
from tests.fakes.processes import DEADLINE, Machine, Machines, Running, opened, reserve

from rkeyserver.appraisal.defaults import default_policy
from rkeyserver.appraisal.policy import Policy
from rkeyserver.client import release as client_release
from rkeyserver.client.enclave import entry, servers, simulated
from rkeyserver.client.release import Keys, key, release, release_async
from rkeyserver.clock import Clock
from rkeyserver.errors import Misuse, Reason, Rejected, RkeyError, Unavailable
from rkeyserver.exchange.messages import WantedKey
from rkeyserver.keyring.derived import derive
from rkeyserver.platforms.simulated.platform import SimulatedPlatform

pytestmark = pytest.mark.simulated_only(
    "the host says the policy, which on sgx it cannot: tests/sgx/test_release.py has admins sign one"
)

CODE: Final = b"the code of an enclave elsewhere"


def base() -> str:
    image = running()
    return default_policy("simulated", mrsigner=image.mrsigner.hex(), isv_prod_id=image.isv_prod_id).text


def trusted(**differences: Any) -> Policy:
    """What a server has to be: this program."""
    image = running()
    given: dict[str, Any] = {"mrsigner": image.mrsigner.hex(), "isv_prod_id": image.isv_prod_id}
    return servers("simulated", **(given | differences))


def derived(host: Machine, label: str, size: int = 32, generation: str = "current") -> bytes:
    """What a label's key has to be, from the root key in the host's record."""
    with (
        contextlib.closing(opened(host)) as keyring,
        derive(keyring, label.encode(), size=size, generation=generation).secret as secret,
    ):
        return bytes(secret.view)


def serving(host: Machine, *tables: str, words: tuple[str, ...] = ()) -> Running:
    file = host.folder / "policy.toml"
    file.write_text("\n".join((base(), *tables)))
    return host.start("--policy", str(file), *words)


def domain_of(host: Machine) -> str:
    return str(host.status()["domain"])


@pytest.fixture(scope="module")
def enclave(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPlatform:
    found = simulated(tmp_path_factory.mktemp("elsewhere") / "machine", CODE)
    assert isinstance(found, SimulatedPlatform)
    return found


def releases(host: Machine) -> list[dict[str, Any]]:
    return [line for line in host.audit() if line["event"] == "release"]


def test_an_enclave_gets_the_keys_of_its_labels_from_any_machine_of_the_domain(
    machines: Machines, enclave: SimulatedPlatform
) -> None:
    host, backup = machines("host"), machines("backup")
    running_host = serving(host, entry(enclave, ["db/*", "backup"]), words=("--log-level", "debug"))
    domain = domain_of(host)
    wanted: list[str | WantedKey] = ["db/orders", key("backup", size=64), key("db/orders", size=16, generation="first")]

    def ask(*asked: Machine) -> Keys:
        return release([one.address for one in asked], wanted, domain=domain, attester=enclave, policy=trusted())

    with ask(host) as keys:
        assert list(keys) == ["db/orders", "backup"]
        assert bytes(keys["db/orders"].view) == derived(host, "db/orders")
        assert bytes(keys["backup"].view) == derived(host, "backup", 64)
        assert bytes(keys.all[2].secret.view) == derived(host, "db/orders", 16, "first")
        generation = host.status()["generations"][-1]["id"]
        assert {one.generation for one in keys.all} == {generation}
        assert keys.server == host.platform().attester_identity().machine
        assert derived(host, "db/orders").hex() not in repr(keys)
        assert "other" not in keys
        assert len(keys) == 2
    (line,) = releases(host)
    assert line["verdict"] == "accepted"
    assert line["labels"] == ["db/orders", "backup", "db/orders"]
    assert line["generations"] == [generation] * 3
    assert line["peer"]["mrenclave"] == enclave.enclave.mrenclave.hex()
    assert host.status()["released"] == 1
    assert host.status()["hand_overs"] == 0
    metrics = httpx.get(f"http://{host.ops}/metrics", trust_env=False, timeout=DEADLINE).text
    assert "rkeyserver_releases_total 1.0" in metrics
    assert b"Released keys to an enclave" in running_host.err.text.encode()

    printed = running_host.err.text + running_host.out.text
    stored = b"".join(path.read_bytes() for path in host.folder.rglob("*") if path.is_file())
    for label, size in (("db/orders", 32), ("backup", 64), ("db/orders", 16)):
        made = derived(host, label, size)
        for form in (made.hex(), base64.b64encode(made).decode()):
            assert form not in printed
            assert form.encode() not in stored
        assert made not in stored

    # The same from a backup, which is asked after a machine that is gone.
    backup.start("-i", host.address)
    running_host.stop()
    with ask(host, backup) as keys:
        assert bytes(keys["db/orders"].view) == derived(backup, "db/orders") == derived(host, "db/orders")
        assert keys.server == backup.platform().attester_identity().machine


REFUSED: Final[dict[str, tuple[list[str], dict[str, Any], Reason, str]]] = {
    "a label that is not listed": (["db/x", "other"], {}, Reason.REFUSED_BY_PEER, "not-permitted"),
    "another domain": (["db/x"], {"domain": "ab" * 16}, Reason.REFUSED_BY_PEER, "another-domain"),
    "a generation that there is not": ([], {"generation": "cd" * 16}, Reason.REFUSED_BY_PEER, "no-such-generation"),
    "a server of another signer": (["db/x"], {"mrsigner": "00" * 32}, Reason.WRONG_SIGNER, ""),
    "a server on another machine": (["db/x"], {"machines": ["00" * 16]}, Reason.MACHINE_NOT_NAMED, ""),
}


def test_who_is_refused_and_what_is_recorded(machines: Machines, enclave: SimulatedPlatform, tmp_path: Path) -> None:
    host = machines("host")
    running_host = serving(host, entry(enclave, ["db/*"]))
    domain = domain_of(host)
    for labels, said, reason, there in REFUSED.values():
        given = dict(said)
        named = given.pop("domain", domain)
        wanted: list[Any] = labels or [key("db/x", generation=given.pop("generation"))]
        with pytest.raises(Rejected) as refused:
            release([host.address], wanted, domain=named, attester=enclave, policy=trusted(**given))
        assert refused.value.reason is reason
        assert host.address in refused.value.message
        if there:
            assert host.status()["refused"][there] == 1
    assert [(line["reason"], line["labels"]) for line in releases(host) if line["verdict"] == "refused"] == [
        ("not-permitted", ["db/x", "other"]),
        ("no-such-generation", ["db/x"]),
    ]
    running_host.err.wait_for("Refused an enclave .*not-permitted.*'other'")

    others = {
        "another enclave on the same machine": machine(
            enclave.folder, Clock(), enclave=lambda: loaded(b"other", isv_prod_id=1000)
        ),
        "the same enclave on another machine": simulated(tmp_path / "stranger", CODE),
        "a debug enclave": machine(enclave.folder, Clock(), enclave=lambda: loaded(CODE, isv_prod_id=1000, debug=True)),
        "the same code by another signer": machine(
            enclave.folder, Clock(), enclave=lambda: loaded(CODE, isv_prod_id=1000, key=other_signer())
        ),
    }
    reasons = ["enclave-not-named", "machine-not-named", "debug-enclave", "enclave-not-named"]
    before = host.status()["refused"]
    for attester in others.values():
        with pytest.raises(Rejected) as refused:
            release([host.address], ["db/x"], domain=domain, attester=attester, policy=trusted())
        assert refused.value.reason is Reason.REFUSED_BY_PEER
    after = host.status()["refused"]
    found = {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}
    assert found == {name: reasons.count(name) for name in reasons}
    assert len(running_host.err.wait_for("by what it says of itself: machine-not-named. None of the policy")) == 1
    # The stranger was refused by its machine's name, the debug enclave as no genuine one: counted, and no line.
    assert [line["reason"] for line in releases(host) if line["verdict"] == "refused"][2:] == [
        "enclave-not-named",
        "enclave-not-named",
    ]


def test_a_domain_without_enclaves_answers_no_hello(machines: Machines, enclave: SimulatedPlatform) -> None:
    host = machines("host")
    serving(host)
    with pytest.raises(Rejected) as refused:
        release([host.address], ["db/x"], domain=domain_of(host), attester=enclave, policy=trusted())
    assert refused.value.reason is Reason.REFUSED_BY_PEER
    assert host.status()["refused"] == {"enclave-not-named": 1}
    assert releases(host) == []


def test_no_enclave_gets_the_keyring(machines: Machines, enclave: SimulatedPlatform) -> None:
    host = machines("host")
    serving(host, entry(enclave, ["*"]))
    # Named for every label there is, it is no machine of the domain all the same: another product than the server's.
    from tests.attacks.parties import Standby  # noqa: PLC0415 - what asks for a keyring
    from tests.fakes.flavours import policy_of  # noqa: PLC0415 - as above

    standby = Standby(enclave, policy_of(enclave), host=lambda: Clock().now())  # type: ignore[arg-type]  # as much of a standby's arguments as is used
    greeting = standby.greet()
    with httpx.Client(base_url=f"http://{host.address}", trust_env=False, timeout=DEADLINE) as client:
        challenge = client.post("/v1/hello", content=greeting.message).content
        answer = client.post("/v1/hand-over", content=greeting.challenged(challenge).message)
    assert (answer.status_code, answer.json()) == (403, {"error": "rejected"})
    assert host.status()["refused"] == {"wrong-product": 1}


def test_many_at_once_all_get_theirs(machines: Machines, enclave: SimulatedPlatform) -> None:
    host = machines("host")
    serving(host, entry(enclave, ["*"]))
    domain = domain_of(host)

    async def ask_all() -> list[bytes]:
        async def one(number: int) -> bytes:
            with await release_async(
                [host.address], [f"label {number}"], domain=domain, attester=enclave, policy=trusted()
            ) as keys:
                return bytes(keys[f"label {number}"].view)

        return list(await asyncio.gather(*(one(number) for number in range(8))))

    assert asyncio.run(ask_all()) == [derived(host, f"label {number}") for number in range(8)]


@dataclass
class Answering:
    """Something that answers every request on a port of its own with the same bytes."""

    answer: bytes
    held: socket.socket = field(default_factory=reserve)

    def __enter__(self) -> str:
        self.held.listen()
        threading.Thread(target=self._run, daemon=True).start()
        return f"127.0.0.1:{self.held.getsockname()[1]}"

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self.held.accept()
            except OSError:  # it was closed
                return
            with connection, contextlib.suppress(OSError):  # who asked has left
                connection.recv(65536)
                connection.sendall(self.answer)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):  # who closes with bytes unread resets the connection
                    pass

    def __exit__(self, *_: object) -> None:
        self.held.shutdown(socket.SHUT_RDWR)
        self.held.close()


def http(status: str, body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body


ANSWERS: Final[dict[str, tuple[bytes, type[RkeyError], str]]] = {
    "nothing": (b"", Unavailable, "RemoteProtocolError"),
    "no HTTP": (b"SSH-2.0\r\n", Unavailable, "RemoteProtocolError"),
    "that it has no keyring": (http("503 X"), Unavailable, "answers 503"),
    "another way on": (http("302 X"), Unavailable, "answers 302"),
    "no challenge": (http("200 OK", b"x"), Rejected, "This is no challenge"),
    "an endless one": (http("200 OK", bytes(70_000)), Rejected, "more than 65536 bytes"),
    "no": (http("403 X"), Rejected, "refused this enclave"),
}


@pytest.mark.parametrize(("answer", "kind", "says"), ANSWERS.values(), ids=ANSWERS)
def test_what_is_no_server_is_passed_over(
    answer: bytes,
    kind: type[RkeyError],
    says: str,
    enclave: SimulatedPlatform,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_release, "PAUSE_SECONDS", 0.0)
    with Answering(answer) as address, pytest.raises(kind, match=says):
        release([address, address], ["a"], domain="ab" * 16, attester=enclave, policy=trusted())


def test_a_server_that_hangs_is_left(enclave: SimulatedPlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_release, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(client_release, "EXCHANGE_SECONDS", 0.1)
    with reserve() as held:
        held.listen()
        address = f"127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(Unavailable, match=r"it took over 0 seconds|ReadTimeout"):
            release([address], ["a"], domain="ab" * 16, attester=enclave, policy=trusted())


def test_a_good_server_behind_bad_ones_gives_the_keys(machines: Machines, enclave: SimulatedPlatform) -> None:
    host = machines("host")
    serving(host, entry(enclave, ["a"]))
    with contextlib.ExitStack() as stack:
        bad = [stack.enter_context(Answering(answer)) for answer, *_ in ANSWERS.values()]
        asked = [*bad, "name.invalid", host.address]
        with release(asked, ["a"], domain=domain_of(host), attester=enclave, policy=trusted()) as keys:
            assert bytes(keys["a"].view) == derived(host, "a")


MISUSED: Final[dict[str, dict[str, Any]]] = {
    "no label": {"keys": []},
    "an empty label": {"keys": [""]},
    "17 labels": {"keys": [f"label {number}" for number in range(17)]},
    "a label twice": {"keys": ["a", "a"]},
    "a key that is too long": {"keys": [key("a", size=65)]},
    "a key that is too short": {"keys": [key("a", size=15)]},
    "no generation": {"keys": [key("a", generation="x")]},
    "a domain that is none": {"domain": "x"},
    "no server": {"servers": []},
    "a server that is none": {"servers": ["a:b:c:d"]},
}


@pytest.mark.parametrize("said", MISUSED.values(), ids=MISUSED)
def test_what_cannot_be_asked_is_said_before_anything_is(said: dict[str, Any], enclave: SimulatedPlatform) -> None:
    given: dict[str, Any] = {"servers": ["127.0.0.1:1"], "keys": ["a"], "domain": "ab" * 16} | said
    with pytest.raises(Misuse):
        release(**given, attester=enclave, policy=trusted())
