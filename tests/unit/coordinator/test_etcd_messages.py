"""What etcd's gateway answers, and what is no answer of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.fakes.coordinated import MINTED, member_id
from tests.property.coordinator_targets import (
    EMPTY,
    ERROR,
    GONE,
    GRANTED,
    HEADER,
    KEPT,
    KEYS,
    TOOK,
    VALUES,
    WATCHED,
    key_value,
)

from rkeyserver.coordinator import etcd_messages as messages
from rkeyserver.coordinator.interface import Entry, Lease, Outcome, Seen
from rkeyserver.errors import Unavailable

LEASE = Lease(4111120267821283589, 1)


def test_what_is_read() -> None:
    assert messages.read_grant(GRANTED) == LEASE
    endless = messages.read_grant(f'{{{HEADER},"ID":"7","TTL":"{2**31}"}}'.encode())
    assert endless == Lease(7, messages.LONGEST_LEASE), "renewed, and looked at, as often as one of an hour"
    assert messages.read_kept(KEPT, LEASE)
    assert not messages.read_kept(GONE, LEASE)
    assert not messages.read_kept(KEPT, Lease(LEASE.id, 2)), "renewed for less than was granted"
    primary, state = (Entry(value, 2, 3, LEASE.id) for value in (VALUES.primary(member_id(1)), VALUES.state(MINTED)))
    assert seen(TOOK) == Outcome(done=True, seen=Seen(7, primary, state))
    assert seen(EMPTY).seen == Seen(7, None, None)
    assert messages.read_watch(WATCHED)
    assert messages.read_watch(b'{"result":{"header":{},"canceled":true}}')
    assert messages.read_error(ERROR) == ("etcdserver: requested lease not found", True)
    assert messages.read_error(b"Not Found") == ("", False)
    assert messages.cluster_of(WATCHED) == "15118495548433857066"


def seen(data: bytes) -> Outcome:
    return messages.read_seen(data, *KEYS)


OTHER = key_value(b"/other", b"x")
NO_ANSWERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "no JSON": (messages.read_grant, b"<html>"),
    "nothing": (messages.read_grant, b""),
    "no lease": (messages.read_grant, f"{{{HEADER}}}".encode()),
    "a lease of no time": (messages.read_grant, f'{{{HEADER},"ID":"7"}}'.encode()),
    "a negative lease": (messages.read_grant, f'{{{HEADER},"ID":"-7","TTL":"1"}}'.encode()),
    "no cluster": (messages.cluster_of, b"{}"),
    "a cluster that is none": (messages.cluster_of, b'{"header":{"cluster_id":"x"}}'),
    "one key of two": (seen, f'{{{HEADER},"responses":[{OTHER}]}}'.encode()),
    "other keys": (seen, f'{{{HEADER},"responses":[{OTHER},{OTHER}]}}'.encode()),
    "more than was asked for": (seen, TOOK.replace(b"[", b"[{},{},{},", 1)),
    "a value that is no base64": (seen, TOOK.replace(b'"value":"', b'"value":"*')),
    "a revision beyond all": (seen, EMPTY.replace(b'"7"', b'"%d"' % 2**64)),
    "a revision before the first": (seen, EMPTY.replace(b'"7"', b'"-1"')),
    "deep": (messages.read_watch, b'{"result":' * 5000),
    "no UTF-8": (messages.read_watch, b'{"result":"\xff"}'),
}  # fmt: skip


@pytest.mark.parametrize(("read", "data"), NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_what_is_no_answer(read: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(Unavailable):
        read(data)
