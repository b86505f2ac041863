"""The listeners, the signals, and the order in which things start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import resource
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, cast

import uvicorn
from starlette.types import ASGIApp

from rkeyserver.address import Address
from rkeyserver.errors import Unavailable
from rkeyserver.service.app import make_app
from rkeyserver.service.at_once import callers_protocol
from rkeyserver.service.authority import Authority
from rkeyserver.service.limits import Guard, guarded
from rkeyserver.service.local_app import make_local_app
from rkeyserver.service.notify import notify
from rkeyserver.service.ops import make_ops_app
from rkeyserver.service.steward import Steward

BACKLOG: Final = 2048
STOP_SECONDS: Final = 3
MAX_CONNECTIONS: Final = 2048
MAX_OPS_CONNECTIONS: Final = 64
MAX_LOCAL_CONNECTIONS: Final = 256  # of all users of the machine; of each, limits.PER_ADDRESS
STOPPED_BY: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
Afterwards = Callable[[], Awaitable[None]]
_M_MMAP_THRESHOLD: Final = -3
_MMAP_THRESHOLD: Final = 64 * 1024
log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """uvicorn's server without its own signal handling: two of them share one loop here."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def open_sockets(address: Address, option: str = "--listen") -> list[socket.socket]:
    """Listening sockets for an address; for an empty host one of each family that the machine has.

    option: the one that names another address.

    Raises: Unavailable if it is taken or not of this machine.
    """
    families = [(socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")] if not address.host else []  # noqa: S104 - asked for
    if not families:
        try:
            # As bytes: for text the codec of international names is loaded, and no host of ours is one.
            found = socket.getaddrinfo(
                address.host.encode(), address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except OSError as error:
            raise Unavailable(f"Cannot listen on {address}: {error.strerror}.") from error
        families = list(dict.fromkeys((entry[0], str(entry[4][0])) for entry in found))
    sockets: list[socket.socket] = []
    port = address.port
    for family, host in families:
        try:
            listener = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            if address.host:
                raise Unavailable(f"Cannot listen on {Address(host, port)}: {error.strerror}.") from error
            continue  # a machine without that family has nobody to serve on it
        sockets.append(listener)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((host, port))
            listener.listen(BACKLOG)
        except OSError as error:
            for one in sockets:
                one.close()
            advice = f"Another instance may run here, or the address is not this machine's: name one with {option}."
            if isinstance(error, PermissionError):
                advice = f"Ports below 1024 are root's: name another with {option}."
            raise Unavailable(f"Cannot listen on {Address(host, port)}: {error.strerror}.", advice=advice) from error
        listener.setblocking(False)  # noqa: FBT003 - the socket module's signature
        port = int(listener.getsockname()[1])
    return sockets


def http_config(app: ASGIApp, protocol: Callable[..., asyncio.BaseProtocol]) -> uvicorn.Config:
    """How every listener speaks HTTP: by a protocol that has a guard, and saying nothing of itself."""
    return uvicorn.Config(
        app,
        loop="none",
        http=cast("type[asyncio.Protocol]", protocol),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=STOP_SECONDS,
    )


def _server(app: ASGIApp, guard: Guard) -> _Server:
    return _Server(http_config(app, guarded(guard)))


def _callers_server(app: ASGIApp, guard: Guard) -> _Server:
    return _Server(http_config(app, callers_protocol(guard, own_buffer=True)))


def _connections() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 2 * MAX_CONNECTIONS) if hard != resource.RLIM_INFINITY else 2 * MAX_CONNECTIONS
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return min(MAX_CONNECTIONS, soft // 2)


def _give_memory_back() -> None:
    # glibc raises this threshold by itself, and what hundreds of half-sent bodies took then stays with the process.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)


async def serve(
    steward: Steward,
    peers: list[socket.socket],
    ops: list[socket.socket],
    local: list[socket.socket],
    begin: Callable[[], Awaitable[Afterwards | None]],
    *,
    ops_name: str,
) -> None:
    """Answer from now on, and serve the keyring as soon as `begin` has come to one; until a signal of STOPPED_BY.

    Peers and `status` are answered while `begin` still asks: two standbys that ask each other would else both wait.
    begin: returns what goes on in the background from then on, None for nothing; ops_name: the host that --ops names.

    Raises: what `begin` raises.
    """
    _give_memory_back()
    loop = asyncio.get_running_loop()
    instance, authority = steward.instance, Authority(steward)
    servers = [
        (_server(make_app(steward), Guard(total=_connections(), turns=instance.joins)), peers),
        (_server(make_ops_app(authority, ops_name), Guard(total=MAX_OPS_CONNECTIONS)), ops),
        (_callers_server(make_local_app(authority), Guard(total=MAX_LOCAL_CONNECTIONS)), local),
    ]
    servers = [(server, sockets) for server, sockets in servers if sockets]
    tasks = [loop.create_task(server.serve(sockets)) for server, sockets in servers]

    async def live() -> None:
        while not all(  # noqa: ASYNC110 - as below
            server.started for server, _ in servers
        ):
            await asyncio.sleep(0.001)  # uvicorn has a flag for it and no event
        afterwards = await begin()
        names = ", ".join(str(Address(*listener.getsockname()[:2])) for listener in peers)
        log.info("Serving as %s on %s; operations on %s.", instance.role, names, Address(*ops[0].getsockname()[:2]))
        gc.freeze()  # what is here stays: the collector of cycles, which holds everybody up, need not look at it again
        notify("READY=1")
        if afterwards is not None:
            await afterwards()
        await loop.create_future()

    life = loop.create_task(live())
    signing = loop.create_task(instance.audit.keep_signed())
    for number in STOPPED_BY:
        # nohup(1) starts what is to outlive its terminal with SIGHUP ignored, and so it stays.
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, life.cancel)
    try:
        # A listener that ends by itself ends the instance: one that serves nothing must not look alive.
        ended, _ = await asyncio.wait([life, *tasks], return_when=asyncio.FIRST_COMPLETED)
        life.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await life
        if life not in ended:
            raise Unavailable("A listener ended by itself; the log has the reason.")
    finally:
        notify("STOPPING=1")
        log.info("Stopping.")
        signing.cancel()
        for server, _ in servers:
            server.should_exit = True
        await asyncio.gather(*tasks)
