"""The generations of a root key, and what becomes of their states (docs/spec/keyring.md, "The next state").

    pending -> current -> readable -> retired

A generation that was added wraps nothing until it is elsewhere too (design invariant 7). None is ever taken away.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import msgspec

from rkeyserver.hex_types import Hex16

Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class GenerationState(StrEnum):
    """What a generation is for: nothing yet, wrapping new secrets, only reading old ones, or nothing any more."""

    PENDING = "pending"
    CURRENT = "current"
    READABLE = "readable"
    RETIRED = "retired"


class Generation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One root key by its public id; created: seconds since 1970."""

    id: Hex16
    created: Count
    state: GenerationState


def _in_state(one: Generation, state: GenerationState) -> Generation:
    return msgspec.structs.replace(one, state=state)


def with_current(generations: Sequence[Generation], new: Generation) -> list[Generation]:
    """With `new` as the current one; what was current or pending is readable."""
    state = GenerationState
    over = {state.CURRENT, state.PENDING}
    return [
        *(_in_state(one, state.READABLE) if one.state in over else one for one in generations),
        _in_state(new, state.CURRENT),
    ]


def with_pending(generations: Sequence[Generation], new: Generation) -> list[Generation]:
    """With `new` as the pending one; one that was pending before it has wrapped nothing and never will."""
    state = GenerationState
    return [
        *(_in_state(one, state.READABLE) if one.state is state.PENDING else one for one in generations),
        _in_state(new, state.PENDING),
    ]


def activated(generations: Sequence[Generation]) -> list[Generation]:
    """The pending one is current, and what was current is readable."""
    state = GenerationState
    become = {state.PENDING: state.CURRENT, state.CURRENT: state.READABLE}
    return [_in_state(one, become.get(one.state, one.state)) for one in generations]


def retired(generations: Sequence[Generation], generation: str) -> list[Generation]:
    """That one, which is readable, is retired."""
    return [_in_state(one, GenerationState.RETIRED) if one.id == generation else one for one in generations]


def merged(leading: Sequence[Generation], other: Sequence[Generation]) -> list[Generation]:
    """Those of two states of one domain that went apart: what is current and pending is so in `leading` alone.

    What the other side had is readable, so that all that was wrapped there opens; retired is only what nobody reads.
    One that is pending in `leading` stays so, though it wraps over there already: else what a removal had added would
    never come into use. The first stays the first, the others are in the order of their making.
    """
    state = GenerationState
    theirs = {one.id: one.state for one in other}
    ours = {one.id for one in leading}
    both = [
        _in_state(one, state.READABLE)
        if one.state is state.RETIRED and theirs.get(one.id, state.RETIRED) is not state.RETIRED
        else one
        for one in leading
    ]
    brought = [
        one if one.state is state.RETIRED else _in_state(one, state.READABLE) for one in other if one.id not in ours
    ]
    first, *rest = both
    return [first, *sorted([*rest, *brought], key=lambda one: (one.created, one.id))]
