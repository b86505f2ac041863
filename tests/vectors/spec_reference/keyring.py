"""docs/spec/keyring.md."""

from __future__ import annotations

import hashlib
import struct

from tests.vectors.spec_reference.notation import (
    HEX16,
    Json,
    canonical_json,
    expand,
    framed,
    is_int,
    is_object,
    is_text,
    read_canonical_json,
    require,
    unhex,
)


def domain_id(secret: bytes) -> str:
    return expand(secret, framed(b"rkeyserver/v1", b"domain id"), 16).hex()


def generation_id(key: bytes, domain: str) -> str:
    return expand(key, framed(b"rkeyserver/v1", b"generation id", domain.encode()), 16).hex()


def write_keyring(case: Json) -> bytes:
    secret = unhex(case["domain_secret"])
    domain = domain_id(secret)
    root_keys = [unhex(one["root_key"]) for one in case["generations"]]
    header = canonical_json(
        {
            "version": 1,
            "domain": domain,
            "epoch": case["epoch"],
            "sequence": case["sequence"],
            "primary": case["primary"],
            "generations": [
                {"id": generation_id(key, domain), "created": one["created"], "state": one["state"]}
                for key, one in zip(root_keys, case["generations"], strict=True)
            ],
            "policy": case["policy"],
            "changes": case.get("changes", []),
        }
    )
    return struct.pack(">I", len(header)) + header + secret + b"".join(root_keys)


def read_keyring(data: bytes) -> Json:
    """The header of a keyring, and the keys behind it as `keys`."""
    require(4 < len(data) <= 262144, "Corrupt")
    end = 4 + struct.unpack_from(">I", data)[0]
    require(4 < end <= len(data), "Corrupt")
    header = read_canonical_json(data[4:end])
    fields = ["version", "domain", "epoch", "sequence", "primary", "generations", "policy", "changes"]
    require(is_object(header, fields), "Corrupt")
    require(header["version"] == 1 and is_text(header["domain"], HEX16), "Corrupt")
    require(is_text(header["primary"], HEX16), "Corrupt")
    require(is_int(header["epoch"], 0, 2**62) and is_int(header["sequence"], 0, 2**62), "Corrupt")
    require(isinstance(header["policy"], str) and 1 <= len(header["policy"]) <= 131072, "Corrupt")
    changes = header["changes"]
    require(isinstance(changes, list) and len(changes) <= 256, "Corrupt")
    require(all(isinstance(one, str) and one for one in changes), "Corrupt")
    generations = header["generations"]
    require(isinstance(generations, list) and 1 <= len(generations) <= 1024, "Corrupt")
    for one in generations:
        require(is_object(one, ["id", "created", "state"]), "Corrupt")
        require(is_text(one["id"], HEX16) and is_int(one["created"], 0, 2**62), "Corrupt")
        require(one["state"] in ("pending", "current", "readable", "retired"), "Corrupt")
    require(len(data) == end + 32 * (1 + len(generations)), "Corrupt")
    keys = [data[at : at + 32] for at in range(end, len(data), 32)]
    require(domain_id(keys[0]) == header["domain"], "Corrupt")
    for one, key in zip(generations, keys[1:], strict=True):
        require(generation_id(key, header["domain"]) == one["id"], "Corrupt")
    require(len({one["id"] for one in generations}) == len(generations), "Corrupt")
    states = [one["state"] for one in generations]
    require(states.count("current") == 1 and states.count("pending") <= 1, "Corrupt")
    assert isinstance(header, dict)
    return header | {"keys": keys}


def describe_keyring(data: bytes) -> Json:
    found = read_keyring(data)
    states = [one["state"] for one in found["generations"]]
    current = states.index("current")
    return {
        "domain": found["domain"],
        "generations": [one["id"] for one in found["generations"]],
        "current": found["generations"][current]["id"],
        "root_key": found["keys"][1 + current].hex(),
    }


def place(keyring: Json) -> tuple[int, int, str, str]:
    """Of a keyring as read_keyring() gives it."""
    header = canonical_json({name: value for name, value in keyring.items() if name != "keys"})
    digest = hashlib.sha256(header).hexdigest()
    return keyring["epoch"], keyring["sequence"], keyring["primary"], digest


def extends(new: Json, old: Json) -> bool:
    ids, had = ({one["id"] for one in keyring["generations"]} for keyring in (new, old))
    later = place(new) > place(old)
    return bool(new == old or (new["domain"] == old["domain"] and had <= ids and later))
