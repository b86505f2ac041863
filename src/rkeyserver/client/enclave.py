"""What an enclave brings to attested release: its attester, its entry in a policy, and what servers have to be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.attestation.evidence import REPORT_DATA_SIZE, Attester
from rkeyserver.attestation.sgx import fields
from rkeyserver.clock import Clock

SIMULATED_PRODUCT: Final = 1000  # of the stand-ins for other programs' enclaves; the server's own is another
_LEAST_EVALUATION: Final = {"sgx": 17, "simulated": 1}


def gramine() -> Attester:
    """The Gramine enclave that this process runs in.

    Raises: Misuse outside of one; Unavailable if it gives no quote now.
    """
    from rkeyserver.platforms.sgx import device  # noqa: PLC0415 - no other platform is loaded
    from rkeyserver.platforms.sgx.platform import KeyPolicy, SgxPlatform  # noqa: PLC0415 - as above

    return SgxPlatform.open(device.Device(device.DEVICE), KeyPolicy.MRENCLAVE)


def simulated(folder: Path, code: bytes, *, isv_prod_id: int = SIMULATED_PRODUCT, isv_svn: int = 1) -> Attester:
    """An enclave whose code is `code`, on the simulated machine of a folder (made there). It protects nothing.

    Raises: Misuse, Unavailable if the folder cannot be used.
    """
    from rkeyserver.platforms.simulated import image, keys  # noqa: PLC0415 - no other platform is loaded
    from rkeyserver.platforms.simulated.platform import SimulatedPlatform  # noqa: PLC0415 - as above
    from rkeyserver.platforms.simulated.processor import open_processor  # noqa: PLC0415 - as above

    signed = image.sign_image(code, keys.image_signing_key(), isv_prod_id, isv_svn)
    return SimulatedPlatform(open_processor(folder), image.load_signed(signed), folder=folder, clock=Clock())


def servers(
    platform: str,
    *,
    mrsigner: str,
    isv_prod_id: int,
    min_isv_svn: int = 1,
    machines: Sequence[str] | None = None,
    mrenclave: Sequence[str] | None = None,
) -> Policy:
    """What a server has to be: rkeyserver, signed by whom and which product of theirs, from which version on.

    machines: PPIDs (hex), None for any: which machines have the domain's key is for the domain's own policy to say.
    mrenclave: the very images, None for all of that signer and product. Who wants another rule reads a policy of his
    own with appraisal.policy.parse_policy().

    Raises: Misuse.
    """
    named = {
        "machines": "any" if machines is None else list(machines),
        "mrenclave": "any" if mrenclave is None else list(mrenclave),
        "mrsigner": [mrsigner],
        "isv_prod_id": isv_prod_id,
        "min_isv_svn": min_isv_svn,
    }
    return parse_policy(f"version = 1\n\n[{platform}]\n{_rows(named, platform)}")


def entry(attester: Attester, labels: Sequence[str]) -> str:
    """The [[enclaves]] table that names this very enclave, on this machine, for these labels: TOML, for a policy.

    Raises: Unavailable if the platform gives no evidence now.
    """
    found = fields.report(fields.parts(attester.evidence(bytes(REPORT_DATA_SIZE))).report)
    own = attester.attester_identity()
    named = {
        "may": ["derive"],
        "labels": list(labels),
        "machines": [own.machine],
        "mrenclave": [found["mrenclave"]],
        "mrsigner": [found["mrsigner"]],
        "isv_prod_id": found["isv_prod_id"],
        "min_isv_svn": found["isv_svn"],
    }
    return f"[[enclaves]]\n{_rows(named, own.platform)}"


def _rows(named: dict[str, Any], platform: str) -> str:
    common = {
        "tcb_statuses": ["UpToDate", "SWHardeningNeeded"],
        "out_of_date_grace_days": 0,
        "rejected_advisories": "none",
        "min_tcb_evaluation_data_number": _LEAST_EVALUATION.get(platform, 1),
        "dynamic_platform": "accept",
        "cached_keys": "accept",
        "smt": "accept",
    }
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in (named | common).items())  # TOML has it so too
