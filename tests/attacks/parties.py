"""The two sides of the exchange, driven by hand: real machines, real crypto, time and randomness as a test has them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fakes.flavours import VERIFY, machine_of, policy_of
from tests.fakes.keyrings import MEMBER, OWNER
from tests.fakes.machines import NOW, HostTime

from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.attestation.report_data import transcript_hash
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.clock import Clock
from rkeyserver.errors import Reason, Rejected
from rkeyserver.exchange.attested import Verifier
from rkeyserver.exchange.messages import AttestedMessage, Message, Request, RequestClaims, decode, encode
from rkeyserver.exchange.primary import Granter
from rkeyserver.exchange.standby import Asking, Greeting, Received, Requesting
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.platforms.interface import Platform, VerifyFunction

AUDIT_HEAD = bytes(range(32))  # of whoever it is


class WatchedKeyring(Keyring):
    """A keyring that counts how often it was taken out whole: to be sealed, or to be handed over."""

    released = 0

    @property
    def view(self) -> memoryview:
        self.released += 1
        return super().view


@dataclass
class WatchedVerifier:
    """Verifies on the spot and counts; `meanwhile` is what happens in the world until it is done."""

    function: VerifyFunction
    asked: int = 0
    meanwhile: Callable[[], None] = lambda: None

    async def verify(self, evidence: bytes, endorsements: bytes, expected_report_data: bytes, now: int) -> SgxClaims:
        self.asked += 1
        await asyncio.sleep(0)
        self.meanwhile()
        return self.function(evidence, endorsements, expected_report_data, now)


def verifiers_of(platform: Platform) -> dict[str, Verifier]:
    """What an instance on that platform verifies with."""
    return {platform.name: WatchedVerifier(VERIFY[platform.name])}


def changed(policy: Policy, **changes: str | int | list[str]) -> Policy:
    """The policy with other values (as JSON writes them, so does TOML) for keys that are in it."""
    lines = policy.text.splitlines()
    for key, value in changes.items():
        (at,) = (number for number, line in enumerate(lines) if line.startswith(f"{key} = "))
        lines[at] = f"{key} = {msgspec.json.encode(value).decode()}"
    return parse_policy("\n".join(lines))


@dataclass
class Primary:
    """An instance that holds a keyring. `open` it, so that it is closed."""

    platform: Platform
    policy: Policy
    keyring: WatchedKeyring
    host: HostTime
    verifier: WatchedVerifier
    granter: Granter
    instance: bytes

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        platform: Platform,
        *,
        policy: Policy | None = None,
        verifiers: dict[str, VerifyFunction] | None = None,
        instance: bytes | None = None,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> Iterator[Primary]:
        """policy: by which it appraises, and which its keyring carries; the rest as a Granter takes it."""
        host = HostTime()
        verifier = WatchedVerifier(VERIFY[platform.name])
        all_verifiers: dict[str, Verifier] = {platform.name: verifier}
        for name, function in (verifiers or {}).items():
            all_verifiers[name] = WatchedVerifier(function)
        policy = policy or policy_of(platform)
        instance = instance or secrets.token_bytes(16)
        granter = Granter(
            attester=platform,
            verifiers=all_verifiers,
            clock=Clock(host),
            random=random,
            instance=instance,
            audit_head=lambda: AUDIT_HEAD,
        )
        keyring = WatchedKeyring.mint(primary=MEMBER, now=NOW, policy=policy.text)
        try:
            yield cls(platform, policy, keyring, host, verifier, granter, instance)
        finally:
            keyring.close()
            granter.close()

    def challenge(self, hello: bytes) -> bytes:
        return self.granter.challenge(hello)

    async def answered(self, request: bytes) -> bytes:
        """What service/app.py does with a request, less the audit file."""
        proved = await self.granter.prove(request, self.policy)
        accepted = self.granter.appraise(proved, self.policy)
        return self.granter.grant(self.granter.seal(accepted, self.keyring, OWNER))

    def answer(self, request: bytes) -> bytes:
        return asyncio.run(self.answered(request))


@dataclass
class Standby:
    """An instance that asks for a keyring."""

    platform: Platform
    policy: Policy
    host: HostTime = field(default_factory=HostTime)
    verifier: WatchedVerifier = field(init=False)
    instance: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    random: Callable[[int], bytes] = secrets.token_bytes

    def __post_init__(self) -> None:
        self.verifier = WatchedVerifier(VERIFY[self.platform.name])

    @classmethod
    def of(cls, platform: Platform) -> Standby:
        """One that appraises by the default policy, as a start with an empty keystore does."""
        return cls(platform, policy_of(platform))

    def greet(self) -> Greeting:
        return Greeting.begin(
            Asking(
                attester=self.platform,
                verifiers={self.platform.name: self.verifier},
                policy=self.policy,
                clock=Clock(self.host),
                random=self.random,
                instance=self.instance,
                held=None,
                admins=None,
                member=MEMBER,
                address="",
                holds=None,
                audit_head=lambda: AUDIT_HEAD,
            )
        )

    def ask(self, primary: Primary) -> Requesting:
        """Hello and challenge done; the request not yet sent."""
        greeting = self.greet()
        return greeting.challenged(primary.challenge(greeting.message))


def granted(requesting: Requesting, grant: bytes) -> Received:
    return asyncio.run(requesting.granted(grant))


def exchange(standby: Standby, primary: Primary) -> Received:
    """A whole exchange. The receiver closes the keyring."""
    requesting = standby.ask(primary)
    return granted(requesting, primary.answer(requesting.message))


@dataclass
class Pair:
    """An honest primary and an honest standby on two machines, and a third machine of the same kind."""

    primary: Primary
    standby: Standby
    third: Platform

    @property
    def name(self) -> str:
        """Of the platform that they are on."""
        return self.third.name

    def machine(self, folder: Path, **differences: Any) -> Platform:
        """Another machine of the platform; `differences` as tests.fakes.machines.Making has them, none for honest."""
        return machine_of(self.name, folder, **differences)

    def works(self) -> None:
        """Check that the honest exchange still does."""
        before = self.primary.keyring.released
        received = exchange(self.standby, self.primary)
        try:
            assert received.keyring.same_as(self.primary.keyring)
            assert self.primary.keyring.released == before + 1
        finally:
            received.keyring.close()

    @contextlib.contextmanager
    def refuses(self, reason: Reason, *, asked: int | None = None, says: str | None = None) -> Iterator[None]:
        """Check that what is done inside is refused, releases no keyring, and hinders no honest exchange.

        asked: how many quotes may have been verified by the primary.
        """
        released, verified = self.primary.keyring.released, self.primary.verifier.asked
        with pytest.raises(Rejected, match=says) as refused:
            yield
        assert type(refused.value) is Rejected
        assert refused.value.reason is reason
        assert self.primary.keyring.released == released
        if asked is not None:
            assert self.primary.verifier.asked == verified + asked
        self.works()


@dataclass(frozen=True)
class Machines:
    """Machines that live as long as the tests: making one costs certificates."""

    first: Platform
    second: Platform
    third: Platform

    @classmethod
    def in_folder(cls, folder: Path, platform: str = "simulated") -> Machines:
        return cls(*(machine_of(platform, folder / name) for name in ("first", "second", "third")))


@contextlib.contextmanager
def honest_pair(machines: Machines) -> Iterator[Pair]:
    with Primary.open(machines.first) as primary:
        yield Pair(primary, Standby.of(machines.second), machines.third)


@contextlib.contextmanager
def judging(primary: Primary, policy: Policy) -> Iterator[None]:
    """Let the primary appraise by another policy for a while."""
    primary.policy, before = policy, primary.policy
    try:
        yield
    finally:
        primary.policy = before


def edited(message: bytes, kind: type[Message], **changes: object) -> bytes:
    """A message with other fields, in canonical form again."""
    return encode(msgspec.structs.replace(decode(message, kind), **changes))


def with_claims(request: bytes, **changes: object) -> bytes:
    """A request whose claims were changed and whose evidence was not."""
    attested = decode(request, Request).attested
    return edited(
        request,
        Request,
        attested=msgspec.structs.replace(attested, claims=edited(attested.claims, RequestClaims, **changes)),
    )


def with_attested(request: bytes, attested: AttestedMessage) -> bytes:
    return edited(request, Request, attested=attested)


def claims_of(request: bytes) -> RequestClaims:
    return decode(decode(request, Request).attested.claims, RequestClaims)


def transcript_before(request: bytes) -> bytes:
    found = decode(request, Request)
    return transcript_hash(found.hello, found.challenge)


def transcript_of(request: bytes) -> bytes:
    found = decode(request, Request)
    return transcript_hash(found.hello, found.challenge, request)
