"""What can go wrong, by what the caller must do about it.

    RkeyError
    ├── Rejected      evidence or policy says no; `reason` is the code
    ├── Unavailable   try again later
    ├── Corrupt       stop: something stored is not what it should be; nothing was changed
    └── Misuse        the request itself is wrong

Every error says what was found, what was wanted and what to do. `EXIT_STATUS` and `HTTP_STATUS` are the only
tables that map a kind to the outside. A network peer sees the coarse code of the kind, never the text.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Final


def one_line(text: str) -> str:
    """`text` with everything escaped that cannot be printed."""
    # An error may quote what a peer or a file says; a log is read by lines, and a terminal obeys what it is shown.
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


LONGEST: Final = 4000  # characters; what an error quotes may be as long as what a peer sends
_TAIL: Final = 1000


def _shown(text: str) -> str:
    if len(text) <= LONGEST and len(found := one_line(text)) <= LONGEST:
        return found
    # Both ends: what was wanted mostly stands behind what was found.
    return f"{one_line(text[:LONGEST])[: LONGEST - _TAIL - 3]}...{one_line(text[-_TAIL:])[-_TAIL:]}"


class RkeyError(Exception):
    """Base of every error this package raises on purpose.

    message: one sentence, with what was found and what was wanted; what cannot be printed is escaped, what is longer
    than LONGEST is cut in the middle.
    advice: what the person who reads it can do; may be empty where the message already says so.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, advice: str = "") -> None:
        self.message = _shown(message)
        self.advice = _shown(advice)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} {self.advice}".rstrip()


class Reason(StrEnum):
    """Why evidence or a message was refused. One code each, so that no test or alert has to read prose."""

    MALFORMED = "malformed"
    TOO_LARGE = "too-large"
    WRONG_VERSION = "wrong-version"
    BAD_MAC = "bad-mac"
    CHALLENGE_EXPIRED = "challenge-expired"
    CHALLENGE_REUSED = "challenge-reused"
    TALKING_TO_ITSELF = "talking-to-itself"
    NOT_BOUND = "not-bound"
    IDENTITY_CHANGED = "identity-changed"
    NOT_GENUINE = "not-genuine"
    PLATFORM_NOT_NAMED = "platform-not-named"
    MACHINE_NOT_NAMED = "machine-not-named"
    APPLICATION_NOT_NAMED = "application-not-named"
    DEBUG_ENCLAVE = "debug-enclave"
    WRONG_MEASUREMENT = "wrong-measurement"
    WRONG_SIGNER = "wrong-signer"
    WRONG_PRODUCT = "wrong-product"
    VERSION_TOO_LOW = "version-too-low"
    TCB_STATUS = "tcb-status"
    TCB_TOO_OLD = "tcb-too-old"
    ADVISORY = "advisory"
    PLATFORM_CONFIGURATION = "platform-configuration"
    ANOTHER_DOMAIN = "another-domain"
    NOT_AN_EXTENSION = "not-an-extension"
    KEY_ID_MISMATCH = "key-id-mismatch"
    POLICY_NOT_BELIEVED = "policy-not-believed"
    NOT_SIGNED = "not-signed"
    NOT_THE_NEXT_CHANGE = "not-the-next-change"
    REFUSED_BY_PEER = "refused-by-peer"
    REQUEST_EXPIRED = "request-expired"
    NOT_A_SHARE = "not-a-share"
    SHARE_GIVEN_TWICE = "share-given-twice"
    COLLATERAL_EXPIRED = "collateral-expired"
    TLS_FAILED = "tls-failed"
    NOT_PERMITTED = "not-permitted"
    UNKNOWN_TOKEN = "unknown-token"  # noqa: S105 - a reason
    NO_SUCH_GENERATION = "no-such-generation"
    GENERATION_RETIRED = "generation-retired"
    DOES_NOT_OPEN = "does-not-open"
    ENCLAVE_NOT_NAMED = "enclave-not-named"
    NO_LEASE = "no-lease"
    LOG_BROKEN = "log-broken"
    LOGS_DISAGREE = "logs-disagree"


class Rejected(RkeyError):
    """Evidence, message or keyring refused for `reason`. Asking again with the same will not help."""

    code = "rejected"

    def __init__(self, reason: Reason, message: str, *, advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.reason = reason


class Unavailable(RkeyError):
    """Not now: a peer, a lock or a resource is missing. Trying again may help.

    reason: a name of its own where an operator has to tell this from everything else that is missing; retry_after:
    the seconds that the other side asks to wait.
    """

    code = "unavailable"

    def __init__(self, message: str, *, advice: str = "", reason: Reason | None = None, retry_after: float = 0) -> None:
        super().__init__(message, advice=advice)
        self.reason = reason
        self.retry_after = retry_after


class Corrupt(RkeyError):
    """Stored data cannot be used. Nothing was changed; a person has to look."""

    code = "corrupt"


class Misuse(RkeyError):
    """The command, the configuration or the request cannot be carried out as given."""

    code = "misuse"


EXIT_OK: Final = 0
EXIT_BUG: Final = 1

EXIT_STATUS: Final[dict[type[RkeyError], int]] = {Misuse: 2, Rejected: 3, Unavailable: 4, Corrupt: 5}

HTTP_STATUS: Final[dict[type[RkeyError], int]] = {Misuse: 400, Rejected: 403, Unavailable: 503, Corrupt: 500}


def exit_status(error: RkeyError) -> int:
    """The exit status of a command that ends with `error`."""
    return EXIT_STATUS.get(type(error), EXIT_BUG)
