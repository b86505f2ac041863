"""An instance on a fake platform, with its keystore in memory and a real audit file."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rkeyserver.appraisal.appraise import Verdict
from rkeyserver.appraisal.defaults import default_policy
from rkeyserver.appraisal.policy import Policy
from rkeyserver.clock import Clock
from rkeyserver.errors import RkeyError
from rkeyserver.exchange import messages
from rkeyserver.exchange.primary import Granter
from rkeyserver.exchange.standby import Received
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.sealed import Owner, open_keyring, seal_keyring
from rkeyserver.sealing.record import parse
from rkeyserver.service.audit import Audit
from rkeyserver.service.instance import Instance
from rkeyserver.service.members import Members
from tests.fakes.audit_lines import decisions_in
from tests.fakes.claims import NOW, claims_with
from tests.fakes.keyrings import keyring_of
from tests.fakes.machines import HostTime
from tests.fakes.platform import ISV_PROD_ID, MRSIGNER, FakePlatform
from tests.fakes.sharing import WatchedSharing
from tests.fakes.store import MemoryKeystore

DEFAULT = default_policy("simulated", mrsigner=MRSIGNER, isv_prod_id=ISV_PROD_ID)
PEER = claims_with(platform="simulated", ppid="b2" * 16, mrsigner=MRSIGNER, isv_prod_id=ISV_PROD_ID)


class ScriptedGranter(Granter):
    """One whose own evidence is judged as a test says. judged: by which policies."""

    refuses_self: RkeyError | None = None

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.judged: list[Policy] = []

    async def accepts_self(self, policy: Policy) -> Verdict:
        self.judged.append(policy)
        if self.refuses_self is not None:
            raise self.refuses_self
        return Verdict(claims=PEER, policy=policy.digest, at=NOW)


OWN = Owner("aa" * 16)
GIVEN_BY = messages.Members(member="dd" * 16, members=[])


@dataclass
class Scene:
    """One instance and what surrounds it."""

    folder: Path
    host: HostTime = field(default_factory=lambda: HostTime(NOW))
    platform: FakePlatform = field(default_factory=FakePlatform)
    store: MemoryKeystore = field(default_factory=MemoryKeystore)
    sharing: WatchedSharing = field(default_factory=WatchedSharing)
    said: list[str] = field(default_factory=list)
    keyrings: list[Keyring] = field(default_factory=list)

    def __post_init__(self) -> None:
        clock = Clock(self.host)
        self.granter = ScriptedGranter(
            attester=self.platform,
            verifiers={},
            clock=clock,
            random=bytes,
            instance=bytes(16),
            audit_head=lambda: bytes(32),
        )
        self.instance = Instance(
            members=Members(OWN.member),
            platform=self.platform,
            store=self.store,
            audit=Audit.open(self.folder / "audit.jsonl", clock),
            clock=clock,
            granter=self.granter,
            sharing=self.sharing,
            say=self.said.append,
            started=NOW,
        )

    def keyring(self, *names: str, **said: Any) -> Keyring:
        """A keyring with the default policy; closed with the scene."""
        made = keyring_of(names or ("a",), **{"policy": DEFAULT.text} | said)
        self.keyrings.append(made)
        return made

    def received(self, *names: str, **said: Any) -> Received:
        """Such a keyring, as from a peer that was accepted."""
        return Received(
            Verdict(claims=PEER, policy=DEFAULT.digest, at=NOW),
            self.keyring(*names, **said),
            GIVEN_BY,
            transcript=bytes(64),
            peer_head=bytes(32),
        )

    def holds_record_of(self, keyring: Keyring) -> bytes:
        """Put the keyring's record into the store."""
        self.store.record = seal_keyring(keyring, self.platform, Owner(self.instance.members.own), now=NOW)
        return self.store.record

    def stored(self) -> Keyring:
        """The keyring in the store."""
        assert self.store.record is not None
        opened = open_keyring(parse(self.store.record), self.platform)
        self.keyrings.append(opened)
        return opened

    def audit_fails(self) -> None:
        """From now on no line can be written."""
        self.instance.audit.close()
        path = self.folder / "audit.jsonl"
        self.instance.audit = Audit(os.open(path, os.O_RDONLY), path, self.instance.clock)

    def lines(self) -> list[dict[str, Any]]:
        """The decisions in the audit file."""
        return decisions_in(self.folder / "audit.jsonl")

    def decisions(self) -> list[tuple[str, str]]:
        return [(line["event"], line["verdict"]) for line in self.lines()]

    def close(self) -> None:
        self.instance.audit.close()
        self.granter.close()
        for keyring in self.keyrings:
            keyring.close()
        if self.instance.keyring is not None:
            self.instance.keyring.close()


def is_closed(keyring: Keyring) -> bool:
    try:
        _ = keyring.view
    except ValueError:
        return True
    return False
