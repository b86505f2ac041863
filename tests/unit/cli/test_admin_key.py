"""Admins' private keys, as ssh-keygen and OpenSSL make them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes.processes import DEADLINE

from rkeyserver.appraisal.signatures import public_line
from rkeyserver.cli import passphrase
from rkeyserver.cli.admin_key import load_admin_key
from rkeyserver.errors import Misuse


def ran(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE)


def ssh_key(path: Path, passphrase: str = "", kind: str = "ed25519", *more: str) -> Path:
    ran("ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "alice@example", "-f", str(path), *more)
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Have that typed at each prompt; the prompts."""
    prompts: list[str] = []

    def typed(text: str) -> list[str]:
        def ask(prompt: str) -> str:
            prompts.append(prompt)
            return text

        monkeypatch.setattr(passphrase, "ask_on_terminal", ask)
        return prompts

    return typed


def test_a_key_of_ssh_keygen(tmp_path: Path) -> None:
    path = ssh_key(tmp_path / "alice")
    line = path.with_suffix(".pub").read_text()
    assert line == f"{public_line(load_admin_key(path))} alice@example\n"


def test_one_with_a_passphrase(tmp_path: Path, asked: Callable[[str], list[str]]) -> None:
    path = ssh_key(tmp_path / "alice", "of many words")
    prompts = asked("of many words")
    assert path.with_suffix(".pub").read_text().startswith(public_line(load_admin_key(path)))
    assert prompts == [f"Passphrase of {path}: "]


def test_one_of_openssl(tmp_path: Path, asked: Callable[[str], list[str]]) -> None:
    plain, locked = tmp_path / "plain.pem", tmp_path / "locked.pem"
    ran("openssl", "genpkey", "-algorithm", "ed25519", "-out", str(plain))
    ran("openssl", "pkcs8", "-topk8", "-in", str(plain), "-out", str(locked), "-passout", "pass:words")
    asked("words")
    assert public_line(load_admin_key(plain)) == public_line(load_admin_key(locked))


@pytest.mark.parametrize("typed", ["wrong", ""])
def test_a_wrong_passphrase(tmp_path: Path, asked: Callable[[str], list[str]], typed: str) -> None:
    path = ssh_key(tmp_path / "alice", "right")
    asked(typed)
    with pytest.raises(Misuse, match="does not open with that passphrase") as raised:
        load_admin_key(path)
    assert "right" not in str(raised.value)


def test_nobody_to_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ssh_key(tmp_path / "alice", "right")

    def nobody(_prompt: str) -> str:
        raise Misuse("there is no terminal to ask for it")

    monkeypatch.setattr(passphrase, "ask_on_terminal", nobody)
    with pytest.raises(Misuse, match="no terminal"):
        load_admin_key(path)


def _rsa(path: Path) -> Path:
    return ssh_key(path, "", "rsa", "-b", "2048")


def _ecdsa(path: Path) -> Path:
    return ssh_key(path, "", "ecdsa")


def _public(path: Path) -> Path:
    return ssh_key(path).with_suffix(".pub")


def _half(path: Path) -> Path:
    data = ssh_key(path).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def _text(path: Path) -> Path:
    path.write_text("my key\n")
    return path


def _empty(path: Path) -> Path:
    path.touch()
    return path


OTHERS: dict[str, Callable[[Path], Path]] = {
    "RSA": _rsa,
    "ECDSA": _ecdsa,
    "a public key": _public,
    "half a key": _half,
    "a text": _text,
    "nothing": _empty,
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_what_is_no_ed25519_private_key(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path / "alice")
    with pytest.raises(Misuse, match="is no Ed25519 private key") as raised:
        load_admin_key(path)
    assert str(path) in raised.value.message
    assert "ssh-keygen -t ed25519" in raised.value.advice


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "alice").write_bytes(bytes(10_000_000))
    with pytest.raises(Misuse, match="at most so many are read"):
        load_admin_key(tmp_path / "alice")


@pytest.mark.parametrize("name", ["none", "folder"])
def test_what_cannot_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(Misuse, match=r"cannot be read: (No such file|Is a directory)"):
        load_admin_key(tmp_path / name)
