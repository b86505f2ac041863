"""What may replace what: the record of this machine, and a keyring from a peer. Decisions only; nothing is stored here.

Design invariants 1, 2 and 7. What is there is one of three: `Nothing`, `Opened`, `Unopenable`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.sealed import open_keyring, set_aside_name
from rkeyserver.keystore.store import Fetch, Keystore
from rkeyserver.sealing.record import Header, parse
from rkeyserver.sealing.sealer import PlatformSealer, SealingIdentity


@dataclass(frozen=True)
class Nothing:
    """There certainly is no record."""


@dataclass(frozen=True)
class Opened:
    """The record of this machine, open."""

    keyring: Keyring
    record: bytes


@dataclass(frozen=True)
class Unopenable:
    """A record is there and does not open. header: what it says of itself, None if even that cannot be read."""

    error: Corrupt
    record: bytes
    header: Header | None


Own = Nothing | Opened | Unopenable


def record_of(own: Own) -> bytes | None:
    """The bytes that were judged; None for none."""
    return None if isinstance(own, Nothing) or not own.record else own.record


def look(store: Keystore, sealer: PlatformSealer) -> Own:
    """What the keystore holds for this machine. Changes nothing.

    Raises: Corrupt if the store cannot even be read.
    """
    data = store.load()
    if data is None:
        return Nothing()
    header = None
    try:
        parsed = parse(data)
        header = parsed.header
        return Opened(open_keyring(parsed, sealer), data)
    except Corrupt as error:
        return Unopenable(with_ways_out(error, header, store.ways_out, sealer.identity()), data, header)


def with_ways_out(
    error: Corrupt, header: Header | None, ways_out: Callable[[Fetch], str], here: SealingIdentity
) -> Corrupt:
    """The error with the ways there are besides a record that does not open. ways_out: as of Keystore."""
    fetch = Fetch.UNREADABLE
    if header is not None:
        fetch = Fetch.OWN if _is_of(header, here) else Fetch.IN_THE_WAY
    return Corrupt(error.message, advice=f"{error.advice} {ways_out(fetch)}".lstrip())


def _is_of(header: Header, here: SealingIdentity) -> bool:
    return (header.slot.platform, header.slot.machine) == (here.platform, here.machine)


def check_own_domain(keyring: Keyring, domain: str | None) -> None:
    """Whether the own record is of the domain that --domain asks for.

    Raises: Rejected(ANOTHER_DOMAIN) with both ids.
    """
    if domain is not None and keyring.domain != domain:
        raise Rejected(
            Reason.ANOTHER_DOMAIN,
            f"The record here is of domain {keyring.domain}; --domain asks for {domain}.",
            advice="Nothing was changed. Name the keystore of that domain, or fetch it with -i.",
        )


def check_may_mint(domain: str | None) -> None:
    """Whether an empty keystore may get a new root key: only if no domain was asked for.

    Raises: Misuse.
    """
    if domain is not None:
        raise Misuse(
            f"The keystore is empty, and --domain asks for {domain}: a new root key would be another domain's.",
            advice="Fetch it from an instance of that domain with -i, or restore the record.",
        )


def check_may_ask(own: Own, here: SealingIdentity) -> None:
    """Whether there is any keyring that could replace what is here. Tried before a host is asked.

    Raises: Corrupt if the record belongs to another machine: it may be the only copy that machine has.
    """
    if isinstance(own, Unopenable) and own.header is not None and not _is_of(own.header, here):
        raise own.error


def keep_as(own: Own, received: Keyring, domain: str | None) -> str | None:
    """Whether `received` may replace what is here, and the name under which that is kept; None to keep nothing.

    domain: what --domain asks for.
    Raises: Rejected(ANOTHER_DOMAIN | NOT_AN_EXTENSION), Corrupt; the keystore stays as it is.
    """
    if domain is not None and received.domain != domain:
        raise _another(received.domain, domain, "--domain asks for")
    match own:
        case Nothing():
            return None
        case Opened(keyring, record):
            if keyring.domain != received.domain:
                if domain is None:
                    raise _another(received.domain, keyring.domain, "the record here is of")
            elif not received.extends(keyring):
                raise Rejected(
                    Reason.NOT_AN_EXTENSION,
                    f"The host's keyring of domain {received.domain} is no extension of the one here: "
                    f"it is at {_state(received)}, this at {_state(keyring)}.",
                    advice="The record here was kept. Let the host fetch from this instance.",
                )
            return None if keyring.same_as(received) else set_aside_name(record)
        case Unopenable(error, record, header):
            if header is None and domain is None:
                raise Corrupt(
                    f"{error.message} Whether it was of domain {received.domain}, which the host has, cannot be told.",
                    advice=f"If it was, say --domain {received.domain}. {error.advice}",
                ) from error
            if header is not None and header.domain != received.domain and domain is None:
                raise _another(received.domain, header.domain, "the record here, which does not open, is of")
            return set_aside_name(record)


def _state(keyring: Keyring) -> str:
    return f"epoch {keyring.header.epoch}, sequence {keyring.header.sequence}"


def _another(found: str, wanted: str, what: str) -> Rejected:
    return Rejected(
        Reason.ANOTHER_DOMAIN,
        f"The host's keyring is of domain {found}; {what} {wanted}.",
        advice=f"Nothing was changed. If the host's is the right one, say --domain {found}.",
    )
