"""Attested release, from inside the enclave that asks (docs/integrations/enclave-elsewhere.md, docs/spec/release.md).

    from rkeyserver.client.enclave import gramine, servers
    from rkeyserver.client.release import release

    trusted = servers("sgx", mrsigner="...", isv_prod_id=1)
    with release(["10.0.0.1", "10.0.0.2"], ["db/orders"], domain="...", attester=gramine(), policy=trusted) as keys:
        keys["db/orders"].view      # 32 bytes of key memory, erased when the context ends

Each server is asked in turn until one gives the keys. Who answers is believed only if its evidence is genuine, the
policy accepts it, and it is of the domain that is named here.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from rkeyserver.address import Address, parse_address
from rkeyserver.appraisal.policy import Policy
from rkeyserver.attestation.evidence import Attester
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.clock import Clock
from rkeyserver.errors import Misuse, Reason, Rejected, Unavailable
from rkeyserver.exchange.messages import (
    MAX_MESSAGE,
    Challenge,
    Release,
    ReleaseRequestClaims,
    WantedKey,
    decode,
    encode,
)
from rkeyserver.exchange.releaser import check_keys
from rkeyserver.exchange.requester import Greeting, Released, ReleasedKey, Wanting
from rkeyserver.keyring.derived import DEFAULT_SIZE
from rkeyserver.platforms.interface import VerifyFunction
from rkeyserver.platforms.registry import load_verifier
from rkeyserver.secret import SecretBytes

DEFAULT_PORT: Final = 8888
EXCHANGE_SECONDS: Final = 20.0  # for one exchange with one address
SILENT_SECONDS: Final = 3.0  # of these, for the first answer
ROUNDS: Final = 2  # how often all servers are asked, where one of them only had no answer
PAUSE_SECONDS: Final = 1.0  # between the rounds


def key(label: str, *, size: int = DEFAULT_SIZE, generation: str = "current") -> WantedKey:
    """A key to ask for: of `size` bytes (16 to 64), from a generation: "current", "first", or one by its id."""
    return WantedKey(label=label, size=size, generation=generation)


@dataclass(frozen=True)
class Keys(Mapping[str, SecretBytes]):
    """The keys by their labels, in key memory. A context manager: leaving it erases them.

    all: each with the id of its generation, in the order that they were asked for. Where a label was asked for more
    than once, the mapping has the first. server: the machine that gave them.
    """

    all: tuple[ReleasedKey, ...]
    server: str
    _released: Released

    def __getitem__(self, label: str) -> SecretBytes:
        for one in self.all:
            if one.label == label:
                return one.secret
        raise KeyError(label)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(one.label for one in self.all))

    def __len__(self) -> int:
        return len(set(self))

    def __repr__(self) -> str:
        return f"<Keys {', '.join(self)}>"

    def close(self) -> None:
        """Erase them."""
        self._released.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def release(
    servers: Sequence[str],
    keys: Sequence[str | WantedKey],
    *,
    domain: str,
    attester: Attester,
    policy: Policy,
) -> Keys:
    """As release_async(), from a program without an event loop."""
    return asyncio.run(release_async(servers, keys, domain=domain, attester=attester, policy=policy))


async def release_async(
    servers: Sequence[str],
    keys: Sequence[str | WantedKey],
    *,
    domain: str,
    attester: Attester,
    policy: Policy,
) -> Keys:
    """The keys of these labels from the first of `servers` that gives them; the caller closes what it gets.

    servers: "host", "host:port" or "[IPv6]:port". keys: labels, or what key() makes of one; 1 to 16. domain: its id, 32
    hex digits. attester: this enclave. policy: what a server has to be (enclave.servers()).

    Raises: Misuse for what cannot be asked; Unavailable if no server gives an answer now, or this enclave's platform no
    evidence; Rejected with the reason if a server is not to be believed or says no, and none of the others gives them.
    """
    wanting = _wanting(keys, domain=domain, attester=attester, policy=policy)
    hosts = [parse_address(one, DEFAULT_PORT) for one in servers]
    if not hosts:
        raise Misuse("There is no server to ask.")
    silent: set[Address] = set()
    for number in range(ROUNDS):
        if number:
            await asyncio.sleep(PAUSE_SECONDS)
        failed = _Failed()
        for host in sorted(hosts, key=silent.__contains__):
            before = len(failed.silent)
            if (found := await _ask_host(host, wanting, failed)) is not None:
                return found
            if len(failed.silent) > before:
                silent.add(host)
        if not failed.silent:
            break
    raise failed.error()


@dataclass
class _Failed:
    """Why the servers of one round gave no keys."""

    silent: list[str] = field(default_factory=list)
    refusals: list[Rejected] = field(default_factory=list)

    def error(self) -> Rejected | Unavailable:
        """The one to raise. One who is not to be believed is told before one who says no, and that before silence."""
        for said in (False, True):
            for one in self.refusals:
                if (one.reason is Reason.REFUSED_BY_PEER) is said:
                    return one
        return Unavailable(f"No server gave the keys ({'; '.join(self.silent)}).")


async def _ask_host(host: Address, wanting: Wanting, failed: _Failed) -> Keys | None:
    from rkeyserver.client.release_http import NoAnswer, resolved  # noqa: PLC0415 - httpx is loaded late

    try:
        addresses = await resolved(host)
    except NoAnswer as error:
        failed.silent.append(f"{host}: {error}")
        return None
    for address in addresses:
        try:
            return await _ask(address, wanting)
        except NoAnswer as error:
            failed.silent.append(f"{address}: {error}")
        except Rejected as error:
            failed.refusals.append(Rejected(error.reason, f"{address}: {error.message}", advice=error.advice))
    return None


def _wanting(keys: Sequence[str | WantedKey], *, domain: str, attester: Attester, policy: Policy) -> Wanting:
    wanted = tuple(key(one) if isinstance(one, str) else one for one in keys)
    claims = ReleaseRequestClaims(domain=domain, keys=list(wanted), nonce=bytes(32), kem_public_key=bytes(1216))
    try:
        decode(encode(claims), ReleaseRequestClaims)  # what a server would refuse is said here, and whole
        check_keys(wanted)
    except Rejected as error:
        raise Misuse(
            f"Such keys cannot be asked for. {error.message}",
            advice="A domain is 32 hex digits; 1 to 16 keys, each of 16 to 64 bytes, none twice.",
        ) from error
    return Wanting(
        attester=attester,
        verifiers={name: _Verifier(load_verifier(name)) for name in policy.tables},
        policy=policy,
        clock=Clock(),
        random=secrets.token_bytes,
        instance=secrets.token_bytes(16),
        domain=domain,
        keys=wanted,
    )


@dataclass(frozen=True)
class _Verifier:
    """Verifies on the spot: there is one quote for each exchange."""

    function: VerifyFunction

    async def verify(self, evidence: bytes, endorsements: bytes, expected_report_data: bytes, now: int) -> SgxClaims:
        """As exchange.attested.Verifier."""
        return self.function(evidence, endorsements, expected_report_data, now)


async def _ask(address: Address, wanting: Wanting) -> Keys:
    from rkeyserver.client.release_http import NoAnswer, asking  # noqa: PLC0415 - httpx is loaded late

    greeting = Greeting.begin(wanting)
    async with asking(address, EXCHANGE_SECONDS) as post:
        try:
            async with asyncio.timeout(SILENT_SECONDS):
                challenge = await post("/v1/release/hello", greeting.message, MAX_MESSAGE[Challenge])
        except TimeoutError as error:
            raise NoAnswer(f"it is silent for {SILENT_SECONDS:.0f} seconds") from error
        if wanting.attester.waits:
            requesting = await asyncio.to_thread(greeting.challenged, challenge)
        else:
            requesting = greeting.challenged(challenge)
        answer = await post("/v1/release", requesting.message, MAX_MESSAGE[Release])
    # Outside, so that nothing is waited for once keys are open: they would be lost to a deadline.
    released = await requesting.released(answer)
    return Keys(released.keys, released.verdict.claims.ppid, released)
