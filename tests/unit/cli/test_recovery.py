"""A recipient's commands, where files or an instance are not what they should be."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pyrage  # type: ignore[import-untyped]
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from tests.fakes.keyrings import OWNER, keyring_of
from tests.fakes.listeners import answering
from tests.fakes.recipients import Recipient, age
from tests.fakes.sealer import FakeSealer
from tests.fakes.signing import policy_text

from rkeyserver.appraisal.change import parse_change, propose, signers
from rkeyserver.appraisal.defaults import default_policy
from rkeyserver.appraisal.policy import AdminsTable, parse_policy
from rkeyserver.cli.recovery import amended, parser, run, show, verify
from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected, RkeyError, Unavailable
from rkeyserver.keyring.sealed import seal_keyring
from rkeyserver.sealing.recovery import Recovery
from rkeyserver.sealing.shares import recipient_of
from rkeyserver.service import contribute
from rkeyserver.service.contribute import Progress, fetch_request, post_contribution
from rkeyserver.service.sharing_inline import InlineSharing

RECIPIENTS = [age() for _ in range(3)]
POLICY = default_policy("simulated", mrsigner="5a" * 32, isv_prod_id=1).text.replace('"any"', f'["{"a1" * 16}"]', 1)
ADMIN = Ed25519PrivateKey.from_private_bytes(bytes(32))


@pytest.fixture
def record(tmp_path: Path) -> Path:
    keyring = keyring_of()
    recovery = Recovery(2, tuple(one.public for one in RECIPIENTS), InlineSharing())
    path = tmp_path / "rkey.bin"
    path.write_bytes(seal_keyring(keyring, FakeSealer(), OWNER, now=0, recovery=recovery))
    keyring.close()
    return path


def key_of(folder: Path, recipient: Recipient) -> Path:
    path = folder / "key"
    path.write_bytes(recipient.file)
    return path


def edited(path: Path, change: Any) -> None:
    """Write the record again with another recovery slot, in canonical form."""
    magic, line, rest = path.read_bytes().split(b"\n", 2)
    header = json.loads(line)
    change(header["slots"][1]["shares"])
    path.write_bytes(b"\n".join([magic, json.dumps(header, separators=(",", ":")).encode(), rest]))


def test_the_drill(record: Path, tmp_path: Path) -> None:
    for recipient in RECIPIENTS:
        told = verify(record, key_of(tmp_path, recipient))
        assert recipient.public in told
        assert "2 of 3" in told
    assert all(one.public in show(record) for one in RECIPIENTS)


def swap(shares: list[dict[str, str]]) -> None:
    shares[0], shares[1] = shares[1], shares[0]


def exchange(shares: list[dict[str, str]]) -> None:
    shares[0]["sealed"], shares[1]["sealed"] = shares[1]["sealed"], shares[0]["sealed"]


DAMAGED: dict[str, tuple[Any, type[RkeyError], str]] = {
    "shares in another order": (swap, Corrupt, "In the place of share 1 is share 0"),
    "a share in another's place": (exchange, Corrupt, "its digest differs"),
    "a share taken out": (lambda shares: shares.pop(0), Rejected, "No share here is for this key"),
    "a share cut": (lambda shares: shares[0].update(sealed=shares[0]["sealed"][:-4]), Rejected, "for this key"),
}


@pytest.mark.parametrize(("change", "kind", "says"), DAMAGED.values(), ids=DAMAGED)
def test_a_drill_finds_what_is_wrong(
    record: Path, tmp_path: Path, change: Any, kind: type[RkeyError], says: str
) -> None:
    edited(record, change)
    with pytest.raises(kind, match=says):
        verify(record, key_of(tmp_path, RECIPIENTS[0]))


def test_a_drill_finds_a_share_that_was_sealed_to_be_none(record: Path, tmp_path: Path) -> None:
    """Its recipient's key opens it and its digest is right: whoever wrote the record wrote both."""

    def forge(shares: list[dict[str, str]]) -> None:
        sealed = pyrage.encrypt(b"no share", [recipient_of(RECIPIENTS[0].public)])
        digest = hashlib.sha256(b"no share").hexdigest()
        shares[0].update(sealed=base64.b64encode(sealed).decode(), digest=digest)

    edited(record, forge)
    with pytest.raises(Corrupt, match="This is no share"):
        verify(record, key_of(tmp_path, RECIPIENTS[0]))


# The change that a recovery on a new machine needs


@pytest.fixture
def printed(tmp_path: Path) -> Path:
    path = tmp_path / "printed"
    path.write_text(propose(domain="d0" * 16, sequence=3, replaces=POLICY, policy=POLICY).text() + "\n")
    return path


def test_a_machine_is_admitted_to_what_was_printed(printed: Path) -> None:
    change = parse_change(amended(printed, f"simulated {'b2' * 16} the new one", None, []))
    assert (change.domain, change.sequence, change.signatures) == ("d0" * 16, 3, [])
    assert change.replaces == hashlib.sha256(POLICY.encode()).hexdigest()
    assert parse_policy(change.policy).tables["simulated"].machines == ["a1" * 16, "b2" * 16]


def test_a_whole_policy_takes_its_place_signed(
    printed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, key = tmp_path / "policy", tmp_path / "admin"
    policy.write_text(POLICY + "# another\n")
    key.write_bytes(ADMIN.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    said = run(parser().parse_args(["amend", str(printed), "--policy", str(policy), "--key", str(key)]))
    change = parse_change(said.text)
    assert change.policy == POLICY + "# another\n"
    public = ADMIN.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    assert signers(change, AdminsTable(threshold=1, keys=[public])) == [public]
    assert "# another" in capsys.readouterr().err, "who signs sees what"


def test_admins_sign_a_policy_as_it_is(printed: Path, tmp_path: Path) -> None:
    (tmp_path / "admin").write_bytes(ADMIN.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    change = parse_change(amended(printed, None, None, [tmp_path / "admin"]))
    public = ADMIN.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    assert signers(change, AdminsTable(threshold=1, keys=[public])) == [public]
    assert change.policy == POLICY


WRONG: dict[str, tuple[str | None, str | None, str]] = {
    "nothing to change": (None, None, "Give one of"),
    "two things to change": ("simulated 00", "policy", "Give one of"),
    "a machine that is there": (f"simulated {'a1' * 16}", None, "accepts machine"),
    "a platform that is not": (f"sgx {'b2' * 16}", None, "no machine of platform sgx"),
    "no machine": ("simulated", None, "names no machine"),
    "no such policy": (None, "nowhere", "cannot be read"),
    "a policy that is none": (None, "printed", "policy"),
    "a policy that is no text": (None, "bytes", "is no text"),
}


@pytest.mark.parametrize(("admit", "policy", "says"), WRONG.values(), ids=WRONG)
def test_a_change_that_cannot_be_made_is_named(
    printed: Path, tmp_path: Path, admit: str | None, policy: str | None, says: str
) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(Misuse, match=says):
        amended(printed, admit, None if policy is None else tmp_path / policy, [])


def test_nobody_signs_another_policy_than_the_one_in_force_with_a_machine_admitted(tmp_path: Path) -> None:
    """A hostile host prints what would put its own policy into the place of the one that a living primary has."""
    evil = POLICY.replace('machines = ["' + "a1" * 16 + '"]', 'machines = ["' + "e1" * 16 + '"]')
    assert evil != POLICY
    (tmp_path / "printed").write_text(propose(domain="d0" * 16, sequence=3, replaces=POLICY, policy=evil).text() + "\n")
    (tmp_path / "admin").write_bytes(ADMIN.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    with pytest.raises(Misuse, match="another one than it replaces"):
        amended(tmp_path / "printed", f"simulated {'b2' * 16}", None, [tmp_path / "admin"])


def test_who_signs_sees_lines_only_where_the_policy_has_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tricky = POLICY + "# nothing\u2028machines = []\x85\u202e\n"
    (tmp_path / "printed").write_text(propose(domain="d0" * 16, sequence=3, replaces=tricky, policy=tricky).text())
    (tmp_path / "admin").write_bytes(ADMIN.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    amended(tmp_path / "printed", f"simulated {'b2' * 16}", None, [tmp_path / "admin"])
    assert "# nothing\\u2028machines = []\\x85\\u202e\n" in capsys.readouterr().err


def test_what_was_not_printed_by_an_instance_is_named(tmp_path: Path) -> None:
    (tmp_path / "junk").write_text("-----BEGIN RKEYSERVER RECOVERY REQUEST-----\n")
    with pytest.raises(Misuse, match="no policy change"):
        amended(tmp_path / "junk", f"simulated {'b2' * 16}", None, [])


# Whatever answers at the other end


def test_what_an_instance_answers() -> None:
    with answering(200, b'{"shares":1,"threshold":2}') as host:
        assert asyncio.run(post_contribution(host, b"x")) == Progress(1, 2)
    with answering(200, b"a request") as host:
        assert asyncio.run(fetch_request(host)) == b"a request"


ANSWERS: dict[str, tuple[int, bytes, type[RkeyError], str]] = {
    "a page": (200, b"<html>", Unavailable, "something else than how far"),
    "no UTF-8": (200, b'{"\xff":1}', Unavailable, "something else than how far"),
    "another form": (200, b'{"shares":"1","threshold":2}', Unavailable, "something else than how far"),
    "too much": (200, bytes(2000), Rejected, "answers with more than"),
    "a refusal": (403, b"{}", Rejected, "cannot use what was contributed"),
    "no recovery": (503, b"{}", Unavailable, "asks for no recovery .503."),
    "another place": (302, b"", Unavailable, "asks for no recovery .302."),
    "no instance": (404, b"", Unavailable, "asks for no recovery .404."),
}


@pytest.mark.parametrize(("status", "body", "kind", "says"), ANSWERS.values(), ids=ANSWERS)
def test_whatever_else_answers_is_said(status: int, body: bytes, kind: type[RkeyError], says: str) -> None:
    with answering(status, body) as host, pytest.raises(kind, match=says) as raised:
        asyncio.run(post_contribution(host, b"x"))
    if isinstance(raised.value, Rejected):
        assert raised.value.reason in {Reason.TOO_LARGE, Reason.REFUSED_BY_PEER}


def test_who_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contribute, "EXCHANGE_SECONDS", 0.2)
    with answering(200, b"late", pause=1) as host, pytest.raises(Unavailable, match="no answer in time"):
        asyncio.run(fetch_request(host))


@pytest.mark.parametrize(
    "text", ["version = 1\n", "INFO: a line of the log\n-----BEGIN RKEYSERVER RECOVERY REQUEST-----\n"]
)
def test_what_is_no_request_is_said_to_be_none_and_what_is_wanted(tmp_path: Path, text: str) -> None:
    (tmp_path / "request.txt").write_text(text)
    (tmp_path / "mine.toml").write_text(policy_text("a1" * 16))
    words = ["--identity", "none", "--policy", str(tmp_path / "mine.toml"), "--domain", "00" * 16]
    with pytest.raises(Rejected, match=r"no recovery-request.* from its line -----BEGIN"):
        run(parser().parse_args(["contribute", str(tmp_path / "request.txt"), *words]))
