"""What the system said of a connection that failed."""

from __future__ import annotations

import httpx


def why(error: BaseException) -> str:
    """In a few words. The libraries between the system and here each say less than the one below."""
    if isinstance(error, (TimeoutError, httpx.TimeoutException)):
        return "no answer in time"
    root = error
    while below := root.__cause__ or root.__context__:
        root = below
    return (isinstance(root, OSError) and root.strerror) or str(error) or type(error).__name__
