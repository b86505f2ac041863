"""What an instance holds of collateral, how it is kept fresh, and what it is used for."""

from __future__ import annotations

import asyncio
import json
import logging
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.machines import NOW, HostTime, machine, private_authority, resigned
from tests.fakes.pccs import SIMULATED, issued_at, number_of
from tests.vectors import intel

from rkeyserver.attestation.sgx.bundle import MAX_ENTRIES, Entry, read_bundle, write_bundle
from rkeyserver.attestation.sgx.choose import choose
from rkeyserver.attestation.sgx.collateral import Collateral, decode
from rkeyserver.attestation.sgx.model import Model
from rkeyserver.attestation.sgx.parts import describe
from rkeyserver.clock import DAY, Clock
from rkeyserver.errors import Reason, Rejected, RkeyError, Unavailable
from rkeyserver.platforms.registry import load_verifier
from rkeyserver.platforms.simulated import tcb
from rkeyserver.platforms.simulated.anchor import SIMULATED_ROOT
from rkeyserver.platforms.simulated.pki import development_authority
from rkeyserver.service.audit_line import reason_of
from rkeyserver.service.held import FROM_PEER, LEARN_SECONDS, HeldCollateral
from rkeyserver.service.refresh import CHECK_SECONDS, FIRST_DELAY, MOST_DELAY, Refresher
from rkeyserver.service.verification import InlineVerifier
from rkeyserver.service.vouching import AttesterWithHeld, VerifierWithHeld

LIFE = tcb.VALID_FOR
GOOD = issued_at(NOW - DAY)


def encoded(collateral: Collateral) -> bytes:
    return msgspec.json.encode(collateral)


def entry(collateral: Collateral = GOOD, *, source: str = "a test", fetched: int = NOW) -> Entry:
    about = describe(collateral).model
    return Entry(about.fmspc, about.ca, source, fetched, collateral)


@dataclass
class Source:
    """A PCCS without a network."""

    answers: list[Collateral | RkeyError]
    asked: list[tuple[Model, int]] = field(default_factory=list)
    url: str = "https://pccs.example/sgx/certification/v4"

    async def fetch(self, model: Model, now: int) -> Collateral:
        self.asked.append((model, now))
        answer = self.answers.pop(0)
        if isinstance(answer, RkeyError):
            raise answer
        return answer


@dataclass
class Holding:
    """Collateral that is held on a real simulated machine, and what surrounds it."""

    folder: Path
    host: HostTime = field(default_factory=HostTime)
    told: list[tuple[bytes, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock = Clock(self.host)
        self.platform = machine(self.folder / "machine", self.clock)
        self.inline = InlineVerifier(load_verifier("simulated"))
        self.held = self.again()

    @property
    def path(self) -> Path:
        return self.folder / "held.json"

    def changed(self, held: tuple[bytes, ...]) -> None:
        self.told.append(held)
        self.inline.hold(held)

    def again(self) -> HeldCollateral:
        """As after a restart."""
        held = HeldCollateral(self.path, SIMULATED_ROOT, self.platform, self.clock, self.changed)
        held.load()
        return held

    def refresher(self, *answers: Collateral | RkeyError) -> Refresher:
        self.source = Source(list(answers))
        return Refresher(self.held, self.source, self.inline, lambda: 1.0)

    def stored(self) -> list[Entry]:
        return read_bundle(self.path.read_bytes())


@pytest.fixture
def holding(tmp_path: Path) -> Holding:
    return Holding(tmp_path)


# --- the file


def test_what_is_kept_outlives_the_process(holding: Holding) -> None:
    assert holding.told == []
    holding.held.keep(entry())
    assert holding.told == [(encoded(GOOD),)]
    assert stat.S_IMODE(holding.path.stat().st_mode) == 0o600
    again = holding.again()
    assert again.entries == {SIMULATED: entry()}
    assert again.for_own_evidence() == encoded(GOOD)
    assert holding.told[-1] == (encoded(GOOD),)


DAMAGE: dict[str, bytes] = {
    "empty": b"",
    "cut": write_bundle([entry()])[:-10],
    "nonsense": b"\x00" * 100,
    "a later version": b'{"version": 9, "entries": []}',
    "endless": b" " * (5 * 1024 * 1024),
}


@pytest.mark.parametrize("data", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_set_aside_and_fetched_again(
    holding: Holding, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    holding.path.write_bytes(data)
    held = holding.again()
    assert held.entries == {}
    assert "cannot be used" in caplog.text
    assert "set aside as" in caplog.text
    assert holding.path.with_name("held.json.damaged").read_bytes() == data
    asyncio.run(Refresher(held, Source([GOOD]), holding.inline, lambda: 1.0).step())
    assert [one.collateral for one in holding.stored()] == [GOOD]


def test_a_damaged_file_that_cannot_be_moved_stays(
    holding: Holding, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    holding.path.write_bytes(b"nonsense")

    def fail(_path: Path, _to: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "replace", fail)
    assert holding.again().entries == {}
    assert "left as it is: Read-only file system" in caplog.text


def test_a_file_that_cannot_be_read_or_written_stops_nothing(
    holding: Holding, caplog: pytest.LogCaptureFixture
) -> None:
    holding.path.mkdir()
    held = holding.again()
    assert "cannot be read: Is a directory" in caplog.text
    held.keep(entry())
    assert "held in memory only" in caplog.text
    assert held.for_own_evidence() == encoded(GOOD)


def test_what_is_not_signed_under_the_platforms_anchor_is_left_out(
    holding: Holding, caplog: pytest.LogCaptureFixture
) -> None:
    """The file is anybody's who has the disk: a forged part with a great number must not keep out what is genuine."""
    genuine = msgspec.json.decode(intel.read("sgx-phala/collateral.json"), type=Collateral)
    forged = msgspec.structs.replace(GOOD, tcb_info=issued_at(NOW - DAY, 99).tcb_info)
    holding.path.write_bytes(write_bundle([entry(forged), entry(genuine)]))
    assert holding.again().entries == {}
    assert caplog.text.count("is left out") == 2
    assert holding.told == [()]


def test_what_is_too_large_to_be_sent_along_is_not_held(holding: Holding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rkeyserver.service.held.MAX_ENDORSEMENTS", 1000)
    holding.held.keep(entry())
    assert holding.held.entries == {}


# --- this machine's own


def test_nothing_is_held(holding: Holding) -> None:
    assert holding.held.own_model() == SIMULATED
    assert holding.held.own() is None
    assert holding.held.for_own_evidence() == b""


def test_until_it_expires_it_is_sent_along_and_then_refused_by_name(holding: Holding) -> None:
    holding.held.keep(entry())
    granting, asking = (AttesterWithHeld(holding.platform, holding.held, asks=asks) for asks in (False, True))
    holding.host.now = NOW - DAY + LIFE
    assert granting.endorsements() == asking.endorsements() == encoded(GOOD)
    assert granting.attester_identity() == holding.platform.attester_identity()
    assert granting.evidence(bytes(64))[:48] == holding.platform.evidence(bytes(64))[:48]
    holding.host.now += 1
    with pytest.raises(Unavailable, match=r"expired at .*, it is now .*PCCS.*--collateral FILE") as raised:
        granting.endorsements()
    assert reason_of(raised.value) == "collateral-expired"
    assert asking.endorsements() == b""


# --- learning from peers


def verified(holding: Holding, sent: Collateral | bytes) -> None:
    """A peer's evidence with what it sent along, through the verifier that learns."""
    data = sent if isinstance(sent, bytes) else encoded(sent)
    peer = machine(holding.folder / "peer", holding.clock)
    verifier = VerifierWithHeld(holding.inline, holding.held)
    asyncio.run(verifier.verify(peer.evidence(bytes(64)), data, bytes(64), holding.clock.now()))


def test_a_peers_is_learned_after_its_evidence_was_verified(holding: Holding) -> None:
    verified(holding, GOOD)
    assert holding.stored() == [entry(source=FROM_PEER)]
    verified(holding, b"")  # a machine without a way out, by what is held
    with pytest.raises(Rejected):
        verified(holding, private_authority().collateral(NOW - DAY))
    assert holding.stored() == [entry(source=FROM_PEER)]


NEVER: dict[str, Collateral | bytes] = {
    "nothing": b"",
    "junk": b"junk",
    "older": issued_at(NOW - 2 * DAY),
    "of a lower number": issued_at(NOW - DAY, 19),
    "expired": issued_at(NOW - LIFE - 1, 99),
    "from the future": issued_at(NOW + 60),
    "of another root": private_authority().collateral(NOW),
    "one part forged": msgspec.structs.replace(GOOD, tcb_info=issued_at(NOW - DAY, 99).tcb_info),
    "an issuer chain that nothing verifies": msgspec.structs.replace(
        issued_at(NOW - 60), pck_crl_issuer_chain=GOOD.tcb_info_issuer_chain
    ),
    "of a model, genuine, of another root": msgspec.json.decode(
        intel.read("sgx-phala/collateral.json"), type=Collateral
    ),
}


@pytest.mark.parametrize("sent", NEVER.values(), ids=NEVER)
def test_what_is_never_learned(holding: Holding, sent: Collateral | bytes) -> None:
    holding.held.keep(entry())
    before = holding.path.read_bytes()
    holding.held.learn(sent if isinstance(sent, bytes) else encoded(sent))
    assert holding.path.read_bytes() == before
    assert holding.held.for_own_evidence() == encoded(GOOD)


def test_only_newer_parts_are_learned(holding: Holding) -> None:
    holding.held.keep(entry())
    newer = issued_at(NOW - 60, 21)
    older = issued_at(NOW - 2 * DAY)
    mixed = msgspec.structs.replace(
        older, tcb_info=newer.tcb_info, tcb_info_signature=newer.tcb_info_signature, root_ca_crl=newer.root_ca_crl
    )
    holding.held.learn(encoded(mixed))
    (found,) = holding.stored()
    assert (found.collateral.tcb_info, found.collateral.root_ca_crl) == (newer.tcb_info, newer.root_ca_crl)
    assert (found.collateral.qe_identity, found.collateral.pck_crl) == (GOOD.qe_identity, GOOD.pck_crl)


def test_what_has_expired_stands_in_nothings_way(holding: Holding) -> None:
    holding.held.keep(entry(issued_at(NOW - LIFE - 1, 30)))
    verified(holding, GOOD)
    assert holding.held.for_own_evidence() == encoded(GOOD)


def test_newer_tcb_info_is_not_forgotten_for_an_older_part_beside_it_that_has_expired(holding: Holding) -> None:
    """Of a lower number there is fresh TCB info for long: whoever is refused by the higher one waits for such a day."""
    newer, expired = issued_at(NOW - 60, 30), issued_at(NOW - LIFE - 1, 20)
    held = msgspec.structs.replace(newer, pck_crl=expired.pck_crl, root_ca_crl=expired.root_ca_crl)
    holding.held.keep(entry(held))
    chosen = decode(choose(b"", encoded(GOOD), (encoded(held),), NOW))
    assert (chosen.tcb_info, chosen.qe_identity) == (newer.tcb_info, newer.qe_identity)
    verified(holding, GOOD)
    (found,) = holding.stored()
    assert (found.collateral.tcb_info, found.collateral.qe_identity) == (newer.tcb_info, newer.qe_identity)
    assert (found.collateral.pck_crl, found.collateral.root_ca_crl) == (GOOD.pck_crl, GOOD.root_ca_crl)
    refresher = holding.refresher(issued_at(NOW - 30, 29))
    asyncio.run(refresher._refresh(holding.source))
    (found,) = holding.stored()
    assert found.collateral.tcb_info == newer.tcb_info


def test_peers_of_one_model_are_looked_at_once_in_a_while(holding: Holding) -> None:
    verified(holding, GOOD)
    newer = issued_at(NOW - 60)
    verified(holding, newer)
    assert holding.held.for_own_evidence() == encoded(GOOD)
    holding.host.now += LEARN_SECONDS
    verified(holding, newer)
    assert holding.held.for_own_evidence() == encoded(newer)


def of_model(number: int) -> Collateral:
    def change(document: dict[str, object]) -> None:
        document["fmspc"] = f"{number:012X}"

    return resigned(GOOD, development_authority(), tcb_info=change)


def test_genuine_machines_of_many_models_do_not_push_out_what_is_held(holding: Holding) -> None:
    for number in range(MAX_ENTRIES + 3):
        holding.held.learn(encoded(of_model(number)))
    assert len(holding.held.entries) == MAX_ENTRIES - 1
    holding.held.keep(entry())
    assert len(holding.stored()) == MAX_ENTRIES
    assert holding.again().for_own_evidence() == encoded(GOOD)


ISSUES = [issued_at(NOW - days * DAY, number) for days in (3, 2, 1) for number in (19, 20, 21)]
MIXES = st.tuples(*[st.sampled_from(ISSUES)] * 4)


def mixed(parts: tuple[Collateral, ...]) -> Collateral:
    tcb_info, qe_identity, pck_crl, root_ca_crl = parts
    return msgspec.structs.replace(
        tcb_info,
        qe_identity=qe_identity.qe_identity,
        qe_identity_signature=qe_identity.qe_identity_signature,
        pck_crl=pck_crl.pck_crl,
        root_ca_crl=root_ca_crl.root_ca_crl,
    )


def ages(collateral: Collateral) -> list[tuple[int, int]]:
    """Of each part what makes it newer than another."""
    return [(part.number or 0, part.issued) for part in describe(collateral).parts]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.booleans(), MIXES), min_size=1, max_size=6))
def test_whoever_sends_what_no_part_is_ever_replaced_by_an_older_one(
    events: list[tuple[bool, tuple[Collateral, ...]]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        holding = Holding(Path(folder))
        before = [(0, 0)] * 4
        for fetched, parts in events:
            sent = mixed(parts)
            if fetched:
                asyncio.run(
                    Refresher(holding.held, Source([sent]), holding.inline, lambda: 0.0)._refresh(Source([sent]))
                )
            else:
                holding.held.learn(encoded(sent))
            now = ages(holding.held.entries[SIMULATED].collateral)
            assert now == [max(pair) for pair in zip(before, ages(sent), strict=True)]
            assert holding.stored() == [holding.held.entries[SIMULATED]]
            before = now
            holding.host.now += LEARN_SECONDS


# --- refreshing


def test_it_fetches_proves_and_keeps(holding: Holding) -> None:
    refresher = holding.refresher(GOOD)
    pause = asyncio.run(refresher.step())
    assert holding.source.asked == [(SIMULATED, NOW)]
    assert holding.stored() == [entry(source=holding.source.url)]
    assert pause == CHECK_SECONDS
    assert refresher.status()["last_error"] == ""
    assert refresher.status()["last_success"] == "2026-05-28T20:26:40Z"


NOT_KEPT: dict[str, tuple[Collateral | RkeyError, str]] = {
    "another root": (private_authority().collateral(NOW - DAY), "not genuine"),
    "a forged part": (
        msgspec.structs.replace(GOOD, tcb_info=issued_at(NOW - DAY, 99).tcb_info), "not genuine",
    ),
    "another model": (of_model(7), "not genuine"),
    "no answer": (Unavailable("No answer."), "No answer"),
    "a wrong answer": (Rejected(Reason.NOT_GENUINE, "Not what was asked for."), "Not what was asked for"),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "says"), NOT_KEPT.values(), ids=NOT_KEPT)
def test_what_does_not_verify_this_machine_is_not_kept(
    holding: Holding, answer: Collateral | RkeyError, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = entry(issued_at(NOW - 20 * DAY), fetched=NOW - 20 * DAY)
    holding.held.keep(before)
    refresher = holding.refresher(answer)
    assert asyncio.run(refresher.step()) == FIRST_DELAY
    assert holding.stored() == [before]
    assert says in refresher.status()["last_error"]
    assert "No new collateral; trying again in about 5 seconds" in caplog.text
    assert holding.held.for_own_evidence() == before.encoded  # what is held serves on


def test_a_platform_that_gives_no_evidence_now(holding: Holding, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: object, _report_data: bytes) -> bytes:
        raise Unavailable("No quoting enclave.")

    monkeypatch.setattr(type(holding.platform), "evidence", fail)
    refresher = holding.refresher()
    assert asyncio.run(refresher.step()) == FIRST_DELAY
    assert refresher.last_error == "No quoting enclave."


def test_older_parts_of_a_service_never_replace_newer_ones(holding: Holding) -> None:
    newest = issued_at(NOW - 60, 21)
    holding.held.keep(entry(newest, source=FROM_PEER, fetched=NOW - 2 * DAY))
    asyncio.run(holding.refresher(GOOD).step())
    (found,) = holding.stored()
    assert (found.collateral, found.source, found.fetched) == (newest, FROM_PEER, NOW)


def test_failures_come_slower_and_slower_and_never_stop(holding: Holding) -> None:
    refresher = holding.refresher(*[Unavailable("No.")] * 14, Unavailable("No.", retry_after=1700), GOOD)
    pauses = [asyncio.run(refresher.step()) for _ in range(14)]
    assert pauses[:4] == [5, 10, 20, 40]
    assert pauses[-3:] == [MOST_DELAY] * 3
    assert asyncio.run(refresher.step()) == MOST_DELAY
    assert asyncio.run(refresher.step()) == CHECK_SECONDS
    assert refresher.last_error == ""
    refresher.held.entries.clear()
    holding.source.answers.append(Unavailable("No.", retry_after=1700))
    assert asyncio.run(refresher.step()) == 1700


DUE: dict[str, tuple[int, int, int, bool]] = {
    # issued, fetched, now: all in seconds from NOW; is it time?
    "just fetched": (0, 0, 10, False),
    "an hour ago, fresh": (0, 0, 3700, False),
    "a day ago": (0, 0, DAY, True),
    "a third of its life is left": (-20 * DAY, -7200, 0, True),
    "just above a third": (-20 * DAY + 60, -7200, 0, False),
    "a third left, fetched a minute ago": (-25 * DAY, -60, 0, False),
    "fetched in the future": (0, 3600, 0, True),
    "expired": (-31 * DAY, -DAY, 0, True),
}


@pytest.mark.parametrize(("issued", "fetched", "now", "due"), DUE.values(), ids=DUE)
def test_when(holding: Holding, issued: int, fetched: int, now: int, due: bool) -> None:  # noqa: FBT001 - a column of the table
    holding.held.keep(entry(issued_at(NOW + issued), fetched=NOW + fetched))
    holding.host.now = NOW + now
    refresher = holding.refresher(issued_at(NOW + now))
    pause = asyncio.run(refresher.step())
    assert bool(holding.source.asked) is due
    assert 0 < pause <= CHECK_SECONDS


def test_it_warns_once_a_day_in_the_last_week_and_after(holding: Holding, caplog: pytest.LogCaptureFixture) -> None:
    holding.held.keep(entry(issued_at(NOW)))
    refresher = Refresher(holding.held, None, holding.inline, lambda: 0.0)  # nothing to fetch from
    caplog.set_level(logging.WARNING)
    for hour in range(24 * 33):
        holding.host.now = NOW + hour * 3600
        asyncio.run(refresher.step())
    warnings = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert len(warnings) == 7
    assert "in 7.0 days" in warnings[0]
    assert all("expires at" in one for one in warnings)
    errors = [one.getMessage() for one in caplog.records if one.levelno == logging.ERROR]
    assert 2 <= len(errors) <= 3
    assert "it can hand over no key" in errors[0]


def test_it_runs_until_it_is_told_to_stop(holding: Holding) -> None:
    async def check() -> None:
        pauses: asyncio.Queue[float] = asyncio.Queue(1)
        refresher = holding.refresher(Unavailable("No."), GOOD)
        refresher.jitter, refresher.sleep = (lambda: 1.0), pauses.put
        async with asyncio.timeout(10), refresher.running():
            await refresher.first()
            assert await pauses.get() == FIRST_DELAY * 1.25
            assert await pauses.get() == CHECK_SECONDS * 1.25
            await refresher.first()  # what is held is waited for no more
        assert refresher.last_error == ""

    asyncio.run(check())


def test_a_start_does_not_wait_for_what_cannot_come(holding: Holding) -> None:
    async def check() -> None:
        async with asyncio.timeout(5):
            await Refresher(holding.held, None, holding.inline, lambda: 0.0).first()

    asyncio.run(check())


def test_a_bug_in_the_background_is_not_silent(holding: Holding, caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        refresher = holding.refresher()  # a source that has no answer is a bug of the test's
        async with refresher.running():
            await asyncio.sleep(0.05)

    asyncio.run(check())
    assert "no longer refreshed, which is a bug" in caplog.text


def test_status(holding: Holding) -> None:
    refresher = holding.refresher(GOOD)
    assert refresher.status() == {"pccs": holding.source.url, "last_success": None, "last_error": "", "held": []}
    asyncio.run(refresher.step())
    holding.held.learn(encoded(of_model(1)))
    others, own = refresher.status()["held"]
    assert (others["own"], others["source"], others["fmspc"]) == (False, FROM_PEER, "000000000001")
    assert own == {
        "fmspc": SIMULATED.fmspc,
        "ca": "processor",
        "own": True,
        "issued": "2026-05-27T20:26:40Z",
        "expires": "2026-06-26T20:26:40Z",
        "days_left": 29.0,
        "evaluation_number": 20,
        "source": holding.source.url,
        "fetched": "2026-05-28T20:26:40Z",
    }
    holding.host.now = NOW + 30 * DAY
    assert refresher.status()["held"][1]["days_left"] == -1.0
    json.dumps(refresher.status())
    assert number_of(own_bytes := holding.held.entries[SIMULATED].encoded) == 20
    assert len(own_bytes) < 20_000
