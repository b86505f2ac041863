"""Which of several addresses is used, by what each does; in a loop whose clock does not wait."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

import pytest
from tests.fakes.loop import run_timeless

from rkeyserver.address import Address
from rkeyserver.service.living import REMEMBER_SECONDS, STAGGER_SECONDS, Reach, each, living

GIVEN_UP = 3.0  # by a probe of itself
ANSWERS, REFUSES, SILENT, SLOW = (0.01, True), (0.001, False), (GIVEN_UP, False), (1.0, True)


@dataclass
class Network:
    """What is where, by its port. probed: who was asked, and when; ended: whose probe was cut off."""

    there: dict[int, tuple[float, bool]]
    probed: list[tuple[int, float]] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)

    async def probe(self, address: Address) -> bool:
        self.probed.append((address.port, asyncio.get_running_loop().time()))
        seconds, answers = self.there[address.port]
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.ended.append(address.port)
            raise
        return answers


# what is at ports 1, 2, ...: who is used in which order and when, and how many were probed when the first was
CASES: dict[str, tuple[list[tuple[float, bool]], list[tuple[int, float]], int]] = {
    "one that answers": ([ANSWERS], [(1, 0)], 0),
    "one that is silent is used at once": ([SILENT], [(1, 0)], 0),
    "the first answers": ([ANSWERS, ANSWERS], [(1, 0.01), (2, 0.02)], 1),
    "the first refuses": ([REFUSES, ANSWERS], [(2, 0.011), (1, 0.011)], 2),
    "the first is silent": ([SILENT, ANSWERS], [(2, 0.26), (1, 3.0)], 2),
    "two are silent": ([SILENT, SILENT, ANSWERS], [(3, 0.51), (1, 3.25), (2, 3.25)], 3),
    "silent, refusing, answering": ([SILENT, REFUSES, ANSWERS], [(3, 0.261), (1, 3.0), (2, 3.0)], 3),
    "refusing, silent, answering": ([REFUSES, SILENT, ANSWERS], [(3, 0.261), (1, 3.001), (2, 3.001)], 3),
    "the first is slow": ([SLOW, ANSWERS], [(2, 0.26), (1, 1.0)], 2),
    "all are slow: the first is": ([SLOW, SLOW], [(1, 1.0), (2, 1.25)], 2),
    "all refuse": ([REFUSES, REFUSES], [(1, 0.002), (2, 0.002)], 2),
    "all are silent": ([SILENT, SILENT], [(1, 3.25), (2, 3.25)], 2),
}


@pytest.mark.parametrize(("there", "used", "probed"), CASES.values(), ids=CASES)
def test_who_is_used_first_and_when(
    there: list[tuple[float, bool]], used: list[tuple[int, float]], probed: int
) -> None:
    network = Network(dict(enumerate(there, 1)))

    async def check() -> None:
        loop, found = asyncio.get_running_loop(), []
        addresses = [Address("h", port) for port in network.there]
        async with contextlib.aclosing(living(addresses, network.probe)) as each:
            async for one in each:
                found.append((one.port, round(loop.time(), 3)))
                if len(found) == 1:
                    assert len(network.probed) == probed
        assert [port for port, _ in found] == [port for port, _ in used]
        assert [at for _, at in found] == pytest.approx([at for _, at in used], abs=0.002)
        assert network.ended == []

    run_timeless(check)


def test_nobody_is_asked_any_more_once_one_has_helped() -> None:
    network = Network({1: SILENT, 2: SILENT, 3: ANSWERS, 4: ANSWERS})

    async def check() -> None:
        addresses = [Address("h", port) for port in network.there]
        async with contextlib.aclosing(living(addresses, network.probe)) as each:
            assert (await anext(each)).port == 3
        assert [port for port, _ in network.probed] == [1, 2, 3]
        assert sorted(network.ended) == [1, 2]

    run_timeless(check)


def test_a_stagger_is_a_quarter_of_a_second() -> None:
    assert STAGGER_SECONDS == 0.25  # docs/adr/0036-health-and-drills.md
    network = Network({1: SILENT, 2: SILENT, 3: SILENT})

    async def check() -> None:
        async for _ in living([Address("h", port) for port in network.there], network.probe):
            pass
        assert network.probed == [(1, 0.0), (2, 0.25), (3, 0.5)]

    run_timeless(check)


def test_who_did_not_answer_is_asked_last_for_a_while() -> None:
    network = Network({1: SILENT, 2: REFUSES, 3: ANSWERS})
    addresses = [Address("h", port) for port in network.there]

    async def check() -> None:
        reach = Reach(asyncio.get_running_loop().time, probe=network.probe)
        for _ in range(3):
            async with contextlib.aclosing(reach.living(addresses)) as each:
                assert (await anext(each)).port == 3
        # The silent one was overtaken: that is enough to ask it last.
        assert [port for port, _ in network.probed] == [1, 2, 3, 3, 3]
        async with contextlib.aclosing(reach.living(addresses)) as each:
            assert [one.port async for one in each] == [3, 2, 1]
        assert [one.port for one in reach.order(addresses)] == [3, 2, 1]
        reach.answered(addresses[0])
        assert [one.port for one in reach.order(addresses)] == [1, 3, 2]
        await asyncio.sleep(REMEMBER_SECONDS + 1)
        assert reach.order(addresses) == addresses

    run_timeless(check)


def test_what_each_says_comes_as_it_is_said() -> None:
    network = Network({1: SILENT, 2: REFUSES, 3: SLOW, 4: ANSWERS})
    addresses = [Address("h", port) for port in network.there]

    async def check() -> None:
        loop = asyncio.get_running_loop()
        found = [(one.port, said, round(loop.time(), 3)) async for one, said in each(addresses, network.probe)]
        assert found == [(2, False, 0.001), (4, True, 0.01), (3, True, 1.0), (1, False, 3.0)]
        async with contextlib.aclosing(each(addresses, network.probe)) as answers:
            assert (await anext(answers))[0].port == 2
        assert network.ended == [1, 3, 4]

    run_timeless(check)
