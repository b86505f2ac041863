"""Where quotes are verified: in a few processes of their own, that never had the keyring.

One verification holds the interpreter's lock for about a millisecond, so threads would not help and the loop would
stall. The processes come from a fork server that is started before the keyring is opened; they get public bytes and
give claims. Where there can be none (inside Gramine) the same function runs inline.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Final

from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.errors import Unavailable
from rkeyserver.platforms.interface import VerifyFunction

MAX_WAITING: Final = 256
VERIFY_SECONDS: Final = 10.0
_PR_SET_PDEATHSIG: Final = 1
log = logging.getLogger(__name__)


class InlineVerifier:
    """Verifies on the event loop."""

    def __init__(self, function: VerifyFunction) -> None:
        self._function = function

    async def verify(self, evidence: bytes, endorsements: bytes, expected_report_data: bytes, now: int) -> SgxClaims:
        """As exchange.attested.Verifier."""
        return self._function(evidence, endorsements, expected_report_data, now)


def _begin_worker() -> None:
    # A terminal's Ctrl-C goes to the whole group: ending is the server's to say. If the server is killed, so are they.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class VerifierPool:
    """`size` processes that verify. A process that dies (the library can abort) is replaced; its request is refused."""

    def __init__(self, function: VerifyFunction, size: int) -> None:
        self._function = function
        self._size = size
        self._waiting = 0
        self._executor = self._start()

    def _start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([self._function.__module__, "dcap_qvl", "cryptography.x509"])
        return ProcessPoolExecutor(self._size, mp_context=context, initializer=_begin_worker)

    def warm_up(self) -> None:
        """Start the processes now, without waiting for them."""
        self._executor.submit(_nothing)

    async def verify(self, evidence: bytes, endorsements: bytes, expected_report_data: bytes, now: int) -> SgxClaims:
        """As exchange.attested.Verifier.

        Raises: Unavailable if too many wait, or if the process died of it.
        """
        if self._waiting >= MAX_WAITING:
            raise Unavailable(f"{MAX_WAITING} verifications are waiting already.")
        self._waiting += 1
        executor = self._executor
        try:
            async with asyncio.timeout(VERIFY_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(
                    executor, self._function, evidence, endorsements, expected_report_data, now
                )
        except BrokenProcessPool as error:
            if self._executor is executor:
                log.warning("A verification process died; starting new ones.")
                executor.shutdown(wait=False)
                self._executor = self._start()
            raise Unavailable("The process that verified this died of it.") from error
        except TimeoutError as error:
            raise Unavailable(f"The verification took over {VERIFY_SECONDS:.0f} seconds.") from error
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the processes."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _nothing() -> None:
    """Give a process something to start for."""
