"""Who is primary, by a real etcd: one at a time, whatever dies, stops or is cut off; and of two writers one wins."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.fakes.coordinated import (
    DOMAIN,
    MINTED,
    Member,
    authenticator,
    check_history,
    etcd_of,
    member_id,
    members,
    one_primary,
)
from tests.fakes.etcd import Cluster, etcd
from tests.fakes.pccs import Tls
from tests.fakes.processes import DEADLINE, ROOT, Output, environment
from tests.fakes.proxy import Proxy

from rkeyserver.coordinator import order
from rkeyserver.coordinator.endpoints import Endpoints
from rkeyserver.coordinator.etcd import Credentials
from rkeyserver.coordinator.interface import Elected, Lost
from rkeyserver.coordinator.order import BEHIND_LEASES
from rkeyserver.coordinator.values import primary_key, state_key
from rkeyserver.errors import Misuse, Reason, Unavailable
from rkeyserver.keyring.place import Place

LEASE: Final = 1


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with etcd(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture
def shared(server: Cluster) -> Cluster:
    """An etcd that runs and knows nothing of the domain."""
    for key in (primary_key(DOMAIN), state_key(DOMAIN)):
        server.delete(key)
    return server


def others(made: list[Member], one: Member) -> list[Member]:
    return [other for other in made if other is not one]


def histories(made: list[Member]) -> list[list[tuple[Place, Place]]]:
    return [one.stored for one in made]


class Silent:
    """An engine that nobody reaches."""

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def never(*_: object) -> None:
            raise Unavailable("No answer.")

        return never

    async def close(self) -> None:
        pass

    def status(self) -> dict[str, Any]:
        return {}


async def gone(member: Member) -> None:
    """As a machine that is switched off: it says nothing, renews nothing, and gives nothing back."""
    silent: Any = Silent()
    before, member.coordinated.engine = member.coordinated.engine, silent
    member.primary = False
    await before.close()


def test_one_of_five_is_primary_and_when_it_is_gone_another(shared: Cluster) -> None:
    async def run() -> None:
        async with members(shared.endpoints, 5, LEASE) as made:
            first = await one_primary(made)
            await first.change()
            await first.change()
            rest = others(made, first)
            began = time.monotonic()
            await gone(first)
            # None of them has what the first one has committed: they wait for one that has, and then go on without.
            second = await one_primary(rest, 20)
            assert time.monotonic() - began > BEHIND_LEASES * LEASE
            assert second.own.epoch == first.own.epoch + 1
            await second.change()
            check_history(*histories(made))
            for one in others(rest, second):
                await one.until(lambda one=one: one.coordinated.status()["holder"] == member_id(second.number))  # type: ignore[misc]  # mypy infers no default's type
                await one.until(lambda one=one: one.coordinated.status()["committed"] == second.own._asdict())  # type: ignore[misc]  # the same

    asyncio.run(run())


def test_one_that_has_the_state_takes_over_within_twice_the_lease(shared: Cluster) -> None:
    async def run() -> None:
        async with members(shared.endpoints, 3, LEASE) as made:
            first = await one_primary(made)
            follower, stale = others(made, first)
            follower.own = first.own  # it has fetched it
            await gone(first)
            took = await follower.until(lambda: follower.primary)
            assert took < 2 * LEASE + 1  # and what etcd takes to notice, on a machine that does other things
            assert not stale.primary
            assert follower.own.epoch == 2
            check_history(*histories(made))

    asyncio.run(run())


def test_who_leaves_gives_the_lease_back(shared: Cluster) -> None:
    async def run() -> None:
        lease = 8  # nobody waits for its end
        async with contextlib.AsyncExitStack() as leaving:
            first = await one_primary(await leaving.enter_async_context(members(shared.endpoints, 1, lease)))
            async with members(shared.endpoints, 1, lease) as (other,):
                other.own = first.own
                await leaving.aclose()
                await other.until(lambda: other.primary, lease / 2)

    asyncio.run(run())


def test_an_own_state_is_continued_in_its_epoch(shared: Cluster) -> None:
    async def run() -> None:
        async with members(shared.endpoints, 1) as made:
            first = await one_primary(made)
            await first.change()
            state = first.own
        again = Member(1, etcd_of(shared.endpoints), own=state)
        async with again.running():
            await again.until(lambda: again.primary)
            assert (again.own, again.stored) == (state, [])
            await again.change()
            assert again.own.epoch == state.epoch

    asyncio.run(run())


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is behind waits for one lease, not for three: what it does then is what is looked at."""
    monkeypatch.setattr(order, "BEHIND_LEASES", 1)


@pytest.mark.usefixtures("hasty")
def test_a_state_that_was_committed_and_stored_by_nobody(shared: Cluster) -> None:
    """A crash between the commit and the record: the next primary, the same one too, goes on in a later epoch."""

    async def run() -> None:
        async with members(shared.endpoints, 1) as made:
            first = await one_primary(made)
            lost = first.next()
            await first.coordinated.commit(first.own, lost)
        again = Member(1, etcd_of(shared.endpoints), own=first.own)
        async with again.running():
            await again.until(lambda: again.coordinated.status()["behind"])
            await again.until(lambda: again.primary)
            assert again.own.epoch == lost.epoch + 1
            assert again.own.primary == lost.primary
            check_history(first.stored, again.stored)

    asyncio.run(run())


def test_of_two_writers_one_wins(shared: Cluster) -> None:
    """Both believe that they are primary, and both have the same state before."""

    async def run() -> None:
        async with members(shared.endpoints, 1) as made:
            holder = await one_primary(made)
            term = holder.coordinated._term
            assert term is not None
            twin = Member(1, etcd_of(shared.endpoints), own=holder.own, salt="another key")
            twin.coordinated._term = term
            results = await asyncio.gather(holder.change(), twin.change(), return_exceptions=True)
            assert [type(one) for one in results if one is not None] == [Unavailable]
            check_history(holder.stored, twin.stored)
            assert len(holder.stored) + len(twin.stored) == 2
            await twin.coordinated.engine.close()

    asyncio.run(run())


class Candidate:
    """A candidate in a process of its own."""

    def __init__(self, endpoints: Endpoints, number: int, kind: str, sequence: int) -> None:
        words = [str(endpoints), str(number), str(LEASE), kind, str(sequence)]
        command = [sys.executable, "-m", "tests.fakes.candidate", *words]
        where = environment(PYTHONPATH=f"{ROOT / 'src'}:{ROOT}")
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, env=where)
        assert self.process.stdout is not None
        self.out = Output(self.process.stdout)

    def change(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def elected(self, times: int = 1) -> tuple[int, int]:
        """Its fencing token and epoch."""
        token, epoch = self.out.wait_for(r"^elected (\d+) (\d+)$", times)[-1].groups()
        return int(token), int(epoch)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.out.finish()


@contextlib.contextmanager
def candidates(cluster: Cluster, *kinds: str, sequence: int) -> Iterator[list[Candidate]]:
    """The first is primary before the others begin, which have its state of that sequence."""
    with contextlib.ExitStack() as stack:
        made: list[Candidate] = []
        for number, kind in enumerate(kinds, start=1):
            made.append(Candidate(cluster.endpoints, number, kind, sequence if made else 0))
            stack.callback(made[-1].close)
            if number == 1:
                made[0].elected()
        yield made


def test_the_holder_is_killed(shared: Cluster) -> None:
    with candidates(shared, "true", "true", sequence=2) as (first, second):
        token, epoch = first.elected()
        first.process.kill()
        assert second.elected() > (token, epoch)
        second.change()
        second.out.wait_for(rf"^committed {epoch + 1} 4$")


@pytest.mark.parametrize("kind", ["true", "deaf"])
def test_a_holder_that_sleeps_past_its_lease_commits_nothing(shared: Cluster, kind: str) -> None:
    """Deaf, it is still sure that it holds the lease when it wakes: what refuses it is etcd's comparison alone."""
    with candidates(shared, kind, "true", sequence=3) as (first, second):
        token, epoch = first.elected()
        first.change()
        first.out.wait_for(rf"^committed {epoch} 3$")
        first.process.send_signal(signal.SIGSTOP)
        assert second.elected() > (token, epoch)
        second.change()
        second.out.wait_for(rf"^committed {epoch + 1} 5$")
        first.change()
        first.process.send_signal(signal.SIGCONT)
        first.out.wait_for(r"^refused no-lease ")
        first.out.wait_for(r"^lost ")
        assert len(re.findall("^committed", first.out.text, re.MULTILINE)) == 1
        second.change()
        second.out.wait_for(rf"^committed {epoch + 1} 6$")


def test_etcd_is_killed_and_comes_back(tmp_path: Path) -> None:
    async def run() -> None:
        async with members(cluster.endpoints, 2) as made:
            first = await one_primary(made)
            state = first.own
            cluster.servers[0].kill()
            with pytest.raises(Unavailable):
                await first.change()
            await first.until(lambda: not first.primary)
            assert first.own == state
            assert first.coordinated.status()["last_error"]
            await asyncio.to_thread(cluster.start)
            second = await one_primary(made)
            await second.change()
            check_history(*histories(made))

    with etcd(tmp_path) as cluster:
        asyncio.run(run())


def test_etcd_stands_still_and_goes_on(tmp_path: Path) -> None:
    """A commit whose answer never came may be carried out later: nobody goes on in its epoch."""

    async def run() -> None:
        async with members(cluster.endpoints, 2) as made:
            first = await one_primary(made)
            before = first.own
            cluster.servers[0].signal(signal.SIGSTOP)
            with pytest.raises(Unavailable, match="no answer in time"):
                await first.change()
            await first.until(lambda: not first.primary)
            assert first.own == before
            cluster.servers[0].signal(signal.SIGCONT)
            second = await one_primary(made)
            assert second.own.epoch > before.epoch or second.coordinated.status()["committed"] == before._asdict()
            await second.change()
            check_history(*histories(made))

    with etcd(tmp_path) as cluster:
        asyncio.run(run())


def test_the_holder_is_parted_from_etcd(shared: Cluster) -> None:
    async def run() -> None:
        with Proxy(shared.servers[0].address) as proxy:
            parted = Member(1, etcd_of(Endpoints(tls=False, addresses=(proxy.address,))))
            other = Member(2, etcd_of(shared.endpoints))
            async with parted.running():
                await parted.until(lambda: parted.primary)
                async with other.running():
                    other.own = parted.own
                    proxy.parted.set()
                    await other.until(lambda: other.primary)
                    await parted.until(lambda: not parted.primary)
                    assert isinstance(parted.events[-1], Lost)
                    await other.change()
                    with pytest.raises(Unavailable) as raised:
                        await parted.change()
                    assert raised.value.reason is Reason.NO_LEASE
                    proxy.parted.clear()
                    await parted.until(lambda: parted.coordinated.status()["holder"] == member_id(2))
                    assert not parted.primary
                    check_history(parted.stored, other.stored)

    asyncio.run(run())


def test_a_slow_link_to_etcd_costs_nobody_the_lease(shared: Cluster) -> None:
    async def run() -> None:
        with Proxy(shared.servers[0].address, lag=0.03) as slow:
            member = Member(1, etcd_of(Endpoints(tls=False, addresses=(slow.address,))))
            async with member.running():
                await member.until(lambda: member.primary)
                for _ in range(3):
                    await member.change()
                await asyncio.sleep(1.5 * LEASE)
                assert member.primary
                assert not any(isinstance(one, Lost) for one in member.events)
                check_history(member.stored)

    asyncio.run(run())


def test_the_first_of_several_servers_is_silent(shared: Cluster) -> None:
    """The next one is asked, the lease is kept, and what is wrong with the first one is told."""

    async def run() -> None:
        with Proxy(shared.servers[0].address) as proxy:
            both = Endpoints(tls=False, addresses=(proxy.address, shared.servers[0].address))
            member = Member(1, etcd_of(both))
            async with member.running():
                await member.until(lambda: member.primary)
                proxy.parted.set()
                await member.until(lambda: bool(member.coordinated.status()["errors"]))
                await member.change()
                await asyncio.sleep(1.5 * LEASE)
                assert member.primary
                status = member.coordinated.status()
                assert status["errors"] == {str(proxy.address): "no answer in time"}
                assert status["asked"] == str(shared.servers[0].address)

    asyncio.run(run())


def test_three_servers_lose_their_leader(tmp_path: Path) -> None:
    lease = 3

    async def run() -> None:
        async with members(cluster.endpoints, 2, lease) as made:
            first = await one_primary(made)
            await first.change()
            leader = await asyncio.to_thread(cluster.leader)
            leader.kill()
            await asyncio.sleep(lease / 2)
            now = await one_primary(made)
            await now.change()
            assert now is first, now.coordinated.status()  # an election is shorter than the lease
            leader.start(cluster.said)
            check_history(*histories(made))

    with etcd(tmp_path, servers=3) as cluster:
        asyncio.run(run())


def test_two_clusters_are_not_one(shared: Cluster, tmp_path: Path) -> None:
    """A list with servers of two clusters: they would elect two primaries."""

    async def run() -> None:
        addresses = (shared.servers[0].address, another.servers[0].address)
        engine = etcd_of(Endpoints(tls=False, addresses=addresses))
        await engine.look()
        engine._asked = 1
        await engine.look()
        assert "it is of cluster" in engine.status()["errors"][str(addresses[1])]
        await engine.close()

    with etcd(tmp_path) as another:
        asyncio.run(run())


TLS: dict[str, tuple[str, str]] = {
    "another CA": ("another", "unable to get local issuer certificate|certificate signature failure"),
    "no certificate of ours": ("none", "certificate required|bad certificate|Broken pipe|reset by peer"),
    "all as it should be": ("right", ""),
}


@pytest.mark.parametrize(("case", "says"), TLS.values(), ids=TLS)
def test_tls(tls_server: tuple[Cluster, Tls], tmp_path: Path, case: str, says: str) -> None:
    cluster, tls = tls_server

    async def run() -> None:
        ca = Tls.make(tmp_path).ca if case == "another" else tls.ca
        ours = None if case == "none" else tls.chain
        engine = etcd_of(cluster.endpoints, 2, Credentials(ca, ours))
        if not says:
            assert (await engine.look()).primary is None
        else:
            with pytest.raises(Unavailable, match=says):
                await engine.look()
        await engine.close()

    asyncio.run(run())


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Tls]]:
    """An etcd that wants a certificate of who asks."""
    folder = tmp_path_factory.mktemp("tls")
    tls = Tls.make(folder)
    with etcd(folder, tls=tls, wants_certificates=True) as cluster:
        yield cluster, tls


UNUSABLE: dict[str, tuple[Callable[[Path], Credentials], str]] = {
    "no CA": (lambda folder: Credentials(ca=folder / "none"), "No such file"),
    "a CA that is none": (lambda folder: Credentials(ca=written(folder, "x")), "NO_CERTIFICATE|cannot be used"),
    "no certificate": (lambda folder: Credentials(certificate=folder / "none"), "No such file"),
    "a certificate without a key": (lambda folder: Credentials(certificate=Tls.make(folder).ca), "cannot be used"),
}


def written(folder: Path, text: str) -> Path:
    path = folder / "file"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("made", "says"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_file_for_tls_that_cannot_be_used(tmp_path: Path, made: Callable[[Path], Credentials], says: str) -> None:
    with pytest.raises(Misuse, match=says):
        made(tmp_path).context()
    assert isinstance(Credentials().context(), ssl.SSLContext)


# What another who may write there does; what a candidate finds; whether it waits, and in which epoch it goes on.
OTHERS_STATE: dict[str, tuple[bytes, bool, int]] = {
    "deleted": (b"", False, 1),
    "an older one": (authenticator().state(MINTED._replace(sequence=0)), False, 1),
    "a later one": (authenticator().state(MINTED._replace(epoch=7)), True, 8),
}


@pytest.mark.parametrize(("value", "waits", "epoch"), OTHERS_STATE.values(), ids=OTHERS_STATE)
@pytest.mark.usefixtures("hasty")
def test_a_state_that_somebody_put_there(shared: Cluster, value: bytes, waits: bool, epoch: int) -> None:  # noqa: FBT001 - a table's
    if value:
        shared.put(state_key(DOMAIN), value)

    async def run() -> None:
        member = Member(1, etcd_of(shared.endpoints))
        async with member.running():
            assert await member.behind_until(lambda: member.primary) == waits
            assert member.own.epoch == epoch
            assert isinstance(member.events[0], Elected)

    asyncio.run(run())


def test_a_forged_primary_is_waited_for_and_told(shared: Cluster) -> None:
    shared.put(primary_key(DOMAIN), b"me")

    async def run() -> None:
        member = Member(1, etcd_of(shared.endpoints))
        async with member.running():
            await member.until(lambda: "is none" in member.coordinated.status()["last_error"])
            await asyncio.sleep(0.3)
            assert not member.events
            shared.delete(primary_key(DOMAIN))
            await member.until(lambda: member.primary)

    asyncio.run(run())


def test_who_finds_the_keys_changed_under_it_is_primary_no_more(shared: Cluster) -> None:
    """Somebody deletes the state, or the key that says who is primary: elected anew, in a later epoch."""

    async def run() -> None:
        async with members(shared.endpoints, 1) as (member,):
            await one_primary([member])
            shared.delete(state_key(DOMAIN))
            with pytest.raises(Unavailable, match="refuses to commit"):
                await member.change()
            await member.until(lambda: len(member.events) == 3)
            assert (member.primary, member.own.epoch) == (True, 2)
            shared.delete(primary_key(DOMAIN))
            await member.until(lambda: len(member.events) == 5)
            await member.change()
            assert (member.primary, member.own.epoch) == (True, 2)
            check_history(member.stored)

    asyncio.run(run())
