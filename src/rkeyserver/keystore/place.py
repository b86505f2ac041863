"""What --keystore names: the path of a file, or a database and whose record in it (docs/spec/keystore-table.md).

sqlite:///srv/rkeyserver.db?instance=NAME
postgresql://user@host[:port]/database?sslmode=verify-full&instance=NAME
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode

from rkeyserver.errors import Misuse

SQLITE: Final = "sqlite"
POSTGRESQL: Final = "postgresql"
DEFAULT_INSTANCE: Final = "default"
STATE: Final = Path("/var/lib/rkeyserver")  # where files lie that belong beside a record in a remote database

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_INSTANCE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_MACHINE: Final = re.compile(r"[0-9a-z:._-]{1,128}")
_OURS: Final = ("instance", "machine")
# What libpq may be told besides user, hosts and database. Deadlines, names and keep-alives are this program's to say.
_LIBPQ: Final = frozenset(
    {
        *("host", "hostaddr", "port", "dbname", "user", "passfile", "service", "target_session_attrs"),
        *("load_balance_hosts", "sslmode", "sslnegotiation", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslcrldir"),
        *("ssl_min_protocol_version", "channel_binding", "require_auth", "gssencmode", "krbsrvname"),
    }
)
_PASSWORDS: Final = frozenset({"password", "sslpassword"})
_FORMS: Final = "a path, sqlite:///PATH or postgresql://USER@HOST[:PORT]/DATABASE"


@dataclass(frozen=True)
class Database:
    """A keystore in a database.

    scheme: SQLITE or POSTGRESQL. target: the absolute path of the one, what libpq is told of the other. instance: whose
    record it is among those of one machine; machine: whose, for a command that is run elsewhere, else None.
    """

    scheme: str
    target: str
    instance: str = DEFAULT_INSTANCE
    machine: str | None = None

    def __str__(self) -> str:
        said = {"instance": self.instance, "machine": self.machine}
        usual = {"instance": DEFAULT_INSTANCE, "machine": None}
        more = urlencode({name: value for name, value in said.items() if value != usual[name]})
        start = f"sqlite://{self.target}" if self.scheme == SQLITE else self.target
        return f"{start}{'&' if '?' in start else '?'}{more}" if more else start

    @property
    def beside(self) -> Path:
        """What the names of files begin with that lie beside the record of a file."""
        if self.scheme == SQLITE:
            return Path(f"{self.target}.{self.instance}")
        return STATE / self.instance


Place = Path | Database


def parse_place(text: str) -> Place:
    """What --keystore names.

    Raises: Misuse for a URL of another form, or one that holds a password.
    """
    match = _URL.fullmatch(text)
    if match is None:
        return Path(text)
    scheme = match[1].lower()
    rest, _, query = match[2].partition("?")
    if scheme not in (SQLITE, POSTGRESQL, "postgres"):
        raise Misuse(f"The keystore is a URL of the kind {scheme}; wanted is {_FORMS}.")
    if "#" in text or not text.isprintable():
        raise Misuse(f"The keystore's URL has a character that is none of a URL's; wanted is {_FORMS}.")
    try:
        said = parse_qsl(query, keep_blank_values=True, strict_parsing=True, max_num_fields=32) if query else []
    except ValueError as error:
        raise Misuse(f"What stands behind the ? of the keystore's URL is wrong: {error}.") from error
    ours = dict(_own(said))
    left = [(name, value) for name, value in said if name not in _OURS]
    instance, machine = ours.get("instance", DEFAULT_INSTANCE), ours.get("machine")
    if scheme == SQLITE:
        return Database(SQLITE, _sqlite(rest, left), instance, machine)
    return Database(POSTGRESQL, _postgresql(rest, left), instance, machine)


def _own(said: list[tuple[str, str]]) -> list[tuple[str, str]]:
    names = [name for name, _ in said]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Misuse(f"The keystore's URL says {twice[0]} twice.")
    for name, value in said:
        form = {"instance": _INSTANCE, "machine": _MACHINE}.get(name)
        if form is not None and not form.fullmatch(value):
            wanted = "1 to 63 letters, digits and ._- with a letter or digit first" if name == "instance" else "an id"
            raise Misuse(f"The keystore's URL says {name}={value!r}; wanted is {wanted}.")
    return [(name, value) for name, value in said if name in _OURS]


def _sqlite(rest: str, left: list[tuple[str, str]]) -> str:
    if left:
        raise Misuse(f"The keystore's URL says {left[0][0]}; of SQLite there is {', '.join(_OURS)}.")
    path = unquote(rest)
    if not path.startswith("/"):
        raise Misuse(
            f"The keystore is {rest!r} of SQLite; wanted is the absolute path of a file.",
            advice="Write sqlite:///srv/rkeyserver.db for /srv/rkeyserver.db.",
        )
    path = "/" + path.lstrip("/")  # with four slashes, as others write it, the path is the same
    if path.endswith("/") or os.path.normpath(path) != path or "\0" in path:
        raise Misuse(f"The keystore is {path!r} of SQLite; wanted is the path of a file, without . and .. in it.")
    return path


def _postgresql(rest: str, left: list[tuple[str, str]]) -> str:
    user, _, _hosts = rest.rpartition("@")
    if ":" in user or "%3a" in user.lower() or any(name in _PASSWORDS for name, _ in left):
        raise Misuse(
            "The keystore's URL holds a password, which every process of this machine can read in the arguments.",
            advice="Change that password. Put the new one into ~/.pgpass, or a file that passfile= names, mode 0600: "
            "docs/operations/postgresql.md.",
        )
    for name, _ in left:
        if name not in _LIBPQ:
            raise Misuse(
                f"The keystore's URL says {name}; of PostgreSQL there is {', '.join(sorted(_LIBPQ | set(_OURS)))}."
            )
    if not (rest or left):
        raise Misuse(f"The keystore's URL names no database; wanted is {_FORMS}.")
    return f"postgresql://{rest}" + (f"?{urlencode(left, safe='/:,@')}" if left else "")
