"""callers.json."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any, Final

from tests.vectors.spec_cases import Json
from tests.vectors.spec_rkeyserver import OPERATIONS as KEYRING
from tests.vectors.spec_rkeyserver_callers import OPERATIONS
from tests.vectors.spec_writers.common import case, complete, numbered
from tests.vectors.spec_writers.keyring import DOMAIN_SECRET, ROOT_KEY, SECOND_KEY
from tests.vectors.spec_writers.policy import table

SALT: Final = numbered(0x80, 32)
SECOND_SALT: Final = numbered(0xA0, 32)
OTHER_ID: Final = "00112233445566778899aabbccddeeff"
DIGEST: Final = numbered(0xC0, 32)
POLICY: Final = "version = 1\n" + table()
SECRET: Final = b"a secret".hex()
ABOUT: Final = b"row 7".hex()

SHARED: Final[Json] = {
    "wrap request": b'{"label":"a","plaintext":""}'.hex(),
    "unwrap request": b'{"label":"a","wrapped":""}'.hex(),
}


def keyring_of(*root_keys: str, secret: str = DOMAIN_SECRET, before: str = "readable") -> str:
    """A keyring whose last generation is current, hex; before: what the others are."""
    last = len(root_keys) - 1
    generations = [
        {"root_key": key, "created": 1000 + at, "state": "current" if at == last else before}
        for at, key in enumerate(root_keys)
    ]
    made: str = KEYRING["write keyring"](
        {
            "domain_secret": secret,
            "epoch": 0,
            "sequence": 1,
            "primary": "90" * 16,
            "policy": "p",
            "generations": generations,
        }
    )
    return made


def entry(who: str = "uid = 1000", may: str = '["derive"]', labels: str = '["db/*", "x"]') -> str:
    return f"\n[[callers]]\n{who}\nmay = {may}\nlabels = {labels}\n"


def content() -> Json:
    """The file's content."""
    return complete(
        "callers.json",
        "keys for callers, wrapped secrets, who may, and requests (keyring.md, policy.md, callers.md)",
        [*_keys(), *_wrapping(), *_permissions(), *_tokens(), *_requests()],
        SHARED,
    )


def _keys() -> list[Json]:
    one, two = keyring_of(ROOT_KEY), keyring_of(ROOT_KEY, SECOND_KEY)
    other = keyring_of(ROOT_KEY, secret=numbered(0x30, 32))
    domain = KEYRING["domain id"]({"domain_secret": DOMAIN_SECRET})
    first_id = KEYRING["generation id"]({"root_key": ROOT_KEY, "domain": domain})
    usual: Json = {"label": "db/main", "size": 32, "generation": "current"}

    retired = keyring_of(ROOT_KEY, SECOND_KEY, before="retired")

    def key(name: str, keyring: str = two, **given: object) -> Json:
        return case(name, "key for a caller", keyring=keyring, **(usual | given))

    return [
        key("a key"),
        key("a key of the only generation", one),
        key("the same, of the first generation", generation="first"),
        key("the same, of a generation by its id", generation=first_id),
        key("for another label", label="db/main2"),
        key("for a label with a space", label="a b"),
        key("for the longest label", label="~" * 256),
        key("of 16 bytes", size=16),
        key("of 33 bytes", size=33),
        key("of 64 bytes", size=64),
        key("in another domain", other),
        key("refused: a key of a generation that is not there", generation=OTHER_ID, error="no-such-generation"),
        key("a key of a readable generation beside a retired one", generation="current", keyring=retired),
        key("refused: a key of a retired generation", generation="first", keyring=retired, error="generation-retired"),
        key("refused: of 15 bytes", size=15, error="Misuse"),
        key("refused: of 65 bytes", size=65, error="Misuse"),
    ]


def _wrapping() -> list[Json]:
    one, two = keyring_of(ROOT_KEY), keyring_of(ROOT_KEY, SECOND_KEY)
    other = keyring_of(ROOT_KEY, secret=numbered(0x30, 32))
    retired = keyring_of(ROOT_KEY, SECOND_KEY, before="retired")
    given: Json = {"label": "backup", "associated_data": ABOUT}
    wrapped: str = OPERATIONS["wrap a secret"](given | {"keyring": one, "plaintext": SECRET, "salt": SALT})
    newer: str = OPERATIONS["wrap a secret"](given | {"keyring": two, "plaintext": SECRET, "salt": SECOND_SALT})
    empty: str = OPERATIONS["wrap a secret"](given | {"keyring": one, "plaintext": "", "salt": SALT})

    def wrap(name: str, keyring: str = one, **more: object) -> Json:
        return case(name, "wrap a secret", keyring=keyring, **(given | {"plaintext": SECRET, "salt": SALT} | more))

    def unwrap(name: str, data: str = wrapped, keyring: str = two, **more: object) -> Json:
        return case(name, "unwrap a secret", keyring=keyring, bytes=data, **(given | more))

    def flipped(at: int) -> str:
        data = bytearray.fromhex(wrapped)
        data[at] ^= 1
        return data.hex()

    refused: dict[str, tuple[Json, str]] = {
        "nothing": ({"data": ""}, "malformed"),
        "64 bytes": ({"data": empty[:-2]}, "malformed"),
        "another version": ({"data": "02" + wrapped[2:]}, "malformed"),
        "a generation that is not there": ({"data": newer, "keyring": one}, "no-such-generation"),
        "a changed generation": ({"data": flipped(16)}, "no-such-generation"),
        "another generation": ({"data": wrapped[:2] + newer[2:34] + wrapped[34:]}, "does-not-open"),
        "a changed salt": ({"data": flipped(17)}, "does-not-open"),
        "a changed ciphertext": ({"data": flipped(49)}, "does-not-open"),
        "a changed tag": ({"data": flipped(-1)}, "does-not-open"),
        "a byte less": ({"data": wrapped[:-2]}, "does-not-open"),
        "a byte more": ({"data": wrapped + "00"}, "does-not-open"),
        "another label": ({"label": "backup2"}, "does-not-open"),
        "other associated data": ({"associated_data": ""}, "does-not-open"),
        "parted elsewhere": ({"label": "backupr", "associated_data": b"ow 7".hex()}, "does-not-open"),
        "a retired generation": ({"keyring": retired}, "generation-retired"),
        "another domain": ({"keyring": other}, "no-such-generation"),
    }  # fmt: skip
    return [
        wrap("wrapped"),
        wrap("wrapped under the second generation", two, salt=SECOND_SALT),
        wrap("nothing wrapped", plaintext=""),
        wrap("wrapped without associated data", associated_data=""),
        wrap("wrapped for another label", label="backup2"),
        unwrap("opened after a rotation"),
        unwrap("opened before it", keyring=one),
        unwrap("opened, of the second generation", newer),
        unwrap("nothing opened", empty),
        *(unwrap(f"refused: {name}", **more, error=error) for name, (more, error) in refused.items()),
        case(
            "refused: 65602 bytes", "unwrap a secret", keyring=two, of="wrapped", changes=[[49, 0, "00", 65529]],
            **given, error="malformed",
        ),
        case("wrapped anew", "rewrap a secret", keyring=two, bytes=wrapped, salts=[SECOND_SALT], **given),
        case("as it was, under the current one", "rewrap a secret", keyring=two, bytes=newer, salts=[], **given),
        case(
            "refused: what does not open is not wrapped anew",
            "rewrap a secret",
            **(given | {"keyring": two, "bytes": wrapped, "salts": [], "label": "x", "error": "does-not-open"}),
        ),
    ]  # fmt: skip


def _permissions() -> list[Json]:
    user: Json = {"uid": 1000, "gids": [1000, 70]}
    group = entry("gid = 70", '["unwrap"]', '["*"]')
    token = entry(f'token_sha256 = "{DIGEST}"', '["wrap"]', '["app"]')

    def may(name: str, entries: str, action: str = "derive", label: str = "x", who: Json = user, **more: Any) -> Json:
        return case(name, "may", policy=POLICY + entries, caller=who, action=action, label=label, **more)

    no: Json = {"error": "not-permitted"}
    wrong = {
        "nobody": entry(""),
        "a user and a group": entry("uid = 1\ngid = 1"),
        "a user by name": entry('uid = "alice"'),
        "a user below 0": entry("uid = -1"),
        "the user that stands for none": entry("uid = 4294967295"),
        "who has no number": entry("uid = 65534"),
        "a group that has no number": entry("gid = 65534"),
        "a token itself": entry('token_sha256 = "rkt_x"'),
        "nothing that he may": entry(may="[]"),
        "an unknown action": entry(may='["sign"]'),
        "an action twice": entry(may='["wrap", "wrap"]'),
        "no labels": entry(labels="[]"),
        "a label twice": entry(labels='["a", "a"]'),
        "an empty label": entry(labels='[""]'),
        "a label with a space at its end": entry(labels='["a "]'),
        "a star in the middle": entry(labels='["a*b"]'),
        "two stars": entry(labels='["a**"]'),
        "an unknown key": entry() + "deny = true\n",
        "a table of one": entry().replace("[[callers]]", "[callers]"),
        "65 entries": entry() * 65,
    }
    return [
        case("a policy with callers", "read policy", text=POLICY + entry() + group + token),
        *(
            case(f"refused policy: {name}", "read policy", text=POLICY + text, error="Misuse")
            for name, text in wrong.items()
        ),
        may("permitted: a label", entry()),
        may("permitted: a label that begins so", entry(), label="db/main"),
        may("permitted: nothing after what it begins with", entry(), label="db/"),
        may("permitted: by a group", group, "unwrap"),
        may("permitted: by a token", token, "wrap", "app", {"token_sha256": DIGEST}),
        may("permitted: by the second of two", entry() + group, "unwrap"),
        may("refused: no callers", "", **no),
        may("refused: root without an entry", entry(), who={"uid": 0, "gids": [0]}, **no),
        may("refused: a label that goes on", entry(), label="xy", **no),
        may("refused: what he may not do", entry(), "wrap", **no),
        may("refused: another user", entry(), who={"uid": 1001, "gids": [1000]}, **no),
        may("refused: a user of the group's number", group, "unwrap", who={"uid": 70, "gids": [5]}, **no),
        may("refused: action and label of two entries", entry() + group, "wrap", **no),
        may("refused: another token", token, "wrap", "app", {"token_sha256": "00" * 32}, **no),
    ]  # fmt: skip


def _tokens() -> list[Json]:
    token, other = ("rkt_" + base64.urlsafe_b64encode(bytes.fromhex(numbered(at, 32))).decode()[:43] for at in (0, 32))
    digests = [hashlib.sha256(one.encode()).hexdigest() for one in (token, other)]
    text = POLICY + entry(f'token_sha256 = "{digests[0]}"') + entry()
    shown: dict[str, list[str]] = {
        "the token": [f"Bearer {token}"],
        "a scheme in capitals": [f"BEARER {token}"],
        "refused: no header": [],
        "refused: two headers": [f"Bearer {token}"] * 2,
        "refused: a token that the policy has not": [f"Bearer {other}"],
        "refused: no scheme": [token],
        "refused: another scheme": [f"Basic {token}"],
        "refused: two spaces": [f"Bearer  {token}"],
        "refused: a space behind it": [f"Bearer {token} "],
        "refused: a character less": [f"Bearer {token[:-1]}"],
        "refused: its padding": [f"Bearer {token}="],
        "refused: another prefix": [f"Bearer RKT_{token[4:]}"],
        "refused: what the policy has instead of it": [f"Bearer {digests[0]}"],
        "refused: nothing but the scheme": ["Bearer "],
    }
    return [
        *(
            case(
                f"by token: {name}" if not name.startswith("refused") else f"refused, by token: {name[9:]}",
                "who shows a token",
                policy=text,
                authorization=authorization,
                **({"error": "unknown-token"} if name.startswith("refused") else {}),
            )
            for name, authorization in shown.items()
        ),
        case(
            "refused, by token: a policy that has none",
            "who shows a token",
            policy=POLICY + entry(),
            authorization=[f"Bearer {token}"],
            error="unknown-token",
        ),
    ]


def _requests() -> list[Json]:
    def read(name: str, kind: str, body: object, **more: Any) -> Json:
        data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        return case(name, "read a caller's request", kind=kind, bytes=data.hex(), **more)

    def long(name: str, kind: str, of: str, times: int) -> Json:
        at = SHARED[of].index(b'""'.hex()) // 2 + 1
        changes = [[at, 0, b"AAAA".hex(), times]]  # each is three bytes
        name = f"refused request: {name}"
        return case(name, "read a caller's request", kind=kind, of=of, changes=changes, error="Misuse")

    wrong: dict[str, tuple[str, object]] = {
        "nothing": ("Derive", b""),
        "a list": ("Derive", ["db"]),
        "no UTF-8": ("Derive", b'{"label":"\xff"}'),
        "two objects": ("Derive", b'{"label":"a"}{"label":"a"}'),
        "no label": ("Derive", {"size": 32}),
        "an empty label": ("Derive", {"label": ""}),
        "a label of 257": ("Derive", {"label": "a" * 257}),
        "a label with a line feed": ("Derive", {"label": "a\n"}),
        "a label in another script": ("Derive", {"label": "\u00e9"}),
        "a label that is null": ("Derive", {"label": None}),
        "15 bytes": ("Derive", {"label": "a", "size": 15}),
        "65 bytes": ("Derive", {"label": "a", "size": 65}),
        "a size as text": ("Derive", {"label": "a", "size": "32"}),
        "true bytes": ("Derive", {"label": "a", "size": True}),
        "a generation in capitals": ("Derive", {"label": "a", "generation": OTHER_ID.upper()}),
        "another generation": ("Derive", {"label": "a", "generation": "last"}),
        "an unknown field": ("Derive", {"label": "a", "plaintext": ""}),
        "nothing to wrap": ("Wrap", {"label": "a"}),
        "what is no base64": ("Wrap", {"label": "a", "plaintext": "a secret"}),
        "base64 without padding": ("Wrap", {"label": "a", "plaintext": "YQ"}),
        "another request": ("Unwrap", {"label": "a", "plaintext": "YQ=="}),
    }  # fmt: skip
    return [
        read("a label alone", "Derive", {"label": "db/main"}),
        read("all of it, in another order", "Derive", {"generation": "first", "size": 64, "label": "a b"}),
        read("white space", "Derive", b' {\n"label" : "a" }\r\n'),
        read("escapes", "Derive", b'{"label":"\\u0064b\\/1"}'),
        read("a secret", "Wrap", {"label": "a", "plaintext": "YQ=="}),
        read("an empty one, with associated data", "Wrap", {"label": "a", "plaintext": "", "associated_data": "AAE="}),
        read("a wrapped one", "Unwrap", {"label": "a", "wrapped": "AQ=="}),
        *(read(f"refused request: {name}", kind, body, error="Misuse") for name, (kind, body) in wrong.items()),
        long("65538 bytes", "Wrap", "wrap request", 21846),
        long("65604 wrapped bytes", "Unwrap", "unwrap request", 21868),
    ]
