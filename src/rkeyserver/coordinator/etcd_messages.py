"""What is asked of etcd's v3 JSON gateway, and what it answers, as bytes (docs/spec/coordinator.md, "etcd").

Numbers of 64 bits are text in its JSON, keys and values base64, and a field that is zero or empty is left out. Fields
that are not needed are not looked at: 3.4 and 3.5 differ in some.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Final, TypeVar

import msgspec

from rkeyserver.coordinator.interface import Entry, Lease, Outcome, Seen
from rkeyserver.errors import Unavailable, one_line

MAX_ANSWER: Final = 64 * 1024  # bytes of a whole answer, and of a line of a watch
_SHOWN: Final = 200
LONGEST_LEASE: Final = 3600  # seconds; who is asked for less and grants more is renewed as often
_NOT_FOUND: Final = 5  # of gRPC: there is no such lease
T = TypeVar("T", bound=msgspec.Struct)

Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Cluster = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,20}\Z")]  # 64 bits without a sign


class _Header(msgspec.Struct, frozen=True):
    cluster_id: Cluster = ""
    revision: Number = 0


class _KeyValue(msgspec.Struct, frozen=True):
    key: bytes = b""
    value: bytes = b""
    create_revision: Number = 0
    mod_revision: Number = 0
    lease: Number = 0


class _Range(msgspec.Struct, frozen=True):
    kvs: Annotated[list[_KeyValue], msgspec.Meta(max_length=1)] = []


class _Response(msgspec.Struct, frozen=True):
    response_range: _Range | None = None


class _Txn(msgspec.Struct, frozen=True):
    header: _Header
    succeeded: bool = False
    responses: Annotated[list[_Response], msgspec.Meta(max_length=3)] = []


class _Lease(msgspec.Struct, frozen=True):
    header: _Header
    id: Number = msgspec.field(name="ID", default=0)
    ttl: Annotated[int, msgspec.Meta(ge=-1, le=2**31)] = msgspec.field(name="TTL", default=0)


class _Kept(msgspec.Struct, frozen=True):
    result: _Lease


class _Watched(msgspec.Struct, frozen=True):
    header: _Header
    events: list[msgspec.Raw] = []
    canceled: bool = False


class _WatchLine(msgspec.Struct, frozen=True):
    result: _Watched


class _Result(msgspec.Struct, frozen=True):
    header: _Header = _Header()


class _Headed(msgspec.Struct, frozen=True):
    header: _Header = _Header()
    result: _Result | None = None


class _Error(msgspec.Struct, frozen=True):
    error: str = ""
    code: int = 0


def _decoded(data: bytes, form: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=form, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unavailable(f"What etcd is said to be answers with something else: {error}.") from error


def _encoded(message: dict[str, Any]) -> bytes:
    return msgspec.json.encode(message)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _ranges(*keys: bytes) -> list[dict[str, Any]]:
    return [{"request_range": {"key": _text(key), "limit": "1"}} for key in keys]


def _compare(key: bytes, target: str, revision: int) -> dict[str, Any]:
    return {"key": _text(key), "target": target, "result": "EQUAL", f"{target.lower()}_revision": str(revision)}


def ask_grant(seconds: int) -> bytes:
    """For /v3/lease/grant."""
    return _encoded({"TTL": str(seconds)})


def ask_lease(lease: Lease) -> bytes:
    """For /v3/lease/keepalive and /v3/lease/revoke."""
    return _encoded({"ID": str(lease.id)})


def ask_look(primary: bytes, state: bytes) -> bytes:
    """For /v3/kv/txn: both keys, at one revision."""
    return _encoded({"success": _ranges(primary, state)})


def ask_take(primary: bytes, state: bytes, lease: Lease, value: bytes) -> bytes:
    """For /v3/kv/txn: make the primary's key, if there is none; both keys after it."""
    put = {"request_put": {"key": _text(primary), "value": _text(value), "lease": str(lease.id)}}
    return _encoded(
        {
            "compare": [_compare(primary, "CREATE", 0)],
            "success": [put, *_ranges(primary, state)],
            "failure": _ranges(primary, state),
        }
    )


def ask_put(primary: bytes, state: bytes, token: int, modified: int, value: bytes) -> bytes:
    """For /v3/kv/txn: write the state, if the primary's key and the state are those; both keys after it."""
    put = {"request_put": {"key": _text(state), "value": _text(value)}}
    return _encoded(
        {
            "compare": [_compare(primary, "CREATE", token), _compare(state, "MOD", modified)],
            "success": [put, *_ranges(primary, state)],
            "failure": _ranges(primary, state),
        }
    )


def ask_watch(primary: bytes, revision: int) -> bytes:
    """For /v3/watch: what happens to the primary's key after that revision."""
    return _encoded({"create_request": {"key": _text(primary), "start_revision": str(revision + 1)}})


def cluster_of(data: bytes) -> str:
    """The id of the cluster that answers.

    Raises: Unavailable if it is no answer of etcd's.
    """
    found = _decoded(data, _Headed)
    header = found.header if found.result is None else found.result.header
    if not header.cluster_id:
        raise Unavailable("What etcd is said to be answers without the id of its cluster.")
    return header.cluster_id


def read_grant(data: bytes) -> Lease:
    """The lease that was granted: it may be longer than what was asked for.

    Raises: Unavailable if there is none in it.
    """
    found = _decoded(data, _Lease)
    if found.id < 1 or found.ttl < 1:
        raise Unavailable("etcd grants no lease.")
    return Lease(found.id, min(found.ttl, LONGEST_LEASE))


def read_kept(data: bytes, lease: Lease) -> bool:
    """Whether the lease was renewed, for all of its time.

    Raises: Unavailable if it is no such answer.
    """
    found = _decoded(data, _Kept).result
    return found.id == lease.id and found.ttl >= lease.seconds


def read_seen(data: bytes, primary: bytes, state: bytes) -> Outcome:
    """Both keys, and whether what was to be done with them was done.

    Raises: Unavailable if it is no such answer.
    """
    found = _decoded(data, _Txn)
    ranges = [one.response_range for one in found.responses if one.response_range is not None]
    if len(ranges) != len((primary, state)):
        raise Unavailable("etcd's answer to a transaction is not what was asked for.")
    seen = Seen(found.header.revision, _entry(ranges[0], primary), _entry(ranges[1], state))
    return Outcome(found.succeeded, seen)


def _entry(found: _Range, key: bytes) -> Entry | None:
    if not found.kvs:
        return None
    one = found.kvs[0]
    if one.key != key or not one.create_revision or not one.mod_revision:
        raise Unavailable("etcd answers with another key than was asked for.")
    return Entry(one.value, one.create_revision, one.mod_revision, one.lease)


def read_watch(line: bytes) -> bool:
    """Whether a line of a watch tells of a change, or that it will tell no more.

    Raises: Unavailable if it is no such line.
    """
    found = _decoded(line, _WatchLine).result
    return bool(found.events) or found.canceled


def read_error(data: bytes) -> tuple[str, bool]:
    """What an answer that is an error says, in a few words, and whether it is that there is no such lease."""
    try:
        found = msgspec.json.decode(data, type=_Error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "", False
    return one_line(found.error[:_SHOWN]), found.code == _NOT_FOUND
