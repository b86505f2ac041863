"""Backups that ask a server for its keyring again and again: whole exchanges, both sides verified, over loopback.

A process of its own, so that the server's figures are the server's. Run as
`python -m bench.clients FOLDER PORT BACKUPS EXCHANGES`; prints the seconds that each exchange took, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from pathlib import Path

from tests.fakes.keyrings import MEMBER

from rkeyserver.address import Address
from rkeyserver.appraisal.defaults import default_policy
from rkeyserver.clock import Clock
from rkeyserver.exchange.standby import Asking
from rkeyserver.platforms.simulated.platform import SimulatedPlatform
from rkeyserver.service.fetch import fetch_keyring
from rkeyserver.service.verification import InlineVerifier


async def _backup(host: Address, asking: Asking, exchanges: int, took: list[float]) -> None:
    for _ in range(exchanges):
        before = time.monotonic()
        received = await fetch_keyring(host, asking)
        took.append(time.monotonic() - before)
        received.keyring.close()


def asking_at(folder: Path) -> Asking:
    """What a backup on the simulated machine of that folder asks with; made where there is none."""
    clock = Clock()
    platform = SimulatedPlatform.open(folder, clock)
    return Asking(
        attester=platform,
        verifiers={platform.name: InlineVerifier(platform.verify)},
        policy=default_policy(platform.name, mrsigner=platform.mrsigner, isv_prod_id=platform.isv_prod_id),
        clock=clock,
        random=secrets.token_bytes,
        held=None,
        admins=None,
        instance=secrets.token_bytes(16),
        member=MEMBER,
        address="",
        holds=None,
        audit_head=lambda: bytes(32),
    )


async def _run(folder: Path, port: int, backups: int, exchanges: int) -> list[float]:
    asking, took = asking_at(folder), list[float]()
    host = Address("127.0.0.1", port)
    await asyncio.gather(*(_backup(host, asking, exchanges, took) for _ in range(backups)))
    return took


if __name__ == "__main__":
    folder, port, backups, exchanges = sys.argv[1:]
    json.dump(asyncio.run(_run(Path(folder), int(port), int(backups), int(exchanges))), sys.stdout)
