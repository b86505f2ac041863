"""The listeners' paths (docs/spec/exchange.md), apart from the client, which a primary does not need."""

from __future__ import annotations

from typing import Final

HELLO_PATH: Final = "/v1/hello"
HAND_OVER_PATH: Final = "/v1/hand-over"
HINT_PATH: Final = "/v1/hint"
ORDERS_PATH: Final = "/v1/orders"  # as the next one
POLICY_PATH: Final = "/v1/policy"  # on the operations listener and on the local socket
DRILL_PATH: Final = "/v1/drill"  # on the operations listener
AUDIT_CHECKPOINT_PATH: Final = "/audit-checkpoint"  # on the operations listener
RECOVERY_PATH: Final = "/v1/recovery"
RELEASE_HELLO_PATH: Final = "/v1/release/hello"
RELEASE_PATH: Final = "/v1/release"
DERIVE_PATH: Final = "/v1/derive"  # these, where callers are
WRAP_PATH: Final = "/v1/wrap"
UNWRAP_PATH: Final = "/v1/unwrap"
REWRAP_PATH: Final = "/v1/rewrap"
PING_PATH: Final = "/v1/ping"
CONTENT_TYPE: Final = "application/msgpack"
