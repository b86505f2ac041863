"""The stand-in for /dev/attestation does what Gramine's was measured and read to do, sentence by sentence."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.fakes.machines import set_microcode
from tests.fakes.processes import DEADLINE, environment, wait_for_end_of
from tests.sgx.answers import report_mac, target_info
from tests.sgx.device import MOUNTED
from tests.sgx.machines import IMAGE, PATH, Stand
from tests.sgx.state import FAILS, Enclave, Fault, State

from rkeyserver.attestation.sgx import fields, quote
from rkeyserver.attestation.sgx.pck import ppid_of
from rkeyserver.platforms.simulated.processor import open_processor
from rkeyserver.platforms.simulated.tcb import cpu_svn

DATA, OTHER_DATA = bytes(range(64)), bytes(range(64, 128))
OTHER = Enclave(mrenclave="0e" * 32, mrsigner="0f" * 32)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    folder = tmp_path_factory.mktemp("sgx")
    made = Stand(folder / "stand", State(processor=str(folder / "chip"), enclave=IMAGE))
    yield made
    made.close()


@pytest.fixture
def stand(shared: Stand) -> Stand:
    shared.ready()
    shared.state.write(shared.folder)
    set_microcode(chip_of(shared), cpu_svn("UpToDate"))
    return shared


Check = Callable[[Stand], None]
SEMANTICS: dict[str, Check] = {}


def semantics(check: Check) -> Check:
    SEMANTICS[check.__name__.replace("_", " ")] = check
    return check


def chip_of(stand: Stand) -> Path:
    chip = Path(stand.state.processor)
    open_processor(chip)
    return chip


def names(stand: Stand, folder: str = "") -> list[str]:
    return sorted(path.name for path in (stand.mount / folder).iterdir())


def write(stand: Stand, name: str, data: bytes) -> None:
    (stand.mount / name).write_bytes(data)


def read(stand: Stand, name: str) -> bytes:
    return (stand.mount / name).read_bytes()


@contextlib.contextmanager
def opened(stand: Stand, name: str, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(stand.mount / name, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def fails(stand: Stand, name: str, code: int, flags: int = os.O_RDONLY) -> None:
    with pytest.raises(OSError, match=str(name)) as raised, opened(stand, name, flags):
        pass
    assert raised.value.errno == code


def quoted(stand: Stand) -> bytes:
    """The report data of a quote that is made now."""
    return bytes.fromhex(fields.report(fields.parts(read(stand, "quote")).report)["report_data"])


def reported(stand: Stand) -> bytes:
    return read(stand, "report")[320:384]


# --- attestation_type ---


@semantics
def the_type_has_no_newline(stand: Stand) -> None:
    assert read(stand, "attestation_type") == b"dcap"


@semantics
def the_type_none_has_no_quote(stand: Stand) -> None:
    stand.change(attestation_type="none")
    assert read(stand, "attestation_type") == b"none"
    assert not (stand.mount / "quote").exists()
    assert "quote" not in names(stand)
    fails(stand, "quote", errno.ENOENT)
    assert len(read(stand, "report")) == 432
    assert len(read(stand, "keys/_sgx_mrsigner")) == 16


# --- user_report_data and target_info ---


@semantics
def a_write_replaces(stand: Stand) -> None:
    write(stand, "user_report_data", DATA)
    write(stand, "user_report_data", OTHER_DATA)
    assert quoted(stand) == OTHER_DATA


@semantics
def a_write_zero_pads(stand: Stand) -> None:
    write(stand, "user_report_data", DATA)
    write(stand, "user_report_data", b"short")
    assert quoted(stand) == b"short".ljust(64, b"\0")


@semantics
def a_write_silently_truncates(stand: Stand) -> None:
    with opened(stand, "user_report_data", os.O_WRONLY) as fd:
        assert os.write(fd, DATA + OTHER_DATA) == 128
    assert quoted(stand) == DATA


@semantics
def a_write_takes_effect_at_once(stand: Stand) -> None:
    with opened(stand, "user_report_data", os.O_WRONLY) as fd:
        os.write(fd, DATA)
        assert quoted(stand) == DATA
        os.write(fd, OTHER_DATA)
        assert quoted(stand) == OTHER_DATA


@semantics
def a_write_at_an_offset_replaces_too(stand: Stand) -> None:
    with opened(stand, "user_report_data", os.O_WRONLY) as fd:
        os.pwrite(fd, DATA, 0)
        os.pwrite(fd, b"later", 32)
    assert quoted(stand) == b"later".ljust(64, b"\0")


@semantics
def a_fresh_open_reads_nothing(stand: Stand) -> None:
    for name, size in (("user_report_data", 64), ("target_info", 512)):
        write(stand, name, bytes(size))
        assert read(stand, name) == b""


@semantics
def the_same_descriptor_reads_what_it_wrote(stand: Stand) -> None:
    with opened(stand, "user_report_data", os.O_RDWR) as fd:
        os.write(fd, b"as it was written, however long that was: " + DATA)
        assert os.pread(fd, 1000, 0) == b"as it was written, however long that was: " + DATA


@semantics
def opening_to_write_changes_nothing(stand: Stand) -> None:
    write(stand, "user_report_data", DATA)
    with opened(stand, "user_report_data", os.O_WRONLY | os.O_TRUNC):
        pass
    assert quoted(stand) == DATA


@semantics
def the_buffer_is_one_for_the_process_and_without_a_lock(stand: Stand) -> None:
    """What a thread wrote, another has overwritten when the quote is opened."""
    write(stand, "user_report_data", DATA)
    other = threading.Thread(target=write, args=(stand, "user_report_data", OTHER_DATA))
    other.start()
    other.join()
    assert quoted(stand) == OTHER_DATA


@semantics
def another_process_has_another_buffer(stand: Stand) -> None:
    write(stand, "user_report_data", DATA)
    program = "import sys; from pathlib import Path; Path(sys.argv[1]).write_bytes(b'of another enclave')"
    subprocess.run([sys.executable, "-c", program, stand.mount / "user_report_data"], check=True)
    assert quoted(stand) == DATA


# --- quote ---


@semantics
def a_quote_is_at_most_8192_bytes(stand: Stand) -> None:
    assert 432 < len(read(stand, "quote")) <= 8192


@semantics
def a_quote_is_made_at_open(stand: Stand) -> None:
    write(stand, "user_report_data", DATA)
    with opened(stand, "quote") as fd:
        write(stand, "user_report_data", OTHER_DATA)
        made = os.read(fd, 10000)
        assert os.pread(fd, 10000, 0) == made
    quote.require_report_data(made, DATA)


@semantics
def opened_again_there_is_a_new_one(stand: Stand) -> None:
    first = read(stand, "quote")
    write(stand, "user_report_data", DATA)
    assert read(stand, "quote") != first
    assert quoted(stand) == DATA


@semantics
def a_quote_does_not_ask_for_whom_a_report_is(stand: Stand) -> None:
    write(stand, "user_report_data", DATA)
    write(stand, "target_info", b"\1" * 512)
    assert quoted(stand) == DATA


@semantics
def a_quote_names_the_chip_and_the_enclave(stand: Stand) -> None:
    parts = fields.parts(read(stand, "quote"))
    found = fields.report(parts.report)
    chip = open_processor(chip_of(stand))
    assert ppid_of(parts.certification) == chip.ppid.hex()
    assert (found["cpu_svn"], found["mrenclave"]) == (chip.cpu_svn.hex(), IMAGE.mrenclave)
    assert (found["mrsigner"], found["isv_prod_id"], found["isv_svn"]) == (IMAGE.mrsigner, 1, 1)


@semantics
def failure_is_eacces(stand: Stand) -> None:
    stand.change(faults={"quote": FAILS, "report": FAILS, "my_target_info": FAILS})
    for name in ("quote", "report", "my_target_info"):
        fails(stand, name, errno.EACCES)


# --- my_target_info and report ---


@semantics
def my_target_info_is_512_bytes(stand: Stand) -> None:
    found = read(stand, "my_target_info")
    assert len(found) == 512
    assert found == target_info(IMAGE.identity)
    assert found[:32].hex() == IMAGE.mrenclave


@semantics
def a_report_is_432_bytes_made_at_open(stand: Stand) -> None:
    write(stand, "user_report_data", DATA)
    with opened(stand, "report") as fd:
        write(stand, "user_report_data", OTHER_DATA)
        made = os.read(fd, 1000)
    assert (len(made), made[320:384]) == (432, DATA)
    assert reported(stand) == OTHER_DATA


@semantics
def a_report_is_for_the_target(stand: Stand) -> None:
    """By its MAC, over its body, under a key that the target alone can ask its processor for."""
    chip = open_processor(chip_of(stand))
    own, other = read(stand, "my_target_info"), target_info(OTHER.identity)
    write(stand, "target_info", other)
    made = read(stand, "report")
    body, key_id, mac = made[:384], made[384:416], made[416:]
    assert mac == report_mac(chip, other, key_id, body)
    assert mac != report_mac(chip, own, key_id, body)


@semantics
def a_report_without_a_target_is_for_the_enclave_itself(stand: Stand) -> None:
    chip, own = open_processor(chip_of(stand)), read(stand, "my_target_info")
    for target in (bytes(512), own):
        write(stand, "target_info", target)
        made = read(stand, "report")
        assert made[416:] == report_mac(chip, own, made[384:416], made[:384])


@semantics
def a_report_says_what_a_quote_says(stand: Stand) -> None:
    assert read(stand, "report")[:384] == fields.parts(read(stand, "quote")).report


# --- keys ---


@semantics
def the_keys_are_16_bytes(stand: Stand) -> None:
    assert names(stand, "keys") == ["_sgx_mrenclave", "_sgx_mrsigner"]
    of_the_enclave, of_the_signer = read(stand, "keys/_sgx_mrenclave"), read(stand, "keys/_sgx_mrsigner")
    assert (len(of_the_enclave), len(of_the_signer)) == (16, 16)
    assert of_the_enclave != of_the_signer
    assert (read(stand, "keys/_sgx_mrenclave"), read(stand, "keys/_sgx_mrsigner")) == (of_the_enclave, of_the_signer)


@semantics
def the_keys_are_read_only(stand: Stand) -> None:
    for name in ("keys/_sgx_mrenclave", "keys/_sgx_mrsigner"):
        before = read(stand, name)
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            fails(stand, name, errno.EACCES, flags)
        assert read(stand, name) == before


@semantics
def what_is_made_is_read_only(stand: Stand) -> None:
    for name in ("attestation_type", "my_target_info", "report", "quote"):
        fails(stand, name, errno.EACCES, os.O_WRONLY)
        with pytest.raises(PermissionError):
            os.truncate(stand.mount / name, 0)


@semantics
def the_keys_follow_from_the_current_versions(stand: Stand) -> None:
    keys = ("keys/_sgx_mrenclave", "keys/_sgx_mrsigner")
    before = [read(stand, name) for name in keys]
    stand.change(enclave=Enclave(IMAGE.mrenclave, IMAGE.mrsigner, isv_svn=2))
    later = [read(stand, name) for name in keys]
    stand.state.write(stand.folder)
    set_microcode(chip_of(stand), cpu_svn("SWHardeningNeeded"))
    updated = [read(stand, name) for name in keys]
    assert len({*before, *later, *updated}) == 6
    set_microcode(chip_of(stand), cpu_svn("UpToDate"))
    assert [read(stand, name) for name in keys] == before


# --- as files ---


@semantics
def sizes_are_not_what_stat_says(stand: Stand) -> None:
    for name in ("attestation_type", "my_target_info", "report", "quote", "keys/_sgx_mrsigner", "user_report_data"):
        found = (stand.mount / name).stat()
        assert (stat.S_ISREG(found.st_mode), found.st_size) == (True, 0)


@semantics
def who_may_what(stand: Stand) -> None:
    modes = {name: stat.S_IMODE((stand.mount / name).stat().st_mode) for name in names(stand)}
    writable = {"user_report_data", "target_info"}
    read_only = {"attestation_type", "my_target_info", "report", "quote"}
    assert modes == {"keys": 0o555, **dict.fromkeys(writable, 0o666), **dict.fromkeys(read_only, 0o444)}


@semantics
def there_is_nothing_else(stand: Stand) -> None:
    for name in ("qoute", "keys/default", "keys/_sgx_mrsigner/more", "protected_files_key"):
        with pytest.raises((FileNotFoundError, NotADirectoryError)):
            read(stand, name)


@semantics
def a_read_in_parts_is_the_same(stand: Stand) -> None:
    with opened(stand, "quote") as fd:
        whole = os.pread(fd, 10000, 0)
        parts = [os.read(fd, 100) for _ in range(len(whole) // 100 + 2)]
    assert b"".join(parts) == whole


@pytest.mark.parametrize("check", SEMANTICS.values(), ids=SEMANTICS)
def test_semantics(stand: Stand, check: Check) -> None:
    check(stand)


# --- what a test can let go wrong ---

FAULTS: dict[str, tuple[str, Fault, Callable[[bytes], bool]]] = {
    "cut": ("quote", Fault(size=100), lambda found: len(found) == 100),
    "filled up": ("quote", Fault(size=9000), lambda found: len(found) == 9000 and found.endswith(bytes(4000))),
    "empty": ("keys/_sgx_mrsigner", Fault(size=0), lambda found: found == b""),
    "something else": ("keys/_sgx_mrenclave", Fault(contents="00ff"), lambda found: found == b"\0\xff"),
    "something else, cut": ("report", Fault(contents="00ff", size=1), lambda found: found == b"\0"),
}


@pytest.mark.parametrize(("name", "fault", "expected"), FAULTS.values(), ids=FAULTS)
def test_contents_that_are_wrong(stand: Stand, name: str, fault: Fault, expected: Callable[[bytes], bool]) -> None:
    before = read(stand, name)
    stand.change(faults={name: fault})
    assert expected(read(stand, name))
    stand.change(faults={})
    assert len(read(stand, name)) == len(before)


def test_files_that_are_not_there(stand: Stand) -> None:
    stand.change(faults={"keys/_sgx_mrsigner": Fault(absent=True), "attestation_type": Fault(absent=True)})
    assert names(stand, "keys") == ["_sgx_mrenclave"]
    fails(stand, "keys/_sgx_mrsigner", errno.ENOENT)
    fails(stand, "attestation_type", errno.ENOENT)


def test_another_errno(stand: Stand) -> None:
    stand.change(faults={"quote": Fault(error="EIO")})
    fails(stand, "quote", errno.EIO)


def test_a_slow_quote_keeps_nothing_else_waiting(stand: Stand) -> None:
    stand.change(faults={"quote": Fault(delay=0.3)})
    write(stand, "user_report_data", DATA)
    found: list[bytes] = []
    began = time.monotonic()
    slow = threading.Thread(target=lambda: found.append(quoted(stand)))
    slow.start()
    read(stand, "report")
    assert time.monotonic() - began < 0.3
    slow.join()
    assert (found, time.monotonic() - began >= 0.3) == ([DATA], True)


def test_quotes_that_lie(stand: Stand, tmp_path: Path) -> None:
    write(stand, "user_report_data", DATA)
    stand.change(quoted=OTHER, quoted_on=str(tmp_path / "another chip"), quoted_data=OTHER_DATA.hex())
    parts = fields.parts(read(stand, "quote"))
    found = fields.report(parts.report)
    assert (found["mrenclave"], found["report_data"]) == (OTHER.mrenclave, OTHER_DATA.hex())
    assert ppid_of(parts.certification) == open_processor(tmp_path / "another chip").ppid.hex()
    assert reported(stand) == DATA


# --- its life ---

LIVES: dict[str, tuple[str, signal.Signals]] = {
    "it is told to end": ("device", signal.SIGTERM),
    "it is interrupted": ("device", signal.SIGINT),
    "it is killed": ("device", signal.SIGKILL),
    "its parent is killed": ("parent", signal.SIGKILL),
}
# Between the test and the device, so that the device has a parent that can go.
PARENT = """
import subprocess, sys
device = subprocess.Popen([sys.executable, "-m", "tests.sgx.device", *sys.argv[1:]], stdout=subprocess.PIPE)
print(device.pid, device.stdout.readline().decode().strip(), flush=True)
device.wait()
sys.stdin.read()
"""


@pytest.mark.parametrize(("whom", "number"), LIVES.values(), ids=LIVES)
def test_no_mount_is_left_when(tmp_path: Path, whom: str, number: signal.Signals) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    State(processor=str(tmp_path / "chip"), enclave=IMAGE).write(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), str(mount)],
        env=environment(PYTHONPATH=PATH),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as parent:
        assert parent.stdout is not None
        pid, said = parent.stdout.readline().decode().split()
        assert said == MOUNTED
        assert mount.is_mount()
        descriptor = os.open(mount / "user_report_data", os.O_RDWR)  # one that is in use goes too
        os.kill({"device": int(pid), "parent": parent.pid}[whom], number)
        wait_for_end_of(int(pid))
        deadline = time.monotonic() + DEADLINE
        while str(mount) in Path("/proc/mounts").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with contextlib.suppress(OSError):  # the kernel tells that the other end is gone
            os.close(descriptor)
        assert list(mount.iterdir()) == []
