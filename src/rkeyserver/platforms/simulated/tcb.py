"""The TCB of simulated machines: all of one model, and one CPUSVN for each status that Intel knows."""

from __future__ import annotations

import json
from typing import Final

from rkeyserver.clock import utc
from rkeyserver.platforms.simulated.keys import QE_MRSIGNER

FMSPC: Final = bytes.fromhex("00534d554c00")
PCE_ID: Final = bytes(2)
SGX_TYPE_STANDARD: Final = 0
EVALUATION_DATA_NUMBER: Final = 20
QE_ISV_PROD_ID: Final = 1
QE_ISV_SVN: Final = 8
QE_ATTRIBUTES: Final = bytes.fromhex("1500000000000000e700000000000000")  # INIT, 64-bit, provisioning key
CURRENT_PCE_SVN: Final = 13

VALID_FOR: Final = 30 * 86400

_TCB_DATE: Final = "2026-01-01T00:00:00Z"
_ADVISORY: Final = "SIMULATED-SA-00001"
_ADVISORY_OUT_OF_DATE: Final = "SIMULATED-SA-00002"

# A machine's status is set by its CPUSVN. For each: the least first component of it, and the advisories; best first.
LEVELS: Final[dict[str, tuple[int, tuple[str, ...]]]] = {
    "UpToDate": (7, ()),
    "SWHardeningNeeded": (6, (_ADVISORY,)),
    "ConfigurationNeeded": (5, ()),
    "ConfigurationAndSWHardeningNeeded": (4, (_ADVISORY,)),
    "OutOfDate": (3, (_ADVISORY_OUT_OF_DATE,)),
    "OutOfDateConfigurationNeeded": (2, (_ADVISORY_OUT_OF_DATE,)),
    "Revoked": (1, (_ADVISORY_OUT_OF_DATE,)),
}


def cpu_svn(status: str) -> bytes:
    """The CPUSVN (16 bytes) of a machine whose TCB has `status`."""
    return bytes([LEVELS[status][0]]).ljust(16, b"\0")


CURRENT_CPU_SVN: Final = cpu_svn("UpToDate")


def tcb_info(issued: int) -> str:
    """TCB info, version 3 of Intel's PCS v4 API, as JSON to be signed; `issued` in seconds since 1970."""
    levels = []
    for status, (first, advisories) in LEVELS.items():
        components = [{"svn": first}, *({"svn": 0} for _ in range(15))]
        level: dict[str, object] = {
            "tcb": {"sgxtcbcomponents": components, "pcesvn": 0},
            "tcbDate": _TCB_DATE,
            "tcbStatus": status,
        }
        if advisories:
            level["advisoryIDs"] = advisories
        levels.append(level)
    return _document(
        {
            "id": "SGX",
            "version": 3,
            "issueDate": utc(issued),
            "nextUpdate": utc(issued + VALID_FOR),
            "fmspc": FMSPC.hex().upper(),
            "pceId": PCE_ID.hex(),
            "tcbType": 0,
            "tcbEvaluationDataNumber": EVALUATION_DATA_NUMBER,
            "tcbLevels": levels,
        }
    )


def qe_identity(issued: int) -> str:
    """The quoting enclave's identity, version 2 of the same API, as JSON to be signed."""
    return _document(
        {
            "id": "QE",
            "version": 2,
            "issueDate": utc(issued),
            "nextUpdate": utc(issued + VALID_FOR),
            "tcbEvaluationDataNumber": EVALUATION_DATA_NUMBER,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": QE_MRSIGNER.hex().upper(),
            "isvprodid": QE_ISV_PROD_ID,
            "tcbLevels": [{"tcb": {"isvsvn": QE_ISV_SVN}, "tcbDate": _TCB_DATE, "tcbStatus": "UpToDate"}],
        }
    )


def _document(content: dict[str, object]) -> str:
    return json.dumps(content, separators=(",", ":"))
