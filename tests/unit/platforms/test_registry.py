from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from tests.fakes.processes import environment

import rkeyserver.platforms
from rkeyserver.attestation.sgx.verify import SgxVerifier
from rkeyserver.config import PlatformName
from rkeyserver.errors import Misuse
from rkeyserver.platforms import registry
from rkeyserver.platforms.registry import PLATFORMS, SIMULATED, check_built, detect, load_verifier

SGX = ("/dev/attestation/attestation_type", "/dev/sgx_enclave", "/dev/sgx/enclave")
TPM = "/dev/tpmrm0"


def having(*devices: str) -> Callable[[Path], bool]:
    return lambda path: str(path) in devices


FOUND: dict[str, tuple[tuple[str, ...], str]] = {
    **{f"SGX by {device}": ((device,), "sgx") for device in SGX},
    "TPM": ((TPM,), "tpm"),
    "both": ((TPM, SGX[1]), "sgx"),
    "all": ((TPM, *SGX), "sgx"),
}


@pytest.mark.parametrize(("devices", "name"), FOUND.values(), ids=FOUND)
def test_hardware_is_recognised_the_strongest_first(devices: tuple[str, ...], name: str) -> None:
    assert detect(having(*devices)) == name


def test_without_hardware_there_is_no_platform_and_never_the_simulated_one() -> None:
    with pytest.raises(Misuse) as raised:
        detect(having("/dev/tpm0", "/dev/sgx", "/dev/simulated", "/dev/null"))
    assert [device for device in (*SGX, TPM) if device not in raised.value.message] == []
    assert "--platform simulated" in raised.value.advice
    assert "without any protection" in raised.value.advice


def test_hardware_is_looked_for_on_this_machine() -> None:
    looked: list[Path] = []

    def nothing(path: Path) -> bool:
        looked.append(path)
        return False

    with pytest.raises(Misuse):
        detect(nothing)
    assert all(path.is_absolute() and path.parts[1] == "dev" for path in looked)
    assert SIMULATED not in registry._HARDWARE


def test_the_list_is_closed_and_the_same_everywhere() -> None:
    assert set(PLATFORMS) == set(get_args(PlatformName))
    assert set(registry._HARDWARE) == set(PLATFORMS) - {SIMULATED}
    with pytest.raises(TypeError):
        PLATFORMS[0] = "other"  # type: ignore[index]  # that is what is tried


def test_every_platform_s_package_is_on_the_list() -> None:
    packages = {one.name for one in pkgutil.iter_modules(rkeyserver.platforms.__path__) if one.ispkg}
    assert packages <= set(PLATFORMS)
    assert set(registry._VERIFIERS) == packages


NOT_BUILT = ["tpm", "", "SIMULATED", "simulated ", "sgx2", "os"]


@pytest.mark.parametrize("name", NOT_BUILT)
def test_a_platform_that_is_not_built_says_so_and_nothing_takes_its_place(name: str) -> None:
    for refuse in (check_built, load_verifier):
        with pytest.raises(Misuse, match="not built into this program") as raised:
            refuse(name)
        assert f"Platform {name} " in raised.value.message
        assert "without any protection" in raised.value.advice


def test_a_platform_s_verifier_has_that_platform_s_own_anchor() -> None:
    check_built(SIMULATED)
    verifier = load_verifier(SIMULATED)
    assert isinstance(verifier, SgxVerifier)
    assert verifier.platform == SIMULATED
    assert "PUBLIC DEVELOPMENT ROOT" in verifier.anchor.name


def test_every_verifier_on_the_list_can_be_loaded() -> None:
    for place in registry._VERIFIERS.values():
        module, _, name = place.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_no_platform_is_loaded_before_it_is_named() -> None:
    code = """
import sys
from rkeyserver.platforms import registry
assert not [name for name in sys.modules if name.startswith("rkeyserver.platforms.simulated")]
registry.load_verifier("simulated")
assert "rkeyserver.platforms.simulated.anchor" in sys.modules
assert "rkeyserver.platforms.simulated.pki" not in sys.modules, "a verifier has no authority's keys"
"""
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True, timeout=60)
