"""The sealed record: a readable header, and one ciphertext under a record key that each slot wraps.

    rkeyserver-record/v1 LF
    header, one line of canonical JSON LF
    ciphertext: AES-256-GCM under the record key, nonce zero, associated data = all bytes before it

The record key is fresh for each seal(). docs/spec/record.md gives the bytes. The header can be read anywhere and is
believed only after the ciphertext has opened. Errors say what is wrong with a record; which ways there are besides it
knows who has the keystore.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from rkeyserver.errors import Corrupt, Unavailable
from rkeyserver.framing import framed
from rkeyserver.hex_types import Hex16, Hex32
from rkeyserver.plain import in_words
from rkeyserver.sealing.aead import TAG_SIZE, open_once, seal_once
from rkeyserver.sealing.recovery import Place, Recovery, RecoverySlot, check_slot, open_slot, seal_slot
from rkeyserver.sealing.sealer import PlatformSealer, SealingIdentity
from rkeyserver.secret import SecretBytes

_FOLDER: Final = "Is --machine the folder of the right simulated machine?"
MAGIC: Final = b"rkeyserver-record/v1\n"
MAX_HEADER: Final = 512 * 1024  # 1024 generations, 1024 members, and 16 recovery recipients with RSA keys of 4096 bits
MAX_MEMBERS: Final = 1024
MAX_MEMBERS_SIZE: Final = 336 * 1024  # bytes of them in a header: what the longest of all else leaves
RECORD_KEY_SIZE: Final = 32

_COUNT: Final = "a whole number from 0 on"
# What each field has to be, for people.
_WANTED: Final = {
    "domain": "32 hexadecimal digits",
    "generations": "a list of 1 to 1024 ids, each of 32 hexadecimal digits",
    "epoch": _COUNT,
    "sequence": _COUNT,
    "written": _COUNT,
    "member": "32 hexadecimal digits",
    "members": "a list of at most 1024 members",
    "slots": "a list of one platform slot, and perhaps a recovery slot",
}
_FOREIGN_MAGIC: Final = re.compile(rb"rkeyserver-record/[0-9a-z]+\n")

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[0-9a-z:._-]+\Z")]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
MemberAddress = Annotated[str, msgspec.Meta(max_length=300, pattern=r"^[0-9A-Za-z.:\[\]_%-]*\Z")]


class PlatformSlot(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="platform"):
    """The record key wrapped by the platform of one machine. Field meanings as in SealingIdentity.

    Whoever writes the file writes these; they are shown before anything is proved, so they are plain names.
    """

    platform: Name
    machine: Name
    policy: Name
    versions: dict[Name, Name]
    wrapped: bytes


class KnownMember(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another instance of the domain, as the owner of a record knows it. No secret.

    machine: the machine that it was proved to run on; address: where it says that it answers, empty for nowhere; epoch,
    sequence, digest: which state of the keyring it has acknowledged, as keyring.Place has them, 0, 0 and zeros for
    none; seen: when it was heard of, seconds since 1970.
    """

    member: Hex16
    machine: Name
    address: MemberAddress
    epoch: Count
    sequence: Count
    digest: Hex32
    seen: Count


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What can be read of a record without a key.

    domain: the domain's id; generations: ids of the root key's generations, oldest first; epoch, sequence: which
    state of the keyring this is; written: when it was sealed, seconds since 1970; member: which instance of the domain
    the record belongs to; members: the others that it knows; slots: exactly one of a platform, and behind it at most
    one for recovery.
    """

    domain: Hex16
    generations: Annotated[list[Hex16], msgspec.Meta(min_length=1, max_length=1024)]
    epoch: Count
    sequence: Count
    written: Count
    member: Hex16
    members: Annotated[list[KnownMember], msgspec.Meta(max_length=MAX_MEMBERS)]
    slots: Annotated[list[PlatformSlot | RecoverySlot], msgspec.Meta(min_length=1, max_length=2)]

    @property
    def slot(self) -> PlatformSlot:
        """The platform slot."""
        (found,) = (one for one in self.slots if isinstance(one, PlatformSlot))
        return found

    @property
    def recovery(self) -> RecoverySlot | None:
        """The recovery slot, if there is one."""
        return next((one for one in self.slots if isinstance(one, RecoverySlot)), None)


@dataclass(frozen=True)
class Contents:
    """What the owner of a record says about it: the header less its slots."""

    domain: str
    generations: tuple[str, ...]
    epoch: int
    sequence: int
    written: int
    member: str
    members: tuple[KnownMember, ...]


@dataclass(frozen=True)
class Record:
    """A record taken apart, not yet opened. `head` is every byte that the ciphertext is bound to."""

    header: Header
    head: bytes
    ciphertext: bytes


def _slot_data(contents: Contents | Header, identity: SealingIdentity | PlatformSlot) -> bytes:
    return framed(
        b"rkeyserver/v1 platform slot",
        contents.domain.encode(),
        str(contents.epoch).encode(),
        str(contents.sequence).encode(),
        identity.platform.encode(),
        identity.machine.encode(),
        identity.policy.encode(),
    )


def _place(header: Contents | Header) -> Place:
    return Place(header.domain, header.epoch, header.sequence)


def seal(contents: Contents, plaintext: memoryview, sealer: PlatformSealer, recovery: Recovery | None = None) -> bytes:
    """Seal `plaintext` (in key memory) for the machine that `sealer` stands for; returns the record's bytes.

    recovery: who else opens it together; None for nobody.
    Raises: Unavailable if the platform gives no key now, or if it could not be read again; as Sharing.split().
    """
    identity = sealer.identity()
    with SecretBytes.random(RECORD_KEY_SIZE) as record_key:
        slot = PlatformSlot(
            platform=identity.platform,
            machine=identity.machine,
            policy=identity.policy,
            versions=identity.versions,
            wrapped=sealer.seal(record_key.view, _slot_data(contents, identity)),
        )
        slots: list[PlatformSlot | RecoverySlot] = [slot]
        if recovery is not None:
            slots.append(seal_slot(record_key.view, _place(contents), recovery))
        header = Header(
            domain=contents.domain,
            generations=list(contents.generations),
            epoch=contents.epoch,
            sequence=contents.sequence,
            written=contents.written,
            member=contents.member,
            members=list(contents.members),
            slots=slots,
        )
        head = MAGIC + msgspec.json.encode(header) + b"\n"
        made = head + seal_once(record_key.view, plaintext, head)
    _read_again(made)
    return made


def _read_again(made: bytes) -> None:
    """Whether a record that was made can be read: else it would replace one that can.

    Raises: Unavailable.
    """
    try:
        parse(made)
    except Corrupt as error:
        raise Unavailable(
            f"The record would not be one that opens again. {error.message}",
            advice="Nothing was stored. This is a bug: please report it.",
        ) from error


def parse(record: bytes) -> Record:
    """Take a record apart without opening it. Nothing in the result is proved.

    Raises: Corrupt with what was found.
    """
    if not record.startswith(MAGIC):
        if match := _FOREIGN_MAGIC.match(record):
            raise Corrupt(
                f"This record's format is {match[0].strip().decode()}; this version reads {MAGIC.strip().decode()}.",
                advice="Start the version that wrote it.",
            )
        raise Corrupt(
            # What it begins with is not said: it may be a key.
            f"This is no record: it does not begin with {MAGIC.strip().decode()}."
        )
    end = record.find(b"\n", len(MAGIC), len(MAGIC) + MAX_HEADER)
    if end < 0:
        raise Corrupt("The record's header has no end: the file is truncated or damaged.")
    line = record[len(MAGIC) : end]
    try:
        header = msgspec.json.decode(line, type=Header)
    except msgspec.ValidationError as error:
        raise Corrupt(f"The record's header is damaged: {in_words(error, _WANTED)}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt("The record's header is damaged: it is no JSON object as a header is one.") from error
    if msgspec.json.encode(header) != line:
        raise Corrupt("The record's header is not in its canonical form: it was edited.")
    _check_slots(header)
    ciphertext = record[end + 1 :]
    if len(ciphertext) <= TAG_SIZE:
        raise Corrupt(f"The record ends {len(ciphertext)} bytes after its header: it is truncated.")
    return Record(header=header, head=record[: end + 1], ciphertext=ciphertext)


def _check_slots(header: Header) -> None:
    kinds = [type(one) for one in header.slots]
    if kinds not in ([PlatformSlot], [PlatformSlot, RecoverySlot]):
        raise Corrupt(
            f"The record's header is damaged: its slots are {', '.join(one.__name__ for one in kinds)}; "
            "wanted are one of a platform, then at most one for recovery."
        )
    if header.recovery is not None:
        check_slot(header.recovery)


def unseal(record: Record, sealer: PlatformSealer) -> SecretBytes:
    """Open a record on the machine that `sealer` stands for; returns the plaintext, which the caller closes.

    Raises: Corrupt, naming what differs: platform, machine, versions, or the bytes themselves.
    """
    slot, here = record.header.slot, sealer.identity()
    if slot.platform != here.platform:
        raise Corrupt(
            f"The record was sealed on platform {slot.platform}; this is {here.platform}.",
            advice=f"Start with --platform {slot.platform} on the machine that it belongs to.{_recover(record.header)}",
        )
    if slot.machine != here.machine:
        raise Corrupt(
            f"The record was sealed by machine {slot.machine}; this is machine {here.machine}. It opens only there.",
            advice=f"{_FOLDER if slot.platform == 'simulated' else ''}{_recover(record.header)}".lstrip(),
        )
    with SecretBytes(RECORD_KEY_SIZE) as record_key:
        try:
            sealer.unseal(slot.wrapped, _slot_data(record.header, slot), record_key.view)
        except Corrupt as error:
            raise Corrupt(
                f"This machine does not open the record: {_versions(slot, here)}.", advice=_recover(record.header)
            ) from error
        return _open(record, record_key)


def unseal_recovered(record: Record, secret: memoryview) -> SecretBytes:
    """Open a record of any machine with its recovery secret; returns the plaintext, which the caller closes.

    Raises: Corrupt if it has no recovery slot, or does not open.
    """
    slot = record.header.recovery
    if slot is None:
        raise Corrupt("The record has no recovery slot: only the machine that sealed it opens it.")
    with SecretBytes(RECORD_KEY_SIZE) as record_key:
        open_slot(slot, _place(record.header), secret, record_key.view)
        return _open(record, record_key)


def _open(record: Record, record_key: SecretBytes) -> SecretBytes:
    plaintext = SecretBytes(len(record.ciphertext) - TAG_SIZE)
    if not open_once(record_key.view, record.ciphertext, record.head, plaintext.view):
        plaintext.close()
        raise Corrupt("The record was changed after it was sealed: its slot opens, its contents do not.")
    return plaintext


def _recover(header: Header) -> str:
    """What else helps, where the record has recovery shares."""
    return (
        "" if header.recovery is None else f"Its recovery recipients can open it: --recover --domain {header.domain}."
    )


def _versions(slot: PlatformSlot, here: SealingIdentity) -> str:
    changed = [f"{name} was {was}, is {now}" for name, was, now in differences(slot, here)]
    if slot.policy != here.policy:
        changed.insert(0, f"it was sealed to {slot.policy}, this instance seals to {here.policy}")
    if changed:
        return "since it was sealed, " + "; ".join(changed)
    return "its slot was damaged, or the image that sealed it had another signer"


def differences(slot: PlatformSlot, here: SealingIdentity) -> list[tuple[str, str, str]]:
    """What the slot's key depends on, by its header, and is different here: (name, then, now), by name."""
    # Of keys of two kinds each has a measurement that the other has not.
    own = set() if slot.policy == here.policy else {slot.policy, here.policy}
    return [
        (name, slot.versions.get(name, "absent"), here.versions.get(name, "absent"))
        for name in sorted((slot.versions | here.versions).keys() - own)
        if slot.versions.get(name) != here.versions.get(name)
    ]
