"""The program inside an enclave: does what the one document of the host's says (docs/spec/options.md).

No argument and no environment variable is read: both are fixed in the manifest, and whatever the environment is, it is
replaced before any library sees it. So nothing but the standard library is imported here before main() runs.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rkeyserver.cli.command import Said

OPTIONS: Final = Path("/options.json")
STATE: Final = Path("/state")
# The whole environment. OpenSSL reads a file of that name, or else one at a path that whoever built it chose.
ENVIRONMENT: Final = {"OPENSSL_CONF": "/rkeyserver/etc/openssl.cnf"}
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY  # a FIFO without a writer must not hang


def main() -> int:
    """Do it; returns the exit status, as cli.main has them."""
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    from rkeyserver.cli.main import outcome  # noqa: PLC0415 - after the environment is that

    return outcome(_run)


def _run() -> Said:
    from rkeyserver.enclave_options import parse  # noqa: PLC0415 - as above

    told = parse(_read(), STATE)
    if told.command == "serve":
        from rkeyserver.cli import serve  # noqa: PLC0415 - only the command that is asked for

        return serve.run_with(told.config)
    if told.command == "doctor":
        from rkeyserver.cli import doctor  # noqa: PLC0415 - as above

        return doctor.run_with(told.config, as_json=told.json)
    from rkeyserver.cli import identity  # noqa: PLC0415 - as above

    return identity.run_with(told.config)


def _read() -> bytes:
    from rkeyserver.enclave_options import MAX_OPTIONS  # noqa: PLC0415 - as above
    from rkeyserver.errors import Misuse  # noqa: PLC0415 - as above

    advice = "The program that starts the enclave writes it."
    try:
        fd = os.open(OPTIONS, _FLAGS)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Misuse(f"The options {OPTIONS} are no regular file.", advice=advice)
            data = file.read(MAX_OPTIONS + 1)
    except OSError as error:
        raise Misuse(f"The options {OPTIONS} cannot be read: {error.strerror}.", advice=advice) from error
    return data
