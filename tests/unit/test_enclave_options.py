"""The one document that a host may tell the program in the enclave."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.processes import ROOT

from rkeyserver.address import Address
from rkeyserver.config import Config, Options
from rkeyserver.enclave_options import COMMANDS, MAX_OPTIONS, PATHS, PLATFORM, REFUSED, Told, parse, written
from rkeyserver.errors import Misuse

STATE = Path("/state")
DOMAIN = "0123456789abcdef" * 2
PAGE = (ROOT / "docs" / "spec" / "options.md").read_text()

# name of the option: what is said, and what it becomes
SAID: dict[str, tuple[object, dict[str, object]]] = {
    "keystore": ("rkey.bin", {}),
    "host": (["10.0.0.1:8888", "[fd00::2]:7"], {"hosts": (Address("10.0.0.1", 8888), Address("fd00::2", 7))}),
    "domain": (DOMAIN, {"domain": DOMAIN}),
    "wait-ms": (1500, {"wait": 1.5}),
    "once": (False, {}),
    "recover": (False, {}),
    "listen": ([":1"], {"listen": (Address("", 1),)}),
    "ops": ("127.0.0.1:2", {"ops": Address("127.0.0.1", 2)}),
    "audit": ("log/audit.jsonl", {"audit": STATE / "log/audit.jsonl"}),
    "pccs": ("https://pccs:8081/v4", {"pccs": "https://pccs:8081/v4"}),
    "collateral": ("c.json", {"collateral": STATE / "c.json"}),
    "log-level": ("debug", {"log_level": "debug"}),
}
USUAL: dict[str, object] = {"keystore": "rkey.bin"}


def document(command: str = "serve", **options: object) -> bytes:
    """As a hostile host may write it: anything at all."""
    said = USUAL | {name.replace("_", "-"): value for name, value in options.items()}
    order = COMMANDS.get(command, COMMANDS["serve"]).__struct_encode_fields__
    ordered = sorted(said, key=lambda name: order.index(name) if name in order else len(order))
    told = {"command": command, "options": {name: said[name] for name in ordered}}
    return json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


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


@given(st.text())
def test_no_text_at_all_leads_out_of_the_folder(name: str) -> None:
    try:
        config = parse(document(keystore=name), STATE).config
    except Misuse:
        return
    assert config.keystore.resolve().is_relative_to(STATE)


def deep(before: str, most: int = 30_000) -> bytes:
    return before.encode() + b"[" * most


PLAIN = document()
HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "no JSON"),
    "white space": (b" \n", "no JSON"),
    "a NUL": (b"\0", "no JSON"),
    "a NUL behind": (PLAIN + b"\0", "no JSON"),
    "a byte order mark": (b"\xef\xbb\xbf" + PLAIN, "no JSON"),
    "UTF-16": (PLAIN.decode().encode("utf-16"), "no JSON"),
    "no UTF-8": (PLAIN.replace(b"rkey", b"rk\xffy"), "no JSON"),
    "cut": (PLAIN[:-1], "no JSON"),
    "two documents": (PLAIN * 2, "no JSON"),
    "a comment": (PLAIN + b" // all is well", "no JSON"),
    "TOML": (b'command = "serve"', "no JSON"),
    "single quotes": (PLAIN.replace(b'"', b"'"), "no JSON"),
    "NaN": (document(wait_ms=float("nan")), "no JSON"),
    "Infinity": (document(wait_ms=float("inf")), "no JSON"),
    "a number without end": (document(wait_ms=0).replace(b"0}", b"9" * 60_000 + b"}"), "wait-ms is wrong"),
    "an exponent": (document(wait_ms=0).replace(b"0}", b"1e999999}"), "wait-ms is wrong"),
    "lists without end": (deep('{"command":"serve","options":'), "no JSON"),
    "lists without end in an option": (deep('{"command":"serve","options":{"keystore":"k","host":'), "no JSON"),
    "objects without end": (b'{"command":"serve","options":' + b'{"a":' * 10_000, "no JSON"),
    "a list": (b"[]", "Expected `object`"),
    "null": (b"null", "Expected `object`"),
    "a text": (b'"serve"', "Expected `object`"),
    "no command": (b'{"options":{"keystore":"k"}}', "command is missing"),
    "no options": (b'{"command":"serve"}', "options is missing"),
    "a command of another kind": (b'{"command":["serve"],"options":{}}', "command is wrong"),
    "an unknown command": (document("policy"), "command is wrong"),
    "a command of the host's": (document("recovery"), "command is wrong"),
    "a command in capitals": (document("SERVE"), "command is wrong"),
    "the module of a command": (document("enclave"), "command is wrong"),
    "a field more": (PLAIN[:-1] + b',"argv":["-c","import os"]}', "argv is unknown"),
    "options that are a list": (b'{"command":"serve","options":[]}', "Expected `object`"),
    "options that are null": (b'{"command":"serve","options":null}', "Expected `object`"),
    "no keystore": (b'{"command":"serve","options":{}}', "keystore is missing"),
    "no keystore for the doctor": (b'{"command":"doctor","options":{}}', "keystore is missing"),
    "options for identity": (document("identity"), "keystore is unknown"),
    "serve's option for the doctor": (document("doctor", listen=[":1"]), "listen is unknown"),
    "the doctor's option for serve": (document(json=True), "json is unknown"),
    "a command twice": (PLAIN.replace(b'{"command"', b'{"command":"identity","command"'), "one form"),
    "options twice": (PLAIN[:-1] + b',"options":{"keystore":"k"}}', "one form"),
    "an option twice": (PLAIN.replace(b'{"keystore"', b'{"keystore":"other","keystore"'), "one form"),
    "space": (PLAIN.replace(b":", b": "), "one form"),
    "a line's end": (PLAIN + b"\n", "one form"),
    "another order": (b'{"options":{"keystore":"rkey.bin"},"command":"serve"}', "one form"),
    "another order of options": (b'{"command":"serve","options":{"once":true,"keystore":"k"}}', "one form"),
    "an escape that says the same": (PLAIN.replace(b"rkey", b"\\u0072key"), "one form"),
    "null for what is not said": (document(domain=None), "one form"),
    "too large": (document(ops="x" * MAX_OPTIONS), "more than 65536 bytes"),
    "no domain": (document(domain="any"), "domain is wrong"),
    "a domain in capitals": (document(domain=DOMAIN.upper()), "domain is wrong"),
    "a domain and a line": (document(domain=DOMAIN + "\n"), "domain is wrong"),
    "no hosts": (document(host=[]), "host is wrong"),
    "too many hosts": (document(host=["a:1"] * 65), "host is wrong"),
    "a host that is no text": (document(host=[1]), "host is wrong"),
    "a host that is none": (document(host=["a b:1"]), "no address"),
    "a host with a user": (document(host=["u@a:1"]), "no address"),
    "a host with a path": (document(host=["a:1/x"]), "no address"),
    "a host that is a socket": (document(host=["unix:/run/x"]), "no address"),
    "a host on port 0": (document(host=["a:0"]), "its port is 0"),
    "too many listeners": (document(listen=[":1"] * 17), "listen is wrong"),
    "listening on a port that is none": (document(listen=[":70000"]), "no address"),
    "operations everywhere": (document(ops=":1"), "no address"),
    "a wait that is true": (document(wait_ms=True), "wait-ms is wrong"),
    "a wait that is a fraction": (document(wait_ms=0.5), "wait-ms is wrong"),
    "a wait before now": (document(wait_ms=-1), "wait-ms is wrong"),
    "a wait for ever": (document(wait_ms=86_400_001), "wait-ms is wrong"),
    "the command line's name of it": (document(wait=1), "wait is unknown"),
    "once is 1": (document(once=1), "once is wrong"),
    "once, of nobody": (document(once=True), "none is given"),
    "recovery of anything": (document(recover=True), "--domain names"),
    "recovery from a host": (document(recover=True, domain=DOMAIN, host=["a:1"]), "no host is left"),
    "a change of nothing": (document(change="c"), "goes with --recover"),
    "a PCCS without TLS": (document(pccs="http://pccs"), "https only"),
    "a PCCS that is a file": (document(pccs="file:///etc/passwd"), "https only"),
    "a PCCS with a password": (document(pccs="https://u:p@pccs"), "https only"),
    "a PCCS of two lines": (document(pccs="https://pccs/\r\nHost: x"), "https only"),
    "a CA of nothing": (document(pccs_ca="ca.pem"), "no PCCS is given"),
    "a log level that says more": (document(log_level="trace"), "log-level is wrong"),
    **{
        f"--{name}, which is not the host's to say": (document(**{name: "x"}), f"{name} is unknown")
        for name in (*REFUSED, "platform", "config", "port", "insecure", "accept-any", "measured", "mrsigner")
    },
}  # fmt: skip


@pytest.mark.parametrize(("data", "says"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_document_is_one_clear_error(data: bytes, says: str) -> None:
    with pytest.raises(Misuse) as raised:
        parse(data, STATE)
    assert says in str(raised.value)
    assert len(str(raised.value)) < 10_000


def test_what_the_launcher_may_not_write_it_says_by_the_option() -> None:
    with pytest.raises(Misuse, match=r"--host is .*; wanted is a list"):
        written("serve", USUAL | {"host": ["a:1"] * 65})
    with pytest.raises(Misuse, match="at most 65536"):
        written("serve", USUAL | {"ops": "x" * MAX_OPTIONS})


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


@given(OPTIONS_STRATEGY)
def test_whatever_the_launcher_writes_is_read(said: dict[str, object]) -> None:
    config = parse(written("serve", said), STATE).config
    assert config.keystore == STATE / str(said["keystore"])
    assert round(config.wait * 1000) == said.get("wait-ms", 30_000)
    assert [str(host) for host in config.hosts] == said.get("host", [])
