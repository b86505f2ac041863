"""Whether the logs of several instances tell the same of the hand-overs between them (docs/spec/audit.md, "Two logs").

Both ends write the transcript of a hand-over, and the head that the other end's log had, as its evidence vouched for
it. So a line that is gone from one log still shows in the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from rkeyserver.errors import Reason, Rejected
from rkeyserver.service.audit_chain import NO_HEAD
from rkeyserver.service.audit_verify import RECEIVED, Link, Log, heads_in

_NO_HEAD = NO_HEAD.hex()


@dataclass(frozen=True)
class Matched:
    """Logs that agree. pairs: how many hand-overs both ends have.

    without: where one is of which no log given here has the join or the acknowledgement: its answer was lost or
    refused, or the other log was cut or begun anew.
    """

    pairs: int
    without: tuple[str, ...]


def match(logs: Sequence[Log]) -> Matched:
    """Compare logs that were verified, each with every other.

    Raises: Rejected(LOGS_DISAGREE) naming the line; Misuse if a file cannot be read.
    """
    given = {link.told.transcript: (log, link) for log in logs for link in _accepted(log, {"hand-over"})}
    heads = _heads(logs)
    joined: set[str] = set()
    pairs = 0
    for log in logs:
        for link in _accepted(log, RECEIVED):
            joined.add(link.told.transcript)
            if link.told.transcript in given:
                _compare(log, link, *given[link.told.transcript], heads)
                pairs += 1
            elif link.peer in {one.machine for one in logs}:
                _refuse(link, f"gave the keyring, transcript {_short(link)}", link.peer)
        for link in log.links:
            _check_known(link, logs, heads)
    machines = {log.machine for log in logs}
    without = [link for _, link in given.values() if link.told.transcript not in joined and link.peer in machines]
    return Matched(pairs, tuple(f"{link.at}: transcript {_short(link)}" for link in without))


def _accepted(log: Log, events: AbstractSet[str]) -> Iterable[Link]:
    return (link for link in log.links if link.told.event in events and link.told.verdict == "accepted")


def _heads(logs: Sequence[Log]) -> dict[int, dict[bytes, int]]:
    """By log: which of the heads that any log names are digests of its lines."""
    named = {link.told.peer_head for log in logs for link in log.links} - {"", _NO_HEAD}
    wanted = {bytes.fromhex(one) for one in named}
    return {id(log): heads_in(log, wanted) if wanted else {} for log in logs}


def _compare(log: Log, join: Link, other: Log, hand_over: Link, heads: dict[int, dict[bytes, int]]) -> None:
    wanted = (other.machine, log.machine, hand_over.told.domain)
    if (found := (join.peer, hand_over.peer, join.told.domain)) != wanted:
        raise Rejected(
            Reason.LOGS_DISAGREE,
            f"{join.at} and {hand_over.at} have one transcript and tell different things: from {found[0]} to "
            f"{found[1]}, domain {found[2]}; wanted is from {wanted[0]} to {wanted[1]}, domain {wanted[2]}.",
        )
    number = heads[id(other)].get(bytes.fromhex(join.told.peer_head))
    if number is not None and number < hand_over.number:
        raise Rejected(
            Reason.LOGS_DISAGREE,
            f"{join.at} names line number {number} of {other.name} as the last one when the keyring was given; wanted "
            f"is number {hand_over.number}, which gave it, or a later one.",
        )


def _check_known(link: Link, logs: Sequence[Log], heads: dict[int, dict[bytes, int]]) -> None:
    """Whether the head that a line names is one of a log of that machine, where any is given."""
    its = [log for log in logs if log.machine == link.peer]
    named = link.told.peer_head
    if not its or named in {"", _NO_HEAD}:
        return
    if not any(bytes.fromhex(named) in heads[id(log)] for log in its):
        _refuse(link, f"had a line with SHA-256 {named} as its log's last", link.peer)


def _refuse(link: Link, what: str, machine: str) -> None:
    raise Rejected(
        Reason.LOGS_DISAGREE,
        f"{link.at}: machine {machine} {what}; no log of that machine given here has that line: it was cut or changed.",
        advice="Or another instance on that machine had it: give that one's log too, with --peer.",
    )


def _short(link: Link) -> str:
    return f"{link.told.transcript[:32]}..."
