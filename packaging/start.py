"""The first code of ours in the enclave; the manifest fixes the interpreter's arguments and environment.

Nothing is imported from anywhere but the curated tree, which is measured (docs/adr/0019-enclave-image.md).
"""

import sys

HERE = "/rkeyserver"
PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"

# The standard library before the image, and the image before the libraries: nothing takes the place of what is before.
sys.path[:] = [
    f"{HERE}/lib/{PYTHON.replace('.', '')}.zip",
    f"{HERE}/lib/{PYTHON}/lib-dynload",
    f"{HERE}/libenclave-rkeyserver.so",
    f"{HERE}/lib/libraries.zip",
    f"{HERE}/lib/packages",
]

from rkeyserver.cli.enclave import main  # noqa: E402 - only now is it clear where from

sys.exit(main())
