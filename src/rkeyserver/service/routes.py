"""The paths of the peers' listener (docs/spec/exchange.md), apart from client and server: a primary needs no client."""

from __future__ import annotations

from typing import Final

HELLO_PATH: Final = "/v1/hello"
HAND_OVER_PATH: Final = "/v1/hand-over"
HINT_PATH: Final = "/v1/hint"
RECOVERY_PATH: Final = "/v1/recovery"
CONTENT_TYPE: Final = "application/msgpack"
