"""Messages in another place than their own, and in another form than the one that they have."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
import pytest
from tests.attacks.parties import Pair
from tests.attacks.wire import KINDS, Change, Recorded

from rkeyserver.errors import Reason
from rkeyserver.exchange.messages import (
    Challenge,
    ChallengeBody,
    Grant,
    GrantClaims,
    Hello,
    Message,
    Request,
    RequestClaims,
    decode,
)


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        (place, kind)
        for place in KINDS
        for kind in (*KINDS, ChallengeBody, RequestClaims, GrantClaims)
        if kind is not place
    ],
)
def test_a_message_in_the_place_of_another(
    place: type[Message], kind: type[Message], pair: Pair, recorded: Recorded
) -> None:
    inner = {
        ChallengeBody: decode(recorded.messages[Challenge], Challenge).body,
        RequestClaims: decode(recorded.messages[Request], Request).attested.claims,
        GrantClaims: decode(recorded.messages[Grant], Grant).attested.claims,
    }
    with pair.refuses(Reason.MALFORMED, asked=0):
        asyncio.run(recorded.offer(place, (recorded.messages | inner)[kind], pair))


def packed(value: Any, *, wide: str = "") -> bytes:
    """MessagePack by hand, so that what `wide` names is written longer than it has to be."""
    if value is None or isinstance(value, bool | float):
        return msgspec.msgpack.encode(value)
    if isinstance(value, int):
        return b"\xd3" + value.to_bytes(8, "big", signed=True) if wide == "int" else msgspec.msgpack.encode(value)
    if isinstance(value, str):
        text = value.encode()
        return b"\xdb" + len(text).to_bytes(4, "big") + text if wide == "str" else msgspec.msgpack.encode(value)
    if isinstance(value, bytes):
        return b"\xc6" + len(value).to_bytes(4, "big") + value if wide == "bin" else msgspec.msgpack.encode(value)
    pairs: list[tuple[Any, Any]] = list(value.items()) if isinstance(value, dict) else value
    head = b"\xdf" + len(pairs).to_bytes(4, "big") if wide == "map" else bytes([0x80 | len(pairs)])
    return head + b"".join(packed(key, wide=wide) + packed(one, wide=wide) for key, one in pairs)


def unpacked(message: bytes) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.msgpack.decode(message)
    return found


def without(key: str) -> Change:
    return lambda message: packed({name: value for name, value in unpacked(message).items() if name != key})


FORMS: Final[dict[str, Change]] = {
    "fields the other way round": lambda message: packed(list(reversed(unpacked(message).items()))),
    "the last field twice": lambda message: packed([*unpacked(message).items(), list(unpacked(message).items())[-1]]),
    "the type twice": lambda message: packed([("type", unpacked(message)["type"]), *unpacked(message).items()]),
    "a field that nobody knows": lambda message: packed(unpacked(message) | {"more": 1}),
    "no type": without("type"),
    "a type that nobody knows": lambda message: packed(unpacked(message) | {"type": "other"}),
    "a type that is a number": lambda message: packed(unpacked(message) | {"type": 1}),
    "without its last field": lambda message: packed(list(unpacked(message).items())[:-1]),
    "a list of its values": lambda message: msgspec.msgpack.encode(list(unpacked(message).values())),
    "every field null": lambda message: packed(
        dict.fromkeys(unpacked(message), None) | {"type": unpacked(message)["type"]}
    ),
    "wide text": lambda message: packed(unpacked(message), wide="str"),
    "wide bytes": lambda message: packed(unpacked(message), wide="bin"),
    "a wide map": lambda message: packed(unpacked(message), wide="map"),
    "a byte behind it": lambda message: message + b"\xc0",
    "a byte before it": lambda message: b"\xc0" + message,
    "twice": lambda message: message * 2,
    "JSON": lambda message: msgspec.json.encode(msgspec.msgpack.decode(message)),
    "nothing": lambda _message: b"",
    "a number": lambda _message: b"\x01",
    "nested deeply": lambda _message: b"\x81\xa4type" * 1000 + b"\xc0",
    "a map that says it is endless": lambda message: b"\xdf\xff\xff\xff\xff" + message[1:],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_message_in_another_form(form: Change, kind: type[Message], pair: Pair, recorded: Recorded) -> None:
    message = form(recorded.messages[kind])
    assert message != recorded.messages[kind]
    with pair.refuses(Reason.MALFORMED, asked=0):
        asyncio.run(recorded.offer(kind, message, pair))


VERSIONS: Final[dict[str, tuple[bytes, Reason]]] = {
    "in eight bytes": (packed(1, wide="int"), Reason.MALFORMED),
    "in two bytes": (b"\xcc\x01", Reason.MALFORMED),
    "a float": (packed(1.0), Reason.MALFORMED),
    "true": (packed(True), Reason.MALFORMED),  # noqa: FBT003 - a value to be packed
    "text": (packed("1"), Reason.MALFORMED),
    "the one before": (packed(0), Reason.WRONG_VERSION),
    "the next": (packed(2), Reason.WRONG_VERSION),
    "below zero": (packed(-1), Reason.WRONG_VERSION),
    "the largest": (b"\xcf" + b"\xff" * 8, Reason.WRONG_VERSION),
}


@pytest.mark.parametrize(("version", "reason"), VERSIONS.values(), ids=VERSIONS)
def test_a_version_that_is_not_this_one(version: bytes, reason: Reason, pair: Pair) -> None:
    hello = pair.standby.greet().message
    field = packed("version")
    assert hello.count(field + b"\x01") == 1
    with pair.refuses(reason, asked=0):
        pair.primary.challenge(hello.replace(field + b"\x01", field + version))


def test_a_hand_made_message_in_the_canonical_form_is_the_same_bytes(recorded: Recorded) -> None:
    # So that the forms above differ in just what their names say.
    for kind in (Hello, Challenge):
        assert packed(unpacked(recorded.messages[kind])) == recorded.messages[kind]
