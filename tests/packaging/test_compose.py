"""compose.yaml: of the right form, confined, and without a way to make a second key by leaving something out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import compose_spec
import pytest
import yaml
from tests.packaging.said import PACKAGING, PROGRAM, STATE, check_paths, configured

from rkeyserver.config import DEFAULT_OPS
from rkeyserver.errors import Misuse

FOLDER = PACKAGING / "docker"
TEXT = (FOLDER / "compose.yaml").read_text()
EXAMPLE = (FOLDER / "example.env").read_text()
DOMAIN = "00112233445566778899aabbccddeeff"
SERVERS = ("first", "primary", "backup")
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def example(*, commented: bool = False) -> dict[str, str]:
    text = re.sub(r"(?m)^#(?=[A-Z_]+=)", "", EXAMPLE) if commented else EXAMPLE
    return dict(line.split("=", 1) for line in text.splitlines() if re.match("[A-Z_]+=", line))


def told(env: Mapping[str, str]) -> str:
    """The file with its variables put in, as Compose does it."""

    def value(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if env.get(name):
            return env[name]
        if kind == "?":
            raise LookupError(rest)
        return rest or ""

    # Those in comments as well: they have none.
    return VARIABLE.sub(value, TEXT)


def parsed(env: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(told(env))
    return found


def check(text: str) -> None:
    """By the Compose Specification: form, values, and that what is named is there."""
    merged = yaml.safe_dump(yaml.safe_load(text))  # the library knows no merge within what is shared
    found = compose_spec.PyCompose.from_yaml(merged)
    found.validate()
    found.to_spec()


# What only the host knows, and what the first start says.
OWN = {"SGX_GID": "106", "SGX_PRV_GID": "107"}
READY = {**example(commented=True), **OWN, "RKEY_DOMAIN": DOMAIN, "RKEY_HOST": "rk1.example"}


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = parsed(READY)["services"][name]
    return found


@pytest.mark.parametrize("env", [{**example(), **OWN}, READY], ids=["before the first start", "with everything said"])
def test_of_the_form_that_compose_takes(env: Mapping[str, str]) -> None:
    check(told(env))


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        pytest.param(": unless-stopped", ": perhaps", "unknown variant `perhaps`", id="a value that is none"),
        pytest.param("period: 15s", "period: soon", "duration `soon`", id="a duration that is none"),
        pytest.param("source: qcnl", "source: nowhere", "config `nowhere`", id="a config that is not there"),
        pytest.param("source: pccs-key", "source: nowhere", "secret `nowhere`", id="a secret that is not there"),
        pytest.param("source: aesmd\n", "source: nowhere\n", "volume `nowhere`", id="a volume that is not there"),
        pytest.param('"8888:8888"', '"8888:88888"', "parsing `88888`", id="a port that is none"),
        pytest.param("read_only: true\n", "read_only: [1]\n", "invalid type: sequence", id="a type that is wrong"),
        pytest.param("service_healthy", "service_happy", "unknown variant `service_happy`", id="no such condition"),
        pytest.param("pids_limit", "pids_limits", "key `pids_limits`", id="no such key of a service"),
        pytest.param("create_host_path", "make_host_path", "key `make_host_path`", id="no such key of a mount"),
    ],
)
def test_a_fault_would_be_found(right: str, wrong: str, complaint: str) -> None:
    text = told(READY)
    assert right in text
    with pytest.raises(ValueError, match=re.escape(complaint)):
        check(text.replace(right, wrong))


def test_every_variable_is_in_the_example_and_the_other_way_round() -> None:
    assert {found[1] for found in VARIABLE.finditer(TEXT)} == set(example(commented=True))


@pytest.mark.parametrize("name", [found[1] for found in VARIABLE.finditer(TEXT) if found[2] == "?"])
def test_what_is_needed_is_asked_for(name: str) -> None:
    with pytest.raises(LookupError, match=r"this host|by tag or digest"):
        told({**READY, name: ""})


def test_as_it_is_shipped_it_asks_for_the_groups_of_the_host() -> None:
    with pytest.raises(LookupError, match="the group sgx on this host"):
        told(example())


@pytest.mark.parametrize("name", ["aesmd", "pccs", *SERVERS])
def test_confined(name: str) -> None:
    one = service(name)
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert int(one["user"].split(":")[0]) >= 10_000
    unwanted = {
        "privileged",
        "cap_add",
        "network_mode",
        "pid",
        "ipc",
        "userns_mode",
        "environment",
        "env_file",
        "build",
    }
    assert not unwanted & set(one)
    assert re.search(r":[0-9][\w.-]*$|@sha256:[0-9a-f]{64}$", one["image"]), "pinned by tag or digest"


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        *((name, ["/dev/sgx_enclave"]) for name in SERVERS),
        ("aesmd", ["/dev/sgx_enclave", "/dev/sgx_provision"]),
        ("pccs", []),
    ],
)
def test_devices(name: str, devices: list[str]) -> None:
    assert service(name).get("devices", []) == [f"{path}:{path}" for path in devices]
    groups = [READY["SGX_GID"], READY["SGX_PRV_GID"]][: len(devices)]
    assert service(name).get("group_add", []) == groups


@pytest.mark.parametrize(
    ("name", "ports"),
    [*((name, ["8888:8888", "4433:4433"]) for name in SERVERS), ("aesmd", []), ("pccs", ["8081:8081"])],
)
def test_only_these_ports_are_published(name: str, ports: list[str]) -> None:
    assert service(name).get("ports", []) == ports
    assert str(DEFAULT_OPS.port) not in str(service(name))


@pytest.mark.parametrize("name", SERVERS)
def test_state_is_a_folder_that_has_to_be_there(name: str) -> None:
    state, socket = service(name)["volumes"]
    assert (state["type"], state["target"]) == ("bind", str(STATE))
    assert state["bind"] == {"create_host_path": False}
    assert socket == {"type": "volume", "source": "aesmd", "target": "/var/run/aesmd", "read_only": True}


@pytest.mark.parametrize("name", SERVERS)
def test_command_is_one_that_the_program_takes(name: str) -> None:
    config = configured(service(name)["command"])
    check_paths(config)
    assert [host.host for host in config.hosts] == (["rk1.example"] if name == "backup" else [])
    assert config.domain == (None if name == "first" else DOMAIN)
    assert config.pccs == READY["RKEY_PCCS"]


@pytest.mark.parametrize("name", ["primary", "backup"])
def test_no_second_key_for_want_of_a_domain(name: str) -> None:
    with pytest.raises(Misuse, match="--domain"):
        configured(parsed({**READY, "RKEY_DOMAIN": ""})["services"][name]["command"])


def test_no_backup_without_a_host() -> None:
    with pytest.raises(Misuse):
        configured(parsed({**READY, "RKEY_HOST": ""})["services"]["backup"]["command"])


def test_the_one_that_makes_a_key_is_started_by_its_name_alone() -> None:
    assert service("first")["profiles"] == ["first"]
    assert service("first")["restart"] == "no"
    assert [service(name)["profiles"] for name in SERVERS] == [["first"], ["primary"], ["backup"]]
    assert "first" not in str(service("primary")) + str(service("backup"))


def test_what_is_secret_comes_as_a_file() -> None:
    found = parsed(READY)
    assert set(found["secrets"]) == {"pccs-config", "pccs-key"}
    assert all(set(one) == {"file"} for one in (*found["secrets"].values(), *found["configs"].values()))
    assert {one["source"] for one in service("pccs")["secrets"]} == set(found["secrets"])
    assert not any("secrets" in service(name) for name in ("aesmd", *SERVERS))


def test_stopped_as_the_program_stops() -> None:
    for name in SERVERS:
        assert service(name)["stop_signal"] == "SIGTERM"
        assert service(name)["stop_grace_period"] == "15s"


def test_aesmd_asks_the_pccs_and_verifies_it() -> None:
    asked = json.loads((FOLDER / "sgx_default_qcnl.conf").read_text())
    assert asked["use_secure_cert"] is True
    assert asked["pck_cache_expire_hours"] >= 24 * 30, "a machine has to start while the PCCS is away"
    kept = {one["target"]: one["source"] for one in service("aesmd")["volumes"]}
    assert kept["/var/opt/aesmd"] == "quoting"
    port = service("pccs")["ports"][0].split(":")[0]
    assert asked["pccs_url"] == f"https://pccs:{port}/sgx/certification/v4/"


def test_the_status_that_the_head_shows_is_a_command() -> None:
    assert f"exec primary {PROGRAM} status" in TEXT
