"""Callers of an enclave: over the stand-in no Unix socket leads in, and admins open the listener for tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.fakes.admins import change
from tests.fakes.processes import DEADLINE, reserve, rkeyserver
from tests.integration.test_tokens import ASKED, TOKEN, Listener, bearer, entry, provision_ca, relay, through, written
from tests.sgx.machines import SgxMachine, SgxMachines

from rkeyserver.client import Client
from rkeyserver.errors import Reason, Rejected


@pytest.fixture
def port() -> Iterator[int]:
    with reserve() as held:
        yield int(held.getsockname()[1])


def policy_of(host: SgxMachine) -> str:
    answer = httpx.get(f"http://{host.ops}/v1/policy", trust_env=False, timeout=DEADLINE)
    return str(answer.raise_for_status().json()["policy"])


def sign_and_apply(host: SgxMachine, sequence: int, text: str) -> None:
    """Have the admin who is measured into the image change the policy."""
    made = change(sequence, policy_of(host), text, ["ada"], domain=host.status()["domain"])
    ended = rkeyserver("policy", "apply", written(host, "change.json", made.text()), "--ops", host.ops, cwd=host.folder)
    assert ended.status == 0, ended


def test_admins_open_it_and_the_relay_gives_hosts_a_socket(sgx_machines: SgxMachines, port: int) -> None:
    host = sgx_machines("host")
    server = host.start("--callers", f"127.0.0.1:{port}")
    assert host.status()["socket"] is None
    assert host.status()["callers"]["listening"] == []
    policy = policy_of(host)
    sign_and_apply(host, 1, policy + entry())
    server.err.wait_for("Answering callers with 1 token")

    ca = Path(written(host, "ca.pem", provision_ca(host)))
    listener = Listener(host, server, port, ca)
    key = json.loads(listener.curl(*bearer(), "-d", ASKED)[2])["key"]
    assert listener.curl("-d", ASKED)[1].split()[1] == "401"
    with relay(listener) as (_, path):
        assert json.loads(through(path, "-d", ASKED)[1])["key"] == key
        with (
            Client([f"unix:{path}"]) as client,
            Client([f"https://127.0.0.1:{port}"], ca=ca, token=TOKEN) as other,
            client.derive("db/orders") as found,
            other.derive("db/orders") as same,
        ):
            assert found.secret == same.secret
            with pytest.raises(Rejected) as raised:
                client.derive("web")
            assert raised.value.reason is Reason.NOT_PERMITTED
        # After a restart the listener is open from the start, by the policy in the record, with the same CA and keys.
        server.stop()
        again = host.start("--callers", f"127.0.0.1:{port}")
        again.err.wait_for("Answering callers with 1 token")
        assert provision_ca(host) == ca.read_text()
        assert json.loads(through(path, "-d", ASKED)[1])["key"] == key
        # What its admins take out again is closed.
        sign_and_apply(host, 2, policy)
        again.err.wait_for("Callers with a token are not answered any more")
        assert through(path, "-d", ASKED)[0] == 503
