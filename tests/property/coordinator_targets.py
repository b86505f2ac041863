"""What a coordinator answers, and what lies in it."""

from __future__ import annotations

import base64
from typing import Final

from tests.fakes.coordinated import DOMAIN, MINTED, authenticator, member_id
from tests.property.registry import target, text_of

from rkeyserver.coordinator import etcd_messages as messages
from rkeyserver.coordinator.endpoints import parse_endpoints
from rkeyserver.coordinator.interface import Lease
from rkeyserver.coordinator.values import primary_key, state_key
from rkeyserver.errors import Misuse, Rejected, Unavailable

VALUES: Final = authenticator()
KEYS: Final = primary_key(DOMAIN), state_key(DOMAIN)
HEADER: Final = '"header":{"cluster_id":"15118495548433857066","member_id":"13","revision":"7","raft_term":"2"}'


def key_value(key: bytes, value: bytes) -> str:
    text = base64.b64encode(key).decode(), base64.b64encode(value).decode()
    more = '"create_revision":"2","mod_revision":"3","version":"1","lease":"4111120267821283589"'
    return f'{{"response_range":{{{HEADER},"kvs":[{{"key":"{text[0]}","value":"{text[1]}",{more}}}],"count":"1"}}}}'


# As etcd 3.4.23 answers.
GRANTED: Final = f'{{{HEADER},"ID":"4111120267821283589","TTL":"1"}}'.encode()
KEPT: Final = f'{{"result":{{{HEADER},"ID":"4111120267821283589","TTL":"1"}}}}\n'.encode()
GONE: Final = f'{{"result":{{{HEADER},"ID":"4111120267821283589"}}}}\n'.encode()
TOOK: Final = (
    f'{{{HEADER},"succeeded":true,"responses":[{{"response_put":{{{HEADER}}}}},'
    f"{key_value(KEYS[0], VALUES.primary(member_id(1)))},{key_value(KEYS[1], VALUES.state(MINTED))}]}}"
).encode()
EMPTY: Final = f'{{{HEADER},"responses":[{{"response_range":{{{HEADER}}}}},{{"response_range":{{}}}}]}}'.encode()
WATCHED: Final = f'{{"result":{{{HEADER},"events":[{{"type":"DELETE","kv":{{"key":"eA=="}}}}]}}}}'.encode()
CREATED: Final = f'{{"result":{{{HEADER},"created":true}}}}'.encode()
ERROR: Final = b'{"error":"etcdserver: requested lease not found","message":"etcdserver: ...","code":5}'


target(
    "coordinator", lambda: [b"etcds://10.0.0.1:2379,[fd00::1],b"], lambda data: parse_endpoints(text_of(data)), Misuse
)
target("committed state", lambda: [VALUES.state(MINTED)], VALUES.read_state, Rejected, canonical=VALUES.state)
target(
    "value that says who is primary",
    lambda: [VALUES.primary(member_id(1))],
    VALUES.read_primary,
    Rejected,
    canonical=VALUES.primary,
)
target("etcd's lease", lambda: [GRANTED], messages.read_grant, Unavailable)
target("etcd's renewal", lambda: [KEPT, GONE], lambda data: messages.read_kept(data, Lease(1, 1)), Unavailable)
target("etcd's transaction", lambda: [TOOK, EMPTY], lambda data: messages.read_seen(data, *KEYS), Unavailable)
target("line of etcd's watch", lambda: [WATCHED, CREATED], messages.read_watch, Unavailable)
target("error of etcd's", lambda: [ERROR], messages.read_error)
target("etcd's cluster", lambda: [GRANTED, KEPT, TOOK, WATCHED], messages.cluster_of, Unavailable)
