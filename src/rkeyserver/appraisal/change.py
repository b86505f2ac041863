"""A change of a domain's policy, as a document that its admins sign (docs/spec/policy.md, "Changes").

A change names the domain, its place in the order of changes and the policy that it replaces, so that no signature says
yes twice. What stays of it in the keyring is a link: what was signed, with the policy's digest for its text. What a
chain of links proves is succession.py's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeVar

import msgspec

from rkeyserver.appraisal.ed25519_keys import BARE_KEY, bare, public_key
from rkeyserver.appraisal.policy import MAX_POLICY, AdminsTable, parse_policy
from rkeyserver.errors import Misuse, Reason, Rejected
from rkeyserver.framing import framed
from rkeyserver.hex_types import Hex16, Hex32

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FORMAT: Final = "rkeyserver-policy-change/v1"
LINK_FORMAT: Final = "rkeyserver-policy-link/v1"
MAX_CHANGE: Final = 256 * 1024
MAX_SIGNATURES: Final = 32

_LABEL: Final = b"rkeyserver/v1 policy change"

SshKey = Annotated[str, msgspec.Meta(pattern=rf"^{BARE_KEY}\Z")]
Place = Annotated[int, msgspec.Meta(ge=1, le=2**62)]


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One admin's. key: its OpenSSH public key, without a name; signature: Ed25519 (RFC 8032), 64 bytes in hex."""

    key: SshKey
    signature: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{128}\Z")]


Signatures = Annotated[list[Signature], msgspec.Meta(max_length=MAX_SIGNATURES)]


class PolicyChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From one policy to the next.

    domain: whose; sequence: 1 for the domain's first change, then one more each time; replaces: digest of the policy
    that it was made for; policy: the new document; signatures: by admins, none for a change that the owner applies.
    """

    format: Literal["rkeyserver-policy-change/v1"]
    domain: Hex16
    sequence: Place
    replaces: Hex32
    policy: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_POLICY)]
    signatures: Signatures

    def link(self) -> Link:
        """What is signed of this change, and its signatures.

        Raises: Misuse if its policy cannot be read.
        """
        return Link(
            format=LINK_FORMAT,
            domain=self.domain,
            sequence=self.sequence,
            replaces=self.replaces,
            policy=digest(self.policy),
            admins=parse_policy(self.policy).admins,
            signatures=self.signatures,
        )

    def signed_bytes(self) -> bytes:
        """What a signature is over.

        Raises: Misuse if its policy cannot be read.
        """
        return self.link().signed_bytes()

    def text(self) -> str:
        """The one form of this document, as it is sent."""
        return msgspec.json.encode(self).decode()


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change as the keyring keeps it. Fields as in the change; policy: digest of the document; admins: its own."""

    format: Literal["rkeyserver-policy-link/v1"]
    domain: Hex16
    sequence: Place
    replaces: Hex32
    policy: Hex32
    admins: AdminsTable | None
    signatures: Signatures

    def signed_bytes(self) -> bytes:
        """What a signature is over: all but the signatures."""
        admins = () if self.admins is None else (str(self.admins.threshold), *self.admins.keys)
        parts = (self.domain, str(self.sequence), self.replaces, self.policy, *admins)
        return framed(_LABEL, *(part.encode() for part in parts))

    def text(self) -> str:
        """The one form of this link, as it is kept."""
        return msgspec.json.encode(self).decode()


Document = TypeVar("Document", PolicyChange, Link)


def digest(policy: str) -> str:
    """The name of a policy document: SHA-256 of its bytes, hex."""
    return hashlib.sha256(policy.encode()).hexdigest()


def propose(*, domain: str, sequence: int, replaces: str, policy: str) -> PolicyChange:
    """A change that nobody has signed yet. replaces: text of the policy now.

    Raises: Misuse if the new policy cannot be read, or if the change could not be read again.
    """
    parse_policy(policy)
    return _read_again(
        PolicyChange(
            format=FORMAT, domain=domain, sequence=sequence, replaces=digest(replaces), policy=policy, signatures=[]
        )
    )


def _read_again(change: PolicyChange) -> PolicyChange:
    return _parse(change.text().encode(), PolicyChange)


def parse_change(data: str | bytes) -> PolicyChange:
    """Read a change, which may end with one line feed; what its policy says and who signed it is not looked at.

    Raises: Misuse.
    """
    data = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    return _parse(data.removesuffix(b"\n"), PolicyChange)


def parse_link(text: str) -> Link:
    """Read a link, as the keyring has it.

    Raises: Misuse.
    """
    return _parse(text.encode("utf-8", "surrogatepass"), Link)


def _parse(data: bytes, kind: type[Document]) -> Document:
    if len(data) > MAX_CHANGE:
        raise Misuse(
            f"The policy change has {len(data)} bytes; at most {MAX_CHANGE} are read.", advice="Shorten its policy."
        )
    try:
        found = msgspec.json.decode(data, type=kind)
        canonical = msgspec.json.encode(found)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Misuse(
            f"This is no policy change ({FORMAT}): {error}.", advice="`rkeyserver policy propose` makes one."
        ) from error
    if canonical != data:
        raise Misuse("The policy change is not in its canonical form: it was edited.", advice="Propose it anew.")
    if len({one.key for one in found.signatures}) != len(found.signatures):
        raise Misuse("The policy change has two signatures of one key.", advice="Have it signed anew.")
    return found


def public_line(key: Ed25519PrivateKey) -> str:
    """The OpenSSH public key of a private one, without a name."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415 - late: what a start does not need

    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def sign(change: PolicyChange, key: Ed25519PrivateKey) -> PolicyChange:
    """`change` with a signature by `key`; one that it had from it is replaced.

    Raises: Misuse if its policy cannot be read, or if it is full: somebody has put many signatures under it.
    """
    line = public_line(key)
    added = Signature(key=line, signature=key.sign(change.signed_bytes()).hex())
    others = [one for one in change.signatures if one.key != line]
    return _read_again(msgspec.structs.replace(change, signatures=[*others, added]))


def signers(change: PolicyChange | Link, admins: AdminsTable) -> list[str]:
    """Those of `admins` (lines as the policy has them) whose valid signature is under `change`.

    Raises: Misuse if its policy cannot be read.
    """
    link = change.link() if isinstance(change, PolicyChange) else change
    signatures = {one.key: one.signature for one in link.signatures}
    message = link.signed_bytes()
    return [line for line in admins.keys if is_signed_by(line, signatures, message)]


def is_signed_by(line: str, signatures: Mapping[str, str], message: bytes) -> bool:
    """Whether the admin of that line has signed `message`. signatures: in hex, by the bare keys."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - only where something was signed

    signature = signatures.get(bare(line))
    if signature is None:
        return False
    try:
        public_key(line).verify(bytes.fromhex(signature), message)
    except InvalidSignature:
        return False
    return True


def require_signed(change: PolicyChange, admins: AdminsTable, whose: str = "the admins") -> None:
    """Whether enough of `admins` have signed. whose: who they are, for people.

    Raises: Rejected(NOT_SIGNED) with how many have, how many are wanted, and who is missing.
    """
    found = signers(change, admins)
    if len(found) < admins.threshold:
        missing = [line for line in admins.keys if line not in found]
        raise Rejected(
            Reason.NOT_SIGNED,
            f"Policy change {change.sequence} has {len(found)} valid signature(s) of {whose}; "
            f"{admins.threshold} of {len(admins.keys)} wanted.",
            advice=f"It can be signed by: {', '.join(missing)}.",
        )


def check_next(change: PolicyChange, *, domain: str, policy: str, changes: Sequence[str]) -> None:
    """Whether `change` comes right after the present state of a domain.

    policy: text of the present policy; changes: those that led to it, oldest first.
    Raises: Rejected(ANOTHER_DOMAIN | NOT_THE_NEXT_CHANGE).
    """
    if change.domain != domain:
        raise Rejected(
            Reason.ANOTHER_DOMAIN, f"The policy change is for domain {change.domain}; this is domain {domain}."
        )
    advice = "Nothing was changed. Propose it anew, to be signed anew."
    wanted = last_sequence(changes) + 1
    if change.sequence == wanted - 1 and change.policy == policy:
        advice = "Nothing was changed: what it asks for is in force already."
    if change.sequence != wanted:
        raise Rejected(
            Reason.NOT_THE_NEXT_CHANGE,
            f"The policy change is number {change.sequence}; the next one of this domain is {wanted}.",
            advice=advice,
        )
    if change.replaces != digest(policy):
        raise Rejected(
            Reason.NOT_THE_NEXT_CHANGE,
            f"The policy change was made for policy {change.replaces}; the policy here is {digest(policy)}.",
            advice=advice,
        )


def check_authority(change: PolicyChange, admins: AdminsTable | None, *, owner: bool) -> None:
    """Whether somebody who may change the policy stands behind `change`.

    admins: of the present policy; owner: whether it came from the owner of a machine that its platform trusts, which
    counts only where there are no admins. A change that names other admins than now is signed by enough of those as
    well, whoever makes it: it shows that their keys work, and lets those who go by them believe it.

    Raises: Rejected(NOT_SIGNED).
    """
    coming = parse_policy(change.policy).admins
    if admins is not None:
        require_signed(change, admins)
    elif not owner:
        raise Rejected(
            Reason.NOT_SIGNED,
            "This domain has no admins whose signatures could change its policy.",
            advice="Its owner may change it on the machine itself, where its platform trusts the host.",
        )
    if coming is not None and coming != admins:
        require_signed(change, coming, "the admins that it names")


def last_sequence(changes: Sequence[str]) -> int:
    """The number of the last of `changes`; 0 for none."""
    return parse_link(changes[-1]).sequence if changes else 0


def appended(changes: Sequence[str], change: PolicyChange, *, admins: AdminsTable | None) -> list[str]:
    """The chain after a change that was judged: the first link, those that changed the admins, and the last.

    admins: of the policy that `change` replaces. What stays is enough to walk from any admins the domain ever had: who
    was in force before the first link has signed it, who came into force by a later one has signed that. Of the
    signatures, those that count stay.
    """
    kept = list(changes)
    if len(kept) > 1 and parse_link(kept[-2]).admins == admins:
        kept.pop()
    link = change.link()
    counted = {bare(line) for table in (admins, link.admins) if table is not None for line in signers(link, table)}
    signatures = [one for one in link.signatures if one.key in counted]
    return [*kept, msgspec.structs.replace(link, signatures=signatures).text()]
