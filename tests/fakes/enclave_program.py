"""The program of an enclave, run as Gramine would run it but on a simulated machine: PACKAGES SOURCE MACHINE.

Started by an isolated interpreter without site, in a run folder, with whatever environment the host has. What is done
here is done by the tests' hands, before the program begins: where its two mounts are, and which platform it is on.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

packages, source, machine = sys.argv[1:]
sys.path[:0] = [source, packages]

from rkeyserver import enclave_options  # noqa: E402 - its folder is only now on the path
from rkeyserver.cli import enclave  # noqa: E402 - as above

read = enclave_options.parse


def on_a_simulated_machine(data: bytes, state: Path) -> enclave_options.Told:
    told = read(data, state)
    return replace(told, config=replace(told.config, platform="simulated", machine=Path(machine)))


enclave_options.parse = on_a_simulated_machine
enclave.OPTIONS = Path.cwd() / "options.json"  # type: ignore[misc]  # where Gramine mounts it
enclave.STATE = Path.cwd() / "state"  # type: ignore[misc]  # as above

if __name__ == "__main__":
    sys.exit(enclave.main())
