"""Whether a change is for the domain that its signer means (docs/spec/mint-statement.md).

A change names its domain by an id, and on a platform that does not trust its host the id was shown by that host. Who
signs there has to know it otherwise: from before, or by the statement of the enclave that made the domain.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from rkeyserver import files
from rkeyserver.appraisal.change import PolicyChange
from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.attestation.evidence import MAX_ENDORSEMENTS, MAX_EVIDENCE
from rkeyserver.attestation.sgx.bundle import MAX_BUNDLE, read_bundle
from rkeyserver.clock import Clock, utc
from rkeyserver.errors import Misuse, Reason, Rejected
from rkeyserver.exchange.armour import Kind, armoured_size, dearmour
from rkeyserver.exchange.attested import Verifier
from rkeyserver.exchange.mint_statement import Minted, check_mint_statement
from rkeyserver.platforms.registry import HOST_NOT_TRUSTED, load_verifier
from rkeyserver.service.verification import InlineVerifier

_MAX_STATEMENT: Final = armoured_size(MAX_EVIDENCE + MAX_ENDORSEMENTS + 4096)


def add_known(parser: argparse.ArgumentParser) -> None:
    """The options that say by what the signer knows the domain."""
    parser.add_argument("--domain", metavar="ID", help="the domain that you mean, as you know it from before")
    parser.add_argument("--minted", metavar="FILE", help="the statement of the enclave that made it (KEYSTORE.minted)")
    parser.add_argument("--collateral", metavar="FILE", help="a bundle to verify that with, newer than its own")


@dataclass(frozen=True)
class Known:
    """By what the signer knows the domain; None for what was not said."""

    domain: str | None = None
    minted: Path | None = None
    collateral: Path | None = None

    @classmethod
    def of(cls, found: argparse.Namespace) -> Self:
        """What was said by the options of add_known()."""
        return cls(found.domain, *(None if name is None else Path(name) for name in (found.minted, found.collateral)))

    def check(self, change: PolicyChange) -> None:
        """Whether `change` is for a domain that the signer knows; what a statement says is told on stderr.

        Raises: Misuse if it takes such knowledge and there is none; Rejected if it is another domain, or not proved.
        """
        if self.domain is not None and self.domain != change.domain:
            raise Rejected(
                Reason.ANOTHER_DOMAIN,
                f"The change is for domain {change.domain}; --domain says {self.domain}.",
                advice="Nothing was signed. Whoever showed you the one is not to be trusted with the other.",
            )
        policy = parse_policy(change.policy)
        if self.minted is not None:
            _tell(asyncio.run(self._proved(change.domain, policy, self.minted)))
        elif self.domain is None and (hosted := sorted(HOST_NOT_TRUSTED & set(policy.tables))):
            raise Misuse(
                f"Nothing but the host says that {change.domain} is the domain you mean, and [{hosted[0]}] does not "
                "trust its host.",
                advice="Nothing was signed. Give --domain ID, as you noted it; the first time --minted FILE, which the "
                "enclave that made the domain left beside the keystore.",
            )

    async def _proved(self, domain: str, policy: Policy, path: Path) -> Minted:
        statement = dearmour(files.read(path, _MAX_STATEMENT, "statement"), Kind.MINT_STATEMENT)
        held: tuple[bytes, ...] = ()
        if self.collateral is not None:
            held = tuple(one.encoded for one in read_bundle(files.read(self.collateral, MAX_BUNDLE, "collateral")))
        verifiers: dict[str, Verifier] = {}
        for name in policy.tables:
            verifier = InlineVerifier(load_verifier(name))
            verifier.hold(held)
            verifiers[name] = verifier
        return await check_mint_statement(
            statement, domain=domain, policy=policy, verifiers=verifiers, now=Clock().now()
        )


NOTHING_KNOWN: Final = Known()


def _tell(minted: Minted) -> None:
    claims, proved = minted.claims, minted.verdict.claims
    sys.stderr.write(
        f"Domain {claims.domain} was made at {utc(claims.time)} by {proved.platform} {proved.ppid}: genuine, and "
        f"accepted by this policy (mrenclave {proved.mrenclave}, mrsigner {proved.mrsigner}, version {proved.isv_svn})."
        "\n"
    )
