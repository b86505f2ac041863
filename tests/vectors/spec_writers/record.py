"""record.json."""

from __future__ import annotations

import json

from tests.vectors.spec_cases import Json
from tests.vectors.spec_rkeyserver import OPERATIONS
from tests.vectors.spec_writers.common import case, complete, numbered
from tests.vectors.spec_writers.keyring import DOMAIN_SECRET, ROOT_KEY


def content() -> Json:
    """The file's content."""
    minted = {
        "domain_secret": DOMAIN_SECRET,
        "root_key": ROOT_KEY,
        "now": 1000,
        "policy": "version = 1\n",
        "primary": numbered(0x90, 16),
    }
    keyring = OPERATIONS["mint"](minted)
    domain = OPERATIONS["domain id"](minted)
    generations = [OPERATIONS["generation id"](minted | {"domain": domain})]
    shared: Json = {
        "platform_key": numbered(0, 16),
        "record_key": numbered(0xA0, 32),
        "salt": numbered(0xC0, 32),
        "platform": "simulated",
        "machine": numbered(0x70, 16),
        "policy": "mrsigner",
        "versions": {"cpu_svn": "07" + "00" * 15, "isv_svn": "1", "config_svn": "0"},
        "domain": domain,
        "generations": generations,
        "epoch": 0,
        "sequence": 1,
        "written": 2000,
        "member": numbered(0x90, 16),
        "members": [],
        "keyring": keyring,
        "slot_data": "5107",
    }
    whole = bytes.fromhex(OPERATIONS["seal"](shared))
    magic, line, sealed = whole.split(b"\n", 2)

    def edited(old: str, new: str) -> str:
        assert line.count(old.encode()) == 1, f"{old!r} is not there once"
        return b"\n".join((magic, line.replace(old.encode(), new.encode()), sealed)).hex()

    slot = json.dumps(json.loads(line)["slots"][0], separators=(",", ":"))
    wrapped = json.loads(slot)["wrapped"]
    forms = {
        "nothing": "",
        "something else": b"\x7fELF".hex() * 100,
        "another format": whole.replace(b"/v1\n", b"/v2\n", 1).hex(),
        "the header cut": whole[:100].hex(),
        "a header that is no JSON": edited('{"domain"', '["domain"'),
        "a header that is no UTF-8": whole.replace(b'"mrsigner"', b'"mrsigne\xff"', 1).hex(),
        "a field unknown": edited('"epoch":0', '"extra":0,"epoch":0'),
        "a field missing": edited('"epoch":0,', ""),
        "two fields swapped": edited('"epoch":0,"sequence":1', '"sequence":1,"epoch":0'),
        "a space": edited('"epoch":0', '"epoch": 0'),
        "members missing": edited('"members":[],', ""),
        "a member that is none": edited('"members":[]', '"members":[{}]'),
        "a member's id in upper case": edited(shared["member"], shared["member"].upper()),
        "a domain with a line feed at its end": edited(f'"{domain}"', f'"{domain}\\n"'),
        "no generation": edited(json.dumps(generations), "[]"),
        "no slot": edited(slot, ""),
        "two slots": edited(slot, f"{slot},{slot}"),
        "a slot of another type": edited('"type":"platform"', '"type":"any"'),
        "a platform with an escape sequence": edited('"simulated"', '"simulated\\u001b[2J"'),
        "base64 without padding": edited(f'"{wrapped}"', f'"{wrapped.rstrip("=")}"'),
        "nothing behind the header": (magic + b"\n" + line + b"\n").hex(),
        "a tag alone": (magic + b"\n" + line + b"\n" + bytes(16)).hex(),
    }
    changes = {
        "machine changed": edited(shared["machine"], "00" * 16),
        "epoch changed": edited('"epoch":0', '"epoch":1'),
        "sequence changed": edited('"sequence":1', '"sequence":2'),
        "domain changed": edited(domain, "00" * 16),
        "policy changed": edited('"mrsigner"', '"mrenclave"'),
        "written changed": edited('"written":2000', '"written":2001'),
        "member changed": edited(shared["member"], "00" * 16),
        "a generation changed": edited(generations[0], "00" * 16),
        "versions changed": edited('"isv_svn":"1"', '"isv_svn":"2"'),
        "wrapped key changed": edited(f'"{wrapped}"', json.dumps(("B" if wrapped[0] == "A" else "A") + wrapped[1:])),
    }
    elsewhere: dict[str, Json] = {
        "another platform key": {"platform_key": numbered(1, 16)},
        "another machine": {"machine": "00" * 16},
        "another platform": {"platform": "sgx"},
    }
    foreign = shared | {"domain": "00" * 16}
    newer = shared | {"sequence": 2}
    return complete(
        "record.json",
        "the sealed record, its slot and its refusals (record.md)",
        [
            case("slot", "wrap"),
            case("slot, unwrapped", "unwrap", of="slot", changes=[]),
            case("slot of other data", "unwrap", of="slot", changes=[], slot_data="5108", error="Corrupt"),
            case("slot with the salt changed", "unwrap", of="slot", changes=[[0, 1, "c1"]], error="Corrupt"),
            case("slot cut", "unwrap", of="slot", changes=[[79, 1, ""]], error="Corrupt"),
            case("slot longer", "unwrap", of="slot", changes=[[80, 0, "00"]], error="Corrupt"),
            case("slot of another key", "unwrap", of="slot", changes=[], platform_key="00" * 16, error="Corrupt"),
            case("record", "seal"),
            case("record, opened", "open", of="record", changes=[]),
            *(case(f"no record: {name}", "open", bytes=data, error="Corrupt") for name, data in forms.items()),
            case(
                "no record: a header too long", "open", of="record", changes=[[21, 0, "20", 524_288]], error="Corrupt"
            ),
            *(case(f"edited: {name}", "open", bytes=data, error="Corrupt") for name, data in changes.items()),
            case("ciphertext changed", "open", of="record", changes=[[len(whole) - 20, 1, "00"]], error="Corrupt"),
            case("ciphertext cut", "open", of="record", changes=[[len(whole) - 1, 1, ""]], error="Corrupt"),
            case("ciphertext longer", "open", of="record", changes=[[len(whole), 0, "00"]], error="Corrupt"),
            *(
                case(f"opened elsewhere: {name}", "open", of="record", changes=[], error="Corrupt") | given
                for name, given in elsewhere.items()
            ),
            case("sealed under another domain's name", "open", bytes=OPERATIONS["seal"](foreign), error="Corrupt"),
            case("sealed under another sequence", "open", bytes=OPERATIONS["seal"](newer), error="Corrupt"),
        ],
        shared,
    )
