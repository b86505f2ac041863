"""`rkeyserver collateral`: fetch it, look at it, put it into one file for machines without a way out."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec

from rkeyserver import files
from rkeyserver.attestation.evidence import MAX_EVIDENCE
from rkeyserver.attestation.sgx import quote
from rkeyserver.attestation.sgx.anchors import TrustAnchor
from rkeyserver.attestation.sgx.bundle import MAX_BUNDLE, MAX_SOURCE, Entry, merge, read_bundle, write_bundle
from rkeyserver.attestation.sgx.collateral import Collateral
from rkeyserver.attestation.sgx.model import Model, model_of
from rkeyserver.attestation.sgx.parts import check_signed, describe
from rkeyserver.attestation.sgx.verify import verify
from rkeyserver.cli.command import Parser, Said
from rkeyserver.clock import DAY, Clock, utc
from rkeyserver.config import check_pccs
from rkeyserver.errors import Misuse, Reason, Rejected, one_line
from rkeyserver.platforms.registry import ANCHORS, SIMULATED, load_anchor


def parser() -> argparse.ArgumentParser:
    """Of `collateral`, with its own commands."""
    made = Parser(prog="rkeyserver collateral", description="What quotes are verified with.")
    actions = made.add_subparsers(parser_class=Parser, dest="action", required=True, metavar="COMMAND")
    get = actions.add_parser("fetch", help="fetch from a PCCS what a machine's quotes are verified with")
    get.add_argument("--pccs", required=True, metavar="URL[,URL...]", help="the service (https only)")
    get.add_argument("--pccs-ca", metavar="FILE", help="the CA of its certificate, PEM (default: the public ones)")
    get.add_argument("--quote", metavar="FILE", help="a quote of the machine to fetch for, as the platform gives it")
    get.add_argument("--fmspc", metavar="HEX", help="instead of a quote: the processor model, 12 hex digits")
    get.add_argument("--ca", choices=("processor", "platform"), help="and the CA of its PCK certificates")
    get.add_argument("-o", "--output", metavar="FILE", help="the bundle to write (default: print it)")
    look = actions.add_parser("show", help="print what collateral says, and whether it is genuine")
    look.add_argument("path", help="a bundle, or collateral as it is sent along with a quote")
    put = actions.add_parser("bundle", help="put collateral into one file; of each part the newest")
    put.add_argument("path", nargs="+", help="bundles, or collateral as it is sent along with a quote")
    put.add_argument("-o", "--output", required=True, metavar="FILE", help="the bundle to write")
    return made


def run(found: argparse.Namespace) -> Said:
    """Carry out one command of `collateral`.

    Raises: RkeyError.
    """
    clock = Clock()
    if found.action == "show":
        return Said(show(Path(found.path), clock))
    if found.action == "bundle":
        files.put(Path(found.output), bundle([Path(path) for path in found.path]))
        return Said(f"Written to {found.output}.\n")
    ca = None if found.pccs_ca is None else Path(found.pccs_ca)
    data = fetch(found.pccs, ca, _wanted(found.quote, found.fmspc, found.ca), clock)
    if found.output is None:
        return Said(data.decode())
    files.put(Path(found.output), data)
    return Said(f"Written to {found.output}.\n")


def _wanted(quote_file: str | None, fmspc: str | None, ca: str | None) -> Model | Path:
    if quote_file is not None and fmspc is None and ca is None:
        return Path(quote_file)
    if quote_file is not None or fmspc is None or ca is None:
        raise Misuse("Wanted is --quote FILE, or --fmspc HEX and --ca.", advice="A quote has both in it.")
    try:
        return msgspec.convert({"fmspc": fmspc.lower(), "ca": ca}, Model)
    except msgspec.ValidationError as error:
        raise Misuse(f"The FMSPC is {fmspc!r}; wanted are 12 hex digits.") from error


def fetch(pccs: str, ca: Path | None, wanted: Model | Path, clock: Clock) -> bytes:
    """A bundle with what a PCCS gives for a model, or for the machine of a quote in a file, proved genuine.

    Raises: Misuse, Unavailable, Rejected.
    """
    from rkeyserver.service.several_pccs import pccs_of  # noqa: PLC0415 - 50 ms that the other commands do not need

    evidence = files.read(wanted, MAX_EVIDENCE, "quote") if isinstance(wanted, Path) else None
    model = wanted if isinstance(wanted, Model) else model_of(evidence or b"")
    service, now = pccs_of(check_pccs(pccs), ca), clock.now()
    found = asyncio.run(service.fetch(model, now))
    return write_bundle([proved(found, evidence, service.url, now)])


def proved(collateral: Collateral, evidence: bytes | None, source: str, now: int) -> Entry:
    """Collateral from `source`, proved genuine: with a quote by verifying it, else by every part's signatures.

    Raises: Rejected.
    """
    platform, anchor = _signed_under(collateral)
    model = describe(collateral).model
    entry = Entry(model.fmspc, model.ca, source[:MAX_SOURCE], now, collateral)
    if evidence is not None:
        wanted = quote.view(evidence).report_data
        verify(evidence, entry.encoded, platform=platform, anchor=anchor, expected_report_data=wanted, now=now)
    return entry


def show(path: Path, clock: Clock) -> str:
    """What a file with collateral has, for people.

    Raises: Misuse if it cannot be read; Rejected if it is none.
    """
    now = clock.now()
    # Where an entry came from is whatever its file says, and an issuer's name is that of any certificate.
    return "\n".join(one_line(line) for entry in read(path) for line in _lines(entry, now)) + "\n"


def bundle(paths: Sequence[Path]) -> bytes:
    """The bundle of several files' collateral; of each part the newest.

    Raises: Misuse, Rejected.
    """
    return write_bundle(merge([entry for path in paths for entry in read(path)]))


def read(path: Path) -> list[Entry]:
    """The entries of a bundle, or the one of collateral as it is sent along with evidence.

    Raises: Misuse, Rejected.
    """
    data = files.read(path, MAX_BUNDLE, "bundle")
    try:
        collateral = msgspec.json.decode(data, type=Collateral)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            return read_bundle(data)
        except Rejected as error:
            raise Rejected(error.reason, f"{path}: {error.message}", advice=error.advice) from error
    model = describe(collateral).model
    return [Entry(model.fmspc, model.ca, str(path)[:MAX_SOURCE], 0, collateral)]


def _signed_under(collateral: Collateral) -> tuple[str, TrustAnchor]:
    """The platform and the anchor that all of it is signed under.

    Raises: Rejected (NOT_GENUINE) with what each anchor has against it.
    """
    against = []
    for platform in ANCHORS:
        anchor = load_anchor(platform)
        try:
            check_signed(collateral, anchor)
        except Rejected as error:
            against.append(error.message)
        else:
            return platform, anchor
    raise Rejected(Reason.NOT_GENUINE, " ".join(against))


def _lines(entry: Entry, now: int) -> list[str]:
    described = describe(entry.collateral)
    lines = [
        f"collateral   {entry.model}",
        f"from         {entry.source or 'unknown'}" + (f", {utc(entry.fetched)}" if entry.fetched else ""),
    ]
    for part in described.parts:
        what = "revoked" if part.number is None else "advisories"
        number = "" if part.number is None else f", evaluation number {part.number}"
        lines += [
            f"  {part.name:<12} issued {utc(part.issued)}, next update {utc(part.expires)}, {_left(part.expires, now)}",
            f"{'':<15}by {part.issuer}{number}, {part.entries} {what}",
        ]
    lines.append(f"expires      {utc(described.expires)}, {_left(described.expires, now)}")
    try:
        platform, anchor = _signed_under(entry.collateral)
    except Rejected as error:
        return [*lines, f"genuine      NO: {error.message}"]
    lines.append(f"genuine      every part is signed under {anchor.name}")
    if platform == SIMULATED:
        lines.append("SIMULATED: anyone can sign such.")
    return lines


def _left(expires: int, now: int) -> str:
    days = (expires - now) / DAY
    return f"{days:.1f} days left" if days >= 0 else f"EXPIRED {-days:.1f} days ago"
