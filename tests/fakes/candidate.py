"""A process that is a candidate, for tests that stop and kill it.

Arguments: the coordinator, the number of the member, seconds of the lease, `true` or `deaf`, and the sequence of the
state of member 1 that it has, 0 for what everyone begins with. It prints what happens to it, and changes its state once
for each line that it reads. Deaf, it believes that it holds its lease for ever: its clock stands still, and once it has
changed its state it renews and looks no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

from rkeyserver.coordinator.endpoints import parse_endpoints
from rkeyserver.coordinator.interface import Elected, Lost
from rkeyserver.errors import RkeyError
from tests.fakes.coordinated import Member, etcd_of


class Telling(Member):
    async def on_elected(self, elected: Elected) -> None:
        await super().on_elected(elected)
        tell(f"elected {elected.token} {self.own.epoch}")

    async def on_lost(self, lost: Lost) -> None:
        await super().on_lost(lost)
        tell(f"lost {lost.why}")


def tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def main(coordinator: str, number: str, seconds: str, kind: str, sequence: str) -> None:
    options = {}
    if kind == "deaf":

        async def sleep(pause: float) -> None:
            await (asyncio.Event().wait() if len(member.stored) > 1 else asyncio.sleep(pause))

        options = {"clock": lambda: 0.0, "sleep": sleep}
    member = Telling(int(number), etcd_of(parse_endpoints(coordinator), int(seconds)), int(seconds), options=options)
    first = Member(1, member.engine)
    while first.own.sequence < int(sequence):
        first.own = first.next(1)
    member.own = first.own
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with member.running():
        while await lines.readline():
            try:
                await member.change()
                tell(f"committed {member.own.epoch} {member.own.sequence}")
            except RkeyError as error:
                tell(f"refused {getattr(error, 'reason', '')} {error.message}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
