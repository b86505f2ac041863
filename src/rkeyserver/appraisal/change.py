"""A change of a domain's policy, as a document that its admins sign (docs/spec/policy.md, "Changes").

A change names the domain, its place in the order of changes and the policy that it replaces, so that no signature says
yes twice. Whoever is asked to believe a policy walks the changes from admins whom it trusts already to the last one:
believe() is that walk, and the only thing that makes a policy believed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec

from rkeyserver.appraisal.policy import MAX_POLICY, AdminsTable, parse_policy
from rkeyserver.errors import Misuse, Reason, Rejected
from rkeyserver.framing import framed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FORMAT: Final = "rkeyserver-policy-change/v1"
MAX_CHANGE: Final = 256 * 1024
MAX_SIGNATURES: Final = 32

_LABEL: Final = b"rkeyserver/v1 policy change"

Hex16 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
Hex32 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
SshKey = Annotated[str, msgspec.Meta(max_length=256, pattern=r"^ssh-ed25519 [A-Za-z0-9+/]{20,128}={0,2}\Z")]


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One admin's. key: its OpenSSH public key, without a name; signature: Ed25519 (RFC 8032), 64 bytes in hex."""

    key: SshKey
    signature: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{128}\Z")]


class PolicyChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From one policy to the next.

    domain: whose; sequence: 1 for the domain's first change, then one more each time; replaces: digest of the policy
    that it was made for; policy: the new document; signatures: by admins, none for a change that the owner applies.
    """

    format: Literal["rkeyserver-policy-change/v1"]
    domain: Hex16
    sequence: Annotated[int, msgspec.Meta(ge=1, le=2**62)]
    replaces: Hex32
    policy: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_POLICY)]
    signatures: Annotated[list[Signature], msgspec.Meta(max_length=MAX_SIGNATURES)]

    def signed_bytes(self) -> bytes:
        """What a signature is over: all but the signatures."""
        return framed(
            _LABEL, self.domain.encode(), str(self.sequence).encode(), self.replaces.encode(), self.policy.encode()
        )

    def text(self) -> str:
        """The one form of this document, as it is kept and sent."""
        return msgspec.json.encode(self).decode()


def digest(policy: str) -> str:
    """The name of a policy document: SHA-256 of its bytes, hex."""
    return hashlib.sha256(policy.encode()).hexdigest()


def propose(*, domain: str, sequence: int, replaces: str, policy: str) -> PolicyChange:
    """A change that nobody has signed yet. replaces: text of the policy now.

    Raises: Misuse if the new policy cannot be read.
    """
    parse_policy(policy)
    return PolicyChange(
        format=FORMAT, domain=domain, sequence=sequence, replaces=digest(replaces), policy=policy, signatures=[]
    )


def parse_change(data: str | bytes) -> PolicyChange:
    """Read a change; what its policy says and who signed it is not looked at.

    Raises: Misuse.
    """
    data = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if len(data) > MAX_CHANGE:
        raise Misuse(f"The policy change has {len(data)} bytes; at most {MAX_CHANGE} are read.")
    try:
        change = msgspec.json.decode(data.rstrip(b"\n"), type=PolicyChange)
        canonical = msgspec.json.encode(change)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Misuse(
            f"This is no policy change ({FORMAT}): {error}.", advice="`rkeyserver policy propose` makes one."
        ) from error
    if canonical != data.rstrip(b"\n"):
        raise Misuse("The policy change is not in its canonical form: it was edited.", advice="Propose it anew.")
    return change


def public_line(key: Ed25519PrivateKey) -> str:
    """The OpenSSH public key of a private one, without a name."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def sign(change: PolicyChange, key: Ed25519PrivateKey) -> PolicyChange:
    """`change` with a signature by `key`; one that it had from it is replaced."""
    line = public_line(key)
    added = Signature(key=line, signature=key.sign(change.signed_bytes()).hex())
    return msgspec.structs.replace(change, signatures=[*(one for one in change.signatures if one.key != line), added])


def signers(change: PolicyChange, admins: AdminsTable) -> list[str]:
    """Those of `admins` (lines as the policy has them) whose valid signature is under `change`."""
    signatures: dict[str, list[str]] = {}
    for one in change.signatures:
        signatures.setdefault(one.key, []).append(one.signature)
    message = change.signed_bytes()
    return [
        line
        for line in admins.keys
        if any(_is_by(line, signature, message) for signature in signatures.get(" ".join(line.split()[:2]), ()))
    ]


def _is_by(line: str, signature: str, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - only where something was signed
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key  # noqa: PLC0415

    try:
        key = load_ssh_public_key(line.encode())
        if not isinstance(key, Ed25519PublicKey):
            return False
        key.verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def require_signed(change: PolicyChange, admins: AdminsTable) -> None:
    """Whether enough of `admins` have signed.

    Raises: Rejected(NOT_SIGNED) with how many have, how many are wanted, and who is missing.
    """
    found = signers(change, admins)
    if len(found) < admins.threshold:
        missing = [line for line in admins.keys if line not in found]
        raise Rejected(
            Reason.NOT_SIGNED,
            f"Policy change {change.sequence} has {len(found)} valid signature(s) of the admins; "
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
    counts only where there are no admins. A change that names other admins is signed by enough of those as well: it
    shows that their keys work.

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
    if admins is not None and coming is not None and coming != admins:
        require_signed(change, coming)


def last_sequence(changes: Sequence[str]) -> int:
    """The number of the last of `changes`; 0 for none."""
    return parse_change(changes[-1]).sequence if changes else 0


def appended(changes: Sequence[str], change: PolicyChange, *, admins: AdminsTable | None) -> list[str]:
    """The chain after `change`: the first link, those that changed the admins, and the last.

    admins: of the policy that `change` replaces. What stays is enough to walk from any admins the domain ever had.
    """
    kept = list(changes)
    if len(kept) > 1 and parse_policy(parse_change(kept[-2]).policy).admins == admins:
        kept.pop()
    return [*kept, change.text()]


@dataclass(frozen=True)
class Held:
    """The state of a domain that an instance holds, for the judgement of the next. Fields as in the keyring."""

    domain: str
    epoch: int
    sequence: int
    policy: str
    changes: Sequence[str]


def check_succession(found: Held, *, held: Held | None, root: AdminsTable | None) -> None:
    """Whether the policy of a keyring that was received is one to believe, by whatever this instance goes by.

    held: what it holds itself, None for nothing; root: the admins that it was started with, None for none. What is
    older than `held` is not judged by it: it cannot be adopted anyway.

    Raises: Rejected(POLICY_NOT_BELIEVED).
    """
    if root is not None:
        believe(domain=found.domain, policy=found.policy, changes=found.changes, admins=root)
    if held is None or held.domain != found.domain or (found.epoch, found.sequence) <= (held.epoch, held.sequence):
        return
    if (found.policy, list(found.changes)) == (held.policy, list(held.changes)):
        return
    admins = parse_policy(held.policy).admins
    if admins is not None:
        believe(domain=found.domain, policy=found.policy, changes=found.changes, admins=admins)
    before = last_sequence(held.changes)
    try:
        number = last_sequence(found.changes)
    except Misuse as error:
        raise Rejected(
            Reason.POLICY_NOT_BELIEVED, f"The changes of domain {found.domain} cannot be read. {error}"
        ) from error
    if number <= before:
        raise Rejected(
            Reason.POLICY_NOT_BELIEVED,
            f"The policy of domain {found.domain} was made by change {number}; "
            f"this instance has another one, made by change {before}.",
            advice="Two primaries have each changed it. Nothing was changed here.",
        )


def believe(*, domain: str, policy: str, changes: Sequence[str], admins: AdminsTable) -> int:
    """Whether a domain's policy is one that `admins`, or whom they put in their place, have signed.

    Returns the number of the change that made it. Raises: Rejected(POLICY_NOT_BELIEVED).
    """
    try:
        return _walk(domain, policy, [parse_change(one) for one in changes], admins)
    except Misuse as error:
        raise Rejected(
            Reason.POLICY_NOT_BELIEVED, f"The policy of domain {domain} is not to be believed. {error}"
        ) from error


def _walk(domain: str, policy: str, changes: list[PolicyChange], admins: AdminsTable) -> int:
    advice = "Have its admins sign the present policy: rkeyserver policy propose, sign, apply."
    if not changes:
        raise Rejected(
            Reason.POLICY_NOT_BELIEVED, f"The policy of domain {domain} was never signed by admins.", advice=advice
        )
    trusted: AdminsTable | None = admins
    believed: PolicyChange | None = None
    before = 0
    for change in changes:
        if change.domain != domain or change.sequence <= before:
            raise Rejected(
                Reason.POLICY_NOT_BELIEVED,
                f"The changes of domain {domain} are out of order: number {change.sequence} of domain {change.domain} "
                f"after number {before}.",
            )
        before = change.sequence
        if trusted is not None and len(signers(change, trusted)) >= trusted.threshold:
            believed, trusted = change, parse_policy(change.policy).admins
    if believed is not changes[-1] or believed.policy != policy:
        raise Rejected(
            Reason.POLICY_NOT_BELIEVED,
            f"The policy of domain {domain} (change {before}) is not signed by {admins.threshold} of the "
            f"{len(admins.keys)} admins that this instance goes by.",
            advice=advice,
        )
    return before
