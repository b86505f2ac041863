"""The test vectors of docs/spec/vectors, read: each case with its own bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SPEC: Final = Path(__file__).parents[2] / "docs" / "spec"
FOLDER: Final = SPEC / "vectors"

Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One case: its file's shared inputs, and its own, `bytes` among them where it changes those of another."""

    file: str
    name: str
    do: str
    given: Json
    expected: Any
    error: str | None

    def __str__(self) -> str:
        return f"{self.file}: {self.name}"


def changed(base: bytes, changes: list[list[Any]]) -> bytes:
    for offset, length, inserted, *repeat in changes:
        assert 0 <= offset <= offset + length <= len(base), "a change outside of what it changes"
        base = base[:offset] + bytes.fromhex(inserted) * (repeat[0] if repeat else 1) + base[offset + length :]
    return base


def cases_of(file: str, content: Json) -> list[Case]:
    shared = content.get("shared", {})
    bases = {name: value for name, value in shared.items() if isinstance(value, str)}
    found = []
    for raw in content["cases"]:
        own = dict(raw)
        if "of" in own:
            own["bytes"] = changed(bytes.fromhex(bases[own.pop("of")]), own.pop("changes")).hex()
        if isinstance(own.get("out"), str):
            bases.setdefault(own["name"], own["out"])
        name, do, out, error = own.pop("name"), own.pop("do"), own.pop("out", None), own.pop("error", None)
        found.append(Case(file, name, do, shared | own, out, error))
    assert len({case.name for case in found}) == len(found), f"two cases of one name in {file}"
    return found


def load(file: str) -> Json:
    content = json.loads((FOLDER / file).read_text("utf-8"))
    assert isinstance(content, dict)
    return content


def all_cases() -> list[Case]:
    return [case for path in sorted(FOLDER.glob("*.json")) for case in cases_of(path.name, load(path.name))]
