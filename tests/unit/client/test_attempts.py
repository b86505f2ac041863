"""Who is asked, in which order, how often, and what comes of it."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field

import pytest

from rkeyserver.client import calls
from rkeyserver.client.attempts import MOST_PAUSE, PAUSE_SECONDS, REMEMBER_SECONDS, Ask, Health, Outcome, attempts
from rkeyserver.client.calls import Answer, NoAnswer, Wrapped
from rkeyserver.client.servers import Server, parse_server
from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected, RkeyError, Unavailable

A, B, C = (parse_server(f"unix:/{name}") for name in "abc")
GENERATION = "0a" * 16
WRAPPED = base64.b64encode(b"\x01" + bytes.fromhex(GENERATION)).decode()
SILENT = NoAnswer("no answer in time")


def good() -> Answer:
    return Answer(200, "", bytearray(json.dumps({"wrapped": WRAPPED, "generation": GENERATION}).encode()))


def bad(error: str, *, reason: str = "", retry_after: str = "") -> Answer:
    found = {"error": error, "message": f"It is {error}.", "reason": reason}
    return Answer({"rejected": 403, "misuse": 400, "corrupt": 500}.get(error, 503), retry_after,
                  bytearray(json.dumps(found).encode()))  # fmt: skip


@dataclass
class Run:
    """One call over servers that answer by a script: for each, one outcome after another, the last of them for ever."""

    script: dict[Server, list[Outcome]]
    health: Health = field(default_factory=lambda: Health(lambda: 100.0))
    asked: list[Server] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)

    def result(self) -> Wrapped:
        left = {server: list(outcomes) for server, outcomes in self.script.items()}
        steps = attempts(calls.rewrap("x", b"w", b""), tuple(self.script), self.health)
        outcome: Outcome = None
        try:
            while True:
                step = steps.send(outcome)
                outcome = None
                if isinstance(step, Ask):
                    self.asked.append(step.server)
                    mine = left[step.server]
                    outcome = mine.pop(0) if len(mine) > 1 else mine[0]
                    if isinstance(outcome, Answer):
                        outcome = Answer(outcome.status, outcome.retry_after, bytearray(outcome.body))
                else:
                    self.pauses.append(step.seconds)
        except StopIteration as done:
            found: Wrapped = done.value
            return found


WELL: dict[str, tuple[dict[Server, list[Outcome]], list[Server]]] = {
    "the first": ({A: [good()], B: [good()]}, [A]),
    "the first is silent": ({A: [SILENT], B: [good()]}, [A, B]),
    "the first has no keyring": ({A: [bad("unavailable")], B: [good()]}, [A, B]),
    "the first is broken": ({A: [bad("corrupt")], B: [good()]}, [A, B]),
    "the first has not heard of the generation": (
        {A: [bad("rejected", reason="no-such-generation")], B: [good()]}, [A, B],
    ),
    "one of three": ({A: [SILENT], B: [Answer(200, "", bytearray(b"?"))], C: [good()]}, [A, B, C]),
    "in the second round": ({A: [SILENT, good()], B: [SILENT]}, [A, B, A]),
    "only one, in the second round": ({A: [SILENT, good()]}, [A, A]),
}  # fmt: skip


@pytest.mark.parametrize("case", WELL)
def test_who_answers_in_the_end(case: str) -> None:
    script, asked = WELL[case]
    run = Run(script)
    assert run.result() == Wrapped(base64.b64decode(WRAPPED), GENERATION)
    assert run.asked == asked


BADLY: dict[str, tuple[dict[Server, list[Outcome]], list[Server], type[RkeyError], str]] = {
    "the policy denies": ({A: [bad("rejected", reason="not-permitted")], B: [good()]}, [A], Rejected, "It is rejected"),
    "the request is wrong": ({A: [bad("misuse")], B: [good()]}, [A], Misuse, "It is misuse"),
    "none has the generation": (
        {A: [bad("rejected", reason="no-such-generation")], B: [bad("rejected", reason="no-such-generation")]},
        [A, B], Rejected, "It is rejected",
    ),
    "one has not the generation and the other is silent": (
        {A: [bad("rejected", reason="no-such-generation")], B: [SILENT]}, [A, B], Rejected, "It is rejected",
    ),
    "all silent": (
        {A: [SILENT], B: [SILENT]}, [A, B, A, B], Unavailable,
        "No server helped, 2 times each: unix:/a: no answer in time; unix:/b: no answer in time.",
    ),
    "one silent and one broken": (
        {A: [SILENT], B: [bad("corrupt")]}, [A, B, A, B], Unavailable, "unix:/b: It is corrupt",
    ),
    "all broken": ({A: [bad("corrupt")], B: [bad("corrupt")]}, [A, B, A, B], Corrupt, "It is corrupt"),
    "the only one is unavailable": ({A: [bad("unavailable")]}, [A, A], Unavailable, "It is unavailable."),
    "nothing was sent back": ({A: [None]}, [A, A], Unavailable, "unix:/a: no answer"),
}  # fmt: skip


@pytest.mark.parametrize("case", BADLY)
def test_what_is_raised_in_the_end(case: str) -> None:
    script, asked, kind, says = BADLY[case]
    run = Run(script)
    with pytest.raises(kind) as raised:
        run.result()
    assert run.asked == asked
    assert says in str(raised.value)


def pause(script: dict[Server, list[Outcome]]) -> float:
    run = Run(script)
    with pytest.raises(Unavailable):
        run.result()
    (found,) = run.pauses
    return found


def test_how_long_it_waits_between_rounds() -> None:
    wait = [bad("unavailable", retry_after="1")]
    assert pause({A: [SILENT]}) == PAUSE_SECONDS
    assert pause({A: list(wait)}) == 1
    assert pause({A: list(wait), B: [SILENT]}) == PAUSE_SECONDS  # the other may help sooner
    assert pause({A: list(wait), B: [bad("unavailable", retry_after="30")]}) == 1
    assert pause({A: [bad("unavailable", retry_after="30")]}) == MOST_PAUSE


def test_what_is_asked_to_be_waited_is_told() -> None:
    with pytest.raises(Unavailable) as raised:
        Run({A: [bad("unavailable", retry_after="30")], B: [bad("unavailable", retry_after="7")]}).result()
    assert raised.value.retry_after == 7


def test_a_server_that_did_not_help_is_asked_last_for_a_while() -> None:
    now = [100.0]
    health = Health(lambda: now[0])
    servers = (A, B, C)
    Run({A: [SILENT], B: [good()], C: [good()]}, health).result()
    assert health.order(servers) == [B, C, A]
    now[0] += 1
    Run({B: [bad("unavailable", retry_after="30")], C: [good()]}, health).result()
    assert health.order(servers) == [C, A, B]
    now[0] += REMEMBER_SECONDS
    assert health.order(servers) == [A, C, B]  # the first is forgiven, the second asked for more
    Run({B: [good()]}, health).result()
    assert health.order(servers) == [A, B, C]


def test_a_server_that_refuses_is_a_server_that_answers() -> None:
    health = Health(lambda: 100.0)
    with pytest.raises(Rejected) as raised:
        Run({A: [SILENT], B: [bad("rejected", reason="not-permitted")]}, health).result()
    assert raised.value.reason is Reason.NOT_PERMITTED
    assert health.order((A, B)) == [B, A]
