"""The closed list of platforms, and how real hardware is recognised. Nothing registers itself; nothing falls back."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Final

from rkeyserver.attestation.sgx.anchors import TrustAnchor
from rkeyserver.errors import Misuse
from rkeyserver.platforms.interface import VerifyFunction

SGX: Final = "sgx"
SIMULATED: Final = "simulated"
PLATFORMS: Final = (SGX, "tpm", SIMULATED)

# Where the owner of the host has no say, so that nothing that he shows proves itself.
HOST_NOT_TRUSTED: Final = frozenset({SGX})

_VERIFIERS: Final = {
    SGX: "rkeyserver.attestation.sgx.verify:INTEL_SGX",
    SIMULATED: "rkeyserver.platforms.simulated.anchor:verify",
}

# Whose evidence can be judged by people, whether or not the platform itself is built.
ANCHORS: Final = {
    SGX: "rkeyserver.attestation.sgx.anchors:INTEL_SGX_ROOT",
    SIMULATED: "rkeyserver.platforms.simulated.anchor:SIMULATED_ROOT",
}

_HARDWARE: Final = {
    SGX: ("/dev/attestation/attestation_type", "/dev/sgx_enclave", "/dev/sgx/enclave"),
    "tpm": ("/dev/tpmrm0",),
}


def detect(exists: Callable[[Path], bool] = Path.exists) -> str:
    """The name of the real platform of this machine, the strongest first.

    Raises: Misuse where there is none, with the ways on; never `simulated`.
    """
    for name, devices in _HARDWARE.items():
        if any(exists(Path(device)) for device in devices):
            return name
    looked = ", ".join(device for devices in _HARDWARE.values() for device in devices)
    raise Misuse(
        f"This machine has no SGX and no TPM that can be seen (looked for {looked}).",
        advice="On a machine with SGX, turn it on in the BIOS and load its driver. To try the server out without any "
        "protection, say --platform simulated.",
    )


def check_built(name: str) -> None:
    """Whether platform `name` is part of this program: there is one for each in an image that has it.

    Raises: Misuse.
    """
    if name not in _VERIFIERS or find_spec(f"rkeyserver.platforms.{name}") is None:
        raise Misuse(
            f"Platform {name} is not built into this program.",
            advice="An enclave image has `sgx` alone, and there is no `tpm` yet. To try the server out without any "
            "protection, build it with make and say --platform simulated.",
        )


def load_verifier(name: str) -> VerifyFunction:
    """What verifies evidence of platform `name`, under that platform's own trust anchor and no other.

    Raises: Misuse if the platform is not built.
    """
    check_built(name)
    found: VerifyFunction = resolve_name(_VERIFIERS[name])
    return found


def load_anchor(name: str) -> TrustAnchor:
    """The trust anchor of platform `name`, one of ANCHORS."""
    found: TrustAnchor = resolve_name(ANCHORS[name])
    return found
