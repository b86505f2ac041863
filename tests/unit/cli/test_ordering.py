"""Orders that are made from what answers on --ops, which any user of the machine may be."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.signing import key_file

from rkeyserver.cli import promote, talk

MINE, ANOTHER = "ee" * 16, "0b" * 16


@pytest.mark.parametrize("signs", [True, False], ids=["signed", "not signed"])
def test_what_is_signed_is_shown(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    signs: bool,  # noqa: FBT001 - a table's
) -> None:
    """It says that it is another member, of another domain: who signs for that has to see it."""
    answer: dict[str, Any] = {"domain": ANOTHER, "epoch": 7, "sequence": 9, "member": ANOTHER, "primary": MINE}
    answer |= {"role": "standby", "generations": [], "members": [], "socket": str(tmp_path / "socket")}
    monkeypatch.setattr(talk, "get", lambda *_: answer)
    keys = [key_file(tmp_path, "alice")] if signs else []
    out = tmp_path / "order"
    promote.run(argparse.Namespace(ops=["127.0.0.1:1"], key=keys, output=str(out)))
    shown = capsys.readouterr().err
    assert ANOTHER in out.read_text()
    assert ("Signing:\norder      promote\n" in shown) == signs
    assert (f"domain     {ANOTHER}\nmember     {ANOTHER}\nepoch      7\n" in shown) == signs
