"""audit.json: files that hold, and what each change of one ends in."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from tests.vectors.spec_cases import Json, load
from tests.vectors.spec_rkeyserver import OPERATIONS
from tests.vectors.spec_rkeyserver_audit import public, sign
from tests.vectors.spec_writers.common import case, complete, numbered
from tests.vectors.spec_writers.keyring import DOMAIN_SECRET

from rkeyserver.service.audit_chain import Head, body_of

AT: Final = "2026-05-28T20:26:40Z"
CHAIN: Final = numbered(0xA0, 16)
ONE: Final = numbered(0x10, 16)
TWO: Final = numbered(0x20, 16)
TRANSCRIPT: Final = numbered(0x40, 64)
EMPTY: Final = {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()}


class Book:
    """A log that is being written. loose: what lies before the next line and is none."""

    def __init__(self, keyring: str, machine: str = ONE, chain: str = CHAIN, before: bytes = b"") -> None:
        self.keyring, self.machine, self.loose = keyring, machine, before
        self.head = Head.before(chain)
        self.lines: list[bytes] = []
        self.add("begin", machine=machine, **self._found())

    def _found(self) -> Json:
        return {"size": len(self.loose), "sha256": hashlib.sha256(self.loose).hexdigest()}

    def add(self, event: str, **fields: Any) -> Book:
        line, self.head = self.head.append(body_of({"at": AT, "event": event} | fields))
        self.lines.append(self.loose + line)
        self.loose = b""
        return self

    def torn(self, data: bytes) -> Book:
        self.loose = data
        return self.add("torn", **self._found())

    def checkpoint(self, **wrong: Any) -> Book:
        said = self.statement() | wrong
        names = ("domain", "machine", "key", "signature")
        return self.add("checkpoint", **{name: said[name] for name in names})

    def statement(self) -> Json:
        """A checkpoint's document of the head as it is."""
        said = {"machine": self.machine, "chain": self.head.chain, "lines": self.head.lines}
        said |= {"head": self.head.digest.hex(), "at": AT}
        domain = OPERATIONS["domain id"]({"domain_secret": DOMAIN_SECRET})
        key, signature = public({"keyring": self.keyring}), sign(said | {"keyring": self.keyring})
        return {
            "format": "rkeyserver-audit-checkpoint/v1",
            "domain": domain,
            **said,
            "key": key,
            "signature": signature,
        }

    @property
    def hex(self) -> str:
        return b"".join(self.lines).hex()


def _verified(keyring: str) -> list[Json]:
    whole = Book(keyring).add("mint", verdict="accepted", domain=numbered(0xD0, 16)).checkpoint()
    whole.add("open", verdict="accepted", domain=numbered(0xD0, 16)).torn(b'{"at":"2026-05\n')
    whole.add("open", verdict="refused", found='"prev":"\\"}').checkpoint()
    lines = list(whole.lines)
    key = {"key": public({"keyring": keyring})}
    older = Book(keyring, before=b'{"at":"x","event":"mint","verdict":"accepted"}\n').checkpoint()
    rotated = {"bytes": b"".join(lines[6:]).hex()}
    broken: dict[str, list[bytes]] = {
        "a changed line": [*lines[:1], lines[1].replace(b"accepted", b"accepteD"), *lines[2:]],
        "a changed last line but one": [*lines[:5], lines[5].replace(b"refused", b"accept!"), *lines[6:]],
        "a line cut out": [*lines[:3], *lines[4:]],
        "two lines put in another order": [lines[0], lines[2], lines[1], *lines[3:]],
        "a line twice": [*lines[:2], lines[1], *lines[2:]],
        "a line inserted": [*lines[:2], b'{"at":"x","event":"open"}\n', *lines[2:]],
        "the beginning cut off": lines[1:],
        "a torn line that was changed": [
            *lines[:4],
            lines[4].replace(b'{"at":"2026-05\n', b'{"at":"2027-05\n'),
            *lines[5:],
        ],
        "a torn line cut out": [*lines[:4], lines[4].removeprefix(b'{"at":"2026-05\n'), *lines[5:]],
        "another chain's line": [*lines, *Book(keyring, chain=numbered(0xB0, 16)).lines],
        "nothing": [],
        "no line of a chain": [b'{"at":"x","event":"mint","verdict":"accepted"}\n'],
        "a line that is no JSON": [
            b'{"at":"2026"' + lines[0][len('{"at":"2026-05-28T20:26:40Z"') :].replace(b":", b";", 1)
        ],
    }
    found = [
        case("a log", "audit verify", bytes=whole.hex),
        case("a log, by its key", "audit verify", bytes=whole.hex, **key),
        case("a log with older lines before it", "audit verify", bytes=older.hex),
        case("a log that ends in the middle of a line", "audit verify", bytes=(b"".join(lines) + lines[1][:40]).hex()),
        case("a log whose last line is cut off", "audit verify", bytes=b"".join(lines[:-1]).hex()),
        case("a log that begins with a checkpoint, by its key", "audit verify", **rotated, **key),
        case("a log that begins with a checkpoint", "audit verify", **rotated, error="log-broken"),
        case("a log, by another key", "audit verify", bytes=whole.hex, key="00" * 32, error="not-signed"),
    ]
    found += [case(name, "audit verify", bytes=b"".join(one).hex(), error="log-broken") for name, one in broken.items()]
    forged = {
        "a checkpoint of another machine": {"machine": TWO},
        "a checkpoint of another domain": {"domain": "00" * 16},
        "a checkpoint with another signature": {"signature": "00" * 64},
        "a checkpoint with no signature": {"signature": ""},
    }
    for name, wrong in forged.items():
        found.append(case(name, "audit verify", bytes=Book(keyring).checkpoint(**wrong).hex, error="not-signed"))
    return found


def _documents(keyring: str) -> list[Json]:
    book = Book(keyring).add("mint", verdict="accepted")
    said = book.statement()
    short = book.hex
    book.add("open", verdict="accepted")
    other = Book(keyring).add("mint", verdict="refused").add("open", verdict="accepted")

    def document(name: str, log: str, error: str = "", key: str = "", **changed: Any) -> Json:
        ends = {"error": error} if error else {}
        return case(name, "audit checkpoint", bytes=log, document=json.dumps(said | changed), key=key, **ends)

    return [
        document("a document, of a log that has grown", book.hex),
        document("a document, of the log as it was", short, key=said["key"]),
        document("a document, of a log that was cut", Book(keyring).hex, "log-broken"),
        document("a document, of a log that was written anew", other.hex, "log-broken"),
        document("a document, of another log", Book(keyring, chain=numbered(0xB0, 16)).hex, "log-broken"),
        document("a document, by another key", book.hex, "not-signed", key="00" * 32),
        document("a document with another time", book.hex, "not-signed", at="2026-05-28T20:26:41Z"),
        document("a document of another format", book.hex, "Misuse", format="rkeyserver-audit-checkpoint/v2"),
        document("a document with another field", book.hex, "Misuse", more=1),
        document("a document of no line", book.hex, "Misuse", lines=0),
    ]


def _matched(keyring: str) -> list[Json]:
    domain = numbered(0xD0, 16)

    def both(**wrong: Any) -> list[Book]:
        """Two logs of one hand-over, from ONE to TWO. wrong: what is told falsely."""
        one = Book(keyring).add("mint", verdict="accepted", domain=domain)
        two = Book(keyring, TWO, numbered(0xB0, 16)).add("join", verdict="refused")
        asked = wrong.get("asked", two.head.digest.hex())
        early = one.head.digest.hex()
        to, by = {"machine": wrong.get("to", TWO)}, {"machine": ONE}
        one.add("hand-over", verdict="accepted", domain=domain, peer=to, transcript=TRANSCRIPT, peer_head=asked)
        gave = early if wrong.get("early") else one.head.digest.hex()
        two.add(
            wrong.get("event", "join"),
            verdict="accepted",
            domain=wrong.get("domain", domain),
            peer=by,
            transcript=TRANSCRIPT,
            peer_head=gave,
        )
        return [one, two]

    good = both()
    hexes = [book.hex for book in good]
    cut = b"".join(good[0].lines[:2]).hex()
    shorter = b"".join(good[1].lines[:1]).hex()
    shown = both(event="acknowledge")

    def logs(*of: str | Book) -> list[str]:
        return [one if isinstance(one, str) else one.hex for one in of]

    return [
        case("two logs", "audit match", logs=hexes),
        case("two logs, the first of no head", "audit match", logs=logs(*both(asked="00" * 32))),
        case(
            "two logs, the last line of the second cut",
            "audit match",
            logs=[hexes[0], b"".join(good[1].lines[:2]).hex()],
        ),
        case("a log alone", "audit match", logs=hexes[1:]),
        case("two logs, the tail of the first cut", "audit match", logs=[cut, hexes[1]], error="logs-disagree"),
        case("two logs, the tail of the second cut", "audit match", logs=[hexes[0], shorter], error="logs-disagree"),
        case("two logs, one to another machine", "audit match", logs=logs(*both(to=ONE)), error="logs-disagree"),
        case("two logs, of two domains", "audit match", logs=logs(*both(domain="00" * 16)), error="logs-disagree"),
        case("two logs, of a head before", "audit match", logs=logs(*both(early=True)), error="logs-disagree"),
        case("two logs, of an unknown head", "audit match", logs=logs(*both(asked="11" * 32)), error="logs-disagree"),
        case("two logs, of an acknowledgement", "audit match", logs=logs(*shown)),
        case(
            "two logs, of an acknowledgement, the tail of the first cut",
            "audit match",
            logs=logs(cut, shown[1]),
            error="logs-disagree",
        ),
        case(
            "two logs, of an acknowledgement, of a head before",
            "audit match",
            logs=logs(*both(event="acknowledge", early=True)),
            error="logs-disagree",
        ),
    ]


def content() -> Json:
    keyring = load("exchange.json")["shared"]["keyring"]
    book = Book(keyring)
    said = book.statement()
    body = body_of({"at": AT, "event": "mint", "verdict": "accepted"}).decode()
    return complete(
        "audit.json",
        "the audit file (audit.md): lines, checkpoints, files that hold and that do not, two logs",
        [
            case("a first line", "audit line", chain=CHAIN, number=0, prev="00" * 32, body=body),
            case("a later line", "audit line", chain=CHAIN, number=12, prev=numbered(0, 32), body=body),
            case("the key", "audit key"),
            case("a signature", "audit signature", **{k: said[k] for k in ("machine", "chain", "lines", "head", "at")}),
            *_verified(keyring),
            *_documents(keyring),
            *_matched(keyring),
        ],
        {"keyring": keyring},
    )
