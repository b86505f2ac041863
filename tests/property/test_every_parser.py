"""No parser of outside bytes is forgotten: each function that decodes anything is run by a target, or says why not.

What counts is what the code does, not what it is called: a function in whose body one of DECODERS is called. Whether a
target runs it is measured, with the target's own genuine inputs.
"""

from __future__ import annotations

import ast
import gc
import sys
from collections.abc import Iterator
from functools import _lru_cache_wrapper
from pathlib import Path
from types import FrameType
from typing import Any, Final

from tests.property.check import check
from tests.property.everything import TARGETS

import rkeyserver

SOURCE: Final = Path(rkeyserver.__file__).parent

# Methods and functions that make something of bytes or text that may be anything.
DECODERS: Final = frozenset(
    {
        *(
            "loads",
            "convert",
            "unpack",
            "unpack_from",
            "from_bytes",
            "fromhex",
            "b64decode",
            "from_str",
            "literal_eval",
        ),
        *("from_mnemonic", "combine_mnemonics", "from_public_bytes", "verify_with_policy", "parse", "fullmatch"),
        *("load_ssh_public_key", "load_ssh_private_key", "load_pem_private_key", "load_der_x509_crl"),
        *("load_der_x509_certificate", "load_pem_x509_certificate", "load_pem_x509_certificates"),
    }
)
# Of these it depends on what they are called on, or with.
ENCODED: Final = frozenset({"b64encode", "public_bytes", "encode", "strip", "urlsafe_b64encode"})

WITHOUT: Final[dict[str, str]] = {
    "cli/host_lock.py _note": "a line for people; what is no note of ours is not shown",
    "cli/identity_file.py _decrypted": "age opens its owner's own file under his passphrase, slowly on purpose",
    "attestation/sgx/choose.py _in_force": "decode(), as in choose(); tests/unit/service/test_held.py",
    "client/release.py _wanting": "reads what it has written itself; tests/integration/test_release.py",
    "cli/collateral.py run": "prints what it has written",
    "cli/enclave.py _run": "parse() of the one file that the host writes; tests/attacks/test_hostile_host.py",
    "cli/recovery.py _request": "dearmour() or decode() of a file; tests/unit/cli/test_recovery.py",
    "keystore/file.py FileKeystore._remove_stale": "compares names; what is none of ours is left alone",
    "keystore/file.py FileKeystore.replace": "compares a name of ours",
    "keystore/file_read.py kept_beside": "compares names; what is none of ours is left alone",
    "keystore/postgresql.py Postgresql._in_use": "a name for people; what is none of ours is shown as it is",
    "keystore/sql.py SqlKeystore.replace": "compares a name of ours",
    "keystore/sqlite.py Sqlite.owns": "compares names",
    "keystore/table.py Owner.number": "makes a number of a digest",
    "sealing/record.py _read_again": "parse() of what it has made itself; tests/attacks/test_members.py",
    "service/members.py _as_stored": "an address of a message that was decoded; tests/attacks/test_members.py",
    "platforms/simulated/certificates.py _issue": "makes a number of a digest",
    "platforms/simulated/pki.py Authority._chain": "reads a constant",
    "platforms/sigstruct.py sign": "makes a number of a signature of its own",
    "service/app.py read_body": "a length of digits that were looked at; tests/unit/service/test_limits.py",
    "service/doctor_look.py Look.record": "parse() of read_if_there(); tests/unit/service/test_doctor.py",
    "service/drill.py Drill._open": "parse() and open_keyring(), and any error of ours is told",
    "service/fetch.py fetch_claimed": "decode() of two messages, and any Rejected is None",
    "service/instance.py Instance._stored": "parse(), and any error of ours is told",
    "service/local_caller.py local_caller": "what the kernel says; tests/unit/service/test_local_socket.py",
    "service/run.py _come_to_a_keyring": "parse() of what look() has parsed",
    "service/join.py start_standby": "parse() of what look() has parsed",
    "service/provision.py Provisioner._give": "ra_tls.parse(); tests/attacks/test_ra_tls.py",
    "service/recover.py Recoverer._to_recover": "parse() of what look() has parsed",
    "service/sharing_worker.py work": "what the server sends to its own process",
    "service/worker.py work": "what the server sends to its own process; verify() reads the evidence in it",
}


def _decodes(call: ast.Call) -> bool:
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name in {"decode", "decrypt", "from_buffer"}:
        if not isinstance(function, ast.Attribute):
            return True
        on = function.value
        made_here = isinstance(on, ast.Call) and getattr(on.func, "attr", getattr(on.func, "id", "")) in ENCODED
        in_place = isinstance(on, ast.Attribute) and getattr(on.value, "id", "") == "ctypes"
        replaces = len(call.args) > 1 and isinstance(call.args[1], ast.Constant)
        return not (made_here or in_place or replaces)
    return name in DECODERS


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    def inside(node: ast.AST, before: str) -> Iterator[tuple[str, ast.AST]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield before + child.name, child
                yield from inside(child, f"{before}{child.name}.<locals>.")
            elif isinstance(child, ast.ClassDef):
                yield from inside(child, f"{before}{child.name}.")
            else:
                yield from inside(child, before)

    return inside(tree, "")


def _calls(node: ast.AST) -> Iterator[ast.Call]:
    """Of this function alone, not of those within it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield child
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield from _calls(child)


def decoding() -> set[str]:
    """Each function of the package that decodes something, as FILE QUALNAME."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        for name, node in _functions(ast.parse(path.read_text())):
            if any(_decodes(call) for call in _calls(node)):
                found.add(f"{path.relative_to(SOURCE)} {name}")
    return found


def reached() -> set[str]:
    """Each function of the package that a target enters."""
    found: set[str] = set()

    def note(frame: FrameType, event: str, _arg: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(SOURCE)):
            found.add(f"{Path(code.co_filename).relative_to(SOURCE)} {code.co_qualname}")

    every = [target.seeds() for target in TARGETS.values()]
    for one in gc.get_objects():
        if isinstance(one, _lru_cache_wrapper) and one.__module__.startswith("rkeyserver."):
            one.cache_clear()  # what is remembered would not be read
    for target, seeds in zip(TARGETS.values(), every, strict=True):
        sys.setprofile(note)
        try:
            for data in seeds:
                check(target, data)
        finally:
            sys.setprofile(None)
    return found


def test_every_function_that_decodes_is_run_by_a_target_or_says_why_not() -> None:
    found, run = decoding(), reached()
    assert found - run - set(WITHOUT) == set(), "add a target to targets.py, or say in WITHOUT why there is none"
    assert set(WITHOUT) - found == set(), "no longer there"
    assert set(WITHOUT) & run == set(), "run by a target after all"
