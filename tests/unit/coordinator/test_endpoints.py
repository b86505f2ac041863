from __future__ import annotations

import pytest

from rkeyserver.address import Address
from rkeyserver.coordinator.endpoints import MOST, Endpoints, parse_endpoints
from rkeyserver.errors import Misuse

GOOD: dict[str, tuple[str, Endpoints, str]] = {
    "one": ("etcd://a:1", Endpoints(tls=False, addresses=(Address("a", 1),)), "etcd://a:1"),
    "the usual port": ("etcds://a", Endpoints(tls=True, addresses=(Address("a", 2379),)), "etcds://a:2379"),
    "several": (
        "etcd://10.0.0.1:7,[fd00::1],b",
        Endpoints(tls=False, addresses=(Address("10.0.0.1", 7), Address("fd00::1", 2379), Address("b", 2379))),
        "etcd://10.0.0.1:7,[fd00::1]:2379,b:2379",
    ),
}


@pytest.mark.parametrize(("text", "found", "shown"), GOOD.values(), ids=GOOD)
def test_what_a_coordinator_may_be(text: str, found: Endpoints, shown: str) -> None:
    assert parse_endpoints(text) == found
    assert str(found) == shown
    assert parse_endpoints(shown) == found


BAD: dict[str, tuple[str, str]] = {
    "nothing": ("", "wanted is etcd://"),
    "no scheme": ("a:2379", "wanted is etcd://"),
    "another engine": ("consul://a", "wanted is etcd://"),
    "a URL": ("https://a:2379", "wanted is etcd://"),
    "capitals": ("ETCD://a", "wanted is etcd://"),
    "no server": ("etcd://", "no address"),
    "an empty one among them": ("etcd://a,,b", "no address"),
    "a comma at the end": ("etcd://a,", "no address"),
    "a path": ("etcd://a:1/x", "no address"),
    "a password": ("etcd://root:secret@a:1", "a user or password"),
    "a space": ("etcd://a, b", "no address"),
    "a scheme for each": ("etcd://a,etcd://b", "no address"),
    "port 0": ("etcd://a:0", "its port is 0"),
    "one twice": ("etcd://a,a:2379", "names a server twice"),
    "too many": ("etcd://" + ",".join(f"a{n}" for n in range(MOST + 1)), "at most 16"),
    "too long": ("etcd://" + "a" * 5000, "wanted is etcd://"),
}


@pytest.mark.parametrize(("text", "says"), BAD.values(), ids=BAD)
def test_what_is_no_coordinator(text: str, says: str) -> None:
    with pytest.raises(Misuse, match=says) as raised:
        parse_endpoints(text)
    assert "secret" not in str(raised.value)
