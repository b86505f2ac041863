"""What an operator may say, in one frozen object: parsed once, passed on explicitly.

It says where to connect and where to store. What to accept it says only where there is no keyring yet, by naming files
(service/given.py); nothing here weakens a check.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec

from rkeyserver import files
from rkeyserver.address import Address, parse_address
from rkeyserver.errors import Misuse
from rkeyserver.hex_types import Hex16
from rkeyserver.keystore.place import Place, parse_place
from rkeyserver.plain import MOST_DOTS, in_words, too_many_dots

if TYPE_CHECKING:
    from rkeyserver.coordinator.endpoints import Endpoints

DEFAULT_PORT: Final = 8888
DEFAULT_PROVISION: Final = Address("", 4433)  # the port that Gramine's clients ask unless told otherwise
DEFAULT_OPS: Final = Address("127.0.0.1", 9888)
DEFAULT_CALLERS: Final = Address("127.0.0.1", 8890)
DEFAULT_LEASE: Final = 5  # seconds; docs/adr/0034-coordinator.md says why
DEFAULT_KEYSTORE: Final = Path("/etc/rkey.bin")
DEFAULT_SOCKET: Final = Path("/run/rkeyserver/rkeyserver.socket")  # where the unit file has it, and commands ask
DEFAULT_MACHINE: Final = Path("/var/lib/rkeyserver/machine")
MAX_CONFIG: Final = 64 * 1024
LOG_LEVELS: Final = ("debug", "info", "warning", "error")

PlatformName = Literal["sgx", "tpm", "simulated"]
LogLevel = Literal["debug", "info", "warning", "error"]
PathText = Annotated[str, msgspec.Meta(min_length=1, pattern=r"^[^\0]+\Z")]
# A list that a template left empty is a mistake: no hosts would make a primary of a standby.
Addresses = Annotated[list[str], msgspec.Meta(min_length=1)]
_PATHS: Final = frozenset(
    {
        *("machine", "audit", "policy", "admins", "socket", "change", "pccs_ca", "collateral"),
        *("coordinator_ca", "coordinator_cert", "coordinator_key"),
    }
)


@dataclass(frozen=True)
class Config:
    """One instance's configuration.

    hosts: instances to ask for the keyring, in order; empty to ask nobody. peers: more instances of the domain, which
    this one hears from; none of them is asked for a first keyring. keystore: where the sealed record lies.
    domain: the only domain that may be opened or adopted; None for whichever is there. wait: seconds to keep asking
    without an own record. once: fetch, store, exit. recover: collect shares until they open the record that lies there.
    change: what it does to the policy in it. listen: where peers connect. platform: None to detect hardware.
    machine: the simulated processor's folder. ops: the operations listener. audit: the audit file. policy: of a new
    domain, or what a joiner goes by. admins: who has to have signed what a joiner believes. socket: the local one, for
    callers and the owner.
    pccs: base URL of the service that collateral is fetched from, or several with commas between them; None for none.
    pccs_ca: the CA of its certificate, None for the public ones. collateral: the file that collateral is held in.
    provision: where applications get their keys, if the policy names any. callers: where callers with a token are
    answered, if the policy names any.
    coordinator: what decides who is primary, as coordinator.endpoints reads it; None where the operator does.
    coordinator_ca: the CA of its certificates, None for the public ones; coordinator_cert, coordinator_key: what is
    shown to it, if anything. lease: seconds for which a primary is one unless it renews that.
    """

    hosts: tuple[Address, ...] = ()
    peers: tuple[Address, ...] = ()
    keystore: Place = DEFAULT_KEYSTORE
    domain: str | None = None
    wait: float = 30.0
    once: bool = False
    recover: bool = False
    change: Path | None = None
    listen: tuple[Address, ...] = (Address("", DEFAULT_PORT),)
    platform: str | None = None
    machine: Path = DEFAULT_MACHINE
    ops: Address = DEFAULT_OPS
    audit: Path | None = None
    policy: Path | None = None
    admins: Path | None = None
    socket: Path | None = None
    pccs: str | None = None
    pccs_ca: Path | None = None
    collateral: Path | None = None
    provision: Address = DEFAULT_PROVISION
    callers: Address = DEFAULT_CALLERS
    coordinator: str | None = None
    coordinator_ca: Path | None = None
    coordinator_cert: Path | None = None
    coordinator_key: Path | None = None
    lease: int = DEFAULT_LEASE
    log_level: str = "info"

    @property
    def collateral_path(self) -> Path:
        """The file that collateral is held in: as given, or beside the keystore."""
        return self.collateral or self._beside(".collateral.json")

    @property
    def mint_statement_path(self) -> Path:
        """Where the statement of an enclave that makes a domain goes, for its admins."""
        return self._beside(".minted")

    @property
    def audit_path(self) -> Path:
        """The audit file: as given, or beside the keystore."""
        return self.audit or self._beside(".audit.jsonl")

    @property
    def socket_path(self) -> Path:
        """The local socket: as given, or beside the keystore."""
        return self.socket or self._beside(".socket")

    def _beside(self, suffix: str) -> Path:
        """A file beside the keystore: a file of SQLite is one too; of another database, in a folder of this host."""
        path = self.keystore if isinstance(self.keystore, Path) else self.keystore.beside
        return path.with_name(path.name + suffix)


class Options(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """What can be said, in a file or on the command line, by the names of the long options. None is unsaid."""

    host: Addresses | None = None
    peer: Addresses | None = None
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)] | None = None
    keystore: PathText | None = None
    domain: Hex16 | None = None
    wait: Annotated[float, msgspec.Meta(ge=0, le=86_400)] | None = None
    once: bool | None = None
    recover: bool | None = None
    change: PathText | None = None
    listen: Addresses | None = None
    platform: PlatformName | None = None
    machine: PathText | None = None
    ops: str | None = None
    audit: PathText | None = None
    policy: PathText | None = None
    admins: PathText | None = None
    socket: PathText | None = None
    pccs: str | None = None
    pccs_ca: PathText | None = None
    collateral: PathText | None = None
    provision: str | None = None
    callers: str | None = None
    coordinator: str | None = None
    coordinator_ca: PathText | None = None
    coordinator_cert: PathText | None = None
    coordinator_key: PathText | None = None
    lease: Annotated[int, msgspec.Meta(ge=1, le=600)] | None = None
    log_level: LogLevel | None = None


# What each option has to be, for people.
WANTED: Final = {
    "host": 'a list with at least one HOST[:PORT], as ["10.23.100.2"]',
    "peer": 'a list with at least one HOST[:PORT], as ["10.23.100.3"]',
    "port": "a whole number from 1 to 65535",
    "keystore": "the path of a file, sqlite:///PATH or postgresql://USER@HOST/DATABASE",
    "domain": "a domain's id, 32 hexadecimal digits in lower case",
    "wait": "a number of seconds from 0 to 86400",
    "once": "true or false",
    "recover": "true or false",
    "change": "the path of a policy change's file",
    "listen": 'a list with at least one [HOST]:PORT, as [":8888"]',
    "platform": "sgx, tpm or simulated",
    "machine": "the path of a folder",
    "ops": "HOST:PORT",
    "audit": "the path of a file",
    "policy": "the path of a policy's file",
    "admins": "the path of a file with admins' keys",
    "socket": "the path of a socket",
    "pccs": "the URL of a PCCS, or several with commas between them, as https://pccs.example:8081/sgx/certification/v4",
    "pccs-ca": "the path of a file with the CA's certificate",
    "collateral": "the path of a file",
    "provision": '[HOST]:PORT, as ":4433"',
    "callers": '[HOST]:PORT, as "127.0.0.1:8890"',
    "coordinator": "etcd://HOST:PORT[,HOST:PORT...], or etcds:// for TLS",
    "coordinator-ca": "the path of a file with the CA's certificate",
    "coordinator-cert": "the path of a file with a certificate",
    "coordinator-key": "the path of a file with the certificate's key",
    "lease": "a whole number of seconds from 1 to 600",
    "log-level": f"{', '.join(LOG_LEVELS[:-1])} or {LOG_LEVELS[-1]}",
}


def read_file(path: Path) -> Options:
    """Options from a TOML file.

    Raises: Misuse if it cannot be read, or has a key that is no option.
    """
    given: dict[str, object] = {}
    try:
        text = files.read(path, MAX_CONFIG, "configuration file").decode()
        if (line := too_many_dots(text)) is not None:
            raise Misuse(f"The configuration file {path} is wrong: line {line} has more than {MOST_DOTS} dots.")
        given = tomllib.loads(text)
        return msgspec.convert(given, Options)
    except msgspec.ValidationError as error:
        raise Misuse(f"The configuration file {path} is wrong: {in_words(error, WANTED, given)}.") from error
    except (ValueError, RecursionError) as error:
        # ValueError is the base of what decoding, TOML and types raise, and of what they let through: endless numbers.
        advice = 'It is TOML, where text stands in quotes: platform = "simulated".'
        raise Misuse(f"The configuration file {path} is wrong: {error}.", advice=advice) from error


def check_options(given: dict[str, object]) -> Options:
    """Options from the command line, by their long names.

    Raises: Misuse naming the option.
    """
    try:
        return msgspec.convert(given, Options)
    except msgspec.ValidationError as error:
        raise Misuse(f"{in_words(error, WANTED, given, before='--')}.") from error


def make_config(file: Options, command_line: Options) -> Config:
    """The configuration; what the command line says wins over the file.

    Raises: Misuse for an address that is none, a keystore that can be no file, or options that exclude each other.
    """
    said = {
        name: value
        for source in (file, command_line)
        for name in Options.__struct_fields__
        if (value := getattr(source, name)) is not None
    }
    ported, port = "port" in said, int(said.pop("port", DEFAULT_PORT))
    changes: dict[str, object] = {}
    if "host" in said:
        changes["hosts"] = tuple(parse_address(text, port) for text in said.pop("host"))
    if "peer" in said:
        changes["peers"] = tuple(parse_address(text, DEFAULT_PORT) for text in said.pop("peer"))
    if "listen" in said:
        changes["listen"] = tuple(parse_address(text, DEFAULT_PORT, any_host=True) for text in said.pop("listen"))
    if "ops" in said:
        changes["ops"] = parse_address(said.pop("ops"), DEFAULT_OPS.port)
    if "provision" in said:
        changes["provision"] = parse_address(said.pop("provision"), DEFAULT_PROVISION.port, any_host=True)
    if "callers" in said:
        changes["callers"] = parse_address(said.pop("callers"), DEFAULT_CALLERS.port, any_host=True)
    if "coordinator" in said:
        changes["coordinator"] = str(endpoints_of(said.pop("coordinator")))
    if "keystore" in said:
        changes["keystore"] = parse_place(said.pop("keystore"))
    for name, value in said.items():
        changes[name] = Path(value) if name in _PATHS else value
    config = replace(Config(), **changes)  # type: ignore[arg-type]  # msgspec has checked every value's type
    _check(config, ported=ported)
    return _with_pccs(config)


def endpoints_of(coordinator: str) -> Endpoints:
    """The servers that --coordinator names.

    Raises: Misuse.
    """
    from rkeyserver.coordinator.endpoints import parse_endpoints  # noqa: PLC0415 - most instances have no coordinator

    return parse_endpoints(coordinator)


def _check(config: Config, *, ported: bool) -> None:
    for host in (*config.hosts, *config.peers):
        if not host.port:
            raise Misuse(f"{host} cannot be asked: its port is 0, wanted is one from 1 to 65535.")
    if isinstance(config.keystore, Path) and not config.keystore.name:
        raise Misuse(f"The keystore is {config.keystore}; wanted is the path of a file.")
    if ported and not config.hosts:
        raise Misuse(
            "The port (-p) is that of the hosts to ask for the key; no host is given.",
            advice="Name one with -i HOST. Where this instance itself listens is said with --listen :PORT.",
        )
    if config.once and not config.hosts:
        raise Misuse("--once fetches from a host; none is given.", advice="Add -i HOST.")
    if config.recover and (config.hosts or config.domain is None):
        raise Misuse(
            "--recover opens a record of the domain that --domain names, where no host is left to ask.",
            advice="Give --domain ID, and no -i.",
        )
    if config.change is not None and not config.recover:
        raise Misuse(
            "--change goes with --recover.", advice="A running instance takes a change by `rkeyserver policy apply`."
        )
    _check_coordinator(config)


def _check_coordinator(config: Config) -> None:
    files_given = {
        "coordinator-ca": config.coordinator_ca,
        "coordinator-cert": config.coordinator_cert,
        "coordinator-key": config.coordinator_key,
    }
    for name, path in files_given.items():
        if path is not None and (config.coordinator is None or not endpoints_of(config.coordinator).tls):
            raise Misuse(
                f"--{name} is for a coordinator that is asked over TLS; none is given.",
                advice="Name it with --coordinator etcds://HOST:PORT.",
            )
    if config.coordinator_key is not None and config.coordinator_cert is None:
        raise Misuse("--coordinator-key is the key of a certificate; none is given.", advice="Add --coordinator-cert.")


def _with_pccs(config: Config) -> Config:
    if config.pccs is not None:
        return replace(config, pccs=check_pccs(config.pccs))
    if config.pccs_ca is not None:
        raise Misuse("--pccs-ca names the CA of a PCCS; no PCCS is given.", advice="Add --pccs URL.")
    return config


def check_pccs(urls: str) -> str:
    """The base URLs of one PCCS or of several with commas between them, each without a slash at its end.

    Raises: Misuse for anything but https://HOST[:PORT]/PATH, or one twice.
    """
    found = [_check_pccs(one) for one in urls.split(",")]
    if len(set(found)) != len(found):
        raise Misuse(f"--pccs is {urls!r}, which names one service twice.")
    return ",".join(found)


def _check_pccs(url: str) -> str:
    from urllib.parse import urlsplit  # noqa: PLC0415 - only who names one needs it

    if "@" in url:
        raise Misuse(
            "The PCCS is an https URL with a user or password, which every process of this machine can read in the "
            "arguments.",
            advice="Change that password. None is used: leave it out.",
        )
    try:
        found = urlsplit(url)
        good = found.scheme == "https" and found.hostname and found.port != 0
    except ValueError:
        good = False
    if not good or not url.isascii() or not url.isprintable() or set(url) & set(" ?#\\"):
        raise Misuse(
            f"The PCCS is {url!r}; wanted is a URL like https://pccs.example:8081/sgx/certification/v4.",
            advice="It is asked over https only, and its certificate is always verified: --pccs-ca names a private CA.",
        )
    return url.rstrip("/")
