"""`rkeyserver identity`: the line by which a policy names this machine."""

from __future__ import annotations

from rkeyserver.clock import Clock
from rkeyserver.config import Config
from rkeyserver.service.compose import open_platform


def identity(config: Config) -> str:
    """PLATFORM MACHINE, as `rkeyserver policy admit` takes it.

    Raises: Misuse, Corrupt, Unavailable as the platform does.
    """
    own = open_platform(config, Clock()).attester_identity()
    return f"{own.platform} {own.machine}\n"
