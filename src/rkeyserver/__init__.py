"""rkeyserver: one root key on every machine of a domain, held by no person."""

from __future__ import annotations

__version__ = "0.1.0"
