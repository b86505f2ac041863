"""How a primary comes to its keyring: opens the record here, or makes a new domain's. A standby asks (join.py)."""

from __future__ import annotations

import logging

from rkeyserver import files
from rkeyserver.appraisal.applications import check_generations
from rkeyserver.appraisal.defaults import default_policy, joining_policy
from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.config import Config
from rkeyserver.errors import Corrupt, Rejected, RkeyError
from rkeyserver.exchange.armour import Kind, armour
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.service.adopt import (
    Nothing,
    Opened,
    Own,
    Unopenable,
    check_may_mint,
    check_own_domain,
)
from rkeyserver.service.audit_line import Line
from rkeyserver.service.given import Given
from rkeyserver.service.instance import Instance
from rkeyserver.service.recipients import check_recoverable
from rkeyserver.service.vouching import in_its_time

log = logging.getLogger(__name__)


def domain_default(instance: Instance) -> Policy:
    """The policy of a domain that this instance would make without being given one."""
    platform = instance.platform
    return default_policy(
        platform.name,
        mrsigner=platform.mrsigner,
        isv_prod_id=platform.isv_prod_id,
        machine=platform.attester_identity().machine,
    )


def joiner_default(instance: Instance, given: Given) -> Policy:
    """What this instance goes by to join a domain without being given a policy."""
    platform = instance.platform
    return joining_policy(
        platform.name,
        mrsigner=platform.mrsigner,
        isv_prod_id=platform.isv_prod_id,
        former_signers=() if given.measured is None else given.measured.former_signers,
    )


async def start_primary(config: Config, instance: Instance, own: Own, given: Given) -> None:
    """Open the record here, or make the domain's root key on an empty keystore.

    Raises: Rejected (ANOTHER_DOMAIN, or the rule by which a new domain's policy refuses this very machine), Misuse
    (would have to mint under --domain), Corrupt (does not open), Unavailable.
    """
    match own:
        case Opened(keyring, _record):
            open_own(config, instance, keyring)
            if given.policy is not None and given.policy.text != keyring.header.policy:
                log.info("The domain goes by the policy in its record, not by --policy: `rkeyserver policy show`.")
            if given.admins not in (None, parse_policy(keyring.header.policy).admins):
                log.warning(
                    "The policy in the record has other admins than --admins, and goes on: it is not signed anew."
                )
        case Unopenable(error, _record, header):
            with instance.deciding("open", domain=header.domain if header else ""):
                raise error
        case Nothing():
            with instance.deciding("mint"):
                check_may_mint(config.domain)
                instance.store.check_new()
                if line := instance.audit.had_a_keyring():
                    raise Corrupt(
                        f"The keystore is empty, but by its audit file ({config.audit_path}) "
                        f"there was a keyring: {line}",
                        advice="Nothing was changed. Restore the record, or fetch the keyring with -i. "
                        "Only for a new domain: move the audit file elsewhere.",
                    )
                policy = given.for_a_new_domain(domain_default(instance))
                check_generations(policy, ())
                check_recoverable(policy)
                await _check_self(instance, policy)
            keyring = Keyring.mint(now=instance.clock.now(), policy=policy.text, primary=instance.members.own)
            minted = Line(event="mint", verdict="accepted", domain=keyring.domain, sequence=keyring.header.sequence)
            with instance.erasing(keyring):
                instance.audit.write_now(minted)
                try:
                    if not instance.platform.trusts_host:
                        await _state_mint(config, instance, keyring)
                    instance.store_keyring(keyring, None)
                except RkeyError as error:
                    # A second line: the first says that it may be made, this one that it was not.
                    instance.audit.write_now(minted.refused(error))
                    raise
                instance.hold(keyring)
            log.info("Made the root key of a new domain, %s, and sealed it to this machine.", keyring.domain)


async def _state_mint(config: Config, instance: Instance, keyring: Keyring) -> None:
    """Leave what its admins need to know a domain by, before there is one."""
    statement = await in_its_time(instance.platform, instance.granter.state_mint, keyring)
    files.put(config.mint_statement_path, armour(statement, Kind.MINT_STATEMENT).encode())
    log.info(
        "Who signs the policy of domain %s needs %s (`rkeyserver policy sign --minted`).",
        keyring.domain,
        config.mint_statement_path,
    )


async def _check_self(instance: Instance, policy: Policy) -> None:
    try:
        await instance.granter.accepts_self(policy)
    except Rejected as error:
        raise Rejected(
            error.reason,
            f"The new domain's policy does not accept this very machine, so nobody could join from it. {error.message}",
            advice=f"Nothing was made. {error.advice}",
        ) from error


def open_own(config: Config, instance: Instance, keyring: Keyring) -> None:
    """Serve from the record of this machine.

    Raises: Rejected(ANOTHER_DOMAIN).
    """
    with instance.deciding("open", domain=keyring.domain):
        check_own_domain(keyring, config.domain)
    instance.audit.write_now(
        Line(event="open", verdict="accepted", domain=keyring.domain, sequence=keyring.header.sequence)
    )
    instance.hold(keyring)
    log.info("Opened the record of domain %s, sequence %d.", keyring.domain, keyring.header.sequence)
