"""Connections that cost a client nothing cost the others nothing: idle, slow, half-sent, half-open, by the hundred."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Final

import pytest
from tests.fakes.processes import DEADLINE, Machine, Machines

from rkeyserver.exchange.messages import MAX_MESSAGE, Request
from rkeyserver.service.limits import CONNECTION_SECONDS, MAX_BYTES, PER_ADDRESS, client_of

STORM: Final = 500
# Memory of its own that the process may take for a connection that waits, the event loop's part included.
EACH: Final = 16 * 1024
# What bodies may take until the event loop has dropped those that are too much: it reads from hundreds in one turn.
PEAK: Final = 6 * MAX_BYTES
TCP_REPAIR: Final = 19
BODY: Final = MAX_MESSAGE[Request]
HEAD: Final = b"POST /v1/hand-over HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % BODY


def connections(machine: Machine) -> int:
    """The connections of peers that the server has accepted, and not yet closed."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening, nobodys = "0A", "0"
    return sum(row[1] == machine.in_proc_net_tcp and row[3] != listening and row[9] != nobodys for row in rows)


async def until_connections(machine: Machine, wanted: int) -> None:
    """Wait until there are so many: nobody tells when the server has accepted or closed one."""
    async with asyncio.timeout(DEADLINE):
        while connections(machine) != wanted:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.05)


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def own_memory(pid: int) -> int:
    """Bytes of memory that the process shares with nobody and no file."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024


async def _ended(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b"", "an answer to what was no request"


async def hold(machine: Machine, source: str, sent: bytes = b"", slowly: bytes = b"") -> None:
    """A connection that sends `sent` and then `slowly`, byte by byte, until the server has ended it."""
    reader, writer = await asyncio.open_connection(machine.host, machine.port, local_addr=(source, 0))
    ended = asyncio.create_task(_ended(reader))
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(sent)
            await writer.drain()
            for at in range(len(slowly)):
                writer.write(slowly[at : at + 1])
                if (await asyncio.wait({ended}, timeout=0.25))[0]:
                    break
        await ended
    finally:
        ended.cancel()
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def vanish(machine: Machine, source: str) -> None:
    """A half-open connection: its client is gone without a word, the server's side stays.

    Where the kernel does not allow that to this user it stays as a half-sent request, until the test ends.
    """
    client = socket.create_connection((machine.host, machine.port), DEADLINE, (source, 0))
    client.sendall(b"POST /v1/hello HTTP/1.1\r\n")
    with contextlib.suppress(PermissionError):
        client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)  # in repair, closing sends nothing
        client.close()
        return
    client.detach()


async def join(machine: Machine, host: Machine) -> None:
    ended = await asyncio.to_thread(machine.run, "-i", host.address, "--once", "--wait", "0")
    assert ended.status == 0, ended


def test_hundreds_of_connections_cost_the_others_nothing(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    pid = host.start().pid

    async def check() -> None:
        await join(backup, host)
        await until_connections(host, 0)
        files, memory = open_files(pid), own_memory(pid)
        storm = []
        for number in range(STORM):
            source = f"127.0.0.{2 + number % 10}"
            if number % 4 == 0:
                await asyncio.to_thread(vanish, host, source)
                continue
            sent, slowly = ((b"", b""), (HEAD + b"x", b""), (b"", HEAD + bytes(1000)))[number % 4 - 1]
            storm.append(asyncio.create_task(hold(host, source, sent, slowly)))
        await until_connections(host, STORM)
        await join(backup, host)
        assert (await asyncio.to_thread(host.status))["hand_overs"] == 2
        assert connections(host) >= STORM, "all of them were there meanwhile"
        assert not any(task.done() for task in storm)
        assert own_memory(pid) - memory < STORM * EACH
        async with asyncio.timeout(CONNECTION_SECONDS + DEADLINE):
            await asyncio.gather(*storm)
        await until_connections(host, 0)
        assert open_files(pid) == files
        await join(backup, host)

    asyncio.run(check())


def test_an_address_has_so_many_connections_and_no_more(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    host.start()
    flood = 2 * PER_ADDRESS

    async def check() -> None:
        others = [asyncio.create_task(hold(host, f"127.0.0.{last}", HEAD)) for last in range(2, 12)]
        # From the very address that the joining machine has.
        storm = {asyncio.create_task(hold(host, "127.0.0.1", HEAD)) for _ in range(flood)}
        while len(storm) > PER_ADDRESS:
            done, storm = await asyncio.wait(storm, timeout=DEADLINE, return_when=asyncio.FIRST_COMPLETED)
            assert done
        await join(backup, host)
        assert not any(task.done() for task in others)
        for task in [*storm, *others]:
            task.cancel()
        await asyncio.wait([*storm, *others])

    asyncio.run(check())


def test_bodies_that_never_end_do_not_fill_the_memory(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    pid = host.start().pid
    storm_size = 600
    assert storm_size * BODY > 1.5 * PEAK

    async def check() -> None:
        await join(backup, host)
        await until_connections(host, 0)
        files, memory = open_files(pid), own_memory(pid)
        most = 0
        sources = [f"127.0.0.{2 + number % 10}" for number in range(storm_size)]
        storm = {asyncio.create_task(hold(host, source, HEAD + bytes(BODY - 1))) for source in sources}
        while len(storm) > MAX_BYTES // BODY:
            done, storm = await asyncio.wait(storm, timeout=DEADLINE, return_when=asyncio.FIRST_COMPLETED)
            assert done
            most = max(most, own_memory(pid) - memory)
        await join(backup, host)
        assert most < PEAK
        assert own_memory(pid) - memory < 2 * MAX_BYTES
        for task in storm:
            task.cancel()
        await asyncio.wait(storm)
        await until_connections(host, 0)
        assert open_files(pid) == files

    asyncio.run(check())


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("::1", "::2", True),
    ],
)
def test_what_counts_as_one_client(one: str, other: str, same: bool) -> None:  # noqa: FBT001 - a case
    assert (client_of(one) == client_of(other)) is same
