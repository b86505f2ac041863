from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rkeyserver.address import Address
from rkeyserver.config import (
    DEFAULT_KEYSTORE,
    DEFAULT_MACHINE,
    DEFAULT_OPS,
    Config,
    Options,
    check_options,
    make_config,
    read_file,
)
from rkeyserver.errors import Misuse

DOMAIN = "0123456789abcdef" * 2
OTHER_DOMAIN = "fedcba9876543210" * 2


def written(folder: Path, text: str) -> Path:
    path = folder / "rkeyserver.toml"
    path.write_text(text, encoding="utf-8")
    return path


def from_file(folder: Path, text: str) -> Config:
    return make_config(read_file(written(folder, text)), Options())


def from_command_line(given: dict[str, object]) -> Config:
    return make_config(Options(), check_options(given))


def test_nothing_said_is_a_primary_with_the_defaults(tmp_path: Path) -> None:
    config = from_file(tmp_path, "")
    assert config == from_command_line({}) == Config()
    assert config.hosts == ()
    assert (config.keystore, config.machine, config.ops) == (DEFAULT_KEYSTORE, DEFAULT_MACHINE, DEFAULT_OPS)
    assert config.listen == (Address("", 8888),)
    assert (config.platform, config.domain, config.once, config.wait) == (None, None, False, 30.0)
    assert config.audit_path == Path("/etc/rkey.bin.audit.jsonl")


# name of the option: the value in TOML, in Python, and what it becomes
SAID: dict[str, tuple[str, object, dict[str, object]]] = {
    "host": ('["10.0.0.1", "[fd00::2]:7"]', ["10.0.0.1", "[fd00::2]:7"],
             {"hosts": (Address("10.0.0.1", 8888), Address("fd00::2", 7))}),
    "peer": ('["10.0.0.3", "[fd00::3]:7"]', ["10.0.0.3", "[fd00::3]:7"],
             {"peers": (Address("10.0.0.3", 8888), Address("fd00::3", 7))}),
    "keystore": ('"/srv/rkey.bin"', "/srv/rkey.bin", {"keystore": Path("/srv/rkey.bin")}),
    "domain": (f'"{DOMAIN}"', DOMAIN, {"domain": DOMAIN}),
    "wait": ("0.5", 0.5, {"wait": 0.5}),
    "once": ("false", False, {"once": False}),
    "recover": ("false", False, {"recover": False}),
    "listen": ('[":1", "[::1]:0"]', [":1", "[::1]:0"], {"listen": (Address("", 1), Address("::1", 0))}),
    "platform": ('"simulated"', "simulated", {"platform": "simulated"}),
    "machine": ('"m"', "m", {"machine": Path("m")}),
    "ops": ('"localhost"', "localhost", {"ops": Address("localhost", 9888)}),
    "policy": ('"p"', "p", {"policy": Path("p")}),
    "admins": ('"a"', "a", {"admins": Path("a")}),
    "socket": ('"/run/r"', "/run/r", {"socket": Path("/run/r")}),
    "audit": ('"/var/log/a"', "/var/log/a", {"audit": Path("/var/log/a")}),
    "pccs": ('"https://pccs:8081/v4/"', "https://pccs:8081/v4/", {"pccs": "https://pccs:8081/v4"}),
    "pccs-ca": ('"ca.pem"', "ca.pem", {"pccs_ca": Path("ca.pem")}),
    "collateral": ('"/srv/c.json"', "/srv/c.json", {"collateral": Path("/srv/c.json")}),
    "provision": ('":4"', ":4", {"provision": Address("", 4)}),
    "callers": ('"localhost"', "localhost", {"callers": Address("localhost", 8890)}),
    "coordinator": ('"etcd://a,[::1]:7"', "etcd://a,[::1]:7", {"coordinator": "etcd://a:2379,[::1]:7"}),
    "coordinator-ca": ('"ca.pem"', "ca.pem", {"coordinator_ca": Path("ca.pem")}),
    "coordinator-cert": ('"c.pem"', "c.pem", {"coordinator_cert": Path("c.pem")}),
    "coordinator-key": ('"k.pem"', "k.pem", {"coordinator_key": Path("k.pem")}),
    "lease": ("7", 7, {"lease": 7}),
    "log-level": ('"debug"', "debug", {"log_level": "debug"}),
}  # fmt: skip


# Options that mean nothing without others.
NEEDS = {
    "pccs-ca": {"pccs": "https://pccs"},
    "coordinator-ca": {"coordinator": "etcds://e"},
    "coordinator-cert": {"coordinator": "etcds://e"},
    "coordinator-key": {"coordinator": "etcds://e", "coordinator-cert": "c.pem"},
}


@pytest.mark.parametrize("name", SAID)
def test_an_option_means_the_same_in_file_and_command_line(tmp_path: Path, name: str) -> None:
    toml, given, becomes = SAID[name]
    needed: dict[str, object] = dict(NEEDS.get(name, {}))
    wanted = dataclasses.replace(from_command_line(needed), **becomes)  # type: ignore[arg-type]  # a table's
    more = "".join(f'{other} = "{value}"\n' for other, value in needed.items())
    assert from_file(tmp_path, f"{more}{name} = {toml}") == wanted
    assert from_command_line({name: given} | needed) == wanted


def test_every_option_is_in_the_table() -> None:
    # The port goes with hosts and a change with --recover: they have tests of their own.
    assert {"port", "change"} | {name.replace("-", "_") for name in SAID} == set(Options.__struct_fields__)


LOUDER: dict[str, tuple[str, object, str, object]] = {
    "host": ('["a"]', ["b", "c"], "hosts", (Address("b", 8888), Address("c", 8888))),
    "keystore": ('"/a"', "/b", "keystore", Path("/b")),
    "domain": (f'"{DOMAIN}"', OTHER_DOMAIN, "domain", OTHER_DOMAIN),
    "wait": ("1", 0, "wait", 0.0),
    "listen": ('[":1"]', [":2"], "listen", (Address("", 2),)),
    "platform": ('"sgx"', "tpm", "platform", "tpm"),
    "machine": ('"/a"', "/b", "machine", Path("/b")),
    "ops": ('"localhost:1"', "localhost:2", "ops", Address("localhost", 2)),
    "audit": ('"/a"', "/b", "audit", Path("/b")),
    "log-level": ('"debug"', "error", "log_level", "error"),
}


@pytest.mark.parametrize("name", LOUDER)
def test_the_command_line_wins(tmp_path: Path, name: str) -> None:
    toml, given, field, becomes = LOUDER[name]
    config = make_config(read_file(written(tmp_path, f"{name} = {toml}")), check_options({name: given}))
    assert getattr(config, field) == becomes


def test_each_says_what_the_other_leaves_out(tmp_path: Path) -> None:
    file = read_file(written(tmp_path, 'host = ["a"]\nwait = 5\n'))
    config = make_config(file, check_options({"port": 7, "once": True}))
    assert (config.hosts, config.wait, config.once) == ((Address("a", 7),), 5.0, True)


def test_the_port_is_that_of_the_hosts_that_say_none() -> None:
    config = from_command_line({"host": ["a", "b:1", "[::1]", "[::2]:3"], "port": 9, "listen": ["localhost"]})
    assert config.hosts == (Address("a", 9), Address("b", 1), Address("::1", 9), Address("::2", 3))
    assert config.listen == (Address("localhost", 8888),)
    assert config.ops == DEFAULT_OPS


@pytest.mark.parametrize("port", [1, 65_535])
def test_a_port_in_the_file_is_for_a_host_on_the_command_line_and_the_other_way(tmp_path: Path, port: int) -> None:
    cases: list[tuple[str, dict[str, object]]] = [(f"port = {port}", {"host": ["a"]}), ('host = ["a"]', {"port": port})]
    for text, given in cases:
        assert make_config(read_file(written(tmp_path, text)), check_options(given)).hosts == (Address("a", port),)


def test_a_port_without_a_host_mints_nothing(tmp_path: Path) -> None:
    said = [read_file(written(tmp_path, "port = 8888")), check_options({"port": 8888})]
    for one in said:
        with pytest.raises(Misuse, match="no host is given") as raised:
            make_config(Options(), one)
        assert "--listen" in raised.value.advice


def test_a_peer_makes_no_standby_and_has_no_port_of_the_hosts() -> None:
    config = from_command_line({"host": ["a"], "port": 9, "peer": ["b"]})
    assert (config.hosts, config.peers) == ((Address("a", 9),), (Address("b", 8888),))
    assert from_command_line({"peer": ["b"]}).hosts == ()


def test_several_services() -> None:
    assert from_command_line({"pccs": "https://a/v4/,https://b"}).pccs == "https://a/v4,https://b"


def test_hosts_stay_in_their_order() -> None:
    assert [one.host for one in from_command_line({"host": ["c", "a", "b"]}).hosts] == ["c", "a", "b"]


def test_the_audit_file_lies_beside_the_keystore() -> None:
    assert from_command_line({"keystore": "/srv/k"}).audit_path == Path("/srv/k.audit.jsonl")
    assert from_command_line({"keystore": "/srv/k", "audit": "/a"}).audit_path == Path("/a")


def test_what_lies_beside_a_record_in_a_database() -> None:
    file = from_command_line({"keystore": "sqlite:///srv/k.db?instance=b"})
    assert file.audit_path == Path("/srv/k.db.b.audit.jsonl")
    assert file.socket_path == Path("/srv/k.db.b.socket")
    far = from_command_line({"keystore": "postgresql://u@h/d"})
    assert far.audit_path == Path("/var/lib/rkeyserver/default.audit.jsonl")
    assert far.collateral_path == Path("/var/lib/rkeyserver/default.collateral.json")
    assert from_command_line({"keystore": "postgresql://u@h/d", "audit": "/a"}).audit_path == Path("/a")


WRONG: dict[str, list[object]] = {
    "host": [[], "a", [""], [1], 0, [None], [["a"]], ["a:b"], ["a:70000"], [":8888"], ["a", ""]],
    "peer": [[], "a", [""], [1], 0, [None], ["a:b"], [":8888"]],
    "port": [0, -1, 65_536, "8888", 1.5, True],
    "keystore": ["", 0, True, ["/a"], "/a\0b", "\0"],
    "domain": ["", "any", DOMAIN.upper(), DOMAIN[:-1], DOMAIN + "0", DOMAIN + "\n", 0, [DOMAIN]],
    "wait": [-1, -0.001, 86_401, "30", True, float("nan"), float("inf")],
    "once": [1, 0, "yes", "true"],
    "recover": [1, 0, "yes", "true"],
    "change": ["", 0, "/a\0b"],
    "listen": [[], ":1", [""], [1], ["a:b"], [":65536"]],
    "platform": ["", "SGX", "sgx2", "any", "auto", 0, ["sgx"]],
    "machine": ["", 0, "/a\0b"],
    "ops": ["", ":9888", 9888, ["localhost"], "localhost:x"],
    "audit": ["", 0, "/a\0b"],
    "policy": ["", 0, "/a\0b"],
    "admins": ["", 0, ["a"]],
    "socket": ["", True, "/a\0b"],
    "pccs": [
        "",
        0,
        ["https://pccs"],
        "http://pccs",
        "pccs:8081",
        "https://a,",
        "https://a,http://b",
        "https://a,https://a/",
    ],
    "pccs-ca": ["", 0, True, "/a\0b", "ca.pem"],
    "collateral": ["", 0, "/a\0b"],
    "provision": ["", 4433, [":4433"], ":x", "a b:1"],
    "callers": [8890, [":8890"], "localhost:x", ":65536"],
    "coordinator": ["", "etcd://", "etcd:/a", "http://a:1", "etcd://a,a", "etcd://a:0", "etcds://a b", 0, ["etcd://a"]],
    "coordinator-ca": ["", 0, "/a\0b", "ca.pem"],
    "coordinator-cert": ["", 0, "c.pem"],
    "coordinator-key": ["", 0, "k.pem"],
    "lease": [0, 601, "5", 1.5, True],
    "log-level": ["", "DEBUG", "trace", "warn", 10],
}
CASES = [(name, value) for name, values in WRONG.items() for value in values]


@pytest.mark.parametrize(("name", "value"), CASES, ids=[f"{name}={value!r}" for name, value in CASES])
def test_a_wrong_value_is_refused_wherever_it_is_said(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(Misuse) as raised:
        from_command_line({name: value})
    said = str(raised.value)
    assert name in said or (isinstance(value, (str, list)) and "is no address" in said)
    if value is not None and value != [None]:
        with pytest.raises(Misuse):
            from_file(tmp_path, f"{name} = {as_toml(value)}")


def as_toml(value: object) -> str:
    if isinstance(value, str):
        return '"' + "".join(f"\\u{ord(one):04x}" for one in value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(as_toml(one) for one in value) + "]"
    return str(value).lower()


def test_every_option_has_wrong_values() -> None:
    assert set(WRONG) == {"port", "change", *SAID}


def test_a_change_goes_with_a_recovery(tmp_path: Path) -> None:
    said = f'recover = true\ndomain = "{DOMAIN}"\nchange = "c"'
    assert from_file(tmp_path, said).change == Path("c")


UNKNOWN = ["hosts", "Port", "log_level", "config", "insecure", "accept-any", "policy", ""]


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_option_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(Misuse, match="wrong") as raised:
        from_file(tmp_path, f'"{name}" = 1')
    assert name in raised.value.message
    with pytest.raises(Misuse):
        check_options({name: 1})


UNREADABLE: dict[str, tuple[bytes, str]] = {
    "bad UTF-8": (b'keystore = "\xff"', "utf-8"),
    "UTF-16": ('keystore = "a"'.encode("utf-16"), "utf-8"),
    "a byte order mark": (b'\xef\xbb\xbfkeystore = "a"', "Invalid statement"),
    "a NUL": (b"\0", "Invalid"),
    "broken TOML": (b"keystore", "Expected"),
    "a key twice": (b"port = 1\nport = 2", "overwrite"),
    "a table": (b"[rkeyserver]\nport = 1", "rkeyserver is unknown"),
    "deep": (b"host = " + b"[" * 60_000, ""),
    "a number without end": (b"port = " + b"9" * 5000, ""),
}


@pytest.mark.parametrize(("data", "says"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "rkeyserver.toml"
    path.write_bytes(data)
    with pytest.raises(Misuse) as raised:
        read_file(path)
    assert f"The configuration file {path} is wrong" in raised.value.message
    assert says in raised.value.message


ABSENT: dict[str, Callable[[Path], Path]] = {
    "absent": lambda folder: folder / "none",
    "a folder": lambda folder: folder,
    "below a file": lambda folder: written(folder, "") / "x",
    "a device that gives an error": lambda _folder: Path("/proc/self/mem"),
    "a name too long": lambda folder: folder / ("x" * 300),
}


@pytest.mark.parametrize("path_of", ABSENT.values(), ids=ABSENT)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, path_of: Callable[[Path], Path]) -> None:
    path = path_of(tmp_path)
    with pytest.raises(Misuse) as raised:
        read_file(path)
    assert f"The configuration file {path} cannot be read" in raised.value.message


EXCLUDE: dict[str, tuple[dict[str, object], str]] = {
    "once without a host": ({"once": True}, "none is given"),
    "a recovery of whatever there is": ({"recover": True}, "--domain names"),
    "a change without a recovery": ({"change": "c"}, "--change goes with --recover"),
    "a recovery from a host": ({"recover": True, "domain": DOMAIN, "host": ["a"]}, "no host is left"),
    "a host on port 0": ({"host": ["a:0"]}, "a:0 cannot be asked"),
    "a peer on port 0": ({"peer": ["a:0"]}, "a:0 cannot be asked"),
    "an IPv6 host on port 0": ({"host": ["b", "[::1]:0"]}, r"\[::1\]:0 cannot be asked"),
    "a coordinator's CA without TLS": ({"coordinator": "etcd://a", "coordinator-ca": "c"}, "asked over TLS"),
    "a coordinator's key without a certificate": (
        {"coordinator": "etcds://a", "coordinator-key": "k"},
        "the key of a certificate",
    ),
    "a keystore that is the root": ({"keystore": "/"}, "wanted is the path of a file"),
    "a keystore that is this folder": ({"keystore": "."}, "wanted is the path of a file"),
}


@pytest.mark.parametrize(("given", "says"), EXCLUDE.values(), ids=EXCLUDE)
def test_options_that_exclude_each_other(given: dict[str, object], says: str) -> None:
    with pytest.raises(Misuse, match=says):
        from_command_line(given)


EDGES: list[tuple[str, Any, str, object]] = [
    ("wait", 0, "wait", 0),
    ("wait", 86_400, "wait", 86_400.0),
    ("listen", ["127.0.0.1:0"], "listen", (Address("127.0.0.1", 0),)),
    ("ops", "127.0.0.1:0", "ops", Address("127.0.0.1", 0)),
]


@pytest.mark.parametrize(("name", "value", "field", "becomes"), EDGES)
def test_a_value_at_its_edge_is_taken(name: str, value: object, field: str, becomes: object) -> None:
    assert getattr(from_command_line({name: value}), field) == becomes


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().once = True  # type: ignore[misc]  # that is what is tried


NO_PCCS = (
    "http://pccs:8081/sgx/certification/v4",
    "HTTP://pccs",
    "pccs:8081",
    "pccs",
    "",
    "https://",
    "https:///path",
    "https://user:secret@pccs/",
    "https://pccs/?ca=platform",
    "https://pccs/#part",
    "https://pccs/a b",
    "https://pccs:0/",
    "https://pccs:port/",
    "https://pccs:99999/",
    "https://[::1/",
    "https://pccs/\n",
    "https://pccs\\evil/",
    "https://pcc\u015b/",
    "file:///etc/passwd",
)


@pytest.mark.parametrize("url", NO_PCCS)
def test_a_pccs_is_asked_over_https_only(url: str) -> None:
    with pytest.raises(Misuse, match="https") as raised:
        from_command_line({"pccs": url})
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["https://pccs", "https://127.0.0.1:8081/sgx/certification/v4", "https://[::1]:8081/v4"]
)
def test_what_a_pccs_may_be(url: str) -> None:
    assert from_command_line({"pccs": url}).pccs == url
    assert from_command_line({"pccs": url + "/"}).pccs == url


def test_a_ca_without_a_pccs_is_a_mistake() -> None:
    with pytest.raises(Misuse, match="no PCCS is given"):
        from_command_line({"pccs-ca": "ca.pem"})


def test_collateral_is_held_beside_the_keystore() -> None:
    assert Config().collateral_path == Path("/etc/rkey.bin.collateral.json")
    assert Config(collateral=Path("x")).collateral_path == Path("x")
