"""Ids and digests as they stand in documents: lower-case hex digits of so many bytes."""

from __future__ import annotations

from typing import Annotated

import msgspec

Hex16 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
Hex32 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
