"""orders.json."""

from __future__ import annotations

import json

from tests.vectors.spec_cases import Json
from tests.vectors.spec_operations import OPERATIONS
from tests.vectors.spec_writers.change import SEEDS
from tests.vectors.spec_writers.change import key as key_of
from tests.vectors.spec_writers.common import case, complete, numbered

from rkeyserver.appraisal.signatures import public_line

DOMAIN, ONE = numbered(0xD0, 16), numbered(0x10, 16)


def order(name: str, **fields: object) -> str:
    """One that nobody has signed."""
    return json.dumps(
        {"order": f"rkeyserver-{name}/v1", "domain": DOMAIN} | fields | {"signatures": []}, separators=(",", ":")
    )


ORDERS = {
    "rotate": order("rotate", current=ONE),
    "retire": order("retire", generation=ONE),
    "promote": order("promote", member=ONE, epoch=3),
    "forget": order("forget", member=ONE, epoch=3, sequence=4),
}


def content() -> Json:
    """The file's content."""

    def signed(text: str, *names: str) -> str:
        for name in names:
            text = OPERATIONS["sign order"]({"order": text, "seed": SEEDS[name]})
        return text

    forget = ORDERS["forget"]
    wrong = {
        "nothing": "",
        "no object": "[]",
        "another order": forget.replace("forget", "erase"),
        "another version": forget.replace("/v1", "/v2"),
        "a field unknown": forget.replace('"epoch"', '"extra":0,"epoch"'),
        "a field missing": forget.replace('"epoch":3,', ""),
        "a field of another order": forget.replace('"epoch":3', f'"current":"{ONE}"'),
        "two fields swapped": forget.replace('"epoch":3,"sequence":4', '"sequence":4,"epoch":3'),
        "no signatures": forget.replace(',"signatures":[]', ""),
        "a space": forget.replace(":3", ": 3"),
        "two line feeds": forget + "\n\n",
        "an id in upper case": forget.replace(DOMAIN, DOMAIN.upper()),
        "an epoch below zero": forget.replace(":3", ":-3"),
        "an epoch too high": forget.replace(":3", f":{2**62 + 1}"),
        "a signature that is none": forget.replace("[]", "[{}]"),
    }
    admins = {"threshold": 2, "keys": [public_line(key_of(name)) for name in ("ann", "bob", "cy")]}
    rotate = ORDERS["rotate"]
    usual: Json = {"domain": DOMAIN, "admins": admins, "owner": False}

    def judged(name: str, text: str, **given: object) -> Json:
        return case(name, "judge order", order=text, **(usual | given))

    moved = json.loads(signed(ORDERS["promote"], "ann", "bob")) | {"epoch": 4}
    return complete(
        "orders.json",
        "orders, what a signature is over, and who may give one (orders.md); "
        "seeds are SHA-256 of `rkeyserver test admin NAME`",
        [
            *(case(name, "signed bytes of an order", bytes=text.encode().hex()) for name, text in ORDERS.items()),
            case("with a line feed", "signed bytes of an order", bytes=f"{forget}\n".encode().hex()),
            *(
                case(f"refused: {name}", "signed bytes of an order", bytes=text.encode().hex(), error="Misuse")
                for name, text in wrong.items()
            ),
            case("a signature", "sign order", order=rotate, seed=SEEDS["ann"]),
            case("a second one", "sign order", order=signed(rotate, "ann"), seed=SEEDS["bob"]),
            case("the same key again", "sign order", order=signed(rotate, "ann"), seed=SEEDS["ann"]),
            judged("by two admins", signed(rotate, "ann", "cy")),
            judged("by the owner", rotate, owner=True),
            judged("by the owner, where there are no admins", rotate, owner=True, admins=None),
            judged("refused: by one of two", signed(rotate, "ann"), error="not-signed"),
            judged("refused: by nobody", rotate, error="not-signed"),
            judged("refused: where there are no admins", signed(rotate, "ann", "bob"), admins=None, error="not-signed"),
            judged("refused: by an admin and a stranger", signed(rotate, "ann", "eve"), error="not-signed"),
            judged("refused: for another domain", rotate, domain="00" * 16, owner=True, error="another-domain"),
            judged(
                "refused: a signature that was for another epoch",
                json.dumps(moved, separators=(",", ":")),
                error="not-signed",
            ),
        ],
    )
