"""Shares of a recovery secret: SLIP-39 mnemonics, each in a small document that is encrypted to one recipient (age).

Whatever is done here leaves copies of shares and secret in ordinary memory: what can be overwritten is, and the rest
(halves of the secret, words as text) is the libraries'. It belongs into a process that ends right after, into an
enclave, or onto the machine of a recipient, who may see his own share. docs/spec/recovery.md gives the bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
import pyrage  # type: ignore[import-untyped]  # it ships no types
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from shamir_mnemonic import (  # type: ignore[import-untyped]  # it ships no types
    MnemonicError,
    Share,
    combine_mnemonics,
    generate_mnemonics,
)

from rkeyserver.errors import Corrupt, Misuse
from rkeyserver.hex_types import Hex16
from rkeyserver.sealing.recovery import MAX_SHARE, MAX_SHARES, RecoveryShare, ShareSet
from rkeyserver.secret import erase

SHARE_FORMAT: Final = "rkeyserver-share/v1"
LEAST_RSA_BITS: Final = 2048
MOST_RSA_BITS: Final = 4096
MNEMONIC_WORDS: Final = 33  # of a share of 32 bytes

Recipient = Any  # pyrage has no types
Identity = Any


class ShareDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One share, as its recipient decrypts it. index: its place in the slot; mnemonic: SLIP-39, without passphrase."""

    format: Literal["rkeyserver-share/v1"]
    domain: Hex16
    set: Hex16
    index: Annotated[int, msgspec.Meta(ge=0, lt=MAX_SHARES)]
    mnemonic: Annotated[str, msgspec.Meta(max_length=512, pattern=r"^[a-z]+(?: [a-z]+)*\Z")]

    def __repr__(self) -> str:
        return f"<share {self.index} of set {self.set}>"


def recipient_of(public_key: str) -> Recipient:
    """What can be encrypted to, from a public key as a policy has it.

    Raises: Misuse if it is none of age's (X25519) or OpenSSH's (Ed25519, RSA of at most 4096 bits).
    """
    kind = pyrage.x25519.Recipient if public_key.startswith("age1") else pyrage.ssh.Recipient
    try:
        if public_key.startswith("ssh-rsa "):
            _check_size(public_key)
        return kind.from_str(public_key)
    except (pyrage.RecipientError, ValueError, UnsupportedAlgorithm) as error:
        raise Misuse(
            f"{public_key[:40]!r}... cannot be a recovery recipient: {error}.",
            advice="Wanted is an age X25519 key (age1...) or an OpenSSH key, ssh-ed25519 or ssh-rsa of "
            f"{LEAST_RSA_BITS} to {MOST_RSA_BITS} bits.",
        ) from error


def _check_size(public_key: str) -> None:
    key = load_ssh_public_key(public_key.encode())
    bits = key.key_size if isinstance(key, RSAPublicKey) else 0
    if not LEAST_RSA_BITS <= bits <= MOST_RSA_BITS:
        raise ValueError(f"it has {bits} bits")


def check_recipients(public_keys: Sequence[str]) -> None:
    """Whether a share can be encrypted to each of them: before a policy takes effect that names them.

    Raises: Misuse.
    """
    for one in public_keys:
        recipient_of(one)


def split_secret(secret: bytes, share_set: ShareSet) -> list[RecoveryShare]:
    """One share of `secret` for each recipient, encrypted to it.

    Raises: Misuse if a recipient is no such public key.
    """
    count = len(share_set.recipients)
    recipients = [recipient_of(one) for one in share_set.recipients]
    # SLIP-39 knows no "one of several": with a threshold of one, all get the same single share.
    groups = [(share_set.threshold, count)] if share_set.threshold > 1 else [(1, 1)]
    (mnemonics,) = generate_mnemonics(1, groups, secret, b"", extendable=True, iteration_exponent=0)
    documents = []
    for index in range(count):
        document = ShareDocument(
            format=SHARE_FORMAT,
            domain=share_set.domain,
            set=share_set.set,
            index=index,
            mnemonic=mnemonics[index if share_set.threshold > 1 else 0],
        )
        documents.append(msgspec.json.encode(document))
    try:
        # Tried before they are needed: the first and the last that are enough.
        for some in (documents[: share_set.threshold], documents[-share_set.threshold :]):
            combined = combine_shares(some, share_set)
            right = combined == secret
            erase(combined)
            if not right:
                raise Corrupt("The shares that were just made do not give the secret back.")
        return [
            RecoveryShare(
                recipient=public_key, digest=hashlib.sha256(data).hexdigest(), sealed=pyrage.encrypt(data, [recipient])
            )
            for public_key, data, recipient in zip(share_set.recipients, documents, recipients, strict=True)
        ]
    finally:
        for data in documents:
            erase(data)


def read_share(data: bytes) -> ShareDocument:
    """A share document, with its mnemonic's checksum checked.

    Raises: Corrupt; what it is refused for never quotes it.
    """
    if len(data) > MAX_SHARE:
        raise Corrupt(f"A share of {len(data)} bytes; at most {MAX_SHARE} are read.")
    try:
        document = msgspec.json.decode(data, type=ShareDocument)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Corrupt("This is no share: it does not decode.") from None  # it may quote what it found
    encoded = msgspec.json.encode(document)
    canonical = encoded == data
    erase(encoded)
    if not canonical:
        raise Corrupt("This is no share: it is not in its canonical form.")
    _mnemonic(document)
    return document


def _mnemonic(document: ShareDocument) -> Share:
    try:
        found = Share.from_mnemonic(document.mnemonic)
    except (MnemonicError, ValueError):
        raise Corrupt(f"The words of share {document.index} are damaged: their checksum does not fit.") from None
    single = found.group_count == found.group_threshold == 1 and found.group_index == 0
    if not single or found.iteration_exponent or len(document.mnemonic.split()) != MNEMONIC_WORDS:
        raise Corrupt(f"The words of share {document.index} are no share of a recovery secret.")
    if found.member_threshold > 1 and found.index != document.index:
        raise Corrupt(f"Share {document.index} has the words of share {found.index}.")
    return found


def check_share(document: ShareDocument, share_set: ShareSet) -> None:
    """Whether a share is of that set.

    Raises: Corrupt with what differs.
    """
    for what, found, wanted in (
        ("domain", document.domain, share_set.domain),
        ("set", document.set, share_set.set),
        ("threshold", _mnemonic(document).member_threshold, share_set.threshold),
    ):
        if found != wanted:
            raise Corrupt(f"The share's {what} is {found}; wanted is {wanted}.")
    if document.index >= len(share_set.recipients):
        raise Corrupt(f"Share {document.index} of a set of {len(share_set.recipients)}.")


def combine_shares(shares: Sequence[bytes], share_set: ShareSet) -> bytes:
    """The secret from exactly `threshold` shares.

    Raises: Corrupt if one is no share of the set, if one is there twice, or if they do not belong together.
    """
    documents = [read_share(one) for one in shares]
    for one in documents:
        check_share(one, share_set)
    indices = sorted(one.index for one in documents)
    if len(set(indices)) != len(indices) or len(indices) != share_set.threshold:
        raise Corrupt(f"Shares {indices}; wanted are {share_set.threshold} different ones.")
    try:
        return bytes(combine_mnemonics([one.mnemonic for one in documents], b""))
    except (MnemonicError, ValueError):
        raise Corrupt("The shares do not belong together.") from None


def open_share(sealed: bytes, identities: Sequence[Identity]) -> bytes | None:
    """The share in a slot, if one of the identities (a recipient's private keys) opens it."""
    try:
        found = pyrage.decrypt(sealed, list(identities))
    except pyrage.DecryptError:
        return None
    return bytes(found)
