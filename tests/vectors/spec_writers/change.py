"""change.json."""

from __future__ import annotations

import base64
import hashlib
import json
from itertools import permutations
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.vectors.spec_cases import Json
from tests.vectors.spec_rkeyserver import OPERATIONS
from tests.vectors.spec_writers.common import case, complete, numbered
from tests.vectors.spec_writers.policy import table

from rkeyserver.appraisal.change import PolicyChange
from rkeyserver.appraisal.signatures import public_line

DOMAIN: Final = numbered(0x10, 16)
NAMES: Final = ("ann", "bob", "cy", "dora", "eve")
SEEDS: Final = {name: hashlib.sha256(f"rkeyserver test admin {name}".encode()).hexdigest() for name in NAMES}


def key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(SEEDS[name]))


def line(name: str) -> str:
    """As a policy names an admin."""
    return f"{public_line(key(name))} {name}@example"


def admins(threshold: int, *names: str) -> Json:
    return {"threshold": threshold, "keys": [line(name) for name in names]}


def policy(version: int, given: Json | None) -> str:
    """One that accepts this version; given: its admins."""
    text = "version = 1\n" + table(min_isv_svn=str(version))
    if given is None:
        return text
    return text + f"\n[admins]\nthreshold = {given['threshold']}\nkeys = {json.dumps(given['keys'])}\n"


# Two of three; then cy leaves and dora comes; and who signs alone.
OLD: Final = admins(2, "ann", "bob", "cy")
NEW: Final = admins(2, "ann", "bob", "dora")
OTHERS: Final = admins(2, "cy", "dora")
STRANGERS: Final = admins(1, "eve")
P: Final = [policy(number, OLD) for number in range(4)]
Q: Final = [policy(number, NEW) for number in range(4)]
OPEN: Final = [policy(number, None) for number in range(3)]


def change(sequence: int, replaces: str, new: str, *signers: str, domain: str = DOMAIN) -> str:
    """A change with the signatures of those named."""
    text = PolicyChange(
        format="rkeyserver-policy-change/v1",
        domain=domain,
        sequence=sequence,
        replaces=hashlib.sha256(replaces.encode()).hexdigest(),
        policy=new,
        signatures=[],
    ).text()
    for name in signers:
        text = OPERATIONS["sign change"]({"change": text, "seed": SEEDS[name]})
    return text


def edited(text: str, **fields: Any) -> str:
    """With other fields, and the signatures that it had."""
    return json.dumps(json.loads(text) | fields, ensure_ascii=False, separators=(",", ":"))


def signatures(*texts: str) -> list[Json]:
    """Of several changes, together."""
    return [one for text in texts for one in json.loads(text)["signatures"]]


def chain(*steps: tuple[str, str, list[str]], start: list[str] | None = None) -> list[str]:
    """The chain after changes, each from one policy to another, signed by names."""
    changes = list(start or [])
    for before, after, names in steps:
        sequence = json.loads(changes[-1])["sequence"] + 1 if changes else 1
        given = {"domain": DOMAIN, "policy": before, "chain": changes, "owner": True}
        changes = OPERATIONS["chain after"](given | {"change": change(sequence, before, after, *names)})
    return changes


FIRST: Final = change(1, P[0], P[1], "ann", "bob")
ONE: Final = chain((P[0], P[1], ["ann", "bob"]))
TWO: Final = chain((P[1], P[2], ["bob", "cy"]), start=ONE)
MOVED: Final = chain((P[2], Q[1], ["ann", "bob"]), start=TWO)
LATER: Final = chain((Q[1], Q[2], ["ann", "dora"]), start=MOVED)


HEAD: Final = base64.b64decode(public_line(key("ann")).split()[1])[:19]
PRIME: Final = 2**255 - 19
ORDER_8: Final = 2707385501144840649318225287225658788936804267575313519463743609750303402022
ANYBODYS: Final = {
    "the identity": 1,
    "order 2": PRIME - 1,
    "order 4": 0,
    "order 8": ORDER_8,
    "order 8, the other": PRIME - ORDER_8,
    "order 4, x negative": 2**255,
    "order 8, x negative": ORDER_8 + 2**255,
    "the identity as p + 1": PRIME + 1,
    "order 4 as p": PRIME,
    "the last y that is above p": 2**255 - 1,
}


def spelled(public: bytes) -> str:
    """A key line of any bytes."""
    return "ssh-ed25519 " + base64.b64encode(HEAD + public).decode()


def key_cases() -> list[Json]:
    ann, bare = line("ann"), public_line(key("ann"))
    raw = key("ann").public_key().public_bytes_raw()

    def read(name: str, threshold: int, *keys: str) -> Json:
        return case(name, "read policy", text=policy(1, {"threshold": threshold, "keys": list(keys)}))

    wrong: dict[str, tuple[int, list[str]]] = {
        "a threshold of none": (0, [ann]),
        "a threshold above the number of keys": (2, [ann]),
        "no keys": (1, []),
        "17 keys": (1, [spelled(bytes([number]) * 32) for number in range(2, 19)]),
        "a key twice": (1, [bare, bare]),
        "a key twice, under two names": (1, [ann, bare]),
        "a key twice, once with padding": (2, [ann, f"{bare}=="]),
        "a key with padding": (1, [f"{bare}="]),
        "a key of 31 bytes": (1, [spelled(raw[1:])]),
        "a key of 33 bytes": (1, [spelled(raw + b"\0")]),
        "a key without its length": (1, [bare.replace("AAAAI", "AAAAA")]),
        "a key of another kind": (1, [bare.replace("ssh-ed25519 ", "ssh-rsa ")]),
        "a key that says another kind inside": (1, [bare.replace("ZDI1NTE5", "ZDI1NTE6")]),
        "two spaces before a key": (1, [bare.replace(" ", "  ")]),
        "an empty name": (1, [f"{bare} "]),
        "a name in another language": (1, [f"{bare} Änne"]),
        "a name with a line feed": (1, [f"{bare} ann\n"]),
        "a name of 257 characters": (1, [f"{bare} {'a' * 257}"]),
        **{f"anybody's: {name}": (1, [spelled(y.to_bytes(32, "little"))]) for name, y in ANYBODYS.items()},
    }
    return [
        read("a key with its name", 1, ann),
        read("a key without a name", 1, bare),
        read("a key with the longest name", 1, f"{bare} {'a' * 256}"),
        read("16 of 16 keys", 16, *(spelled(bytes([number]) * 32) for number in range(2, 18))),
        *(
            read(f"refused in a policy: {name}", threshold, *keys) | {"error": "Misuse"}
            for name, (threshold, keys) in wrong.items()
        ),
    ]


def read_cases() -> list[Json]:
    base = FIRST.encode()

    def wrong(name: str, data: bytes | str) -> Json:
        data = data.encode() if isinstance(data, str) else data
        return case(f"refused: {name}", "read change", bytes=data.hex(), error="Misuse")

    def with_key(spelling: str) -> str:
        return edited(FIRST, signatures=[{"key": spelling, "signature": "00" * 64}])

    (one, two), bare = signatures(FIRST), public_line(key("ann"))
    at, room = base.index(b'"policy":"') + len(b'"policy":"'), 262_144 - len(base)

    def long(name: str, changes: list[list[Any]]) -> Json:
        return case(name, "read change", of="document", changes=changes)

    return [
        case("a change", "read change", bytes=base.hex()),
        case("a change that nobody has signed", "read change", bytes=change(1, P[0], P[1]).encode().hex()),
        case("a line feed at its end", "read change", bytes=(base + b"\n").hex()),
        case("what its policy says is not looked at", "read change", bytes=edited(FIRST, policy="?").encode().hex()),
        case("the highest sequence", "read change", bytes=edited(FIRST, sequence=2**62).encode().hex()),
        wrong("nothing", ""),
        wrong("no JSON", "x"),
        wrong("no UTF-8", base.replace(b"version", b"version\xff", 1)),
        wrong("a lone surrogate", base.replace(b"version", b"\\ud800", 1)),
        wrong("two line feeds at its end", base + b"\n\n"),
        wrong("a line feed at its start", b"\n" + base),
        wrong("a space", base.replace(b":", b": ", 1)),
        wrong("an escape that is not needed", base.replace(b"version", b"\\u0076ersion", 1)),
        wrong("two fields swapped", json.dumps(dict(sorted(json.loads(FIRST).items())), separators=(",", ":"))),
        wrong("a field repeated", base.replace(b'"sequence":1', b'"sequence":1,"sequence":1', 1)),
        wrong("a field unknown", edited(FIRST, extra=1)),
        wrong("a field missing", base.replace(b'"sequence":1,', b"", 1)),
        wrong("another format", edited(FIRST, format="rkeyserver-policy-change/v2")),
        wrong("a link", ONE[0]),
        wrong("a domain in upper case", edited(FIRST, domain="AB" * 16)),
        wrong("sequence zero", edited(FIRST, sequence=0)),
        wrong("a sequence above the limit", edited(FIRST, sequence=2**62 + 1)),
        wrong("a sequence with a fraction", base.replace(b'"sequence":1', b'"sequence":1.0', 1)),
        wrong("a sequence as text", edited(FIRST, sequence="1")),
        wrong("a digest that is too short", edited(FIRST, replaces="00" * 31)),
        wrong("an empty policy", edited(FIRST, policy="")),
        wrong("a signature too short", edited(FIRST, signatures=[one | {"signature": "00" * 63}])),
        wrong("a signature in upper case", edited(FIRST, signatures=[one | {"signature": "AB" * 64}])),
        wrong("a signature with a field unknown", edited(FIRST, signatures=[one | {"name": "ann"}])),
        wrong("a key that has signed twice", edited(FIRST, signatures=[one, two, one])),
        wrong("33 signatures", edited(FIRST, signatures=[one] * 33)),
        wrong("a key with a name", with_key(f"{bare} ann")),
        wrong("a key with padding that it does not need", with_key(f"{bare}==")),
        wrong("a key of another kind", with_key(bare.replace("ssh-ed25519", "ssh-ed448"))),
        wrong("a key that says another kind inside", with_key(bare.replace("ZDI1NTE5", "ZDI1NTE6"))),
        wrong("a key of 33 bytes", with_key(bare.replace("AAAAI", "AAAAJ") + "AAAA")),
        wrong("a key after two spaces", with_key(bare.replace(" ", "  "))),
        long("as many characters of policy as there may be", [[at, 0, "23", 131_072 - len(P[1])]]),
        long("refused: a character more", [[at, 0, "23", 131_073 - len(P[1])]]) | {"error": "Misuse"},
        long("as many bytes as there may be", [[at, 0, "23", room % 4], [at, 0, "f09f9491", room // 4]]),
        long("refused: a byte more", [[at, 0, "23", room % 4 + 1], [at, 0, "f09f9491", room // 4]])
        | {"error": "Misuse"},
    ]


def apply_cases() -> list[Json]:
    now: Json = {"policy": P[1], "chain": ONE}
    ann, bob = ("ann", "bob")
    good = change(2, P[1], P[2], ann, bob)

    def said(name: str, text: str, error: str | None = None, **given: Any) -> Json:
        return case(name, "apply", **(now | {"change": text} | given)) | ({"error": error} if error else {})

    def refused(name: str, text: str, error: str, **given: Any) -> Json:
        return said(f"refused: {name}", text, error, **given)

    other = numbered(0x90, 16)
    unreadable = change(2, P[1], "version = 2\n")
    moving = change(2, P[1], policy(1, OTHERS), ann, bob)
    first: Json = {"policy": P[0], "chain": []}
    ownerless: Json = {"policy": OPEN[0], "chain": []}
    flipped = signatures(good)
    flipped[0] = flipped[0] | {"signature": f"{int(flipped[0]['signature'], 16) ^ 1:0128x}"}
    swapped = [one | {"signature": two["signature"]} for one, two in permutations(signatures(good), 2)]
    return [
        said("the first change of a domain", FIRST, **first),
        said("the next change", good),
        said("signed by all", change(2, P[1], P[2], "ann", "bob", "cy")),
        said("signed by strangers as well", change(2, P[1], P[2], "eve", "ann", "dora", "bob")),
        said("with a worthless signature of the third", edited(
            good, signatures=[*signatures(good), *signatures(change(9, P[1], P[2], "cy"))])),
        said("to the same policy again", change(2, P[1], P[1], ann, bob)),
        said("one admin leaves, another comes", change(2, P[1], Q[1], ann, bob)),
        said("to admins that have signed as well", change(2, P[1], policy(1, OTHERS), ann, "cy", "dora")),
        said("to no admins", change(2, P[1], OPEN[1], ann, bob)),
        said("by the owner, where there are no admins", change(1, OPEN[0], OPEN[1]), owner=True, **ownerless),
        said("by the owner, who names admins that have signed", change(1, OPEN[0], P[1], ann, bob), owner=True,
             **ownerless),
        refused("1, not canonical", good.replace(":", ": ", 1), "Misuse"),
        refused("1, before all others", edited(unreadable, domain=other) + " ", "Misuse"),
        refused("2, of another domain, where all else is right", change(2, P[1], P[2], ann, bob, domain=other),
                "another-domain"),
        refused("2, before all others", edited(unreadable, domain=other, sequence=7), "another-domain"),
        refused("3, replayed", FIRST, "not-the-next-change"),
        refused("3, stale: it was for the place before", change(1, P[1], P[2], ann, bob), "not-the-next-change"),
        refused("3, ahead", change(3, P[1], P[2], ann, bob), "not-the-next-change"),
        refused("3, the first is not zero or two", change(2, P[0], P[1], ann, bob), "not-the-next-change", **first),
        refused("3, before those that follow", edited(unreadable, sequence=3), "not-the-next-change"),
        refused("4, made for the policy before", change(2, P[0], P[2], ann, bob), "not-the-next-change"),
        refused("4, made for the policy that it brings", change(2, P[2], P[2], ann, bob), "not-the-next-change"),
        refused("4, before those that follow", edited(unreadable, replaces="00" * 32), "not-the-next-change"),
        refused("5, a policy that cannot be read", unreadable, "Misuse"),
        refused("5, an admin's key twice under two names", change(2, P[1], policy(
            1, {"threshold": 2, "keys": [line("ann"), public_line(key("ann"))]})), "Misuse"),
        refused("6, nobody has signed", change(2, P[1], P[2]), "not-signed"),
        refused("6, nobody but the owner has signed", change(2, P[1], P[2]), "not-signed", owner=True),
        refused("6, one below the threshold", change(2, P[1], P[2], ann), "not-signed"),
        refused("6, one admin and a stranger", change(2, P[1], P[2], ann, "eve"), "not-signed"),
        refused("6, an admin of the new policy only", change(2, P[1], Q[1], ann, "dora"), "not-signed"),
        refused("6, over another place", edited(good, signatures=signatures(change(3, P[1], P[2], ann, bob))),
                "not-signed"),
        refused("6, over another policy", edited(good, signatures=signatures(change(2, P[1], P[3], ann, bob))),
                "not-signed"),
        refused("6, over another policy replaced",
                edited(good, signatures=signatures(change(2, P[0], P[2], ann, bob))), "not-signed"),
        refused("6, over another domain",
                edited(good, signatures=signatures(change(2, P[1], P[2], ann, bob, domain=other))), "not-signed"),
        refused("6, one over this and one over another policy",
                edited(good, signatures=signatures(change(2, P[1], P[2], ann), change(2, P[1], P[3], bob))),
                "not-signed"),
        refused("6, a bit of a signature flipped", edited(good, signatures=flipped), "not-signed"),
        refused("6, signatures under each other's keys", edited(good, signatures=swapped), "not-signed"),
        refused("6, other admins of whom too few have signed", moving, "not-signed"),
        refused("6, other admins of whom all have signed, but too few of those now",
                change(2, P[1], policy(1, OTHERS), "cy", "dora"), "not-signed"),
        refused("6, without admins, from elsewhere than the owner", change(1, OPEN[0], OPEN[1]), "not-signed",
                **ownerless),
        refused("6, without admins, signed by those that it names", change(1, OPEN[0], P[1], ann, bob), "not-signed",
                **ownerless),
        refused("6, by the owner, who names admins that have not signed", change(1, OPEN[0], P[1], ann), "not-signed",
                owner=True, **ownerless),
    ]  # fmt: skip


def chain_cases() -> list[Json]:
    def after(name: str, before: list[str], now: str, new: str, *names: str, sequence: int) -> Json:
        text = change(sequence, now, new, *names)
        return case(name, "chain after", policy=now, chain=before, change=text, owner=True)

    reordered = policy(2, admins(2, "bob", "ann", "dora"))
    return [
        after("the first link", [], P[0], P[1], "ann", "bob", sequence=1),
        after("the second", ONE, P[1], P[2], "bob", "cy", sequence=2),
        after("a third, where the second goes", TWO, P[2], P[3], "ann", "cy", sequence=3),
        after("one that changes the admins, where the second goes", TWO, P[2], Q[1], "ann", "bob", sequence=3),
        after("one after it, where nothing goes", MOVED, Q[1], Q[2], "bob", "dora", sequence=4),
        after("another, where the one before goes", LATER, Q[2], Q[3], "ann", "bob", sequence=5),
        after("the order of the admins changes them", LATER, Q[2], reordered, "ann", "bob", sequence=5),
        after("signatures that count stay", ONE, P[1], Q[1], "eve", "cy", "bob", "dora", sequence=2),
        after("a domain without admins", [], OPEN[0], OPEN[1], sequence=1),
    ]


def believe_cases() -> list[Json]:
    def judged(name: str, changes: list[str], by: Json, text: str, *, error: bool = False, **given: Any) -> Json:
        made = case(name, "believe", chain=changes, admins=by, policy=text, **given)
        return made | ({"error": "policy-not-believed"} if error else {})

    def refused(name: str, changes: list[str], by: Json, text: str, **given: Any) -> Json:
        return judged(f"not believed: {name}", changes, by, text, error=True, **given)

    first, moved, last = LATER
    given_up = chain((Q[2], OPEN[0], ["ann", "bob"]), start=LATER)
    by_owner = chain((OPEN[0], OPEN[1], []), start=given_up)
    back = chain((OPEN[1], P[1], ["ann", "cy"]), start=by_owner)
    fork = json.loads(chain((P[2], P[3], ["bob", "cy"]), start=TWO)[-1])
    foreign = json.loads(first) | {"domain": numbered(0x90, 16)}
    compact: Json = {"ensure_ascii": False, "separators": (",", ":")}
    lax = json.loads(moved)
    lax["admins"] = STRANGERS | {"keys": [line("eve")]}
    half = json.loads(last)
    half["signatures"] = half["signatures"][:1]
    return [
        judged("by those who signed the only link", ONE, OLD, P[1]),
        judged("by the first admins, of a chain that changed them", LATER, OLD, Q[2]),
        judged("by the present admins, whom a link before named", LATER, NEW, Q[2]),
        judged("by the present admins, whom the last link named", MOVED, NEW, Q[1]),
        judged("by admins who gave it up, what they signed", given_up, NEW, OPEN[0]),
        judged("by admins whom the owner named, and who signed", back, OLD, P[1]),
        judged("by one of them, who goes by any one", ONE, admins(1, "bob", "eve"), P[1]),
        judged("by the old admins, a branch that they signed", [first, json.dumps(fork, **compact)], OLD, P[3]),
        refused("no link", [], OLD, P[0]),
        refused("by strangers", LATER, STRANGERS, Q[2]),
        refused("one signature below the threshold", ONE, admins(2, "ann", "cy"), P[1]),
        refused("by the present admins, a branch of the old", [first, json.dumps(fork, **compact)],
                admins(2, "ann", "dora"), P[3]),
        refused("without the link that changed the admins", [first, last], OTHERS, Q[2]),
        refused("without the link that named who signed", [first, json.dumps(half, **compact)], OLD, Q[2]),
        refused("a last link that too few have signed", [first, moved, json.dumps(half, **compact)], OLD, Q[2]),
        refused("out of order", [moved, first, last], OLD, Q[2]),
        refused("a link twice", [first, first, moved, last], OLD, Q[2]),
        refused("a link of another domain", [json.dumps(foreign, **compact), moved, last], NEW, Q[2]),
        refused("all of another domain", LATER, OLD, Q[2], domain=numbered(0x90, 16)),
        refused("the keyring has another policy", LATER, OLD, Q[1]),
        refused("the last link was left out", LATER[:2], OLD, Q[2]),
        refused("a link whose admins were edited", [first, json.dumps(lax, **compact)], OLD, Q[1]),
        refused("what the owner made after they gave it up", by_owner, NEW, OPEN[1]),
        refused("by others, whom the owner never named", back, NEW, P[1]),
        refused("a change for a link", [FIRST], OLD, P[1]),
        refused("a line feed at the end of a link", [f"{ONE[0]}\n"], OLD, P[1]),
        refused("a space in a link", [ONE[0].replace(":", ": ", 1)], OLD, P[1]),
        refused("a link that is none", ["{}", *ONE], OLD, P[1]),
        refused("an escape in a link", [ONE[0].replace("example", "\\u0065xample", 1)], OLD, P[1]),
    ]  # fmt: skip


def succeed_cases() -> list[Json]:
    def state(changes: list[str], text: str, sequence: int, epoch: int = 0, domain: str = DOMAIN) -> Json:
        return {"domain": domain, "epoch": epoch, "sequence": sequence, "policy": text, "chain": changes}

    def judged(name: str, found: Json, held: Json | None, by: Json | None = None) -> Json:
        return case(name, "succeed", found=found, held=held, admins=by)

    def refused(name: str, found: Json, held: Json | None, by: Json | None = None) -> Json:
        return judged(f"does not follow: {name}", found, held, by) | {"error": "policy-not-believed"}

    other_two = chain((P[1], P[3], ["ann", "cy"]), start=ONE)
    by_owner = chain((OPEN[0], OPEN[1], []))
    one, two, start = state(ONE, P[1], 2), state(TWO, P[2], 3), state([], OPEN[0], 1)
    return [
        judged("a first one, by nobody", two, None),
        judged("a first one without links, by nobody", start, None),
        judged("a first one, by admins given at the start", two, None, OLD),
        judged("a later one", two, one),
        judged("a later one, by its own admins and those of the start", two, one, OLD),
        judged("the same in a later keyring, without a walk", state([], P[0], 5), state([], P[0], 1)),
        judged("the owner's", state(by_owner, OPEN[1], 2), start),
        judged("an earlier one, which is no extension", one, two),
        judged("another domain's, whatever is held", one, state(TWO, P[2], 1, domain="00" * 16)),
        refused("without links, by admins", start, None, OLD),
        refused("not signed by those of the start", two, one, STRANGERS),
        refused("not signed by those of the policy held", state(by_owner, OPEN[1], 9), state([], P[0], 1)),
        refused("an earlier one in a later keyring", state(ONE, P[1], 9), two),
        refused("an earlier one in a later epoch", state(ONE, P[1], 0, epoch=1), two),
        refused("an earlier one of another primary, in one epoch and sequence", state(ONE, P[1], 3), two),
        judged("the same of another primary, in one epoch and sequence", two, two),
        refused("another one for the same place", state(other_two, P[3], 9), two),
        refused("one before all changes, where there are no admins", state([], OPEN[2], 9),
                state(by_owner, OPEN[1], 2)),
        refused("links that cannot be read, by nobody", state(["{}"], P[1], 2), None),
        refused("links of another domain, by nobody", one | {"domain": "00" * 16}, None),
        refused("links out of order, by nobody", state([TWO[1], TWO[0]], P[1], 3), None),
        refused("links to another policy, by nobody", one | {"policy": P[2]}, None),
    ]  # fmt: skip


def content() -> Json:
    """The file's content."""
    given: Json = {"sequence": 2, "replaces": P[1]}
    unsigned = change(2, P[1], P[2])
    signed = change(2, P[1], P[2], "ann", "bob")
    full = edited(unsigned, signatures=[
        {"key": public_line(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)), "signature": "00" * 64}
        for number in range(32)
    ])  # fmt: skip
    return complete(
        "change.json",
        "changes of a policy, the chain that they leave, and who believes it (policy.md); "
        "seeds are SHA-256 of `rkeyserver test admin NAME`",
        [
            case("signed bytes", "signed bytes", policy=P[2], **given),
            case("signed bytes without admins", "signed bytes", policy=OPEN[1], **given),
            case("signed bytes of a policy in any language", "signed bytes", policy=P[2] + "# Änderung, 変更", **given),
            case("a policy that cannot be read", "signed bytes", policy="", error="Misuse", **given),
            case("a signature", "sign change", change=unsigned, seed=SEEDS["ann"]),
            case("a second signature", "sign change", change=change(2, P[1], P[2], "ann"), seed=SEEDS["bob"]),
            case("the same key again", "sign change", change=signed, seed=SEEDS["ann"]),
            case("a key in the place of its worthless signature", "sign change", seed=SEEDS["ann"],
                 change=edited(signed, signatures=signatures(change(3, P[1], P[2], "ann", "bob")))),
            case("no room for a signature", "sign change", change=full, seed=SEEDS["ann"], error="Misuse"),
            *key_cases(),
            *read_cases(),
            *apply_cases(),
            *chain_cases(),
            *believe_cases(),
            *succeed_cases(),
        ],
        {"domain": DOMAIN, "owner": False, "document": FIRST.encode().hex()},
    )  # fmt: skip
