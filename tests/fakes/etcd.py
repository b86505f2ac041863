"""Real etcd servers on loopback, each in a folder of its own, for as long as a test wants them."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from rkeyserver.address import Address
from rkeyserver.coordinator.endpoints import Endpoints
from tests.fakes.pccs import Tls
from tests.fakes.processes import DEADLINE, reserve

PROGRAM: Final = "etcd"
# The shortest lease that etcd grants is one and a half elections, in whole seconds: so it is one second.
QUICK: Final = ("--heartbeat-interval", "20", "--election-timeout", "200")


@dataclass
class Server:
    """One etcd process. The ports stay its own over a restart: they are held by sockets that never listen."""

    name: str
    folder: Path
    more: Sequence[str]
    scheme: str = "http"
    held: list[socket.socket] = field(default_factory=lambda: [reserve(), reserve()])
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.held[0].getsockname()[1])

    @property
    def peer(self) -> str:
        return f"http://127.0.0.1:{self.held[1].getsockname()[1]}"

    def start(self, cluster: str) -> None:
        client = f"{self.scheme}://{self.address}"
        words = ["--name", self.name, "--data-dir", str(self.folder / self.name), "--initial-cluster", cluster]
        words += ["--listen-client-urls", client, "--advertise-client-urls", client]
        words += ["--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer]
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [PROGRAM, *words, *QUICK, *self.more], stdout=log, stderr=log, env={"PATH": os.defpath}
            )

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """As a power failure does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(DEADLINE)
        self.process = None

    def close(self) -> None:
        if self.process is not None:
            self.kill()
        for one in self.held:
            one.close()


@dataclass
class Cluster:
    """Some servers that are one etcd."""

    servers: list[Server]
    tls: Tls | None = None

    @property
    def said(self) -> str:
        return ",".join(f"{one.name}={one.peer}" for one in self.servers)

    @property
    def endpoints(self) -> Endpoints:
        return Endpoints(self.servers[0].scheme == "https", tuple(one.address for one in self.servers))

    def start(self) -> None:
        for one in self.servers:
            if one.process is None:
                one.start(self.said)
        for one in self.servers:
            wait_until_it_answers(one.address, self.tls)

    def leader(self) -> Server:
        """The server that leads, which only it says of itself."""
        for one in self.servers:
            found = httpx.post(f"http://{one.address}/v3/maintenance/status", json={}, trust_env=False).json()
            if found["header"]["member_id"] == found.get("leader"):
                return one
        raise AssertionError("no server leads")

    def put(self, key: bytes, value: bytes, lease: int = 0) -> None:
        """As somebody else who may write there."""
        text = {"key": base64.b64encode(key).decode(), "value": base64.b64encode(value).decode(), "lease": str(lease)}
        httpx.post(f"http://{self.servers[0].address}/v3/kv/put", json=text, trust_env=False).raise_for_status()

    def delete(self, key: bytes) -> None:
        text = {"key": base64.b64encode(key).decode()}
        url = f"http://{self.servers[0].address}/v3/kv/deleterange"
        httpx.post(url, json=text, trust_env=False).raise_for_status()


def wait_until_it_answers(address: Address, tls: Tls | None = None) -> None:
    end = time.monotonic() + DEADLINE
    verify: bool | ssl.SSLContext = True
    if tls is not None:
        verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # as the server has it; the default is stricter since 3.13
        verify.load_verify_locations(tls.ca)
        verify.load_cert_chain(tls.chain)
    while time.monotonic() < end:
        with contextlib.suppress(httpx.HTTPError):
            url = f"http{'s' if tls else ''}://{address}/health"
            if httpx.get(url, trust_env=False, verify=verify, timeout=1).status_code == httpx.codes.OK:
                return
        time.sleep(0.03)
    raise AssertionError(f"etcd at {address} does not answer")


@contextlib.contextmanager
def etcd(
    folder: Path, servers: int = 1, tls: Tls | None = None, *, wants_certificates: bool = False
) -> Iterator[Cluster]:
    """A running cluster. It keeps what it is told over a kill, and not over a power failure: nothing is synced."""
    more = ["--unsafe-no-fsync"]
    if tls is not None:
        more += ["--cert-file", str(tls.chain), "--key-file", str(tls.chain)]
    if tls is not None and wants_certificates:
        more += ["--client-cert-auth", "--trusted-ca-file", str(tls.ca)]
    scheme = "http" if tls is None else "https"
    cluster = Cluster([Server(f"n{number}", folder, more, scheme) for number in range(servers)], tls)
    try:
        cluster.start()
        yield cluster
    finally:
        for one in cluster.servers:
            one.close()
