"""The recovery slot of a record: it opens by its secret and by nothing else, and takes nothing from the other slot."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.keyrings import MEMBER, OWNER, keyring_of
from tests.fakes.recipients import age, largest_ssh_rsa, one_of_each
from tests.fakes.sealer import FakeSealer
from tests.fakes.sharing import WatchedSharing

from rkeyserver.errors import Corrupt, Misuse
from rkeyserver.exchange.messages import MAX_IDENTITY
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.sealed import open_keyring, open_recovered, seal_keyring
from rkeyserver.keystore.store import MAX_RECORD
from rkeyserver.sealing import record
from rkeyserver.sealing.recovery import (
    MAX_SHARES,
    Recovery,
    encode_slot,
    fingerprint,
    parse_slot,
    share_set_of,
)

HERE = FakeSealer()
RECIPIENTS = one_of_each()


def recovery_of(threshold: int, sharing: WatchedSharing, recipients: list[str] | None = None) -> Recovery:
    return Recovery(threshold, tuple(recipients or [one.public for one in RECIPIENTS]), sharing)


class Sealed:
    """A record with a recovery slot, and its recovery secret."""

    def __init__(self, threshold: int = 2) -> None:
        sharing = WatchedSharing()
        self.keyring = keyring_of()
        self.data = seal_keyring(self.keyring, HERE, OWNER, now=2_000, recovery=recovery_of(threshold, sharing))
        (self.secret,) = sharing.secrets


SEALED = Sealed()


@pytest.fixture
def sealed() -> Iterator[Sealed]:
    made = Sealed()
    yield made
    made.keyring.close()


def recovered(data: bytes, secret: bytes = SEALED.secret) -> Keyring:
    return open_recovered(record.parse(data), memoryview(secret))


def test_it_opens_by_the_secret_and_by_the_machine(sealed: Sealed) -> None:
    for opened in (recovered(sealed.data, sealed.secret), open_keyring(record.parse(sealed.data), HERE)):
        assert opened.same_as(sealed.keyring)
        opened.close()


def test_the_shares_of_any_so_many_recipients_open_it(sealed: Sealed) -> None:
    slot = record.parse(sealed.data).header.recovery
    assert slot is not None
    shares = [one.opens(share.sealed) for one, share in zip(RECIPIENTS, slot.shares, strict=True)]
    for some in ([0, 1], [2, 0], [1, 2]):
        views = [memoryview(shares[index]) for index in some]
        with WatchedSharing().combine(views, share_set_of(slot, sealed.keyring.domain)) as secret:
            opened = recovered(sealed.data, bytes(secret.view))
        assert opened.same_as(sealed.keyring)
        opened.close()


def test_every_seal_has_a_secret_of_its_own() -> None:
    one, other = Sealed(), Sealed()
    assert one.secret != other.secret
    slots = [record.parse(each.data).header.recovery for each in (one, other)]
    assert slots[0] is not None
    assert slots[1] is not None
    assert slots[0].set != slots[1].set
    with pytest.raises(Corrupt, match="recovery slot does not open"):
        recovered(one.data, other.secret)


def test_without_recipients_there_is_no_slot() -> None:
    keyring = keyring_of()
    parsed = record.parse(seal_keyring(keyring, HERE, OWNER, now=2_000))
    keyring.close()
    assert parsed.header.recovery is None
    assert len(parsed.header.slots) == 1
    with pytest.raises(Corrupt, match="no recovery slot"):
        open_recovered(parsed, memoryview(SEALED.secret))


def test_where_no_share_can_be_made_no_record_is() -> None:
    keyring = keyring_of()
    with pytest.raises(Misuse, match="no such key"):
        seal_keyring(keyring, HERE, OWNER, now=0, recovery=recovery_of(2, WatchedSharing(fails=Misuse("no such key"))))
    keyring.close()


def test_neither_secret_nor_share_is_in_a_record() -> None:
    slot = record.parse(SEALED.data).header.recovery
    assert slot is not None
    assert SEALED.secret not in SEALED.data
    for one, share in zip(RECIPIENTS, slot.shares, strict=True):
        words = json.loads(one.opens(share.sealed))["mnemonic"].encode()
        assert words not in SEALED.data


def test_the_largest_record_is_read_and_its_slot_fits_a_request() -> None:
    """16 recipients with the longest keys, and as many generations as a keyring takes."""
    recipients = [largest_ssh_rsa() for _ in range(MAX_SHARES)]
    keyring = keyring_of([f"generation {number}" for number in range(1024)])
    data = seal_keyring(keyring, HERE, OWNER, now=2**62, recovery=recovery_of(16, WatchedSharing(), recipients))
    header = record.parse(data).header
    keyring.close()
    assert len(data) <= MAX_RECORD
    assert header.recovery is not None
    assert len(encode_slot(header.recovery)) < 3 * MAX_IDENTITY - 2048  # the other claims are in there too


# What an editor of the file can do


def edited(change: Callable[[dict[str, Any]], object]) -> bytes:
    magic, line, rest = SEALED.data.split(b"\n", 2)
    header = json.loads(line)
    change(header)
    return b"\n".join([magic, json.dumps(header, separators=(",", ":")).encode(), rest])


def slot(header: dict[str, Any]) -> dict[str, Any]:
    found = header["slots"][1]
    assert isinstance(found, dict)
    return found


FORMS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "the slots swapped": (lambda h: h["slots"].reverse(), "wanted are one of a platform"),
    "no platform slot": (lambda h: h["slots"].pop(0), "wanted are one of a platform"),
    "two platform slots": (lambda h: h["slots"].__setitem__(1, h["slots"][0]), "wanted are one of a platform"),
    "two recovery slots": (lambda h: h["slots"].__setitem__(0, h["slots"][1]), "wanted are one of a platform"),
    "three slots": (lambda h: h["slots"].append(h["slots"][1]), "damaged"),
    "no share": (lambda h: slot(h).update(shares=[]), "damaged"),
    "17 shares": (lambda h: slot(h).update(shares=slot(h)["shares"][:1] * 17), "damaged"),
    "a threshold of zero": (lambda h: slot(h).update(threshold=0), "damaged"),
    "a threshold above the shares": (lambda h: slot(h).update(threshold=4), "wants 4 of 3"),
    "a recipient twice": (lambda h: slot(h)["shares"].append(slot(h)["shares"][0]), "names a recipient twice"),
    "a recipient with a name": (
        lambda h: slot(h)["shares"][1].update(recipient=slot(h)["shares"][1]["recipient"] + " me"), "damaged"),
    "a recipient that a terminal obeys": (lambda h: slot(h)["shares"][0].update(recipient="age1\x1b[2J"), "damaged"),
    "a digest too short": (lambda h: slot(h)["shares"][0].update(digest="00"), "damaged"),
    "a share of nothing": (lambda h: slot(h)["shares"][0].update(sealed=""), "damaged"),
    "a share too long": (lambda h: slot(h)["shares"][0].update(sealed="AAAA" * 1400), "damaged"),
    "a wrapped key too short": (lambda h: slot(h).update(wrapped=slot(h)["wrapped"][4:]), "damaged"),
    "a field unknown": (lambda h: slot(h).update(extra=1), "damaged"),
    "a set that is none": (lambda h: slot(h).update(set="any"), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "says"), FORMS.values(), ids=FORMS)
def test_no_other_form_is_a_record(change: Callable[[dict[str, Any]], object], says: str) -> None:
    with pytest.raises(Corrupt, match=says):
        record.parse(edited(change))


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another set": (lambda h: slot(h).update(set="00" * 16), "slot does not open"),
    "another threshold": (lambda h: slot(h).update(threshold=3), "slot does not open"),
    "another domain": (lambda h: h.update(domain="00" * 16), "slot does not open"),
    "another epoch": (lambda h: h.update(epoch=1), "slot does not open"),
    "another sequence": (lambda h: h.update(sequence=9), "slot does not open"),
    "another wrapped key": (
        lambda h: slot(h).update(wrapped="AAAA" + slot(h)["wrapped"][4:]), "slot does not open"),
    "another time": (lambda h: h.update(written=9), "was changed after"),
    "a share taken out": (lambda h: slot(h)["shares"].pop(), "was changed after"),
    "another digest": (lambda h: slot(h)["shares"][0].update(digest="00" * 32), "was changed after"),
    "another recipient": (lambda h: slot(h)["shares"][0].update(recipient=age().public), "was changed after"),
    "another machine": (lambda h: h["slots"][0].update(machine="machine-b"), "was changed after"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "says"), CHANGES.values(), ids=CHANGES)
def test_a_changed_record_does_not_open_by_its_secret(change: Callable[[dict[str, Any]], object], says: str) -> None:
    with pytest.raises(Corrupt, match=says):
        recovered(edited(change))


def test_the_slot_cannot_be_taken_off_unseen() -> None:
    with pytest.raises(Corrupt, match="was changed after"):
        open_keyring(record.parse(edited(lambda h: h["slots"].pop())), HERE)


@given(st.integers(0, len(SEALED.data) - 1), st.integers(1, 255))
def test_no_changed_byte_opens(position: int, difference: int) -> None:
    changed = bytearray(SEALED.data)
    changed[position] ^= difference
    with pytest.raises(Corrupt):
        recovered(bytes(changed))


def test_a_keyring_under_another_domain_s_name_is_found() -> None:
    """Anyone can seal what he likes to anyone's public key."""
    keyring, sharing = keyring_of(), WatchedSharing()
    contents = record.Contents("00" * 16, keyring.generation_ids, 0, 1, 2_000, MEMBER, ())
    data = record.seal(contents, keyring.view, HERE, recovery_of(1, sharing))
    keyring.close()
    with pytest.raises(Corrupt, match="the keyring in it"):
        recovered(data, sharing.secrets[0])


# A slot alone, as a request carries it


def slot_bytes() -> bytes:
    found = record.parse(SEALED.data).header.recovery
    assert found is not None
    return encode_slot(found)


def test_a_slot_alone_is_what_stands_in_the_record() -> None:
    data = slot_bytes()
    assert data in SEALED.data
    assert encode_slot(parse_slot(data)) == data


SLOTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda _data: b"", "damaged"),
    "no slot": (lambda _data: b"{}", "damaged"),
    "no UTF-8": (lambda data: data.replace(b"age1", b"\xff\xff\xff\xff", 1), "damaged"),
    "deep": (lambda _data: b"[" * 10_000, "damaged"),
    "a space": (lambda data: data.replace(b",", b", ", 1), "canonical"),
    "a threshold above its shares": (lambda data: data.replace(b'"threshold":2', b'"threshold":9'), "wants 9 of 3"),
}


@pytest.mark.parametrize(("change", "says"), SLOTS.values(), ids=SLOTS)
def test_what_is_no_slot_is_named(change: Callable[[bytes], bytes], says: str) -> None:
    with pytest.raises(Corrupt, match=says):
        parse_slot(change(slot_bytes()))


def test_a_share_is_known_by_its_digest() -> None:
    found = parse_slot(slot_bytes())
    for index, one in enumerate(RECIPIENTS):
        share = one.opens(found.shares[index].sealed)
        assert found.find(memoryview(share)) == index
        assert found.find(memoryview(share[:-1])) is None
    assert found.find(memoryview(secrets.token_bytes(300))) is None


def test_recipients_as_people_know_them() -> None:
    age_key, ed25519, rsa = (fingerprint(one.public) for one in RECIPIENTS)
    assert age_key == RECIPIENTS[0].public
    assert ed25519.startswith("ssh-ed25519 SHA256:")
    assert rsa.startswith("ssh-rsa SHA256:")
    assert len(ed25519.split(":")[1]) == 43
    assert fingerprint("ssh-rsa AAA") == "ssh-rsa AAA"
