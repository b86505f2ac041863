"""Every form that a record may take, and none besides; and that no damaged one opens or breaks anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.keyrings import MEMBER, OTHER_SECRET, OWNER, SECRET, key, keyring_of
from tests.fakes.machines import machine
from tests.fakes.sealer import FakeSealer

from rkeyserver.errors import Corrupt, Unavailable
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.sealed import open_keyring, seal_keyring, set_aside_name
from rkeyserver.platforms.simulated.platform import SimulatedPlatform
from rkeyserver.sealing import record
from rkeyserver.sealing.record import MAGIC, MAX_HEADER
from rkeyserver.sealing.sealer import PlatformSealer

HIGHEST = 2**62
HERE = FakeSealer()


def sealed(sealer: PlatformSealer = HERE, *names: str, secret: bytes = SECRET, **said: Any) -> bytes:
    keyring = keyring_of(names or ("a",), secret=secret, **said)
    try:
        return seal_keyring(keyring, sealer, OWNER, now=2_000)
    finally:
        keyring.close()


def opened(data: bytes, sealer: PlatformSealer = HERE) -> Keyring:
    return open_keyring(record.parse(data), sealer)


def refuses(data: bytes, sealer: PlatformSealer = HERE) -> Corrupt:
    with pytest.raises(Corrupt) as raised:
        opened(data, sealer).close()
    error = raised.value
    assert type(error) is Corrupt
    assert str(error).isprintable()
    assert set_aside_name(data).replace("-", "").replace(".", "").isalnum(), "a name that a keystore takes"
    return error


# Damage, on a real machine's record


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPlatform:
    return machine(tmp_path_factory.mktemp("machine"))


@pytest.fixture(scope="module")
def real(platform: SimulatedPlatform) -> bytes:
    data = sealed(platform)
    opened(data, platform).close()
    return data


def test_no_flipped_bit_opens(platform: SimulatedPlatform, real: bytes) -> None:
    for position in range(len(real)):
        for bit in range(8):
            changed = bytearray(real)
            changed[position] ^= 1 << bit
            refuses(bytes(changed), platform)


def test_no_byte_is_too_many_or_too_few(platform: SimulatedPlatform, real: bytes) -> None:
    for position in range(len(real)):
        refuses(real[:position], platform)
        refuses(real[:position] + real[position + 1 :], platform)
        refuses(real[:position] + real[position : position + 1] * 2 + real[position + 1 :], platform)


@pytest.mark.parametrize("more", [b"\0", b"\n", bytes(16), bytes(10_000)], ids=len)
def test_nothing_may_stand_before_or_behind(platform: SimulatedPlatform, real: bytes, more: bytes) -> None:
    refuses(real + more, platform)
    refuses(more + real, platform)
    refuses(real + real, platform)


def parts(data: bytes) -> tuple[bytes, bytes]:
    """Head and ciphertext."""
    end = data.index(b"\n", len(MAGIC)) + 1
    return data[:end], data[end:]


def test_two_records_of_one_machine_do_not_mix(platform: SimulatedPlatform, real: bytes) -> None:
    for other in (sealed(platform), sealed(platform, sequence=2), sealed(platform, secret=OTHER_SECRET)):
        head, ciphertext = parts(real)
        other_head, other_ciphertext = parts(other)
        refuses(head + other_ciphertext, platform)
        refuses(other_head + ciphertext, platform)


def test_the_wrapped_key_of_another_record_does_not_open_this_one(platform: SimulatedPlatform, real: bytes) -> None:
    wrapped = json.loads(parts(sealed(platform))[0].split(b"\n")[1])["slots"][0]["wrapped"]
    error = refuses(edited(real, lambda header: header["slots"][0].update(wrapped=wrapped)), platform)
    assert "was changed after it was sealed" in error.message


@given(st.binary(max_size=400))
def test_any_bytes_are_no_record(data: bytes) -> None:
    refuses(data)
    refuses(MAGIC + data)
    refuses(MAGIC + b"{" + data + b"}\n" + bytes(40))


# The header's forms


def edited(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """A record whose header says something else, in its canonical form."""
    head, ciphertext = parts(data)
    header = json.loads(head.split(b"\n")[1])
    change(header)
    return MAGIC + json.dumps(header, separators=(",", ":")).encode() + b"\n" + ciphertext


def rewritten(change: Callable[[bytes], bytes]) -> bytes:
    """A record whose header has another form."""
    head, ciphertext = parts(sealed())
    line = head[len(MAGIC) : -1]
    assert change is bytes or change(line) != line
    return MAGIC + change(line) + b"\n" + ciphertext


FORMS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a space": (lambda line: line.replace(b":", b": ", 1), "canonical"),
    "a space behind it": (lambda line: line + b" ", "canonical"),
    "a carriage return behind it": (lambda line: line + b"\r", "canonical"),
    "a field twice": (lambda line: line[:-1] + b',"epoch":0}', "canonical"),
    "a field twice, the first another": (lambda line: b'{"epoch":7,' + line[1:], "canonical"),
    "a domain twice": (lambda line: b'{"domain":"' + b"0" * 32 + b'",' + line[1:], "canonical"),
    "a slot's field twice": (lambda line: line.replace(b'"machine":', b'"machine":"x","machine":'), "canonical"),
    "the slots twice": (lambda line: line[:-1] + b"," + line[line.index(b'"slots"') :], "canonical"),
    "a version twice": (lambda line: line.replace(b'"cpu_svn":', b'"cpu_svn":"0","cpu_svn":'), "canonical"),
    "fields in another order": (
        lambda line: b'{"epoch":0,' + line[1:].replace(b',"epoch":0', b""), "canonical"),
    "the type behind the rest": (
        lambda line: line.replace(b'"type":"platform",', b"").replace(b'"}]}', b'","type":"platform"}]}'), "canonical"),
    "a letter escaped": (lambda line: line.replace(b'"epoch"', b'"\\u0065poch"'), "canonical"),
    "a slash escaped": (lambda line: line.replace(b'"fake"', b'"f\\u0061ke"'), "canonical"),
    "a number as a fraction": (lambda line: line.replace(b'"epoch":0', b'"epoch":0.0'), "damaged"),
    "a number with an exponent": (lambda line: line.replace(b'"written":2000', b'"written":2e3'), "damaged"),
    "minus zero": (lambda line: line.replace(b'"epoch":0', b'"epoch":-0'), "canonical"),
    "base64 with an end too many": (lambda line: line.replace(b'"}]', b'="}]'), "damaged"),
    "base64 that is cut": (lambda line: line.replace(b'"}]', b'A"}]'), "damaged"),
    "a line end in base64": (lambda line: line.replace(b'"}]', b'\\n"}]'), "damaged"),
    "a slot without its type": (lambda line: line.replace(b'"type":"platform",', b""), "damaged"),
    "a leading zero": (lambda line: line.replace(b'"epoch":0', b'"epoch":00'), "damaged"),
    "a plus": (lambda line: line.replace(b'"epoch":0', b'"epoch":+0'), "damaged"),
    "not a number": (lambda line: line.replace(b'"epoch":0', b'"epoch":NaN'), "damaged"),
    "a byte order mark": (lambda line: b"\xef\xbb\xbf" + line, "damaged"),
    "a comment": (lambda line: line + b"//", "damaged"),
    "two headers": (lambda line: line + line, "damaged"),
    "a list": (lambda line: b"[" + line + b"]", "damaged"),
    "null": (lambda _line: b"null", "damaged"),
    "nothing": (lambda _line: b"", "damaged"),
    "deep": (lambda _line: b"[" * 60_000, "damaged"),
    "deep before the type": (
        lambda line: line.replace(b'{"type":', b'{"x":' + b"[" * 20_000 + b"]" * 20_000 + b',"type":'), "damaged"),
    "deep in the slots": (lambda line: line.replace(b'"slots":', b'"slots":' + b"[" * 20_000), "damaged"),
    "deep in a known field": (lambda line: line.replace(b'"epoch":0', b'"epoch":' + b'{"a":' * 9_000), "damaged"),
    "a lone surrogate": (lambda line: line.replace(b'"fake"', b'"\\ud800"'), "damaged"),
    "no UTF-8 in a key": (lambda line: line.replace(b'"epoch"', b'"e\xff\xffch"'), "damaged"),
    "a giant number": (lambda line: line.replace(b'"epoch":0', b'"epoch":' + b"9" * 5000), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "says"), FORMS.values(), ids=FORMS)
def test_a_header_has_one_form(change: Callable[[bytes], bytes], says: str) -> None:
    assert says in refuses(rewritten(change)).message


def test_the_unchanged_header_is_read_by_the_same_way() -> None:
    opened(rewritten(bytes)).close()


# What it may say


def slot(**said: Any) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        header["slots"][0].update(said)

    return change


def top(**said: Any) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        header.update(said)

    return change


def without(name: str, *, of_slot: bool = False) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        del (header["slots"][0] if of_slot else header)[name]

    return change


FIELDS = ("domain", "generations", "epoch", "sequence", "written", "slots")
SLOT_FIELDS = ("type", "platform", "machine", "policy", "versions", "wrapped")
ONE = "0" * 32
SAID: dict[str, Callable[[dict[str, Any]], None]] = {
    **{f"no {name}": without(name) for name in FIELDS},
    **{f"no {name} in the slot": without(name, of_slot=True) for name in SLOT_FIELDS if name != "type"},
    "an unknown field": top(extra=1),
    "an unknown field in the slot": slot(extra=1),
    "a recovery slot": slot(type="recovery"),
    "a slot of no type": slot(type=""),
    "a slot of a type in another case": slot(type="Platform"),
    "a slot of a type that is a number": slot(type=1),
    "no slots": top(slots=[]),
    "slots that are none": top(slots=None),
    "a slot that is none": top(slots=[None]),
    "a domain in upper case": top(domain="A" * 32),
    "a domain too long": top(domain="0" * 33),
    "a domain with a line end": top(domain=ONE + "\n"),
    "no generation": top(generations=[]),
    "too many generations": top(generations=[f"{number:032x}" for number in range(1025)]),
    "a generation that is none": top(generations=["any"]),
    "a negative epoch": top(epoch=-1),
    "an epoch too high": top(epoch=HIGHEST + 1),
    "a negative sequence": top(sequence=-1),
    "a sequence too high": top(sequence=2**64),
    "a sequence that is text": top(sequence="1"),
    "a sequence that is true": top(sequence=True),
    "a negative time": top(written=-1),
    "a platform with a line end": slot(platform="fake\n"),
    "a platform with a blank": slot(platform="fa ke"),
    "a platform in upper case": slot(platform="FAKE"),
    "no name of a platform": slot(platform=""),
    "a name of 129": slot(machine="a" * 129),
    "a machine with an escape sequence": slot(machine="\x1b[31m"),
    "a machine that is a path": slot(machine="../a"),
    "a policy that is none": slot(policy=None),
    "a version that is a number": slot(versions={"cpu_svn": 1}),
    "a version with an escape sequence": slot(versions={"cpu_svn": "\x1b[31m"}),
    "a version's name with a line end": slot(versions={"cpu\nsvn": "1"}),
    "versions that are a list": slot(versions=[]),
    "a wrapped key that is no base64": slot(wrapped="****"),
    "a wrapped key that is a list": slot(wrapped=[1]),
}


@pytest.mark.parametrize("change", SAID.values(), ids=SAID)
def test_what_a_header_may_not_say(change: Callable[[dict[str, Any]], None]) -> None:
    assert "header is damaged" in refuses(edited(sealed(), change)).message


LIMITS: dict[str, Callable[[dict[str, Any]], None]] = {
    "the first state": top(epoch=0, sequence=0, written=0),
    "the last state": top(epoch=HIGHEST, sequence=HIGHEST, written=HIGHEST),
    "many generations": top(generations=[f"{number:032x}" for number in range(1024)]),
    "a name of 128": slot(machine="a" * 128),
    "every letter of a name": slot(policy="az09:._-"),
    "no versions": slot(versions={}),
}


@pytest.mark.parametrize("change", LIMITS.values(), ids=LIMITS)
def test_a_header_at_its_limits_is_read_but_does_not_open(change: Callable[[dict[str, Any]], None]) -> None:
    data = edited(sealed(), change)
    record.parse(data)
    assert "header" not in refuses(data).message


def of_header_size(size: int) -> bytes:
    """A record whose header line, end included, has so many bytes."""
    data = edited(sealed(), slot(machine="a", wrapped=""))
    room = size - (len(parts(data)[0]) - len(MAGIC))
    return edited(data, slot(machine="a" * (1 + room % 4), wrapped="AAAA" * (room // 4)))


def test_a_header_has_so_many_bytes_and_no_more() -> None:
    largest = of_header_size(MAX_HEADER)
    assert len(parts(largest)[0]) == len(MAGIC) + MAX_HEADER
    record.parse(largest)
    assert "has no end" in refuses(of_header_size(MAX_HEADER + 1)).message


@pytest.mark.parametrize("size", range(18))
def test_a_ciphertext_is_longer_than_its_tag(size: int) -> None:
    head, _ = parts(sealed())
    says = "truncated" if size <= 16 else "was changed"
    assert says in refuses(head + bytes(size)).message


FORMATS: dict[str, tuple[bytes, str]] = {
    "a later one": (b"rkeyserver-record/v2\n", "rkeyserver-record/v2; this version reads rkeyserver-record/v1"),
    "a much later one": (b"rkeyserver-record/v10\n", "rkeyserver-record/v10"),
    "none": (b"rkeyserver-record/\n", "no record"),
    "one of a strange name": (b"rkeyserver-record/v2 \n", "no record"),
    "with another line end": (b"rkeyserver-record/v1\r\n", "no record"),
    "without a line end": (b"rkeyserver-record/v1", "no record"),
    "in upper case": (b"RKEYSERVER-RECORD/V1\n", "no record"),
}


@pytest.mark.parametrize(("magic", "says"), FORMATS.values(), ids=FORMATS)
def test_another_format_is_named(magic: bytes, says: str) -> None:
    assert says in refuses(magic + sealed()[len(MAGIC) :]).message


def test_what_is_no_record_is_not_shown() -> None:
    assert "secret" not in str(refuses(key("a secret")))


# Inside


def test_what_the_header_says_is_what_is_inside() -> None:
    keyring = keyring_of(["a", "b"], epoch=1, sequence=2)
    honest: dict[str, Any] = {
        "domain": keyring.domain, "generations": keyring.generation_ids, "epoch": 1, "sequence": 2, "written": 0,
        "member": MEMBER, "members": ()
    }  # fmt: skip
    opened(record.seal(record.Contents(**honest), keyring.view, HERE)).close()
    for said in (
        {"domain": ONE},
        {"generations": keyring.generation_ids[:1]},
        {"generations": keyring.generation_ids[::-1]},
        {"epoch": 0},
        {"sequence": 3},
    ):
        data = record.seal(record.Contents(**honest | said), keyring.view, HERE)
        assert "the keyring in it" in refuses(data).message
    keyring.close()


def test_what_is_inside_has_to_be_a_keyring() -> None:
    keyring = keyring_of()
    contents = record.Contents(keyring.domain, keyring.generation_ids, 0, 1, 0, MEMBER, ())
    data = record.seal(contents, keyring.view[:-1], HERE)
    assert "its header asks for" in refuses(data).message
    keyring.close()


class Powerless(FakeSealer):
    def seal(self, secret: memoryview, associated_data: bytes) -> bytes:
        raise Unavailable(f"no key for {len(secret) + len(associated_data)} bytes now")

    def unseal(self, blob: bytes, associated_data: bytes, into: memoryview) -> None:
        raise Unavailable(f"no key for {len(blob) + len(associated_data) + len(into)} bytes now")


def test_a_platform_that_gives_no_key_now_says_so() -> None:
    with pytest.raises(Unavailable, match="no key"):
        sealed(Powerless())
    with pytest.raises(Unavailable, match="no key"):
        opened(sealed(), Powerless())


@pytest.fixture
def other_machine(tmp_path: Path) -> SimulatedPlatform:
    return machine(tmp_path / "other")


def test_a_real_record_opens_on_its_machine_alone(
    platform: SimulatedPlatform, real: bytes, other_machine: SimulatedPlatform
) -> None:
    opened(real, platform).close()
    here, there = platform.identity().machine, other_machine.identity().machine
    error = refuses(real, other_machine)
    assert f"sealed by machine {here}; this is machine {there}" in error.message
    assert "slot was damaged" in refuses(edited(real, slot(machine=there)), other_machine).message


def test_the_name_that_a_record_is_kept_under_says_which_it_was() -> None:
    data = sealed(epoch=3, sequence=14)
    domain = record.parse(data).header.domain
    assert set_aside_name(data) == set_aside_name(data[:-1]) == f"domain-{domain}.epoch-3.sequence-14"
    assert set_aside_name(b"") == set_aside_name(data[1:]) == "unreadable"
