"""gramine-sgx APPLICATION: checks signature and files as processor and Gramine do, and runs it in a root of its own.

All trusted files are looked at when it starts, where Gramine looks at each when it is opened. With STAND_IN_DEVICE the
folder of that name is its /dev/attestation; STAND_IN_OVER is a JSON object of files and folders of the host in the
place of the tree's, for tests that put the program together otherwise. Both are variables of this stand-in alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import tomllib
from pathlib import Path

from rkeyserver.platforms import sigstruct
from tests.fakes.enclave_root import EnclaveRoot
from tests.fakes.gramine_build.sign import measure_enclave


def main(application: str) -> None:
    """Run it, in the place of this process."""
    here = Path.cwd()
    text = (here / f"{application}.manifest.sgx").read_bytes()
    vouched = sigstruct.verify((here / f"{application}.sig").read_bytes())
    if measure_enclave(text) != vouched.mrenclave:
        sys.exit("error: EINIT failed: the signature is for another enclave")
    manifest = tomllib.loads(text.decode())
    for file in (manifest["loader"]["entrypoint"], *manifest["sgx"]["trusted_files"]):
        path = Path(file["uri"].removeprefix("file:"))
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != file["sha256"]:
            sys.exit(f"error: {path} is not as it was when the enclave was signed")
    device, over = os.environ.get("STAND_IN_DEVICE"), json.loads(os.environ.get("STAND_IN_OVER", "{}"))
    root = EnclaveRoot(
        image=here,
        root=Path(tempfile.mkdtemp(prefix="root-", dir=here)),
        state=here / "state",
        options=here / "options.json",
        device=None if device is None else Path(device),
        over={place: Path(source) for place, source in over.items()},
    )
    command = root.command()
    os.execvp(command[0], command)  # noqa: S606 - in the place of this process


if __name__ == "__main__":
    main(sys.argv[1])
