"""The server as it runs inside an enclave, as far as a machine without SGX can have it.

    python -m tests.sgx.program COMPOSITION WORDS...

It is the program itself, put together otherwise by assignment, in this process alone: its /dev/attestation is a folder
of the test's, its measured file another of them, and the root of `sgx` is a private one of the tests. Nothing of this
can be had by an option or a variable: no code of the package knows of it. Then system calls are answered as Gramine
does, before a module of the server is loaded, and the command line runs with WORDS.

COMPOSITION is a JSON file with the fields below.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import msgspec
from tests.sgx.gramine_calls import answer_as_gramine

from rkeyserver.appraisal import defaults
from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.attestation.sgx.anchors import TrustAnchor
from rkeyserver.attestation.sgx.verify import SgxVerifier
from rkeyserver.cli.main import main
from rkeyserver.platforms import registry
from rkeyserver.platforms.sgx import device, measured

_HERE: Final = "tests.sgx.program"
_SOME: Final = "00" * 16  # stands for a machine where it is then left out


class Composition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an instance is put together with.

    device: the folder that is its /dev/attestation; measured: the file that is measured into its image. root_name, root
    (DER, hex), root_sha256: the trust anchor of `sgx`. judged_as_simulated: whether a new domain accepts every machine
    under that root, and whether the host may say by which policy and admins to judge; so that tests that are written
    for `simulated` run. Without it this is the closed program, which judges by what is measured into it.
    """

    device: str
    measured: str
    root_name: str
    root: str
    root_sha256: str
    judged_as_simulated: bool = False


def compose(given: Composition) -> None:
    """Put this process's program together so."""
    device.DEVICE = Path(given.device)  # type: ignore[misc]  # the composition that tests start, as tests/sgx says
    measured.MEASURED = Path(given.measured)  # type: ignore[misc]  # the composition that tests start, as tests/sgx says
    anchor = TrustAnchor(name=given.root_name, der=bytes.fromhex(given.root), sha256=given.root_sha256)
    sys.modules[f"{_HERE}.root"] = SimpleNamespace(  # type: ignore[assignment]  # the composition that tests start, as tests/sgx says
        anchor=anchor, verify=SgxVerifier(platform=registry.SGX, anchor=anchor)
    )
    registry.ANCHORS[registry.SGX] = f"{_HERE}.root:anchor"
    registry._VERIFIERS[registry.SGX] = f"{_HERE}.root:verify"
    if given.judged_as_simulated:
        defaults.default_policy = defaults.joining_policy = open_to_any(defaults.default_policy)
        _trust_the_host()


def open_to_any(closed: Callable[..., Policy]) -> Callable[..., Policy]:
    """A default policy like `closed`, but for any machine."""

    def default_policy(
        platform: str,
        *,
        machine: str = "",  # noqa: ARG001 - any
        former_signers: Sequence[str] = (),  # noqa: ARG001 - its own signer is the only one there is
        **of_the_product: Any,
    ) -> Policy:
        text = closed(platform, machine=_SOME, **of_the_product).text
        only = f'machines = ["{_SOME}"]'
        assert text.count(only) == 1, text
        return parse_policy(text.replace(only, 'machines = "any"'))

    return default_policy


def _trust_the_host() -> None:
    from rkeyserver.service.given import Given  # noqa: PLC0415 - after the default policy was exchanged

    read = Given.read
    Given.read = lambda config, _measured: read(config, None)  # type: ignore[method-assign, assignment]  # the composition that tests start, as tests/sgx says


def tell_the_test() -> None:
    """Let the test know when this instance serves: inside an enclave there is no service manager to be told."""
    path = os.environ.pop("NOTIFY_SOCKET", None)
    if path is None:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect(path)
        fd = channel.detach()  # open to the end
    from rkeyserver.service import notify  # noqa: PLC0415 - only what serves has it

    def tell(state: str) -> None:
        os.write(fd, state.encode())

    notify.notify = tell


def run(composition: str, words: list[str], otherwise: Callable[[], None] = lambda: None) -> int:
    """The program, put together by the file `composition`. otherwise: what is changed in it after that."""
    compose(msgspec.json.decode(Path(composition).read_bytes(), type=Composition))
    otherwise()
    tell_the_test()
    answer_as_gramine()
    return main(words)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]))
