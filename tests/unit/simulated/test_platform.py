from __future__ import annotations

import dataclasses
import json
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.keyrings import MEMBER, OWNER
from tests.fakes.machines import NOW, HostTime, loaded, machine, other_signer, running, set_microcode

from rkeyserver.attestation.evidence import MAX_ENDORSEMENTS, MAX_EVIDENCE
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.clock import Clock
from rkeyserver.errors import Corrupt, Reason, Rejected
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.sealed import open_keyring, seal_keyring
from rkeyserver.platforms.simulated import tcb
from rkeyserver.platforms.simulated.platform import BACKDATED, PROVISIONED_FILE, SimulatedPlatform
from rkeyserver.platforms.simulated.processor import STATE_FILE, KeyPolicy, open_processor
from rkeyserver.sealing.record import parse

DATA = bytes(range(64))


@pytest.fixture
def keyring() -> Iterator[Keyring]:
    keyring = Keyring.mint(primary=MEMBER, now=NOW, policy="a policy")
    yield keyring
    keyring.close()


def opens(record: bytes, platform: SimulatedPlatform, keyring: Keyring) -> bool:
    found = open_keyring(parse(record), platform)
    try:
        return found.same_as(keyring)
    finally:
        found.close()


def refusal(record: bytes, platform: SimulatedPlatform) -> str:
    with pytest.raises(Corrupt) as refused:
        open_keyring(parse(record), platform)
    return str(refused.value)


# --- sealing ---


def test_a_record_opens_on_the_machine_that_sealed_it_and_after_a_restart(tmp_path: Path, keyring: Keyring) -> None:
    record = seal_keyring(keyring, machine(tmp_path), OWNER, now=NOW)
    assert opens(record, machine(tmp_path), keyring)
    assert opens(record, SimulatedPlatform.open(tmp_path, Clock(HostTime())), keyring)


def test_a_record_copied_to_another_machine_does_not_open(tmp_path: Path, keyring: Keyring) -> None:
    one, other = machine(tmp_path / "one"), machine(tmp_path / "other")
    text = refusal(seal_keyring(keyring, one, OWNER, now=NOW), other)
    assert one.attester_identity().machine in text
    assert other.attester_identity().machine in text


def test_a_record_copied_to_a_machine_that_was_given_the_others_ppid_does_not_open(
    tmp_path: Path, keyring: Keyring
) -> None:
    one, other = machine(tmp_path / "one"), machine(tmp_path / "other")
    posing = dataclasses.replace(other.processor, ppid=one.processor.ppid)
    poser = SimulatedPlatform(posing, running(), tmp_path / "other", Clock(HostTime()))
    assert poser.attester_identity() == one.attester_identity()
    assert "does not open the record" in refusal(seal_keyring(keyring, one, OWNER, now=NOW), poser)


def test_a_record_rewritten_to_name_another_machine_does_not_open(tmp_path: Path, keyring: Keyring) -> None:
    one, other = machine(tmp_path / "one"), machine(tmp_path / "other")
    name, wanted = (platform.attester_identity().machine.encode() for platform in (one, other))
    assert "does not open the record" in refusal(
        seal_keyring(keyring, one, OWNER, now=NOW).replace(name, wanted), other
    )


def test_a_record_opens_on_a_copy_of_the_whole_folder_since_that_is_the_machine(
    tmp_path: Path, keyring: Keyring
) -> None:
    record = seal_keyring(keyring, machine(tmp_path / "one"), OWNER, now=NOW)
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    assert opens(record, SimulatedPlatform.open(tmp_path / "copy", Clock(HostTime())), keyring)


@pytest.mark.parametrize("status", ["SWHardeningNeeded", "OutOfDate"])
def test_a_record_from_before_a_change_of_microcode_does_not_open(
    status: str, tmp_path: Path, keyring: Keyring
) -> None:
    record = seal_keyring(keyring, machine(tmp_path), OWNER, now=NOW)
    text = refusal(record, machine(tmp_path, status=status))
    before, after = tcb.CURRENT_CPU_SVN.hex(), tcb.cpu_svn(status).hex()
    assert f"since it was sealed, cpu_svn was {before}, is {after}" in text
    # The machine is the same one; with its microcode as it was, it opens it again.
    assert opens(record, machine(tmp_path), keyring)


ENCLAVES: dict[str, tuple[dict[str, Any], str]] = {
    "another signer": ({"key": True}, "the image that sealed it had another signer"),
    "a later version": ({"isv_svn": 2}, "isv_svn was 1, is 2"),
    "an earlier version": ({"isv_svn": 0}, "isv_svn was 1, is 0"),
    "another product": ({"isv_prod_id": 2}, "does not open"),
    "a debug enclave": ({"debug": True}, "does not open"),
}


@pytest.mark.parametrize(("differences", "says"), ENCLAVES.values(), ids=ENCLAVES)
def test_a_record_does_not_open_for(differences: dict[str, Any], says: str, tmp_path: Path, keyring: Keyring) -> None:
    if "key" in differences:
        differences = {"key": other_signer()}
    record = seal_keyring(keyring, machine(tmp_path), OWNER, now=NOW)
    assert says in refusal(record, machine(tmp_path, enclave=lambda: loaded(**differences)))
    # And the other way round: what the other one seals is not for the product.
    theirs = seal_keyring(keyring, machine(tmp_path, enclave=lambda: loaded(**differences)), OWNER, now=NOW)
    assert "does not open" in refusal(theirs, machine(tmp_path))


def test_a_record_opens_for_another_image_of_the_signer(tmp_path: Path, keyring: Keyring) -> None:
    record = seal_keyring(keyring, machine(tmp_path), OWNER, now=NOW)
    assert opens(record, machine(tmp_path, enclave=loaded), keyring)


def test_a_record_sealed_to_an_image_opens_for_no_other(tmp_path: Path, keyring: Keyring) -> None:
    def strict(platform: SimulatedPlatform) -> SimulatedPlatform:
        return dataclasses.replace(platform, key_policy=KeyPolicy.MRENCLAVE)

    record = seal_keyring(keyring, strict(machine(tmp_path)), OWNER, now=NOW)
    assert opens(record, strict(machine(tmp_path)), keyring)
    assert "does not open" in refusal(record, strict(machine(tmp_path, enclave=loaded)))
    text = refusal(record, machine(tmp_path))
    assert "it was sealed to mrenclave, this instance seals to mrsigner" in text


def test_the_header_says_what_the_record_is_bound_to(tmp_path: Path, keyring: Keyring) -> None:
    platform = machine(tmp_path)
    slot = parse(seal_keyring(keyring, platform, OWNER, now=NOW)).header.slot
    assert (slot.platform, slot.machine, slot.policy) == ("simulated", platform.processor.ppid.hex(), "mrsigner")
    assert slot.versions == {"cpu_svn": tcb.CURRENT_CPU_SVN.hex(), "isv_svn": "1", "config_svn": "0"}


# --- what it is ---


def test_it_says_that_it_protects_nothing(tmp_path: Path) -> None:
    platform = machine(tmp_path)
    assert (platform.name, platform.simulated) == ("simulated", True)
    assert platform.protects.startswith("Nothing")
    assert platform.processor.fuses.hex() not in repr(platform)


def test_its_evidence_is_genuine_and_says_what_it_is(tmp_path: Path) -> None:
    platform = machine(tmp_path)
    claims = platform.verify(platform.evidence(DATA), platform.endorsements(), DATA, NOW)
    chip, enclave = platform.processor, platform.enclave
    assert isinstance(claims, SgxClaims)
    assert claims.identity == platform.attester_identity()
    assert (claims.ppid, claims.fmspc) == (chip.ppid.hex(), tcb.FMSPC.hex())
    assert (claims.mrenclave, claims.mrsigner) == (enclave.mrenclave.hex(), platform.mrsigner)
    assert (claims.isv_prod_id, claims.isv_svn, claims.debug) == (platform.isv_prod_id, 1, False)
    assert (claims.cpu_svn, claims.pce_svn) == (chip.cpu_svn.hex(), chip.pce_svn)
    assert (claims.tcb_status, claims.tcb_eval_data_number) == ("UpToDate", tcb.EVALUATION_DATA_NUMBER)
    assert (claims.issued, claims.expires) == (NOW - BACKDATED, NOW - BACKDATED + tcb.VALID_FOR)
    assert claims.report_data == DATA


@pytest.mark.parametrize(
    "wanted", [bytes(64), DATA[:-1] + b"\0", DATA[:-1], b""], ids=["zeros", "a byte", "cut", "none"]
)
def test_its_evidence_vouches_for_nothing_else(wanted: bytes, tmp_path: Path) -> None:
    platform = machine(tmp_path)
    with pytest.raises(Rejected) as refused:
        platform.verify(platform.evidence(DATA), platform.endorsements(), wanted, NOW)
    assert refused.value.reason is Reason.NOT_BOUND


def test_evidence_and_endorsements_stay_far_below_their_caps(tmp_path: Path) -> None:
    platform = machine(tmp_path)
    assert len(platform.evidence(DATA)) < MAX_EVIDENCE / 2
    assert len(platform.endorsements()) < MAX_ENDORSEMENTS / 2


# --- what it was issued ---


def provisioned(folder: Path) -> bytes:
    return (folder / PROVISIONED_FILE).read_bytes()


def is_genuine(platform: SimulatedPlatform) -> bool:
    now = platform.clock.now()
    return platform.verify(platform.evidence(DATA), platform.endorsements(), DATA, now).report_data == DATA


def test_what_it_was_issued_is_kept_and_its_owners_alone(tmp_path: Path) -> None:
    first = SimulatedPlatform.open(tmp_path, Clock(HostTime()))
    kept = provisioned(tmp_path)
    assert stat.S_IMODE((tmp_path / PROVISIONED_FILE).stat().st_mode) == 0o600
    second = SimulatedPlatform.open(tmp_path, Clock(HostTime(NOW + 3600)))
    assert provisioned(tmp_path) == kept
    assert second.endorsements() == first.endorsements()
    assert sorted(one.name for one in tmp_path.iterdir()) == [STATE_FILE, PROVISIONED_FILE]


def in_json(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    def changed(kept: bytes) -> bytes:
        found = json.loads(kept)
        change(found)
        return json.dumps(found).encode()

    return changed


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "cut": lambda kept: kept[:-1],
    "no JSON": lambda _: b"junk",
    "not UTF-8": lambda kept: kept.replace(b"BEGIN", b"\xff\xff\xff\xff\xff"),
    "zeros": lambda kept: bytes(len(kept)),
    "more": in_json(lambda kept: kept.update(more=1)),
    "no collateral": in_json(lambda kept: kept.pop("collateral")),
    "a part of the collateral missing": in_json(lambda kept: kept["collateral"].pop("pck_crl")),
    "a CRL that is no hex": in_json(lambda kept: kept["collateral"].update(pck_crl="zz")),
    "another chip's key": in_json(lambda kept: kept.update(pck_sha256="00" * 32)),
    "issued in the future": in_json(lambda kept: kept.update(issued=NOW + 1)),
    "issued too long ago": in_json(lambda kept: kept.update(issued=NOW - tcb.VALID_FOR // 2 - 1)),
    "issued before 1970": in_json(lambda kept: kept.update(issued=-1)),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_what_cannot_be_used_any_more_is_issued_again(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    before = SimulatedPlatform.open(tmp_path, Clock(HostTime()))
    damaged = damage(provisioned(tmp_path))
    (tmp_path / PROVISIONED_FILE).write_bytes(damaged)
    after = SimulatedPlatform.open(tmp_path, Clock(HostTime()))
    assert provisioned(tmp_path) != damaged
    assert after.attester_identity() == before.attester_identity()
    assert is_genuine(after)


def test_what_another_machine_was_issued_is_not_used(tmp_path: Path) -> None:
    other = SimulatedPlatform.open(tmp_path / "other", Clock(HostTime()))
    SimulatedPlatform.open(tmp_path / "one", Clock(HostTime()))
    shutil.copy(tmp_path / "other" / PROVISIONED_FILE, tmp_path / "one")
    one = SimulatedPlatform.open(tmp_path / "one", Clock(HostTime()))
    claims = one.verify(one.evidence(DATA), one.endorsements(), DATA, NOW)
    assert claims.identity == one.attester_identity() != other.attester_identity()


def test_after_a_microcode_update_it_is_certified_anew(tmp_path: Path) -> None:
    before = SimulatedPlatform.open(tmp_path, Clock(HostTime()))
    set_microcode(tmp_path, tcb.cpu_svn("SWHardeningNeeded"))
    after = SimulatedPlatform.open(tmp_path, Clock(HostTime()))
    claims = after.verify(after.evidence(DATA), after.endorsements(), DATA, NOW)
    assert claims.identity == before.attester_identity()
    assert (claims.cpu_svn, claims.tcb_status) == (tcb.cpu_svn("SWHardeningNeeded").hex(), "SWHardeningNeeded")


def test_collateral_is_issued_anew_when_half_its_time_is_over(tmp_path: Path) -> None:
    host = HostTime()
    platform = SimulatedPlatform.open(tmp_path, Clock(host))
    first = platform.endorsements()
    host.now = NOW - BACKDATED + tcb.VALID_FOR // 2
    assert platform.endorsements() == first
    host.now += 1
    assert platform.endorsements() != first
    assert is_genuine(platform)
    host.now += 10 * tcb.VALID_FOR
    assert is_genuine(platform)


def test_a_peer_whose_clock_is_an_hour_behind_believes_it(tmp_path: Path) -> None:
    platform = machine(tmp_path)
    claims = platform.verify(platform.evidence(DATA), platform.endorsements(), DATA, NOW - 3600)
    assert claims.identity == platform.attester_identity()


def test_where_nothing_can_be_kept_it_starts_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_processor(tmp_path)
    (tmp_path / PROVISIONED_FILE).mkdir()
    platform = SimulatedPlatform.open(tmp_path, Clock(HostTime()))
    assert platform.endorsements()
    assert "cannot be written" in caplog.records[0].getMessage()
    assert sorted(one.name for one in tmp_path.iterdir()) == [STATE_FILE, PROVISIONED_FILE]
