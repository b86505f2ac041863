"""What a coordinator is asked, and the states of an instance that asks it (docs/spec/coordinator.md).

    Candidate -> Holding -> Lost -> Candidate ...

A Holding has a fencing token. Only what the engine compares it with counts: that this process believes it holds the
lease proves nothing, for it may have been stopped for an hour, and inside an enclave its clock is the host's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from rkeyserver.keyring.place import Place


@dataclass(frozen=True)
class Lease:
    """Of an engine: it ends that many seconds after it was last renewed."""

    id: int
    seconds: int


@dataclass(frozen=True)
class Candidate:
    """Somebody else is primary, or nobody is known to be."""


@dataclass(frozen=True)
class Holding:
    """Primary, as far as this instance knows. token: higher than that of every holder before."""

    lease: Lease
    token: int


@dataclass(frozen=True)
class Lost:
    """It was primary, or tried to be. why: one sentence."""

    why: str


@dataclass(frozen=True)
class Elected:
    """What a new holder has to do before it is primary.

    committed: the last state that was committed, as far as it can be read. continues: it is this instance's own, so
    there is nothing to do; else a state with an epoch of at least `epoch` has to be committed before anything else.
    """

    token: int
    committed: Place | None
    continues: bool
    epoch: int


@dataclass(frozen=True)
class Entry:
    """A key's value in an engine, and the engine's revisions when the key was made and last written.

    lease: the id of the one it is bound to, 0 for none.
    """

    value: bytes
    created: int
    modified: int
    lease: int


@dataclass(frozen=True)
class Seen:
    """Both keys of a domain at one revision of the engine. None is an absent key."""

    revision: int
    primary: Entry | None
    state: Entry | None


@dataclass(frozen=True)
class Outcome:
    """Whether a transaction did what was asked, and what is there now. None of it is proved."""

    done: bool
    seen: Seen


class Engine(Protocol):
    """What is asked of an existing engine. Each call ends in its own time; each raises Unavailable for "no answer"."""

    async def grant(self) -> Lease:
        """A new lease."""

    async def keep(self, lease: Lease) -> bool:
        """Renew a lease from now on; False if there is none any more."""

    async def revoke(self, lease: Lease) -> None:
        """End a lease, and with it every key that is bound to it."""

    async def look(self) -> Seen:
        """Both keys, as of now."""

    async def take(self, lease: Lease, value: bytes) -> Outcome:
        """Make the primary's key, bound to the lease, if there is none. Its creation revision is the fencing token."""

    async def put(self, token: int, modified: int, value: bytes) -> Outcome:
        """Write the state, if the primary's key is the one of `token` and the state the one of revision `modified`.

        modified: 0 where there is no state.
        """

    async def changed(self, revision: int) -> None:
        """Wait for a change of the primary's key after `revision`, or for a while."""

    def status(self) -> dict[str, Any]:
        """Which servers there are, and which is asked. No secret."""

    async def close(self) -> None:
        """End its connections."""


OnElected = Callable[[Elected], Awaitable[None]]
OnLost = Callable[[Lost], Awaitable[None]]


class Coordinator(Protocol):
    """What a service asks (coordinator.lead)."""

    def running(self, on_elected: OnElected, on_lost: OnLost) -> AbstractAsyncContextManager[None]:
        """A context in which this instance is a candidate, and is told when it is elected and when that is over."""

    async def commit(self, before: Place, after: Place) -> None:
        """Have `after` follow `before`: awaited before a new state is stored or used.

        Raises: Unavailable(NO_LEASE) if it is not this instance's to change, or nobody answers.
        """

    def resign(self, why: str) -> None:
        """Be primary no more: a later state of another primary was seen, or somebody asks for it. why: one sentence."""

    def status(self) -> dict[str, Any]:
        """What is known. No secret."""
