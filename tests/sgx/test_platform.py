"""The SGX platform over the stand-in: what it reads, what it refuses, what its sealing keys follow from."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.machines import anchor_of, private_authority, set_microcode
from tests.sgx.machines import IMAGE, HereDevice, Stand, collateral
from tests.sgx.state import FAILS, Enclave, Fault, State

from rkeyserver.appraisal.defaults import default_policy
from rkeyserver.attestation.sgx import fields
from rkeyserver.attestation.sgx.anchors import INTEL_SGX_ROOT
from rkeyserver.attestation.sgx.bundle import read_bundle
from rkeyserver.attestation.sgx.verify import SgxVerifier
from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected, RkeyError, Unavailable
from rkeyserver.exchange.attested import appraise_self
from rkeyserver.platforms import registry
from rkeyserver.platforms.interface import Platform, VerifyFunction
from rkeyserver.platforms.sgx.device import MAX_QUOTE, Device
from rkeyserver.platforms.sgx.platform import KeyPolicy, SgxPlatform
from rkeyserver.platforms.simulated.processor import open_processor
from rkeyserver.platforms.simulated.tcb import cpu_svn
from rkeyserver.secret import SecretBytes, copy_secret
from rkeyserver.service.verification import InlineVerifier

DATA = bytes(range(64))
NOT_THE_ENCLAVE: dict[str, dict[str, Any]] = {
    "MRENCLAVE": {"mrenclave": "00" * 32},
    "MRSIGNER": {"mrsigner": "00" * 32},
    "product": {"isv_prod_id": 7},
    "version": {"isv_svn": 7},
    "debug": {"debug": True},
}


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    folder = tmp_path_factory.mktemp("sgx")
    open_processor(folder / "chip")
    made = Stand(folder / "stand", State(processor=str(folder / "chip"), enclave=IMAGE))
    try:
        made.ready()
        yield made
    finally:
        made.close()


@pytest.fixture
def device(stand: Stand) -> Iterator[Device]:
    before = stand.state
    before.write(stand.folder)
    set_microcode(Path(before.processor), cpu_svn("UpToDate"))
    yield HereDevice(stand.mount)
    before.write(stand.folder)


def opened(device: Device, policy: KeyPolicy = KeyPolicy.MRSIGNER) -> SgxPlatform:
    return SgxPlatform.open(device, policy)


def sealed(platform: SgxPlatform, secret: bytes = b"s" * 32, about: bytes = b"about") -> bytes:
    with SecretBytes(32) as key:
        copy_secret(memoryview(bytearray(secret)), key.view)
        return platform.seal(key.view, about)


def unsealed(platform: SgxPlatform, blob: bytes, about: bytes = b"about") -> bytes:
    with SecretBytes(32) as key:
        platform.unseal(blob, about, key.view)
        return key.view.tobytes()


def test_it_is_a_platform(device: Device) -> None:
    platform: Platform = opened(device)
    assert (platform.name, platform.simulated, platform.trusts_host) == ("sgx", False, False)
    assert (platform.hides_memory, platform.starts_processes, platform.waits) == (True, False, True)
    assert platform.endorsements() == b""
    assert "not against denial of service" in platform.protects


def test_who_it_is_comes_from_its_own_report_and_where_from_the_quote(stand: Stand, device: Device) -> None:
    platform = opened(device)
    chip = open_processor(Path(stand.state.processor))
    assert (platform.mrenclave, platform.mrsigner) == (IMAGE.mrenclave, IMAGE.mrsigner)
    assert (platform.isv_prod_id, platform.isv_svn) == (IMAGE.isv_prod_id, IMAGE.isv_svn)
    assert platform.attester_identity().machine == platform.machine == chip.ppid.hex()
    assert platform.attester_identity().platform == "sgx"
    identity = platform.identity()
    assert (identity.platform, identity.machine, identity.policy) == ("sgx", chip.ppid.hex(), "mrsigner")
    assert identity.versions == {
        "cpu_svn": chip.cpu_svn.hex(),
        "isv_svn": "1",
        "config_svn": "0",
        "isv_prod_id": "1",
        "mrsigner": IMAGE.mrsigner,
    }


def test_evidence_is_genuine_under_its_root_and_under_no_other(device: Device) -> None:
    evidence = opened(device).evidence(DATA)
    (entry,) = read_bundle(collateral())
    now = entry.fetched
    claims = SgxVerifier("sgx", anchor_of(private_authority()))(evidence, entry.encoded, DATA, now)
    assert (claims.platform, claims.mrenclave, claims.report_data) == ("sgx", IMAGE.mrenclave, DATA)
    others: list[VerifyFunction] = [
        SgxVerifier("sgx", INTEL_SGX_ROOT),
        registry.load_verifier("sgx"),
        registry.load_verifier("simulated"),
    ]
    for verify in others:
        with pytest.raises(Rejected) as raised:
            verify(evidence, entry.encoded, DATA, now)
        assert raised.value.reason is Reason.NOT_GENUINE


def test_each_quote_is_over_what_was_asked_for_however_many_ask(device: Device) -> None:
    platform = opened(device)
    wrong: list[str] = []

    def ask(number: int) -> None:
        for _ in range(8):
            data = bytes([number]) * 64
            if fields.report(fields.parts(platform.evidence(data)).report)["report_data"] != data.hex():
                wrong.append(data.hex())

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert wrong == []


@pytest.mark.parametrize("size", [0, 63, 65, 128])
def test_report_data_of_another_size_is_never_written(device: Device, size: int) -> None:
    with pytest.raises(Corrupt, match=f"takes 64 bytes; {size} are to be written"):
        device.quote(bytes(size))


# --- the sealing keys, by what they follow from ---

ANOTHER_IMAGE = {"mrenclave": "ab" * 32}
CHANGES: dict[str, tuple[KeyPolicy, dict[str, Any], bool]] = {
    "nothing": (KeyPolicy.MRSIGNER, {}, True),
    "nothing, for this image": (KeyPolicy.MRENCLAVE, {}, True),
    "another image of the signer": (KeyPolicy.MRSIGNER, ANOTHER_IMAGE, True),
    "another image, for this image": (KeyPolicy.MRENCLAVE, ANOTHER_IMAGE, False),
    "another signer": (KeyPolicy.MRSIGNER, {"mrsigner": "cd" * 32}, False),
    "the same image by another signer, for this image": (KeyPolicy.MRENCLAVE, {"mrsigner": "cd" * 32}, True),
    "another product": (KeyPolicy.MRSIGNER, {"isv_prod_id": 2}, False),
    "a later version": (KeyPolicy.MRSIGNER, {"isv_svn": 2}, False),
    "an earlier version": (KeyPolicy.MRSIGNER, {"isv_svn": 0}, False),
    "a debug enclave": (KeyPolicy.MRSIGNER, {"debug": True}, False),
    "a debug enclave, for this image": (KeyPolicy.MRENCLAVE, {"debug": True}, False),
}


@pytest.mark.parametrize(("policy", "change", "opens"), CHANGES.values(), ids=CHANGES)
def test_what_opens_after_a_change_of_the_image(
    stand: Stand, device: Device, policy: KeyPolicy, change: dict[str, Any], *, opens: bool
) -> None:
    blob = sealed(opened(device, policy))
    fields_of = {name: getattr(IMAGE, name) for name in IMAGE.__struct_fields__}
    stand.change(enclave=Enclave(**fields_of | change))
    after = opened(device, policy)
    if opens:
        assert unsealed(after, blob) == b"s" * 32
        return
    with pytest.raises(Corrupt, match="another key"):
        unsealed(after, blob)


@pytest.mark.parametrize("policy", list(KeyPolicy))
@pytest.mark.parametrize("status", ["SWHardeningNeeded", "OutOfDate"])
def test_nothing_opens_after_a_change_of_the_microcode(
    stand: Stand, device: Device, policy: KeyPolicy, status: str
) -> None:
    blob = sealed(opened(device, policy))
    set_microcode(Path(stand.state.processor), cpu_svn(status))
    with pytest.raises(Corrupt, match="another key"):
        unsealed(opened(device, policy), blob)
    set_microcode(Path(stand.state.processor), cpu_svn("UpToDate"))
    assert unsealed(opened(device, policy), blob) == b"s" * 32


def test_the_two_keys_are_two(device: Device) -> None:
    blob = sealed(opened(device, KeyPolicy.MRSIGNER))
    with pytest.raises(Corrupt, match="another key"):
        unsealed(opened(device, KeyPolicy.MRENCLAVE), blob)


def test_another_machine_opens_nothing(stand: Stand, device: Device, tmp_path: Path) -> None:
    blob = sealed(opened(device))
    open_processor(tmp_path)
    stand.change(processor=str(tmp_path))
    with pytest.raises(Corrupt, match="another key"):
        unsealed(opened(device), blob)


@pytest.mark.parametrize("change", [slice(0, -1), slice(1, None)], ids=["cut", "shifted"])
def test_a_damaged_slot_does_not_open(device: Device, change: slice) -> None:
    platform = opened(device)
    with pytest.raises(Corrupt):
        unsealed(platform, sealed(platform)[change])
    with pytest.raises(Corrupt):
        unsealed(platform, sealed(platform), b"about something else")


# --- what a host, or a broken machine, can do with the files ---

SHORT, LONG, NOTHING = Fault(size=15), Fault(size=17), Fault(size=0)
BROKEN: dict[str, tuple[dict[str, Any], type[RkeyError], str]] = {
    "no enclave at all": ({"faults": {"attestation_type": Fault(absent=True)}}, Misuse, "in no SGX enclave"),
    "no attestation": ({"attestation_type": "none"}, Misuse, "attestation_type is 'none'; wanted is 'dcap'"),
    "EPID": ({"attestation_type": "epid"}, Misuse, "wanted is 'dcap'"),
    "a type that is none": ({"attestation_type": "dcap\n"}, Misuse, "wanted is 'dcap'"),
    "no quote": ({"faults": {"quote": FAILS}}, Unavailable, "quote gives nothing now: Permission denied"),
    "no file of quotes": ({"faults": {"quote": Fault(absent=True)}}, Unavailable, "quote gives nothing now"),
    "an empty quote": ({"faults": {"quote": NOTHING}}, Corrupt, "cannot be read"),
    "half a quote": ({"faults": {"quote": Fault(size=900)}}, Corrupt, "cannot be read"),
    "a quote cut in its certificates": ({"faults": {"quote": Fault(size=1500)}}, Corrupt, "cannot be read"),
    "garbage": ({"faults": {"quote": Fault(contents="ff" * 2000)}}, Corrupt, "cannot be read"),
    "a quote of another start": ({"quoted_data": "00" * 64}, Corrupt, "cannot be read"),
    "a quote without end": ({"faults": {"quote": Fault(size=MAX_QUOTE + 1)}}, Corrupt, f"over {MAX_QUOTE} bytes"),
    "no report": ({"faults": {"report": FAILS}}, Unavailable, "report gives nothing now"),
    "a report that is too short": ({"faults": {"report": Fault(size=431)}}, Corrupt, "has 431 bytes; wanted are 432"),
    "a report that is too long": ({"faults": {"report": Fault(size=433)}}, Corrupt, "has 433 bytes; wanted are 432"),
    "no target": ({"faults": {"my_target_info": FAILS}}, Unavailable, "report gives nothing now"),
    "a target that is too short": (
        {"faults": {"my_target_info": Fault(size=511)}},
        Corrupt,
        "takes 512 bytes; 511 are to be written",
    ),
    "nothing to write to": ({"faults": {"user_report_data": FAILS}}, Unavailable, "report gives nothing now"),
    **{
        f"a quote of another enclave, by its {name}": (
            {"quoted": Enclave(**{one: getattr(IMAGE, one) for one in IMAGE.__struct_fields__} | different)},
            Corrupt,
            "quote is of another enclave than this one",
        )
        for name, different in NOT_THE_ENCLAVE.items()
    },
}


@pytest.mark.parametrize(("change", "kind", "says"), BROKEN.values(), ids=BROKEN)
def test_it_does_not_open_where(
    stand: Stand, device: Device, change: dict[str, Any], kind: type[RkeyError], says: str
) -> None:
    stand.change(**change)
    with pytest.raises(kind) as raised:
        opened(device)
    assert says in raised.value.message


def test_a_machine_without_a_name_is_none(stand: Stand, device: Device, tmp_path: Path) -> None:
    chip = replace(open_processor(tmp_path), ppid=bytes(16))
    state = json.loads((tmp_path / "processor.json").read_text())
    (tmp_path / "processor.json").write_text(json.dumps(state | {"ppid": chip.ppid.hex()}))
    stand.change(processor=str(tmp_path))
    with pytest.raises(Corrupt, match="names no processor"):
        opened(device)


def test_a_quote_over_other_data_is_noticed_before_it_is_sent(stand: Stand, device: Device) -> None:
    platform = opened(device)
    stand.change(quoted_data="00" * 64)
    with pytest.raises(Unavailable, match="does not fit what was asked"):
        platform.evidence(DATA)


class WithCollateral(SgxPlatform):
    """One that sends its collateral along."""

    def endorsements(self) -> bytes:
        (entry,) = read_bundle(collateral())
        return entry.encoded


@pytest.mark.parametrize("lies", [False, True], ids=["an honest host", "a host that lies once"])
def test_a_first_quote_with_another_machines_name_gives_a_name_that_nobody_accepts(
    stand: Stand, device: Device, tmp_path: Path, *, lies: bool
) -> None:
    """Nobody verifies that quote, so a host can make it up; each that counts is verified whole."""
    other = open_processor(tmp_path / "another chip")
    if lies:
        stand.change(quoted_on=str(tmp_path / "another chip"))
    platform = WithCollateral.open(device, KeyPolicy.MRSIGNER)
    stand.change(quoted_on=None)
    assert (platform.machine == other.ppid.hex()) is lies
    policy = default_policy(
        "sgx", mrsigner=platform.mrsigner, isv_prod_id=platform.isv_prod_id, machine=platform.machine
    )
    (entry,) = read_bundle(collateral())
    verifiers = {"sgx": InlineVerifier(SgxVerifier("sgx", anchor_of(private_authority())))}
    accepted = appraise_self(platform, dict(verifiers), policy, nonce=bytes(32), now=entry.fetched)
    if not lies:
        assert asyncio.run(accepted).claims.ppid == platform.machine
        return
    with pytest.raises(Rejected) as raised:
        asyncio.run(accepted)
    assert raised.value.reason is Reason.IDENTITY_CHANGED


def test_a_quote_that_comes_later_is_waited_for(stand: Stand, device: Device) -> None:
    platform = opened(device)
    stand.change(faults={"quote": Fault(delay=0.2)})
    assert fields.report(fields.parts(platform.evidence(DATA)).report)["report_data"] == DATA.hex()


KEYS: dict[str, tuple[Fault, type[RkeyError], str]] = {
    "no key": (Fault(absent=True), Unavailable, "gives nothing now: No such file"),
    "a key that fails": (FAILS, Unavailable, "gives nothing now: Permission denied"),
    "an empty key": (NOTHING, Corrupt, "has 0 bytes; wanted are 16"),
    "a short key": (SHORT, Corrupt, "has 15 bytes; wanted are 16"),
    "a long key": (LONG, Corrupt, "has 17 bytes; wanted are 16"),
}


@pytest.mark.parametrize(("fault", "kind", "says"), KEYS.values(), ids=KEYS)
def test_no_seal_without_the_whole_key(
    stand: Stand, tmp_path: Path, fault: Fault, kind: type[RkeyError], says: str
) -> None:
    stand.state.write(stand.folder)
    platform = opened(Device(stand.mount))
    stand.change(faults={"keys/_sgx_mrsigner": fault})
    with pytest.raises(kind) as raised, locked_memory():
        sealed(platform)
    stand.state.write(stand.folder)
    assert says in raised.value.message
    assert not list(tmp_path.iterdir())


def test_the_key_goes_straight_from_the_file_into_key_memory(stand: Stand) -> None:
    stand.state.write(stand.folder)
    platform = opened(Device(stand.mount))
    with locked_memory():
        blob = sealed(platform)
    assert unsealed(opened(HereDevice(stand.mount)), blob) == b"s" * 32


class locked_memory:  # noqa: N801 - used as a context
    """Key memory as it is inside an enclave: no hidden one is to be had, and files can be read into it."""

    def __enter__(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("rkeyserver.secret._map_hidden", lambda _length: None)

    def __exit__(self, *_error: object) -> None:
        self.patch.undo()


def test_no_descriptor_stays_open(device: Device) -> None:
    platform = opened(device)
    before = len(list(Path("/proc/self/fd").iterdir()))
    sealed(platform)
    platform.evidence(DATA)
    device.report()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
