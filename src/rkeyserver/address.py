"""HOST:PORT as people write it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from rkeyserver.errors import Misuse

_NAME: Final = re.compile(r"^(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?$")
_DOTTED: Final = re.compile(r"^[0-9.]+$")
_BRACKETED: Final = re.compile(r"^\[(?P<host>[^\]]*)\](?::(?P<port>.*))?$")
_HIGHEST_PORT: Final = 65_535


@dataclass(frozen=True)
class Address:
    """Where to connect or listen. host: IP address without brackets, name, or "" for every address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, default_port: int, *, any_host: bool = False) -> Address:
    """Read HOST, HOST:PORT, [IPv6]:PORT, a bare IPv6 address, and with any_host also :PORT.

    Raises: Misuse with what was found and what would do.
    """
    if match := _BRACKETED.match(text):
        host, port = match["host"], match["port"]
        _check(text, _is_ip(host, 6), "an IPv6 address between the brackets")
    elif text.count(":") > 1:
        host, port = text, None
        _check(text, _is_ip(host, 6), "an IPv6 address, with a port as [ADDRESS]:PORT")
    else:
        host, colon, rest = text.partition(":")
        port = rest if colon else None
        good = _is_ip(host, 4) if _DOTTED.match(host) else bool(_NAME.match(host))
        _check(text, good or (any_host and not host), "HOST or HOST:PORT")
    if port is None:
        return Address(host, default_port)
    _check(text, port.isascii() and port.isdigit() and int(port) <= _HIGHEST_PORT, "a port from 0 to 65535")
    return Address(host, int(port))


def _is_ip(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def _check(text: str, good: bool, wanted: str) -> None:  # noqa: FBT001 - the condition is the argument
    if not good:
        raise Misuse(f"{text!r} is no address; wanted is {wanted}.")
