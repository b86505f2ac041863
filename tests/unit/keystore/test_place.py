"""What --keystore may name, and what is refused before anything is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from rkeyserver.errors import Misuse
from rkeyserver.keystore.place import Database, parse_place

TAKEN: dict[str, tuple[str, Path | Database]] = {
    "a path": ("/etc/rkey.bin", Path("/etc/rkey.bin")),
    "a path with a colon": ("a:b", Path("a:b")),
    "a path that looks a little like a URL": ("sqlite:/a", Path("sqlite:/a")),
    "SQLite": ("sqlite:///srv/rk.db", Database("sqlite", "/srv/rk.db")),
    "SQLite as others write it": ("sqlite:////srv/rk.db", Database("sqlite", "/srv/rk.db")),
    "SQLite in capitals": ("SQLite:///srv/rk.db", Database("sqlite", "/srv/rk.db")),
    "an escaped path": ("sqlite:///srv/a%20b%3f", Database("sqlite", "/srv/a b?")),
    "an instance": ("sqlite:///srv/rk.db?instance=b", Database("sqlite", "/srv/rk.db", "b")),
    "a machine": ("sqlite:///srv/rk.db?machine=ab", Database("sqlite", "/srv/rk.db", "default", "ab")),
    "PostgreSQL": ("postgresql://u@h/d", Database("postgresql", "postgresql://u@h/d")),
    "by its other name": ("postgres://u@h/d", Database("postgresql", "postgresql://u@h/d")),
    "several hosts": ("postgresql://u@h1:1,[::1]:2/d", Database("postgresql", "postgresql://u@h1:1,[::1]:2/d")),
    "with what libpq takes": (
        "postgresql://h/d?sslmode=verify-full&instance=b&passfile=/p",
        Database("postgresql", "postgresql://h/d?sslmode=verify-full&passfile=/p", "b"),
    ),
    "a service": ("postgresql://?service=rk", Database("postgresql", "postgresql://?service=rk")),
    "a Unix socket": ("postgresql:///d?host=/run/pg", Database("postgresql", "postgresql:///d?host=/run/pg")),
}


@pytest.mark.parametrize(("text", "found"), TAKEN.values(), ids=TAKEN)
def test_taken(text: str, found: Path | Database) -> None:
    assert parse_place(text) == found


SHOWN = {
    "sqlite:///srv/rk.db": "sqlite:///srv/rk.db",
    "sqlite:///srv/rk.db?instance=b": "sqlite:///srv/rk.db?instance=b",
    "postgresql://h/d?machine=ab&sslmode=require": "postgresql://h/d?sslmode=require&machine=ab",
}


@pytest.mark.parametrize(("text", "shown"), SHOWN.items())
def test_shown_as_it_can_be_said_again(text: str, shown: str) -> None:
    assert str(parse_place(text)) == shown
    assert parse_place(shown) == parse_place(text)


REFUSED = {
    "a password": ("postgresql://u:secret@h/d", "holds a password"),
    "an empty one": ("postgresql://u:@h/d", "holds a password"),
    "an escaped colon": ("postgresql://u%3asecret@h/d", "holds a password"),
    "one behind the question mark": ("postgresql://u@h/d?password=secret", "holds a password"),
    "one of a key": ("postgresql://u@h/d?sslpassword=secret", "holds a password"),
    "another kind": ("mysql://u@h/d", "of the kind mysql"),
    "a file's URL": ("file:///etc/rkey.bin", "of the kind file"),
    "a relative path": ("sqlite://rk.db", "absolute path"),
    "no path": ("sqlite://", "absolute path"),
    "a folder": ("sqlite:///srv/", "path of a file"),
    "the root": ("sqlite:///", "path of a file"),
    "a path that goes up": ("sqlite:///srv/../rk.db", "without . and .."),
    "a NUL": ("sqlite:///srv/%00", "path of a file"),
    "an option of libpq's": ("sqlite:///srv/rk.db?sslmode=require", "says sslmode"),
    "a deadline": ("postgresql://u@h/d?connect_timeout=0", "says connect_timeout"),
    "settings of the session": ("postgresql://u@h/d?options=-cfsync%3Doff", "says options"),
    "an instance twice": ("sqlite:///srv/rk.db?instance=a&instance=b", "says instance twice"),
    "an empty instance": ("sqlite:///srv/rk.db?instance=", "says instance=''"),
    "an instance that leads out": ("sqlite:///srv/rk.db?instance=../a", "says instance='../a'"),
    "a machine that is none": ("sqlite:///srv/rk.db?machine=A", "says machine='A'"),
    "no value": ("sqlite:///srv/rk.db?instance", "bad query field"),
    "a fragment": ("postgresql://u@h/d#a", "none of a URL's"),
    "two lines": ("postgresql://u@h/d\n", "none of a URL's"),
    "no database": ("postgresql://", "names no database"),
}


@pytest.mark.parametrize(("text", "says"), REFUSED.values(), ids=REFUSED)
def test_refused(text: str, says: str) -> None:
    with pytest.raises(Misuse) as raised:
        parse_place(text)
    assert says in raised.value.message
    assert "secret" not in str(raised.value)
