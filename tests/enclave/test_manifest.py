"""The manifest as it is signed: every key of it, and what of the host is trusted or allowed: two places and Gramine."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any, Final

import pytest
from tests.enclave.conftest import Tree
from tests.fakes.gramine_build import ROOT
from tests.fakes.gramine_build.manifest import FILLED_IN, check

from rkeyserver.cli import enclave
from rkeyserver.platforms.product import ISV_PROD_ID, ISV_SVN
from rkeyserver.platforms.sgx.measured import MEASURED

Built = tuple[Tree, str]
TEMPLATE: Final = ROOT / "packaging" / "rkeyserver.manifest.template"

# `{gramine}` is where Gramine's own files are. The reasons stand in the template.
WANTED: Final[dict[str, Any]] = {
    "loader.entrypoint.uri": "file:{gramine}/libsysdb.so",
    "loader.argv": ["/rkeyserver/bin/python3", "-I", "-S", "-B", "/rkeyserver/start.py"],
    "loader.log_level": "error",
    "loader.env.LD_LIBRARY_PATH": "/lib:/rkeyserver/lib/native",
    "loader.env.OPENSSL_CONF": "/rkeyserver/etc/openssl.cnf",
    "loader.env.MALLOC_ARENA_MAX": "1",
    "libos.entrypoint": "/rkeyserver/bin/python3",
    "fs.root.type": "tmpfs",
    "fs.mounts": [
        {"path": "/lib", "uri": "file:{gramine}/runtime/glibc"},
        {"path": "/rkeyserver", "uri": "file:enclave"},
        {"path": "/etc", "uri": "file:enclave/etc"},
        {"type": "tmpfs", "path": "/tmp"},  # noqa: S108 - in the enclave
        {"path": "/state", "uri": "file:state"},
        {"path": "/options.json", "uri": "file:options.json"},
    ],
    "sgx.file_check_policy": "strict",
    "sgx.allowed_files": ["file:state/", "file:options.json"],
    "sgx.debug": False,
    "sgx.remote_attestation": "dcap",
    "sgx.isvprodid": ISV_PROD_ID,
    "sgx.isvsvn": ISV_SVN,
    "sgx.edmm_enable": False,
    "sgx.enclave_size": "512M",
    "sgx.max_threads": 64,
    "sys.enable_sigterm_injection": True,
    "sys.enable_extra_runtime_domain_names_conf": True,
    "sys.disallow_subprocesses": True,
    "sys.stack.size": "1M",
}
# What Gramine fills in where nothing is said, for what the template leaves alone.
LEFT_ALONE: Final = {
    "sgx.enable_stats": False,
    "sgx.use_exinfo": False,
    "sgx.cpu_features.avx": "unspecified",
    "sgx.cpu_features.avx512": "unspecified",
    "sgx.cpu_features.amx": "unspecified",
    "sgx.cpu_features.mpx": "disabled",
    "sgx.cpu_features.pkru": "disabled",
}


def flat(table: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{key}.")
        else:
            yield above + key, value


@pytest.fixture(scope="module")
def manifest(built: Built) -> dict[str, Any]:
    return built[0].manifest()


def test_every_key_that_there_is(built: Built, manifest: dict[str, Any]) -> None:
    found = dict(flat(manifest))
    del found["sgx.trusted_files"]
    libos = built[0].gramine.package / "libsysdb.so"
    assert found.pop("loader.entrypoint.sha256") == hashlib.sha256(libos.read_bytes()).hexdigest()
    wanted = json.dumps(WANTED).replace("{gramine}", str(built[0].gramine.package))
    assert found == json.loads(wanted) | LEFT_ALONE


def test_what_is_insecure_by_gramines_own_word_is_not_there(manifest: dict[str, Any]) -> None:
    assert [key for key, _ in flat(manifest) if "insecure" in key or "experimental" in key] == []
    assert "passthrough" not in TEMPLATE.read_text()


def test_nothing_outside_of_the_tree_is_trusted_but_gramine_itself(built: Built, manifest: dict[str, Any]) -> None:
    tree, _ = built
    trusted = {file["uri"].removeprefix("file:"): file["sha256"] for file in manifest["sgx"]["trusted_files"]}
    package = str(tree.gramine.package)
    outside = {name for name in trusted if not name.startswith("enclave/")}
    assert {name for name in outside if not name.startswith(package)} == set()
    of_gramine = {str(path) for path in (tree.gramine.package / "runtime" / "glibc").iterdir()}
    assert outside == of_gramine | {f"{package}/libsysdb.so"}
    folder = tree.made / "enclave"
    files = {f"enclave/{path.relative_to(folder)}": path for path in folder.rglob("*") if path.is_file()}
    assert set(trusted) - outside == set(files)
    for name, path in files.items():
        assert trusted[name] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_the_host_may_write_is_under_no_place_of_code(manifest: dict[str, Any]) -> None:
    allowed = [uri.rstrip("/") for uri in manifest["sgx"]["allowed_files"]]
    mounts = {mount["path"]: mount.get("uri") for mount in manifest["fs"]["mounts"]}
    places = [path for path, uri in mounts.items() if uri in allowed]
    assert places == ["/state", "/options.json"]
    code = [*manifest["loader"]["env"]["LD_LIBRARY_PATH"].split(":"), *manifest["loader"]["argv"]]
    for place in places:
        assert not [one for one in code if one.startswith(place)]
    for file in manifest["sgx"]["trusted_files"]:
        assert not [one for one in allowed if file["uri"].startswith(one)]


def test_the_program_and_the_manifest_mean_the_same_places(built: Built, manifest: dict[str, Any]) -> None:
    mounts = {mount["path"] for mount in manifest["fs"]["mounts"]}
    assert {str(enclave.OPTIONS), str(enclave.STATE)} <= mounts
    assert enclave.ENVIRONMENT.items() <= manifest["loader"]["env"].items()
    tree = built[0].made / "enclave"
    in_the_tree = {name: tree / name.removeprefix("/rkeyserver/") for name in manifest["loader"]["argv"][::4]}
    assert all(path.is_file() for path in in_the_tree.values())
    assert (tree / enclave.ENVIRONMENT["OPENSSL_CONF"].removeprefix("/rkeyserver/")).read_bytes() == b""
    assert (tree / str(MEASURED).removeprefix("/rkeyserver/")).is_file()


def test_every_key_says_why() -> None:
    """A comment stands before each key, and before each mount."""
    lines = TEMPLATE.read_text().splitlines()
    keys = [number for number, line in enumerate(lines) if re.match(r"[a-z]\S* = |  \{ ", line)]
    assert len(keys) == len([key for key in WANTED if key != "fs.root.type"]) + len(WANTED["fs.mounts"]) + 2
    without = [lines[number] for number in keys if not lines[number - 1].lstrip().startswith("#")]
    assert without == []


@pytest.mark.parametrize("key", ["sgx.insecure__nothing", "loader.argvs", "sgxx.debug"])
def test_the_stand_in_refuses_a_key_that_gramine_does_not_know(key: str, manifest: dict[str, Any]) -> None:
    table, _, name = key.partition(".")
    with pytest.raises(SystemExit, match=f"extra keys not allowed: {key}"):
        check(manifest | {table: manifest.get(table, {}) | {name: True}})


def test_the_stand_in_refuses_the_library_os_as_it_was_named_before_gramine_1_9(manifest: dict[str, Any]) -> None:
    loader = manifest["loader"] | {"entrypoint": manifest["loader"]["entrypoint"]["uri"]}
    with pytest.raises(SystemExit, match=r"expected a dictionary: loader\.entrypoint"):
        check(manifest | {"loader": loader})


def test_the_stand_in_fills_in_what_gramine_fills_in() -> None:
    assert set(dict(flat({"sgx": FILLED_IN}))) >= set(LEFT_ALONE)
