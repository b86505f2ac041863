"""How servers are named, and what goes with them."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from rkeyserver.client import AsyncClient, Client
from rkeyserver.client.servers import DEFAULT_PORT, MAX_SERVERS, parse_server, servers_of
from rkeyserver.config import DEFAULT_CALLERS
from rkeyserver.errors import Misuse
from rkeyserver.tokens import token_of

TOKEN = token_of(bytes(32))


def test_the_port_is_the_servers() -> None:
    assert DEFAULT_CALLERS.port == DEFAULT_PORT


NAMES = {
    "unix:/run/r.socket": ("localhost", "/run/r.socket"),
    "unix:/a:b": ("localhost", "/a:b"),
    "https://localhost": ("localhost:8890", None),
    "https://10.0.0.1:1": ("10.0.0.1:1", None),
    "https://[fd00::1]/": ("[fd00::1]:8890", None),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_server(name: str) -> None:
    found = parse_server(name)
    assert (found.host, found.socket) == NAMES[name]
    assert found.name == name


@pytest.mark.parametrize(
    "name",
    ["", "unix:", "unix:r.socket", "unix:/a\0b", "unix:/" + "x" * 107, "http://localhost", "localhost", "/run/r.socket",
     "https://", "https://a/b", "https://u:p@a", "https://a:99999", "https://a?b", "HTTPS://a"],
)  # fmt: skip
def test_what_is_no_server(name: str) -> None:
    with pytest.raises(Misuse):
        parse_server(name)


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    found = tmp_path / "ca.pem"
    found.write_text("nothing")
    return found


WRONG = {
    "none": ([], False, None, "Wanted is a list of 1 to"),
    "a text": ("unix:/a", False, None, "Wanted is a list of 1 to"),
    "too many": ([f"unix:/{n}" for n in range(MAX_SERVERS + 1)], False, None, "Wanted is a list of 1 to"),
    "one twice": (["https://a", "https://a:8890/"], False, None, "One server is named twice"),
    "a token for a socket": (["unix:/a"], False, TOKEN, "a Unix socket needs neither"),
    "a CA for a socket": (["unix:/a"], True, None, "a Unix socket needs neither"),
    "no token": (["https://a"], True, None, "needs `ca`"),
    "no CA": (["unix:/a", "https://a"], False, TOKEN, "needs `ca`"),
    "a CA that is none": (["https://a"], True, TOKEN, "cannot be used: there is none in it"),
    "a token that is none": (["https://a"], True, "hunter2", "no token: 7 characters"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_go_together(case: str, ca: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    servers, with_ca, token, says = WRONG[case]
    if case == "a token that is none":
        monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_: None)
    for kind in (Client, AsyncClient):
        with pytest.raises(Misuse, match=says) as raised:
            kind(servers, ca=ca if with_ca else None, token=token)
        assert "hunter2" not in str(raised.value)


def test_a_ca_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="No such file or directory"):
        servers_of(["https://a"], tmp_path / "missing", TOKEN)


def test_the_environment_has_no_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_: None)
    found = servers_of(["https://a"], tmp_path, TOKEN)
    assert found.tls is not None
    assert found.tls.keylog_filename is None
    assert found.tls.verify_mode is ssl.CERT_REQUIRED
    assert found.tls.check_hostname
    assert found.tls.minimum_version is ssl.TLSVersion.TLSv1_3
    assert not log.exists()
    assert TOKEN not in repr(found)
    assert TOKEN not in repr(Client(["https://a"], ca=tmp_path, token=TOKEN))
    assert TOKEN not in repr(AsyncClient(["https://a"], ca=tmp_path, token=TOKEN))
