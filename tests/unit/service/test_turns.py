from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from rkeyserver.service.turns import Turns


async def served(turns: Turns, asked: list[str], later: dict[int, list[str]] | None = None) -> list[list[str]]:
    """What is served in each turn of the loop, if all of `asked` comes at once, and `later` in the turns after it."""
    found: list[list[str]] = [[]]

    def serve(piece: str) -> None:
        found[-1].append(piece)

    def take(pieces: list[str]) -> None:
        for piece in pieces:
            turns.take(piece[0], partial(serve, piece))

    take(asked)
    for turn in range(1, 12):
        found.append([])
        await asyncio.sleep(0)
        take((later or {}).get(turn, []))
    while found and not found[-1]:
        found.pop()
    return found


NOISY = ["n1", "n2", "n3", "n4"]
CASES: dict[str, tuple[int | None, list[str], dict[int, list[str]], list[list[str]]]] = {
    "nobody": (None, [], {}, []),
    "one": (None, ["a1"], {}, [["a1"]]),
    "a noisy one, and a quiet one behind all of it": (
        None,
        [*NOISY, "q1"],
        {},
        [["n1", "q1"], ["n2"], ["n3"], ["n4"]],
    ),
    "a quiet one that comes later": (None, NOISY, {2: ["q1"]}, [["n1"], ["n2"], ["n3", "q1"], ["n4"]]),
    "two noisy ones": (None, ["a1", "a2", "a3", "b1", "b2"], {}, [["a1", "b1"], ["a2", "b2"], ["a3"]]),
    "more of one who waits, in its order": (None, ["a1", "a2"], {1: ["a3"]}, [["a1"], ["a2"], ["a3"]]),
    "again when the turn is over": (None, ["a1"], {2: ["a2"]}, [["a1"], [], ["a2"]]),
    "one for all of them: by turns": (
        1,
        [*NOISY, "q1", "q2"],
        {},
        [["n1"], ["n2"], ["q1"], ["n3"], ["q2"], ["n4"]],
    ),
    "two for all of them": (2, ["a1", "b1", "c1", "a2"], {}, [["a1", "b1"], ["c1", "a2"]]),
}


@pytest.mark.parametrize(("most", "asked", "later", "wanted"), CASES.values(), ids=CASES)
def test_order_of_service(
    most: int | None, asked: list[str], later: dict[int, list[str]], wanted: list[list[str]]
) -> None:
    assert asyncio.run(served(Turns(most), asked, later)) == wanted


def test_work_that_fails_takes_no_others_turn() -> None:
    turns, done, said = Turns(), list[str](), list[BaseException | None]()

    def fail() -> None:
        raise ValueError("a")

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: said.append(context.get("exception")))
        work: list[tuple[str, Callable[[], None]]] = [
            ("a", lambda: done.append("a1")),
            ("b", lambda: done.append("b1")),
            ("a", fail),
            ("b", lambda: done.append("b2")),
            ("a", lambda: done.append("a3")),
        ]
        for caller, one in work:
            turns.take(caller, one)
        for _ in range(6):
            await asyncio.sleep(0)

    asyncio.run(run())
    assert sorted(done) == ["a1", "a3", "b1", "b2"]
    assert [str(one) for one in said] == ["a"]


def test_a_task_waits_for_its_turn() -> None:
    """Three of one and one of another, one piece for all of them in a turn."""

    async def run() -> list[tuple[int, str]]:
        turns, done, turn = Turns(most=1), list[tuple[int, str]](), [0]

        async def work(piece: str) -> None:
            await turns.turn(piece[0])
            done.append((turn[0], piece))

        tasks = [asyncio.create_task(work(one)) for one in ("n1", "n2", "n3", "q1")]
        while len(done) < len(tasks):
            await asyncio.sleep(0)
            turn[0] += 1
        return done

    done = asyncio.run(run())
    assert [piece for _, piece in done] == ["n1", "n2", "q1", "n3"]
    assert len({turn for turn, _ in done}) == len(done), "one in each"


def test_a_task_that_was_cancelled_takes_no_turn() -> None:
    async def run() -> None:
        turns = Turns(most=1)
        first, second = (asyncio.create_task(turns.turn(one)) for one in ("a", "b"))
        await asyncio.sleep(0)
        second.cancel()
        third = asyncio.create_task(turns.turn("c"))
        await asyncio.gather(first, third)
        assert second.cancelled()

    asyncio.run(run())
