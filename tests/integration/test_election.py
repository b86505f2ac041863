"""Real instances with a real etcd: who leads is elected, and nobody's word or nap changes that."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from tests.fakes.etcd import Cluster, etcd
from tests.fakes.processes import Machine, Machines
from tests.integration.test_generations import done, member, opens, ops, same, until, wrapped

from rkeyserver.errors import EXIT_STATUS, Misuse, Unavailable

LEASE = 2


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with etcd(tmp_path_factory.mktemp("etcd")) as made:
        yield made


def words(cluster: Cluster, *more: str) -> list[str]:
    return ["--coordinator", str(cluster.endpoints), "--lease", str(LEASE), *more]


def leads(machine: Machine) -> bool:
    return bool(machine.status()["role"] == "primary")


def test_another_leads_when_the_primary_is_gone_and_one_that_wakes_late_changes_nothing(
    machines: Machines, cluster: Cluster
) -> None:
    host, backup = machines("host"), machines("backup")
    host.start(*words(cluster))
    until("the host is elected", lambda: leads(host))
    backup.start(*words(cluster, "-i", host.address))
    assert "is current" in done(ops(host, "rotate"))
    until("the backup follows", lambda: same(host, backup))
    assert ops(backup, "promote").status == EXIT_STATUS[Misuse], "nobody is promoted beside it"

    # It sleeps past its lease, and wakes while it still believes that it leads.
    running = host.started[-1]
    running.send(signal.SIGSTOP)
    until("the backup is elected", lambda: leads(backup))
    running.send(signal.SIGCONT)
    until("the host follows", lambda: same(host, backup))
    assert host.status()["role"] == "standby"
    assert "is current" in done(ops(backup, "rotate"))
    secret = wrapped(backup, "after")
    until("the host follows", lambda: same(host, backup))
    assert opens(host, secret) == "after"

    # Without etcd nothing is changed, and everything is served.
    for server in cluster.servers:
        server.kill()
    until("nobody leads", lambda: not leads(backup) and not leads(host))
    refused = ops(backup, "rotate")
    assert refused.status == EXIT_STATUS[Unavailable]
    assert "coordinator" in refused.err
    assert opens(host, wrapped(backup, "without")) == "without"
    assert member(backup) == backup.status()["primary"]
