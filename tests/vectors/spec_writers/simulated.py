"""simulated.json."""

from __future__ import annotations

import json

from tests.vectors.spec_cases import Json
from tests.vectors.spec_rkeyserver import OPERATIONS
from tests.vectors.spec_writers.common import case, complete, numbered

from rkeyserver.platforms.simulated import keys

PROCESSOR: Json = {
    "fuses": numbered(0x00, 32),
    "ppid": numbered(0x70, 16),
    "cpu_svn": "07" + "00" * 15,
    "pce_svn": 13,
}
ENCLAVE: Json = {
    "mrenclave": numbered(0x20, 32),
    "mrsigner": numbered(0x40, 32),
    "isv_prod_id": 1,
    "isv_svn": 1,
    "attributes": "05000000000000000300000000000000",
}
IMAGE = b"no program"

SENTENCES = {
    "root CA": "rkeyserver public development key, protects nothing: root CA",
    "PCK CA": "rkeyserver public development key, protects nothing: PCK CA",
    "TCB signing": "rkeyserver public development key, protects nothing: TCB signing",
}


def content() -> Json:
    """The file's content."""
    shared = PROCESSOR | ENCLAVE | {"p": f"{keys._P:x}", "q": f"{keys._Q:x}"}
    state = {"format": "rkeyserver-simulated-processor/v1"} | PROCESSOR
    signed = bytes.fromhex(OPERATIONS["sign"]({"image": IMAGE.hex(), "isv_prod_id": 1, "isv_svn": 1}))

    def sealing(name: str, **changed: object) -> Json:
        return case(name, "sealing key", **{"policy": "mrsigner"} | changed)

    def damaged(name: str, offset: int, length: int = 1, **given: str) -> Json:
        inserted = given.get("by", bytes([signed[offset] ^ 1]).hex() if offset < len(signed) else "00")
        return case(f"load: {name}", "load", of="signed image", changes=[[offset, length, inserted]], error="Corrupt")

    def refused(name: str, text: str) -> Json:
        return case(f"processor: {name}", "read processor", text=text, error="Corrupt")

    return complete(
        "simulated.json",
        "processor, image, SIGSTRUCT and quotes of the platform that protects nothing (simulated.md)",
        [
            sealing("sealing key, by signer"),
            sealing("sealing key, by measurement", policy="mrenclave"),
            sealing("sealing key of another processor", fuses=numbered(1, 32)),
            sealing("sealing key after a microcode update", cpu_svn="08" + "00" * 15),
            sealing("sealing key of a later version", isv_svn=2),
            sealing("sealing key of another product", isv_prod_id=2),
            sealing("sealing key of a debug enclave", attributes="07000000000000000300000000000000"),
            sealing("sealing key of another image of the signer", mrenclave=numbered(0x21, 32)),
            sealing("sealing key of another signer", mrsigner=numbered(0x41, 32)),
            case("PCK public key", "pck"),
            case("PCK public key after a microcode update", "pck", cpu_svn="08" + "00" * 15),
            *(
                case(f"development key: {name}", "development key", sentence=sentence)
                for name, sentence in SENTENCES.items()
            ),
            case("MRENCLAVE of an empty image", "measure", image=""),
            case("MRENCLAVE of a tiny image", "measure", image=IMAGE.hex()),
            case("MRENCLAVE of the tiny image, filled with zeros", "measure", image=IMAGE.ljust(4096, b"\0").hex()),
            case("MRENCLAVE of two pages", "measure", image="01", repeat=4097),
            case("MRENCLAVE of three pages", "measure", image="01", repeat=8193),
            case("signed image", "sign", image=IMAGE.hex()),
            case("load", "load", of="signed image", changes=[]),
            damaged("image changed", 1808),
            case("load: image longer by a zero", "load", of="signed image", changes=[[len(signed), 0, "00"]]),
            damaged("image longer by a page", len(signed), 0, by="00" * 4096),
            damaged("header changed", 0),
            damaged("date changed", 20),
            damaged("second header changed", 24),
            damaged("modulus changed", 128),
            damaged("exponent changed", 512),
            damaged("signature changed", 516),
            damaged("attributes changed", 928),
            damaged("measurement changed", 960),
            damaged("product changed", 1024),
            damaged("version changed", 1026),
            damaged("reserved byte behind the signed ones changed", 1030),
            damaged("Q1 changed", 1040),
            damaged("Q2 changed", 1424),
            damaged("cut in SIGSTRUCT", 1807, len(signed) - 1807, by=""),
            damaged("nothing", 0, len(signed), by=""),
            case("quote, its signed part", "quote head", report_data=numbered(0x80, 64)),
            case("report body of the quoting enclave", "quoting enclave", report_data=numbered(0x80, 64)),
            case("processor", "read processor", text=json.dumps(state, indent=2)),
            refused("nothing", ""),
            refused("another format", json.dumps(state | {"format": "rkeyserver-simulated-processor/v2"})),
            refused("a field unknown", json.dumps(state | {"extra": 0})),
            refused("a field missing", json.dumps(PROCESSOR)),
            refused("fuses of 31 bytes", json.dumps(state | {"fuses": "00" * 31})),
            refused("PPID in upper case", json.dumps(state | {"ppid": "AB" * 16})),
            refused("PPID with a line feed at its end", json.dumps(state | {"ppid": "ab" * 16 + "\n"})),
            refused("PCESVN too large", json.dumps(state | {"pce_svn": 65536})),
            refused("too large", json.dumps(state) + " " * 4096),
        ],
        shared,
    )
