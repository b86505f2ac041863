"""Each check of the explanation fails for what it is about, and says nothing passed that nothing looked at."""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes import machines as making
from tests.fakes.machines import NOW, loaded, machine, private_authority, with_qe_identity, with_tcb_info
from tests.vectors import intel

from rkeyserver.attestation.check import Check
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.attestation.sgx.explain import NOT_LOOKED_AT, STEPS, explain
from rkeyserver.attestation.sgx.material import Material
from rkeyserver.errors import Reason, Rejected
from rkeyserver.platforms.simulated.anchor import SIMULATED_ROOT, verify
from rkeyserver.platforms.simulated.platform import SimulatedPlatform

DATA = bytes(range(64))
NAMES = ["structure", "report data", *[one.name for one in STEPS[1:]], "verifier"]


@dataclass
class Given:
    quote: bytes
    collateral: bytes
    asked: bytes | None = DATA
    now: int = NOW

    def verified(self) -> SgxClaims | Rejected:
        try:
            return verify(self.quote, self.collateral, DATA if self.asked is None else self.asked, self.now)
        except Rejected as refused:
            return refused

    def checks(self) -> list[Check]:
        material = Material(self.quote, self.collateral, SIMULATED_ROOT, self.now)
        return explain(material, self.asked, self.verified())

    def failed(self) -> list[str]:
        return [one.name for one in self.checks() if one.passed is False]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPlatform:
    return machine(tmp_path_factory.mktemp("honest"))


def of(platform: SimulatedPlatform) -> Given:
    return Given(platform.evidence(DATA), platform.endorsements())


def test_an_honest_quote_passes_every_check(honest: SimulatedPlatform) -> None:
    checks = of(honest).checks()
    assert [one.name for one in checks] == NAMES
    assert all(one.passed and one.found and one.wanted and not one.advice for one in checks)


def test_report_data_that_nobody_asked_for_is_not_shown_as_checked(honest: SimulatedPlatform) -> None:
    checks = {one.name: one for one in replace(of(honest), asked=None).checks()}
    assert checks["report data"].passed is None
    assert checks["report data"].found == DATA.hex()
    assert "not proved" in checks["report data"].wanted
    assert all(one.passed for name, one in checks.items() if name != "report data")


def changed(offset: int, bit: int = 0) -> Callable[[Given], None]:
    def change(given: Given) -> None:
        data = bytearray(given.quote)
        data[offset] ^= 1 << bit
        given.quote = bytes(data)

    return change


def part(name: str, change: Callable[[str], str]) -> Callable[[Given], None]:
    def put(given: Given) -> None:
        parts = json.loads(given.collateral)
        parts[name] = change(parts[name])
        given.collateral = json.dumps(parts).encode()

    return put


def certification(change: Callable[[bytes], bytes]) -> Callable[[Given], None]:
    def put(given: Given) -> None:
        data = change(given.quote[1052:])
        body = given.quote[436:1048] + struct.pack("<I", len(data)) + data
        given.quote = given.quote[:432] + struct.pack("<I", len(body)) + body

    return put


def leaf_changed(pem: bytes) -> bytes:
    leaf, *others = intel.chain(pem)
    return b"".join(intel.pem(one) for one in (intel.flipped(leaf, -1), *others))


def at(seconds: int) -> Callable[[Given], None]:
    return lambda given: setattr(given, "now", seconds)


def flipped_hex(text: str) -> str:
    return text[:-1] + ("0" if text[-1] != "0" else "1")


END_OF_2049 = 2_524_607_999
DATES = [one.name for one in STEPS if one.name.startswith("dates of")]
COLLATERAL_DATES = DATES[-4:]

CHANGED: dict[str, tuple[Callable[[Given], None], list[str], Reason]] = {
    "report data": (changed(368), ["report data", "quote signature"], Reason.NOT_BOUND),
    "the enclave's measurement": (changed(112), ["quote signature"], Reason.NOT_GENUINE),
    "the enclave's debug attribute": (changed(96, 1), ["quote signature", "production enclave"], Reason.NOT_GENUINE),
    "the quote's signature": (changed(440), ["quote signature"], Reason.NOT_GENUINE),
    "the attestation key": (changed(505), ["attestation key", "quote signature"], Reason.NOT_GENUINE),
    "the QE report's product": (changed(564 + 256), ["QE report signature", "quoting enclave"], Reason.NOT_GENUINE),
    "the QE report's signer": (changed(564 + 130), ["QE report signature", "quoting enclave"], Reason.NOT_GENUINE),
    "the QE report's attributes": (
        changed(564 + 48, 5), ["QE report signature", "quoting enclave"], Reason.NOT_GENUINE,
    ),
    "the QE report's MISCSELECT": (changed(564 + 16), ["QE report signature", "quoting enclave"], Reason.NOT_GENUINE),
    "the QE report's version": (changed(564 + 258, 3), ["QE report signature", "TCB level"], Reason.NOT_GENUINE),
    "the QE report's signature": (changed(950), ["QE report signature"], Reason.NOT_GENUINE),
    "authentication data": (changed(1014), ["attestation key"], Reason.NOT_GENUINE),
    "no certificates": (certification(lambda _: b""), ["PCK certificates"], Reason.NOT_GENUINE),
    "one certificate": (
        certification(lambda pem: pem[: pem.index(b"-----END") + 26]), ["PCK certificates"], Reason.NOT_GENUINE,
    ),
    "no extension": (
        certification(lambda pem: pem[pem.index(b"-----END") + 26 :]),
        ["processor", "QE report signature", "PCK CRL signature"], Reason.NOT_GENUINE,
    ),
    "the PCK certificate's signature": (
        certification(leaf_changed), ["PCK chain"], Reason.NOT_GENUINE,
    ),
    "TCB info": (part("tcb_info", lambda text: text + " "), ["TCB info signature"], Reason.NOT_GENUINE),
    "TCB info's signature": (part("tcb_info_signature", flipped_hex), ["TCB info signature"], Reason.NOT_GENUINE),
    "QE identity": (part("qe_identity", lambda text: text + " "), ["QE identity signature"], Reason.NOT_GENUINE),
    "QE identity's signature": (
        part("qe_identity_signature", flipped_hex), ["QE identity signature"], Reason.NOT_GENUINE,
    ),
    "PCK CRL's signature": (part("pck_crl", flipped_hex), ["PCK CRL signature"], Reason.NOT_GENUINE),
    "root CRL's signature": (part("root_ca_crl", flipped_hex), ["root CRL signature"], Reason.NOT_GENUINE),
    "TCB info, no JSON": (part("tcb_info", lambda _: "no"), ["collateral"], Reason.NOT_GENUINE),
    "TCB info, nothing in it": (part("tcb_info", lambda _: "{}"), ["collateral"], Reason.NOT_GENUINE),
    "PCK CRL, none": (part("pck_crl", lambda _: "3000"), ["collateral"], Reason.NOT_GENUINE),
    "before all collateral": (at(NOW - 2 * 86_400), COLLATERAL_DATES, Reason.NOT_GENUINE),
    "after all collateral": (at(NOW + 31 * 86_400), COLLATERAL_DATES, Reason.NOT_GENUINE),
    "after all certificates": (at(END_OF_2049 + 1), DATES, Reason.NOT_GENUINE),
    "a byte too many": (lambda one: setattr(one, "quote", one.quote + b"\0"), ["structure"], Reason.MALFORMED),
    "no collateral": (lambda one: setattr(one, "collateral", b""), ["collateral"], Reason.MALFORMED),
    "no nine parts": (lambda one: setattr(one, "collateral", b"{}"), ["collateral"], Reason.MALFORMED),
}  # fmt: skip


@pytest.mark.parametrize(("change", "failing", "reason"), CHANGED.values(), ids=CHANGED)
def test_what_was_changed_is_what_fails(
    honest: SimulatedPlatform, change: Callable[[Given], None], failing: list[str], reason: Reason
) -> None:
    found = of(honest)
    change(found)
    checks = found.checks()
    assert [one.name for one in checks] == NAMES
    assert [one.name for one in checks if one.passed is False] == [*failing, "verifier"]
    assert all(one.advice for one in checks if one.passed is False)
    assert checks[-1].reason == str(reason)
    assert all(one.found.startswith(NOT_LOOKED_AT) for one in checks if one.passed is None)


@dataclass(frozen=True)
class Machine:
    differences: dict[str, Any]
    failing: list[str]
    says: str = ""
    reason: Reason = Reason.NOT_GENUINE
    more: dict[str, Any] = field(default_factory=dict)


def update(**values: object) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.update(values)


FROM_FUTURE = ["dates of the PCK CRL", "dates of the root CRL", "dates of the TCB info", "dates of the QE identity"]
OF_PRIVATE = ["PCK chain", "TCB info signature", "QE identity signature", "root CRL signature"]
MACHINES: dict[str, Machine] = {
    "revoked": Machine({"collateral": making.revoking_the_processor}, ["PCK revocation"], "was revoked at 2026-05-27T"),
    "its CA revoked": Machine({"collateral": making.revoking_the_pck_ca}, ["CA revocation"], "PCK CA"),
    "the collateral's signer revoked": Machine(
        {"collateral": making.revoking_the_tcb_signer}, ["CA revocation"], "TCB Signing"
    ),
    "of a private authority": Machine({"authority": private_authority}, OF_PRIVATE, "is not signed by"),
    "a revoked TCB": Machine({"status": "Revoked"}, ["TCB level"], "processor Revoked", Reason.TCB_STATUS),
    "no level that matches": Machine(
        {"collateral": with_tcb_info(lambda document: document["tcbLevels"].__delitem__(slice(None)))},
        ["TCB level"], "no level matches the processor",
    ),
    "a quoting enclave without a level": Machine(
        {"collateral": with_qe_identity(lambda one: one["tcbLevels"][0]["tcb"].update(isvsvn=99))},
        ["TCB level"], "no level matches the quoting enclave",
    ),
    "TCB info for another model": Machine(
        {"collateral": with_tcb_info(update(fmspc="00906ED50000"))}, ["processor model"], "FMSPC 00906ed50000",
    ),
    "TCB info for TDX": Machine(
        {"collateral": with_tcb_info(update(id="TDX"))}, ["processor model"], "TCB info for TDX",
    ),
    "QE identity for TDX": Machine(
        {"collateral": with_qe_identity(update(id="TD_QE"))}, ["quoting enclave"], "id (TD_QE)",
    ),
    "QE identity of another": Machine(
        {"collateral": with_qe_identity(update(mrsigner="00" * 32))}, ["quoting enclave"], "differs in MRSIGNER",
    ),
    "a debug enclave": Machine(
        {"enclave": lambda: loaded(debug=True)}, ["production enclave"], "a debug enclave", Reason.DEBUG_ENCLAVE,
    ),
    "collateral from the future": Machine({"collateral": making.from_the_future}, FROM_FUTURE, " to "),
    "expired TCB info": Machine(
        {"collateral": making.expired_in("tcb_info", "tcb_info_signature")}, ["dates of the TCB info"], " to ",
    ),
    "TCB info without a date": Machine(
        {"collateral": with_tcb_info(lambda one: one.__delitem__("nextUpdate"))}, ["dates of the TCB info"],
        "it has no 'nextUpdate'",
    ),
    "a TCB info date that is none": Machine(
        {"collateral": with_tcb_info(update(nextUpdate="soon"))}, ["dates of the TCB info"], "cannot be read: Invalid",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MACHINES.values(), ids=MACHINES)
def test_what_differs_of_a_machine_is_what_fails(case: Machine, tmp_path: Path) -> None:
    found = of(machine(tmp_path / "m", **case.differences))
    checks = found.checks()
    failed = [one for one in checks if one.passed is False]
    assert [one.name for one in failed] == [*case.failing, "verifier"]
    assert case.says in failed[0].found
    assert checks[-1].reason == str(case.reason)


@pytest.mark.parametrize("status", [one for one in making.STATUSES if one != "Revoked"])
def test_the_level_is_the_verifiers(status: str, tmp_path: Path) -> None:
    found = of(machine(tmp_path / "m", status=status))
    claims = found.verified()
    assert isinstance(claims, SgxClaims)
    (level,) = (one.found for one in found.checks() if one.name == "TCB level")
    assert level.startswith(f"processor {claims.platform_status} (")
    assert f"quoting enclave {claims.qe_status} (2026-01-01T00:00:00Z)" in level
    assert (", ".join(claims.advisory_ids) or "no advisory") in level
    assert ("; below the highest level in component 1: " in level) == (status != "UpToDate")
    assert found.failed() == []


def test_every_check_is_the_first_to_fail_somewhere_or_comes_with_another() -> None:
    seen = {name for _, names, _ in CHANGED.values() for name in names}
    seen |= {name for case in MACHINES.values() for name in case.failing}
    assert seen == set(NAMES) - {"verifier"}


def short(document: dict[str, Any]) -> None:
    highest = document["tcbLevels"][0]["tcb"]
    highest["sgxtcbcomponents"][3].update(svn=2, category="OS/VMM", type="SEAM")
    highest["pcesvn"] = 14


def test_what_the_processor_lacks_is_named(tmp_path: Path) -> None:
    found = of(machine(tmp_path / "m", collateral=with_tcb_info(short)))
    (level,) = (one for one in found.checks() if one.name == "TCB level")
    assert level.passed
    assert level.found.endswith("; below the highest level in component 4 (OS/VMM, SEAM): 0 of 2, PCESVN: 13 of 14")


def test_a_crl_without_an_end(honest: SimulatedPlatform) -> None:
    (step,) = (one for one in STEPS if one.name == "dates of the PCK CRL")
    material = Material(honest.evidence(DATA), honest.endorsements(), SIMULATED_ROOT, NOW)
    material.__dict__["pck_crl"] = SimpleNamespace(next_update_utc=None)
    assert step.look(material) == ("it does not say until when", False)


def test_a_long_finding_is_cut(honest: SimulatedPlatform) -> None:
    found = of(honest)
    part("tcb_info", lambda text: text.replace('"id":"SGX"', f'"id":"{"x" * 9000}\\u001b"'))(found)
    model = next(one for one in found.checks() if one.name == "processor model")
    assert model.found.endswith("...")
    assert len(model.found) < 1000
    assert model.found.isprintable()


@functools.cache
def _sample() -> tuple[bytes, bytes]:
    import tempfile  # noqa: PLC0415 - outside of any test's own folder, once for all examples

    with tempfile.TemporaryDirectory() as folder:
        made = machine(Path(folder) / "m")
        return made.evidence(DATA), made.endorsements()


@given(st.lists(st.tuples(st.integers(0, 1045), st.integers(1, 255)), min_size=1, max_size=3, unique_by=lambda x: x[0]))
def test_what_the_verifier_refuses_of_a_changed_quote_a_check_finds(changes: list[tuple[int, int]]) -> None:
    quote, collateral = _sample()
    data = bytearray(quote)
    for offset, difference in changes:
        data[offset] ^= difference
    checks = Given(bytes(data), collateral, asked=bytes(data[368:432])).checks()
    assert [one.name for one in checks] == NAMES
    if checks[-1].passed:
        assert [one.name for one in checks if one.passed is not True] == []
    else:
        assert any(one.passed is False for one in checks[:-1])


@given(st.integers(0, 5000), st.binary(max_size=40))
def test_a_quote_with_anything_in_it_is_explained(offset: int, inserted: bytes) -> None:
    quote, collateral = _sample()
    mutated = quote[:offset] + inserted + quote[offset + len(inserted) // 2 :]
    checks = Given(mutated, collateral, asked=None).checks()
    assert [one.name for one in checks] == NAMES
    assert checks[-1].passed in (True, False)


@given(st.sampled_from(sorted(json.loads(_sample()[1]))), st.integers(0, 20_000), st.characters(codec="utf-8"))
def test_changed_collateral_is_explained(name: str, offset: int, character: str) -> None:
    quote, collateral = _sample()
    parts = json.loads(collateral)
    start = offset % len(parts[name])
    parts[name] = parts[name][:start] + character + parts[name][start + 1 :]
    checks = Given(quote, json.dumps(parts).encode()).checks()
    assert [one.name for one in checks] == NAMES
    assert all(one.found.isprintable() for one in checks)
