"""The program of an enclave as Gramine would start it: PACKAGES SOURCE TESTS [COMPOSITION].

Run by an isolated interpreter without site, in a run folder, with whatever environment the host has. What is done here
is done by the tests' hands: the two mounts are in the run folder, and with a COMPOSITION (tests/sgx/program.py) the
rest of an enclave's world is there, once the program has replaced its environment. Without one there is no enclave.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

packages, source, tests, *composition = sys.argv[1:]
sys.path[:0] = [source, packages, tests]

from rkeyserver.cli import enclave  # noqa: E402 - its folder is only now on the path

if TYPE_CHECKING:
    from rkeyserver.cli.command import Said

run = enclave._run


def run_composed() -> Said:
    if composition:
        import msgspec  # noqa: PLC0415 - as a program that is started imports nothing before

        from tests.sgx.gramine_calls import answer_as_gramine  # noqa: PLC0415 - as above
        from tests.sgx.program import Composition, compose  # noqa: PLC0415 - as above

        compose(msgspec.json.decode(Path(composition[0]).read_bytes(), type=Composition))
        answer_as_gramine()
    return run()


enclave._run = run_composed
enclave.OPTIONS = Path.cwd() / "options.json"  # type: ignore[misc]  # where Gramine mounts it
enclave.STATE = Path.cwd() / "state"  # type: ignore[misc]  # as above

if __name__ == "__main__":
    sys.exit(enclave.main())
