"""Key files as age and OpenSSH write them, with and without a passphrase, and what is none."""

from __future__ import annotations

import base64
import getpass
import textwrap
from collections.abc import Callable
from pathlib import Path

import pyrage  # type: ignore[import-untyped]
import pytest
from tests.fakes.recipients import Recipient, age, ssh_ed25519, ssh_rsa, with_passphrase

from rkeyserver.cli.identity_file import read_identities
from rkeyserver.cli.passphrase import MAX_KEY_FILE, ask_on_terminal
from rkeyserver.errors import Misuse
from rkeyserver.sealing.shares import open_share, recipient_of

PASSPHRASE = "correct horse"  # noqa: S105 - of keys that are made for one test


def never(prompt: str) -> str:
    raise AssertionError(f"it asked for {prompt}")


def opens(recipient: Recipient, path: Path, ask: Callable[[str], str] = never) -> bool:
    sealed = pyrage.encrypt(b"a share", [recipient_of(recipient.public)])
    return open_share(sealed, read_identities(path, ask)) == b"a share"


KINDS = {"age": age, "ssh-ed25519": ssh_ed25519, "ssh-rsa": ssh_rsa}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_a_key_without_a_passphrase(tmp_path: Path, make: Callable[[], Recipient]) -> None:
    recipient = make()
    path = tmp_path / "key"
    path.write_bytes(recipient.file)
    assert opens(recipient, path)
    assert not opens(age(), path)


def test_a_file_of_several_keys(tmp_path: Path) -> None:
    one, other = age(), age()
    path = tmp_path / "key"
    path.write_bytes(one.file + b"\r\n" + other.file)
    assert opens(one, path)
    assert opens(other, path)


@pytest.mark.parametrize("armored", [False, True])
def test_an_age_key_with_a_passphrase(tmp_path: Path, armored: bool) -> None:  # noqa: FBT001 - a table's column
    recipient = age()
    path = tmp_path / "key"
    data = with_passphrase(recipient.file, PASSPHRASE)
    if armored:
        lines = "\n".join(textwrap.wrap(base64.b64encode(data).decode(), 64))
        data = f"-----BEGIN AGE ENCRYPTED FILE-----\n{lines}\n-----END AGE ENCRYPTED FILE-----\n".encode()
    path.write_bytes(data)
    assert opens(recipient, path, lambda _prompt: PASSPHRASE)
    with pytest.raises(Misuse, match="does not open with that passphrase"):
        read_identities(path, lambda _prompt: "wrong")


def test_an_openssh_key_with_a_passphrase(tmp_path: Path) -> None:
    recipient = ssh_ed25519(PASSPHRASE.encode())
    path = tmp_path / "key"
    path.write_bytes(recipient.file)
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return PASSPHRASE

    assert opens(recipient, path, ask)
    assert asked == [f"Passphrase of {path}: "]
    with pytest.raises(Misuse, match="does not open with that passphrase"):
        read_identities(path, lambda _prompt: "wrong")


WRONG: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "no identity that is known here"),
    "comments alone": (b"# nothing\n", "no identity that is known here"),
    "something else": (b"a key\n", "no identity that is known here"),
    "no text": (bytes(range(256)), "no identity that is known here"),
    "a public key": (age().public.encode(), "no identity that is known here"),
    "a key and a line that is none": (age().file + b"junk\n", "no identity that is known here"),
    "an OpenSSH key that is cut": (ssh_ed25519().file[:100] + b"\n-----END OPENSSH PRIVATE KEY-----\n", "no identity"),
    "a certificate": (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no identity"),
    "an age file for somebody": (pyrage.encrypt(b"x", [recipient_of(age().public)]), "does not open"),
    "too much": (b"#" * (MAX_KEY_FILE + 1), "at most"),
}


@pytest.mark.parametrize(("data", "says"), WRONG.values(), ids=WRONG)
def test_what_is_no_key_file_is_named(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(data)
    with pytest.raises(Misuse, match=says) as raised:
        read_identities(path, lambda _prompt: "")
    assert str(path) in raised.value.message


@pytest.mark.parametrize("name", ["absent", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(Misuse, match="cannot be read"):
        read_identities(tmp_path / name, never)


def test_where_there_is_no_terminal_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_terminal(_prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr(getpass, "getpass", no_terminal)
    with pytest.raises(Misuse, match="no terminal to ask for it"):
        ask_on_terminal("Passphrase: ")
    monkeypatch.setattr(getpass, "getpass", lambda prompt: f"typed at {prompt}")
    assert ask_on_terminal("x") == "typed at x"
