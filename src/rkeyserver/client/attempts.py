"""One call's way through the servers: who is asked next, when it is given up, and what is raised then. No I/O.

All four actions can be repeated without harm, and so each is: with every server once, and in a second round, after a
pause, with every server once more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Final, TypeVar

from rkeyserver.client.calls import Answer, Call, NoAnswer, described, result_of
from rkeyserver.client.servers import Server
from rkeyserver.errors import Corrupt, Reason, Rejected, RkeyError, Unavailable

SILENT_SECONDS: Final = 2.0  # that a server may take before the next is asked
REMEMBER_SECONDS: Final = 10.0  # for which a server that did not help is asked last
ROUNDS: Final = 2
PAUSE_SECONDS: Final = 0.2  # between the rounds, or as long as a server asks to wait
MOST_PAUSE: Final = 2.0
T = TypeVar("T")


@dataclass(frozen=True)
class Ask:
    """Ask this server; send what came of it."""

    server: Server


@dataclass(frozen=True)
class Pause:
    """Wait so many seconds; send None."""

    seconds: float


Step = Ask | Pause
Outcome = Answer | NoAnswer | None


@dataclass
class Health:
    """Which servers did not help lately. now: seconds that only grow. Threads share it: a step is one of a dict's."""

    now: Callable[[], float] = time.monotonic
    _until: dict[Server, float] = field(default_factory=dict, init=False)

    def order(self, servers: tuple[Server, ...]) -> list[Server]:
        """As they are named, but for those that did not help: they are last, whoever failed longest ago first."""
        now = self.now()
        until = {one: self._until.get(one, 0) for one in servers}
        return sorted(servers, key=lambda one: until[one] if until[one] > now else 0)

    def failed(self, server: Server, retry_after: float) -> None:
        """Remember it."""
        self._until[server] = self.now() + max(REMEMBER_SECONDS, retry_after)

    def answered(self, server: Server) -> None:
        """Forget that it did not."""
        self._until.pop(server, None)


def attempts(call: Call[T], servers: tuple[Server, ...], health: Health) -> Generator[Step, Outcome, T]:
    """The steps of one call; its result in the end.

    Raises: Rejected or Misuse as soon as a server says so. Of a generation that a server does not know, another may
    have heard: that is raised once all were asked. Else Corrupt or Unavailable, if no server helped in any round.
    """
    failures: dict[Server, RkeyError | NoAnswer] = {}
    for number in range(ROUNDS):
        if number:
            yield Pause(_pause(failures))
        for server in health.order(servers):
            outcome = yield Ask(server)
            try:
                if isinstance(outcome, Answer):
                    found = result_of(call, outcome, server.name)
                    health.answered(server)
                    return found
                failures[server] = outcome or NoAnswer("no answer")
                health.failed(server, 0)
            except (Unavailable, Corrupt) as error:
                failures[server] = error
                health.failed(server, error.retry_after if isinstance(error, Unavailable) else 0)
            except Rejected as error:
                health.answered(server)
                if error.reason is not Reason.NO_SUCH_GENERATION:
                    raise
                failures[server] = error
        if any(isinstance(one, Rejected) for one in failures.values()):
            break
    raise _given_up(failures)


def _pause(failures: dict[Server, RkeyError | NoAnswer]) -> float:
    asked = [one.retry_after for one in failures.values() if isinstance(one, Unavailable)]
    # Whoever has to wait the least is the next that may help.
    return min(max(PAUSE_SECONDS, min(asked)) if len(asked) == len(failures) else PAUSE_SECONDS, MOST_PAUSE)


def _given_up(failures: dict[Server, RkeyError | NoAnswer]) -> RkeyError:
    errors = list(failures.values())
    refused = next((one for one in errors if isinstance(one, Rejected)), None)
    if refused is not None:
        return refused
    if all(isinstance(one, Corrupt) for one in errors) and isinstance(errors[0], Corrupt):
        return errors[0]
    if len(failures) == 1 and isinstance(one := next(iter(failures.values())), Unavailable):
        return one
    told = "; ".join(described(server.name, one) for server, one in failures.items())
    asked = [one.retry_after for one in failures.values() if isinstance(one, Unavailable)]
    return Unavailable(
        f"No server helped, {ROUNDS} times each: {told}.",
        advice="Try again later; nothing was changed.",
        retry_after=min(asked, default=0),
    )
