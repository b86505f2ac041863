#!/usr/bin/env python3
"""Writes the test vectors of this folder: `PYTHONPATH=src:. python docs/spec/vectors/generate.py`.

Inputs and randomness are given, so the same files come out. ECDSA signatures and KEM encapsulations have randomness of
their own: what exchange.json, hpke.json, mint-statement.json, recovery.json and release.json have recorded of them is
kept, unless --record asks for new.
"""

from __future__ import annotations

import argparse
import inspect
import json
from typing import Any, Final

import msgspec
from tests.vectors.spec_cases import FOLDER, SPEC, Json
from tests.vectors.spec_writers import (
    audit,
    callers,
    change,
    exchange,
    hpke,
    keyring,
    messages,
    mint_statement,
    openapi,
    orders,
    policy,
    ra_tls,
    record,
    recovery,
    release,
    report_data,
    simulated,
)

from rkeyserver.appraisal.policy import PolicyDocument


def contents(*, new: bool = False) -> dict[str, Json]:
    """Every file's content. new: record what is random anew."""
    return {
        "report-data.json": report_data.content(),
        "messages.json": messages.content(),
        "hpke.json": hpke.content(record=new),
        "keyring.json": keyring.content(),
        "ra-tls.json": ra_tls.content(),
        "callers.json": callers.content(),
        "audit.json": audit.content(),
        "record.json": record.content(),
        "recovery.json": recovery.content(record_anew=new),
        "mint-statement.json": mint_statement.content(record_anew=new),
        "simulated.json": simulated.content(),
        "policy.json": policy.content(),
        "change.json": change.content(),
        "orders.json": orders.content(),
        "exchange.json": exchange.content(record_anew=new),
        "release.json": release.content(record_anew=new),
    }


def text(content: Json) -> str:
    """A file: one line for each case, so that a difference shows which."""
    cases = ",\n".join("  " + json.dumps(case, ensure_ascii=False) for case in content["cases"])
    head = "".join(
        f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)},\n"
        for key, value in content.items()
        if key != "cases"
    )
    return f'{{\n{head} "cases": [\n{cases}\n ]\n}}\n'


BEGIN: Final = "<!-- example -->\n"
END: Final = "<!-- end of example -->\n"
_LINE: Final = 16


def _dump(data: bytes, start: int, end: int) -> list[str]:
    lines = []
    for offset in range(start, end, _LINE):
        part = data[offset : min(offset + _LINE, end)]
        shown = "".join(chr(byte) if chr(byte).isascii() and chr(byte).isprintable() else "." for byte in part)
        lines.append(f"{offset:04x}  {part.hex(' '):<47}  {shown}\n")
    return lines


def example(content: Json) -> str:
    """The labelled dump of record.json's record, as record.md shows it."""
    data = bytes.fromhex(next(case["out"] for case in content["cases"] if case["name"] == "record"))
    first = data.index(b"\n") + 1
    second = data.index(b"\n", first) + 1
    keyring = bytes.fromhex(content["shared"]["keyring"])
    salt = data.index(b'"wrapped":"') + len(b'"wrapped":"')
    parts = [
        ("first line", 0, first),
        ("header, up to the wrapped record key", first, salt),
        ("salt, wrapped record key and tag, in base64", salt, data.index(b'"', salt)),
        ("the rest of the header", data.index(b'"', salt), second),
        (
            f"ciphertext: header length (4), header ({len(keyring) - 68}), domain secret, root key",
            second,
            len(data) - 16,
        ),
        ("tag", len(data) - 16, len(data)),
    ]
    lines = [line for label, start, end in parts for line in (f"      {label}\n", *_dump(data, start, end))]
    return f"{BEGIN}```text\n{''.join(lines)}```\n{END}"


def with_example(page: str, content: Json) -> str:
    """record.md with the dump in its place."""
    before, rest = page.split(BEGIN)
    return before + example(content) + rest.split(END)[1]


def policy_schema() -> str:
    """The policy document as JSON Schema, for editors: policy.schema.json. What it cannot say, policy.md does."""

    def plain(node: Any) -> Any:  # noqa: ANN401 - a tree of JSON
        if isinstance(node, list):
            return [plain(one) for one in node]
        if not isinstance(node, dict):
            return node
        if "anyOf" in node and {"type": "null"} in node["anyOf"]:  # TOML has no null: what is not there is not there
            return plain(node["anyOf"][0])
        told = {key: plain(value) for key, value in node.items()}
        if isinstance(told.get("description"), str):  # Python 3.13 takes the indentation of docstrings out by itself
            told["description"] = inspect.cleandoc(told["description"])
        if isinstance(told.get("pattern"), str):
            told["pattern"] = told["pattern"].replace("\\Z", "$")  # Python's end of the text, and everybody else's
        return told

    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "rkeyserver's appraisal policy, version 1",
    }
    return json.dumps(head | plain(msgspec.json.schema(PolicyDocument)), indent=1) + "\n"


def main() -> None:
    """Write the files, the example in record.md, the policy's schema, and the descriptions of what HTTP there is."""
    parser = argparse.ArgumentParser(description="Write the test vectors.")
    parser.add_argument("--record", action="store_true", help="make anew what is random by nature")
    written = contents(new=parser.parse_args().record)
    for name, content in written.items():
        (FOLDER / name).write_text(text(content), "utf-8")
    page = SPEC / "record.md"
    page.write_text(with_example(page.read_text("utf-8"), written["record.json"]), "utf-8")
    (SPEC / "policy.schema.json").write_text(policy_schema(), "utf-8")
    for name, document in openapi.DOCUMENTS.items():
        (SPEC / name).write_text(document(), "utf-8")


if __name__ == "__main__":
    main()
