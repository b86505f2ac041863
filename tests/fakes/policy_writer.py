"""A process that changes the policy of a record, so that tests can kill it at each of its system calls.

    policy_writer.py FOLDER

FOLDER has the keystore `store/rkey.bin`, its machine `machine` and a change `change.json`. It says that it waits, waits
for SIGUSR1, applies the change as the owner's, and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.clock import Clock
from rkeyserver.exchange.primary import Granter
from rkeyserver.keystore.file import FileKeystore
from rkeyserver.platforms.simulated import anchor
from rkeyserver.platforms.simulated.platform import SimulatedPlatform
from rkeyserver.service.adopt import Opened, look
from rkeyserver.service.audit import Audit
from rkeyserver.service.authority import Authority
from rkeyserver.service.instance import Instance, Role
from rkeyserver.service.sharing import ProcessSharing


class _Inline:
    """Verifies on the spot."""

    async def verify(self, evidence: bytes, endorsements: bytes, expected_report_data: bytes, now: int) -> SgxClaims:
        return anchor.verify(evidence, endorsements, expected_report_data, now)


@contextlib.contextmanager
def opened_instance(folder: Path) -> Iterator[Instance]:
    """The primary of FOLDER, with its record open."""
    clock = Clock()
    platform = SimulatedPlatform.open(folder / "machine", clock)
    granter = Granter(
        attester=platform,
        verifiers={"simulated": _Inline()},
        clock=clock,
        random=secrets.token_bytes,
        instance=secrets.token_bytes(16),
    )
    with FileKeystore.open(folder / "store" / "rkey.bin") as store, contextlib.ExitStack() as stack:
        audit = Audit.open(folder / "audit.jsonl", clock)
        for one in (audit, granter):
            stack.callback(one.close)
        instance = Instance(
            role=Role.PRIMARY,
            platform=platform,
            store=store,
            audit=audit,
            clock=clock,
            granter=granter,
            sharing=ProcessSharing(),
            say=lambda _text: None,
        )
        stack.callback(instance.close)
        own = look(store, platform)
        if not isinstance(own, Opened):
            raise TypeError(f"the record does not open: {own}")
        instance.hold(own.keyring)
        yield instance


def _main(folder: Path) -> None:
    document = (folder / "change.json").read_bytes()
    with opened_instance(folder) as instance:
        os.write(1, b"waiting\n")
        signal.sigwait({signal.SIGUSR1})
        done = asyncio.run(Authority(instance).apply(document, owner=True))
        os.write(1, f"applied {done.change}\n".encode())


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    _main(Path(sys.argv[1]))
