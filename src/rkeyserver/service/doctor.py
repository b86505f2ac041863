"""What an operator has to know before an update and after a loss: whether the record opens, and what else would.

examine() looks, changes nothing and holds no keyring when it returns; an instance may run meanwhile. Findings come in
the order in which they were made; one that was not come to, because one before it failed, says so. What peers, the
instance and the record's header say is unproved: a finding that rests on it says that too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rkeyserver.clock import Clock
from rkeyserver.config import Config
from rkeyserver.errors import exit_status
from rkeyserver.service.doctor_changes import Change
from rkeyserver.service.doctor_look import Look, Open
from rkeyserver.service.doctor_ways import Ask, Status, Ways
from rkeyserver.service.finding import Finding

NO_WAY_BACK: Final = 4  # the exit status of "not now": do not update now


@dataclass(frozen=True)
class Examined:
    """All findings.

    ways_back: what brings the domain back here once the record does not open any more; changes: what each change would
    come to, empty where the record does not open now; status: to exit with.
    """

    findings: list[Finding]
    ways_back: list[str]
    changes: list[Change]
    status: int


def examine(config: Config, clock: Clock, open_machine: Open, ask: Ask, status: Status) -> Examined:
    """Look at the record of `config`, this machine, its hosts and the instance that may run here.

    open_machine: opens the machine without changing it; ask: what answers at a host (this machine's identity, if it
    is known, goes along), None without an answer; status: of the running instance.
    Raises: Unavailable where there is no key memory at all.
    """
    look = Look(config, clock)
    ways = Ways(look)
    first: list[Callable[[], Iterator[Finding]]] = [look.record, lambda: look.machine(open_machine)]
    if not isinstance(config.keystore, Path):
        first.reverse()  # a database has records of many machines
    steps: tuple[Callable[[], Iterator[Finding]], ...] = (
        *first,
        look.memory,
        look.sealed_to,
        look.opens,
        look.admins,
        look.accepted,
        look.around,
        lambda: ways.instance(status),
        lambda: ways.peers(ask),
        ways.recovery,
        ways.changes,
        ways.back,
    )
    findings = [finding for step in steps for finding in step()]
    return Examined(findings, ways.always, ways.found, _status(look, ways))


def _status(look: Look, ways: Ways) -> int:
    if look.failed is not None:
        return exit_status(look.failed)
    return 0 if ways.always else NO_WAY_BACK
