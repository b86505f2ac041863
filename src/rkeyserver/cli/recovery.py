"""`rkeyserver recovery`: what a recipient does, on a machine of his own. It sees one share, and never t of them."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from rkeyserver import files
from rkeyserver.address import Address, parse_address
from rkeyserver.appraisal.change import digest, parse_change, sign
from rkeyserver.appraisal.policy import MAX_POLICY_FILE, Policy, parse_policy
from rkeyserver.cli.command import Parser, Said
from rkeyserver.cli.identity_file import read_identities
from rkeyserver.cli.passphrase import Ask, ask_on_terminal
from rkeyserver.cli.policy_domain import NOTHING_KNOWN, Known, add_known
from rkeyserver.clock import utc
from rkeyserver.config import DEFAULT_KEYSTORE, DEFAULT_PORT
from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected, one_line
from rkeyserver.exchange.armour import WHOLE, Kind, armour, armoured_size, dearmour, is_armoured
from rkeyserver.exchange.attested import Verifier
from rkeyserver.exchange.messages import (
    MAX_MESSAGE,
    RecoveryRequest,
    RecoveryRequestClaims,
    decode,
)
from rkeyserver.exchange.recovery import Checked, check_request, contribute
from rkeyserver.keystore.place import Place, parse_place
from rkeyserver.platforms.registry import load_verifier
from rkeyserver.sealing.record import parse
from rkeyserver.sealing.recovery import RecoverySlot, fingerprint, share_set_of
from rkeyserver.sealing.shares import Identity, check_share, open_share, read_share
from rkeyserver.service.reading import read
from rkeyserver.service.verification import InlineVerifier

MAX_REQUEST: Final = armoured_size(MAX_MESSAGE[RecoveryRequest])
Say = Callable[[str], None]


@dataclass(frozen=True)
class RecoveryContribute:
    """Answer a recovery request: of a file, "-" for stdin, or None for that of `host`; to `host`, None to print."""

    request: str | None
    identity: Path
    policy: Path
    domain: str
    host: Address | None


def parser() -> argparse.ArgumentParser:
    """Of `recovery`."""
    made = Parser(prog="rkeyserver recovery", description="For recipients of recovery shares.")
    actions = made.add_subparsers(parser_class=Parser, dest="action", required=True, metavar="COMMAND")
    show = actions.add_parser("show", help="print a record's recovery slot")
    verify = actions.add_parser("verify", help="prove your share in a record readable")
    give = actions.add_parser("contribute", help="give your share to a recovering instance")
    give.add_argument("request", nargs="?", help="the request's file, or - for stdin; without it, -i is asked for it")
    for one in (show, verify):
        one.add_argument(
            "path", nargs="?", default=str(DEFAULT_KEYSTORE), help=f"a record (default {DEFAULT_KEYSTORE})"
        )
    for one in (verify, give):
        one.add_argument(
            "--identity", required=True, metavar="KEYFILE", help="your age identity or OpenSSH private key"
        )
    give.add_argument("--policy", required=True, metavar="FILE", help="your policy: which machines may have your share")
    give.add_argument("--domain", required=True, metavar="ID", help="the domain that is to be recovered")
    give.add_argument("-i", "--host", metavar="HOST[:PORT]", help="send it there; else it is printed")
    give.add_argument("-p", "--port", type=int, default=DEFAULT_PORT, help=f"the host's port (default {DEFAULT_PORT})")
    amend = actions.add_parser("amend", help="make the policy change that a recovery on a new machine needs")
    amend.add_argument("file", metavar="FILE", help="what the recovering instance printed when it was not accepted")
    amend.add_argument("--admit", metavar="LINE", help="accept this machine: PLATFORM MACHINE")
    amend.add_argument("--policy", metavar="FILE", help="or the whole new policy")
    amend.add_argument("--key", action="append", default=[], metavar="FILE", help="sign with this key (repeatable)")
    add_known(amend)
    return made


def run(found: argparse.Namespace) -> Said:
    """Carry out one command of `recovery`.

    Raises: RkeyError.
    """
    match found.action:
        case "show":
            return Said(show(parse_place(found.path)))
        case "verify":
            return Said(verify(parse_place(found.path), Path(found.identity)))
        case "amend":
            policy = None if found.policy is None else Path(found.policy)
            keys = [Path(key) for key in found.key]
            return Said(amended(Path(found.file), found.admit, policy, keys, Known.of(found)))
        case _:
            host = None if found.host is None else parse_address(found.host, found.port)
            asked = RecoveryContribute(found.request, Path(found.identity), Path(found.policy), found.domain, host)
            return Said(run_contribute(asked, _say))


def _say(line: str) -> None:
    sys.stderr.write(one_line(line) + "\n")


def show(path: Place) -> str:
    """The recovery slot of the record at `path`, for people.

    Raises: Corrupt, Misuse if there is no record there that can be read.
    """
    header = parse(read(path).record).header
    lines = [f"record       {path}", f"domain       {header.domain}", f"written      {utc(header.written)}"]
    slot = header.recovery
    if slot is None:
        return "\n".join([*lines, "recovery     none: only the machine that sealed it opens this record.", ""])
    lines += [
        f"set          {slot.set}",
        f"threshold    {slot.threshold} of {len(slot.shares)}: so many of them together hold the root key",
        *(f"recipient    {fingerprint(one.recipient)}" for one in slot.shares),
        "Read from the header alone; `recovery verify` proves one share.",
        "",
    ]
    return "\n".join(lines)


def verify(path: Place, identity: Path, ask: Ask = ask_on_terminal) -> str:
    """Prove the share of one recipient in the record at `path` readable; it is not shown.

    Raises: Corrupt if the recipient's share is damaged, or not of this record; Rejected(NOT_A_SHARE) if none is his.
    """
    header = parse(read(path).record).header
    if header.recovery is None:
        raise Corrupt("The record has no recovery slot.", advice="Its domain's policy names no recovery recipients.")
    index, _share = _own_share(header.recovery, header.domain, read_identities(identity, ask))
    recipient = header.recovery.shares[index].recipient
    return (
        f"The share of {fingerprint(recipient)} in {path} is readable, whole, and of this record: domain "
        f"{header.domain}, set {header.recovery.set}, {header.recovery.threshold} of {len(header.recovery.shares)}.\n"
    )


def _own_share(slot: RecoverySlot, domain: str, identities: list[Identity]) -> tuple[int, bytes]:
    """The index and the bytes of the share that the identities open; checked in every way that one alone can be.

    Raises: Rejected(NOT_A_SHARE) if they open none; Corrupt if it is not what the slot says.
    """
    for index, one in enumerate(slot.shares):
        share = open_share(one.sealed, identities)
        if share is None:
            continue
        if hashlib.sha256(share).hexdigest() != one.digest:
            raise Corrupt(f"Share {index} opens, and is not the one that was sealed: its digest differs.")
        document = read_share(share)
        check_share(document, share_set_of(slot, domain))
        if document.index != index:
            raise Corrupt(f"In the place of share {index} is share {document.index}.")
        return index, share
    recipients = ", ".join(fingerprint(one.recipient) for one in slot.shares)
    raise Rejected(
        Reason.NOT_A_SHARE,
        f"No share here is for this key; the recipients are {recipients}.",
        advice="Take the private key that belongs to one of them.",
    )


def run_contribute(
    asked: RecoveryContribute, say: Say, ask: Ask = ask_on_terminal, now: Callable[[], float] = time.time
) -> str:
    """Check a request, and seal the recipient's share to the instance that made it: the text to print.

    say: tells the person what was checked.
    Raises: Rejected with the check that failed; Misuse, Unavailable, Corrupt. The share then stays where it is.
    """
    policy = _policy(asked.policy)
    message = _request(asked)
    checked = asyncio.run(_checked(message, policy, asked.domain, int(now())))
    _tell(checked, say)
    if policy.tables[checked.claims.platform].machines == "any":
        say("WARNING: your policy accepts any machine. Whoever owns one that runs this could have asked you.")
    index, share = _own_share(checked.slot, checked.claims.domain, read_identities(asked.identity, ask))
    sealed = contribute(checked, memoryview(share))
    say(f"share        {index}, of {fingerprint(checked.slot.shares[index].recipient)}")
    if asked.host is None:
        return armour(sealed, Kind.RECOVERY_CONTRIBUTION)
    from rkeyserver.service.contribute import post_contribution  # noqa: PLC0415 - only then a client is needed

    progress = asyncio.run(post_contribution(asked.host, sealed))
    return f"Contributed to {asked.host}: it has {progress.shares} of {progress.threshold} shares.\n"


def amended(file: Path, admit: str | None, policy: Path | None, keys: list[Path], known: Known = NOTHING_KNOWN) -> str:
    """The change for --change, made from the domain's policy as a recovering instance printed it.

    With neither `admit` nor `policy` the keys sign it as it is. known: by what who signs knows the domain.
    Raises: Misuse if both are given, or nothing is; if one of the files is none, or if `file` itself changes anything;
    as Known.check() where it is signed, or something is known.
    """
    from rkeyserver.cli.admin_key import load_admin_key  # noqa: PLC0415 - of this command alone
    from rkeyserver.cli.policy_edit import admitted, parse_line, signing  # noqa: PLC0415 - late: what a start does not need

    if (admit is None) == (policy is None) and not (admit is None and keys):
        raise Misuse(
            "Nothing says what to change, or two things do.",
            advice="Give one of --admit and --policy, or --key alone to sign the policy as it is.",
        )
    change = parse_change(files.read_text(file, MAX_POLICY_FILE, "change"))
    if change.replaces != digest(change.policy):
        # Whoever wrote it could have an admin sign any policy to take the place of the one in force.
        raise Misuse(
            f"{file} is not as an instance prints it: its policy is another one than it replaces.",
            advice="Nothing was signed. Take the very line that the recovering instance printed.",
        )
    text = change.policy
    if policy is not None:
        text = _policy(policy).text
    elif admit is not None:
        text = admitted(parse_policy(change.policy), parse_line(admit))
    change = msgspec.structs.replace(change, policy=text, signatures=[])
    if keys or known != NOTHING_KNOWN:
        known.check(change)
    if keys:
        sys.stderr.write(signing(change))
    for key in keys:
        change = sign(change, load_admin_key(key))
    return change.text() + "\n"


def _policy(path: Path) -> Policy:
    return parse_policy(files.read_text(path, MAX_POLICY_FILE, "policy"))


def _request(asked: RecoveryContribute) -> bytes:
    if asked.request is None:
        if asked.host is None:
            raise Misuse("Nothing says which request to answer.", advice="Give its file, - for stdin, or -i HOST.")
        from rkeyserver.service.contribute import fetch_request  # noqa: PLC0415 - late: what a start does not need

        return asyncio.run(fetch_request(asked.host))
    data = files.read(Path(asked.request), MAX_REQUEST, "request", stdin=True)
    if is_armoured(data):
        return dearmour(data, Kind.RECOVERY_REQUEST)
    try:
        decode(data, RecoveryRequest)
    except Rejected as error:
        raise Rejected(error.reason, f"{asked.request}: {error.message}", advice=WHOLE) from error
    return data


async def _checked(message: bytes, policy: Policy, domain: str, now: int) -> Checked:
    claims = decode(decode(message, RecoveryRequest).attested.claims, RecoveryRequestClaims)
    # A platform that the recipient's policy does not name has no verifier here; each has a trust anchor of its own.
    named = {claims.platform} & set(policy.tables)
    verifiers: dict[str, Verifier] = {name: InlineVerifier(load_verifier(name)) for name in named}
    return await check_request(message, domain=domain, policy=policy, verifiers=verifiers, now=now)


def _tell(checked: Checked, say: Say) -> None:
    claims, proved = checked.claims, checked.verdict.claims
    say(f"domain       {claims.domain}, epoch {claims.epoch}, sequence {claims.sequence}")
    say(f"instance     {proved.platform} {proved.ppid}: genuine, and accepted by your policy {checked.verdict.policy}")
    say(f"code         mrenclave {proved.mrenclave}, mrsigner {proved.mrsigner}, version {proved.isv_svn}")
    say(f"request      made {utc(claims.time)}, {checked.age} seconds ago")
    say(f"threshold    {checked.slot.threshold} of {len(checked.slot.shares)}")
    if proved.platform == "simulated":
        say("SIMULATED: this instance is protected by nothing; whoever runs it can read what it is given.")
