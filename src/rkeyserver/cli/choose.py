"""Which instance a command asks, where --ops names several: one that answers, or for a change the primary."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final

from rkeyserver.address import Address, parse_address
from rkeyserver.cli import talk
from rkeyserver.config import DEFAULT_OPS
from rkeyserver.errors import Misuse, Unavailable
from rkeyserver.service.living import Probe, living

SILENT_SECONDS: Final = 1.0  # in which an instance says what it is, or is passed by


def one_that_answers(ops: Sequence[str]) -> str:
    """The first of `ops` that answers as an instance does; a single one is not tried before.

    Raises: Misuse for what is no address; Unavailable if there are several and none answers.
    """
    return _chosen(ops, primary=False)


def the_primary(ops: Sequence[str]) -> str:
    """The one of `ops` that says it is the primary, else one that answers. What it says is not proved: it is asked.

    Raises: as one_that_answers().
    """
    return _chosen(ops, primary=True)


def the_only(ops: Sequence[str]) -> str:
    """The one of `ops`, for what is about that very instance.

    Raises: Misuse if there are several.
    """
    if len(set(ops)) > 1:
        raise Misuse("This is about one instance, and --ops names several.", advice="Name the one that is meant.")
    return ops[0]


def _chosen(ops: Sequence[str], *, primary: bool) -> str:
    addresses = list(dict.fromkeys(parse_address(one, DEFAULT_OPS.port) for one in ops))
    if len(addresses) == 1:
        return str(addresses[0])
    found = asyncio.run(_first(addresses, primary=primary))
    if found is None:
        raise Unavailable(
            f"No instance answers on {', '.join(map(str, addresses))}.",
            advice="Is one running? Was it started with another --ops?",
        )
    return str(found)


async def _first(addresses: list[Address], *, primary: bool) -> Address | None:
    roles: dict[Address, Any] = {}

    async def answers(address: Address) -> bool:
        roles[address] = await talk.role(address, SILENT_SECONDS)
        return roles[address] == "primary" if primary else roles[address] is not None

    probe: Probe = answers
    async with contextlib.aclosing(living(addresses, probe)) as each:
        async for one in each:
            if roles.get(one) is not None:
                return one
    return None
