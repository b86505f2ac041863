"""messages.json."""

from __future__ import annotations

from typing import Final

import msgspec
from tests.vectors.spec_cases import Json
from tests.vectors.spec_rkeyserver import OPERATIONS
from tests.vectors.spec_writers.common import NOW, case, complete, numbered

from rkeyserver.exchange import messages

HELLO: Final[Json] = {
    "version": 1,
    "instance": {"hex": numbered(0x10, 16)},
    "platform": "simulated",
    "machine": numbered(0x20, 16),
    "identity": {"hex": ""},
}
BODY: Final[Json] = {
    "nonce": {"hex": numbered(0x40, 32)},
    "time": NOW,
    "instance": {"hex": numbered(0x60, 16)},
    "platform": "simulated",
    "machine": numbered(0x70, 16),
    "identity": {"hex": ""},
    "credential": {"hex": ""},
}
REQUEST_CLAIMS: Final[Json] = {
    "nonce": {"hex": numbered(0x80, 32)},
    "kem_public_key": {"hex": numbered(0, 1216)},
    "credential_mac": {"hex": ""},
    "credential": {"hex": ""},
    "member": numbered(0x90, 16),
    "address": ":8888",
    "epoch": 0,
    "sequence": 7,
    "digest": {"hex": numbered(0x10, 32)},
    "audit_head": {"hex": numbered(0x60, 32)},
}
GRANT_CLAIMS: Final[Json] = {
    "ciphertext_sha512": {"hex": numbered(0xA0, 64)},
    "members_sha512": {"hex": numbered(0x20, 64)},
    "nonce": {"hex": numbered(0x80, 32)},
    "credential_answer": {"hex": ""},
    "audit_head": {"hex": numbered(0x60, 32)},
}
MEMBERS: Final[Json] = {
    "member": numbered(0x90, 16),
    "members": [
        {
            "message": "known-member",
            "fields": {
                "member": numbered(0xB0, 16),
                "machine": numbered(0x20, 16),
                "address": "[fd00::2]:8888",
                "epoch": 1,
                "sequence": 7,
                "digest": numbered(0x10, 32),
                "seen": NOW,
            },
        }
    ],
}
ATTESTED: Final[Json] = {"claims": {"hex": "c1c2"}, "evidence": {"hex": "e1"}, "endorsements": {"hex": ""}}


RECOVERY_REQUEST_CLAIMS: Final[Json] = {
    "version": 1,
    "platform": "simulated",
    "machine": numbered(0x20, 16),
    "domain": numbered(0xD0, 16),
    "epoch": 0,
    "sequence": 7,
    "record_sha512": {"hex": numbered(0x90, 64)},
    "slot": {"hex": "51"},
    "kem_public_key": {"hex": numbered(0, 1216)},
    "nonce": {"hex": numbered(0x80, 32)},
    "time": NOW,
}
MINT_STATEMENT_CLAIMS: Final[Json] = {
    "version": 1,
    "platform": "simulated",
    "machine": numbered(0x20, 16),
    "domain": numbered(0xD0, 16),
    "generation": numbered(0x30, 16),
    "policy_sha256": {"hex": numbered(0x90, 32)},
    "time": NOW,
}


def wanted_key(**differences: object) -> Json:
    """A key that an enclave wants, as a field of a message."""
    fields = {"label": "db/orders", "size": 32, "generation": "current"}
    return {"message": "wanted-key", "fields": fields | differences}


RELEASE_REQUEST_CLAIMS: Final[Json] = {
    "domain": numbered(0xD0, 16),
    "keys": [wanted_key(), wanted_key(label="backup", size=64, generation=numbered(0x30, 16))],
    "nonce": {"hex": numbered(0x80, 32)},
    "kem_public_key": {"hex": numbered(0, 1216)},
}
RELEASE_CLAIMS: Final[Json] = {
    "domain": numbered(0xD0, 16),
    "generations": [numbered(0x50, 16), numbered(0x30, 16)],
    "ciphertext_sha512": {"hex": numbered(0xA0, 64)},
    "nonce": {"hex": numbered(0x80, 32)},
}


def encoded(message: str, fields: Json) -> bytes:
    """The bytes of a message."""
    return bytes.fromhex(OPERATIONS["encode"]({"message": message, "fields": fields}))


def packed(value: object) -> bytes:
    """Any MessagePack."""
    return msgspec.msgpack.encode(value)


def plain(message: str, fields: Json) -> Json:
    """A message as a plain dictionary, to be made wrong."""
    found = msgspec.msgpack.decode(encoded(message, fields))
    assert isinstance(found, dict)
    return found


def positive_grant(ciphertext: str) -> Json:
    """The fields of a grant."""
    return {
        "attested": {"message": "attested", "fields": ATTESTED},
        "ciphertext": {"hex": ciphertext},
        "members": {"hex": "aabb"},
    }


def wrong_messages() -> list[Json]:
    """Messages that a receiver refuses, each for its reason."""
    hello = encoded("hello", HELLO)
    good = plain("hello", HELLO)

    def with_(**fields: object) -> bytes:
        return packed(good | fields)

    hellos: dict[str, bytes] = {
        "nothing": b"",
        "cut": hello[:-1],
        "a byte behind it": hello + b"\0",
        "an array": packed(list(good.values())),
        "a field unknown": with_(extra=0),
        "a field missing": packed({name: value for name, value in good.items() if name != "identity"}),
        "a field repeated": b"\x87" + hello[1:] + packed("identity") + packed(b""),
        "another type": with_(type="challenge"),
        "no type": packed({name: value for name, value in good.items() if name != "type"}),
        "type at the end": packed({**{name: value for name, value in good.items() if name != "type"}, "type": "hello"}),
        "two fields swapped": packed(dict([*list(good.items())[:-2], *list(good.items())[:-3:-1]])),
        "a map header longer than needed": b"\xde\x00\x06" + hello[1:],
        "a text header longer than needed": hello.replace(b"\xa5hello", b"\xd9\x05hello", 1),
        "a number longer than needed": hello.replace(b"version\x01", b"version\xcc\x01", 1),
        "bytes with a header longer than needed": hello.replace(b"\xc4\x10", b"\xc5\x00\x10", 1),
        "a text instead of bytes": with_(identity=""),
        "bytes instead of a text": with_(platform=b"simulated"),
        "a number with a fraction": with_(version=1.0),
        "true instead of a number": with_(version=True),
        "nothing instead of a number": with_(version=None),
        "an instance of 15 bytes": with_(instance=bytes(15)),
        "an instance of 17 bytes": with_(instance=bytes(17)),
        "an empty name": with_(platform=""),
        "a name of 129 characters": with_(platform="a" * 129),
        "a name in upper case": with_(platform="Simulated"),
        "a name with a line feed at its end": with_(platform="simulated\n"),
        "a name that is no UTF-8": with_(platform="simulated").replace(b"simul", b"\xff\xff\xff\xff\xff", 1),
    }
    others: dict[str, tuple[str, bytes]] = {
        "a time below zero": ("challenge-body", packed(plain("challenge-body", BODY) | {"time": -1})),
        "a time above the limit": ("challenge-body", packed(plain("challenge-body", BODY) | {"time": 2**62 + 1})),
        "a nonce of 31 bytes": ("challenge-body", packed(plain("challenge-body", BODY) | {"nonce": bytes(31)})),
        "a MAC of 31 bytes": ("challenge", packed({"type": "challenge", "body": b"", "mac": bytes(31)})),
        "a one-time key of 1215 bytes": (
            "request-claims",
            packed(plain("request-claims", REQUEST_CLAIMS) | {"kem_public_key": bytes(1215)}),
        ),
        "a domain in upper case": (
            "recovery-request-claims",
            packed(plain("recovery-request-claims", RECOVERY_REQUEST_CLAIMS) | {"domain": "AB" * 16}),
        ),
        "a contribution of 3073 bytes": (
            "recovery-contribution",
            packed({"type": "recovery-contribution", "request_sha512": bytes(64), "ciphertext": bytes(3073)}),
        ),
        "a log's head of 31 bytes": (
            "request-claims",
            packed(plain("request-claims", REQUEST_CLAIMS) | {"audit_head": bytes(31)}),
        ),
        "a log's head of 33 bytes": (
            "grant-claims",
            packed(plain("grant-claims", GRANT_CLAIMS) | {"audit_head": bytes(33)}),
        ),
        "a policy's digest of 31 bytes": (
            "mint-statement-claims",
            packed(plain("mint-statement-claims", MINT_STATEMENT_CLAIMS) | {"policy_sha256": bytes(31)}),
        ),
        "no evidence": (
            "request",
            packed({"type": "request", "hello": b"", "challenge": b"", "attested": {"type": "attested"}}),
        ),
        "empty evidence": (
            "request",
            encoded("request", request_of(ATTESTED | {"evidence": {"hex": ""}})),
        ),
        "a digest of 63 bytes": (
            "grant-claims",
            packed(plain("grant-claims", GRANT_CLAIMS) | {"ciphertext_sha512": bytes(63)}),
        ),
        "an empty ciphertext": (
            "grant",
            encoded("grant", positive_grant(ciphertext="")),
        ),
    }
    others |= {name: ("release-request-claims", data) for name, data in wrong_keys().items()}
    refused = [
        case(f"hello: {name}", "decode", message="hello", bytes=data.hex(), error="malformed")
        for name, data in hellos.items()
    ] + [
        case(f"{message}: {name}", "decode", message=message, bytes=data.hex(), error="malformed")
        for name, (message, data) in others.items()
    ]
    request = encoded("request", request_of(ATTESTED))
    evidence = request.index(b"evidence") + len(b"evidence")
    much = [[evidence, 3, "c54001"], [evidence + 3, 0, "e1", 16_385]]
    long_identity = [[len(hello) - 2, 2, "c54001"], [len(hello) + 1, 0, "00", 16_385]]
    padding = [[0, 0, "00", messages.MAX_MESSAGE[messages.Hello]]]
    return [
        *refused,
        case("hello: an identity of 16385 bytes", "decode", message="hello", of="hello", changes=long_identity)
        | {"error": "malformed"},
        case("request: evidence of 16385 bytes", "decode", message="request", of="request", changes=much)
        | {"error": "malformed"},
        case("hello: too long", "decode", message="hello", of="hello", changes=padding, error="too-large"),
    ]


def wrong_keys() -> dict[str, bytes]:
    """Claims of release requests whose keys are none that can be asked for."""
    good = plain("release-request-claims", RELEASE_REQUEST_CLAIMS)
    one = {"type": "wanted-key", "label": "a", "size": 32, "generation": "first"}
    keys: dict[str, list[Json]] = {
        "no key": [],
        "17 keys": [one | {"label": f"{number}"} for number in range(17)],
        "an empty label": [one | {"label": ""}],
        "a label of 257 characters": [one | {"label": "a" * 257}],
        "a label with a space in front": [one | {"label": " a"}],
        "a label with a space behind": [one | {"label": "a "}],
        "a label with a line feed behind": [one | {"label": "a\n"}],
        "a label beyond ASCII": [one | {"label": "\u00e4"}],
        "a key of 15 bytes": [one | {"size": 15}],
        "a key of 65 bytes": [one | {"size": 65}],
        "a generation by another word": [one | {"generation": "last"}],
        "a key without a type": [{name: value for name, value in one.items() if name != "type"}],
        "a key with another field": [one | {"root": 1}],
    }
    return {name: packed(good | {"keys": listed}) for name, listed in keys.items()}


def request_of(attested: Json) -> Json:
    """The fields of a request."""
    return {
        "hello": {"hex": "01"},
        "challenge": {"hex": "02"},
        "attested": {"message": "attested", "fields": attested},
    }


def content() -> Json:
    """The file's content."""
    hello = encoded("hello", HELLO)
    position = hello.index(b"version") + len(b"version")
    positive = {
        "hello": HELLO,
        "challenge-body": BODY,
        "challenge": {"body": {"hex": "b0d1"}, "mac": {"hex": numbered(0xC0, 32)}},
        "request-claims": REQUEST_CLAIMS,
        "request": request_of(ATTESTED),
        "grant-claims": GRANT_CLAIMS,
        "members": MEMBERS,
        "grant": positive_grant(ciphertext="ffee"),
        "recovery-request-claims": RECOVERY_REQUEST_CLAIMS,
        "recovery-request": {"attested": {"message": "attested", "fields": ATTESTED}},
        "recovery-contribution": {"request_sha512": {"hex": numbered(0xA0, 64)}, "ciphertext": {"hex": "ffee"}},
        "release-request-claims": RELEASE_REQUEST_CLAIMS,
        "release-request": request_of(ATTESTED),
        "release-claims": RELEASE_CLAIMS,
        "release": {"attested": {"message": "attested", "fields": ATTESTED}, "ciphertext": {"hex": "ffee"}},
        "mint-statement-claims": MINT_STATEMENT_CLAIMS,
        "mint-statement": {"attested": {"message": "attested", "fields": ATTESTED}},
    }
    shared = {
        "mac_key": numbered(0xE0, 32),
        "challenge_nonce": BODY["nonce"]["hex"],
        "primary_instance": BODY["instance"]["hex"],
        "primary_machine": BODY["machine"],
        "now": NOW,
    }
    instance = hello.index(b"\xc4\x10") + 2
    return complete(
        "messages.json",
        "messages of the exchange, and the challenge with its MAC (exchange.md)",
        [
            *(case(name, "encode", message=name, fields=fields) for name, fields in positive.items()),
            *(case(f"{name}, read", "decode", message=name, of=name, changes=[]) for name in positive),
            *wrong_messages(),
            case("challenge for a hello", "challenge", of="hello", changes=[]),
            case("challenge for another version", "challenge", of="hello", changes=[[position, 1, "02"]])
            | {"error": "wrong-version"},
            case(
                "challenge for oneself",
                "challenge",
                of="hello",
                changes=[[instance, 16, shared["primary_instance"]]],
                error="talking-to-itself",
            ),
            case("challenge for no hello", "challenge", bytes="00", error="malformed"),
            case(
                "challenge for a hello too long",
                "challenge",
                of="hello",
                changes=[[0, 0, "00", 32_768]],
                error="too-large",
            ),
        ],
        shared,
    )
