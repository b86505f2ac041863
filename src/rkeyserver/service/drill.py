"""The takeover drill: whether the record, as it lies in the store now, opens here and gives the keyring that is served.

What an instance serves from memory says nothing about its next start. So each instance opens its own record from time
to time, exactly as a start would, compares what comes out with what it serves, and erases it. Nothing is changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from rkeyserver.clock import utc
from rkeyserver.errors import Corrupt, RkeyError, Unavailable
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.sealed import open_keyring
from rkeyserver.sealing.record import parse
from rkeyserver.service.audit_line import Line
from rkeyserver.service.background import beside
from rkeyserver.service.instance import Instance

FIRST_SECONDS: Final = 60.0
EVERY_SECONDS: Final = 6 * 3600.0  # on average; each instance draws its own pauses, from half of it to one and a half
_ADVICE: Final = (
    "It serves on from memory, and its next start would fail. Do not stop it before another machine holds the keyring; "
    "`rkeyserver doctor` says what there is."
)
log = logging.getLogger(__name__)


class Failure(StrEnum):
    """Why a drill failed. One code each, so that no alert has to read prose."""

    GONE = "record-gone"
    UNREADABLE = "record-unreadable"
    DOES_NOT_OPEN = "record-does-not-open"
    NO_SEALING_KEY = "no-sealing-key"
    ANOTHER_DOMAIN = "another-domain"
    ANOTHER_STATE = "another-state"


@dataclass(frozen=True)
class Proof:
    """What one drill came to. at: seconds since 1970; failure: None where it passed; found: one sentence."""

    at: int
    failure: Failure | None
    found: str

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        passed = self.failure is None
        return {
            "at": utc(self.at),
            "passed": passed,
            "reason": "" if self.failure is None else str(self.failure),
            "found": self.found,
            "advice": "" if passed else _ADVICE,
        }


class _Failed(Exception):
    def __init__(self, failure: Failure, found: str) -> None:
        super().__init__(found)
        self.failure = failure
        self.found = found


@dataclass
class Drill:
    """Drills of one instance. jitter: 0 to 1, at random.

    last: the last one's proof, None before the first. passed, failed: how many of each.
    """

    instance: Instance
    jitter: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    last: Proof | None = field(default=None, init=False)
    last_success: int = field(default=0, init=False)
    passed: int = field(default=0, init=False)
    failed: int = field(default=0, init=False)
    _of: tuple[Keyring, bytes] | None = field(default=None, init=False, repr=False)
    _on_record: Failure | None = field(default=None, init=False)

    def running(self) -> contextlib.AbstractAsyncContextManager[None]:
        """run() in a task of its own, for as long as the context lasts."""
        return beside(self.run, "No drill is run any more")

    async def run(self) -> None:
        """Drill until cancelled: FIRST_SECONDS after the start, then every EVERY_SECONDS or so."""
        pause = FIRST_SECONDS
        while True:
            await self.sleep(pause)
            if self.instance.keyring is None:
                pause = FIRST_SECONDS
                continue
            self.now()
            pause = EVERY_SECONDS * (0.5 + self.jitter())

    def now(self) -> Proof:
        """Drill, and tell whoever reads the log if it failed.

        Raises: Unavailable if no keyring is served.
        """
        proof = self._drill()
        if proof.failure is not None:
            log.error("TAKEOVER DRILL FAILED (%s): %s %s", proof.failure, proof.found, _ADVICE)
        return proof

    def proof(self) -> Proof | None:
        """The last proof if it is of the very record that lies there and of what is served; else one made now.

        None if no keyring is served. For who asks often: that the record is as it was costs no opening of it.
        """
        keyring = self.instance.keyring
        if keyring is None:
            return None
        if self.last is not None and self.last.failure is None and self._of is not None:
            with contextlib.suppress(RkeyError):
                data = self.instance.store.glance()  # it never waits for a database
                if self._of[0] is keyring and data is not None and self._of[1] == hashlib.sha256(data).digest():
                    return self.last
        before = None if self.last is None else self.last.failure
        proof = self._drill()
        if proof.failure not in (None, before):
            log.error("TAKEOVER DRILL FAILED (%s): %s %s", proof.failure, proof.found, _ADVICE)
        return proof

    def _drill(self) -> Proof:
        instance = self.instance
        keyring = instance.keyring
        if keyring is None:
            raise Unavailable("This instance serves no keyring yet: there is nothing to compare its record with.")
        now = instance.clock.now()
        try:
            self._of = keyring, self._open(keyring)
        except _Failed as error:
            self.failed += 1
            self.last, self._of = Proof(now, error.failure, error.found), None
        else:
            self.passed += 1
            self.last_success = now
            self.last = Proof(now, None, "The record opens here, and gives the keyring that is served.")
        self._put_on_record(self.last, keyring)
        return self.last

    def _open(self, keyring: Keyring) -> bytes:
        """Open the record and compare; the SHA-256 of its bytes.

        Raises: _Failed. The copy is erased in any case.
        """
        try:
            data = self.instance.store.glance()  # it never waits for a database
        except RkeyError as error:
            raise _Failed(Failure.UNREADABLE, error.message) from error
        if data is None:
            raise _Failed(Failure.GONE, "The record is gone.")
        try:
            opened = open_keyring(parse(data), self.instance.platform)
        except Corrupt as error:
            raise _Failed(Failure.DOES_NOT_OPEN, error.message) from error
        except RkeyError as error:
            raise _Failed(Failure.NO_SEALING_KEY, error.message) from error
        try:
            _compare(opened, keyring)
        finally:
            opened.close()
        return hashlib.sha256(data).digest()

    def _put_on_record(self, proof: Proof, keyring: Keyring) -> None:
        """One audit line for each change of the outcome; that the first one passed is none."""
        if proof.failure is self._on_record:
            return
        line = Line(
            event="drill",
            verdict="accepted" if proof.failure is None else "refused",
            domain=keyring.domain,
            sequence=keyring.header.sequence,
            reason="" if proof.failure is None else str(proof.failure),
            found=proof.found,
        )
        try:
            self.instance.audit.write_now(line)
        except Unavailable as error:
            log.error("The outcome of the drill is not in the audit file: %s", error)  # noqa: TRY400 - no traceback
        else:
            self._on_record = proof.failure

    def status(self) -> dict[str, Any]:
        """For Instance.status(): the last proof, and when one passed."""
        shown: dict[str, Any] = {"at": None, "passed": None, "reason": "", "found": "", "advice": ""}
        if self.last is not None:
            shown = self.last.shown()
        return shown | {"last_success": utc(self.last_success) if self.last_success else None}


def _compare(opened: Keyring, served: Keyring) -> None:
    """Whether both are the same, byte for byte (in constant time).

    Raises: _Failed.
    """
    if opened.same_as(served):
        return
    if opened.domain != served.domain:
        raise _Failed(
            Failure.ANOTHER_DOMAIN, f"The record is of domain {opened.domain}; served is domain {served.domain}."
        )
    raise _Failed(
        Failure.ANOTHER_STATE,
        f"The record is of {_state(opened)}; served is {_state(served)}.",
    )


def _state(keyring: Keyring) -> str:
    header = keyring.header
    return f"epoch {header.epoch}, sequence {header.sequence}, generations {', '.join(keyring.generation_ids)}"
