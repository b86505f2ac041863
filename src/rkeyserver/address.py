"""HOST:PORT as people write it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from rkeyserver.errors import Misuse

# The lookup of a name with an empty or longer label ends in an error of the codec, not of the network.
_LABEL: Final = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_LONGEST_NAME: Final = 253
_DOTTED: Final = re.compile("[0-9.]+")
_BRACKETED: Final = re.compile(r"\[(?P<host>[^\]]*)\](?::(?P<port>.*))?", re.DOTALL)
_PORT: Final = re.compile("[0-9]{1,5}")
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
    if match := _BRACKETED.fullmatch(text):
        host, port = match["host"], match["port"]
        _check(text, _is_ipv6(host), "an IPv6 address without a zone between the brackets")
    elif text.count(":") > 1:
        host, port = text, None
        _check(text, _is_ipv6(host), "an IPv6 address without a zone, with a port as [ADDRESS]:PORT")
    else:
        host, colon, rest = text.partition(":")
        port = rest if colon else None
        good = _is_ipv4(host) if _DOTTED.fullmatch(host) else _is_name(host)
        wanted = "HOST, HOST:PORT or :PORT" if any_host else "HOST or HOST:PORT"
        _check(text, good or (any_host and text.startswith(":")), wanted)
    if port is None:
        return Address(host, default_port)
    _check(text, bool(_PORT.fullmatch(port)) and int(port) <= _HIGHEST_PORT, "a port from 0 to 65535")
    return Address(host, int(port))


def _is_name(text: str) -> bool:
    return len(text) <= _LONGEST_NAME and bool(_NAME.fullmatch(text))


def _is_ipv4(text: str) -> bool:
    return _is_ip(text, 4)


def _is_ipv6(text: str) -> bool:
    # uvloop connects and binds without the zone of a link-local address: better to say so than to fail there.
    return "%" not in text and _is_ip(text, 6)


def _is_ip(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def _check(text: str, good: bool, wanted: str) -> None:  # noqa: FBT001 - the condition is the argument
    if not good:
        raise Misuse(f"{text!r} is no address; wanted is {wanted}.")
