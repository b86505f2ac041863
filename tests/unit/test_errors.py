from __future__ import annotations

import pytest

from rkeyserver import errors


@pytest.mark.parametrize("kind", [errors.Misuse, errors.Unavailable, errors.Corrupt], ids=lambda kind: kind.code)
def test_an_error_reads_as_what_was_found_and_what_to_do(kind: type[errors.RkeyError]) -> None:
    assert str(kind("Found 3, wanted 4.", advice="Add one.")) == "Found 3, wanted 4. Add one."
    assert str(kind("Found 3, wanted 4.")) == "Found 3, wanted 4."


def test_every_kind_has_its_own_exit_and_http_status() -> None:
    kinds = set(errors.RkeyError.__subclasses__())
    assert set(errors.EXIT_STATUS) == set(errors.HTTP_STATUS) == kinds
    assert len(set(errors.EXIT_STATUS.values())) == len(kinds)
    assert not {errors.EXIT_OK, errors.EXIT_BUG} & set(errors.EXIT_STATUS.values())


def test_exit_status_of_an_error() -> None:
    assert errors.exit_status(errors.Rejected(errors.Reason.MALFORMED, "no")) == 3
    assert errors.exit_status(errors.RkeyError("no")) == errors.EXIT_BUG
