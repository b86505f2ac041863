from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rkeyserver.address import Address, parse_address
from rkeyserver.errors import Misuse

GOOD: dict[str, Address] = {
    "10.23.100.2": Address("10.23.100.2", 8888),
    "10.23.100.2:1": Address("10.23.100.2", 1),
    "10.23.100.2:65535": Address("10.23.100.2", 65_535),
    "127.0.0.1:0": Address("127.0.0.1", 0),
    "127.0.0.1:00080": Address("127.0.0.1", 80),
    "0.0.0.0:9": Address("0.0.0.0", 9),  # noqa: S104 - parsed, not listened on
    "::": Address("::", 8888),
    "::1": Address("::1", 8888),
    "[::1]": Address("::1", 8888),
    "[::1]:7": Address("::1", 7),
    "[fd00::2]:8888": Address("fd00::2", 8888),
    "fd00::2:8888": Address("fd00::2:8888", 8888),
    "FD00::ABCD": Address("FD00::ABCD", 8888),
    "[1:2:3:4:5:6:7:8]:9": Address("1:2:3:4:5:6:7:8", 9),
    "::ffff:10.0.0.1": Address("::ffff:10.0.0.1", 8888),
    "fe80::1": Address("fe80::1", 8888),
    "localhost": Address("localhost", 8888),
    "host-1.example.org:9": Address("host-1.example.org", 9),
    "example.org.": Address("example.org.", 8888),
    "HOST": Address("HOST", 8888),
    "_srv.example.org": Address("_srv.example.org", 8888),
    "1host": Address("1host", 8888),
    "a" * 63: Address("a" * 63, 8888),
    ".".join(["a" * 63] * 3 + ["b" * 61]): Address(".".join(["a" * 63] * 3 + ["b" * 61]), 8888),
    "xn--bcher-kva.example": Address("xn--bcher-kva.example", 8888),
}


@pytest.mark.parametrize("text", GOOD)
def test_what_people_write_is_read(text: str) -> None:
    assert parse_address(text, 8888) == GOOD[text]


BAD: dict[str, str] = {
    "nothing": "",
    "a blank": " ",
    "a blank before": " localhost",
    "a blank behind": "localhost ",
    "a line end": "localhost\n",
    "a line end in the port": "localhost:80\n",
    "a NUL": "local\0host",
    "a colon": ":",
    "no port behind the colon": "localhost:",
    "no port behind the brackets": "[::1]:",
    "a name for a port": "localhost:http",
    "a port above": "localhost:65536",
    "a port of six digits": "localhost:000080",
    "a negative port": "localhost:-1",
    "a signed port": "localhost:+80",
    "a port in other digits": "localhost:\u0668\u0660",
    "a port with an underscore": "localhost:8_0",
    "a port as a number with a point": "localhost:80.0",
    "three dotted numbers": "10.0.0",
    "five dotted numbers": "10.0.0.1.2",
    "a number above 255": "10.0.0.256",
    "one number": "2130706433",
    "leading zeros": "010.0.0.1",
    "only points": "...",
    "an empty label": "a..b",
    "a leading point": ".example",
    "a label of 64": "a" * 64,
    "a name of 254": ".".join(["a" * 63] * 3 + ["b" * 62]),
    "a hyphen first": "-host",
    "a hyphen last": "host-",
    "a hyphen last in a label": "a-.b",
    "umlauts": "bücher.example",
    "other digits": "\u0661\u0660.\u0660.\u0660.\u0661",
    "a URL": "http://localhost:8888",
    "a path": "localhost/x",
    "a user": "root@localhost",
    "empty brackets": "[]",
    "empty brackets and a port": "[]:8888",
    "brackets not closed": "[::1",
    "brackets not opened": "::1]",
    "two brackets": "[[::1]]",
    "something behind the brackets": "[::1]8888",
    "something before the brackets": "x[::1]:8888",
    "IPv4 in brackets": "[10.0.0.1]:80",
    "a name in brackets": "[localhost]:80",
    "three colons": ":::",
    "two shortenings": "1::2::3",
    "nine groups": "1:2:3:4:5:6:7:8:9",
    "a group of five": "12345::",
    "no hexadecimal": "fg00::1",
    "a zone": "fe80::1%eth0",
    "a zone in brackets": "[fe80::1%eth0]:80",
    "a numeric zone": "[fe80::1%2]",
    "an empty zone": "fe80::1%",
    "two zones": "fe80::1%a%b",
    "only a zone": "%eth0",
    "a zone with IPv4": "10.0.0.1%eth0",
    "a network": "10.0.0.0/8",
    "a star": "*",
    "very long": "a." * 10_000,
}


@pytest.mark.parametrize("any_host", [False, True], ids=["to ask", "to listen"])
@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_what_is_no_address_is_named(text: str, any_host: bool) -> None:  # noqa: FBT001 - a parameter of the table
    with pytest.raises(Misuse) as raised:
        parse_address(text, 8888, any_host=any_host)
    assert repr(text)[:2000] in raised.value.message
    assert "wanted is" in raised.value.message
    assert raised.value.message.isprintable()


LISTEN: dict[str, Address] = {
    ":8888": Address("", 8888),
    ":0": Address("", 0),
    "localhost": Address("localhost", 7),
    "[::]:1": Address("::", 1),
}


@pytest.mark.parametrize("text", LISTEN)
def test_a_listener_may_leave_out_the_host(text: str) -> None:
    assert parse_address(text, 7, any_host=True) == LISTEN[text]


def test_a_host_to_ask_is_not_left_out() -> None:
    with pytest.raises(Misuse, match="wanted is HOST"):
        parse_address(":8888", 8888)


HOSTS = (
    st.ip_addresses(v=4).map(str)
    | st.ip_addresses(v=6).map(str)
    | st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z]([a-z0-9]{0,9}))?", fullmatch=True)
)


@given(HOSTS, st.integers(0, 65_535))
def test_an_address_survives_being_written(host: str, port: int) -> None:
    address = Address(host, port)
    assert parse_address(str(address), 1) == address


@given(st.text(max_size=40), st.booleans())
def test_any_text_is_an_address_or_a_misuse(text: str, any_host: bool) -> None:  # noqa: FBT001 - drawn
    try:
        found = parse_address(text, 8888, any_host=any_host)
    except Misuse:
        return
    assert 0 <= found.port <= 65_535
    assert parse_address(str(found), 1, any_host=any_host) == found


@given(st.from_regex(r"[0-9a-f:.%\[\]]{1,40}", fullmatch=True))
def test_what_looks_like_an_ip_address_is_one(text: str) -> None:
    try:
        found = parse_address(text, 8888)
    except Misuse:
        return
    if ":" in found.host or found.host.replace(".", "").isdecimal():
        assert str(ipaddress.ip_address(found.host))
