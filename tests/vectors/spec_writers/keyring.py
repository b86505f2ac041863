"""keyring.json."""

from __future__ import annotations

from typing import Final

from tests.vectors.spec_cases import Json
from tests.vectors.spec_rkeyserver import OPERATIONS
from tests.vectors.spec_writers.common import case, complete, numbered

DOMAIN_SECRET: Final = numbered(0x20, 32)
ROOT_KEY: Final = numbered(0x40, 32)
SECOND_KEY: Final = numbered(0x60, 32)
PRIMARY: Final = numbered(0x90, 16)
POLICY: Final = 'version = 1 # "quoted", \\, tab\t, bell \x07, ü\n'


def content() -> Json:
    """The file's content."""
    domain = OPERATIONS["domain id"]({"domain_secret": DOMAIN_SECRET})
    first = {"root_key": ROOT_KEY, "created": 1000, "state": "readable"}
    second = {"root_key": SECOND_KEY, "created": 2000, "state": "current"}
    minted: Json = {
        "domain_secret": DOMAIN_SECRET,
        "root_key": ROOT_KEY,
        "now": 1000,
        "policy": POLICY,
        "primary": PRIMARY,
    }

    def made(
        *generations: Json, secret: str = DOMAIN_SECRET, epoch: int = 0, sequence: int = 2, primary: str = PRIMARY
    ) -> Json:
        return {
            "domain_secret": secret,
            "epoch": epoch,
            "sequence": sequence,
            "primary": primary,
            "policy": POLICY,
            "generations": list(generations),
        }

    one = bytes.fromhex(OPERATIONS["mint"](minted))
    two = made(first, second)
    rotated = OPERATIONS["write keyring"](two)
    header_end = 4 + int.from_bytes(one[:4], "big")

    def edited(old: bytes, new: bytes, base: bytes = one) -> str:
        end = 4 + int.from_bytes(base[:4], "big")
        assert base.count(old, 0, end) == 1, f"{old!r} is not there once"
        header = base[4:end].replace(old, new)
        return (len(header).to_bytes(4, "big") + header + base[end:]).hex()

    def flipped(at: int) -> str:
        return (one[:at] + bytes([one[at] ^ 1]) + one[at + 1 :]).hex()

    wrong = {
        "nothing": "",
        "three bytes": "000000",
        "header length zero": (bytes(4) + one[4:]).hex(),
        "header length past the end": ("ffffffff" + one[4:].hex()),
        "header no JSON": edited(b'{"version"', b'["version"'),
        "header no UTF-8": edited(b'"epoch"', b'"epoc\xff"'),
        "a field unknown": edited(b'"epoch":0', b'"extra":0,"epoch":0'),
        "a field missing": edited(b'"epoch":0,', b""),
        "two fields swapped": edited(b'"epoch":0,"sequence":1', b'"sequence":1,"epoch":0'),
        "no primary": edited(f',"primary":"{PRIMARY}"'.encode(), b""),
        "a primary in upper case": edited(PRIMARY.encode(), PRIMARY.upper().encode()),
        "a field repeated": edited(b'"epoch":0', b'"epoch":0,"epoch":0'),
        "another version": edited(b'"version":1', b'"version":2'),
        "a space": edited(b'"epoch":0', b'"epoch": 0'),
        "a number with a fraction": edited(b'"epoch":0', b'"epoch":0.0'),
        "a number below zero": edited(b'"epoch":0', b'"epoch":-1'),
        "an escape that is not needed": edited("ü".encode(), b"\\u00fc"),
        "an escape in upper case": edited(b"\\u0007", b"\\u0007".replace(b"u", b"U")),
        "an id in upper case": edited(domain.encode(), domain.upper().encode()),
        "no generations": edited(one[one.index(b'[{"id"') : one.index(b'}],"policy"') + 2], b"[]"),
        "no current generation": edited(b'"current"', b'"readable"'),
        "an unknown state": edited(b'"current"', b'"lost"'),
        "two current generations": edited(b'"readable"', b'"current"', bytes.fromhex(rotated)),
        "no current generation but a pending one": edited(b'"current"', b'"pending"'),
        "two pending generations": OPERATIONS["write keyring"](
            made(
                first | {"state": "pending"}, second, {"root_key": numbered(0x80, 32), "created": 1, "state": "pending"}
            )
        ),
        "a generation twice": OPERATIONS["write keyring"](made(first, first | {"state": "current"})),
        "an empty policy": edited(one[one.index(b'"policy":') : header_end], b'"policy":"","changes":[]}'),
        "changes missing": edited(b',"changes":[]', b""),
        "an empty change": edited(b'"changes":[]', b'"changes":[""]'),
        "a change that is no text": edited(b'"changes":[]', b'"changes":[1]'),
        "domain secret changed": flipped(header_end),
        "root key changed": flipped(len(one) - 1),
        "root keys swapped": rotated[:-128] + SECOND_KEY + ROOT_KEY,
        "a key too few": one[:-32].hex(),
        "a byte too many": one.hex() + "00",
    }
    fourth, fifth = (
        {"root_key": numbered(at, 32), "created": 3000, "state": state}
        for at, state in ((0x80, "pending"), (0xA0, "retired"))
    )
    every = made(first, second, fourth, fifth)
    of_another = OPERATIONS["write keyring"](made(first, second, primary="ff" * 16))
    later = OPERATIONS["write keyring"](made(first, second, sequence=3))
    next_epoch = OPERATIONS["write keyring"](made(first, second, epoch=1, sequence=0))
    other = OPERATIONS["mint"](minted | {"domain_secret": SECOND_KEY})
    lost = OPERATIONS["write keyring"](made(second, sequence=3))
    other_policy = OPERATIONS["write keyring"](made(first, second, sequence=3) | {"policy": "another"})
    other_order = OPERATIONS["write keyring"](made(second, first, sequence=2))

    def derived(name: str, *, purpose: str, label: bytes, length: int = 32) -> Json:
        return case(name, "derive", root_key=ROOT_KEY, domain=domain, purpose=purpose, label=label.hex(), length=length)

    return complete(
        "keyring.json",
        "ids, derivation and bytes of the keyring (keyring.md)",
        [
            case("domain id", "domain id", domain_secret=DOMAIN_SECRET),
            case("generation id", "generation id", root_key=ROOT_KEY, domain=domain),
            case("generation id in another domain", "generation id", root_key=ROOT_KEY, domain="00" * 16),
            derived("derived key", purpose="test", label=b"label"),
            derived("derived key for another purpose", purpose="other", label=b"label"),
            derived("derived key for an empty label", purpose="test", label=b""),
            derived("the same bytes, parted elsewhere", purpose="testl", label=b"abel"),
            derived("derived key of 100 bytes", purpose="test", label=b"label", length=100),
            derived("an application's key", purpose="ra-tls secret", label=b"db", length=16),
            derived("an application's key of 32 bytes", purpose="ra-tls secret", label=b"db"),
            derived("the CA's key", purpose="ra-tls ca", label=b"", length=48),
            case("a new domain", "mint", **minted),
            case("two generations", "write keyring", **two),
            case("read one generation", "read keyring", bytes=one.hex()),
            case("two changes", "write keyring", **(two | {"changes": ["one", 'another "change"']})),
            case("a generation of each state", "write keyring", **every),
            case("read a generation of each state", "read keyring", bytes=OPERATIONS["write keyring"](every)),
            case("read two generations", "read keyring", bytes=rotated),
            *(case(f"refused: {name}", "read keyring", bytes=data, error="Corrupt") for name, data in wrong.items()),
            case("itself extends it", "extends", new=rotated, old=rotated),
            case("a later sequence extends it", "extends", new=later, old=rotated),
            case("a later epoch extends it, whatever the sequence", "extends", new=next_epoch, old=later),
            case("a second generation extends the first", "extends", new=rotated, old=one.hex()),
            case("an earlier sequence does not", "extends", new=rotated, old=later),
            case("an earlier epoch does not", "extends", new=later, old=next_epoch),
            case("a lost generation does not", "extends", new=lost, old=rotated),
            case("another domain does not", "extends", new=other, old=one.hex()),
            case("with another policy, which is judged apart", "extends", new=other_policy, old=rotated),
            case("of two of one place the higher primary's extends", "extends", new=of_another, old=rotated),
            case("and the lower one's does not", "extends", new=rotated, old=of_another),
            case("two states of one primary: by their digests", "extends", new=other_order, old=rotated),
            case("and the other way round", "extends", new=rotated, old=other_order),
        ],
    )
