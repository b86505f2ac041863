"""What is wrong with a policy document, said to people: the line, the key, what was found and what is wanted."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from rkeyserver.appraisal.toml_lines import Path, line_of
from rkeyserver.errors import Misuse
from rkeyserver.plain import MOST_DOTS, too_many_dots

_ADVICE: Final = "docs/spec/policy.md lists every key."
_SHOWN: Final = 80
_HASHES: Final = '"any", or a list of SHA-256, each 64 lower-case hex digits'
_SWITCH: Final = '"accept" or "refuse"'
_PLATFORM: Final = "a table of what is accepted of that platform"
_GENERATION: Final = '"first", "current", or the id of a generation, 32 lower-case hex digits'
_THRESHOLD: Final = "a number from 1 to 16"

WANTED: Final[dict[str, str]] = {
    "version": "1",
    "sgx": _PLATFORM,
    "simulated": _PLATFORM,
    "seal_to": '"mrsigner" or "mrenclave"',
    "former_signers": "a list of at most 8 MRSIGNERs, each 64 lower-case hex digits",
    "admins": "a table with threshold and keys",
    "recovery": "a table with threshold and recipients",
    "provision": "a table with ca_generation",
    "applications": "1 to 64 tables [[applications]], of what is accepted of each and the key that it gets",
    "callers": "1 to 64 tables [[callers]], of who on the machine may do what with which labels",
    "enclaves": "1 to 64 tables [[enclaves]], of what is accepted of each and which labels' keys it may have",
    "uid": "a user's number",
    "gid": "a group's number",
    "token_sha256": "the SHA-256 of a token, 64 lower-case hex digits",
    "may": "a list of derive, wrap, unwrap, rewrap; for an enclave, of derive",
    "labels": 'a list of labels; "db/*" stands for all that begin with "db/"',
    "machines": '"any", or a list of PPIDs, each 32 lower-case hex digits',
    "mrenclave": _HASHES,
    "mrsigner": _HASHES,
    "isv_prod_id": "a number from 0 to 65535",
    "min_isv_svn": "a number from 0 to 65535",
    "tcb_statuses": "a list of UpToDate, SWHardeningNeeded, ConfigurationNeeded, ConfigurationAndSWHardeningNeeded, "
    "OutOfDate, OutOfDateConfigurationNeeded",
    "out_of_date_grace_days": "a number of days from 0 to 3650",
    "rejected_advisories": '"none", or a list such as ["INTEL-SA-00615"]',
    "min_tcb_evaluation_data_number": "a number from 1 to 2147483648",
    "dynamic_platform": _SWITCH,
    "cached_keys": _SWITCH,
    "smt": _SWITCH,
    "label": "1 to 256 printable ASCII characters, no space at either end",
    "size": "16 or 32",
    "encoding": '"raw" or "hex"',
    "generation": _GENERATION,
    "ca_generation": _GENERATION,
    "threshold": _THRESHOLD,
    "keys": 'a list of 1 to 16 OpenSSH public keys, "ssh-ed25519 BASE64 NAME"',
    "recipients": 'a list of 1 to 16 public keys, "age1...", "ssh-ed25519 ..." or "ssh-rsa ..."',
}


def wrong(text: str, path: Path, says: str, what: str = "policy") -> Misuse:
    """The error for what stands at `path` of the document `text`: `says` completes the sentence."""
    return _at(line_of(text, path), path, says, what)


def wrong_form(text: str, found: dict[str, Any], error: Exception, what: str = "policy") -> Misuse:
    """The same for a document that was read as TOML (`found`) but has another form, which `error` (msgspec's) tells."""
    says = str(error)
    at = re.search(r" - at `\$([^`]*)`\Z", says)
    path: Path = tuple(
        int(index) if index else name for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", at[1] if at else "")
    )
    if key := re.match(
        r"Object (missing required|contains unknown) field `(.*?)`(?: - at `\$[^`]*`)?\Z", says, re.DOTALL
    ):
        path = (*path, key[2])
        if key[1].startswith("missing"):
            return wrong(text, path, f"it is missing; wanted is {WANTED[key[2]]}", what)
        return wrong(text, path, "there is no such key", what)
    value: Any = found
    for step in path:
        value = value[step]
    wanted = next(WANTED[step] for step in reversed(path) if isinstance(step, str))
    return wrong(text, path, f"found {_shown(value)}; wanted is {wanted}", what)


def check_depth(text: str, what: str = "policy") -> None:
    """Refuse what would take minutes to read.

    Raises: Misuse with the line.
    """
    if (number := too_many_dots(text)) is not None:
        raise _at(number, (), f"it has more than {MOST_DOTS} dots", what)


def broken(text: str, error: Exception, what: str = "policy") -> Misuse:
    """The error for what is no TOML document."""
    if isinstance(error, RecursionError):
        return _at(None, (), "it is nested too deeply", what)
    if isinstance(error, UnicodeEncodeError):
        return _at(text.count("\n", 0, error.start) + 1, (), "it has a character that is none in Unicode", what)
    says = str(error)
    line = re.search(r" \(at line (\d+), column \d+\)\Z", says)
    if line is not None:
        return _at(int(line[1]), (), f"it is no TOML: {says[: line.start()]}", what)
    if number := re.search(r"[0-9_]{4000}", text):
        return _at(text.count("\n", 0, number.start()) + 1, (), "it has a number that is too long", what)
    return _at(text.count("\n") + 1, (), f"it is no TOML: {says}", what)


def _at(line: int | None, path: Path, says: str, what: str) -> Misuse:
    where = "" if line is None else f"line {line}: "
    key = "".join(f"[{step + 1}]" if isinstance(step, int) else f".{step[:_SHOWN]}" for step in path).lstrip(".")
    return Misuse(f"The {what} cannot be read: {where}{key + ': ' if key else ''}{says}.", advice=_ADVICE)


def _shown(value: object) -> str:
    match value:
        case []:
            return "an empty list"
        case list():
            return "a list"
        case dict():
            return "a table"
        case int() if abs(value) >= 2**64:  # which Python may refuse to write out
            return "a number beyond 64 bits"
        case str() | bool():
            text = json.dumps(value, ensure_ascii=False)
        case _:
            text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
