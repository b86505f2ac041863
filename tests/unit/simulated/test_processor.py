from __future__ import annotations

import hmac
import json
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fakes.machines import loaded

from rkeyserver.errors import Corrupt, Misuse
from rkeyserver.platforms.simulated import processor as processors
from rkeyserver.platforms.simulated.image import EnclaveIdentity
from rkeyserver.platforms.simulated.processor import (
    SEAL_KEY_SIZE,
    STATE_FILE,
    KeyPolicy,
    Processor,
    open_processor,
)

CHIP = Processor(fuses=bytes(range(32)), ppid=b"P" * 16, cpu_svn=b"\7" + bytes(15), pce_svn=13)
ENCLAVE = EnclaveIdentity(
    mrenclave=b"E" * 32, mrsigner=b"S" * 32, isv_prod_id=1, isv_svn=2, attributes=b"\5" + bytes(15)
)


def seal_key(chip: Processor, policy: KeyPolicy, enclave: EnclaveIdentity) -> bytes:
    key = bytearray(SEAL_KEY_SIZE)
    chip.seal_key(policy, enclave, memoryview(key))
    return bytes(key)


def test_the_sealing_key_is_derived_as_it_is_written() -> None:
    parts = (
        b"rkeyserver simulated processor",
        b"SEAL",
        b"mrsigner",
        b"S" * 32,
        b"\1\0",
        b"\0",
        b"\7" + bytes(15),
        b"\2\0",
        b"\0\0",
    )
    info = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    assert seal_key(CHIP, KeyPolicy.MRSIGNER, ENCLAVE) == hmac.digest(CHIP.fuses, info + b"\1", "sha256")[:16]


ANOTHER_KEY: dict[str, tuple[Processor, EnclaveIdentity]] = {
    "other fuses": (replace(CHIP, fuses=bytes(32)), ENCLAVE),
    "a microcode update": (replace(CHIP, cpu_svn=b"\x08" + bytes(15)), ENCLAVE),
    "an earlier microcode": (replace(CHIP, cpu_svn=b"\6" + bytes(15)), ENCLAVE),
    "another part of the CPUSVN": (replace(CHIP, cpu_svn=b"\7" + bytes(14) + b"\1"), ENCLAVE),
    "a later ISVSVN": (CHIP, replace(ENCLAVE, isv_svn=3)),
    "an earlier ISVSVN": (CHIP, replace(ENCLAVE, isv_svn=1)),
    "another product": (CHIP, replace(ENCLAVE, isv_prod_id=2)),
    "a debug enclave": (CHIP, replace(ENCLAVE, attributes=b"\7" + bytes(15))),
}


@pytest.mark.parametrize("policy", KeyPolicy)
@pytest.mark.parametrize(("chip", "enclave"), ANOTHER_KEY.values(), ids=ANOTHER_KEY)
def test_the_sealing_key_is_another_with(policy: KeyPolicy, chip: Processor, enclave: EnclaveIdentity) -> None:
    assert seal_key(chip, policy, enclave) != seal_key(CHIP, policy, ENCLAVE)


@pytest.mark.parametrize("policy", KeyPolicy)
def test_the_sealing_key_is_another_with_another_configsvn(policy: KeyPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    before = seal_key(CHIP, policy, ENCLAVE)
    monkeypatch.setattr(processors, "CONFIG_SVN", 1)
    assert seal_key(CHIP, policy, ENCLAVE) != before


def test_each_policy_follows_its_own_measurement() -> None:
    def both(enclave: EnclaveIdentity) -> tuple[bytes, bytes]:
        return seal_key(CHIP, KeyPolicy.MRSIGNER, enclave), seal_key(CHIP, KeyPolicy.MRENCLAVE, enclave)

    by_signer, by_code = both(ENCLAVE)
    assert by_signer != by_code
    other_code = both(replace(ENCLAVE, mrenclave=b"F" * 32))
    other_signer = both(replace(ENCLAVE, mrsigner=b"T" * 32))
    assert (other_code[0], other_signer[1]) == (by_signer, by_code)
    assert other_code[1] != by_code
    assert other_signer[0] != by_signer
    # One value for both measurements still makes two keys.
    same = both(replace(ENCLAVE, mrenclave=b"S" * 32))
    assert same[0] != same[1]


def test_the_sealing_key_is_the_same_every_time_and_of_any_ppid() -> None:
    assert seal_key(CHIP, KeyPolicy.MRSIGNER, ENCLAVE) == seal_key(
        replace(CHIP, ppid=bytes(16)), KeyPolicy.MRSIGNER, ENCLAVE
    )


def test_the_certified_key_follows_the_fuses_and_the_versions() -> None:
    chips = [
        CHIP,
        replace(CHIP, fuses=bytes(32)),
        replace(CHIP, cpu_svn=bytes(16)),
        replace(CHIP, pce_svn=12),
    ]
    numbers = {chip.pck_key().private_numbers().private_value for chip in chips}
    assert len(numbers) == 4
    assert CHIP.pck_key().private_numbers() == replace(CHIP, ppid=bytes(16)).pck_key().private_numbers()


def test_it_does_not_show_its_fuses() -> None:
    assert "fuses" not in repr(CHIP)
    assert CHIP.fuses.hex() not in repr(CHIP)


# --- the folder ---


def test_a_machine_is_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b" / "machine"
    made = open_processor(folder)
    state = (folder / STATE_FILE).read_bytes()
    assert open_processor(folder) == made
    assert (folder / STATE_FILE).read_bytes() == state
    assert [one.name for one in folder.iterdir()] == [STATE_FILE]


def test_two_folders_are_two_machines(tmp_path: Path) -> None:
    made = [open_processor(tmp_path / str(number)) for number in range(20)]
    assert len({chip.ppid for chip in made}) == 20
    assert len({chip.fuses for chip in made}) == 20
    assert len({(chip.cpu_svn, chip.pce_svn) for chip in made}) == 1


def test_a_copy_of_a_folder_is_the_same_machine(tmp_path: Path) -> None:
    made = open_processor(tmp_path / "one")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / STATE_FILE).write_bytes((tmp_path / "one" / STATE_FILE).read_bytes())
    assert open_processor(tmp_path / "copy") == made


def test_folder_and_state_are_their_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        open_processor(tmp_path / "machine")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "machine").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "machine" / STATE_FILE).stat().st_mode) == 0o600


def test_made_by_many_at_once_it_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each of them has found no state before any of them makes one.
    together, new_state = threading.Barrier(8, timeout=30), processors._new_state

    def new_state_together() -> bytes:
        together.wait()
        return new_state()

    monkeypatch.setattr(processors, "_new_state", new_state_together)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(open_processor, [tmp_path / "machine"] * 8))
    assert all(chip == made[0] for chip in made)
    assert [one.name for one in (tmp_path / "machine").iterdir()] == [STATE_FILE]


def changed(**changes: object) -> Callable[[dict[str, object]], object]:
    return lambda state: state | changes


def without(name: str) -> Callable[[dict[str, object]], object]:
    return lambda state: {key: value for key, value in state.items() if key != name}


DAMAGED: dict[str, Callable[[dict[str, object]], object]] = {
    "a format that is unknown": changed(format="rkeyserver-simulated-processor/v2"),
    "no format": without("format"),
    "no fuses": without("fuses"),
    "no PPID": without("ppid"),
    "no CPUSVN": without("cpu_svn"),
    "no PCESVN": without("pce_svn"),
    "more": changed(more=1),
    "fuses that are short": changed(fuses="00" * 31),
    "fuses that are long": changed(fuses="00" * 33),
    "fuses in upper case": changed(fuses="AA" * 32),
    "fuses and a new line": changed(fuses="00" * 32 + "\n"),
    "fuses that are no hex": changed(fuses="zz" * 32),
    "fuses that are a number": changed(fuses=0),
    "no fuses but null": changed(fuses=None),
    "a PPID that is short": changed(ppid="00" * 15),
    "a CPUSVN that is long": changed(cpu_svn="00" * 17),
    "a PCESVN below zero": changed(pce_svn=-1),
    "a PCESVN above 16 bits": changed(pce_svn=65536),
    "a PCESVN that is text": changed(pce_svn="13"),
    "a list": lambda state: list(state.values()),
}
DAMAGED_BYTES: dict[str, bytes] = {
    "nothing": b"",
    "one byte": b"{",
    "no JSON": b"junk",
    "zeros": bytes(300),
    "not UTF-8": b'{"format":"\xff"}',
    "larger than any": b"{" + b" " * 5000 + b"}",
    "nested deeply": b"[" * 4000,
}


def assert_corrupt_and_untouched(folder: Path, damaged: bytes, says: str = STATE_FILE) -> None:
    path = folder / STATE_FILE
    path.write_bytes(damaged)
    with pytest.raises(Corrupt, match=says) as refused:
        open_processor(folder)
    assert "cannot open what this one sealed" in refused.value.advice
    assert path.read_bytes() == damaged
    assert [one.name for one in folder.iterdir()] == [STATE_FILE]


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_state_is_neither_used_nor_replaced(
    damage: Callable[[dict[str, object]], object], tmp_path: Path
) -> None:
    open_processor(tmp_path)
    state = json.loads((tmp_path / STATE_FILE).read_bytes())
    assert_corrupt_and_untouched(tmp_path, json.dumps(damage(state)).encode())


@pytest.mark.parametrize("damaged", DAMAGED_BYTES.values(), ids=DAMAGED_BYTES)
def test_a_state_that_is_none_is_neither_used_nor_replaced(damaged: bytes, tmp_path: Path) -> None:
    assert_corrupt_and_untouched(tmp_path, damaged)


def test_a_state_cut_anywhere(tmp_path: Path) -> None:
    open_processor(tmp_path)
    state = (tmp_path / STATE_FILE).read_bytes().rstrip()
    for size in range(len(state)):
        assert_corrupt_and_untouched(tmp_path, state[:size])


def test_an_error_does_not_show_the_fuses(tmp_path: Path) -> None:
    chip = open_processor(tmp_path)
    path = tmp_path / STATE_FILE
    path.write_bytes(path.read_bytes().replace(b'"pce_svn": 13', b'"pce_svn": -1'))
    with pytest.raises(Corrupt) as refused:
        open_processor(tmp_path)
    assert chip.fuses.hex() not in str(refused.value)
    assert chip.fuses.hex() not in str(refused.value.__cause__)


def test_a_state_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).mkdir()
    with pytest.raises(Corrupt, match="is a folder"):
        open_processor(tmp_path)


def test_a_machine_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "machine").write_bytes(b"mine")
    for path in (tmp_path / "machine", tmp_path / "machine" / "deeper"):
        with pytest.raises(Misuse, match="is no folder"):
            open_processor(path)
    assert (tmp_path / "machine").read_bytes() == b"mine"


def test_a_machine_folder_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(Misuse, match=f"belongs to user {owner}, this process to user {owner + 1}"):
        open_processor(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_image_on_the_same_chip_has_the_signers_key_and_not_the_images() -> None:
    one, other = loaded(b"one image"), loaded(b"other image")
    assert seal_key(CHIP, KeyPolicy.MRSIGNER, one) == seal_key(CHIP, KeyPolicy.MRSIGNER, other)
    assert seal_key(CHIP, KeyPolicy.MRENCLAVE, one) != seal_key(CHIP, KeyPolicy.MRENCLAVE, other)
