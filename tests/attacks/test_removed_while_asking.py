"""A machine that asks without pause while it is taken off and admitted again: what it gets always names it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import threading
import time

from tests.attacks.parties import verifiers_of
from tests.fakes.flavours import policy_of
from tests.fakes.keyrings import MEMBER
from tests.fakes.processes import DEADLINE, Machines, Running, rkeyserver
from tests.fakes.signing import key_file, policy_text

from rkeyserver.address import Address
from rkeyserver.appraisal.policy import parse_policy
from rkeyserver.clock import Clock
from rkeyserver.errors import RkeyError
from rkeyserver.exchange.standby import Asking
from rkeyserver.service.fetch import fetch_keyring

ROUNDS = 2
ASKERS = 3


def test_a_machine_gets_no_keyring_whose_policy_does_not_name_it(processes: Machines) -> None:
    host = processes("host")
    own = host.platform()
    stranger = host.another("stranger")
    mine, its = (one.attester_identity().machine for one in (own, stranger))
    rules = host.folder / "policy.toml"
    rules.write_text(
        policy_text(
            *(mine, its), admins=["alice"], mrsigner=own.mrsigner, platform=own.name, isv_prod_id=own.isv_prod_id
        )
    )
    running: Running = host.start("--policy", str(rules))
    key, domain = key_file(host.folder, "alice"), host.status()["domain"]
    got: list[tuple[bool, tuple[str, ...]]] = []
    refused: list[str] = []
    over = threading.Event()

    async def ask() -> None:
        asking = Asking(
            attester=stranger,
            verifiers=verifiers_of(stranger),
            policy=policy_of(own),
            clock=Clock(),
            random=secrets.token_bytes,
            instance=secrets.token_bytes(16),
            held=None,
            admins=None,
            member=MEMBER,
            address="",
            holds=None,
            audit_head=lambda: bytes(32),
        )
        while not over.is_set():
            try:
                received = await fetch_keyring(Address("127.0.0.1", host.port), asking)
            except RkeyError as error:
                refused.append(str(error))
                continue
            with contextlib.closing(received.keyring) as keyring:
                named = parse_policy(keyring.header.policy).tables[own.name].machines
                got.append((its in named, keyring.generation_ids))

    async def ask_all() -> None:
        await asyncio.gather(*(ask() for _ in range(ASKERS)))

    thread = threading.Thread(target=lambda: asyncio.run(ask_all()))
    thread.start()
    try:
        for action in ["remove", "admit"] * ROUNDS + ["remove"]:
            words = ("policy", action, "--ops", host.ops, f"{own.name} {its}", "--key", key, "--domain", domain)
            ended = rkeyserver(*words, cwd=host.folder)
            assert ended.status == 0, ended
    finally:
        counted = len(refused)
        end = time.monotonic() + DEADLINE
        while len(refused) < counted + 2 * ASKERS and time.monotonic() < end:
            time.sleep(0.05)
        over.set()
        thread.join()
    last = host.status()["generations"][-1]["id"]
    assert got, "it was named at first"
    assert refused
    assert all(named for named, _ in got)
    assert all(last not in generations for _, generations in got), "the last removal made it"
    given = [line for line in host.audit() if line["event"] == "hand-over" and line["verdict"] == "accepted"]
    assert len(given) >= len(got), json.dumps(given[-1])
    running.stop()
