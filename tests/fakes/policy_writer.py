"""A process that changes the policy of a record, so that tests can kill it at each of its system calls.

    policy_writer.py FOLDER PLATFORM

FOLDER has the keystore `store/rkey.bin`, its machine `machine` and a change `change.json`. It says that it waits, waits
for SIGUSR1, applies the change, and says so. On `sgx` its system calls are answered as in an enclave.
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

from rkeyserver.clock import Clock
from rkeyserver.exchange.primary import Granter
from rkeyserver.keystore.file import FileKeystore
from rkeyserver.service.adopt import Opened, look
from rkeyserver.service.audit import Audit
from rkeyserver.service.authority import Authority
from rkeyserver.service.instance import Instance
from rkeyserver.service.members import Members
from rkeyserver.service.sharing import ProcessSharing
from rkeyserver.service.steward import Steward
from rkeyserver.service.verification import InlineVerifier
from tests.fakes.flavours import SGX, VERIFY, machine_of
from tests.fakes.keyrings import MEMBER
from tests.sgx.gramine_calls import answer_as_gramine


@contextlib.contextmanager
def opened_instance(folder: Path, kind: str) -> Iterator[Instance]:
    """The primary of FOLDER, with its record open."""
    clock = Clock()
    platform = machine_of(kind, folder / "machine", clock)
    granter = Granter(
        attester=platform,
        verifiers={kind: InlineVerifier(VERIFY[kind])},
        clock=clock,
        random=secrets.token_bytes,
        instance=secrets.token_bytes(16),
        audit_head=lambda: bytes(32),
    )
    with FileKeystore.open(folder / "store" / "rkey.bin") as store, contextlib.ExitStack() as stack:
        audit = Audit.open(folder / "audit.jsonl", clock)
        for one in (audit, granter):
            stack.callback(one.close)
        instance = Instance(
            members=Members(MEMBER),
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


def _main(folder: Path, kind: str) -> None:
    document = (folder / "change.json").read_bytes()
    if kind == SGX:
        answer_as_gramine()
    with opened_instance(folder, kind) as instance:
        os.write(1, b"waiting\n")
        signal.sigwait({signal.SIGUSR1})
        done = asyncio.run(Authority(Steward(instance)).apply(document, owner=False))
        os.write(1, f"applied {done.change}\n".encode())


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    _main(Path(sys.argv[1]), sys.argv[2])
