"""What the operator gave to judge by: files that are read whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fakes.scene import DEFAULT
from tests.fakes.signing import HERE, admins_table, policy_text

from rkeyserver.appraisal.measured import parse_measured
from rkeyserver.appraisal.policy import MAX_POLICY, parse_policy
from rkeyserver.config import Config
from rkeyserver.errors import Misuse
from rkeyserver.service.given import Given

POLICY = policy_text(HERE)
OF_ALICE, OF_BOB = admins_table(["alice"]), admins_table(["bob"])


def given(tmp_path: Path, policy: bytes | str | None = None, admins: bytes | str | None = None) -> Given:
    paths: dict[str, Path | None] = {}
    for name, data in (("policy", policy), ("admins", admins)):
        paths[name] = None if data is None else tmp_path / f"{name}.toml"
        if data is not None:
            (tmp_path / f"{name}.toml").write_bytes(data.encode() if isinstance(data, str) else data)
    return Given.read(Config(**paths), None)  # type: ignore[arg-type]  # a test says it


def test_nothing_given(tmp_path: Path) -> None:
    nothing = given(tmp_path)
    assert nothing == Given(None, None)
    assert nothing.for_a_new_domain(DEFAULT) is DEFAULT


def test_a_policy_is_taken_to_the_byte(tmp_path: Path) -> None:
    windows = POLICY.replace("\n", "\r\n")
    found = given(tmp_path, windows)
    assert found.policy is not None
    assert found.policy.text == windows
    assert found.for_a_new_domain(DEFAULT) is found.policy


@pytest.mark.parametrize("policy", [None, POLICY, POLICY + OF_ALICE], ids=["none", "without admins", "with the same"])
def test_admins_are_in_a_new_domain_s_policy(tmp_path: Path, policy: str | None) -> None:
    found = given(tmp_path, policy, OF_ALICE)
    made = found.for_a_new_domain(DEFAULT)
    assert made.admins == found.admins
    assert made.tables == (parse_policy(policy) if policy else DEFAULT).tables


def test_other_admins_than_the_policy_names_are_no_choice_to_make(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="names other admins"):
        given(tmp_path, POLICY + OF_BOB, OF_ALICE).for_a_new_domain(DEFAULT)


WRONG: dict[str, tuple[str, bytes | str, str]] = {
    "no TOML": ("policy", "machines", "line 1"),
    "an empty file": ("policy", "", "version"),
    "a policy that accepts nothing": ("policy", "version = 1\n", "names no platform"),
    "bytes": ("policy", b"\xff\xfe", "no text in UTF-8"),
    "too long": ("policy", "#" * (MAX_POLICY + 1), "at most"),
    "admins without a table": ("admins", "threshold = 1\n", "admins"),
    "a policy as admins": ("admins", POLICY + OF_ALICE, "version: there is no such key"),
    "more signatures than admins": ("admins", OF_ALICE.replace("threshold = 1", "threshold = 2"), "2 of 1"),
    "bytes as admins": ("admins", b"\xff\xfe", "no text in UTF-8"),
}


@pytest.mark.parametrize(("which", "data", "says"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, which: str, data: bytes | str, says: str) -> None:
    with pytest.raises(Misuse, match=says) as raised:
        given(tmp_path, **{which: data})
    assert f"{tmp_path}/{which}.toml" in raised.value.message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match=r"The policy file .*none cannot be read: No such file"):
        Given.read(Config(policy=tmp_path / "none"), None)


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match=r"The admins file .* cannot be read: Is a directory"):
        Given.read(Config(admins=tmp_path), None)


MEASURED = parse_measured('seal_to = "mrsigner"\n' + OF_ALICE)


@pytest.mark.parametrize("option", ["policy", "admins", "socket"])
def test_where_an_image_says_it_the_host_does_not(tmp_path: Path, option: str) -> None:
    with pytest.raises(Misuse, match=f"--{option} is a host's word on what to accept"):
        Given.read(Config(**{option: tmp_path / "any"}), MEASURED)  # type: ignore[arg-type]  # a test says it


def test_what_is_measured_is_in_a_new_domain_s_policy_and_is_what_a_joiner_goes_by() -> None:
    found = Given.read(Config(), MEASURED)
    made = found.for_a_new_domain(DEFAULT)
    assert found.admins == made.admins == MEASURED.admins
    assert made.text.startswith(DEFAULT.text.rstrip())
    assert made.recovery is None
