"""What people do to a domain on machines with SGX: look before a change, sign policies, recover; what it has then."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.fakes.admins import key
from tests.fakes.machines import anchor_of, private_authority
from tests.fakes.processes import DEADLINE, opened, rkeyserver
from tests.fakes.recipients import Recipient
from tests.sgx.machines import SgxMachine

from rkeyserver.address import parse_address
from rkeyserver.appraisal.change import propose, sign
from rkeyserver.appraisal.defaults import default_policy
from rkeyserver.attestation.sgx.verify import SgxVerifier
from rkeyserver.errors import Corrupt
from rkeyserver.exchange.recovery import check_request, contribute
from rkeyserver.keyring.derivation import derive_into
from rkeyserver.sealing.record import Header, parse
from rkeyserver.secret import SecretBytes
from rkeyserver.service.contribute import fetch_request, post_contribution
from rkeyserver.service.routes import POLICY_PATH
from rkeyserver.service.verification import InlineVerifier

ADMIN: Final = "ada"  # whom the images of these tests have measured into them (machines.ADMINS)
NO_WAY_BACK: Final = 4
MICROCODE: Final = "microcode update"
LATER: Final = "later version"
EARLIER: Final = "earlier version"
IMAGE: Final = "other image of this version"
SIGNER: Final = "image of another signer"


@dataclass(frozen=True)
class Told:
    """What doctor said. status: it ended with; said: its JSON."""

    status: int
    said: dict[str, Any]

    @property
    def ways(self) -> list[str]:
        """What brings the domain back after a change of the machine."""
        found: list[str] = self.said["ways_back"]
        return found

    def change(self, kind: str) -> tuple[bool, str, list[str]]:
        """Whether the record opens after it, why the policy would not accept it, and the ways back."""
        (one,) = (one for one in self.said["changes"] if one["kind"] == kind)
        assert one["accepted"] == (not one["why_not"])
        return one["opens"], one["why_not"], one["ways_back"]

    def of(self, topic: str) -> dict[str, str]:
        """The first finding of a topic."""
        return next(one for one in self.said["findings"] if one["topic"] == topic)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def state_of(data: bytes) -> Header:
    """What a record says of itself, but for whom the machine knows, when that was written, and under which key."""
    header = parse(data).header
    return msgspec.structs.replace(
        header, members=[], written=0, slots=[msgspec.structs.replace(header.slot, wrapped=b"")]
    )


def doctor(machine: SgxMachine, *peers: SgxMachine, keystore: Path | None = None) -> Told:
    """Look at a machine, as the program does inside of an enclave. It leaves everything as it was."""
    before = files_of(machine.folder)
    ended = machine.command(
        *("doctor", "--json", *machine.platform_words(), "--ops", machine.ops),
        *("--keystore", str(keystore or machine.keystore)),
        *(word for peer in peers for word in ("-i", peer.address)),
    )
    after = files_of(machine.folder)
    # One that serves writes down meanwhile which members it knows, and whom it has handed the keyring. A record that is
    # being written has a name of its own until it is whole.
    names = {name for name in before.keys() | after.keys() if not name.startswith("rkey.bin.new~")}
    changed = {name for name in names if before.get(name) != after.get(name)}
    assert changed <= {"rkey.bin", "rkey.bin.audit.jsonl"}
    assert all(after[name].startswith(before[name]) for name in changed - {"rkey.bin"}), "lines are only added"
    assert "rkey.bin" not in changed or state_of(after["rkey.bin"]) == state_of(before["rkey.bin"])
    assert ended.err == "", ended
    said = json.loads(ended.out)
    assert said["status"] == ended.status
    return Told(ended.status, said)


def change_policy(primary: SgxMachine, change: Callable[[str], str], *, by: str = ADMIN) -> dict[str, Any]:
    """A change of the domain's policy, signed and applied; what the primary answers, which may be a refusal."""
    url = f"http://{primary.ops}{POLICY_PATH}"
    now = httpx.get(url, trust_env=False, timeout=DEADLINE).json()
    made = propose(
        domain=now["domain"], sequence=now["change"] + 1, replaces=now["policy"], policy=change(now["policy"])
    )
    answer = httpx.post(url, content=sign(made, key(by)).text(), trust_env=False, timeout=DEADLINE)
    found: dict[str, Any] = answer.json()
    return found


def promote(standby: SgxMachine, *, by: str = ADMIN) -> None:
    """Make a standby the primary, by an order that an admin has signed."""
    path = standby.folder / f"{by}.key"
    path.write_bytes(key(by).private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    before = standby.status()
    assert before["role"] == "standby"
    ended = rkeyserver("promote", "--ops", standby.ops, "--key", str(path), cwd=standby.folder)
    assert ended.status == 0, ended
    after = standby.status()
    assert (after["role"], after["primary"]) == ("primary", after["member"])
    assert (after["epoch"], after["sequence"]) == (before["epoch"] + 1, before["sequence"] + 1)


def with_rule(name: str, value: object) -> Callable[[str], str]:
    """A policy with another value of one rule."""

    def change(text: str) -> str:
        lines = text.splitlines()
        (at,) = (number for number, line in enumerate(lines) if line.startswith(f"{name} = "))
        lines[at] = f"{name} = {json.dumps(value)}"
        return "\n".join(lines) + "\n"

    return change


def signed_as_it_is(text: str) -> str:
    return text


def values(machine: SgxMachine) -> dict[str, str]:
    """By the id of each generation in a machine's record what follows from it, opened as the machine opens it now."""
    with contextlib.closing(opened(machine)) as keyring:
        return {one: _value(keyring.root_key(one), keyring.domain) for one in keyring.generation_ids}


def _value(root_key: memoryview, domain: str) -> str:
    with SecretBytes(32) as derived:
        derive_into(root_key, domain=domain, purpose="test", label=b"value", into=derived.view)
        return hashlib.sha256(derived.view).hexdigest()


def why_not(machine: SgxMachine) -> str:
    """Why the machine's record does not open now; "" if it does."""
    try:
        opened(machine).close()
    except Corrupt as error:
        return str(error)
    return ""


def rebuild(machine: SgxMachine, *, former_signers: list[str], seal_to: str | None = None) -> None:
    """Measure something else into the image that the machine has: load() gives that its measurements."""
    path = machine.stand.folder / "measured.toml"
    seal, rest = path.read_text().split("\n", 1)
    seal = seal if seal_to is None else f'seal_to = "{seal_to}"'
    rest = "\n".join(line for line in rest.splitlines() if not line.startswith("former_signers"))
    path.write_text(f"{seal}\nformer_signers = {json.dumps(former_signers)}\n{rest}\n")


def recover(machine: SgxMachine, domain: str, recipient: Recipient) -> None:
    """Bring a domain back of which nothing opens, by its one recipient, whose policy names that machine."""
    running = machine.begin("--recover", "--domain", domain)
    running.out.wait_for("-----END RKEYSERVER RECOVERY REQUEST-----")
    asyncio.run(_contribute(machine, domain, recipient))
    running.err.wait_for("Serving as primary")


async def _contribute(machine: SgxMachine, domain: str, recipient: Recipient) -> None:
    host = parse_address(machine.address, 0)
    own = machine.platform()
    policy = default_policy("sgx", mrsigner=own.mrsigner, isv_prod_id=own.isv_prod_id, machine=own.machine)
    verifier = InlineVerifier(SgxVerifier(platform="sgx", anchor=anchor_of(private_authority())))
    checked = await check_request(
        await fetch_request(host),
        domain=domain,
        policy=policy,
        verifiers={"sgx": verifier},
        now=int(time.time()),
    )
    slot = parse(machine.record).header.recovery
    assert slot is not None
    share = recipient.opens(slot.shares[0].sealed)
    await post_contribution(host, contribute(checked, memoryview(share)))


def wait_for_sequence(machine: SgxMachine, sequence: int) -> None:
    """Until a machine that follows its hosts has come as far."""
    end = time.monotonic() + DEADLINE
    while machine.status()["sequence"] < sequence:
        assert time.monotonic() < end, machine.status()
        time.sleep(0.2)
