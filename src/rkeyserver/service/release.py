"""Attested release: enclaves elsewhere that the policy names get derived keys (docs/spec/release.md).

As a hand-over: prove, appraise, record, and only then derive and seal. An instance whose policy names no enclave
answers not even a hello.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Final

import msgspec

from rkeyserver.appraisal.policy import Policy
from rkeyserver.errors import Reason, Rejected, RkeyError, Unavailable
from rkeyserver.exchange.releaser import Found, Proved, Releaser
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.service.audit_line import Line, Peer, reason_of
from rkeyserver.service.instance import Instance
from rkeyserver.service.rates import REFUSED_DELAY, Rates
from rkeyserver.service.vouching import in_its_time

PER_SECOND: Final = 100.0  # requests of one enclave on one machine
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AttestedRelease:
    """What an instance releases; implements instance.Releases."""

    instance: Instance
    releaser: Releaser
    _rates: Rates = field(
        default_factory=lambda: Rates(PER_SECOND, PER_SECOND, lambda: asyncio.get_running_loop().time())
    )

    def challenge(self, hello: bytes) -> bytes:
        """As instance.Releases."""
        challenge = self.releaser.challenge(hello)
        self._serving()
        return challenge

    async def release(self, request: bytes, address: str) -> bytes:
        """As instance.Releases. Requests without genuine evidence are counted, not recorded one by one."""
        keyring, policy = self._serving()
        proved = await self.releaser.prove(request, policy, domain=keyring.domain)
        try:
            self._rates.take(_identity(proved))
        except Unavailable:
            await asyncio.sleep(REFUSED_DELAY)
            raise
        machine, labels = proved.claims.ppid, ", ".join(one.label for one in proved.request.keys)
        try:
            answer = await self._decide(keyring, policy, proved, address)
        except RkeyError as error:
            log.warning("Refused an enclave on machine %s at %s: %s. %s", machine, address, reason_of(error), error)
            raise
        self.instance.released += 1
        log.info("Released keys to an enclave on machine %s at %s, for: %s.", machine, address, labels)
        return answer

    def _serving(self) -> tuple[Keyring, Policy]:
        keyring, policy = self.instance.keyring, self.instance.policy
        if keyring is None or policy is None:
            raise Unavailable("This instance has no keyring yet.")
        if not policy.enclaves:
            raise Rejected(
                Reason.ENCLAVE_NOT_NAMED,
                "The policy names no enclave.",
                advice="To release keys to one elsewhere, name it under [[enclaves]].",
            )
        return keyring, policy

    async def _decide(self, keyring: Keyring, policy: Policy, proved: Proved, address: str) -> bytes:
        audit = self.instance.audit
        line = Line(
            event="release",
            verdict="accepted",
            domain=keyring.domain,
            sequence=keyring.header.sequence,
            peer=Peer.of(proved.claims, address),
            policy=policy.digest,
            transcript=proved.transcript.hex(),
            labels=tuple(one.label for one in proved.request.keys),
        )
        try:
            found = self.releaser.find(self.releaser.appraise(proved, policy), keyring)
        except Rejected as error:
            await audit.write(line.refused(error))
            raise
        line = msgspec.structs.replace(line, generations=found.generations)
        await audit.write(line)
        try:
            return await self._give(found, keyring, _identity(proved))
        except RkeyError as error:
            # A second line: the first says that they may be given, this one that they were not.
            await audit.write(line.refused(error))
            raise

    async def _give(self, found: Found, keyring: Keyring, who: str) -> bytes:
        # As hand-overs, and each enclave in turn with the others, whatever its address.
        await self.instance.joins.turn(who)
        self._check_held(keyring)
        sealed = self.releaser.seal(found, keyring)
        await self.instance.joins.turn(who)
        answer = await in_its_time(self.instance.platform, self.releaser.release, sealed)
        self._check_held(keyring)
        return answer

    def _check_held(self, keyring: Keyring) -> None:
        if self.instance.keyring is not keyring:
            raise Unavailable("The keyring was replaced while this release was decided.")


def _identity(proved: Proved) -> str:
    return f"{proved.claims.mrenclave} on {proved.claims.ppid}"
