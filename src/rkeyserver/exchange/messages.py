"""The messages of the exchange, exactly as they travel (docs/spec/exchange.md, "Messages", and release.md).

MessagePack maps with a `type` field, decoded strictly: unknown fields, other types, other lengths and every
non-canonical form of the same message are refused. Sizes are capped before anything is decoded.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeVar

import msgspec

from rkeyserver.appraisal.policy import GenerationName, Label
from rkeyserver.attestation.evidence import MAX_ENDORSEMENTS, MAX_EVIDENCE, Identity
from rkeyserver.errors import Reason, Rejected
from rkeyserver.hex_types import Hex16
from rkeyserver.keyring.derived import MAX_SIZE, MIN_SIZE
from rkeyserver.sealing.record import MAX_MEMBERS, KnownMember, MemberAddress
from rkeyserver.sealing.recovery import MAX_SHARE

PROTOCOL_VERSION: Final = 1
NONCE_SIZE: Final = 32
MAC_SIZE: Final = 32
AUDIT_HEAD_SIZE: Final = 32
DIGEST_SIZE: Final = 32
KEM_PUBLIC_KEY_SIZE: Final = 1216
MAX_IDENTITY: Final = 16 * 1024
MAX_CIPHERTEXT: Final = 256 * 1024 + 2048
MAX_MEMBERS_SIZE: Final = 512 * 1024
MAX_CONTRIBUTED: Final = MAX_SHARE + 2048
MAX_RELEASED: Final = 16  # keys in one release
MAX_RELEASED_CIPHERTEXT: Final = MAX_RELEASED * MAX_SIZE + 2048

Nonce = Annotated[bytes, msgspec.Meta(min_length=NONCE_SIZE, max_length=NONCE_SIZE)]
Mac = Annotated[bytes, msgspec.Meta(min_length=MAC_SIZE, max_length=MAC_SIZE)]
Instance = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[0-9a-z:._-]+\Z")]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Sha512 = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
KemPublicKey = Annotated[bytes, msgspec.Meta(min_length=KEM_PUBLIC_KEY_SIZE, max_length=KEM_PUBLIC_KEY_SIZE)]
Opaque = Annotated[bytes, msgspec.Meta(max_length=MAX_IDENTITY)]
AuditHead = Annotated[bytes, msgspec.Meta(min_length=AUDIT_HEAD_SIZE, max_length=AUDIT_HEAD_SIZE)]


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of all messages."""


class Hello(Message, frozen=True, tag="hello"):
    """Standby to primary, first.

    instance: random per start, so that an instance notices that it talks to itself. platform, machine: who it will
    prove to be. identity: what the platform's credential exchange needs, empty where it has none.
    """

    version: int
    instance: Instance
    platform: Name
    machine: Name
    identity: Opaque


class ChallengeBody(Message, frozen=True, tag="challenge-body"):
    """What the primary answers to a hello; time: its clock, seconds since 1970. Else as in Hello."""

    nonce: Nonce
    time: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    instance: Instance
    platform: Name
    machine: Name
    identity: Opaque
    credential: Opaque


class Challenge(Message, frozen=True, tag="challenge"):
    """A challenge body and the primary's MAC over hello and body, so that the primary keeps no state."""

    body: Annotated[bytes, msgspec.Meta(max_length=3 * MAX_IDENTITY)]
    mac: Mac


class AttestedMessage(Message, frozen=True, tag="attested"):
    """Claims bytes, the evidence whose report data covers them, and endorsements for its verifier."""

    claims: Annotated[bytes, msgspec.Meta(max_length=3 * MAX_IDENTITY)]
    evidence: Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_EVIDENCE)]
    endorsements: Annotated[bytes, msgspec.Meta(max_length=MAX_ENDORSEMENTS)]


class Request(Message, frozen=True, tag="request"):
    """Hello and challenge as they were sent, and what vouches for the request."""

    hello: Annotated[bytes, msgspec.Meta(max_length=2 * MAX_IDENTITY)]
    challenge: Annotated[bytes, msgspec.Meta(max_length=4 * MAX_IDENTITY)]
    attested: AttestedMessage


class RequestClaims(Message, frozen=True, tag="request-claims"):
    """What the standby's evidence covers.

    nonce: the standby's own; kem_public_key: one-time, ML-KEM-768 (1184 bytes) then X25519 (32); credential_mac:
    HMAC-SHA256 under the activated credential, empty where the platform has none; credential: for the primary.
    member: which instance of the domain it is; address: where it answers, empty for nowhere, and of the connection's
    own host where it begins with a colon. epoch, sequence, digest: the state of the keyring that it holds durably, as
    keyring.Place has them; zeros and no digest for none.
    audit_head: of the standby's log, SHA-256 of its last line, zero bytes before there is one.
    """

    nonce: Nonce
    kem_public_key: Annotated[bytes, msgspec.Meta(min_length=KEM_PUBLIC_KEY_SIZE, max_length=KEM_PUBLIC_KEY_SIZE)]
    credential_mac: Annotated[bytes, msgspec.Meta(max_length=MAC_SIZE)]
    credential: Opaque
    member: Hex16
    address: MemberAddress
    epoch: Count
    sequence: Count
    digest: Annotated[bytes, msgspec.Meta(max_length=DIGEST_SIZE)]
    audit_head: AuditHead


class Grant(Message, frozen=True, tag="grant"):
    """The keyring for the standby: HPKE encapsulated key and ciphertext, and what vouches for it and for `members`.

    members: a Members, as the granter knows them.
    """

    attested: AttestedMessage
    ciphertext: Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_CIPHERTEXT)]
    members: Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_MEMBERS_SIZE)]


class Members(Message, frozen=True, tag="members"):
    """Who answers, and the other instances of the domain that it knows: no secret."""

    member: Hex16
    members: Annotated[list[KnownMember], msgspec.Meta(max_length=MAX_MEMBERS)]


class GrantClaims(Message, frozen=True, tag="grant-claims"):
    """What the primary's evidence covers.

    nonce: the standby's; credential_answer: to the standby's credential; audit_head: of the primary's log, which has
    this hand-over's line by then.
    """

    ciphertext_sha512: Sha512
    members_sha512: Sha512
    nonce: Nonce
    credential_answer: Annotated[bytes, msgspec.Meta(max_length=MAC_SIZE)]
    audit_head: AuditHead


class RecoveryRequest(Message, frozen=True, tag="recovery-request"):
    """What an instance asks the recovery recipients for, and what vouches for it. It carries all that they need."""

    attested: AttestedMessage


class RecoveryRequestClaims(Message, frozen=True, tag="recovery-request-claims"):
    """What the recovering instance's evidence covers.

    platform, machine: who it is; domain, epoch, sequence, record_sha512: the record that it is to open; slot: the
    record's recovery slot, as it stands there; time: its clock, seconds since 1970. Else as in RequestClaims.
    """

    version: int
    platform: Name
    machine: Name
    domain: Hex16
    epoch: Count
    sequence: Count
    record_sha512: Sha512
    slot: Annotated[bytes, msgspec.Meta(max_length=3 * MAX_IDENTITY)]
    kem_public_key: KemPublicKey
    nonce: Nonce
    time: Count


class RecoveryContribution(Message, frozen=True, tag="recovery-contribution"):
    """One recipient's share, sealed by HPKE to the one-time key of the request that it answers."""

    request_sha512: Sha512
    ciphertext: Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_CONTRIBUTED)]


class WantedKey(Message, frozen=True, tag="wanted-key"):
    """A derived key that an enclave asks for: of a label, so many bytes, from a generation as a policy names one."""

    label: Label
    size: Annotated[int, msgspec.Meta(ge=MIN_SIZE, le=MAX_SIZE)]
    generation: GenerationName


class ReleaseRequest(Message, frozen=True, tag="release-request"):
    """An enclave to a server: hello and challenge as they were sent, and what vouches for the request."""

    hello: Annotated[bytes, msgspec.Meta(max_length=2 * MAX_IDENTITY)]
    challenge: Annotated[bytes, msgspec.Meta(max_length=4 * MAX_IDENTITY)]
    attested: AttestedMessage


class ReleaseRequestClaims(Message, frozen=True, tag="release-request-claims"):
    """What the enclave's evidence covers. domain: whose keys it wants; keys: which. Else as in RequestClaims."""

    domain: Hex16
    keys: Annotated[list[WantedKey], msgspec.Meta(min_length=1, max_length=MAX_RELEASED)]
    nonce: Nonce
    kem_public_key: KemPublicKey


class Release(Message, frozen=True, tag="release"):
    """Derived keys for an enclave: HPKE encapsulated key and ciphertext, and what vouches for it."""

    attested: AttestedMessage
    ciphertext: Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_RELEASED_CIPHERTEXT)]


class ReleaseClaims(Message, frozen=True, tag="release-claims"):
    """What the server's evidence covers.

    domain: whose keys they are; generations: that each key is from, by id, in the order of the request. nonce: the
    enclave's.
    """

    domain: Hex16
    generations: Annotated[list[Hex16], msgspec.Meta(min_length=1, max_length=MAX_RELEASED)]
    ciphertext_sha512: Sha512
    nonce: Nonce


class MintStatement(Message, frozen=True, tag="mint-statement"):
    """What an instance says of a domain that it has just made, and what vouches for it."""

    attested: AttestedMessage


class MintStatementClaims(Message, frozen=True, tag="mint-statement-claims"):
    """What the minting instance's evidence covers.

    platform, machine: who it is; domain, generation: ids of what it has made; policy_sha256: of the domain's first
    policy; time: its clock, seconds since 1970.
    """

    version: int
    platform: Name
    machine: Name
    domain: Hex16
    generation: Hex16
    policy_sha256: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    time: Count


MAX_MESSAGE: Final[dict[type[Message], int]] = {
    Hello: 2 * MAX_IDENTITY,
    ChallengeBody: 3 * MAX_IDENTITY,
    Challenge: 4 * MAX_IDENTITY,
    RequestClaims: 3 * MAX_IDENTITY,
    Request: 6 * MAX_IDENTITY + MAX_EVIDENCE + MAX_ENDORSEMENTS + 3 * MAX_IDENTITY,
    GrantClaims: 1024,
    Members: MAX_MEMBERS_SIZE,
    Grant: 3 * MAX_IDENTITY + MAX_EVIDENCE + MAX_ENDORSEMENTS + MAX_CIPHERTEXT + MAX_MEMBERS_SIZE,
    RecoveryRequestClaims: 3 * MAX_IDENTITY,
    RecoveryRequest: 4 * MAX_IDENTITY + MAX_EVIDENCE + MAX_ENDORSEMENTS,
    RecoveryContribution: 2 * MAX_CONTRIBUTED,
    MintStatementClaims: 2 * MAX_IDENTITY,
    MintStatement: 3 * MAX_IDENTITY + MAX_EVIDENCE + MAX_ENDORSEMENTS,
    ReleaseRequestClaims: MAX_IDENTITY,
    ReleaseRequest: 8 * MAX_IDENTITY + MAX_EVIDENCE + MAX_ENDORSEMENTS,
    ReleaseClaims: 2048,
    Release: MAX_IDENTITY + MAX_EVIDENCE + MAX_ENDORSEMENTS,
}

T = TypeVar("T", bound=Message)


def encode(message: Message) -> bytes:
    """The one byte form of a message."""
    return msgspec.msgpack.encode(message)


def decode(data: bytes, kind: type[T]) -> T:
    """Read one message of a known type.

    Raises: Rejected(TOO_LARGE | MALFORMED).
    """
    if len(data) > MAX_MESSAGE[kind]:
        raise Rejected(Reason.TOO_LARGE, f"A {_name(kind)} of {len(data)} bytes; at most {MAX_MESSAGE[kind]} are read.")
    try:
        message = msgspec.msgpack.decode(data, type=kind)
        canonical = encode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected(Reason.MALFORMED, f"This is no {_name(kind)}: {error}.") from error
    if canonical != data:
        raise Rejected(Reason.MALFORMED, f"A {_name(kind)} that is not in its canonical form.")
    return message


def _name(kind: type[Message]) -> str:
    return str(kind.__struct_config__.tag)


def identity_of(message: Hello | ChallengeBody | RecoveryRequestClaims | MintStatementClaims) -> Identity:
    """Who the sender says it is."""
    return Identity(message.platform, message.machine)
