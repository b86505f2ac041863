"""The enclave image: the package's code in one reproducible archive, measured and signed as an SGX enclave is.

An image is an uncompressed zip that Python imports from. Signed, it is a SIGSTRUCT followed by the very bytes of the
image: zip files are read from their end, so Python imports from the signed file just as well.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import rkeyserver
from rkeyserver.errors import Corrupt
from rkeyserver.platforms import archive, sigstruct
from rkeyserver.platforms.product import ISV_PROD_ID, ISV_SVN
from rkeyserver.platforms.simulated import keys

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa

PAGE: Final = 4096
_CHUNK: Final = 256
_SSA_FRAME_PAGES: Final = 1
_SECINFO_CODE: Final = 0x0205  # a regular page, readable and executable


@dataclass(frozen=True)
class EnclaveIdentity:
    """An enclave as its processor loaded it. mrenclave, mrsigner: 32 bytes; attributes: 16, of the running enclave."""

    mrenclave: bytes
    mrsigner: bytes
    isv_prod_id: int
    isv_svn: int
    attributes: bytes

    @property
    def debug(self) -> bool:
        """Whether anyone may read its memory."""
        return bool(self.attributes[0] & sigstruct.FLAG_DEBUG)


def measure(image: bytes) -> bytes:
    """MRENCLAVE (32 bytes) of an enclave whose pages are `image`, the last one filled up with zeros.

    The SHA-256 over the records that ECREATE, and for each page EADD and sixteen EEXTEND, make (Intel SDM volume 3D).
    """
    pages = max(1, -(-len(image) // PAGE))
    memory = image.ljust(pages * PAGE, b"\0")
    size = PAGE
    while size < len(memory):
        size *= 2
    log = hashlib.sha256(struct.pack("<8sIQ44x", b"ECREATE", _SSA_FRAME_PAGES, size))
    for page in range(0, len(memory), PAGE):
        log.update(struct.pack("<8sQQ40x", b"EADD", page, _SECINFO_CODE))
        for chunk in range(page, page + PAGE, _CHUNK):
            log.update(struct.pack("<8sQ48x", b"EEXTEND", chunk))
            log.update(memory[chunk : chunk + _CHUNK])
    return log.digest()


def build_image(package_dir: Path, *, bytecode: bool) -> bytes:
    """The archive of a package's modules and TOML files: the same bytes for the same files, always.

    bytecode: also the compiled form of each module, which Python then loads without looking at the source; the image
    then depends on the Python version, and loads in any (another version compiles the source).
    """
    entries: dict[str, bytes] = {}
    for path in package_dir.rglob("*"):
        if path.suffix not in {".py", ".toml"} or not path.is_file():
            continue
        name = f"{package_dir.name}/{path.relative_to(package_dir).as_posix()}"
        entries[name] = path.read_bytes()
        if bytecode and path.suffix == ".py":
            entries[name + "c"] = archive.bytecode(entries[name], name)
    return archive.archive(entries)


def sign_image(image: bytes, key: rsa.RSAPrivateKey, isv_prod_id: int, isv_svn: int) -> bytes:
    """The signed image: SIGSTRUCT and the image's bytes."""
    attributes = sigstruct.attributes(debug=False)
    mrenclave = measure(image)
    return (
        sigstruct.sign(key, mrenclave=mrenclave, attributes=attributes, isv_prod_id=isv_prod_id, isv_svn=isv_svn)
        + image
    )


def load_signed(signed: bytes) -> EnclaveIdentity:
    """Load a signed image as a processor does: measure it, check that its signer vouches for just that.

    Raises: Corrupt if it is no signed image, or was changed since it was signed.
    """
    vouched = sigstruct.verify(signed[: sigstruct.SIZE])
    found = measure(signed[sigstruct.SIZE :])
    if found != vouched.mrenclave:
        raise Corrupt(
            f"The enclave image measures {found.hex()}, its signature is for {vouched.mrenclave.hex()}.",
            advice="Build it again with make.",
        )
    flags, xfrm = struct.unpack("<QQ", vouched.attributes)
    return EnclaveIdentity(
        mrenclave=found,
        mrsigner=vouched.mrsigner,
        isv_prod_id=vouched.isv_prod_id,
        isv_svn=vouched.isv_svn,
        attributes=struct.pack("<QQ", flags | sigstruct.FLAG_INIT, xfrm),
    )


def running_image() -> bytes:
    """The signed image of the code that is running: the archive it was imported from.

    Run from a source tree or an installed package there is none: then one is made of the package's files and signed
    with the public development key.

    Raises: Corrupt if the archive or the files can no longer be read.
    """
    from zipimport import zipimporter  # noqa: PLC0415 - a built-in, kept beside its one use

    loader = rkeyserver.__spec__.loader
    try:
        if isinstance(loader, zipimporter):
            return Path(loader.archive).read_bytes()
        image = build_image(Path(rkeyserver.__file__).parent, bytecode=False)
    except OSError as error:
        raise Corrupt(f"The running code cannot be measured: {error}.") from error
    return sign_image(image, keys.image_signing_key(), ISV_PROD_ID, ISV_SVN)
