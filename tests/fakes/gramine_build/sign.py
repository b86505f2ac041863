"""gramine-sgx-sign: hashes every trusted file into a manifest, measures that with the loader, and signs.

The files are expanded as in Gramine's python/graminelibos/manifest.py: a URI that ends with a slash is a folder, taken
with all below it in the order of the names, each file by a URI of its own with its SHA-256. The library OS has its own
beside it.

The measure is another: MRENCLAVE of Gramine is over pages of the manifest, of thread structures and stacks, and of the
loader's segments at their places, in an enclave of the manifest's size (python/graminelibos/sgx_sign.py). Here it is
over the manifest and the loader's file as pages one after the other. Both follow from the same bytes; the numbers
differ.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import tomlkit
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from rkeyserver.platforms import sigstruct
from rkeyserver.platforms.simulated.image import PAGE, measure


def expand(uri: str) -> Iterator[tuple[str, str]]:
    """Each file of a URI, with its SHA-256."""
    path = Path(uri.removeprefix("file:"))
    if not uri.startswith("file:"):
        sys.exit(f"Unsupported URI type: {uri}")
    if uri.endswith("/") != path.is_dir():
        sys.exit(f"Directory URI ({uri!r}) must end with a slash, and no other")
    if path.is_dir():
        for inner in sorted(path.glob("*")):
            if os.access(inner, os.R_OK) and not (inner.is_symlink() and inner.is_dir()):
                yield from expand(f"file:{inner}{'/' if inner.is_dir() else ''}")
    else:
        yield f"file:{path}", hashlib.sha256(path.read_bytes()).hexdigest()


def measure_enclave(manifest: bytes) -> bytes:
    """MRENCLAVE of an enclave with that manifest, as this stand-in has it."""
    loader = (Path(os.environ["STAND_IN"]) / "sgx" / "libpal.so").read_bytes()
    return measure(b"".join(part.ljust(-(-len(part) // PAGE) * PAGE, b"\0") for part in (manifest + b"\0", loader)))


def main(words: list[str]) -> None:
    """Sign one manifest."""
    parser = argparse.ArgumentParser("gramine-sgx-sign", allow_abbrev=False)
    config = Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config"))
    parser.add_argument("--output", "-o", type=Path, required=True)
    parser.add_argument("--manifest", "-m", type=Path, required=True)
    parser.add_argument("--key", "-k", type=Path, default=config / "gramine" / "enclave-key.pem")
    parser.add_argument("--sigfile", "-s", type=Path)
    parser.add_argument("--date", default="today")
    parser.add_argument("--verbose", "-v", action="store_true")
    parser.add_argument("--quiet", "-q", action="store_true")
    found = parser.parse_args(words)
    if not re.fullmatch(r"today|\d{4}-\d{2}-\d{2}", found.date):
        sys.exit(f"Invalid value for '--date': {found.date}")
    key = load_pem_private_key(found.key.read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)

    manifest = tomllib.loads(found.manifest.read_text(encoding="utf-8"))
    sgx = manifest["sgx"]
    entrypoint = manifest["loader"]["entrypoint"]
    ((_, entrypoint["sha256"]),) = expand(entrypoint["uri"])
    hashed = dict(file for one in sgx["trusted_files"] for file in expand(one["uri"]))
    sgx["trusted_files"] = [{"uri": uri, "sha256": digest} for uri, digest in hashed.items()]
    text = tomlkit.dumps(manifest).encode()
    found.output.write_bytes(text)
    structure = found.sigfile or found.manifest.with_suffix(".sig")
    structure.write_bytes(
        sigstruct.sign(
            key,
            mrenclave=measure_enclave(text),
            attributes=sigstruct.attributes(debug=sgx["debug"]),
            isv_prod_id=sgx["isvprodid"],
            isv_svn=sgx["isvsvn"],
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])
