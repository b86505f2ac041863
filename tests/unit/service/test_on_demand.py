"""Quotes that come without collateral: what is held serves; what is not is fetched, once and seldom."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from tests.fakes.machines import NOW, HostTime, machine
from tests.fakes.pccs import SIMULATED, issued_at

from rkeyserver.attestation.sgx.bundle import MAX_ENTRIES, Entry
from rkeyserver.attestation.sgx.collateral import Collateral
from rkeyserver.attestation.sgx.model import Model
from rkeyserver.clock import DAY, Clock
from rkeyserver.errors import Reason, Rejected, RkeyError, Unavailable
from rkeyserver.platforms.registry import load_verifier
from rkeyserver.platforms.simulated import tcb
from rkeyserver.platforms.simulated.anchor import SIMULATED_ROOT
from rkeyserver.service.held import HeldCollateral
from rkeyserver.service.on_demand import AGAIN_SECONDS, MOST_FETCHES, OnDemand, WithOrWithout, WithOwnEndorsements
from rkeyserver.service.verification import InlineVerifier

DATA = bytes(range(64))
GOOD = issued_at(NOW - DAY)


@dataclass
class Source:
    """A PCCS without a network, that answers when it is told to."""

    answer: Collateral | RkeyError = GOOD
    asked: list[Model] = field(default_factory=list)
    may_answer: asyncio.Event | None = None
    url: str = "https://pccs.example/sgx/certification/v4"

    async def fetch(self, model: Model, now: int) -> Collateral:
        assert now >= NOW
        self.asked.append(model)
        if self.may_answer is not None:
            await self.may_answer.wait()
        if isinstance(self.answer, RkeyError):
            raise self.answer
        return self.answer


@dataclass
class Scene:
    """A verifier on demand, and a quote of a simulated machine."""

    folder: Path
    source: Source | None = field(default_factory=Source)

    def __post_init__(self) -> None:
        self.platform = machine(self.folder / "machine")
        self.quote = self.platform.evidence(DATA)
        self.inline = InlineVerifier(load_verifier("simulated"))
        self.held = HeldCollateral(
            self.folder / "held.json", SIMULATED_ROOT, self.platform, Clock(HostTime()), self.inline.hold
        )
        self.demand = OnDemand(self.held, self.source, self.inline)

    def verify(self, now: int = NOW) -> str:
        return asyncio.run(self.demand.verify(self.quote, DATA, now)).platform


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def entry(collateral: Collateral = GOOD) -> Entry:
    return Entry(SIMULATED.fmspc, SIMULATED.ca, "a test", NOW, collateral)


def asked(scene: Scene) -> list[Model]:
    assert scene.source is not None
    return scene.source.asked


def test_what_is_held_serves(scene: Scene) -> None:
    scene.held.keep(entry())
    assert scene.verify() == "simulated"
    assert asked(scene) == []


def test_what_is_not_held_is_fetched_and_held_from_then_on(scene: Scene) -> None:
    assert scene.verify() == "simulated"
    assert scene.verify() == "simulated"
    assert asked(scene) == [SIMULATED]
    assert scene.held.entries[SIMULATED].source == "https://pccs.example/sgx/certification/v4"


def test_what_has_expired_is_fetched(scene: Scene) -> None:
    scene.held.keep(entry(issued_at(NOW - 2 * tcb.VALID_FOR)))
    assert scene.verify() == "simulated"
    assert asked(scene) == [SIMULATED]


def test_without_a_source_there_is_only_what_is_held(tmp_path: Path) -> None:
    scene = Scene(tmp_path, source=None)
    with pytest.raises(Rejected, match="There is no collateral for the quote") as refused:
        scene.verify()
    assert refused.value.reason is Reason.MALFORMED
    scene.held.keep(entry())
    assert scene.verify() == "simulated"


def test_what_does_not_verify_the_quote_is_not_held(scene: Scene) -> None:
    assert scene.source is not None
    scene.source.answer = msgspec.structs.replace(GOOD, tcb_info_signature="00" * 64)
    with pytest.raises(Rejected) as refused:
        scene.verify()
    assert refused.value.reason is Reason.NOT_GENUINE
    assert scene.held.entries == {}


def test_a_quote_over_something_else_brings_nothing_in(scene: Scene) -> None:
    with pytest.raises(Rejected) as refused:
        asyncio.run(scene.demand.verify(scene.quote, bytes(64), NOW))
    assert refused.value.reason is Reason.NOT_BOUND
    assert scene.held.entries == {}


def test_what_is_no_quote_asks_nobody(scene: Scene) -> None:
    with pytest.raises(Rejected):
        asyncio.run(scene.demand.verify(b"no quote", DATA, NOW))
    assert asked(scene) == []


def test_one_place_is_for_the_own_machine(scene: Scene) -> None:
    for number in range(MAX_ENTRIES - 1):
        scene.held.entries[Model(f"{number:012x}", "platform")] = entry()
    assert scene.verify() == "simulated"
    assert SIMULATED not in scene.held.entries


def test_a_source_that_fails_is_not_asked_again_at_once(scene: Scene) -> None:
    assert scene.source is not None
    scene.source.answer = Unavailable("No answer from the PCCS.")
    with pytest.raises(Unavailable, match="No answer from the PCCS"):
        scene.verify()
    with pytest.raises(Unavailable, match="was asked for less than 60 seconds ago"):
        scene.verify(NOW + AGAIN_SECONDS - 1)
    assert len(asked(scene)) == 1
    with pytest.raises(Unavailable, match="No answer from the PCCS"):
        scene.verify(NOW + AGAIN_SECONDS)
    assert len(asked(scene)) == 2


def test_only_so_many_models_are_asked_for(scene: Scene) -> None:
    models = [replace_model(SIMULATED, number) for number in range(MOST_FETCHES)]
    for model in models:
        scene.demand._allow(model, NOW)
    with pytest.raises(Unavailable, match="not again yet"):
        scene.verify()
    assert scene.verify(NOW + AGAIN_SECONDS) == "simulated"


def replace_model(model: Model, number: int) -> Model:
    return msgspec.structs.replace(model, fmspc=f"{number:012x}")


def test_all_that_wait_share_one_fetch_and_one_that_leaves_ends_it_for_nobody(scene: Scene) -> None:
    async def story() -> list[str]:
        assert scene.source is not None
        scene.source.may_answer = asyncio.Event()
        waiting = [asyncio.create_task(scene.demand.verify(scene.quote, DATA, NOW)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        scene.source.may_answer.set()
        return [(await one).platform for one in waiting[1:]]

    assert asyncio.run(story()) == ["simulated", "simulated"]
    assert asked(scene) == [SIMULATED]


def test_a_platform_with_endorsements_of_its_own(scene: Scene) -> None:
    verifier = WithOwnEndorsements(scene.platform, scene.inline)
    assert asyncio.run(verifier.verify(scene.quote, DATA, NOW)).platform == "simulated"


def test_evidence_with_endorsements_is_verified_with_them_and_without_as_a_quote_by_itself(scene: Scene) -> None:
    source = scene.source
    assert source is not None
    held = HeldCollateral(scene.folder / "other", SIMULATED_ROOT, scene.platform, Clock(HostTime()), scene.inline.hold)
    verifier = WithOrWithout(scene.inline, OnDemand(held, source, scene.inline))
    for endorsements, fetched in ((scene.platform.endorsements(), 0), (b"", 1)):
        claims = asyncio.run(verifier.verify(scene.quote, endorsements, DATA, NOW))
        assert claims.identity == scene.platform.attester_identity()
        assert len(source.asked) == fetched
