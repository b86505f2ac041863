"""What is told of a connection that failed."""

from __future__ import annotations

import errno
import socket
import ssl

import httpx
import pytest

from rkeyserver.why import why


def below(error: BaseException) -> Exception:
    """As a library raises its own error for one of the system."""
    above = httpx.ConnectError("All connection attempts failed")
    above.__cause__ = error
    return above


def refused_by_tls(reason: str = "", verify: str = "") -> ssl.SSLError:
    error = ssl.SSLError(1, "[SSL] of the library")
    error.reason = reason
    if verify:
        error.verify_message = verify  # type: ignore[attr-defined]  # of SSLCertVerificationError
    return error


CASES: dict[str, tuple[BaseException, str]] = {
    "in time": (TimeoutError(), "no answer in time"),
    "in httpx's time": (httpx.ReadTimeout(""), "no answer in time"),
    "refused": (below(ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed")), "Connection refused"),
    "no such name": (below(socket.gaierror(-2, "Name or service not known")), "Name or service not known"),
    "TLS": (below(refused_by_tls("WRONG_VERSION_NUMBER")), "wrong version number"),
    "TLS that says nothing": (refused_by_tls(), "tls failed"),
    "a certificate": (below(refused_by_tls("CERTIFICATE_VERIFY_FAILED", "self-signed certificate")), "self-signed"),
    "of the system, without a number": (OSError("about it"), "about it"),
    "of a library": (httpx.RemoteProtocolError("Server disconnected"), "Server disconnected"),
}


@pytest.mark.parametrize(("error", "says"), CASES.values(), ids=CASES)
def test_what_was_below_is_told(error: BaseException, says: str) -> None:
    assert why(error).startswith(says)
