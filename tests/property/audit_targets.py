"""What reads audit files and checkpoints, with a genuine pair of logs. The list is registry.TARGETS."""

from __future__ import annotations

import contextlib
import hashlib
from functools import cache

import msgspec
from tests.fakes.claims import CLAIMS, NOW
from tests.fakes.keyrings import keyring_of
from tests.property.inputs import folder, written
from tests.property.registry import target, text_of
from tests.property.targets import told

from rkeyserver.cli import audit as cli_audit
from rkeyserver.clock import Clock
from rkeyserver.errors import Misuse, Rejected, RkeyError
from rkeyserver.keyring.checkpoint_key import CheckpointKey
from rkeyserver.service.audit import Audit
from rkeyserver.service.audit_chain import Head, body_of, check_key, parse_checkpoint
from rkeyserver.service.audit_line import Line, Peer
from rkeyserver.service.audit_match import match
from rkeyserver.service.audit_verify import Log, check_contains, verify

ONE, TWO = "1a" * 16, "2b" * 16


@cache
def logs() -> tuple[bytes, bytes, bytes]:
    """Two logs of one hand-over, and a checkpoint of the first."""
    paths = [folder() / name for name in ("audit-one", "audit-two")]
    one, two = (Audit.open(path, Clock(lambda: NOW), machine) for path, machine in zip(paths, (ONE, TWO), strict=True))
    with contextlib.closing(keyring_of(("a",))) as keyring:
        for audit in (one, two):
            audit.sign_with(CheckpointKey.derive(keyring))
    line = Line(event="hand-over", verdict="accepted", domain="d0" * 16, transcript="7" * 128, peer_head=two.head.hex())
    peer = Peer.of(CLAIMS, "10.0.0.1")
    one.write_now(msgspec.structs.replace(line, peer=msgspec.structs.replace(peer, machine=TWO)))
    by = msgspec.structs.replace(peer, machine=ONE)
    two.write_now(msgspec.structs.replace(line, event="join", peer=by, peer_head=one.head.hex()))
    checkpoint = one.checkpoint().text().encode()
    for audit in (one, two):
        audit.close()
    return paths[0].read_bytes(), paths[1].read_bytes(), checkpoint


@cache
def other() -> Log:
    logs()
    return verify([folder() / "audit-two"])


def go_on(data: bytes) -> None:
    """Any file that an audit file can be is gone on with, and what is written then is in it."""
    path = written(data)
    with contextlib.closing(Audit.open(path, Clock(lambda: NOW), ONE)) as audit:
        audit.write_now(Line(event="open", verdict="accepted"))
    assert path.read_bytes().startswith(data)


def says_so(data: bytes) -> None:
    """A line that says anything, in a chain that holds."""
    fields = {"at": "x", "event": "begin", "machine": "3c" * 16, "size": 0, "sha256": hashlib.sha256().hexdigest()}
    begin, head = Head.before("4d" * 16).append(body_of(fields))
    match([verify([written(begin + head.append(data)[0])]), other()])


def contains(data: bytes) -> None:
    logs()
    check_contains(verify([folder() / "audit-one"]), parse_checkpoint(data), "")


target("audit file that is verified", lambda: [logs()[0]], lambda data: verify([written(data)]), Rejected)
target("audit file that is gone on with", lambda: [logs()[0], b""], go_on, Misuse)
target(
    "audit file that is compared",
    lambda: [logs()[0]],
    lambda data: match([verify([written(data)]), other()]),
    Rejected,
)
target(
    "what a line of a compared log says",
    lambda: [
        line.replace(b"7" * 128, b"8" * 128).rpartition(b',"chain"')[0]
        for line in logs()[0].splitlines()
        if b"hand-over" in line
    ],
    says_so,
    Rejected,
)
target("checkpoint", lambda: [logs()[2]], contains, Misuse, Rejected)
target(
    "checkpoint of an instance", lambda: [logs()[2]], told(lambda at: cli_audit.checkpoint(at, "").text()), RkeyError
)
target("key of checkpoints", lambda: [b"ab" * 32], lambda data: check_key(text_of(data)), Misuse)
