"""Machines that are not as they should be, at either end: each refused by its own reason, by both sides alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.attacks.parties import (
    Machines,
    Pair,
    Primary,
    Standby,
    changed,
    granted,
    judging,
)
from tests.fakes.flavours import for_the_other, other_than, policy_of
from tests.fakes.machines import (
    STATUSES,
    expired,
    expired_in,
    from_the_future,
    loaded,
    other_signer,
    revoking_the_pck_ca,
    revoking_the_processor,
    revoking_the_tcb_signer,
    unknown_authority,
    with_qe_identity,
    with_tcb_info,
)

from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.errors import Reason, Rejected
from rkeyserver.exchange.hpke import OneTimeKey
from rkeyserver.platforms import sigstruct
from rkeyserver.platforms.interface import Platform
from rkeyserver.platforms.simulated.image import running_image
from rkeyserver.secret import SecretBytes

Document = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A machine made with `differences`, judged by the default policy with `policy` changed in it."""

    reason: Reason
    says: str
    differences: dict[str, Any] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)


def put(**values: Any) -> Callable[[Document], None]:
    return lambda document: document.update(values)


def put_in_level(**values: Any) -> Callable[[Document], None]:
    return lambda document: document["tcbLevels"][0].update(values)


ROWS: dict[str, Row] = {
    "another signer": Row(Reason.WRONG_SIGNER, "MRSIGNER is", {"enclave": lambda: loaded(key=other_signer())}),
    "another signer, of the very code": Row(
        Reason.WRONG_SIGNER,
        "MRSIGNER is",
        {"enclave": lambda: loaded(running_image()[sigstruct.SIZE :], key=other_signer())},
    ),
    "another image of the signer, where the image is named": Row(
        Reason.WRONG_MEASUREMENT, "MRENCLAVE is", {"enclave": loaded}, {"mrenclave": ["00" * 32]}
    ),
    "another product of the signer": Row(
        Reason.WRONG_PRODUCT, "product id is 2; wanted is 1", {"enclave": lambda: loaded(isv_prod_id=2)}
    ),
    "product id zero": Row(
        Reason.WRONG_PRODUCT, "product id is 0; wanted is 1", {"enclave": lambda: loaded(isv_prod_id=0)}
    ),
    "a lower version": Row(
        Reason.VERSION_TOO_LOW, r"ISVSVN\) is 0; wanted is at least 1", {"enclave": lambda: loaded(isv_svn=0)}
    ),
    "a version below a raised floor": Row(
        Reason.VERSION_TOO_LOW,
        r"ISVSVN\) is 6; wanted is at least 7",
        {"enclave": lambda: loaded(isv_svn=6)},
        {"min_isv_svn": 7},
    ),
    "a debug enclave": Row(Reason.DEBUG_ENCLAVE, "(?i)debug", {"enclave": lambda: loaded(debug=True)}),
    "a debug enclave of another signer": Row(
        Reason.DEBUG_ENCLAVE, "(?i)debug", {"enclave": lambda: loaded(debug=True, key=other_signer())}
    ),
    "status ConfigurationNeeded": Row(
        Reason.TCB_STATUS, "status is ConfigurationNeeded", {"status": "ConfigurationNeeded"}
    ),
    "status ConfigurationAndSWHardeningNeeded": Row(
        Reason.TCB_STATUS,
        r"status is ConfigurationAndSWHardeningNeeded \(SIMULATED-SA-00001\)",
        {"status": "ConfigurationAndSWHardeningNeeded"},
    ),
    "status SWHardeningNeeded, where it is not named": Row(
        Reason.TCB_STATUS,
        "status is SWHardeningNeeded",
        {"status": "SWHardeningNeeded"},
        {"tcb_statuses": ["UpToDate"]},
    ),
    "status UpToDate, where it is not named": Row(
        Reason.TCB_STATUS, "status is UpToDate", {}, {"tcb_statuses": ["SWHardeningNeeded"]}
    ),
    "status OutOfDate": Row(Reason.TCB_STATUS, "status is OutOfDate ", {"status": "OutOfDate"}),
    "status OutOfDateConfigurationNeeded": Row(
        Reason.TCB_STATUS, "status is OutOfDateConfigurationNeeded", {"status": "OutOfDateConfigurationNeeded"}
    ),
    "status Revoked": Row(Reason.TCB_STATUS, "status is invalid: Revoked", {"status": "Revoked"}),
    "a quoting enclave that is OutOfDate": Row(
        Reason.TCB_STATUS,
        "status is OutOfDate",
        {"collateral": with_qe_identity(put_in_level(tcbStatus="OutOfDate"))},
    ),
    "a quoting enclave that is Revoked": Row(
        Reason.TCB_STATUS,
        "status is invalid: Revoked",
        {"collateral": with_qe_identity(put_in_level(tcbStatus="Revoked"))},
    ),
    "a quoting enclave of another signer": Row(
        Reason.NOT_GENUINE, "(?i)signer", {"collateral": with_qe_identity(put(mrsigner="00" * 32))}
    ),
    "a quoting enclave older than any that is known": Row(
        Reason.NOT_GENUINE,
        "QE ISVSVN 8 is below",
        {"collateral": with_qe_identity(put_in_level(tcb={"isvsvn": 9}))},
    ),
    "older than any level that is known": Row(
        Reason.NOT_GENUINE, "No matching TCB level", {"collateral": with_tcb_info(put(tcbLevels=[]))}
    ),
    "TCB info of another processor model": Row(
        Reason.NOT_GENUINE, "Fmspc", {"collateral": with_tcb_info(put(fmspc="00906ED50000"))}
    ),
    "an advisory that the policy refuses": Row(
        Reason.ADVISORY,
        "INTEL-SA-00615",
        {"collateral": with_tcb_info(put_in_level(advisoryIDs=["INTEL-SA-00001", "INTEL-SA-00615"]))},
        {"rejected_advisories": ["INTEL-SA-00614", "INTEL-SA-00615"]},
    ),
    "an evaluation number below the floor": Row(
        Reason.TCB_TOO_OLD,
        "evaluation number is 19; wanted is at least 20",
        {"collateral": with_tcb_info(put(tcbEvaluationDataNumber=19))},
        {"min_tcb_evaluation_data_number": 20},
    ),
    "a QE identity's evaluation number below the floor": Row(
        Reason.TCB_TOO_OLD,
        "evaluation number is 0; wanted is at least 1",
        {"collateral": with_qe_identity(put(tcbEvaluationDataNumber=0))},
    ),
    "a certificate silent on hyper-threading, where that is refused": Row(
        Reason.PLATFORM_CONFIGURATION, "smt is Undefined", {}, {"smt": "refuse"}
    ),
    "a certificate silent on cached keys, where they are refused": Row(
        Reason.PLATFORM_CONFIGURATION, "cached_keys is Undefined", {}, {"cached_keys": "refuse"}
    ),
    "a certificate silent on a dynamic platform, where that is refused": Row(
        Reason.PLATFORM_CONFIGURATION, "dynamic_platform is Undefined", {}, {"dynamic_platform": "refuse"}
    ),
    "a revoked processor": Row(Reason.NOT_GENUINE, "certificate chain", {"collateral": revoking_the_processor}),
    "a revoked PCK CA": Row(Reason.NOT_GENUINE, "certificate chain", {"collateral": revoking_the_pck_ca}),
    "a revoked TCB signer": Row(Reason.NOT_GENUINE, "certificate chain", {"collateral": revoking_the_tcb_signer}),
    "expired collateral": Row(Reason.NOT_GENUINE, "Expired", {"collateral": expired}),
    "an expired root CRL": Row(Reason.NOT_GENUINE, "Expired", {"collateral": expired_in("root_ca_crl")}),
    "an expired PCK CRL": Row(Reason.NOT_GENUINE, "certificate chain", {"collateral": expired_in("pck_crl")}),
    "expired TCB info": Row(
        Reason.NOT_GENUINE, "TCBInfo expired", {"collateral": expired_in("tcb_info", "tcb_info_signature")}
    ),
    "an expired QE identity": Row(
        Reason.NOT_GENUINE, "expired", {"collateral": expired_in("qe_identity", "qe_identity_signature")}
    ),
    "collateral from the future": Row(Reason.NOT_GENUINE, "in the future", {"collateral": from_the_future}),
    "a private root": Row(Reason.NOT_GENUINE, "root CA CRL", {"authority": unknown_authority}),
    "a machine that is not named": Row(
        Reason.MACHINE_NOT_NAMED, "is not among the 2 that the policy names", {}, {"machines": ["00" * 16, "11" * 16]}
    ),
}

# A status has to be refused or accepted by name: none is forgotten when the list grows.
ACCEPTED = ("UpToDate", "SWHardeningNeeded")


def test_every_status_has_its_row() -> None:
    refused = {row.differences["status"] for row in ROWS.values() if "status" in row.differences}
    assert refused | set(ACCEPTED) == set(STATUSES)


@dataclass
class WatchedKey(OneTimeKey):
    """A one-time key that counts how often something was opened with it."""

    key: OneTimeKey
    opened: int = 0

    def open(self, ciphertext: bytes, info: bytes) -> SecretBytes:
        self.opened += 1
        return self.key.open(ciphertext, info)


def judged_by(row: Row, honest: Platform) -> Policy:
    return changed(policy_of(honest), **row.policy)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_the_primary_refuses(row: Row, pair: Pair, tmp_path: Path) -> None:
    stranger = Standby.of(pair.machine(tmp_path / "stranger", **row.differences))
    request = stranger.ask(pair.primary).message
    with (
        pair.refuses(row.reason, says=row.says),
        judging(pair.primary, judged_by(row, pair.primary.platform)),
    ):
        pair.primary.answer(request)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_the_standby_refuses(row: Row, pair: Pair, tmp_path: Path) -> None:
    policy = policy_of(pair.primary.platform)
    standby = Standby(pair.standby.platform, judged_by(row, pair.primary.platform))
    with Primary.open(pair.machine(tmp_path / "stranger", **row.differences), policy=policy) as stranger:
        requesting = standby.ask(stranger)
        key = WatchedKey(requesting._key)
        grant = stranger.answer(requesting.message)
        with pair.refuses(row.reason, says=row.says):
            granted(dataclasses.replace(requesting, _key=key), grant)
        assert key.opened == 0


@pytest.mark.parametrize("status", ACCEPTED)
def test_an_accepted_status_gets_it_and_gives_it(status: str, pair: Pair, tmp_path: Path) -> None:
    other = pair.machine(tmp_path / "other", status=status)
    Pair(pair.primary, Standby.of(other), pair.third).works()
    with Primary.open(other) as primary:
        Pair(primary, pair.standby, pair.third).works()


def test_a_higher_version_gets_it_and_gives_it(pair: Pair, tmp_path: Path) -> None:
    other = pair.machine(tmp_path / "other", enclave=lambda: loaded(isv_svn=2))
    Pair(pair.primary, Standby.of(other), pair.third).works()
    with Primary.open(other) as primary:
        Pair(primary, pair.standby, pair.third).works()


def named(machines: Machines, *which: Platform) -> Policy:
    return changed(policy_of(machines.first), machines=[one.attester_identity().machine for one in which])


def test_only_machines_that_are_named_get_it(machines: Machines) -> None:
    with Primary.open(machines.first, policy=named(machines, machines.first, machines.second)) as primary:
        pair = Pair(primary, Standby.of(machines.second), machines.third)
        pair.works()
        request = Standby.of(machines.third).ask(primary).message
        line = f"The line that would admit it: {machines.first.name} {machines.third.attester_identity().machine}"
        with pair.refuses(Reason.MACHINE_NOT_NAMED, asked=0, says=line):
            primary.answer(request)


def test_only_from_machines_that_are_named_it_is_taken(pair: Pair, machines: Machines) -> None:
    standby = Standby(machines.second, named(machines, machines.third))
    requesting = standby.ask(pair.primary)
    grant = pair.primary.answer(requesting.message)
    line = f"The line that would admit it: {machines.first.name} {machines.first.attester_identity().machine}"
    with pair.refuses(Reason.MACHINE_NOT_NAMED, says=line):
        granted(requesting, grant)


def test_the_line_that_enrols_does_so(machines: Machines) -> None:
    with Primary.open(machines.first, policy=named(machines, machines.first)) as primary:
        standby = Standby.of(machines.third)
        with pytest.raises(Rejected) as refused:
            primary.answer(standby.ask(primary).message)
        platform, ppid = refused.value.advice.removeprefix("The line that would admit it: ").split()
        assert platform == machines.first.name
        primary.policy = changed(primary.policy, machines=[machines.first.attester_identity().machine, ppid])
        requesting = standby.ask(primary)
        assert granted_domain(requesting, primary) == primary.keyring.domain


def granted_domain(requesting: Any, primary: Primary) -> str:
    received = granted(requesting, primary.answer(requesting.message))
    received.keyring.close()
    return received.keyring.domain


def test_a_platform_that_is_not_named(pair: Pair) -> None:
    policy = parse_policy(for_the_other(pair.primary.policy))
    says = f"{pair.name} is not accepted; the policy names: {other_than(pair.name)}"
    request = pair.standby.ask(pair.primary).message
    with pair.refuses(Reason.PLATFORM_NOT_NAMED, asked=0, says=says), judging(pair.primary, policy):
        pair.primary.answer(request)
    standby = Standby(pair.standby.platform, policy)
    requesting = standby.ask(pair.primary)
    grant = pair.primary.answer(requesting.message)
    with pair.refuses(Reason.PLATFORM_NOT_NAMED, says=says):
        granted(requesting, grant)
    assert standby.verifier.asked == 0
