"""`rkeyserver` without a command: run an instance."""

from __future__ import annotations

import argparse
import contextlib
from typing import Final

from rkeyserver import __version__
from rkeyserver.cli import log
from rkeyserver.cli.command import Parser, Said, configuration, put
from rkeyserver.config import DEFAULT_CALLERS, DEFAULT_KEYSTORE, DEFAULT_LEASE, DEFAULT_OPS, LOG_LEVELS, Config
from rkeyserver.errors import Unavailable
from rkeyserver.platforms.registry import PLATFORMS

EPILOG: Final = """\
commands:
  rkeyserver inspect [PATH]   print a record's readable header, on any machine
  rkeyserver status [--json]  ask a running instance what it is
  rkeyserver appraise QUOTE   is this SGX quote genuine, would a policy accept it, and why
  rkeyserver audit ...        verify the record of who got the key, and sign its head
  rkeyserver collateral ...   fetch what quotes are verified with, look at it, carry it to another machine
  rkeyserver doctor           does the record open here, and what would open it after an update
  rkeyserver drill            have a running instance see that its record still opens
  rkeyserver identity         print the line by which a policy names this machine
  rkeyserver derive LABEL     print the key of a label, for this user
  rkeyserver wrap LABEL       wrap the secret on standard input
  rkeyserver unwrap LABEL     open a wrapped secret, and print it
  rkeyserver rewrap LABEL     wrap a wrapped secret anew, under the current generation
  rkeyserver policy ...       show the policy of a running instance, and change it
  rkeyserver rotate           add a generation of the root key, at the primary
  rkeyserver retire ID        stop every use of a generation, at the primary
  rkeyserver promote          make a standby the primary
  rkeyserver peer ...         list the members of the domain, or forget one that is gone
  rkeyserver order ...        sign and apply such orders where no owner's word counts
  rkeyserver recovery ...     show, verify or contribute the shares that bring a lost domain back
  rkeyserver token new        make a token for a caller, and the policy's entry for it
  rkeyserver relay ...        give the programs of this machine a socket that leads to an instance

exit status: 0 done, 2 wrong usage, 3 refused, 4 unavailable (try again), 5 stored data cannot be used, 1 a bug
"""


def parser() -> argparse.ArgumentParser:
    """Of its arguments: nothing stands for what was not said."""
    made = Parser(
        prog="rkeyserver",
        description="Serve a domain's root key: make it or open it here, or with -i fetch it from a running instance.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    add = made.add_argument
    add("-i", "--host", action="append", metavar="HOST[:PORT]", help="ask this instance for the key (repeatable)")
    add("--peer", action="append", metavar="HOST[:PORT]", help="hear from this instance of the domain too (repeatable)")
    add("-p", "--port", type=int, help="the hosts' port (default 8888)")
    add("--keystore", metavar="PLACE", help=f"the sealed record (default {DEFAULT_KEYSTORE})")
    add("--domain", metavar="ID", help="open, fetch and adopt only this domain; never make a new one")
    add("--wait", type=float, metavar="SECONDS", help="how long to keep asking without an own record (default 30)")
    add("--once", action="store_true", help="fetch, store, exit")
    add("--recover", action="store_true", help="every machine is lost: collect recovery shares that open the record")
    add("--change", metavar="FILE", help="with --recover: the policy change that accepts this machine")
    add("--listen", action="append", metavar="[HOST]:PORT", help="where peers connect (default :8888, repeatable)")
    add("--platform", choices=PLATFORMS, help="default: the hardware that is found")
    add("--machine", metavar="DIR", help="the simulated processor's state, one folder for each machine")
    add("--ops", metavar="HOST:PORT", help=f"the operations listener (default {DEFAULT_OPS})")
    add("--audit", metavar="PATH", help="the audit file (default: beside the keystore)")
    add(
        "--policy",
        metavar="FILE",
        help="the policy of a new domain; with -i what this machine goes by until it has one",
    )
    add("--admins", metavar="FILE", help="the admins of a new domain; with -i who must have signed its policy")
    add("--socket", metavar="PATH", help="the local socket, for callers and the owner (default: beside the keystore)")
    add("--pccs", metavar="URL[,URL...]", help="the service that collateral is fetched from (https only)")
    add("--pccs-ca", metavar="FILE", help="the CA of its certificate, PEM (default: the public ones)")
    add("--collateral", metavar="FILE", help="the collateral that is held (default: beside the keystore)")
    add(
        "--provision",
        metavar="[HOST]:PORT",
        help="where applications get their keys, if the policy names any (default :4433)",
    )
    add(
        "--callers",
        metavar="[HOST]:PORT",
        help=f"where callers with a token are answered, if the policy names any (default {DEFAULT_CALLERS})",
    )
    add(
        "--coordinator",
        metavar="URL",
        help="what decides who is primary: etcd://HOST:PORT[,...], or etcds:// (default: the operator)",
    )
    add("--coordinator-ca", metavar="FILE", help="the CA of its certificates, PEM (default: the public ones)")
    add("--coordinator-cert", metavar="FILE", help="the certificate that is shown to it, PEM (default: none)")
    add("--coordinator-key", metavar="FILE", help="that certificate's key, PEM, where it is not in the same file")
    add(
        "--lease",
        type=int,
        metavar="SECONDS",
        help=f"with a coordinator: for how long a primary is one unless it renews that (default {DEFAULT_LEASE})",
    )
    add("--config", metavar="FILE", help="TOML with the long options' names; the command line wins")
    add("--log-level", choices=LOG_LEVELS, help="default info")
    add("--version", action="version", version=f"rkeyserver {__version__}")
    return made


def run(found: argparse.Namespace) -> Said:
    """Run an instance until it is told to stop.

    Raises: RkeyError saying why it could not start.
    """
    return run_with(configuration(vars(found)))


def run_with(config: Config) -> Said:
    """The same, of that configuration.

    Raises: RkeyError saying why it could not start.
    """
    log.set_up(config.log_level)
    from rkeyserver.service.run import run as run_instance  # noqa: PLC0415 - not for a mistake in the arguments

    try:
        run_instance(config)
    finally:
        # That nobody reads any more what a server said is no failure of the server.
        with contextlib.suppress(Unavailable):
            put("")
    return Said("")
