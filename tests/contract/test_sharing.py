"""What every way of making recovery shares does. A new one registers in SHARINGS and runs all of it."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
from tests.fakes.keyrings import secret_of
from tests.fakes.recipients import one_of_each

import rkeyserver.service
from rkeyserver.errors import Corrupt, Misuse
from rkeyserver.sealing.recovery import RecoveryShare, ShareSet, Sharing
from rkeyserver.secret import SecretBytes
from rkeyserver.service.sharing import ProcessSharing
from rkeyserver.service.sharing_inline import InlineSharing

SHARINGS: tuple[Callable[[], Sharing], ...] = (ProcessSharing, InlineSharing)
RECIPIENTS = one_of_each()
SHARE_SET = ShareSet("d0" * 16, "5e" * 16, 2, tuple(one.public for one in RECIPIENTS))
SECRET = bytes(range(32))


@pytest.fixture(params=SHARINGS, ids=[one.__name__ for one in SHARINGS])
def sharing(request: pytest.FixtureRequest) -> Sharing:
    made: Sharing = request.param()
    return made


def test_every_sharing_is_registered() -> None:
    found = set()
    for module in pkgutil.iter_modules(rkeyserver.service.__path__, "rkeyserver.service."):
        for _, thing in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if thing.__module__ == module.name and hasattr(thing, "split") and hasattr(thing, "combine"):
                found.add(thing)
    assert found == set(SHARINGS)


def split(sharing: Sharing, share_set: ShareSet = SHARE_SET) -> list[bytes]:
    """The shares of SECRET as their recipients decrypt them."""
    with secret_of(SECRET) as secret:
        shares = sharing.split(secret.view, share_set)
        assert bytes(secret.view) == SECRET, "the caller's own secret was touched"
    assert [one.recipient for one in shares] == list(share_set.recipients)
    return [opened(index, share) for index, share in enumerate(shares)]


def opened(index: int, share: RecoveryShare) -> bytes:
    return RECIPIENTS[index].opens(share.sealed)


def combine(sharing: Sharing, shares: Sequence[bytes], share_set: ShareSet = SHARE_SET) -> SecretBytes:
    with contextlib.ExitStack() as stack:
        views = [stack.enter_context(secret_of(one)).view for one in shares]
        try:
            return sharing.combine(views, share_set)
        finally:
            assert [bytes(view) for view in views] == list(shares), "the caller's own shares were touched"


@pytest.mark.parametrize("threshold", [1, 2, 3])
def test_a_secret_goes_there_and_comes_back(sharing: Sharing, threshold: int) -> None:
    share_set = replace(SHARE_SET, threshold=threshold)
    shares = split(sharing, share_set)
    for some in (shares[:threshold], shares[::-1][:threshold]):
        with combine(sharing, some, share_set) as back:
            assert isinstance(back, SecretBytes)
            assert bytes(back.view) == SECRET


@dataclass(frozen=True)
class Wrong:
    """Shares that give no secret, from those that were made, and what is said of them."""

    shares: Callable[[list[bytes]], list[bytes]]
    says: str
    share_set: ShareSet = SHARE_SET


WRONG = {
    "none": Wrong(lambda _made: [], "wanted are 2 different ones"),
    "too few": Wrong(lambda made: made[:1], r"Shares \[0\]; wanted are 2 different ones"),
    "too many": Wrong(lambda made: made, r"Shares \[0, 1, 2\]; wanted are 2"),
    "one twice": Wrong(lambda made: [made[1], made[1]], r"Shares \[1, 1\]; wanted are 2"),
    "no share at all": Wrong(lambda made: [made[0], b"{}"], "no share"),
    "one byte": Wrong(lambda made: [made[0], b"x"], "no share"),
    "not a byte": Wrong(lambda made: [made[0], b""], "no share"),
    "of another set": Wrong(lambda made: made[:2], "set is 5e", replace(SHARE_SET, set="5f" * 16)),
    "of another domain": Wrong(lambda made: made[:2], "domain is d0", replace(SHARE_SET, domain="d1" * 16)),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_shares_that_give_no_secret(sharing: Sharing, wrong: Wrong) -> None:
    shares = wrong.shares(split(sharing))
    with pytest.raises(Corrupt, match=wrong.says):
        combine(sharing, shares, wrong.share_set)


def test_a_recipient_that_nothing_can_be_encrypted_to(sharing: Sharing) -> None:
    with secret_of(SECRET) as secret, pytest.raises(Misuse, match="cannot be a recovery recipient") as raised:
        sharing.split(secret.view, replace(SHARE_SET, threshold=1, recipients=("age1qqqq",)))
    assert "Wanted is an age" in raised.value.advice
