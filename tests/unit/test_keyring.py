from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.fakes.keyrings import MEMBER

from rkeyserver.errors import Corrupt
from rkeyserver.keyring.derivation import derive_into
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.secret import SecretBytes, copy_secret


@pytest.fixture
def keyring() -> Iterator[Keyring]:
    made = Keyring.mint(primary=MEMBER, now=1_000, policy="version = 1\n")
    yield made
    made.close()


def secret_of(data: bytes) -> SecretBytes:
    secret = SecretBytes(len(data))
    secret.view[:] = data
    return secret


def derived(keyring: Keyring, label: bytes, purpose: str = "test") -> bytes:
    out = bytearray(32)
    derive_into(
        keyring.root_key(keyring.current.id),
        domain=keyring.domain,
        purpose=purpose,
        label=label,
        into=memoryview(out),
    )
    return bytes(out)


def test_a_minted_keyring_survives_its_bytes(keyring: Keyring) -> None:
    copy = SecretBytes(len(keyring.view))
    copy_secret(keyring.view, copy.view)
    parsed = Keyring.parse(copy)
    assert parsed.same_as(keyring)
    assert parsed.header == keyring.header
    assert parsed.generation_ids == (keyring.current.id,)
    assert derived(parsed, b"label") == derived(keyring, b"label")


def test_two_mints_share_nothing(keyring: Keyring) -> None:
    other = Keyring.mint(primary=MEMBER, now=1_000, policy="version = 1\n")
    assert other.domain != keyring.domain
    assert other.generation_ids != keyring.generation_ids
    assert not other.same_as(keyring)
    assert not other.extends(keyring)
    assert keyring.extends(keyring)


def test_derivation_tells_labels_and_purposes_apart(keyring: Keyring) -> None:
    values = {derived(keyring, b"a"), derived(keyring, b"b"), derived(keyring, b"a", "other"), derived(keyring, b"")}
    assert len(values) == 4


def test_an_unknown_generation_has_no_key(keyring: Keyring) -> None:
    with pytest.raises(KeyError):
        keyring.root_key("00" * 16)


def test_repr_shows_no_key(keyring: Keyring) -> None:
    assert repr(keyring) == f"<Keyring of domain {keyring.domain}, 1 generation(s)>"


def header_length(data: bytes) -> int:
    return int.from_bytes(data[:4], "big")


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _d: b"\0", "no keyring"),
    "length past the end": (lambda d: b"\xff" * 4 + d[4:], "no keyring"),
    "length zero": (lambda d: bytes(4) + d[4:], "no keyring"),
    "header is no JSON": (lambda d: d[:4] + b"[" + d[5:], "does not decode"),
    "unknown field": (lambda d: d.replace(b'"version":1,', b'"versiom":1,', 1), "does not decode"),
    "another version": (lambda d: d.replace(b'"version":1,', b'"version":2,', 1), "does not decode"),
    "not canonical": (lambda d: d.replace(b'"created":1000', b'"created":1e03', 1), "canonical|decode"),
    "a key too few": (lambda d: d[:-32], "asks for"),
    "a byte too many": (lambda d: d + b"\0", "asks for"),
    "domain secret changed": (lambda d: d[:-33] + bytes([d[-33] ^ 1]) + d[-32:], "says it is of domain"),
    "root key changed": (lambda d: d[:-1] + bytes([d[-1] ^ 1]), "says generation"),
    "no current generation": (
        lambda d: (header_length(d) + 1).to_bytes(4, "big") + d[4:].replace(b'"current"', b'"readable"'[:10], 1),
        "current generations|decode",
    ),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_bytes_are_no_keyring(keyring: Keyring, damage: Callable[[bytes], bytes], says: str) -> None:
    secret = secret_of(damage(bytes(keyring.view)))
    with pytest.raises(Corrupt, match=says) as caught:
        Keyring.parse(secret)
    assert caught.value.__cause__ is None
    with pytest.raises(ValueError, match="released"):
        _ = secret.view
