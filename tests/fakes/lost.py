"""A domain of which nothing is left but a record and its recipients, and the instance that is to bring it back."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from rkeyserver.appraisal.change import PolicyChange
from rkeyserver.appraisal.policy import AdminsTable, Policy, parse_policy
from rkeyserver.clock import Clock
from rkeyserver.config import Config
from rkeyserver.exchange.messages import RecoveryRequest, RecoveryRequestClaims, decode
from rkeyserver.exchange.primary import Granter
from rkeyserver.exchange.recovery import Checked, check_request, contribute
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.sealed import seal_keyring
from rkeyserver.platforms.interface import Platform
from rkeyserver.sealing.record import parse
from rkeyserver.sealing.recovery import Recovery
from rkeyserver.service.audit import Audit
from rkeyserver.service.instance import Instance
from rkeyserver.service.members import Members
from rkeyserver.service.recipients import recipients_of
from rkeyserver.service.recover import Recoverer, look_for_recovery
from rkeyserver.service.sharing_inline import InlineSharing
from rkeyserver.service.verification import InlineVerifier
from tests.fakes.audit_lines import decisions_in
from tests.fakes.flavours import VERIFY, machine_of, policy_of
from tests.fakes.keyrings import MEMBER, OWNER
from tests.fakes.machines import NOW, HostTime
from tests.fakes.recipients import Recipient, age, recovery_table
from tests.fakes.store import MemoryKeystore

MakePolicy = Callable[[Policy], Policy]
VERIFIERS = {name: InlineVerifier(verify) for name, verify in VERIFY.items()}


@dataclass(frozen=True)
class Lost:
    """The record, whose recovery it is, and what is in it. root_key: of the lost domain."""

    record: bytes
    domain: str
    policy: Policy
    root_key: bytes
    recipients: list[Recipient]

    @property
    def platform(self) -> str:
        """The name of what its machine was."""
        return parse(self.record).header.slot.platform

    @classmethod
    def of(
        cls,
        platform: Platform,
        *,
        threshold: int = 2,
        recipients: list[Recipient] | None = None,
        policy: MakePolicy = lambda policy: policy,
        keyring: Keyring | None = None,
    ) -> Self:
        """What `platform` sealed before it was lost. keyring: another one than a new domain's."""
        recipients = recipients or [age() for _ in range(3)]
        text = policy(policy_of(platform)).text + recovery_table(threshold, recipients)
        keyring = keyring or Keyring.mint(primary=MEMBER, now=NOW, policy=text)
        table = parse_policy(text).recovery
        assert table is not None
        recovery = Recovery(table.threshold, recipients_of(table), InlineSharing())
        record = seal_keyring(keyring, platform, OWNER, now=NOW, recovery=recovery)
        root_key = bytes(keyring.root_key(keyring.current.id))
        keyring.close()
        return cls(record, keyring.domain, parse_policy(text), root_key, recipients)

    def share(self, index: int) -> bytes:
        """What a recipient decrypts."""
        slot = parse(self.record).header.recovery
        assert slot is not None
        return self.recipients[index].opens(slot.shares[index].sealed)


@dataclass
class Recovering:
    """An instance on a machine of its own that has a lost domain's record, and says what it does."""

    folder: Path
    lost: Lost
    platform: Platform = field(init=False)
    host: HostTime = field(default_factory=HostTime)
    store: MemoryKeystore = field(init=False)
    said: list[str] = field(default_factory=list)
    differences: dict[str, Any] = field(default_factory=dict)
    domain: str | None = None
    admins: AdminsTable | None = None
    change: PolicyChange | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir()
        clock = Clock(self.host)
        self.platform = machine_of(self.lost.platform, self.folder / "machine", clock, **self.differences)
        self.store = MemoryKeystore(self.lost.record)
        granter = Granter(
            attester=self.platform,
            verifiers={self.platform.name: VERIFIERS[self.platform.name]},
            clock=clock,
            random=secrets.token_bytes,
            instance=secrets.token_bytes(16),
            audit_head=lambda: bytes(32),
        )
        self.instance = Instance(
            members=Members(MEMBER),
            platform=self.platform,
            store=self.store,
            audit=Audit.open(self.folder / "audit.jsonl", clock),
            clock=clock,
            granter=granter,
            sharing=InlineSharing(),
            say=self.said.append,
        )

    def recoverer(self) -> Recoverer:
        config = Config(recover=True, domain=self.domain or self.lost.domain)
        return Recoverer(config, self.instance, secrets.token_bytes, self.admins, self.change)

    async def begin(self) -> asyncio.Task[None]:
        """Let it run until it asks for shares, or is over."""
        task = asyncio.get_running_loop().create_task(self.recoverer().run(look_for_recovery(self.instance)))
        while not (self.instance.recovering or task.done()):  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0)
        return task

    @property
    def request(self) -> bytes:
        assert self.instance.recovering is not None
        return self.instance.recovering.request

    async def checked(self, **said: Any) -> Checked:
        """What any honest recipient makes of its request."""
        honest: dict[str, Any] = {
            "domain": self.lost.domain,
            "policy": policy_of(self.platform),
            "verifiers": VERIFIERS,
            "now": NOW,
        }
        return await check_request(self.request, **(honest | said))

    async def contribution(self, index: int) -> bytes:
        """An honest recipient's."""
        return contribute(await self.checked(), memoryview(self.lost.share(index)))

    def take(self, contribution: bytes) -> dict[str, int]:
        assert self.instance.recovering is not None
        return self.instance.recovering.take(contribution)

    async def give(self, *indices: int) -> None:
        for index in indices:
            self.take(await self.contribution(index))

    def claims(self) -> RecoveryRequestClaims:
        return decode(decode(self.request, RecoveryRequest).attested.claims, RecoveryRequestClaims)

    def lines(self) -> list[dict[str, Any]]:
        return decisions_in(self.folder / "audit.jsonl")

    def decisions(self) -> list[tuple[str, str]]:
        return [(line["event"], line["verdict"]) for line in self.lines()]

    def serves(self) -> bool:
        """Whether it has the lost domain's root key, and a record of its own."""
        keyring = self.instance.keyring
        return keyring is not None and bytes(keyring.root_key(keyring.current.id)) == self.lost.root_key

    def untouched(self) -> bool:
        return self.instance.keyring is None and self.store.record == self.lost.record and not self.store.kept

    def close(self) -> None:
        self.instance.close()
        self.instance.audit.close()
        self.instance.granter.close()
