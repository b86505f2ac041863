"""An etcd cluster as the engine, over its v3 JSON gateway (docs/spec/coordinator.md, "etcd"). Imported late.

Several servers are one cluster: the next one is asked when one refuses or is silent, and the one that answered last is
asked first. So a transaction may be sent twice, and may be carried out after its answer was given up. Whoever asks
tells by what lies there, never by the answer alone.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any, Final

import httpx

from rkeyserver.coordinator import etcd_messages as messages
from rkeyserver.coordinator.endpoints import Endpoints
from rkeyserver.coordinator.etcd_messages import MAX_ANSWER
from rkeyserver.coordinator.interface import Entry, Lease, Outcome, Seen
from rkeyserver.coordinator.values import primary_key, state_key
from rkeyserver.errors import Misuse, Unavailable
from rkeyserver.why import why

LEAST_SECONDS: Final = 0.3
MOST_SECONDS: Final = 3.0
ROUNDS: Final = 2  # of all servers: a pooled connection may have been closed since
SHARE: Final = 0.6  # of a lease: after that no further server is asked the same thing
_GRANT: Final = "/v3/lease/grant"
_KEEP: Final = "/v3/lease/keepalive"
_REVOKE: Final = "/v3/lease/revoke"
_TXN: Final = "/v3/kv/txn"
_WATCH: Final = "/v3/watch"


class _NoSuchLeaseError(Exception):
    """etcd knows no such lease: it ended, or was revoked."""


@dataclass(frozen=True)
class Credentials:
    """ca: of the servers' certificates, None for the public ones; certificate, key: of ours, where they want one."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """What the servers are verified by, and what is shown to them.

        Raises: Misuse for a file that cannot be used.
        """
        import certifi  # noqa: PLC0415 - only TLS needs it

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies chain and host name
        try:
            context.load_verify_locations(certifi.where() if self.ca is None else self.ca)
        except OSError as error:  # SSLError is one
            raise _unusable("CA", self.ca, error, "a file with certificates, PEM") from error
        if self.certificate is not None:
            try:
                # No passphrase is asked for: nobody would be there to type it.
                context.load_cert_chain(self.certificate, self.key, password=lambda: b"")
            except OSError as error:
                wanted = "a certificate with its chain and its key, PEM, the key not encrypted"
                raise _unusable("certificate", self.certificate, error, wanted) from error
        return context


def _unusable(what: str, path: Path | None, error: OSError, wanted: str) -> Misuse:
    reason = getattr(error, "reason", None) or error.strerror or "no such file"
    return Misuse(f"The coordinator's {what}, {path}, cannot be used: {reason}.", advice=f"Wanted is {wanted}.")


class _NoCookies(CookieJar):
    """Keeps none: what an engine sets would stay, and be sent back, for as long as this process lives."""

    def extract_cookies(self, response: object, request: object) -> None:
        """Take nothing."""


class Etcd:
    """The two keys of one domain in an etcd cluster. lease_seconds: of the lease, which etcd may make longer."""

    def __init__(self, endpoints: Endpoints, credentials: Credentials, domain: str, lease_seconds: int) -> None:
        self._keys = primary_key(domain), state_key(domain)
        self._lease_seconds = lease_seconds
        # Two silent servers, and a third has time to answer before the lease is over.
        self._seconds = min(MOST_SECONDS, max(LEAST_SECONDS, lease_seconds / 5))
        self._scheme = "https" if endpoints.tls else "http"
        self._servers = [str(one) for one in endpoints.addresses]
        self._asked = 0
        self._cluster = ""
        self._errors: dict[str, str] = {}
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(self._seconds),
            limits=httpx.Limits(max_connections=2 * len(self._servers) + 2),
            trust_env=False,
            follow_redirects=False,
            cookies=_NoCookies(),
            headers={"accept-encoding": "identity", "content-type": "application/json"},
            verify=credentials.context() if endpoints.tls else False,
        )

    async def close(self) -> None:
        """End its connections."""
        await self._http.aclose()

    def status(self) -> dict[str, Any]:
        """The servers, the one that answered last, and what is wrong with each of the others that was asked."""
        return {
            "engine": "etcd",
            "servers": list(self._servers),
            "asked": self._servers[self._asked],
            "tls": self._scheme == "https",
            "errors": dict(self._errors),
        }

    async def grant(self) -> Lease:
        """A new lease.

        Raises: Unavailable.
        """
        return messages.read_grant(await self._ask(_GRANT, messages.ask_grant(self._lease_seconds)))

    async def keep(self, lease: Lease) -> bool:
        """Renew a lease from now on; False if there is none any more.

        Raises: Unavailable.
        """
        try:
            return messages.read_kept(await self._ask(_KEEP, messages.ask_lease(lease)), lease)
        except _NoSuchLeaseError:
            return False

    async def revoke(self, lease: Lease) -> None:
        """End a lease, and with it the primary's key.

        Raises: Unavailable.
        """
        try:
            await self._ask(_REVOKE, messages.ask_lease(lease))
        except _NoSuchLeaseError:
            return

    async def look(self) -> Seen:
        """Both keys, as a majority of the cluster has them now.

        Raises: Unavailable.
        """
        return (await self._transaction(messages.ask_look(*self._keys))).seen

    async def take(self, lease: Lease, value: bytes) -> Outcome:
        """Make the primary's key, if there is none.

        Raises: Unavailable, also if it is not known whether it was made.
        """
        found = await self._transaction(messages.ask_take(*self._keys, lease, value))
        ours = found.seen.primary
        return Outcome(ours is not None and (ours.lease, ours.value) == (lease.id, value), found.seen)

    async def put(self, token: int, modified: int, value: bytes) -> Outcome:
        """Write the state, if the primary's key and the state are those.

        Raises: Unavailable, also if it is not known whether it was written.
        """
        found = await self._transaction(messages.ask_put(*self._keys, token, modified, value))
        # Of a transaction that was sent twice the second finds what the first has written.
        return Outcome(_is_written(found.seen.primary, found.seen.state, token, modified, value), found.seen)

    async def changed(self, revision: int) -> None:
        """Wait until the primary's key changes after `revision`, or for one lease.

        Raises: Unavailable.
        """
        try:
            async with asyncio.timeout(self._lease_seconds), aclosing(self._watch(revision)) as lines:
                async for line in lines:
                    if messages.read_watch(line):
                        return
        except TimeoutError:
            return
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise self._failed(self._servers[self._asked], why(error)) from error
        raise self._failed(self._servers[self._asked], "it ends what it was to tell")

    async def _watch(self, revision: int) -> AsyncGenerator[bytes, None]:
        url = f"{self._scheme}://{self._servers[self._asked]}{_WATCH}"
        body = messages.ask_watch(self._keys[0], revision)
        timeout = httpx.Timeout(self._seconds, read=None)
        async with self._http.stream("POST", url, content=body, timeout=timeout) as response:
            if response.status_code != httpx.codes.OK:
                raise self._failed(self._servers[self._asked], f"it answers {response.status_code}")
            pending, size = b"", 0
            async for part in response.aiter_raw():
                pending += part
                size += len(part)
                *lines, pending = pending.split(b"\n")
                if size > MAX_ANSWER:  # of all lines: what tells of no change could be told without end
                    raise self._failed(self._servers[self._asked], f"it answers with over {MAX_ANSWER} bytes")
                for line in lines:
                    if line:
                        yield line

    async def _transaction(self, body: bytes) -> Outcome:
        return messages.read_seen(await self._ask(_TXN, body), *self._keys)

    async def _ask(self, path: str, body: bytes) -> bytes:
        """Ask one server after the other until one answers."""
        loop = asyncio.get_running_loop()
        end, left = loop.time() + SHARE * self._lease_seconds, ROUNDS * len(self._servers)
        while True:
            left -= 1
            try:
                return await self._ask_one(self._servers[self._asked], path, body)
            except Unavailable:
                if not left or loop.time() >= end:
                    raise

    async def _ask_one(self, server: str, path: str, body: bytes) -> bytes:
        try:
            async with (
                asyncio.timeout(self._seconds),
                self._http.stream("POST", f"{self._scheme}://{server}{path}", content=body) as response,
            ):
                found = b""
                async for part in response.aiter_raw():
                    found += part
                    if len(found) > MAX_ANSWER:
                        raise self._failed(server, f"it answers with over {MAX_ANSWER} bytes")
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as error:
            raise self._failed(server, why(error)) from error
        if response.status_code != httpx.codes.OK:
            said, no_such_lease = messages.read_error(found)
            if no_such_lease and response.status_code == httpx.codes.NOT_FOUND:
                raise _NoSuchLeaseError
            raise self._failed(server, f"it answers {response.status_code} {said}".rstrip())
        cluster = messages.cluster_of(found)
        self._cluster = self._cluster or cluster
        if cluster != self._cluster:
            raise self._failed(server, f"it is of cluster {cluster}, not of {self._cluster} as those asked before")
        self._errors.pop(server, None)
        return found

    def _failed(self, server: str, reason: str) -> Unavailable:
        self._errors[server] = reason
        self._asked = (self._servers.index(server) + 1) % len(self._servers)
        return Unavailable(
            f"No answer from the coordinator at {server}: {reason.rstrip('.')}.",
            advice="Nothing is changed until it answers; everything that is held is served.",
        )


def _is_written(primary: Entry | None, state: Entry | None, token: int, modified: int, value: bytes) -> bool:
    return (
        primary is not None
        and primary.created == token
        and state is not None
        and state.modified > modified
        and state.value == value
    )
