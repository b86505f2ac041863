"""A machine as `rkeyserver doctor` sees it: its platform, with what a start would judge and vouch with."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass

from rkeyserver.appraisal.appraise import Verdict
from rkeyserver.appraisal.measured import Measured
from rkeyserver.appraisal.policy import Policy
from rkeyserver.appraisal.succession import Held, check_succession
from rkeyserver.exchange.attested import Verifier, appraise_self
from rkeyserver.platforms.interface import Platform
from rkeyserver.service.held import HeldCollateral
from rkeyserver.service.vouching import AttesterWithHeld


@dataclass(frozen=True)
class Seen:
    """verifier: of this platform's evidence. held: None where the platform has collateral of its own.

    measured: what is measured into the image; None where the platform trusts its host.
    """

    platform: Platform
    verifier: Verifier
    held: HeldCollateral | None = None
    measured: Measured | None = None

    def appraised(self, policy: Policy, now: int) -> Verdict:
        """What a policy makes of this machine, by evidence of its own.

        Raises: Rejected, as appraise_self(); Unavailable if there is no evidence now, or its collateral has expired.
        """
        platform = self.platform
        attester = platform if self.held is None else AttesterWithHeld(platform, self.held, asks=False)
        own = appraise_self(attester, {platform.name: self.verifier}, policy, nonce=secrets.token_bytes(32), now=now)
        return asyncio.run(own)

    def check_believed(self, state: Held) -> None:
        """Whether an image like this one, without a record of its own, believes the policy that is in `state`.

        Raises: Rejected.
        """
        if self.measured is None:
            return
        check_succession(state, held=None, root=self.measured.admins)
