"""Makes OUT: lib with the libraries that requirements/runtime.lock names, and rkeyserver with the program.

    PYTHONPATH=src python tools/build-out.py OUT

The image holds the package that is imported here, with its bytecode for the Python that runs this: the same files and
the same Python give the same bytes, and so the same measurement. What is the same already is not written again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import rkeyserver
from building import IMAGE, PROGRAM, launcher, make_libraries, own_interpreter, put, values
from rkeyserver.platforms.product import ISV_PROD_ID, ISV_SVN
from rkeyserver.platforms.simulated.image import build_image, load_signed, sign_image
from rkeyserver.platforms.simulated.keys import image_signing_key

SIGNED: Final = "libenclave-rkeyserver.signed.so"
WHAT: Final = "Runs the signed enclave image that lies beside this file, with the libraries in ../lib. Made by `make`."
CALL: Final = "from rkeyserver.cli.main import main\n\nreturn main()"


def main(out: Path) -> None:
    """Make `out` and say what it measures."""
    folder = out / "rkeyserver"
    folder.mkdir(parents=True, exist_ok=True)
    make_libraries(out / "lib")
    image = build_image(Path(rkeyserver.__file__).parent, bytecode=True)
    put(folder / IMAGE, image, 0o644)
    put(folder / SIGNED, sign_image(image, image_signing_key(), ISV_PROD_ID, ISV_SVN), 0o644)
    put(folder / PROGRAM, launcher(own_interpreter(), WHAT, SIGNED, CALL), 0o755)
    made = load_signed((folder / SIGNED).read_bytes())
    sys.stdout.write(
        f"{folder / PROGRAM}, its image signed with the public development key, which protects nothing:\n"
        f"{values(made.mrenclave, made.mrsigner, made.isv_prod_id, made.isv_svn)}"
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:  # noqa: PLR2004 - a program's name and one argument
        sys.exit("One argument is wanted: the folder to build into.")
    main(Path(sys.argv[1]))
