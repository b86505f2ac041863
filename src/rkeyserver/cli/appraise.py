"""`rkeyserver appraise`: judge an SGX quote as the server does, for people."""

from __future__ import annotations

import argparse

from rkeyserver.cli.appraise_output import as_json, as_text
from rkeyserver.cli.appraise_quote import Asked, appraise
from rkeyserver.cli.command import Parser, Said, put


def parser() -> argparse.ArgumentParser:
    """Of its arguments."""
    made = Parser(
        prog="rkeyserver appraise",
        description="Judge an SGX quote as the server does, and show every field and every check.",
        epilog="exit status: 0 genuine, and accepted if a policy was given; 3 refused; 2 wrong usage; 5 damaged anchor",
    )
    add = made.add_argument
    add("quote", help="a file, or - for stdin; raw, hex or base64")
    add(
        "--collateral",
        metavar="FILE",
        help="its endorsements, JSON, or a bundle of them; without them it is not genuine",
    )
    add("--policy", metavar="FILE", help="whether this policy accepts it; without one only whether it is genuine")
    add("--report-data", metavar="HEX", help="the 64 bytes that it has to be over; without them that is not checked")
    add("--at", metavar="TIME", help="judge at this time: seconds since 1970, or ISO 8601 (default now)")
    add("--platform", choices=("sgx", "simulated"), default="sgx", help="whose evidence (default sgx, Intel's)")
    add("--json", action="store_true", help="print all of it as JSON")
    return made


def run(found: argparse.Namespace) -> Said:
    """Judge and print all of it.

    Raises: Rejected, after that, if it is refused; Misuse for what cannot be read as it was said; Corrupt for a damaged
    trust anchor; Unavailable if nobody reads.
    """
    given = vars(found)
    printed = as_json if given.pop("json") else as_text
    judged = appraise(Asked(**given))
    put(printed(judged))
    if judged.refusal is not None:
        raise judged.refusal
    return Said("")
