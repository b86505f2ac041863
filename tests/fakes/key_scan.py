"""Looks for the keys of a record in files and in the memory of processes: whole, or in parts of eight bytes.

    python -m tests.fakes.key_scan MACHINE RECORD [--processes PID...] [--files PATH...] [--labels LABEL...]

A process of its own, so that no key is ever in the test that asks. It opens the record as its machine does; prints what
was found where, as JSON, how many bytes were looked at, and how much key memory each process has; never what was found.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import itertools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rkeyserver.clock import Clock
from rkeyserver.keyring.derivation import KEY_SIZE, Purpose, derive_into
from rkeyserver.keyring.sealed import open_keyring
from rkeyserver.platforms.sgx.platform import KeyPolicy, SgxPlatform
from rkeyserver.platforms.simulated.platform import SimulatedPlatform
from rkeyserver.platforms.simulated.processor import SEAL_KEY_SIZE
from rkeyserver.sealing import record

PART: Final = 8
IN_MEMORY: Final = frozenset({"raw", "hex", "base64"})  # the rest is how a program prints, which the files show
KEY_MEMORY: Final = frozenset({"lo", "dd", "dc"})  # locked, in no dump, in no child
HIDDEN: Final = "/secretmem (deleted)"
_BLOCK: Final = 64 * 1024
_OVERLAP: Final = 64


def patterns(key: bytes) -> dict[bytes, str]:
    """Every form in which `key`, or an eighth byte part of it, may be seen, and that form's name."""
    found: dict[bytes, str] = {}
    for start in range(0, len(key), PART):
        part = key[start : start + PART]
        found[part] = "raw"
        found[part[::-1]] = "raw, reversed"
        found[part.hex().encode()] = "hex"
        found[part.hex().upper().encode()] = "hex"
        for between in (" ", ":", "\\x"):
            found[part.hex(" ").replace(" ", between).encode()] = "hex, separated"
        for between in (",", ", ", " "):
            found[between.join(map(str, part)).encode()] = "decimal"
        found[repr(part)[2:-1].encode()] = "as Python shows it"
        for shift in range(3):
            # Of the base64 of anything that this part is in, at any offset, what depends on the part alone.
            whole = base64.b64encode(bytes(shift) + part + bytes(3))
            first, last = -(-shift * 8 // 6), (shift + PART) * 8 // 6
            found[whole[first:last]] = "base64"
            found[whole[first:last].translate(bytes.maketrans(b"+/", b"-_"))] = "base64"
    return found


def machine_in(machine: Path) -> SimulatedPlatform | SgxPlatform:
    """The machine of a folder: that of a simulated processor, or what stands in for /dev/attestation."""
    if (machine / "attestation_type").exists():
        from tests.sgx.machines import HereDevice  # noqa: PLC0415 - it needs FUSE, which simulated machines do not

        return SgxPlatform.open(HereDevice(machine), KeyPolicy.MRSIGNER)
    return SimulatedPlatform.open(machine, Clock())


def keys(machine: Path, path: Path, labels: Sequence[str] = ()) -> Iterator[tuple[str, bytes]]:
    """What has to stay hidden: the keyring's keys, and the record key and the sealing key, which open it.

    labels: of applications, whose keys derived from the current root key are looked for as well.
    """
    platform = machine_in(machine)
    parsed = record.parse(path.read_bytes())
    keyring = open_keyring(parsed, platform)
    yield "domain secret", bytes(keyring._key(0))
    yield "root key", bytes(keyring.root_key(keyring.current.id))
    for number, generation in enumerate(keyring.generation_ids[:-1], start=1):
        yield f"root key of generation {number}", bytes(keyring.root_key(generation))
    for label in labels:
        derived = bytearray(KEY_SIZE)
        root_key, into = keyring.root_key(keyring.current.id), memoryview(derived)
        derive_into(root_key, domain=keyring.domain, purpose=Purpose.RA_TLS_SECRET, label=label.encode(), into=into)
        yield f"key of {label}", bytes(derived)
    opened = bytearray(KEY_SIZE)
    platform.unseal(
        parsed.header.slot.wrapped, record._slot_data(parsed.header, parsed.header.slot), memoryview(opened)
    )
    yield "record key", bytes(opened)
    sealing = bytearray(SEAL_KEY_SIZE)
    if isinstance(platform, SgxPlatform):
        platform.device.seal_key(platform.key_policy, memoryview(sealing))
    else:
        platform.processor.seal_key(platform.key_policy, platform.enclave, memoryview(sealing))
    yield "sealing key", bytes(sealing)


@dataclass(frozen=True)
class Mapping:
    """A piece of a process's address space. flags: as smaps abbreviates them."""

    start: int
    end: int
    rights: str
    name: str
    flags: frozenset[str]

    @property
    def holds_keys(self) -> bool:
        """Whether it is as a SecretBytes makes one: nothing else of these processes is locked, undumped and unforked.

        Neighbours may have become one mapping.
        """
        return self.flags >= KEY_MEMORY and (self.rights, self.name) in {("rw-p", ""), ("rw-s", HIDDEN)}


def mappings(pid: int | str) -> Iterator[Mapping]:
    """All that a process has mapped."""
    pattern = r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+ *(.*)$(?:\n\w+: .*)*?\nVmFlags: (.*)$"
    for found in re.finditer(pattern, Path(f"/proc/{pid}/smaps").read_text(), re.MULTILINE):
        start, end, rights, name, flags = found.groups()
        yield Mapping(int(start, 16), int(end, 16), rights, name, frozenset(flags.split()))


def memory(pid: int) -> Iterator[tuple[str, bytes]]:
    """Every readable mapping of a process, in pieces that overlap."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as file:
        for one in mappings(pid):
            if not one.rights.startswith("r") or one.name in {"[vvar]", "[vvar_vclock]", "[vsyscall]"}:
                continue
            where = "key memory" if one.holds_keys else one.name or "anonymous"
            for at in range(one.start, one.end, _BLOCK):
                file.seek(at)
                try:
                    yield f"process {pid}, {where}", file.read(min(_BLOCK + _OVERLAP, one.end - at))
                except OSError:
                    break  # memfd_secret, or a file mapped beyond its end: nobody reads that


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """One file."""
    yield str(path), path.read_bytes()


def look(pieces: Iterator[tuple[str, bytes]], wanted: dict[bytes, str], found: set[tuple[str, str]]) -> int:
    """Add to `found` which of `wanted` is where in `pieces`; the bytes that were looked at.

    What is there many times (zeros, a library that every process has mapped) is looked at once.
    """
    looked, seen = 0, set[bytes]()
    for where, data in pieces:
        looked += len(data)
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            found |= {(where, name) for pattern, name in wanted.items() if pattern in data}
    return looked


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("machine", type=Path)
    parser.add_argument("record", type=Path)
    parser.add_argument("--processes", type=int, nargs="*", default=[])
    parser.add_argument("--files", type=Path, nargs="*", default=[])
    parser.add_argument("--labels", nargs="*", default=[])
    given = parser.parse_args()
    wanted, in_memory = dict[bytes, str](), dict[bytes, str]()
    for name, key in keys(given.machine, given.record, given.labels):
        for pattern, form in patterns(key).items():
            wanted[pattern] = f"{name}, {form}"
            if form in IN_MEMORY:
                in_memory[pattern] = wanted[pattern]
    found: set[tuple[str, str]] = set()
    looked = look(itertools.chain.from_iterable(map(memory, given.processes)), in_memory, found)
    looked += look(itertools.chain.from_iterable(map(contents, given.files)), wanted, found)
    key_memory = {pid: sum(one.end - one.start for one in mappings(pid) if one.holds_keys) for pid in given.processes}
    json.dump({"looked": looked, "found": sorted(found), "key_memory": key_memory}, sys.stdout)


if __name__ == "__main__":
    main()
