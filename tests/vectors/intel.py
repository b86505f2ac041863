"""Genuine Intel quotes with their genuine collateral, kept beside the repository; MANIFEST.json says what each is."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from rkeyserver.attestation.sgx.anchors import INTEL_SGX_ROOT
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.attestation.sgx.verify import SgxVerifier

FOLDER: Final = Path(__file__).parents[3] / "shared" / "vectors"
INTEL: Final = SgxVerifier(platform="sgx", anchor=INTEL_SGX_ROOT)

# Both quotes have 32 bytes of authentication data, so all their parts begin at the same places.
CERTIFICATION_TYPE: Final = 1046
CHAIN: Final = 1052
_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_END: Final = b"-----END CERTIFICATE-----"


@cache
def manifest() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "MANIFEST.json").read_text())
    return found


@cache
def read(name: str) -> bytes:
    """A file of the vectors, which has to be what the manifest says it is."""
    contents = (FOLDER / name).read_bytes()
    if hashlib.sha256(contents).hexdigest() != manifest()["files"][name]["sha256"]:
        raise ValueError(f"{name} is not the file that MANIFEST.json lists")
    return contents


def item(name: str) -> dict[str, Any]:
    (found,) = (one for one in manifest()["items"] if one["name"] == name)
    return dict(found)


@dataclass
class Submission:
    """What a verifier is given."""

    quote: bytes
    collateral: dict[str, str]
    report_data: bytes
    now: int
    verifier: SgxVerifier = field(default=INTEL)

    def verify(self) -> SgxClaims:
        return self.verifier(self.quote, json.dumps(self.collateral).encode(), self.report_data, self.now)

    def flip(self, offset: int, bit: int = 0) -> None:
        """Flip one bit of the quote; a changed report data is the wanted one."""
        self.quote = flipped(self.quote, offset, bit)
        self.report_data = self.quote[368:432]

    def flip_part(self, part: str, offset: int) -> None:
        """Flip a bit of a part of the collateral that is kept in hex."""
        self.collateral[part] = flipped(bytes.fromhex(self.collateral[part]), offset).hex()

    def edit_part(self, part: str, found: str, wanted: str) -> None:
        """Put `wanted` in the first place of `found` in a part of the collateral."""
        if found not in self.collateral[part]:
            raise ValueError(f"{part} has no {found!r}")
        self.collateral[part] = self.collateral[part].replace(found, wanted, 1)

    def set_certification(self, data: bytes) -> None:
        """Put other certification data into the quote, with lengths that fit."""
        kind = self.quote[CERTIFICATION_TYPE : CERTIFICATION_TYPE + 2]
        rest = self.quote[436:CERTIFICATION_TYPE] + kind + len(data).to_bytes(4, "little") + data
        self.quote = self.quote[:432] + len(rest).to_bytes(4, "little") + rest

    def flip_certificate(self, which: int, offset: int) -> None:
        """Flip a bit in the DER of the quote's certificate number `which`: PCK leaf, PCK CA, root."""
        certificates = chain(self.quote[CHAIN:])
        certificates[which] = flipped(certificates[which], offset)
        self.set_certification(b"".join(map(pem, certificates)))


def submission(name: str) -> Submission:
    """The genuine one, at the time that the manifest gives."""
    about = item(name)
    return Submission(
        quote=read(f"{name}/quote.bin"),
        collateral=json.loads(read(f"{name}/collateral.json")),
        report_data=bytes.fromhex(about["quote"]["report_data"]),
        now=about["expected"]["now"],
    )


def at(given: Submission, now: int) -> Submission:
    return replace(given, now=now)


def flipped(data: bytes, offset: int, bit: int = 0) -> bytes:
    changed = bytearray(data)
    changed[offset] ^= 1 << bit
    return bytes(changed)


def chain(text: bytes) -> list[bytes]:
    """The DER certificates of a PEM chain."""
    return [base64.b64decode(part.split(_END)[0]) for part in text.split(_BEGIN)[1:]]


def pem(der: bytes) -> bytes:
    """A certificate as Intel's tools write it."""
    text = base64.b64encode(der)
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return b"\n".join([_BEGIN, *lines, _END, b""])
