"""What a container is told, judged by the program's own parser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rkeyserver.cli import serve
from rkeyserver.cli.command import configuration
from rkeyserver.config import Config

PACKAGING: Final = Path(__file__).parents[2] / "packaging"
PROGRAM: Final = "/opt/rkeyserver/rkeyserver/rkeyserver"
STATE: Final = Path("/var/lib/rkeyserver")


def configured(words: Sequence[str]) -> Config:
    """The configuration that the words of a command line give. Raises: Misuse."""
    return configuration(vars(serve.parser().parse_args(words)))


def check_paths(config: Config) -> None:
    """An enclave reaches the keystore's folder and nothing else of the host."""
    assert isinstance(config.keystore, Path)
    for path in (config.keystore, config.audit_path, config.collateral_path, config.pccs_ca or config.keystore):
        assert path.parent == STATE
    refused = (config.policy, config.admins, config.socket, config.change)
    assert not any(refused), "these are measured into the enclave, or not for a service"
    assert config.ops.host == "127.0.0.1", "operations have no password"
