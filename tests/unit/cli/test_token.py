"""`rkeyserver token new`."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from rkeyserver.cli.main import main
from rkeyserver.tokens import LENGTH, check_token, digest


def entry_in(text: str) -> dict[str, object]:
    (found,) = tomllib.loads(text[text.index("[[callers]]") :])["callers"]
    return dict(found)


def test_it_is_shown_once_with_the_entry_of_the_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "new", "--label", "db/*", "--label", 'a"b\\c', "--may", "wrap", "--may", "unwrap"]) == 0
    said = capsys.readouterr().out
    (token,) = re.findall(r"rkt_\S+", said)
    assert entry_in(said) == {
        "token_sha256": digest(token),
        "may": ["wrap", "unwrap"],
        "labels": ["db/*", 'a"b\\c'],
    }
    main(["token", "new", "--label", "x"])
    assert token not in capsys.readouterr().out


def test_it_goes_to_a_file_of_its_owner_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "token"
    assert main(["token", "new", "--label", "db/*", "-o", str(file)]) == 0
    said = capsys.readouterr().out
    assert "rkt_" not in said
    token = file.read_text()
    assert len(token) == LENGTH + 1
    assert file.stat().st_mode & 0o777 == 0o600
    assert entry_in(said) == {
        "token_sha256": digest(check_token(token.strip())),
        "may": ["derive"],
        "labels": ["db/*"],
    }
    assert main(["token", "new", "--label", "db/*", "-o", str(file)]) == 2
    assert file.read_text() == token
    assert capsys.readouterr().err == (
        f"rkeyserver: There is a file {file} already. It was left as it is: name another.\n"
    )
    assert main(["token", "new", "--label", "db/*", "-o", str(tmp_path / "missing" / "token")]) == 4


WRONG = {
    "no label": ([], "The following arguments are required: --label"),
    "an empty label": (["--label", ""], "A label has 1 to 256 printable ASCII characters"),
    "a space at its end": (["--label", "a "], "A label has 1 to 256"),
    "a long one": (["--label", "a" * 257], "A label has 1 to 256"),
    "no ASCII": (["--label", "é"], "A label has 1 to 256"),
    "a star in the middle": (["--label", "a*b"], 'has a "*" before its end'),
    "twice": (["--label", "a", "--label", "a"], "the same in labels twice"),
    "an action twice": (["--label", "a", "--may", "wrap", "--may", "wrap"], "the same in may twice"),
    "no such action": (["--label", "a", "--may", "sign"], "invalid choice: 'sign'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_no_policy_would_take(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, says = WRONG[case]
    assert main(["token", "new", "-o", str(tmp_path / "token"), *words]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "token").exists()
