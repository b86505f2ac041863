"""What the system or TLS said of a connection that failed."""

from __future__ import annotations

import os
import ssl

import httpx


def why(error: BaseException) -> str:
    """In a few words. The libraries between the system and here each say less than the one below."""
    if isinstance(error, (TimeoutError, httpx.TimeoutException)):
        return "no answer in time"
    root = error
    while below := root.__cause__ or root.__context__:
        root = below
    if isinstance(root, ssl.SSLError):  # its errno is no error of the system
        return getattr(root, "verify_message", "") or (root.reason or "TLS failed").replace("_", " ").lower()
    if isinstance(root, OSError) and root.errno and root.errno > 0:
        return os.strerror(root.errno)  # asyncio puts a sentence of its own into strerror
    return (isinstance(root, OSError) and root.strerror) or str(error) or type(error).__name__
