"""hpke.json: recorded in part, since encapsulation is random."""

from __future__ import annotations

from typing import Any

from tests.vectors.spec_cases import Json, load
from tests.vectors.spec_rkeyserver import one_time_key
from tests.vectors.spec_writers.common import case, complete, numbered

from rkeyserver.exchange import hpke


def content(*, record: bool) -> Json:
    """The file's content; record: with new encapsulations."""
    key: Json = {"mlkem_seed": numbered(0, 64), "x25519_private": numbered(0x80, 32)}
    info = "1f" * 64
    public = one_time_key(key).public
    path = "hpke.json"
    if record:
        recorded = {
            "sealed": hpke.seal(memoryview(b"a keyring"), public, bytes.fromhex(info)).hex(),
            "sealed empty": hpke.seal(memoryview(b""), public, bytes.fromhex(info)).hex(),
        }
    else:
        recorded = {name: load(path)["shared"][name] for name in ("sealed", "sealed empty")}
    end = len(recorded["sealed"]) // 2

    def refused(name: str, change: list[Any], **given: object) -> Json:
        changes = [change] if change else []
        return case(name, "hpke open", of="sealed", changes=changes, error="not-bound") | given

    return complete(
        path,
        "HPKE with MLKEM768-X25519, HKDF-SHA256, AES-256-GCM (exchange.md); `sealed` is recorded",
        [
            case("public key", "hpke public key"),
            case("open", "hpke open", of="sealed", changes=[], out=b"a keyring".hex()),
            case("open what was empty", "hpke open", of="sealed empty", changes=[], out=""),
            refused("another info", [], info="00" * 64),
            refused("no info", [], info=""),
            refused("another key pair", [], x25519_private=numbered(0x81, 32)),
            refused("another ML-KEM seed", [], mlkem_seed=numbered(1, 64)),
            refused("ML-KEM ciphertext changed", [0, 1, f"{int(recorded['sealed'][:2], 16) ^ 1:02x}"]),
            refused("ephemeral X25519 key changed", [1088, 32, "09" + "00" * 31]),
            refused("ephemeral X25519 key zero", [1088, 32, "00" * 32]),
            refused("ciphertext changed", [1120, 1, f"{int(recorded['sealed'][2240:2242], 16) ^ 1:02x}"]),
            refused("tag cut", [end - 1, 1, ""]),
            refused("a byte behind it", [end, 0, "00"]),
            refused("only the encapsulated key", [1120, end - 1120, ""]),
            refused("nothing", [0, end, ""]),
            case("seal to a key", "hpke seal", of="public key", changes=[], out=None),
            case("seal to a key cut", "hpke seal", of="public key", changes=[[1215, 1, ""]], error="malformed"),
            case("seal to an X25519 key of zero", "hpke seal", of="public key", changes=[[1184, 32, "00" * 32]])
            | {"error": "malformed"},
        ],
        key | {"info": info} | recorded,
    )
