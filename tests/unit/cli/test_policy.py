"""`rkeyserver policy`, with an instance that answers as a test says: it may be anybody on this machine."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.fakes.keyrings import SECRET, id_of
from tests.fakes.signing import HERE, NEW, PEER, policy_text, private_key

from rkeyserver.appraisal.change import MAX_CHANGE, PolicyChange, digest, parse_change, propose, sign
from rkeyserver.appraisal.policy import MAX_POLICY
from rkeyserver.cli import policy, talk
from rkeyserver.cli.command import Said
from rkeyserver.cli.main import main
from rkeyserver.errors import Misuse, Rejected, RkeyError, Unavailable

OPS, SOCKET = "127.0.0.1:1", "/run/owner.socket"
DOMAIN = id_of(SECRET)
OWNED = policy_text(HERE, PEER)
SIGNED = policy_text(HERE, PEER, admins=["alice", "bob", "carol"], threshold=2)


@dataclass
class Instance:
    """What answers at OPS. posted: where it was sent, and what."""

    policy: str = OWNED
    change: int = 0
    socket: str | None = SOCKET
    answer: dict[str, Any] | RkeyError | None = None
    applied: dict[str, Any] | RkeyError | None = None
    posted: list[tuple[str | None, PolicyChange]] = field(default_factory=list)

    def get(self, ops: str, path: str, _what: str) -> dict[str, Any]:
        assert ops == OPS
        if path == "/status":
            return {"socket": self.socket}
        if isinstance(self.answer, RkeyError):
            raise self.answer
        honest = {"domain": DOMAIN, "change": self.change, "digest": digest(self.policy), "policy": self.policy}
        return honest | (self.answer or {})

    def post(self, ops: str, _path: str, body: bytes, _what: str, *, socket: str | None) -> dict[str, Any]:
        assert ops == OPS
        change = parse_change(body)
        self.posted.append((socket, change))
        if isinstance(self.applied, RkeyError):
            raise self.applied
        honest: dict[str, Any] = {
            "domain": DOMAIN,
            "change": change.sequence,
            "sequence": 2,
            "policy": digest(change.policy),
            "narrowed": [],
            "generation": None,
        }
        return honest | (self.applied or {})


MakeInstance = Callable[..., Instance]


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch) -> MakeInstance:
    def make(**said: Any) -> Instance:
        made = Instance(**said)
        monkeypatch.setattr(talk, "get", made.get)
        monkeypatch.setattr(talk, "post", made.post)
        return made

    return make


def run(*words: str) -> Said:
    ops = [] if words[0] == "sign" else ["--ops", OPS]
    return policy.run(policy.parser().parse_args([words[0], *ops, *words[1:]]))


@pytest.fixture
def keys(tmp_path: Path) -> Callable[[str], str]:
    def make(name: str) -> str:
        path = tmp_path / f"{name}.pem"
        key: Ed25519PrivateKey = private_key(name)
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        return str(path)

    return make


def change_in(path: Path) -> PolicyChange:
    return parse_change(path.read_bytes())


# show


def test_show_says_whose_it_is_and_gives_the_text(instance: MakeInstance) -> None:
    instance(policy=SIGNED, change=3)
    assert run("show").text == (
        f"# domain {DOMAIN}\n# policy {digest(SIGNED)}, by change 3\n# changed by: 2 of 3 admins\n\n{SIGNED}"
    )


def test_show_where_there_are_no_admins(instance: MakeInstance) -> None:
    instance()
    assert "# changed by: its owner\n" in run("show").text


def test_what_a_terminal_would_obey_is_escaped_and_no_line_is_feigned(instance: MakeInstance) -> None:
    hidden = 'version = 1 # \u2028machines = "any"\t\u009b2J\u202e\r\n' + OWNED.partition("\n")[2]
    instance(policy=hidden)
    line = run("show").text.splitlines()[4]
    assert line == 'version = 1 # \\u2028machines = "any"    \\x9b2J\\u202e'


FOREIGN: dict[str, dict[str, Any]] = {
    "no domain": {"domain": None},
    "a domain that a terminal would obey": {"domain": "\x1b[2J"},
    "a number that is none": {"change": "3"},
    "one without end": {"change": float("inf")},
    "a negative one": {"change": -1},
    "no text": {"policy": None},
    "a policy that cannot be read": {"policy": "version = 2"},
}


@pytest.mark.parametrize("answer", FOREIGN.values(), ids=FOREIGN)
def test_what_answers_with_no_policy(instance: MakeInstance, answer: dict[str, Any]) -> None:
    instance(answer=answer)
    for command in (("show",), ("propose",), ("admit", f"simulated {NEW}")):
        with pytest.raises(Unavailable, match="something else than a policy"):
            run(*command)


@pytest.mark.parametrize("command", [("show",), ("propose",), ("admit", f"simulated {NEW}")], ids=lambda one: one[0])
def test_what_an_instance_answers_is_told(instance: MakeInstance, command: tuple[str, ...]) -> None:
    instance(answer=Unavailable("This instance has no keyring yet."))
    with pytest.raises(Unavailable, match="no keyring yet"):
        run(*command)


# admit, remove


def test_the_owner_admits_by_his_socket(instance: MakeInstance) -> None:
    there = instance()
    said = run("admit", f"simulated {NEW} rack 3")
    ((socket, change),) = there.posted
    assert socket == SOCKET
    assert (change.domain, change.sequence, change.replaces) == (DOMAIN, 1, digest(OWNED))
    assert f'"{NEW}", # rack 3' in change.policy
    assert change.signatures == []
    assert said.text == f"Change 1 of domain {DOMAIN} is in force: policy {digest(change.policy)}.\n"


def test_admins_sign_and_it_goes_to_the_operations_listener(instance: MakeInstance, keys: Callable[[str], str]) -> None:
    there = instance(policy=SIGNED, change=4)
    run("admit", f"simulated {NEW}", "--key", keys("alice"), "--key", keys("carol"))
    ((socket, change),) = there.posted
    assert (socket, change.sequence, len(change.signatures)) == (None, 5, 2)


def test_remove_says_what_is_accepted_no_more_and_what_was_added(instance: MakeInstance) -> None:
    narrowed = [f"[simulated] machines: machine {PEER} is no longer accepted.", "\x1b[2J"]
    instance(applied={"narrowed": narrowed, "generation": "ab" * 16})
    lines = run("remove", f"simulated {PEER}").text.splitlines()
    assert lines[1:] == [
        f"Accepts less: {narrowed[0]}",
        "Accepts less: \\x1b[2J",
        f"A generation was added: {'ab' * 16}.",
    ]


def test_too_few_signatures_are_not_sent(instance: MakeInstance, keys: Callable[[str], str], tmp_path: Path) -> None:
    there = instance(policy=SIGNED)
    with pytest.raises(Rejected, match="1 valid signature") as raised:
        run("admit", f"simulated {NEW}", "--key", keys("alice"))
    assert "With -o FILE" in raised.value.advice
    assert "bob" in raised.value.advice
    assert there.posted == []
    out = tmp_path / "change.json"
    with pytest.raises(Rejected) as raised:
        run("admit", f"simulated {NEW}", "--key", keys("alice"), "-o", str(out))
    assert f"It is in {out}" in raised.value.advice
    assert there.posted == []
    run("sign", str(out), "--key", keys("bob"), "-o", str(out))
    assert len(change_in(out).signatures) == 2
    run("apply", str(out))
    assert [socket for socket, _ in there.posted] == [None]


def test_a_signature_where_there_are_no_admins_still_goes_to_the_owner_s_socket(
    instance: MakeInstance, keys: Callable[[str], str]
) -> None:
    there = instance()
    run("admit", f"simulated {NEW}", "--key", keys("alice"))
    assert [socket for socket, _ in there.posted] == [SOCKET]


def test_an_instance_that_takes_nothing_from_its_owner(instance: MakeInstance) -> None:
    there = instance(socket=None)
    with pytest.raises(Misuse, match="takes no change from its owner"):
        run("admit", f"simulated {NEW}")
    assert there.posted == []


NOT_DONE: dict[str, dict[str, Any]] = {
    "nothing": {"change": None},
    "another shape": {"narrowed": 3},
    "a generation that is none": {"generation": "\x1b[2J"},
}


@pytest.mark.parametrize("applied", NOT_DONE.values(), ids=NOT_DONE)
def test_what_answers_with_no_account_of_what_it_did(instance: MakeInstance, applied: dict[str, Any]) -> None:
    instance(applied=applied)
    with pytest.raises(Unavailable, match="something else than what it has done"):
        run("admit", f"simulated {NEW}")


# propose, sign, apply


def test_propose_tells_what_it_will_do(
    instance: MakeInstance, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    instance(policy=SIGNED, change=1)
    new = tmp_path / "new.toml"
    new.write_text(policy_text(HERE, admins=["alice", "dave"], threshold=2))
    out = tmp_path / "change.json"
    assert run("propose", str(new), "-o", str(out)).text == f"Written to {out}.\n"
    assert change_in(out).policy == new.read_text()
    assert capsys.readouterr().err.splitlines() == [
        f"Change 2 of domain {DOMAIN}.",
        f"Accepts less: [simulated] machines: machine {PEER} is no longer accepted.",
        "So it will add a generation of the root key.",
        "Signatures wanted: 2 of 3 admins.",
        "Signatures wanted of the admins that it names: 2 of 2.",
    ]


def test_propose_without_a_file_is_for_the_present_policy_to_be_signed(instance: MakeInstance) -> None:
    instance(policy=SIGNED, change=1)
    change = parse_change(run("propose").text)
    assert (change.policy, change.replaces, change.sequence) == (SIGNED, digest(SIGNED), 2)


def test_a_file_is_taken_to_the_byte(instance: MakeInstance, tmp_path: Path) -> None:
    instance()
    new = tmp_path / "new.toml"
    new.write_bytes(SIGNED.replace("\n", "\r\n").encode())
    assert parse_change(run("propose", str(new)).text).policy == SIGNED.replace("\n", "\r\n")


def test_standard_input(instance: MakeInstance, keys: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    there = instance(policy=SIGNED)

    def typed(data: str) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data.encode())))

    typed(policy_text(HERE, NEW, admins=["alice", "bob", "carol"], threshold=2))
    proposed = run("propose", "-").text
    typed(proposed)
    signed = run("sign", "-", "--key", keys("alice"), "--key", keys("bob")).text
    typed(signed)
    run("apply", "-")
    assert len(there.posted[0][1].signatures) == 2


def test_sign_shows_what_is_signed(
    keys: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "change.json"
    hidden = SIGNED + '# \u2028machines = "any"\n'
    out.write_text(propose(domain=DOMAIN, sequence=7, replaces=OWNED, policy=hidden).text() + "\n")
    run("sign", str(out), "--key", keys("alice"), "-o", str(out))
    said = capsys.readouterr().err
    assert said.startswith(f"Signing change 7 of domain {DOMAIN}, to this policy:\n\n{SIGNED}")
    assert '# \\u2028machines = "any"' in said


def test_signing_again_changes_nothing(keys: Callable[[str], str], tmp_path: Path) -> None:
    out = tmp_path / "change.json"
    change = propose(domain=DOMAIN, sequence=1, replaces=OWNED, policy=SIGNED)
    out.write_text(sign(change, private_key("alice")).text())
    run("sign", str(out), "--key", keys("alice"), "-o", str(out))
    assert len(change_in(out).signatures) == 1


def _unreadable(path: Path) -> None:
    change = propose(domain=DOMAIN, sequence=1, replaces=OWNED, policy=SIGNED)
    path.write_text(change.text().replace("min_isv_svn = 1", "min_isv_svn = -1"))


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "not there": (lambda _path: None, "cannot be read: No such file"),
    "a folder": (Path.mkdir, "cannot be read: Is a directory"),
    "bytes": (lambda path: path.write_bytes(b"\xff\xfe"), "is no text in UTF-8"),
    "no change": (lambda path: path.write_text("{}"), "is no policy change"),
    "endless": (lambda path: path.write_bytes(b"x" * (4 * MAX_CHANGE + 9)), "at most"),
    "a change to a policy that cannot be read": (_unreadable, "The policy cannot be read"),
}


@pytest.mark.parametrize(("make", "says"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_signed(
    keys: Callable[[str], str], tmp_path: Path, make: Callable[[Path], object], says: str
) -> None:
    path = tmp_path / "change.json"
    make(path)
    with pytest.raises(Misuse, match=says):
        run("sign", str(path), "--key", keys("alice"))


@pytest.mark.parametrize(("data", "says"), [("#" * (MAX_POLICY + 1), "at most"), ("version = 2", "version")])
def test_what_cannot_be_proposed(instance: MakeInstance, tmp_path: Path, data: str, says: str) -> None:
    instance()
    (tmp_path / "new.toml").write_text(data)
    with pytest.raises(Misuse, match=says):
        run("propose", str(tmp_path / "new.toml"))


def test_what_cannot_be_written_leaves_what_was_there(
    keys: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "change.json"
    out.write_text(propose(domain=DOMAIN, sequence=1, replaces=OWNED, policy=SIGNED).text())
    before = out.read_bytes()

    def full(*_args: object, **_said: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match=r"change\.json cannot be written: No space left on device"):
        run("sign", str(out), "--key", keys("alice"), "-o", str(out))
    assert out.read_bytes() == before


def test_a_change_may_be_written_to_what_is_no_file(
    keys: Callable[[str], str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "change.json"
    out.write_text(propose(domain=DOMAIN, sequence=1, replaces=OWNED, policy=SIGNED).text())
    run("sign", str(out), "--key", keys("alice"), "-o", "/dev/stdout")
    assert capfd.readouterr().out.startswith('{"format"')


def test_a_link_to_write_to_is_followed(keys: Callable[[str], str], tmp_path: Path) -> None:
    out, link = tmp_path / "change.json", tmp_path / "link"
    out.write_text(propose(domain=DOMAIN, sequence=1, replaces=OWNED, policy=SIGNED).text())
    link.symlink_to(out)
    run("sign", str(link), "--key", keys("alice"), "-o", str(link))
    assert link.is_symlink()
    assert len(change_in(out).signatures) == 1


def test_no_link_that_others_have_laid_is_written_through(keys: Callable[[str], str], tmp_path: Path) -> None:
    out, other = tmp_path / "change.json", tmp_path / "other"
    out.write_text(propose(domain=DOMAIN, sequence=1, replaces=OWNED, policy=SIGNED).text())
    other.write_text("mine")
    (tmp_path / "change.json.new").symlink_to(other)
    run("sign", str(out), "--key", keys("alice"), "-o", str(out))
    assert other.read_text() == "mine"
    assert not out.is_symlink()
    assert len(change_in(out).signatures) == 1
    assert len(list(tmp_path.glob(".change.json.*"))) == 0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_a_change_is_printed_to_the_byte_and_a_terminal_obeys_none_of_it(
    stream: type[io.StringIO], keys: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = tmp_path / "change.json", stream()
    hostile = SIGNED + "# \u009d52;c;AAAA\u009c\u202e\n"
    file.write_text(propose(domain=DOMAIN, sequence=1, replaces=OWNED, policy=hostile).text())
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["policy", "sign", str(file), "--key", keys("alice")]) == 0
    if out.isatty():
        assert "# \\x9d52;c;AAAA\\x9c\\u202e" in out.getvalue()
        assert out.getvalue().removesuffix("\n").isprintable()
    else:
        assert parse_change(out.getvalue()).policy == hostile


# what a newcomer trips over


def test_what_show_put_above_the_text_is_not_proposed(instance: MakeInstance, tmp_path: Path) -> None:
    instance(policy=OWNED, change=3)
    edited = tmp_path / "edited.toml"
    edited.write_text(run("show").text.replace(PEER, NEW))
    assert parse_change(run("propose", str(edited)).text.encode()).policy == OWNED.replace(PEER, NEW)


def test_a_key_of_no_admin_is_told_when_it_signs(
    instance: MakeInstance, keys: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    instance(policy=SIGNED)
    change = tmp_path / "change.json"
    with pytest.raises(Rejected):
        run("admit", f"simulated {NEW}", "--key", keys("alice"), "-o", str(change))
    assert "no admin" not in capsys.readouterr().err
    run("sign", str(change), "--key", keys("mallory"))
    assert f"{keys('mallory')} is the key of no admin of this policy" in capsys.readouterr().err
