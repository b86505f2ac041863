"""The one document that a host may tell the program in the enclave."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.enclave_documents import DOMAIN, HOSTILE, USUAL, document
from tests.fakes.processes import ROOT

from rkeyserver.address import Address
from rkeyserver.config import Config, Options
from rkeyserver.enclave_options import COMMANDS, MAX_OPTIONS, PATHS, PLATFORM, REFUSED, Told, parse, written
from rkeyserver.errors import Misuse

STATE = Path("/state")
PAGE = (ROOT / "docs" / "spec" / "options.md").read_text()

# name of the option: what is said, and what it becomes
SAID: dict[str, tuple[object, dict[str, object]]] = {
    "keystore": ("rkey.bin", {}),
    "host": (["10.0.0.1:8888", "[fd00::2]:7"], {"hosts": (Address("10.0.0.1", 8888), Address("fd00::2", 7))}),
    "peer": (["10.0.0.3:8888"], {"peers": (Address("10.0.0.3", 8888),)}),
    "domain": (DOMAIN, {"domain": DOMAIN}),
    "wait-ms": (1500, {"wait": 1.5}),
    "once": (False, {}),
    "recover": (False, {}),
    "listen": ([":1"], {"listen": (Address("", 1),)}),
    "ops": ("127.0.0.1:2", {"ops": Address("127.0.0.1", 2)}),
    "audit": ("log/audit.jsonl", {"audit": STATE / "log/audit.jsonl"}),
    "pccs": ("https://pccs:8081/v4", {"pccs": "https://pccs:8081/v4"}),
    "collateral": ("c.json", {"collateral": STATE / "c.json"}),
    "provision": (":5", {"provision": Address("", 5)}),
    "callers": ("127.0.0.1:6", {"callers": Address("127.0.0.1", 6)}),
    "coordinator": ("etcd://a:1,b:2", {"coordinator": "etcd://a:1,b:2"}),
    "lease": (9, {"lease": 9}),
    "log-level": ("debug", {"log_level": "debug"}),
}


def usual(**changes: Any) -> Config:
    return replace(Config(keystore=STATE / "rkey.bin", platform=PLATFORM), **changes)


@pytest.mark.parametrize("name", SAID)
def test_an_option_is_what_the_launcher_said(name: str) -> None:
    value, becomes = SAID[name]
    data = written("serve", USUAL | {name: value})
    assert parse(data, STATE) == Told("serve", usual(**becomes))


def test_options_that_need_others() -> None:
    recovering = USUAL | {"domain": DOMAIN, "recover": True, "change": "c.toml"}
    assert parse(written("serve", recovering), STATE).config == usual(
        domain=DOMAIN, recover=True, change=STATE / "c.toml"
    )
    asking = USUAL | {"pccs": "https://pccs", "pccs-ca": "tls/ca.pem", "host": ["a:1"], "once": True}
    assert parse(written("serve", asking), STATE).config == usual(
        pccs="https://pccs", pccs_ca=STATE / "tls/ca.pem", hosts=(Address("a", 1),), once=True
    )
    files = {"coordinator-ca": "ca.pem", "coordinator-cert": "c.pem", "coordinator-key": "k.pem"}
    coordinated = USUAL | {"coordinator": "etcds://a:1"} | files
    assert parse(written("serve", coordinated), STATE).config == usual(
        coordinator="etcds://a:1",
        **{name.replace("-", "_"): STATE / path for name, path in files.items()},
    )


def test_the_other_commands() -> None:
    assert parse(b'{"command":"identity","options":{}}', STATE) == Told("identity", Config(platform=PLATFORM))
    for as_json in (True, False):
        assert parse(document("doctor", json=as_json), STATE) == Told("doctor", usual(), as_json)


def test_every_option_of_an_instance_is_taken_or_refused_with_a_reason() -> None:
    """Whoever adds an option says here whether a host may set it; what says what to accept it may not."""
    taken = {"wait" if name == "wait-ms" else name for name in COMMANDS["serve"].__struct_encode_fields__}
    assert not taken & set(REFUSED)
    known = {name.replace("_", "-") for name in Options.__struct_fields__}
    assert taken | set(REFUSED) == known - {"port", "platform"}  # the port is in each host; the platform is the image's


def test_the_page_has_every_option_in_its_order() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| ([a-z, ]+) \|", PAGE, re.MULTILINE)
    for command, form in COMMANDS.items():
        assert tuple(name for name, of in rows if command in of.split(", ")) == form.__struct_encode_fields__
    assert {name for name, _ in rows} >= set(PATHS)


def test_the_examples_of_the_page_are_read_and_written_alike() -> None:
    examples = re.findall(r"^    (\{.*\})$", PAGE, re.MULTILINE) + re.findall(r'`(\{"command".*?\}\})`', PAGE)
    assert len(examples) == 4
    for one in examples:
        told = json.loads(one)
        parse(one.encode(), STATE)
        assert written(told["command"], told["options"]).decode() == one


NAMES = ["rkey.bin", "_", "0", "a/b/c/d", "a" * 100, "A-1+2=3@x._", "CA.pem", "a..b", "a/b."]
NO_NAMES = [
    *("", ".", "..", "/", "/etc/passwd", "//x", "a/", "/a", "a//b", "a/../b", "../rkey.bin", "a/..", "./a", "a/."),
    *(
        "a\0b",
        "\0",
        "a\nb",
        "a\n",
        "a\rb",
        "a\tb",
        "a\x7f",
        "a\x1b[2Jb",
        "a\\b",
        "\\",
        "..\\x",
        "C:\\x",
        "a:b",
        "file:x",
    ),
    *(".hidden", "a/.hidden", "-a", "a/-b", "~", "~root", "a~b", "$HOME", "`id`", "a b", " a", "a*", "a?", "a%2e%2e"),
    *(
        "a" * 101,
        "a/b/c/d/e",
        "a/" * 2000 + "a",
        "\u00e9",
        "a\u2215b",
        "\uff0e\uff0e",
        "a\u202eb",
        "\ud800",
        "\U0001f511",
    ),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stays_below_the_one_folder(name: str) -> None:
    config = parse(written("serve", {"keystore": name}), STATE).config
    assert config.keystore == STATE / name
    for path in (config.keystore, config.audit_path, config.collateral_path):
        assert path.is_relative_to(STATE)
        assert ".." not in path.parts


@pytest.mark.parametrize("option", PATHS)
@pytest.mark.parametrize("name", NO_NAMES, ids=ascii)
def test_a_name_that_could_lead_elsewhere_is_refused(name: str, option: str) -> None:
    with pytest.raises(Misuse):
        parse(document(**{option: name}), STATE)
    with pytest.raises(Misuse):
        written("serve", USUAL | {option: name})


@settings(deadline=None)
@given(st.text())
def test_no_text_at_all_leads_out_of_the_folder(name: str) -> None:
    try:
        config = parse(document(keystore=name), STATE).config
    except Misuse:
        return
    assert isinstance(config.keystore, Path), "no name is the URL of a database"
    assert config.keystore.resolve().is_relative_to(STATE)


@pytest.mark.parametrize(("data", "says"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_document_is_one_clear_error(data: bytes, says: str) -> None:
    with pytest.raises(Misuse) as raised:
        parse(data, STATE)
    assert says in str(raised.value)
    assert len(str(raised.value)) < 10_000


def test_something_hostile_is_said_in_each_option() -> None:
    said = {
        name for data, _ in HOSTILE.values() for name in re.findall(r'"([a-z-]+)":', data.decode("utf-8", "replace"))
    }
    assert {name for form in COMMANDS.values() for name in form.__struct_encode_fields__} <= said | set(PATHS)


def test_what_the_launcher_may_not_write_it_says_by_the_option() -> None:
    with pytest.raises(Misuse, match=r"--host is .*; wanted is a list"):
        written("serve", USUAL | {"host": ["a:1"] * 65})
    with pytest.raises(Misuse, match="at most 65536"):
        written("serve", USUAL | {"ops": "x" * MAX_OPTIONS})


@settings(deadline=None)
@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(msgspec.json.encode))
def test_what_is_read_is_what_is_written(data: bytes) -> None:
    try:
        parse(data, STATE)
    except Misuse:
        return
    told = json.loads(data)
    assert written(told["command"], told["options"]) == data


OPTIONS_STRATEGY = st.fixed_dictionaries(
    {"keystore": st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9._+=@-]{0,20}\Z")},
    optional={
        "host": st.lists(st.sampled_from(["a:1", "[::1]:2", "10.0.0.1:65535"]), min_size=1, max_size=64),
        "domain": st.from_regex(r"\A[0-9a-f]{32}\Z"),
        "wait-ms": st.integers(0, 86_400_000),
        "ops": st.sampled_from(["localhost:1", "[::1]:9888"]),
        "log-level": st.sampled_from(["debug", "info", "warning", "error"]),
    },
)


@settings(deadline=None)
@given(OPTIONS_STRATEGY)
def test_whatever_the_launcher_writes_is_read(said: dict[str, object]) -> None:
    config = parse(written("serve", said), STATE).config
    assert config.keystore == STATE / str(said["keystore"])
    assert round(config.wait * 1000) == said.get("wait-ms", 30_000)
    assert [str(host) for host in config.hosts] == said.get("host", [])
