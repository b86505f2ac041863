"""recovery.json: shares, their encryption and the contribution are recorded, since they are random."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec
import pyrage  # type: ignore[import-untyped]
from tests.vectors.spec_cases import Json, load
from tests.vectors.spec_operations import OPERATIONS
from tests.vectors.spec_rkeyserver import one_time_key
from tests.vectors.spec_writers.common import NOW, case, complete, numbered
from tests.vectors.spec_writers.messages import encoded
from tests.vectors.spec_writers.policy import GOOD
from tests.vectors.spec_writers.record import content as record_content

from rkeyserver.attestation.report_data import transcript_hash
from rkeyserver.exchange import hpke
from rkeyserver.sealing.record import parse
from rkeyserver.sealing.recovery import ShareSet, encode_slot
from rkeyserver.sealing.shares import open_share, split_secret

FILE: Final = "recovery.json"
SET: Final = numbered(0x60, 16)
SECRET: Final = numbered(0x33, 32)
THRESHOLD: Final = 2
RECORDED: Final = (
    "identity",
    "shares",
    "share 0",
    "share 1",
    "share 2",
    "sealed 0",
    "request",
    "contribution",
    "stray",
)


def _recorded(given: Json) -> Json:
    """Everything random, made anew."""
    identities = [pyrage.x25519.Identity.generate() for _ in range(3)]
    recipients = tuple(str(one.to_public()) for one in identities)
    shares = split_secret(bytes.fromhex(SECRET), ShareSet(given["domain"], SET, THRESHOLD, recipients))
    plain = [open_share(share.sealed, [identity]) for share, identity in zip(shares, identities, strict=True)]
    found: Json = {"identity": str(identities[0]), "sealed 0": shares[0].sealed.hex()}
    found |= {f"share {index}": (one or b"").hex() for index, one in enumerate(plain)}
    found["shares"] = [{"recipient": one.recipient, "digest": one.digest, "sealed": one.sealed.hex()} for one in shares]
    sealed = bytes.fromhex(OPERATIONS["seal with recovery"](given | found))
    found["request"] = request(given, sealed).hex()
    message = bytes.fromhex(found["request"])
    found["contribution"] = contribution(given, message, plain[1] or b"").hex()
    found["stray"] = contribution(given, message, b"no share").hex()
    return found


def request(given: Json, sealed: bytes, **changes: object) -> bytes:
    """A request whose evidence is none."""
    header = parse(sealed).header
    assert header.recovery is not None
    claims = {
        "version": 1,
        "platform": "simulated",
        "machine": numbered(0x20, 16),
        "domain": header.domain,
        "epoch": header.epoch,
        "sequence": header.sequence,
        "record_sha512": {"hex": hashlib.sha512(sealed).hexdigest()},
        "slot": {"hex": encode_slot(header.recovery).hex()},
        "kem_public_key": {"hex": one_time_key(given).public.hex()},
        "nonce": {"hex": numbered(0x80, 32)},
        "time": NOW,
    }
    attested = {
        "claims": {"hex": encoded("recovery-request-claims", claims | changes).hex()},
        "evidence": {"hex": "e1"},
        "endorsements": {"hex": ""},
    }
    return encoded("recovery-request", {"attested": {"message": "attested", "fields": attested}})


def contribution(given: Json, message: bytes, share: bytes) -> bytes:
    """What a recipient would send."""
    ciphertext = hpke.seal(memoryview(share), one_time_key(given).public, transcript_hash(message))
    digest = hashlib.sha512(message).hexdigest()
    return encoded(
        "recovery-contribution", {"request_sha512": {"hex": digest}, "ciphertext": {"hex": ciphertext.hex()}}
    )


def content(*, record_anew: bool) -> Json:
    """The file's content; record_anew: with new shares."""
    given: Json = record_content()["shared"]
    del given["slot_data"]
    given |= {
        "set": SET,
        "recovery_secret": SECRET,
        "threshold": THRESHOLD,
        "mlkem_seed": numbered(0, 64),
        "x25519_private": numbered(0x80, 32),
        "now": NOW,
        "recipients_policy": GOOD,
    }
    recorded = _recorded(given) if record_anew else {name: load(FILE)["shared"][name] for name in RECORDED}
    shared = given | recorded
    sealed = bytes.fromhex(OPERATIONS["seal with recovery"](shared))
    return complete(
        FILE,
        "recovery: slot, shares, armour, request and contribution (recovery.md); shares and contribution are recorded",
        [
            *_records(shared, sealed),
            *_shares(shared),
            *_armour(),
            *_requests(shared, sealed),
            *_contributions(shared),
        ],
        shared,
    )


def _records(shared: Json, sealed: bytes) -> list[Json]:
    magic, line, rest = sealed.split(b"\n", 2)

    def edited(old: str, new: str) -> str:
        assert old.encode() in line, f"{old!r} is not there"
        return b"\n".join((magic, line.replace(old.encode(), new.encode(), 1), rest)).hex()

    platform, recovery = (msgspec.json.encode(slot).decode() for slot in parse(sealed).header.slots)
    share = msgspec.json.encode(msgspec.json.decode(recovery)["shares"][0]).decode()
    forms = {
        "the recovery slot first": edited(f"{platform},{recovery}", f"{recovery},{platform}"),
        "no platform slot": edited(f"{platform},{recovery}", recovery),
        "two recovery slots": edited(f"{platform},{recovery}", f"{recovery},{recovery}"),
        "three slots": edited(recovery, f"{recovery},{recovery}"),
        "a recipient twice": edited(share, f"{share},{share}"),
        "a threshold of zero": edited('"threshold":2', '"threshold":0'),
        "a threshold above the shares": edited('"threshold":2', '"threshold":4'),
        "a recipient that is no key": edited('"recipient":"age1', '"recipient":"x'),
        "no share": edited('"shares":[', '"shares":[],"x":['),
    }
    changes = {
        "another threshold": edited('"threshold":2', '"threshold":3'),
        "another set": edited(SET, "00" * 16),
        "another sequence": edited('"sequence":1', '"sequence":2'),
        "another domain": edited(shared["domain"], "00" * 16),
        "another digest": edited(shared["shares"][1]["digest"], "00" * 32),
        "another time": edited('"written":2000', '"written":2001'),
    }
    foreign = OPERATIONS["seal with recovery"](shared | {"domain": "00" * 16})
    return [
        case("record", "seal with recovery"),
        case("record, opened by the machine", "open", of="record", changes=[]),
        case("record, recovered", "open recovered", of="record", changes=[]),
        case("another secret", "open recovered", of="record", changes=[], recovery_secret="34" * 32, error="Corrupt"),
        case("a record without", "open recovered", bytes=OPERATIONS["seal"](shared), error="Corrupt"),
        *(case(f"no record: {name}", "open recovered", bytes=data, error="Corrupt") for name, data in forms.items()),
        *(case(f"edited: {name}", "open recovered", bytes=data, error="Corrupt") for name, data in changes.items()),
        case("sealed under another domain's name", "open recovered", bytes=foreign, error="Corrupt"),
    ]


def _shares(shared: Json) -> list[Json]:
    one = OPERATIONS["read share"]({"bytes": shared["share 0"]})
    two, three = shared["share 1"], shared["share 2"]

    def changed(**fields: object) -> str:
        return msgspec.json.encode(one | fields).hex()

    words = str(one["mnemonic"]).split()
    forms = {
        "nothing": "",
        "another format": changed(format="rkeyserver-share/v2"),
        "a field unknown": changed(extra=1),
        "a space": (bytes.fromhex(shared["share 0"]).replace(b":", b": ", 1)).hex(),
        "two words swapped": changed(mnemonic=" ".join([*words[:20], words[21], words[20], *words[22:]])),
        "a word unknown": changed(mnemonic=" ".join([*words[:20], "rkeyserver", *words[21:]])),
        "a word missing": changed(mnemonic=" ".join(words[:-1])),
        "words in upper case": changed(mnemonic=" ".join(words).upper()),
        "the words of another share": changed(index=1),
        "an index of 16": changed(index=16),
        "1025 bytes": shared["share 0"] + "20" * (1025 - len(shared["share 0"]) // 2),
    }
    zero = shared["share 0"]
    return [
        case("share", "write share", index=0, mnemonic=one["mnemonic"], out=zero),
        case("share, read", "read share", of="share 0", changes=[]),
        *(case(f"no share: {name}", "read share", bytes=data, error="Corrupt") for name, data in forms.items()),
        case("decrypted", "decrypt share", of="sealed 0", changes=[], out=zero),
        case("shares 0 and 1", "combine", given=[zero, two], out=SECRET),
        case("shares 2 and 0", "combine", given=[three, zero], out=SECRET),
        case("one of two shares", "combine", given=[zero], error="Corrupt"),
        case("three of two shares", "combine", given=[zero, two, three], error="Corrupt"),
        case("one share twice", "combine", given=[zero, zero], error="Corrupt"),
        case("shares of another set", "combine", given=[zero, two], set="00" * 16, error="Corrupt"),
        case("shares of another domain", "combine", given=[zero, two], domain="00" * 16, error="Corrupt"),
        case("shares of another threshold", "combine", given=[zero, two, three], threshold=3, error="Corrupt"),
        case("a share beyond the slot", "combine", given=[zero, three], shares=shared["shares"][:2], error="Corrupt"),
    ]


def _armour() -> list[Json]:
    kind, data = "RECOVERY REQUEST", numbered(0, 100)
    text = OPERATIONS["armour"]({"bytes": data, "kind": kind})
    wrong = {
        "another kind": text.replace("REQUEST", "CONTRIBUTION"),
        "a last line of another kind": text.replace("END RKEYSERVER RECOVERY REQUEST", "END RKEYSERVER OTHER"),
        "no last line": text[: text.index("-----END")],
        "a line before it": "Subject: x\n" + text,
        "a line too long": text.replace("\n", "", 2).replace("-----AAEC", "-----\nAAEC", 1),
        "nothing in it": "-----BEGIN RKEYSERVER RECOVERY REQUEST-----\n-----END RKEYSERVER RECOVERY REQUEST-----\n",
        "a character that is no base64": text.replace("AAEC", "AA!C", 1),
        "without padding": text.replace("=", ""),
    }
    return [
        case("in armour", "armour", bytes=data, kind=kind),
        case("out of armour", "dearmour", text=text, kind=kind),
        case("out of armour with CR LF", "dearmour", text="\n" + text.replace("\n", "\r\n"), kind=kind),
        *(
            case(f"no armour: {name}", "dearmour", text=one, kind=kind, error="malformed")
            for name, one in wrong.items()
        ),
    ]


def _requests(shared: Json, sealed: bytes) -> list[Json]:
    domain = shared["domain"]
    refused: dict[str, tuple[bytes, str, int, str]] = {
        "another version": (request(shared, sealed, version=2), domain, NOW, "wrong-version"),
        "another domain": (request(shared, sealed), "00" * 16, NOW, "another-domain"),
        "too old": (request(shared, sealed), domain, NOW + 86_401, "request-expired"),
        "from the future": (request(shared, sealed), domain, NOW - 301, "request-expired"),
        "a slot that is none": (request(shared, sealed, slot={"hex": "7b7d"}), domain, NOW, "malformed"),
        "nothing": (b"", domain, NOW, "malformed"),
    }
    return [
        case(f"request: {name}", "check request", bytes=data.hex(), domain=said, now=now, error=error)
        for name, (data, said, now, error) in refused.items()
    ]


def _contributions(shared: Json) -> list[Json]:
    recorded = shared["contribution"]
    at = recorded.index(hashlib.sha512(bytes.fromhex(shared["request"])).hexdigest()) // 2
    return [
        case("contribution", "open contribution", of="contribution", changes=[]),
        case("contribution to another request", "open contribution", of="contribution", changes=[[at, 1, "00"]])
        | {"error": "not-bound"},
        case("contribution for another key", "open contribution", of="contribution", changes=[])
        | {"x25519_private": numbered(0x81, 32), "error": "not-bound"},
        case("contribution cut", "open contribution", of="contribution", changes=[[at, 64, ""]], error="malformed"),
        case("contribution too long", "open contribution", of="contribution", changes=[[0, 0, "00", 6144]])
        | {"error": "too-large"},
        case("contribution of no share", "open contribution", of="stray", changes=[], error="not-a-share"),
    ]
