"""docs/spec/simulated.md."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.vectors.spec_reference.notation import (
    HEX16,
    HEX32,
    Json,
    Refused,
    expand,
    framed,
    is_int,
    is_text,
    require,
    unhex,
)

ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def u16(number: int) -> bytes:
    return struct.pack("<H", number)


def derive(fuses: bytes, what: list[bytes], length: int) -> bytes:
    return expand(fuses, framed(b"rkeyserver simulated processor", *what), length)


def sealing_key(case: Json) -> bytes:
    what = [
        b"SEAL",
        case["policy"].encode(),
        unhex(case[case["policy"]]),
        u16(case["isv_prod_id"]),
        bytes([unhex(case["attributes"])[0] >> 1 & 1]),
        unhex(case["cpu_svn"]),
        u16(case["isv_svn"]),
        u16(0),
    ]
    return derive(unhex(case["fuses"]), what, 16)


def p256_point(secret: bytes) -> bytes:
    key = ec.derive_private_key(int.from_bytes(secret, "big") % (ORDER - 1) + 1, ec.SECP256R1())
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def pck(case: Json) -> bytes:
    return p256_point(derive(unhex(case["fuses"]), [b"PCK", unhex(case["cpu_svn"]), u16(case["pce_svn"])], 32))


def measure(image: bytes) -> bytes:
    pages = max(1, (len(image) + 4095) // 4096)
    size = 4096
    while size < pages * 4096:
        size *= 2
    log = b"ECREATE\0" + struct.pack("<IQ", 1, size) + bytes(44)
    memory = image + bytes(pages * 4096 - len(image))
    for page in range(0, len(memory), 4096):
        log += b"EADD\0\0\0\0" + struct.pack("<QQ", page, 0x0205) + bytes(40)
        for chunk in range(page, page + 4096, 256):
            log += b"EEXTEND\0" + struct.pack("<Q", chunk) + bytes(48) + memory[chunk : chunk + 256]
    return hashlib.sha256(log).digest()


def little(number: int) -> bytes:
    return number.to_bytes(384, "little")


def quotients(signature: int, modulus: int) -> bytes:
    q1 = signature * signature // modulus
    return little(q1) + little(signature * (signature * signature % modulus) // modulus)


def sign_image(case: Json, image: bytes) -> bytes:
    p, q = int(case["p"], 16), int(case["q"], 16)
    d = pow(3, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPublicNumbers(3, p * q)
    key = rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), numbers).private_key()
    structure = bytearray(1808)

    def put(offset: int, data: bytes) -> None:
        structure[offset : offset + len(data)] = data

    put(0, unhex("06000000e10000000000010000000000"))
    put(20, struct.pack("<I", 0x20260101))
    put(24, unhex("01010000600000006000000001000000"))
    put(128, little(p * q))
    put(512, struct.pack("<I", 3))
    put(904, b"\xff" * 4)
    put(928, struct.pack("<QQ", 4, 3))
    put(944, b"\xff" * 16)
    put(960, measure(image))
    put(1024, u16(case["isv_prod_id"]) + u16(case["isv_svn"]))
    signature = int.from_bytes(
        key.sign(bytes(structure[:128] + structure[900:1028]), padding.PKCS1v15(), SHA256()), "big"
    )
    put(516, little(signature))
    put(1040, quotients(signature, p * q))
    return bytes(structure) + image


def load_image(signed: bytes) -> Json:
    structure, image = signed[:1808], signed[1808:]
    require(len(structure) == 1808, "Corrupt")
    require(structure[:16] == unhex("06000000e10000000000010000000000"), "Corrupt")
    require(structure[24:40] == unhex("01010000600000006000000001000000"), "Corrupt")
    modulus = int.from_bytes(structure[128:512], "little")
    signature = int.from_bytes(structure[516:900], "little")
    require(struct.unpack_from("<I", structure, 512)[0] == 3 and modulus.bit_length() == 3072, "Corrupt")
    try:
        rsa.RSAPublicNumbers(3, modulus).public_key().verify(
            signature.to_bytes(384, "big"), structure[:128] + structure[900:1028], padding.PKCS1v15(), SHA256()
        )
    except (InvalidSignature, ValueError):
        raise Refused("Corrupt") from None
    require(structure[1028:1040] == bytes(12), "Corrupt")
    require(structure[1040:] == quotients(signature, modulus), "Corrupt")
    require(structure[960:992] == measure(image), "Corrupt")
    prod, svn = struct.unpack_from("<HH", structure, 1024)
    return {
        "mrenclave": structure[960:992].hex(),
        "mrsigner": hashlib.sha256(structure[128:512]).hexdigest(),
        "isv_prod_id": prod,
        "isv_svn": svn,
        "attributes": (bytes([structure[928] | 1]) + structure[929:944]).hex(),
    }


def report_body(case: Json, enclave: Json, data: bytes) -> bytes:
    body = bytearray(384)
    body[0:16] = unhex(case["cpu_svn"])
    body[48:64] = unhex(enclave["attributes"])
    body[64:96] = unhex(enclave["mrenclave"])
    body[128:160] = unhex(enclave["mrsigner"])
    body[256:260] = u16(enclave["isv_prod_id"]) + u16(enclave["isv_svn"])
    body[320:384] = data
    return bytes(body)


def quote_head(case: Json) -> bytes:
    vendor = unhex("939a7233f79c4ca9940a0db3957f0607")
    header = struct.pack("<HHIHH", 3, 2, 0, 8, case["pce_svn"]) + vendor + bytes(20)
    return header + report_body(case, case, unhex(case["report_data"]))


def quoting_enclave(case: Json) -> bytes:
    enclave = {
        "attributes": "1500000000000000e700000000000000",
        "mrenclave": hashlib.sha256(b"rkeyserver public development quoting enclave, code").hexdigest(),
        "mrsigner": hashlib.sha256(b"rkeyserver public development quoting enclave, signer").hexdigest(),
        "isv_prod_id": 1,
        "isv_svn": 8,
    }
    return report_body(case, enclave, unhex(case["report_data"]))


def read_processor(text: str) -> Json:
    require(len(text) <= 4096, "Corrupt")
    try:
        found = json.loads(text)
    except ValueError:
        raise Refused("Corrupt") from None
    forms = {"fuses": HEX32, "ppid": HEX16, "cpu_svn": HEX16}
    require(isinstance(found, dict) and set(found) == {"format", "pce_svn", *forms}, "Corrupt")
    require(found.pop("format") == "rkeyserver-simulated-processor/v1", "Corrupt")
    require(all(is_text(found[name], pattern) for name, pattern in forms.items()), "Corrupt")
    require(is_int(found["pce_svn"], 0, 65535), "Corrupt")
    assert isinstance(found, dict)
    return found
