"""What root on a host can do with a recording of the wire and the memory of a server that took part.

    python -m tests.attacks.left_in_memory PID <WANTED

A process of its own, as key_scan is, because the memory may be that of another name space. WANTED, as JSON: `values`,
hex by name, to be looked for as they are; and `ciphertexts` with `infos`, recorded: everything in the memory that could
be a secret is then tried on each. Prints what was found, never more of it than its name.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.fakes.key_scan import Mapping, mappings

SIZE: Final = 32
HALF: Final = 16
MLKEM_CIPHERTEXT: Final = 1088
ENCAPSULATED: Final = 1120
ALIGNED: Final = 8
DIFFERENT: Final = 24
# KEM MLKEM768-X25519, KDF HKDF-SHA256, AEAD AES-256-GCM, by their numbers in the IANA registry.
SUITE: Final = b"HPKE" + bytes.fromhex("647a00010002")


def extract(salt: bytes, label: bytes, material: bytes) -> bytes:
    return hmac.digest(salt or bytes(SIZE), b"HPKE-v1" + SUITE + label + material, "sha256")


def expand(secret: bytes, label: bytes, context: bytes, size: int) -> bytes:
    return hmac.digest(secret, size.to_bytes(2, "big") + b"HPKE-v1" + SUITE + label + context + b"\1", "sha256")[:size]


def context_of(info: bytes) -> bytes:
    """The key schedule's context (RFC 9180, 5.1) in base mode."""
    return b"\0" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)


@dataclass(frozen=True)
class Recorded:
    """One hand-over on the wire: what was sealed, and the transcript that it is bound to."""

    ciphertext: bytes
    info: bytes

    def opens(self, key: bytes, nonce: bytes) -> bool:
        try:
            AESGCM(key).decrypt(nonce, self.ciphertext[ENCAPSULATED:], b"")
        except InvalidTag:
            return False
        return True

    def secrets(self, mlkem: MLKEM768PrivateKey, x25519: X25519PrivateKey) -> dict[str, bytes]:
        """Everything secret that a sender comes through (RFC 9180, 5.1 and 6.1), by hand, for whoever has the keys."""
        post_quantum, classical = self.ciphertext[:MLKEM_CIPHERTEXT], self.ciphertext[MLKEM_CIPHERTEXT:ENCAPSULATED]
        mlkem_secret = mlkem.decapsulate(post_quantum)
        x25519_secret = x25519.exchange(X25519PublicKey.from_public_bytes(classical))
        own = x25519.public_key().public_bytes_raw()
        shared = hashlib.sha3_256(
            mlkem_secret + x25519_secret + classical + own + bytes.fromhex("5c2e2f2f5e5c")
        ).digest()
        context, secret = context_of(self.info), extract(shared, b"secret", b"")
        found = {
            "ML-KEM shared secret": mlkem_secret,
            "X25519 shared secret": x25519_secret,
            "HPKE shared secret": shared,
            "HPKE secret": secret,
            "AEAD key": expand(secret, b"key", context, SIZE),
            "base nonce": expand(secret, b"base_nonce", context, 12),
            "exporter secret": expand(secret, b"exp", context, SIZE),
        }
        assert self.opens(found["AEAD key"], found["base nonce"]), "they are not what was sealed with"
        return found


def patterns(values: dict[str, bytes]) -> dict[bytes, str]:
    """The values and their halves, where a half is still no chance find."""
    found = {}
    for name, value in values.items():
        found[value] = name
        if len(value) == SIZE:
            found[value[:HALF]], found[value[HALF:]] = f"{name}, first half", f"{name}, second half"
    return found


def candidates(memory: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """What lies in memory as a key does, each once: aligned, many different bytes, no text, no two zeros in a row."""
    seen: set[bytes] = set()
    for where, data in memory:
        at = 0
        for run in data.split(b"\0\0"):
            for start in range(-at % ALIGNED, len(run) - SIZE + 1, ALIGNED):
                found = run[start : start + SIZE]
                if not found.isascii() and len(set(found)) >= DIFFERENT and found not in seen:
                    seen.add(found)
                    yield where, found
            at += len(run) + 2


def tried(memory: Iterable[tuple[str, bytes]], recorded: list[Recorded]) -> tuple[set[tuple[str, str]], int]:
    """What of the memory opens what was recorded, as which secret; and how many were tried."""
    expansions = [(one, context_of(one.info)) for one in recorded]
    found, number = set(), 0
    for where, candidate in candidates(memory):
        number += 1
        extracted = extract(candidate, b"secret", b"")
        for one, context in expansions:
            for name, secret in (("HPKE shared secret", extracted), ("HPKE secret", candidate)):
                key = expand(secret, b"key", context, SIZE)
                if one.opens(key, expand(secret, b"base_nonce", context, 12)):
                    found.add((where, name))
    return found, number


def pieces(pid: int) -> Iterator[tuple[Mapping, bytes]]:
    """Every readable mapping of a process that is not key memory, each as a whole."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:  # noqa: PTH123 - as it is, not a path to a file
        for one in mappings(pid):
            if one.rights.startswith("r") and not one.holds_keys and not one.name.startswith("[v"):
                data = bytearray()
                file.seek(one.start)
                try:
                    while len(data) < one.end - one.start and (part := file.read(one.end - one.start - len(data))):
                        data += part
                except OSError:
                    pass  # a file mapped beyond its end
                yield one, bytes(data)


def main() -> None:
    pid, wanted = int(sys.argv[1]), json.load(sys.stdin)
    values = patterns({name: bytes.fromhex(value) for name, value in wanted["values"].items()})
    recorded = [Recorded(*map(bytes.fromhex, one)) for one in wanted["recorded"]]
    found: set[tuple[str, str]] = set()
    looked = 0
    writable = []
    for one, data in pieces(pid):
        looked += len(data)
        where = one.name or "anonymous"
        found |= {(where, name) for pattern, name in values.items() if pattern in data}
        if "w" in one.rights:
            writable.append((where, data))
    opened, number = tried(writable, recorded) if recorded else (set(), 0)
    json.dump({"found": sorted(found), "opened": sorted(opened), "looked": looked, "tried": number}, sys.stdout)


if __name__ == "__main__":
    main()
