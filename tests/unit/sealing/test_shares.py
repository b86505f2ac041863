"""Shares: whoever has enough of them has the secret, whoever has fewer has nothing, and nothing else is one."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shamir_mnemonic import generate_mnemonics  # type: ignore[import-untyped]
from tests.fakes.recipients import age, largest_ssh_rsa, one_of_each, rsa_key, ssh_ed25519

from rkeyserver.errors import Corrupt, Misuse
from rkeyserver.sealing import shares
from rkeyserver.sealing.recovery import MAX_SEALED_SHARE, MAX_SHARE, ShareSet
from rkeyserver.sealing.shares import (
    ShareDocument,
    check_recipients,
    check_share,
    combine_shares,
    open_share,
    read_share,
    split_secret,
)

DOMAIN, SET = "d0" * 16, "5e" * 16
RECIPIENTS = [age() for _ in range(16)]


def share_set(threshold: int, count: int, **said: str) -> ShareSet:
    named = {"domain": DOMAIN, "set": SET} | said
    return ShareSet(named["domain"], named["set"], threshold, tuple(one.public for one in RECIPIENTS[:count]))


def split(secret: bytes, threshold: int, count: int, **said: str) -> list[bytes]:
    """The shares as their recipients have them."""
    found = split_secret(secret, share_set(threshold, count, **said))
    return [one.opens(share.sealed) for one, share in zip(RECIPIENTS, found, strict=False)]


@given(st.binary(min_size=32, max_size=32), st.data())
# Too slow: a share is split and encrypted in each.
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_so_many_give_the_secret_back_and_one_fewer_do_not(secret: bytes, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 6))
    threshold = data.draw(st.integers(1, count))
    given_out = split(secret, threshold, count)
    whole = share_set(threshold, count)
    for some in itertools.combinations(given_out, threshold):
        assert combine_shares(some, whole) == secret
    for some in itertools.combinations(given_out, threshold - 1):
        with pytest.raises(Corrupt, match="different ones"):
            combine_shares(some, whole)


def test_the_largest_set() -> None:
    secret = secrets.token_bytes(32)
    given_out = split(secret, 16, 16)
    assert combine_shares(given_out[::-1], share_set(16, 16)) == secret


def test_with_a_threshold_of_one_each_recipient_has_all_of_it() -> None:
    secret = secrets.token_bytes(32)
    given_out = split(secret, 1, 3)
    assert len({read_share(one).mnemonic for one in given_out}) == 1
    assert [read_share(one).index for one in given_out] == [0, 1, 2]


def test_every_kind_of_recipient() -> None:
    secret, recipients = secrets.token_bytes(32), one_of_each()
    whole = ShareSet(DOMAIN, SET, 3, tuple(one.public for one in recipients))
    found = split_secret(secret, whole)
    opened = [one.opens(share.sealed) for one, share in zip(recipients, found, strict=True)]
    assert combine_shares(opened, whole) == secret
    for index, one in enumerate(recipients):
        for other, share in enumerate(found):
            assert (open_share(share.sealed, [one.identity]) is None) == (index != other)


def test_no_two_splits_are_alike() -> None:
    secret = secrets.token_bytes(32)
    assert not set(split(secret, 2, 3)) & set(split(secret, 2, 3))


def test_a_set_that_does_not_give_the_secret_back_is_never_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "combine_mnemonics", lambda _words, _passphrase: bytes(32))
    with pytest.raises(Corrupt, match="do not give the secret back"):
        split(b"s" * 32, 2, 3)


def test_a_share_fits_its_limits() -> None:
    found = split_secret(b"s" * 32, ShareSet(DOMAIN, SET, 1, (largest_ssh_rsa(),)))
    assert len(found[0].sealed) <= MAX_SEALED_SHARE // 2
    assert all(len(one) <= MAX_SHARE // 2 for one in split(b"s" * 32, 16, 16))


SHORT_RSA = rsa_key(1024)
NO_RECIPIENTS = {
    "an age key that is cut": RECIPIENTS[0].public[:-1],
    "an age key with a letter changed": RECIPIENTS[0].public[:-1] + ("q" if RECIPIENTS[0].public[-1] != "q" else "p"),
    "an age key of a plugin": "age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t",
    "an SSH key that is cut": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA==",
    "an SSH key of another kind": "ssh-rsa " + ssh_ed25519().public.split()[1],
    "an RSA key of nothing": "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAQA=",
    "an RSA key that is too short": SHORT_RSA,
    "an RSA key that is too long": rsa_key(8192),
}


@pytest.mark.parametrize("public", NO_RECIPIENTS.values(), ids=NO_RECIPIENTS)
def test_what_cannot_be_encrypted_to_is_named(public: str) -> None:
    with pytest.raises(Misuse, match="cannot be a recovery recipient") as raised:
        check_recipients([RECIPIENTS[0].public, public])
    assert public[:20] in raised.value.message
    with pytest.raises(Misuse):
        split_secret(b"s" * 32, ShareSet(DOMAIN, SET, 1, (RECIPIENTS[0].public, public)))


def test_recipients_that_can_be_encrypted_to() -> None:
    check_recipients([one.public for one in one_of_each()] + [largest_ssh_rsa()])


GIVEN = split(b"s" * 32, 2, 3)


def changed(share: bytes, **fields: object) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(share) | fields)


def words(share: bytes, change: Callable[[list[str]], list[str]]) -> bytes:
    return changed(share, mnemonic=" ".join(change(read_share(share).mnemonic.split())))


def groups() -> str:
    made: str = generate_mnemonics(2, [(1, 1), (1, 1)], b"s" * 32, b"")[0][0]
    return made


def exponent() -> str:
    made: str = generate_mnemonics(1, [(2, 3)], b"s" * 32, b"", iteration_exponent=1)[0][0]
    return made


def short() -> str:
    made: str = generate_mnemonics(1, [(2, 3)], b"s" * 16, b"", iteration_exponent=0)[0][0]
    return made


FORMS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "does not decode"),
    "no JSON": (GIVEN[0][:-1], "does not decode"),
    "no UTF-8": (GIVEN[0].replace(b'"domain"', b'"\xff"'), "does not decode"),
    "deep": (b"[" * 1000, "does not decode"),
    "a field unknown": (changed(GIVEN[0], extra=1), "does not decode"),
    "a field twice": (b'{"index":0,' + GIVEN[0][1:], "canonical"),
    "another format": (changed(GIVEN[0], format="rkeyserver-share/v2"), "does not decode"),
    "an index below zero": (changed(GIVEN[0], index=-1), "does not decode"),
    "an index above all": (changed(GIVEN[0], index=16), "does not decode"),
    "a domain that is none": (changed(GIVEN[0], domain="D0" * 16), "does not decode"),
    "a space": (GIVEN[0].replace(b":", b": ", 1), "canonical"),
    "too long": (GIVEN[0] + b" " * MAX_SHARE, "at most 1024 are read"),
    "a word changed": (words(GIVEN[0], lambda all_: [*all_[:9], "zero", *all_[10:]]), "checksum"),
    "two words swapped": (words(GIVEN[0], lambda all_: [all_[1], all_[0], *all_[2:]]), "checksum"),
    "a word that is none": (words(GIVEN[0], lambda all_: [*all_[:9], "rkeyserver", *all_[10:]]), "checksum"),
    "a word missing": (words(GIVEN[0], lambda all_: all_[:-1]), "checksum"),
    "a word too many": (words(GIVEN[0], lambda all_: [*all_, all_[0]]), "checksum"),
    "another share's words": (changed(GIVEN[0], mnemonic=read_share(GIVEN[1]).mnemonic), "words of share 1"),
    "another share's index": (changed(GIVEN[0], index=1), "words of share 0"),
    "words of a set of groups": (changed(GIVEN[0], mnemonic=groups()), "no share of a recovery secret"),
    "words that take longer": (changed(GIVEN[0], mnemonic=exponent()), "no share of a recovery secret"),
    "words of a shorter secret": (changed(GIVEN[0], mnemonic=short()), "no share of a recovery secret"),
}


@pytest.mark.parametrize(("data", "says"), FORMS.values(), ids=FORMS)
def test_what_is_no_share_is_refused_unquoted(data: bytes, says: str) -> None:
    with pytest.raises(Corrupt, match=says) as raised:
        read_share(data)
    for word in read_share(GIVEN[0]).mnemonic.split()[3:]:  # what stands before is no secret
        assert f" {word} " not in f" {raised.value} "
    assert raised.value.__cause__ is None


@given(st.integers(0, len(GIVEN[0]) - 1), st.integers(1, 255))
def test_no_changed_byte_is_a_share_of_this_set(position: int, difference: int) -> None:
    data = bytearray(GIVEN[0])
    data[position] ^= difference
    with pytest.raises(Corrupt):
        check_share(read_share(bytes(data)), share_set(2, 3))


@given(st.binary(max_size=2000))
def test_any_bytes_are_no_share(data: bytes) -> None:
    with pytest.raises(Corrupt):
        read_share(data)


OTHERS: dict[str, tuple[Callable[[], list[bytes]], str]] = {
    "none": (list, "different ones"),
    "one of two": (lambda: GIVEN[:1], "different ones"),
    "one more than it takes": (lambda: GIVEN, "different ones"),
    "one twice": (lambda: [GIVEN[0], GIVEN[0]], "different ones"),
    "one of another domain": (lambda: [GIVEN[0], split(b"s" * 32, 2, 3, domain="00" * 16)[1]], "domain is"),
    "one of another set": (lambda: [GIVEN[0], split(b"s" * 32, 2, 3, set="00" * 16)[1]], "set is"),
    "one of another threshold": (lambda: [GIVEN[0], split(b"s" * 32, 3, 3)[1]], "threshold is 3"),
    "one that was named for this set": (lambda: [GIVEN[0], split(b"s" * 32, 2, 3)[1]], "do not belong together"),
    "one beyond the set": (lambda: [GIVEN[0], split(b"s" * 32, 2, 5)[4]], "of a set of 3"),
    "one that is none": (lambda: [GIVEN[0], b"{}"], "does not decode"),
}


@pytest.mark.parametrize(("given_out", "says"), OTHERS.values(), ids=OTHERS)
def test_what_does_not_belong_together_gives_nothing(given_out: Callable[[], list[bytes]], says: str) -> None:
    with pytest.raises(Corrupt, match=says):
        combine_shares(given_out(), share_set(2, 3))


def test_a_share_is_not_shown() -> None:
    document = read_share(GIVEN[0])
    assert isinstance(document, ShareDocument)
    assert document.mnemonic.split()[-1] not in repr(document)


@pytest.mark.parametrize("sealed", [b"", b"junk", b"age-encryption.org/v1\n", bytes(1000)], ids=len)
def test_what_is_no_encrypted_share_opens_for_nobody(sealed: bytes) -> None:
    assert open_share(sealed, [RECIPIENTS[0].identity]) is None
