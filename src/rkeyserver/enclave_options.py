"""What a host may tell the program in the enclave: one document of a closed list of options (docs/spec/options.md).

It says where to connect and where to store, never what to accept. The launcher on the host writes it (written()), the
program in the enclave reads it (parse()): strict JSON with one form only, so that no two readers can differ. Each path
in it is a Name, below the one folder of the host's that the enclave sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from rkeyserver.config import WANTED, Config, LogLevel, Options, check_options, make_config
from rkeyserver.errors import Misuse
from rkeyserver.hex_types import Hex16
from rkeyserver.plain import in_words

T = TypeVar("T", bound=msgspec.Struct)
MAX_OPTIONS: Final = 64 * 1024  # bytes
PLATFORM: Final = "sgx"

# Up to four parts of up to 100 characters; none is empty, hidden, "." or "..", or looks like an option.
_PART: Final = "[A-Za-z0-9_][A-Za-z0-9._+=@-]{0,99}"
Name = Annotated[str, msgspec.Meta(pattern=rf"^{_PART}(/{_PART}){{0,3}}\Z")]
Hosts = Annotated[list[str], msgspec.Meta(min_length=1, max_length=64)]
Listeners = Annotated[list[str], msgspec.Meta(min_length=1, max_length=16)]
Command = Literal["serve", "doctor", "identity"]


class _Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename="kebab"):
    """Options of one command, by the names that the command line has; None is unsaid."""


class ServeOptions(_Options, frozen=True):
    """Of `serve`. host, peer: with their ports; wait_ms: --wait, in milliseconds, for a whole number has one form."""

    keystore: Name
    host: Hosts | None = None
    peer: Hosts | None = None
    domain: Hex16 | None = None
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=86_400_000)] | None = None
    once: bool | None = None
    recover: bool | None = None
    change: Name | None = None
    listen: Listeners | None = None
    ops: str | None = None
    audit: Name | None = None
    pccs: str | None = None
    pccs_ca: Name | None = None
    collateral: Name | None = None
    provision: str | None = None
    callers: str | None = None
    coordinator: str | None = None
    coordinator_ca: Name | None = None
    coordinator_cert: Name | None = None
    coordinator_key: Name | None = None
    lease: Annotated[int, msgspec.Meta(ge=1, le=600)] | None = None
    log_level: LogLevel | None = None


class DoctorOptions(_Options, frozen=True):
    """Of `doctor`."""

    keystore: Name
    host: Hosts | None = None
    domain: Hex16 | None = None
    ops: str | None = None
    audit: Name | None = None
    collateral: Name | None = None
    json: bool | None = None


class IdentityOptions(_Options, frozen=True):
    """Of `identity`: none."""


COMMANDS: Final[dict[str, type[_Options]]] = {
    "serve": ServeOptions,
    "doctor": DoctorOptions,
    "identity": IdentityOptions,
}
PATHS: Final = (
    *("keystore", "change", "audit", "pccs-ca", "collateral"),
    *("coordinator-ca", "coordinator-cert", "coordinator-key"),
)
NAME: Final = "up to four parts with / between them, each of letters, digits and ._+=@- with a letter or digit first"

# What an instance may be told elsewhere, and no enclave.
REFUSED: Final = {
    "policy": "says what to accept, which only the image's own admins do",
    "admins": "says whom to believe, which is measured into the image",
    "socket": "is a socket of the host's, whose owner an enclave does not trust",
    "machine": "is a simulated processor's folder",
}

_WANTED: Final = (
    WANTED
    | dict.fromkeys(PATHS, f"a name in the keystore's folder: {NAME}")
    | {"wait-ms": "a whole number of milliseconds from 0 to 86400000", "json": "true or false"}
    | {"command": "serve, doctor or identity", "options": "the command's own options"}
)
_ADVICE: Final = "It is written by the program that starts the enclave; start it by that one."


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    command: Command
    options: msgspec.Raw


@dataclass(frozen=True)
class Told:
    """What the program is to do. json: of `doctor`, whether it prints JSON."""

    command: str
    config: Config
    json: bool = False


def parse(data: bytes, state: Path) -> Told:
    """Read the document. state: the folder that each name is below.

    Raises: Misuse, for anything that is not byte for byte what written() makes.
    """
    if len(data) > MAX_OPTIONS:
        raise Misuse(f"The options have more than {MAX_OPTIONS} bytes.", advice=_ADVICE)
    document = _decoded(data, _Document, "command", "options")
    given = _decoded(bytes(document.options), COMMANDS[document.command])
    if (made := _encoded(document.command, given)) != data:
        raise Misuse(
            "The options are not in their one form: wanted, without space, with each name once and in its order, is "
            f"{made.decode()}.",
            advice=_ADVICE,
        )
    said: dict[str, Any] = msgspec.to_builtins(given) | {"platform": PLATFORM}
    as_json = bool(said.pop("json", False))
    if "wait-ms" in said:
        said["wait"] = said.pop("wait-ms") / 1000
    for name in PATHS:
        if name in said:
            said[name] = str(state / said[name])
    return Told(document.command, make_config(Options(), check_options(said)), as_json)


def written(command: str, options: dict[str, object]) -> bytes:
    """The document for `command`, with `options` by their names.

    Raises: Misuse for what parse() would refuse, but for what only make_config() sees.
    """
    try:
        found = msgspec.convert(options, COMMANDS[command])
    except msgspec.ValidationError as error:
        raise Misuse(f"{in_words(error, _words(COMMANDS[command]), options, before='--')}.") from error
    made = _encoded(command, found)
    if len(made) > MAX_OPTIONS:
        raise Misuse(f"The options come to {len(made)} bytes; an enclave takes at most {MAX_OPTIONS}.")
    return made


def _encoded(command: str, options: _Options) -> bytes:
    return msgspec.json.encode(_Document(command=command, options=msgspec.Raw(msgspec.json.encode(options))))  # type: ignore[arg-type]  # one of COMMANDS


def _decoded(data: bytes, form: type[T], *names: str) -> T:
    try:
        return msgspec.json.decode(data, type=form)
    except msgspec.ValidationError as error:
        words = {name: _WANTED[name] for name in names} if names else _words(form)
        raise Misuse(f"The options are wrong: {in_words(error, words)}.", advice=_ADVICE) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Misuse(f"The options are no JSON: {error}.", advice=_ADVICE) from error


def _words(form: type[msgspec.Struct]) -> dict[str, str]:
    return {name: _WANTED[name] for name in form.__struct_encode_fields__}
