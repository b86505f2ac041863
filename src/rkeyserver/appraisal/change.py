"""A change of a domain's policy, as a document that its admins sign (docs/spec/policy.md, "Changes").

A change names the domain, its place in the order of changes and the policy that it replaces, so that no signature says
yes twice. What stays of it in the keyring is a link: what was signed, with the policy's digest for its text. What a
chain of links proves is succession.py's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeVar

import msgspec

from rkeyserver.appraisal.ed25519_keys import bare
from rkeyserver.appraisal.policy import MAX_POLICY, AdminsTable, parse_policy
from rkeyserver.appraisal.signatures import Kind, Signatures, read_signed, require_enough, signers_of, with_signature
from rkeyserver.errors import Misuse, Reason, Rejected
from rkeyserver.framing import framed
from rkeyserver.hex_types import Hex16, Hex32

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FORMAT: Final = "rkeyserver-policy-change/v1"
LINK_FORMAT: Final = "rkeyserver-policy-link/v1"
MAX_CHANGE: Final = 256 * 1024

_LABEL: Final = b"rkeyserver/v1 policy change"

Place = Annotated[int, msgspec.Meta(ge=1, le=2**62)]


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
_CHANGE: Final = msgspec.json.Decoder(PolicyChange)
_LINK: Final = msgspec.json.Decoder(Link)
_KIND: Final = Kind("policy change", f"policy change ({FORMAT})", "rkeyserver policy propose", "Propose it anew.")


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
    return _parse(change.text().encode(), _CHANGE)


def parse_change(data: str | bytes) -> PolicyChange:
    """Read a change, which may end with one line feed; what its policy says and who signed it is not looked at.

    Raises: Misuse.
    """
    data = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    return _parse(data.removesuffix(b"\n"), _CHANGE)


def parse_link(text: str) -> Link:
    """Read a link, as the keyring has it.

    Raises: Misuse.
    """
    return _parse(text.encode("utf-8", "surrogatepass"), _LINK)


def _parse(data: bytes, decoder: msgspec.json.Decoder[Document]) -> Document:
    if len(data) > MAX_CHANGE:
        raise Misuse(
            f"The policy change has {len(data)} bytes; at most {MAX_CHANGE} are read.", advice="Shorten its policy."
        )
    return read_signed(data, decoder, _KIND)


def sign(change: PolicyChange, key: Ed25519PrivateKey) -> PolicyChange:
    """`change` with a signature by `key`; one that it had from it is replaced.

    Raises: Misuse if its policy cannot be read, or if it is full: somebody has put many signatures under it.
    """
    signatures = with_signature(change.signatures, key, change.signed_bytes())
    return _read_again(msgspec.structs.replace(change, signatures=signatures))


def signers(change: PolicyChange | Link, admins: AdminsTable) -> list[str]:
    """Those of `admins` (lines as the policy has them) whose valid signature is under `change`.

    Raises: Misuse if its policy cannot be read.
    """
    link = change.link() if isinstance(change, PolicyChange) else change
    return signers_of(link.signatures, link.signed_bytes(), admins)


def require_signed(change: PolicyChange, admins: AdminsTable, whose: str = "the admins") -> None:
    """Whether enough of `admins` have signed. whose: who they are, for people.

    Raises: Rejected(NOT_SIGNED) with how many have, how many are wanted, and who is missing.
    """
    require_enough(signers(change, admins), admins, f"Policy change {change.sequence}", whose)


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
