"""`etcd://HOST[:PORT][,HOST[:PORT]...]`, and `etcds://` for the same over TLS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rkeyserver.address import Address, parse_address
from rkeyserver.errors import Misuse

DEFAULT_PORT: Final = 2379  # etcd's own
MOST: Final = 16
LONGEST: Final = 4096  # characters
_SCHEMES: Final = {"etcd": False, "etcds": True}


@dataclass(frozen=True)
class Endpoints:
    """The servers of one cluster, in the order in which they are asked. tls: whether they are asked over TLS."""

    tls: bool
    addresses: tuple[Address, ...]

    def __str__(self) -> str:
        return f"{'etcds' if self.tls else 'etcd'}://{','.join(map(str, self.addresses))}"


def parse_endpoints(text: str) -> Endpoints:
    """Read the value of --coordinator.

    Raises: Misuse with what was found and what would do.
    """
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in _SCHEMES or len(text) > LONGEST:
        raise Misuse(
            f"The coordinator is {text[:LONGEST]!r}; wanted is etcd://HOST:PORT[,HOST:PORT...], or etcds:// for TLS."
        )
    if "@" in rest:
        raise Misuse(
            "The coordinator is named with a user or password, which every process of this machine can read in the "
            "arguments. None is used.",
            advice="Change that password. Leave it out, and name a certificate by --coordinator-cert.",
        )
    addresses = tuple(parse_address(one, DEFAULT_PORT) for one in rest.split(","))
    if len(addresses) > MOST:
        raise Misuse(f"The coordinator has {len(addresses)} servers; at most {MOST} are asked.")
    if len(set(addresses)) != len(addresses):
        raise Misuse(f"The coordinator {text!r} names a server twice.")
    for address in addresses:
        if not address.port:
            raise Misuse(f"The coordinator's server {address} cannot be asked: its port is 0.")
    return Endpoints(_SCHEMES[scheme], addresses)
