"""The appraisal policy (RFC 9334): what a domain accepts, as data (docs/spec/policy.md).

A policy is a TOML document. Every choice in it is spelled out: a missing key is an error, never a default, and an empty
list is an error, never "all". `any` is a word that has to be written. A platform without a table is refused.

Over 400 lines, for one reason: the tables of the document and the checks of each are read side by side.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeVar

import msgspec

from rkeyserver.appraisal.ambiguity import same_enclave
from rkeyserver.appraisal.ed25519_keys import BARE_KEY, anybody_signs, bare
from rkeyserver.appraisal.labels import ANY_REST
from rkeyserver.appraisal.policy_errors import WANTED, broken, check_depth, wrong, wrong_form
from rkeyserver.appraisal.toml_lines import Path
from rkeyserver.errors import Misuse
from rkeyserver.hex_types import Hex16, Hex32

Advisory = Annotated[str, msgspec.Meta(pattern=r"^INTEL-SA-[0-9]{5}\Z")]
AdminKey = Annotated[str, msgspec.Meta(max_length=512, pattern=rf"^{BARE_KEY}(?: [ -~]{{1,256}})?\Z")]
Recipient = Annotated[
    str,
    msgspec.Meta(
        max_length=2048,
        pattern=r"^(?:age1[0-9a-z]{20,1024}|"
        rf"(?:{BARE_KEY}|ssh-rsa [A-Za-z0-9+/]{{20,1600}}={{0,2}})(?: [ -~]{{1,256}})?)\Z",
    ),
]
# Printable ASCII, no space at either end: what is read aloud, typed again and compared has one spelling.
Label = Annotated[str, msgspec.Meta(max_length=256, pattern=r"^[!-~](?:[ -~]*[!-~])?\Z")]
GenerationName = Annotated[str, msgspec.Meta(pattern=r"^(?:first|current|[0-9a-f]{32})\Z")]
NotEmpty = msgspec.Meta(min_length=1)
Uint16 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
Switch = Literal["accept", "refuse"]

MAX_APPLICATIONS: Final = 64
MAX_CALLERS: Final = 64
MAX_ENCLAVES: Final = 64
Id = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 2)]  # the last one stands for nobody (chown(2))
OVERFLOW_ID: Final = 65534

# Statuses by Intel's names. "Revoked" is not among them: no policy accepts it.
TcbStatus = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
]


class SgxPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is accepted of platforms with SGX evidence.

    machines: PPIDs (hex), or "any". mrenclave, mrsigner: SHA-256 (hex); one of the two has to be named.
    isv_prod_id, min_isv_svn: product and its least version. tcb_statuses: accepted ones.
    out_of_date_grace_days: how long after its TCB date an OutOfDate platform is accepted, if such a status is; else 0.
    It is the grace period of Intel's quote appraisal (SGX DCAP), for platform and quoting enclave alike.
    rejected_advisories: refused ones, or "none".
    min_tcb_evaluation_data_number: least; never 0, which would accept collateral of any age.
    dynamic_platform, cached_keys, smt: what to do with a platform whose certificate says that it has them.
    """

    machines: Literal["any"] | Annotated[list[Hex16], NotEmpty]
    mrenclave: Literal["any"] | Annotated[list[Hex32], NotEmpty]
    mrsigner: Literal["any"] | Annotated[list[Hex32], NotEmpty]
    isv_prod_id: Uint16
    min_isv_svn: Uint16
    tcb_statuses: Annotated[list[TcbStatus], NotEmpty]
    out_of_date_grace_days: Annotated[int, msgspec.Meta(ge=0, le=3650)]
    rejected_advisories: Literal["none"] | Annotated[list[Advisory], NotEmpty]
    min_tcb_evaluation_data_number: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    dynamic_platform: Switch
    cached_keys: Switch
    smt: Switch


class Application(SgxPolicy, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An application enclave that gets a key derived for it, and what is accepted of it, as of a platform.

    label: what the key is derived for. size: of the key, in bytes. encoding: how it is sent, as those bytes ("raw") or
    as lower-case hex digits and a NUL ("hex"). generation: of the root key that it is derived from: the domain's
    "first" one, the "current" one, whichever that is when it asks, or one by its id.
    """

    label: Label
    size: Literal[16, 32]
    encoding: Literal["raw", "hex"]
    generation: GenerationName


class CallerEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one kind of caller may do. Exactly one of uid, gid and token_sha256 says who it is.

    uid, gid: of a process on the machine of the instance that it asks. token_sha256: of the token it shows, hex.
    may: what; labels: with which; one that ends with "*" stands for all that begin with what is before it.
    """

    uid: Id | None = None
    gid: Id | None = None
    token_sha256: Hex32 | None = None
    may: Annotated[list[Literal["derive", "wrap", "unwrap", "rewrap"]], NotEmpty]
    labels: Annotated[list[Label], NotEmpty]


class EnclaveEntry(SgxPolicy, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an enclave on another machine may do that proves what it is, and what is accepted of it, as of a platform.

    may: what; labels: with which, as in CallerEntry.
    """

    may: Annotated[list[Literal["derive"]], NotEmpty]
    labels: Annotated[list[Label], NotEmpty]


class ProvisionTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How applications know this domain's servers. ca_generation: of the root key that the CA is derived from."""

    ca_generation: GenerationName


class AdminsTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may change the policy: so many of these keys together.

    keys: OpenSSH public keys, `ssh-ed25519 BASE64 NAME`, the name optional. threshold: how many have to sign.
    """

    threshold: Annotated[int, msgspec.Meta(ge=1, le=16)]
    keys: Annotated[list[AdminKey], msgspec.Meta(min_length=1, max_length=16)]


class RecoveryTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who can bring the keyring back when every machine is lost: so many of them together hold the root key.

    recipients: age (`age1...`) or OpenSSH (`ssh-ed25519`, `ssh-rsa`) public keys. threshold: how many shares open it.
    """

    threshold: Annotated[int, msgspec.Meta(ge=1, le=16)]
    recipients: Annotated[list[Recipient], msgspec.Meta(min_length=1, max_length=16)]


class PolicyDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole document: a version and a table for each platform that is accepted at all."""

    version: Literal[1]
    sgx: SgxPolicy | None = None
    simulated: SgxPolicy | None = None
    provision: ProvisionTable | None = None
    applications: Annotated[list[Application], msgspec.Meta(min_length=1, max_length=MAX_APPLICATIONS)] | None = None
    callers: Annotated[list[CallerEntry], msgspec.Meta(min_length=1, max_length=MAX_CALLERS)] | None = None
    enclaves: Annotated[list[EnclaveEntry], msgspec.Meta(min_length=1, max_length=MAX_ENCLAVES)] | None = None
    admins: AdminsTable | None = None
    recovery: RecoveryTable | None = None


class AdminsDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that names admins and nothing else."""

    admins: AdminsTable


class RecoveryDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that names recovery recipients and nothing else."""

    recovery: RecoveryTable


D = TypeVar("D", AdminsDocument, RecoveryDocument)


@dataclass(frozen=True)
class Policy:
    """A policy that was read without error.

    text: the document as written; digest: its SHA-256 (hex), which audit lines name; tables: by platform.
    admins: who may change it, None where its owner alone may. recovery: None for a domain without.
    applications: who gets a derived key; empty for a domain that gives none. ca_generation: as ProvisionTable has it.
    callers: who on this machine may do what; empty for its own user alone.
    enclaves: which ones on other machines may do what; empty for none.
    """

    text: str
    digest: str
    tables: dict[str, SgxPolicy]
    admins: AdminsTable | None = None
    recovery: RecoveryTable | None = None
    applications: tuple[Application, ...] = ()
    ca_generation: GenerationName | None = None
    callers: tuple[CallerEntry, ...] = ()
    enclaves: tuple[EnclaveEntry, ...] = ()

    @property
    def tokens(self) -> list[str]:
        """The SHA-256 of every token that a caller may show, hex."""
        return sorted({one.token_sha256 for one in self.callers if one.token_sha256 is not None})

    @property
    def ca(self) -> GenerationName | None:
        """The generation that the domain's CA is derived from; None where nobody is served by a certificate of it."""
        return self.ca_generation or ("first" if self.tokens else None)

    def generations_named(self) -> set[str]:
        """Ids of the generations that it names, which the keyring has to have."""
        found = {one.generation for one in self.applications}
        if self.ca_generation is not None:
            found.add(self.ca_generation)
        return found - {"first", "current"}


MAX_POLICY: Final = 128 * 1024
MAX_POLICY_FILE: Final = 4 * MAX_POLICY  # bytes: no character has more than four in UTF-8


def parse_policy(text: str) -> Policy:
    """Read a policy document.

    Raises: Misuse with the line, the key, what was found and what is wanted: broken TOML, an unknown or missing key, a
    wrong value, an empty list, a contradiction.
    """
    if len(text) > MAX_POLICY:
        raise Misuse(f"The policy has {len(text)} characters; at most {MAX_POLICY} are read.")
    check_depth(text)
    try:
        digest = hashlib.sha256(text.encode()).hexdigest()
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # ValueError is the base of what it raises, and what it lets through: a lone surrogate, an endless number.
        raise broken(text, error) from error
    try:
        document = msgspec.convert(found, PolicyDocument)
    except msgspec.ValidationError as error:
        raise wrong_form(text, found, error) from error
    tables = {
        name: table for name, table in (("sgx", document.sgx), ("simulated", document.simulated)) if table is not None
    }
    if not tables:
        raise wrong(text, (), "it names no platform, so it would accept nothing: add a table, such as [sgx]")
    if "simulated" in tables and len(tables) > 1:
        raise wrong(text, ("simulated",), "it mixes `simulated`, which protects nothing, with a real platform")
    for name, table in tables.items():
        _check_table(text, (name,), table)
    _check_applications(text, document)
    _check_callers(text, document)
    if document.admins is not None:
        check_quorum(text, "admins", "keys", document.admins.threshold, document.admins.keys)
    if document.recovery is not None:
        check_quorum(text, "recovery", "recipients", document.recovery.threshold, document.recovery.recipients)
    return Policy(
        text=text,
        digest=digest,
        tables=tables,
        admins=document.admins,
        recovery=document.recovery,
        applications=tuple(document.applications or ()),
        callers=tuple(document.callers or ()),
        enclaves=tuple(document.enclaves or ()),
        ca_generation=None if document.provision is None else document.provision.ca_generation,
    )


def parse_admins(text: str) -> AdminsTable:
    """Admins from a TOML file of their own, which has an [admins] table as a policy has it and nothing else.

    Raises: Misuse, as parse_policy().
    """
    admins = _of_its_own(text, AdminsDocument, "admins").admins
    check_quorum(text, "admins", "keys", admins.threshold, admins.keys)
    return admins


def parse_recovery(text: str) -> RecoveryTable:
    """Recovery recipients from a TOML file of their own, which has a [recovery] table as a policy has it.

    Raises: Misuse, as parse_policy().
    """
    recovery = _of_its_own(text, RecoveryDocument, "recovery").recovery
    check_quorum(text, "recovery", "recipients", recovery.threshold, recovery.recipients)
    return recovery


def _of_its_own(text: str, kind: type[D], what: str) -> D:
    """A document with one table, read."""
    check_depth(text, what)
    try:
        text.encode()  # a lone surrogate ends here: msgspec has no error of its own for one
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise broken(text, error, what) from error
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        raise wrong_form(text, found, error, what) from error


def with_admins(policy: Policy, admins: AdminsTable) -> Policy:
    """`policy` with that [admins] table at its end, or as it is if it has the same.

    Raises: Misuse if it has another.
    """
    if policy.admins == admins:
        return policy
    if policy.admins is not None:
        raise Misuse(
            "The policy names other admins than the file that was given beside it.",
            advice="Name them in one place, or the same in both.",
        )
    keys = "".join(f"    {json.dumps(key)},\n" for key in admins.keys)  # JSON's strings are TOML's
    return parse_policy(f"{policy.text.rstrip()}\n\n[admins]\nthreshold = {admins.threshold}\nkeys = [\n{keys}]\n")


def _check_table(text: str, at: Path, table: SgxPolicy) -> None:
    if table.mrenclave == "any" and table.mrsigner == "any":
        raise wrong(text, (*at, "mrsigner"), "it accepts any code: neither mrenclave nor mrsigner is named")
    for key in ("machines", "mrenclave", "mrsigner", "tcb_statuses", "rejected_advisories"):
        _check_once(text, (*at, key), getattr(table, key))
    out_of_date = [status for status in table.tcb_statuses if status.startswith("OutOfDate")]
    days = (*at, "out_of_date_grace_days")
    if out_of_date and not table.out_of_date_grace_days:
        raise wrong(
            text, days, f"tcb_statuses names {out_of_date[0]}, which 0 days of grace never accept: state how many"
        )
    if table.out_of_date_grace_days and not out_of_date:
        raise wrong(text, days, "there is grace, but tcb_statuses names no OutOfDate status that it is for: say 0")


def _check_once(text: str, path: Path, named: str | list[str]) -> None:
    if isinstance(named, str) or len(set(named)) == len(named):
        return
    twice = next(index for index, one in enumerate(named) if one in named[:index])
    raise wrong(text, (*path, twice), f"it names {named[twice]} twice")


def _check_applications(text: str, document: PolicyDocument) -> None:
    applications = document.applications or []
    if applications and document.provision is None:
        raise wrong(text, ("provision",), f"it is missing beside applications; wanted is {WANTED['provision']}")
    tokens = any(one.token_sha256 is not None for one in document.callers or ())
    if document.provision is not None and not applications and not tokens:
        raise wrong(text, ("provision",), "there are no [[applications]], and no callers with a token, that it is for")
    labels: dict[str, int] = {}
    for index, one in enumerate(applications):
        _check_table(text, ("applications", index), one)
        if (first := labels.setdefault(one.label, index)) != index:
            says = f"application {first + 1} has the label {one.label!r} too"
            raise wrong(text, ("applications", index, "label"), says)
    if (both := same_enclave(applications)) is not None:
        says = (
            f"an enclave could be both this one and application {both[0] + 1}, and none says which key it asks for: "
            "name machines, mrenclave, mrsigner and isv_prod_id so that no enclave is both"
        )
        raise wrong(text, ("applications", both[1]), says)


def _check_callers(text: str, document: PolicyDocument) -> None:
    for index, one in enumerate(document.callers or ()):
        _check_caller(text, ("callers", index), one)
    for index, entry in enumerate(document.enclaves or ()):
        _check_table(text, ("enclaves", index), entry)
        _check_lists(text, ("enclaves", index), entry)


def _check_caller(text: str, path: Path, entry: CallerEntry) -> None:
    said = [name for name in ("uid", "gid", "token_sha256") if getattr(entry, name) is not None]
    if len(said) != 1:
        raise wrong(text, path, f"it names {' and '.join(said) or 'nobody'}; wanted is uid, gid or token_sha256, one")
    _check_lists(text, path, entry)
    if OVERFLOW_ID in {entry.uid, entry.gid}:
        says = f"{OVERFLOW_ID} is whoever the kernel has no number for (user_namespaces(7)), not one user: name another"
        raise wrong(text, (*path, said[0]), says)


def _check_lists(text: str, path: Path, entry: CallerEntry | EnclaveEntry) -> None:
    for key in ("may", "labels"):
        _check_once(text, (*path, key), getattr(entry, key))
    for number, label in enumerate(entry.labels):
        if ANY_REST in label[:-1]:
            says = f'{label!r} has a "*" before its end, where it stands for nothing'
            raise wrong(text, (*path, "labels", number), says)


def check_quorum(text: str, name: str, key: str, threshold: int, keys: list[str]) -> None:
    """Whether so many of the keys of table `name` of `text` can ever come together.

    Raises: Misuse with the line.
    """
    if threshold > len(keys):
        raise wrong(text, (name, "threshold"), f"it wants {threshold} of {len(keys)} keys: that many there never are")
    # By the key alone: one person under two names would count twice.
    found = [bare(one) for one in keys]
    for index, one in enumerate(found):
        if one in found[:index]:
            raise wrong(text, (name, key, index), "it names a key twice")
        if name == "admins" and anybody_signs(one):
            raise wrong(text, (name, key, index), f"it names a key that anybody can sign for: {one}")
