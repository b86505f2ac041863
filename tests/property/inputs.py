"""Genuine inputs of everything that reads bytes from outside, made once, by the real classes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import pyrage  # type: ignore[import-untyped]
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from tests.fakes.application import entry, provision
from tests.fakes.claims import NOW, document, table
from tests.fakes.keyrings import MEMBER, OWNER, id_of, keyring_bytes, keyring_of
from tests.fakes.machines import HostTime, machine
from tests.fakes.platform import FakePlatform
from tests.vectors import intel

from rkeyserver.appraisal.change import parse_change, propose, sign, signers
from rkeyserver.appraisal.defaults import default_policy
from rkeyserver.appraisal.policy import AdminsTable, Policy, parse_policy
from rkeyserver.appraisal.signatures import public_line
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.client import enclave
from rkeyserver.clock import Clock
from rkeyserver.exchange import messages
from rkeyserver.exchange.mint_statement import Minted, check_mint_statement
from rkeyserver.exchange.primary import Granter
from rkeyserver.exchange.recovery import Checked, RecoveryAsking, check_request, contribute
from rkeyserver.exchange.releaser import Releaser
from rkeyserver.exchange.requester import Greeting as ReleaseGreeting
from rkeyserver.exchange.requester import Requesting as ReleaseRequesting
from rkeyserver.exchange.requester import Wanting
from rkeyserver.exchange.standby import Asking, Greeting, Requesting
from rkeyserver.keyring.sealed import seal_keyring
from rkeyserver.platforms.registry import load_verifier
from rkeyserver.platforms.simulated.platform import SimulatedPlatform
from rkeyserver.sealing import record, shares
from rkeyserver.sealing.recovery import Recovery, ShareSet, encode_slot, parse_slot
from rkeyserver.service.sharing_inline import InlineSharing
from rkeyserver.service.verification import InlineVerifier


@cache
def folder() -> Path:
    made = tempfile.TemporaryDirectory(prefix="rk-fuzz-")
    _kept.append(made)
    return Path(made.name)


_kept: list[Any] = []


def written(data: bytes) -> Path:
    path = folder() / "input"
    path.write_bytes(data)
    return path


@cache
def platform() -> SimulatedPlatform:
    return machine(folder() / "machine")


@cache
def age_keys() -> list[Any]:
    return [pyrage.x25519.Identity.generate() for _ in range(2)]


@cache
def admin_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@cache
def rsa_line() -> bytes:
    """The OpenSSH public key of an RSA key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


@cache
def recovery() -> Recovery:
    recipients = tuple(str(one.to_public()) for one in age_keys())
    return Recovery(threshold=2, recipients=recipients, sharing=InlineSharing())


@cache
def policies() -> list[bytes]:
    admins = f"[admins]\nthreshold = 1\nkeys = [{json.dumps(public_line(admin_key()) + ' ann')}]\n"
    recipients = f"[recovery]\nthreshold = 2\nrecipients = {json.dumps(recovery().recipients)}\n"
    plain = document("# é", table("simulated", machines="any", mrenclave="any", mrsigner=[platform().mrsigner]))
    applied = document(table(), provision(), entry("db"), entry("log", isv_prod_id=7, machines=["00" * 16]))
    callers = '[[callers]]\nuid = 1000\nmay = ["derive"]\nlabels = ["db/*"]\n'
    documents = (document(table()), plain, document(table(), admins, recipients), applied, document(table(), callers))
    return [text.encode() for text in documents]


@cache
def policy() -> Policy:
    return default_policy("simulated", mrsigner=platform().mrsigner, isv_prod_id=platform().isv_prod_id)


KEYS: Final = ("qzxkey one", "qzxkey two")
SECRET: Final = b"qzxdomain secret of 32 bytes....."[:32]
SECRETS: Final = ("qzxkey", "qzxdomain", b"qzxkey".hex(), b"qzxdomain".hex())


@cache
def keyrings() -> list[bytes]:
    change = changes()[0].decode()
    return [
        keyring_bytes(KEYS, secret=SECRET),
        keyring_bytes(KEYS[:1], secret=SECRET, policy=policy().text, changes=[change], epoch=2**62),
    ]


@cache
def records() -> list[bytes]:
    with contextlib.closing(keyring_of(KEYS, secret=SECRET)) as keyring:
        return [
            seal_keyring(keyring, FakePlatform(), OWNER, now=NOW),
            seal_keyring(keyring, FakePlatform(), OWNER, now=NOW, recovery=recovery()),
            seal_keyring(keyring, platform(), OWNER, now=NOW),
        ]


@cache
def slots() -> list[bytes]:
    found = record.parse(records()[1]).header.recovery
    assert found is not None
    return [encode_slot(found)]


@cache
def share_documents() -> list[bytes]:
    """Of both recipients."""
    found = [shares.open_share(one.sealed, age_keys()) for one in parse_slot(slots()[0]).shares]
    return [one for one in found if one is not None]


def recovery_secret() -> bytes:
    return shares.combine_shares(share_documents(), share_set())


@cache
def mnemonic() -> tuple[str, ...]:
    words: str = json.loads(share_documents()[0])["mnemonic"]
    return (" ".join(words.split()[6:12]),)


@cache
def share_set() -> ShareSet:
    return ShareSet(id_of(SECRET), parse_slot(slots()[0]).set, 2, recovery().recipients)


@cache
def changes() -> list[bytes]:
    made = propose(domain=id_of(SECRET), sequence=1, replaces="x", policy=policies()[2].decode())
    return [sign(made, admin_key()).text().encode(), made.text().encode() + b"\n"]


VERIFIERS: Final[dict[str, Any]] = {"simulated": InlineVerifier(load_verifier("simulated"))}


@cache
def parties() -> tuple[Granter, Greeting, RecoveryAsking]:
    """A primary, a standby that has greeted it, and an instance that asks for shares."""
    clock = Clock(HostTime())
    granter = Granter(
        attester=platform(),
        verifiers=VERIFIERS,
        clock=clock,
        random=os.urandom,
        instance=b"a" * 16,
        audit_head=lambda: bytes(32),
    )
    other = machine(folder() / "standby")
    asking = Asking(
        attester=other,
        verifiers=VERIFIERS,
        policy=policy(),
        clock=clock,
        random=os.urandom,
        instance=b"b" * 16,
        held=None,
        admins=None,
        member=MEMBER,
        address="",
        holds=None,
        audit_head=lambda: bytes(32),
    )
    data = records()[1]
    recovering = RecoveryAsking.begin(data, record.parse(data), attester=platform(), random=os.urandom, now=NOW)
    return granter, Greeting.begin(asking), recovering


async def granted(granter: Granter, request: bytes) -> bytes:
    with contextlib.closing(keyring_of(KEYS, secret=SECRET, policy=policy().text)) as keyring:
        proved = await granter.prove(request, policy())
        return granter.grant(granter.seal(granter.appraise(proved, policy()), keyring, OWNER))


async def check(request: bytes) -> Checked:
    return await check_request(request, domain=id_of(SECRET), policy=policy(), verifiers=VERIFIERS, now=NOW)


async def check_minted(statement: bytes) -> Minted:
    return await check_mint_statement(statement, domain=id_of(SECRET), policy=policy(), verifiers=VERIFIERS, now=NOW)


@cache
def requesting() -> Requesting:
    """The standby, with its request made."""
    granter, greeting, _ = parties()
    return greeting.challenged(granter.challenge(greeting.message))


@cache
def release_policy() -> Policy:
    """A policy that names an enclave on the standby's machine."""
    return parse_policy(f"{policy().text}\n{enclave.entry(machine(folder() / 'standby'), ['*'])}")


@cache
def releasing() -> tuple[Releaser, ReleaseGreeting]:
    """A server that releases keys, and an enclave that has greeted it."""
    clock = Clock(HostTime())
    releaser = Releaser(attester=platform(), verifiers=VERIFIERS, clock=clock, random=os.urandom, instance=b"a" * 16)
    wanted = Wanting(
        attester=machine(folder() / "standby"),
        verifiers=VERIFIERS,
        policy=policy(),
        clock=clock,
        random=os.urandom,
        instance=b"b" * 16,
        domain=id_of(SECRET),
        keys=(messages.WantedKey(label="a", size=32, generation="current"),),
    )
    return releaser, ReleaseGreeting.begin(wanted)


@cache
def wanting() -> ReleaseRequesting:
    """The enclave, with its request made."""
    releaser, greeting = releasing()
    return greeting.challenged(releaser.challenge(greeting.message))


async def released(releaser: Releaser, request: bytes) -> bytes:
    with contextlib.closing(keyring_of(KEYS, secret=SECRET, policy=policy().text)) as keyring:
        proved = await releaser.prove(request, release_policy(), domain=keyring.domain)
        found = releaser.find(releaser.appraise(proved, release_policy()), keyring)
        return releaser.release(releaser.seal(found, keyring))


@cache
def exchange() -> dict[type[messages.Message], bytes]:
    """One of each message, as two genuine parties send them."""
    granter, greeting, recovering = parties()
    request = messages.decode(requesting().message, messages.Request)
    grant = asyncio.run(granted(granter, requesting().message))
    recovery_request = messages.decode(recovering.message, messages.RecoveryRequest)
    checked = asyncio.run(check(recovering.message))
    release_request = messages.decode(wanting().message, messages.ReleaseRequest)
    release = asyncio.run(released(releasing()[0], wanting().message))
    with contextlib.closing(keyring_of(KEYS, secret=SECRET, policy=policy().text)) as keyring:
        minted = granter.state_mint(keyring)
    return {
        messages.ReleaseRequest: wanting().message,
        messages.ReleaseRequestClaims: release_request.attested.claims,
        messages.Release: release,
        messages.ReleaseClaims: messages.decode(release, messages.Release).attested.claims,
        messages.Hello: greeting.message,
        messages.Challenge: request.challenge,
        messages.ChallengeBody: messages.decode(request.challenge, messages.Challenge).body,
        messages.Request: requesting().message,
        messages.RequestClaims: request.attested.claims,
        messages.Grant: grant,
        messages.Members: messages.decode(grant, messages.Grant).members,
        messages.GrantClaims: messages.decode(grant, messages.Grant).attested.claims,
        messages.RecoveryRequest: recovering.message,
        messages.RecoveryRequestClaims: recovery_request.attested.claims,
        messages.RecoveryContribution: contribute(checked, memoryview(share_documents()[0])),
        messages.MintStatement: minted,
        messages.MintStatementClaims: messages.decode(minted, messages.MintStatement).attested.claims,
    }


def message(kind: type[messages.Message]) -> Callable[[], list[bytes]]:
    return lambda: [exchange()[kind]]


@cache
def quotes() -> list[bytes]:
    genuine = [intel.submission("sgx-phala").quote] if intel.FOLDER.is_dir() else []
    return [platform().evidence(bytes(range(64))), *genuine]


@cache
def collaterals() -> list[bytes]:
    genuine = [json.dumps(intel.submission("sgx-phala").collateral).encode()] if intel.FOLDER.is_dir() else []
    return [platform().endorsements(), *genuine]


def verify(evidence: bytes, endorsements: bytes) -> SgxClaims:
    """As bound to whatever a quote says that it is bound to, so that more of it is read than that."""
    return load_verifier("simulated")(evidence, endorsements, evidence[368:432], NOW)


def signed_change(data: bytes) -> None:
    admins = AdminsTable(threshold=1, keys=[public_line(admin_key())])
    change = parse_change(data)
    signers(change, admins)
    keys = [one.key for one in change.signatures]
    signers(change, AdminsTable(threshold=1, keys=keys))


@cache
def ssh_private() -> bytes:
    return admin_key().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


@cache
def pem_private() -> bytes:
    return admin_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def folder_of_machine() -> Path:
    return platform().folder
