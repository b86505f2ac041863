"""The chain of the audit file: what each line says of the line before it (docs/spec/audit.md). Bytes in, bytes out.

Head.append(body)      one more line, and the head after it
read_line(bytes)       whether bytes are a line of a chain, and where in it they belong
checkpoint_bytes(...)  what the domain's key signs of a head
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Annotated, Any, Final, Self

import msgspec

from rkeyserver.errors import Misuse, Reason, Rejected
from rkeyserver.framing import framed
from rkeyserver.hex_types import Hex16, Hex32

CHAIN_ID_SIZE: Final = 16
HEAD_SIZE: Final = 32
NO_HEAD: Final = bytes(HEAD_SIZE)  # of a log without any line
MAX_LINE: Final = 128 * 1024  # bytes, with the newline
CHECKPOINT_FORMAT: Final = "rkeyserver-audit-checkpoint/v1"
CHECKPOINT_LABEL: Final = b"rkeyserver/v1 audit checkpoint"
MAX_CHECKPOINT: Final = 4096  # bytes of a document
_LINE: Final = re.compile(
    rb'\{"at":"[ -~]*,"chain":"([0-9a-f]{32})","number":(0|[1-9][0-9]{0,17}),"prev":"([0-9a-f]{64})"\}\n'
)


def body_of(fields: dict[str, Any]) -> bytes:
    """A line's own part: a JSON object that is not closed yet.

    ASCII, all else escaped: whatever a peer had put into an error, nobody reads it as two lines or as a command. What
    is no Unicode is replaced, for not every reader of JSON takes that.
    """
    text = json.dumps(fields, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        fields = json.loads(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
    return json.dumps(fields, separators=(",", ":")).replace("\x7f", "\\u007f").encode()[:-1]


@dataclass(frozen=True)
class Head:
    """Where a chain ends. lines: how many it has, which is the next one's number; digest: SHA-256 of the last one."""

    chain: str
    lines: int
    digest: bytes

    @classmethod
    def before(cls, chain: str) -> Self:
        """That of a chain without any line."""
        return cls(chain, 0, NO_HEAD)

    def append(self, body: bytes) -> tuple[bytes, Head]:
        """The next line, of a body, and the head that it makes."""
        tail = f',"chain":"{self.chain}","number":{self.lines},"prev":"{self.digest.hex()}"}}\n'
        line = body + tail.encode()
        return line, Head(self.chain, self.lines + 1, digest_of(line))


def digest_of(line: bytes) -> bytes:
    """SHA-256 of a whole line, its newline with it."""
    return hashlib.sha256(line).digest()


@dataclass(frozen=True)
class Chained:
    """A line of a chain. number: its place, from 0; prev: the digest of the one before it, as it says."""

    data: bytes
    chain: str
    number: int
    prev: bytes

    @property
    def digest(self) -> bytes:
        """SHA-256 of it."""
        return digest_of(self.data)

    @property
    def head(self) -> Head:
        """The head that it makes."""
        return Head(self.chain, self.number + 1, self.digest)

    def follows(self, head: Head) -> bool:
        """Whether it is what comes after `head`."""
        return (self.chain, self.number, self.prev) == (head.chain, head.lines, head.digest)


def read_line(data: bytes) -> Chained | None:
    """A line of a chain by its form, with its newline; None for any other bytes. What it says is not looked at."""
    if len(data) > MAX_LINE or (found := _LINE.fullmatch(data)) is None:
        return None
    return Chained(data, found[1].decode(), int(found[2]), bytes.fromhex(found[3].decode()))


class _Peer(msgspec.Struct):
    """What is read of a line's peer."""

    machine: str = ""


class Told(msgspec.Struct):
    """What a line of a chain says, as far as a verifier reads it. Fields that are not there are empty."""

    at: str
    event: str
    verdict: str = ""
    domain: str = ""
    machine: str = ""
    peer: _Peer | None = None
    transcript: str = ""
    peer_head: Annotated[str, msgspec.Meta(pattern=r"^(?:[0-9a-f]{64})?\Z")] = ""
    size: int = -1
    sha256: str = ""
    key: str = ""
    signature: str = ""


def told_by(data: bytes) -> Told:
    """What a line says.

    Raises: Rejected(LOG_BROKEN) if it is no JSON object of those fields.
    """
    try:
        return msgspec.json.decode(data, type=Told)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected(Reason.LOG_BROKEN, f"has the form of a line and does not decode: {error}") from error


def checkpoint_bytes(*, domain: str, machine: str, head: Head, at: str) -> bytes:
    """What is signed of a head. at: the time, as lines have it."""
    return framed(
        CHECKPOINT_LABEL,
        domain.encode(),
        machine.encode(),
        head.chain.encode(),
        head.lines.to_bytes(8, "big"),
        head.digest,
        at.encode(),
    )


class Checkpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A signed head, as a document of its own: how many lines the log of `machine` had, and the last one's digest."""

    format: str
    domain: Hex16
    machine: str
    chain: Hex16
    lines: int
    head: Hex32
    at: str
    key: Hex32
    signature: str

    @property
    def signed(self) -> Head:
        """The head that it signs."""
        return Head(self.chain, self.lines, bytes.fromhex(self.head))

    def check(self, key: str) -> None:
        """Whether it is signed. key: the public key that it must be by, hex; empty for the one that it names itself.

        Raises: Rejected(NOT_SIGNED).
        """
        signed = checkpoint_bytes(domain=self.domain, machine=self.machine, head=self.signed, at=self.at)
        check_signature(signed, key=self.key, signature=self.signature, wanted=key)

    def text(self) -> str:
        """The document."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1).decode() + "\n"


def parse_checkpoint(data: bytes) -> Checkpoint:
    """A checkpoint's document; its signature is checked apart.

    Raises: Misuse.
    """
    try:
        if len(data) > MAX_CHECKPOINT:
            raise Misuse(f"The checkpoint has more than {MAX_CHECKPOINT} bytes; at most so many are read.")
        found = msgspec.json.decode(data, type=Checkpoint)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Misuse(
            f"This is no checkpoint: {error}.", advice="Wanted is what `rkeyserver audit checkpoint` prints."
        ) from error
    if found.format != CHECKPOINT_FORMAT or not 0 < found.lines < 2**62:
        raise Misuse(
            f"A checkpoint of format {found.format!r} over {found.lines} lines; wanted is {CHECKPOINT_FORMAT} over at "
            "least one."
        )
    return found


_KEY: Final = re.compile("[0-9a-f]{64}")
_SIGNATURE: Final = re.compile("[0-9a-f]{128}")


def check_key(text: str) -> str:
    """A public key as checkpoints, `status` and --key have it: 64 hex digits.

    Raises: Misuse.
    """
    if not _KEY.fullmatch(text):
        raise Misuse(f"{text!r} is no key of checkpoints; wanted are 64 hex digits, as `rkeyserver status` shows them.")
    return text


def check_signature(signed: bytes, *, key: str, signature: str, wanted: str) -> None:
    """Whether `signature` is one of `key` (both hex) over `signed`. wanted: the key that it must be, empty for any.

    Raises: Rejected(NOT_SIGNED).
    """
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an instance verifies none
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415 - as above

    if wanted and key != wanted:
        raise Rejected(Reason.NOT_SIGNED, f"it is signed with key {key!r}; wanted is {wanted}")
    if not (_KEY.fullmatch(key) and _SIGNATURE.fullmatch(signature)):
        raise Rejected(Reason.NOT_SIGNED, "it has no key and signature of 64 and 128 hex digits")
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(bytes.fromhex(signature), signed)
    except (InvalidSignature, ValueError) as error:
        raise Rejected(Reason.NOT_SIGNED, f"its signature is none of key {key}") from error


@dataclass(frozen=True)
class Piece:
    """Some of a file: at most MAX_LINE bytes of one line. begins, ends: whether a line does with it."""

    data: bytes
    begins: bool
    ends: bool

    @property
    def whole(self) -> bool:
        """Whether it is a line, newline and all."""
        return self.begins and self.ends


def pieces(file: IO[bytes]) -> Iterator[Piece]:
    """A file line by line; of a line that is longer than any of ours, never more than MAX_LINE bytes at once."""
    begins = True
    while data := file.readline(MAX_LINE):
        ends = data.endswith(b"\n")
        yield Piece(data, begins, ends)
        begins = ends
