from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes.machines import loaded, other_signer, running, signed

import rkeyserver
from rkeyserver.errors import Corrupt
from rkeyserver.platforms.product import ISV_PROD_ID, ISV_SVN
from rkeyserver.platforms.sigstruct import SIZE
from rkeyserver.platforms.simulated import keys
from rkeyserver.platforms.simulated.image import PAGE, build_image, load_signed, measure, running_image, sign_image

CODE = b"some code of two pages".ljust(PAGE + 1, b".")


def measured_by_hand(pages: list[bytes], size: int) -> str:
    """MRENCLAVE as the manual builds it: a 64-byte record for each instruction, with what EEXTEND measures behind."""
    log = b"ECREATE\0" + (1).to_bytes(4, "little") + size.to_bytes(8, "little") + bytes(44)
    for number, page in enumerate(pages):
        # A regular page (type 2, bits 8 to 15) that can be read and executed (bits 0 and 2).
        log += b"EADD\0\0\0\0" + (number * 4096).to_bytes(8, "little") + (0x0205).to_bytes(8, "little") + bytes(40)
        for chunk in range(0, 4096, 256):
            log += b"EEXTEND\0" + (number * 4096 + chunk).to_bytes(8, "little") + bytes(48) + page[chunk : chunk + 256]
    return hashlib.sha256(log).hexdigest()


KNOWN: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", measured_by_hand([bytes(4096)], 4096)),
    "a byte": (b"A", measured_by_hand([b"A" + bytes(4095)], 4096)),
    "a page": (b"A" * 4096, measured_by_hand([b"A" * 4096], 4096)),
    "a page and a byte": (b"A" * 4097, measured_by_hand([b"A" * 4096, b"A" + bytes(4095)], 8192)),
    "three pages, in a range of four": (b"B" * 12288, measured_by_hand([b"B" * 4096] * 3, 16384)),
}


@pytest.mark.parametrize(("image", "mrenclave"), KNOWN.values(), ids=KNOWN)
def test_the_measurement_is_the_manuals(image: bytes, mrenclave: str) -> None:
    assert measure(image).hex() == mrenclave


def test_the_measurement_does_not_drift() -> None:
    # A number from the first version: a change of it would be a new MRENCLAVE for every image there is.
    assert measure(b"rkeyserver").hex() == "9abb069367aafc524e8a3e6d0c4c5bd26aa1e60539aa8b718e03479389e659db"


def test_zeros_that_fill_the_last_page_are_in_the_measurement_already() -> None:
    assert measure(b"A") == measure(b"A" + bytes(4095)) != measure(b"A" + bytes(4096))


def test_no_byte_can_be_changed_or_moved() -> None:
    measured = {measure(CODE)}
    for offset in range(0, len(CODE), 16):
        measured.add(measure(CODE[:offset] + bytes([CODE[offset] ^ 1]) + CODE[offset + 1 :]))
    assert len(measured) == 1 + -(-len(CODE) // 16)
    assert measure(b"A" * PAGE + b"B" * PAGE) != measure(b"B" * PAGE + b"A" * PAGE)


def test_a_signed_image_is_loaded_as_what_it_is() -> None:
    image = sign_image(CODE, keys.image_signing_key(), 7, 9)
    assert image[SIZE:] == CODE
    found = load_signed(image)
    assert (found.mrenclave, found.isv_prod_id, found.isv_svn, found.debug) == (measure(CODE), 7, 9, False)
    public = keys.image_signing_key().public_key().public_numbers()
    assert found.mrsigner == hashlib.sha256(public.n.to_bytes(384, "little")).digest()
    assert found.attributes.hex() == "05000000000000000300000000000000"  # initialised, 64-bit


def test_a_debug_enclave_is_one() -> None:
    assert loaded(debug=True).debug
    assert loaded(debug=True).attributes.hex() == "07000000000000000300000000000000"


def test_another_signer_is_in_mrsigner_and_nowhere_else() -> None:
    one, other = loaded(CODE), loaded(CODE, key=other_signer())
    assert one.mrenclave == other.mrenclave
    assert one.mrsigner != other.mrsigner


def flipped(offset: int) -> Callable[[bytes], bytes]:
    return lambda image: image[:offset] + bytes([image[offset] ^ 1]) + image[offset + 1 :]


WRONG: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda _: b"", "has 0 bytes"),
    "the plain archive": (lambda image: image[SIZE:], "no signed enclave image"),
    "only the signature": (lambda image: image[:SIZE], "The enclave image measures"),
    "code with its first byte changed": (flipped(SIZE), "The enclave image measures"),
    "code with its last byte changed": (flipped(-1 + SIZE + len(CODE)), "The enclave image measures"),
    "code that is cut": (lambda image: image[:-1], "The enclave image measures"),
    "code with a page behind it": (lambda image: image + bytes(PAGE), "The enclave image measures"),
    "other code under the signature": (
        lambda image: image[:SIZE] + signed(b"other code")[SIZE:],
        "The enclave image measures",
    ),
    "a signature that was changed": (flipped(600), "does not hold"),
    "the code twice": (lambda image: image + image[SIZE:], "The enclave image measures"),
}


@pytest.mark.parametrize(("change", "says"), WRONG.values(), ids=WRONG)
def test_an_image_that_its_signer_does_not_vouch_for(change: Callable[[bytes], bytes], says: str) -> None:
    with pytest.raises(Corrupt, match=says):
        load_signed(change(signed(CODE)))


def test_from_a_source_tree_the_running_code_is_measured() -> None:
    with zipfile.ZipFile(io.BytesIO(running_image())) as archive:
        names = archive.namelist()
        source = archive.read("rkeyserver/exchange/primary.py")
    assert source == (Path(rkeyserver.__file__).parent / "exchange" / "primary.py").read_bytes()
    assert "rkeyserver/appraisal/default_simulated.toml" in names
    assert names == sorted(names)
    assert not [name for name in names if "__pycache__" in name or not name.startswith("rkeyserver/")]
    found = running()
    assert (found.isv_prod_id, found.isv_svn, found.debug) == (ISV_PROD_ID, ISV_SVN, False)


def package(folder: Path, **files: str) -> Path:
    root = folder / "package"
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize("bytecode", [False, True])
def test_the_same_files_make_the_same_image(tmp_path: Path, *, bytecode: bool) -> None:
    one = package(tmp_path / "one", a_dot_py="x = 1\n", sub__b_dot_py="y = 2\n", c_dot_toml="z = 3\n")
    other = package(tmp_path / "other", c_dot_toml="z = 3\n", sub__b_dot_py="y = 2\n", a_dot_py="x = 1\n")
    (other / "a.py").chmod(0o700)
    (other / "a.txt").write_text("not code")
    (other / "__pycache__").mkdir()
    (other / "__pycache__" / "a.pyc").write_bytes(b"stale")
    assert build_image(one, bytecode=bytecode) == build_image(other, bytecode=bytecode)


def test_any_changed_file_makes_another_image(tmp_path: Path) -> None:
    files = {"a_dot_py": "x = 1\n", "c_dot_toml": "z = 3\n"}
    images = {
        build_image(package(tmp_path / "same", **files), bytecode=False),
        build_image(package(tmp_path / "code", **files | {"a_dot_py": "x = 2\n"}), bytecode=False),
        build_image(package(tmp_path / "data", **files | {"c_dot_toml": "z = 4\n"}), bytecode=False),
        build_image(package(tmp_path / "more", **files, d_dot_py=""), bytecode=False),
    }
    assert len({measure(image) for image in images}) == 4
