"""Everything that reads bytes from outside, with genuine inputs and what it may say no with. One list: TARGETS."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock

import msgspec
from tests.fakes.claims import CLAIMS, NOW
from tests.fakes.hints import hint_at
from tests.fakes.keyrings import id_of, secret_of
from tests.fakes.platform import FakePlatform
from tests.fakes.store import MemoryKeystore
from tests.property.inputs import (
    SECRET,
    SECRETS,
    admin_key,
    age_keys,
    changes,
    check,
    check_minted,
    collaterals,
    exchange,
    folder,
    folder_of_machine,
    keyrings,
    message,
    mnemonic,
    parties,
    pem_private,
    platform,
    policies,
    policy,
    quotes,
    records,
    recovery,
    recovery_secret,
    release_policy,
    releasing,
    requesting,
    rsa_line,
    share_documents,
    share_set,
    signed_change,
    slots,
    ssh_private,
    verify,
    wanting,
    written,
)
from tests.property.registry import Run, target, text_of
from tests.vectors import intel

from rkeyserver import enclave_options
from rkeyserver.address import Address, parse_address
from rkeyserver.appraisal.change import parse_change, propose
from rkeyserver.appraisal.measured import parse_measured
from rkeyserver.appraisal.orders import Promote, Rotate, parse_order
from rkeyserver.appraisal.orders import text_of as text_of_order
from rkeyserver.appraisal.policy import AdminsTable, parse_admins, parse_policy, parse_recovery
from rkeyserver.appraisal.signatures import public_line
from rkeyserver.appraisal.succession import believe
from rkeyserver.appraisal.token_callers import caller_of
from rkeyserver.appraisal.toml_lines import line_of
from rkeyserver.attestation.sgx import collateral, quote
from rkeyserver.cli import drill, inspect, ordering, peer, policy_domain, policy_edit, status, talk
from rkeyserver.cli import policy as cli_policy
from rkeyserver.cli import recovery as cli_recovery
from rkeyserver.cli import relay as cli_relay
from rkeyserver.cli import token as cli_token
from rkeyserver.cli.admin_key import load_admin_key
from rkeyserver.cli.identity_file import read_identities
from rkeyserver.client import calls as client_calls
from rkeyserver.client.calls import Call, result_of
from rkeyserver.client.http import NotHttp, Reply
from rkeyserver.client.servers import parse_server
from rkeyserver.config import check_options, make_config, read_file
from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected, RkeyError, Unavailable, one_line
from rkeyserver.exchange import messages
from rkeyserver.exchange.armour import Kind, armour, dearmour
from rkeyserver.exchange.hpke import OneTimeKey
from rkeyserver.exchange.hpke import seal as hpke_seal
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.sealed import open_keyring, open_recovered, set_aside_name
from rkeyserver.keystore import file_lock, file_read
from rkeyserver.keystore.place import parse_place
from rkeyserver.keystore.store import MAX_RECORD
from rkeyserver.platforms.simulated import image, keys, processor
from rkeyserver.platforms.simulated.platform import PROVISIONED_FILE
from rkeyserver.sealing import record, shares
from rkeyserver.sealing.recovery import MAX_SEALED_SHARE, RecoveryShare, encode_slot, fingerprint, parse_slot
from rkeyserver.service import audit_look, frames, given, hints, ops, sharing, sharing_messages, verification, worker
from rkeyserver.service import contribute as service_contribute
from rkeyserver.service.adopt import Opened, Unopenable, look
from rkeyserver.service.bound import binding_of
from rkeyserver.tokens import check_token, digest, token_of

# The list

for _kind in messages.MAX_MESSAGE:
    target(
        f"messages.decode {messages._name(_kind)}",
        message(_kind),
        lambda data, kind=_kind: messages.decode(data, kind),  # type: ignore[misc]  # mypy has no type for a lambda's default
        Rejected,
        canonical=messages.encode,
    )


def hello_at_a_primary(data: bytes) -> bytes:
    return parties()[0].challenge(data)


def request_at_a_primary(data: bytes) -> object:
    granter = parties()[0]
    granter._challenges._used._until.clear()  # else the genuine one would be taken only once
    return asyncio.run(granter.prove(data, policy()))


def challenge_at_a_standby(data: bytes) -> object:
    return parties()[1].challenged(data)


target("hello at a primary", message(messages.Hello), hello_at_a_primary, Rejected)
target("challenge at a standby", message(messages.Challenge), challenge_at_a_standby, Rejected)
target(
    "request at a primary",
    message(messages.Request),
    request_at_a_primary,
    Rejected,
)
target(
    "recovery request at a recipient",
    message(messages.RecoveryRequest),
    lambda data: asyncio.run(check(data)),
    Rejected,
)
target(
    "recovery request at a command",
    message(messages.RecoveryRequest),
    lambda data: asyncio.run(cli_recovery._checked(data, policy(), id_of(SECRET), NOW)),
    Rejected,
)


target(
    "mint statement at an admin",
    message(messages.MintStatement),
    lambda data: asyncio.run(check_minted(data)),
    Rejected,
)


def statement_of_a_file(data: bytes) -> None:
    change = propose(domain=id_of(SECRET), sequence=1, replaces="", policy=policy().text)
    with mock.patch.object(policy_domain, "Clock", return_value=SimpleNamespace(now=lambda: NOW)):
        policy_domain.Known(minted=written(data)).check(change)


target(
    "mint statement's file",
    lambda: [armour(exchange()[messages.MintStatement], Kind.MINT_STATEMENT).encode()],
    statement_of_a_file,
    Rejected,
    Misuse,
)


def grant_at_a_standby(data: bytes) -> None:
    asyncio.run(requesting().granted(data)).keyring.close()


def request_at_a_releaser(data: bytes) -> object:
    releaser = releasing()[0]
    releaser._challenges._used._until.clear()
    return asyncio.run(releaser.prove(data, release_policy(), domain=id_of(SECRET)))


def release_at_an_enclave(data: bytes) -> None:
    asyncio.run(wanting().released(data)).close()


target("release request at a server", message(messages.ReleaseRequest), request_at_a_releaser, Rejected)
target("release at an enclave", message(messages.Release), release_at_an_enclave, Rejected, secrets=lambda: SECRETS)
target("grant at a standby", message(messages.Grant), grant_at_a_standby, Rejected, secrets=lambda: SECRETS)
target(
    "contribution at an instance",
    message(messages.RecoveryContribution),
    lambda data: parties()[2].opened(data)[1].close(),
    Rejected,
)
target(
    "HPKE public key",
    lambda: [OneTimeKey().public],
    lambda data: hpke_seal(memoryview(b"x"), data, b"info"),
    Rejected,
)
target(
    "armour",
    lambda: [armour(exchange()[messages.RecoveryContribution], Kind.RECOVERY_CONTRIBUTION).encode()],
    lambda data: dearmour(data, Kind.RECOVERY_CONTRIBUTION),
    Rejected,
)
target("record", records, record.parse, Corrupt, canonical=lambda found: found.head + found.ciphertext)
target("record's name", records, set_aside_name)
target("record's row", records, lambda data: str(binding_of(data)))


def open_record(data: bytes) -> None:
    found = record.parse(data)
    ours = found.header.slot.machine == platform().identity().machine
    open_keyring(found, platform() if ours else FakePlatform()).close()


target("record on its machine", records, open_record, Corrupt, secrets=lambda: SECRETS)
target(
    "record's file",
    records,
    lambda data: file_read.read_record(written(data)),
    Corrupt,
    canonical=lambda found: found if len(found) <= MAX_RECORD else b"",
)
target("record of inspect", records, lambda data: inspect.inspect(written(data)), Corrupt)
target("record of recovery show", lambda: records()[1:2], lambda data: cli_recovery.show(written(data)), Corrupt)


def verify_share(data: bytes) -> None:
    identity = folder() / "identity"
    identity.write_text(str(age_keys()[0]))
    cli_recovery.verify(written(data), identity)


target("record of recovery verify", lambda: records()[1:2], verify_share, Corrupt, Rejected, secrets=mnemonic)


def look_at_record(data: bytes) -> None:
    found = look(MemoryKeystore(record=data), platform())
    if isinstance(found, Unopenable):
        raise found.error
    assert isinstance(found, Opened)
    found.keyring.close()


target("record at a start", lambda: records()[2:], look_at_record, Corrupt, secrets=lambda: SECRETS)


def recover_record(data: bytes) -> None:
    with contextlib.closing(open_recovered(record.parse(data), memoryview(recovery_secret()))):
        pass


target("record that is recovered", lambda: records()[1:2], recover_record, Corrupt, secrets=lambda: SECRETS)
target("recovery slot", slots, parse_slot, Corrupt, canonical=encode_slot)
target(
    "recipient's name", lambda: [one.encode() for one in recovery().recipients], lambda data: fingerprint(text_of(data))
)


def open_keyring_bytes(data: bytes) -> bytes:
    with contextlib.closing(Keyring.parse(secret_of(data))) as keyring:
        return bytes(keyring.view)


target("keyring", keyrings, open_keyring_bytes, Corrupt, canonical=lambda found: found, secrets=lambda: SECRETS)
target(
    "share",
    share_documents,
    lambda data: shares.check_share(shares.read_share(data), share_set()),
    Corrupt,
    secrets=mnemonic,
)
target(
    "share as it was written",
    share_documents,
    shares.read_share,
    Corrupt,
    canonical=msgspec.json.encode,
    secrets=mnemonic,
)
target(
    "shares together",
    lambda: share_documents()[:1],
    lambda data: shares.combine_shares([data, share_documents()[1]], share_set()),
    Corrupt,
    secrets=mnemonic,
)
target(
    "sealed share",
    lambda: [parse_slot(slots()[0]).shares[0].sealed],
    lambda data: shares.open_share(data[:MAX_SEALED_SHARE], age_keys()),
)
target(
    "recovery recipient",
    lambda: [recovery().recipients[0].encode(), public_line(admin_key()).encode(), rsa_line()],
    lambda data: shares.recipient_of(data[:2048].decode("latin-1")),
    Misuse,
)
target(
    "policy", policies, lambda data: parse_policy(text_of(data)), Misuse, canonical=lambda found: found.text.encode()
)
target("policy's file", policies, lambda data: given._read("policy", written(data), parse_policy), Misuse)
target(
    "admins",
    lambda: [policies()[2][policies()[2].index(b"[admins]") : policies()[2].index(b"[recovery]")]],
    lambda data: parse_admins(text_of(data)),
    Misuse,
)
target(
    "recovery",
    lambda: [policies()[2][policies()[2].index(b"[recovery]") :]],
    lambda data: parse_recovery(text_of(data)),
    Misuse,
)
target(
    "measured",
    lambda: [b'seal_to = "mrsigner"\n' + policies()[2][policies()[2].index(b"[admins]") :]],
    lambda data: parse_measured(text_of(data)),
    Misuse,
)


def line_of_toml(data: bytes) -> None:
    text = text_of(data)
    with contextlib.suppress(Misuse):
        parse_policy(text)  # what it says is read before
        line_of(text, ("simulated", "machines", 3))


target("line of a policy", policies, line_of_toml)
target("policy change", changes, parse_change, Misuse)
target(
    "order",
    lambda: [
        text_of_order(order).encode()
        for order in (
            Rotate(domain=id_of(SECRET), current="00" * 16),
            Promote(domain=id_of(SECRET), member="00" * 16, epoch=1),
        )
    ],
    parse_order,
    Misuse,
)
target("signatures", changes, signed_change, Misuse)
target(
    "chain of changes",
    lambda: [parse_change(changes()[0]).link().text().encode()],
    lambda data: believe(
        domain=id_of(SECRET),
        policy=policies()[2].decode(),
        changes=[text_of(data)],
        admins=AdminsTable(threshold=1, keys=[public_line(admin_key())]),
    ),
    Rejected,
)


def edit_policy(data: bytes) -> None:
    read = parse_policy(text_of(data))
    for platform_name in read.tables:
        line = policy_edit.MachineLine(platform_name, "ab" * 16, "name")
        for edited in (policy_edit.admitted, policy_edit.removed):
            with contextlib.suppress(Misuse):
                parse_policy(edited(read, line))


target("policy that is edited", policies, edit_policy, Misuse)
target(
    "machine's line",
    lambda: [b"sgx " + b"ab" * 16 + b" name"],
    lambda data: policy_edit.parse_line(text_of(data)),
    Misuse,
)
target("quote", quotes, quote.view, Rejected)
target("quote that is verified", lambda: quotes()[:1], lambda data: verify(data, collaterals()[0]), Rejected)
if intel.FOLDER.is_dir():
    target(
        "quote of Intel's",
        lambda: quotes()[1:],
        lambda data: replace(intel.submission("sgx-phala"), quote=data, report_data=data[368:432]).verify(),
        Rejected,
    )
target("collateral", collaterals, collateral.decode, Rejected)
target("collateral that is verified with", lambda: collaterals()[:1], lambda data: verify(quotes()[0], data), Rejected)
target("collateral that is newer", collaterals, lambda data: collateral.newer(collaterals()[0], data), Rejected)
target("collateral that is held", collaterals, lambda data: collateral.newer(data, collaterals()[0]), Rejected)
target("collateral's model", collaterals, lambda data: collateral.fmspc(collateral.decode(data)), Rejected)
ENCLAVE_OPTIONS: Final[dict[str, object]] = {
    "keystore": "rkey.bin",
    "host": ["10.0.0.1:8888", "[fd00::1]:1"],
    "peer": ["10.0.0.2:8888"],
    "domain": "0" * 32,
    "wait-ms": 1500,
    "once": False,
    "listen": [":1"],
    "ops": "localhost:9888",
    "audit": "log/audit.jsonl",
    "log-level": "debug",
    "pccs": "https://pccs:8081/v4",
    "pccs-ca": "ca.pem",
    "collateral": "collateral.json",
    "provision": ":4433",
    "callers": ":8890",
}
target(
    "options of an enclave",
    lambda: [
        enclave_options.written("serve", ENCLAVE_OPTIONS),
        enclave_options.written("doctor", {"keystore": "rkey.bin", "json": True}),
        enclave_options.written("identity", {}),
    ],
    lambda data: (enclave_options.parse(data, Path("/state")), data)[1],
    Misuse,
    canonical=lambda data: enclave_options.written(**json.loads(data)),
)
target(
    "configuration",
    lambda: [b'platform = "simulated"\nhost = ["10.0.0.1", "[fd00::1]:1"]\nwait = 1.5\nport = 8888\nlisten = [":1"]\n'],
    lambda data: make_config(read_file(written(data)), check_options({})),
    Misuse,
)
target(
    "option",
    lambda: [b"0" * 32],
    lambda data: check_options({"host": [text_of(data)], "domain": text_of(data), "keystore": text_of(data)}),
    Misuse,
)
target(
    "keystore",
    lambda: [
        *(b"/etc/rkey.bin", b"sqlite:///srv/rk.db?instance=a", b"sqlite:////srv/rk%2fdb?machine=ab"),
        b"postgresql://u@h1:5432,h2/db?sslmode=verify-full&instance=a&host=/run",
    ],
    lambda data: str(parse_place(text_of(data))),
    Misuse,
)
target(
    "address",
    lambda: [b"10.0.0.1:8888", b"[fd00::2]:8888", b"fd00::2", b"host.example:1", b":1"],
    lambda data: parse_address(text_of(data), 1, any_host=True),
    Misuse,
)
target("Host header", lambda: [b"127.0.0.1:9888", b"localhost"], lambda data: ops.is_own(data.decode("latin-1"), "own"))
target("hint", lambda: [msgspec.json.encode(hint_at(2))], hints.parse_hint)
target(
    "progress of a recovery",
    lambda: [b'{"shares":1,"threshold":2}'],
    lambda data: service_contribute.parse_progress(data, Address("host", 1)),
    Unavailable,
)

HELD: Final = {"own": True, "days_left": 1.5, "fmspc": "f", "ca": "c", "issued": "i", "expires": "e", "source": "s"}
STATUS: Final[dict[str, Any]] = {
    "role": "primary", "domain": "d", "epoch": 0, "sequence": 1, "platform": "simulated", "machine": "m",
    "protects": "p", "key_memory": "k", "hand_overs": 1, "released": 1, "started": "s", "refused": {"a": 1},
    "peers": {"m": "t"}, "member": "m", "primary": "p", "members": [{"acknowledged": False}],
    "coordinator": {"state": "s", "holder": "h", "last_error": "e"},
    "generations": [{"id": "i", "state": "s", "created": "c"}], "recovering": None, "record_problem": "",
    "slots": [{"type": "platform", "platform": "p", "policy": "q", "versions": {"v": "1"}}],
    "simulated": True, "ways_back_total": 1,
    "ways_back": {"record": 1, "hosts": 0, "recovery": 0},
    "audit": {"chain": "c", "lines": 1, "head": "h", "key": "k", "problem": "p"},
    "collateral": {
        "pccs": "https://pccs", "last_success": None, "last_error": "no answer",
        "held": [HELD],
    },
    "drill": {"at": "t", "passed": False, "reason": "r", "found": "f", "advice": "a", "last_success": None},
    "provision": {"listening": ["a"], "problem": "p", "given": 1, "ca_generation": "g", "ca_sha256": "s"},
    "callers": {"listening": ["a"], "problem": "p", "ca_generation": "g", "ca_sha256": "s"},
}  # fmt: skip


@contextlib.contextmanager
def answering(data: bytes) -> Iterator[None]:
    """Whatever is asked on this machine answers with `data`."""

    async def ask(*_: object) -> tuple[int, bytes]:
        return 200, data

    with mock.patch.object(talk, "_ask", ask):
        yield


def told(call: Callable[[str], object]) -> Run:
    def run(data: bytes) -> None:
        with answering(data):
            call("127.0.0.1:1")

    return run


POLICY_ANSWER: Final = {"domain": "d" * 32, "change": 1, "digest": "0" * 64}
target("status", lambda: [json.dumps(STATUS).encode()], told(lambda at: status.status(at, as_json=False)), RkeyError)
PROOF: Final = {"at": "t", "passed": False, "reason": "r", "found": "f", "advice": "a"}


def show_proof(at: str) -> object:
    return drill.run(drill.parser().parse_args(["--ops", at]))


target("outcome of a drill", lambda: [json.dumps(PROOF).encode()], told(show_proof), RkeyError)
target(
    "policy of an instance",
    lambda: [json.dumps(POLICY_ANSWER | {"policy": one.decode()}).encode() for one in policies()],
    told(cli_policy.show),
    RkeyError,
)
target(
    "error of an instance",
    lambda: [b'{"error":"rejected","reason":"malformed","message":"m","advice":"a"}'],
    lambda data: talk._answer(403, data, "here", "status"),
    RkeyError,
    refuses=True,
)
MEMBER_NOW: Final[dict[str, Any]] = {
    "member": "a" * 32, "machine": "m", "address": "h:1", "epoch": 0, "sequence": 1, "acknowledged": True, "seen": "s"
}  # fmt: skip
NOW_AT: Final[dict[str, Any]] = {
    "domain": "d" * 32, "epoch": 0, "sequence": 1, "member": "b" * 32, "primary": "b" * 32, "role": "primary",
    "generations": [{"id": "c" * 32, "state": "current"}], "members": [MEMBER_NOW], "socket": None,
}  # fmt: skip
target(
    "members of an instance",
    lambda: [json.dumps(NOW_AT).encode()],
    told(lambda at: peer.listed(ordering.now_at(at))),
    RkeyError,
)
DONE: Final = {
    "order": "promote", "domain": "d" * 32, "epoch": 1, "sequence": 2, "primary": "b" * 32, "generation": "",
    "state": "", "waiting": [],
}  # fmt: skip


def give_order(at: str) -> str:
    now = msgspec.convert(NOW_AT, ordering.Now)
    return ordering.send(at, Promote(domain="d" * 32, member="b" * 32, epoch=0), now)


target("answer to an order", lambda: [json.dumps(DONE).encode()], told(give_order), RkeyError)
APPLIED: Final = {"domain": "d" * 32, "change": 1, "policy": "0" * 64, "narrowed": ["x"], "generation": None}


def apply_change(at: str) -> str:
    now = cli_policy.Present("d", 0, parse_policy(policies()[2].decode()))
    return cli_policy.apply(at, parse_change(changes()[0]), now)


target("done change", lambda: [json.dumps(APPLIED).encode()], told(apply_change), RkeyError)
target(
    "audit file",
    lambda: [
        b'{"at":"x","event":"mint","verdict":"accepted","domain":"d"}\n{"at":"y","event":"open","verdict":"refused"}\n'
    ],
    lambda data: audit_look.had_a_keyring(written(data)),
)


def note(data: bytes) -> str:
    fd = os.open(written(data), os.O_RDWR)
    try:
        held = file_lock._FLOCK.pack(1, 0, 0, 0, 7)
        with mock.patch("fcntl.fcntl", return_value=held):
            return file_lock._holder(fd)
    finally:
        os.close(fd)


target("note in the lock", lambda: [b"pid 12 on node-1 since 2026-01-01T00:00:00Z\n"], note)
target(
    "mount table",
    lambda: [b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n"],
    lambda data: file_read.refuse_mount_point(folder() / "rkey.bin", written(data)),
    Misuse,
)

UNREADABLE: Final = verification._UNREADABLE
TASK: Final = worker.Task(b"evidence", b"endorsements", bytes(64), NOW)


def answered(data: bytes) -> None:
    """What a verification process answers, as the server reads it."""

    async def ask() -> worker.Answer:
        here, there = socket.socketpair()
        with here, there:
            here.settimeout(0)
            there.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                there.send(data)
            there.shutdown(socket.SHUT_WR)
            return await verification._Worker(mock.Mock(), here).ask(TASK)

    found = asyncio.run(ask())
    if found.refusal is not None:
        raise found.refusal.error()


target(
    "answer of a verification process",
    lambda: [
        frames.frame(worker.Answer(claims=CLAIMS)),
        frames.frame(worker.Answer(refusal=frames.Failure("m", "a", Reason.NOT_GENUINE))),
    ],
    answered,
    *(OSError, EOFError, *UNREADABLE, RkeyError),
    refuses=True,
)


class Channel:
    """One end of a socket, from which `data` can be read."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def recv_into(self, view: memoryview) -> int:
        got = min(len(view), len(self.data))
        view[:got], self.data = self.data[:got], self.data[got:]
        return got


target(
    "answer of a sharing process",
    lambda: [
        frames.frame(sharing_messages.Done([RecoveryShare("age1" + "q" * 58, "0" * 64, b"x")])),
        frames.frame(frames.Failure("m", "a", misuse=True)),
    ],
    lambda data: sharing._Process(Channel(data)).receive(),  # type: ignore[arg-type]  # as much of a socket as is used
    *(OSError, EOFError, msgspec.DecodeError, UnicodeDecodeError, RkeyError),
    refuses=True,
)
target(
    "identity file",
    lambda: [str(age_keys()[0]).encode() + b"\n", ssh_private()],
    lambda data: read_identities(written(data), lambda _: "x"),
    Misuse,
    secrets=lambda: (str(age_keys()[0])[20:40], ssh_private()[180:200].decode()),
)


def load_admin(data: bytes) -> None:
    with mock.patch("rkeyserver.cli.passphrase.ask_on_terminal", return_value="x"):
        load_admin_key(written(data))


target("admin's key", lambda: [ssh_private(), pem_private()], load_admin, Misuse)


def processor_state(data: bytes) -> None:
    place = folder() / "chip"
    place.mkdir(exist_ok=True)
    (place / processor.STATE_FILE).write_bytes(data)
    processor.look_at_processor(place)


target(
    "simulated processor", lambda: [(folder_of_machine() / processor.STATE_FILE).read_bytes()], processor_state, Corrupt
)


def provisioned(data: bytes) -> None:
    place = folder_of_machine()
    before = (place / PROVISIONED_FILE).read_bytes()
    try:
        (place / PROVISIONED_FILE).write_bytes(data)
        platform()._kept()
    finally:
        (place / PROVISIONED_FILE).write_bytes(before)


target("simulated machine's certificates", lambda: [(folder_of_machine() / PROVISIONED_FILE).read_bytes()], provisioned)
target(
    "signed image",
    lambda: [image.sign_image(b"code", keys.image_signing_key(), 1, 1)],
    image.load_signed,
    Corrupt,
)
target("text for a terminal", lambda: ["é\x1b[31m\n\u202e".encode()], lambda data: one_line(text_of(data)))


def with_token() -> str:
    return (
        policy().text
        + f'\n[[callers]]\ntoken_sha256 = "{digest(token_of(bytes(32)))}"\nmay = ["derive"]\nlabels = ["x"]\n'
    )


target("token", lambda: [token_of(bytes(32)).encode()], lambda data: check_token(text_of(data)), Misuse)
target(
    "Authorization header",
    lambda: [f"Bearer {token_of(bytes(32))}".encode()],
    lambda data: caller_of([data.decode("latin-1")], parse_policy(with_token())),
    Rejected,
    secrets=lambda: (token_of(bytes(32)),),
)
target("mode of a relay's socket", lambda: [b"0660", b"600"], lambda data: cli_relay._mode(text_of(data)), Misuse)
target(
    "what a token is for",
    lambda: [b"db/*", b"x"],
    lambda data: cli_token._checked(["derive"], [text_of(data)]),
    Misuse,
)
target(
    "a client's server",
    lambda: [b"unix:/run/r.socket", b"https://[fd00::1]:8890", b"https://localhost/"],
    lambda data: parse_server(text_of(data)),
    Misuse,
)


def replied(data: bytes, call: Call[Any]) -> None:
    reply = Reply()
    for start in range(0, len(data), 100):
        if not reply.complete:
            reply.feed(data[start : start + 100])
    if reply.complete:
        result_of(call, reply.answer(), "a server")


def answers() -> list[bytes]:
    found = [
        b'{"key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "generation": "%s"}' % (b"0a" * 16),
        b'{"plaintext": "AAEC", "generation": "%s"}' % (b"0a" * 16),
        b'{"wrapped": "AAEC", "generation": "%s"}' % (b"0a" * 16),
    ]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    refused = b'{"error": "unavailable", "message": "Not now.", "advice": "Wait.", "reason": ""}'
    busy = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 2\r\ncontent-length: %d\r\n\r\n" % len(refused)
    return [*(head % len(body) + body for body in found), busy + refused]


for name, make in {
    "derive": lambda: client_calls.derive("x", 32, "current"),
    "unwrap": lambda: client_calls.unwrap("x", b"w", b""),
    "wrap": lambda: client_calls.wrap("x", b"w", b""),
}.items():
    target(
        f"answer to a client's {name}",
        answers,
        lambda data, make=make: replied(data, make()),  # type: ignore[misc]  # mypy infers no default's type
        *(NotHttp, RkeyError),
        refuses=True,
    )
