"""Which servers there are, and how each is reached. Nothing of the environment counts."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rkeyserver.address import Address, parse_address
from rkeyserver.errors import Misuse
from rkeyserver.tokens import check_token

DEFAULT_PORT: Final = 8890
MAX_SERVERS: Final = 32
LONGEST_PATH: Final = 107  # bytes of a socket's path that the kernel takes
_UNIX: Final = "unix:"
_HTTPS: Final = "https://"


@dataclass(frozen=True)
class Server:
    """One server. name: as it was given; address: where it is; socket: the path of its local socket, None over TLS."""

    name: str
    address: Address
    socket: str | None

    @property
    def host(self) -> str:
        """Its Host header."""
        return "localhost" if self.socket is not None else str(self.address)


@dataclass(frozen=True)
class Servers:
    """All of them, in the order in which they are asked. tls: what believes the CA that was named, and no other."""

    all: tuple[Server, ...]
    tls: ssl.SSLContext | None = field(repr=False)
    token: str | None = field(repr=False)


def parse_server(text: str) -> Server:
    """A server as `unix:/PATH` or `https://HOST[:PORT]`.

    Raises: Misuse.
    """
    if text.startswith(_UNIX):
        path = text.removeprefix(_UNIX)
        if not path.startswith("/") or "\0" in path or len(os.fsencode(path)) > LONGEST_PATH:
            raise Misuse(
                f"{text!r} is no server: wanted is unix: and an absolute path of at most {LONGEST_PATH} bytes."
            )
        return Server(text, Address("", 0), path)
    if text.startswith(_HTTPS):
        return Server(text, parse_address(text.removeprefix(_HTTPS).removesuffix("/"), DEFAULT_PORT), None)
    raise Misuse(f"{text!r} is no server: wanted is unix:/PATH or https://HOST[:PORT].")


def servers_of(names: Sequence[str], ca: str | Path | None, token: str | None) -> Servers:
    """The servers, and how they are known and told who asks.

    Raises: Misuse for a name that is none, none at all, one twice, a CA or a token that is missing or none.
    """
    if isinstance(names, str) or not 1 <= len(names) <= MAX_SERVERS:
        raise Misuse(
            f"Wanted is a list of 1 to {MAX_SERVERS} servers.", advice='As ["unix:/run/rkeyserver/rkeyserver.socket"].'
        )
    found = tuple(parse_server(one) for one in names)
    if len({(one.address, one.socket) for one in found}) != len(found):
        raise Misuse("One server is named twice.")
    if all(one.socket is not None for one in found):
        if ca is not None or token is not None:
            raise Misuse("A CA and a token are for servers by https://; a Unix socket needs neither.")
        return Servers(found, None, None)
    if ca is None or token is None:
        raise Misuse(
            "A server by https:// needs `ca`, the file of its domain's CA, and `token`, the text of a token.",
            advice="docs/operations/tokens-and-relay.md says where both come from.",
        )
    return Servers(found, _pinned(Path(ca)), check_token(token))


def _pinned(ca: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # create_default_context() obeys SSLKEYLOGFILE
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        made.load_verify_locations(ca)
    except OSError as error:
        reason = "there is none in it" if isinstance(error, ssl.SSLError) else error.strerror
        raise Misuse(f"The CA {ca} cannot be used: {reason}.") from error
    return made
