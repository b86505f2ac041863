"""The Helm chart: rendered by Helm's engine, valid Kubernetes objects, confined, and never two instances that mint."""

from __future__ import annotations

import copy
import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from tests.fakes.processes import Machines
from tests.packaging.said import PACKAGING, PROGRAM, check_paths, configured
from tests.packaging.wrong_values import WRONG, Values

import rkeyserver
from rkeyserver.config import Config

CHART = PACKAGING / "helm" / "rkeyserver"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
OLDEST, NEWEST = "1.29", kubernetes_validate.latest_version()
Thing = dict[str, Any]


def example(name: str) -> Values:
    found: Values = yaml.safe_load((CHART / "examples" / f"{name}.yaml").read_text())
    return found


def changed(name: str) -> Values:
    start, change, _ = WRONG[name]
    values = copy.deepcopy(example(start))
    change(values)
    return values


def case(values: Values, *, upgrade: bool = False, name: str = "prod") -> dict[str, object]:
    return {"values": values, "upgrade": upgrade, "name": name}


def render(cases: list[dict[str, object]]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("render.py")],
        input=json.dumps({"chart": str(CHART), "cases": cases}),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@functools.cache
def rendered() -> dict[str, Any]:
    """All cases at once, by their names, and what lint found."""
    named = {path.stem: case(example(path.stem)) for path in EXAMPLES}
    named |= {name: case(changed(name)) for name in WRONG}
    named["upgraded as first"] = case(example("first"), upgrade=True)
    named["as it is shipped"] = case({})
    long = example("first") | {"primary": "m" * 24}
    long["machines"][0]["name"] = "m" * 24
    named["of long names"] = case(long, name="r" * 53)
    found = render(list(named.values()))
    return {"lint": found["lint"], **dict(zip(named, found["results"], strict=True))}


def things(name: str) -> list[Thing]:
    """The objects that are made of an example."""
    texts: dict[str, str] = rendered()[name]["manifests"]
    every = [yaml.safe_load_all(text) for path, text in texts.items() if path.endswith(".yaml")]
    return [thing for documents in every for thing in documents if thing is not None]


def of_kind(name: str, kind: str) -> list[Thing]:
    return [thing for thing in things(name) if thing["kind"] == kind]


def pods(name: str) -> dict[str, Thing]:
    """Of each machine, what its pod is made of."""
    sets = of_kind(name, "StatefulSet")
    return {one["metadata"]["labels"]["rkeyserver/machine"]: one["spec"]["template"]["spec"] for one in sets}


def containers(pod: Thing) -> Iterator[Thing]:
    yield from pod.get("initContainers", [])
    yield from pod["containers"]


def configs(name: str) -> dict[str, Config]:
    return {machine: configured(pod["containers"][0]["args"]) for machine, pod in pods(name).items()}


each_example = pytest.mark.parametrize("name", [path.stem for path in EXAMPLES])


def test_lint_finds_no_fault() -> None:
    found = rendered()["lint"]
    assert found["errors"] == []
    assert [one["error"] for one in found["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_refused_in_words(name: str) -> None:
    found = rendered()[name]
    assert "manifests" not in found
    assert WRONG[name][2] in found["error"]


def test_no_upgrade_makes_a_key() -> None:
    assert "firstStart is for the installation alone" in rendered()["upgraded as first"]["error"]


def test_nothing_is_made_of_values_that_nobody_gave() -> None:
    assert "/image/repository" in rendered()["as it is shipped"]["error"]


@each_example
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_objects_are_valid(name: str, version: str) -> None:
    for thing in things(name):
        kubernetes_validate.validate(thing, version, strict=True)


def test_an_object_that_is_not_valid_would_be_found() -> None:
    (one,) = of_kind("first", "StatefulSet")
    one["spec"]["template"]["spec"]["containers"][0]["securityContext"]["privilegd"] = False
    with pytest.raises(kubernetes_validate.ValidationError, match="privilegd"):
        kubernetes_validate.validate(one, NEWEST, strict=True)


def test_no_name_is_too_long() -> None:
    (one,) = of_kind("of long names", "StatefulSet")
    name = one["metadata"]["name"]
    assert name.endswith("-" + "m" * 24)
    assert len(name) <= 52, "Kubernetes puts a hash behind it, into a label of 63 characters"
    kubernetes_validate.validate(one, NEWEST, strict=True)


@each_example
def test_nothing_else_is_made(name: str) -> None:
    kinds = {"ConfigMap", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount", "StatefulSet"}
    assert {thing["kind"] for thing in things(name)} <= kinds, "no ingress, no role, no secret"
    (service,) = of_kind(name, "Service")
    assert service["spec"]["clusterIP"] == "None"
    assert [port["port"] for port in service["spec"]["ports"]] == [8888, 4433]


@each_example
def test_one_instance_for_each_machine(name: str) -> None:
    asked = {one["name"]: one for one in example(name)["machines"]}
    assert set(pods(name)) == set(asked)
    for one in of_kind(name, "StatefulSet"):
        assert one["spec"]["replicas"] == 1
        assert one["spec"]["updateStrategy"] == {"type": "OnDelete"}
        assert one["spec"]["selector"]["matchLabels"].items() <= one["spec"]["template"]["metadata"]["labels"].items()
    for machine, pod in pods(name).items():
        assert pod["nodeSelector"]["kubernetes.io/hostname"] == asked[machine]["node"]
        (state,) = [one for one in pod["volumes"] if one["name"] == "state"]
        if "folder" in asked[machine]:
            assert state["hostPath"] == {"path": asked[machine]["folder"], "type": "Directory"}
        else:
            assert state["persistentVolumeClaim"] == {"claimName": asked[machine]["claim"]}


@each_example
def test_arguments_are_ones_that_the_program_takes(name: str) -> None:
    values = example(name)
    for config in configs(name).values():
        check_paths(config)
        assert config.domain == values.get("domain")
        assert config.pccs == values.get("pccs", {}).get("url")


def test_only_the_first_start_can_make_a_key_and_there_is_one() -> None:
    """Without a domain and without a host: that is what mints on an empty keystore."""
    minting = {
        (path.stem, machine)
        for path in EXAMPLES
        for machine, config in configs(path.stem).items()
        if config.domain is None or not (config.hosts or config.domain)
    }
    assert minting == {("first", "one")}


def test_whatever_is_said_no_two_can_mint_and_no_two_ask_nobody() -> None:
    """Every combination of what decides it; those that are refused are as good."""
    machines = [{"name": name, "node": f"node-{name}", "folder": "/srv"} for name in ("one", "two", "three")]
    said = [
        {"firstStart": first, "domain": domain, "machines": machines[:count], "primary": primary, "hosts": hosts}
        for first in (True, False)
        for domain in ("", "00112233445566778899aabbccddeeff", "00112233")
        for count in range(4)
        for primary in ("", "one", "two")
        for hosts in ([], ["198.51.100.7"])
    ]
    cases = [case(example("first") | one, upgrade=upgrade) for one in said for upgrade in (False, True)]
    accepted = 0
    for asked, result in zip(cases, render(cases)["results"], strict=True):
        if "manifests" not in result:
            continue
        accepted += 1
        sets = yaml.safe_load_all(result["manifests"]["rkeyserver/templates/statefulset.yaml"])
        found = [
            configured(one["spec"]["template"]["spec"]["containers"][0]["args"]) for one in sets if one is not None
        ]
        values = asked["values"]
        assert isinstance(values, dict)
        minting = [config for config in found if config.domain is None]
        assert len([config for config in found if not config.hosts]) <= 1
        assert not minting or (values["firstStart"] and not asked["upgrade"] and len(found) == 1)
    # The first start, and with a domain, in an installation and in an upgrade: one machine that asks nobody or has
    # hosts, two or three with any one of theirs that asks nobody, or none.
    assert accepted == 1 + 2 * (3 + 6 + 6)


def test_one_asks_nobody_or_none_does() -> None:
    alone = {path.stem: [m for m, config in configs(path.stem).items() if not config.hosts] for path in EXAMPLES}
    assert alone == {"first": ["one"], "primary-and-backups": ["one"], "at-rest": []}


def test_each_backup_asks_every_other_machine() -> None:
    found = configs("primary-and-backups")
    (service,) = of_kind("primary-and-backups", "Service")
    domain = f"{service['metadata']['name']}.keys.svc.cluster.local"
    names = {f"{one['metadata']['name']}-0.{domain}" for one in of_kind("primary-and-backups", "StatefulSet")}
    assert {host.host for host in found["two"].hosts} == {name for name in names if "-two-" not in name}
    assert {host.port for host in found["two"].hosts} == {8888}
    assert {one["spec"]["serviceName"] for one in of_kind("primary-and-backups", "StatefulSet")} == {
        service["metadata"]["name"]
    }
    assert [str(host) for host in configs("at-rest")["one"].hosts][1:] == ["198.51.100.7:8888", "[2001:db8::7]:8888"]


@each_example
def test_confined(name: str) -> None:
    for pod in pods(name).values():
        assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & set(pod)
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for one in containers(pod):
            context = one["securityContext"]
            assert context["runAsUser"] == context["runAsGroup"] >= 10_000
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "privileged" not in context
            assert not {"env", "envFrom", "livenessProbe", "lifecycle"} & set(one)
            assert re.search(r":[0-9][\w.-]*$|@sha256:[0-9a-f]{64}$", one["image"])
            assert [port["containerPort"] for port in one.get("ports", [])] in ([], [8888, 4433])
    (account,) = of_kind(name, "ServiceAccount")
    assert account["automountServiceAccountToken"] is False


@each_example
def test_sgx_resources_by_the_names_of_the_device_plugin(name: str) -> None:
    for pod in pods(name).values():
        sgx = {
            one["name"]: {key for key in one["resources"]["limits"] if key.startswith("sgx.intel.com/")}
            for one in containers(pod)
        }
        enclave = {"sgx.intel.com/epc", "sgx.intel.com/enclave"}
        assert sgx.pop("rkeyserver") == enclave, "quotes are aesmd's work"
        assert all(one == enclave | {"sgx.intel.com/provision"} for one in sgx.values())


@each_example
def test_network(name: str) -> None:
    (policy,) = of_kind(name, "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    ingress, applications = policy["spec"]["ingress"]
    assert ingress["ports"] == [{"port": "peers", "protocol": "TCP"}]
    blocks = [one["ipBlock"]["cidr"] for one in ingress["from"] if "ipBlock" in one]
    assert blocks == example(name)["networkPolicy"].get("peers", [])
    assert applications["ports"] == [{"port": "applications", "protocol": "TCP"}]
    pods, *blocks = applications["from"]
    assert pods == {"podSelector": {"matchLabels": {"rkeyserver/application": policy["metadata"]["name"]}}}
    assert blocks == [{"ipBlock": {"cidr": one}} for one in example(name)["networkPolicy"].get("applications", [])]
    assert all(rule.get("to") for rule in policy["spec"]["egress"])


@each_example
def test_a_drained_node_takes_one_machine(name: str) -> None:
    (budget,) = of_kind(name, "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1


def test_aesmd_asks_the_pccs_and_verifies_it() -> None:
    (settings,) = of_kind("first", "ConfigMap")
    asked = json.loads(settings["data"]["sgx_default_qcnl.conf"])
    assert asked["use_secure_cert"] is True
    assert asked["pccs_url"] == example("first")["pccs"]["url"] + "/"
    assert of_kind("at-rest", "ConfigMap") == []
    (socket,) = [one for one in pods("at-rest")["one"]["volumes"] if one["name"] == "aesmd"]
    assert socket["hostPath"] == {"path": "/run/aesmd", "type": "Directory"}


def test_version_is_the_programs() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == rkeyserver.__version__


def ready(ops: str, folder: Path) -> int:
    """What the readiness probe says of an instance that listens elsewhere than in a container."""
    (shell, option, line) = pods("first")["one"]["containers"][0]["readinessProbe"]["exec"]["command"]
    program = folder / "program"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rkeyserver "$@" --ops {ops}\n')
    program.chmod(0o755)
    assert line.startswith(PROGRAM)
    moved = [shell, option, line.replace(PROGRAM, str(program))]
    env = {"PYTHONPATH": str(PACKAGING.parent / "src"), "PATH": "/usr/bin:/bin"}
    return subprocess.run(moved, env=env, capture_output=True, check=False, timeout=30).returncode


def test_ready_with_a_keyring_and_not_before(machines: Machines, tmp_path: Path) -> None:
    primary, backup = machines("primary"), machines("backup")
    assert ready(primary.ops, tmp_path) != 0, "nothing answers"
    running = backup.begin("-i", primary.address, "--wait", "600")
    running.err.wait_for("Asking again")
    assert ready(backup.ops, tmp_path) != 0, "it has no keyring yet"
    primary.start()
    running.ready()
    assert ready(backup.ops, tmp_path) == 0
