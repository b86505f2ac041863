"""What others give an instance, as it sees them, and what stands for it where nobody does."""

from __future__ import annotations

from typing import Any, Protocol


class Recovering(Protocol):
    """A recovery under way (service.recover)."""

    @property
    def request(self) -> bytes:
        """What the recipients are asked: a RecoveryRequest."""

    @property
    def progress(self) -> dict[str, int]:
        """How many shares are here, and how many it takes."""

    def take(self, body: bytes) -> dict[str, int]:
        """Take a RecoveryContribution, armoured or not; the progress after it.

        Raises: Rejected if it is none that helps, Unavailable if it cannot be recorded: then nothing has changed.
        """


class Releases(Protocol):
    """What releases derived keys to enclaves elsewhere (service.release)."""

    def challenge(self, hello: bytes) -> bytes:
        """The challenge for a hello.

        Raises: Rejected, Unavailable.
        """

    async def release(self, request: bytes, address: str) -> bytes:
        """The keys for a request, once that is decided and recorded.

        Raises: Rejected, Unavailable.
        """


class Provision(Protocol):
    """What gives applications their keys (service.provision)."""

    def changed(self) -> None:
        """Another keyring is held: look at its policy."""

    def status(self) -> dict[str, Any]:
        """Of it, for Instance.status()."""

    def ca_certificate(self, generation: str) -> bytes:
        """The certificate of the domain's CA, PEM. generation: as a policy names one; empty for the policy's own.

        Raises: Unavailable if there is none.
        """


class Proved(Protocol):
    """What one drill came to (service.drill)."""

    @property
    def failure(self) -> str | None:
        """Why it failed, as a code; None where it passed."""

    @property
    def found(self) -> str:
        """One sentence."""

    def shown(self) -> dict[str, Any]:
        """As JSON."""


class Drilling(Protocol):
    """What opens the record from time to time, to see that it does (service.drill)."""

    passed: int
    failed: int

    def now(self) -> Proved:
        """Open it now.

        Raises: Unavailable if no keyring is served.
        """

    def proof(self) -> Proved | None:
        """What holds of the record that lies there; None if no keyring is served."""

    def status(self) -> dict[str, Any]:
        """Of it, for Instance.status()."""


class TokenListening(Protocol):
    """What answers callers with a token (service.token_listener)."""

    def changed(self) -> None:
        """Another keyring is held: look at its policy."""

    def status(self) -> dict[str, Any]:
        """Of it, for Instance.status()."""


def no_collateral() -> dict[str, Any]:
    """The status of an instance that holds none: its platform has its own, and peers send theirs."""
    return {"pccs": "", "last_success": None, "last_error": "", "held": []}


def nobody_elected(_why: str) -> None:
    """Of an instance without a coordinator: there is nothing to give back."""
