"""Which other members an instance knows, by its own sight and by what others say."""

from __future__ import annotations

import pytest

from rkeyserver.sealing.record import KnownMember
from rkeyserver.service.members import Members

BEFORE, SINCE = "01" * 16, "02" * 16


def known(member: str, seen: int, *, address: str = "10.0.0.1:8888") -> KnownMember:
    return KnownMember(
        member=member, machine="a1" * 16, address=address, epoch=0, sequence=1, digest="dd" * 32, seen=seen
    )


SAID = {
    "the id that it had before it lost its record": (known(BEFORE, 5), [SINCE]),
    "the id that it has since": (known(BEFORE, 20), [BEFORE]),
    "another instance of that machine": (known(BEFORE, 5, address="10.0.0.1:9999"), [SINCE, BEFORE]),
    "nothing new": (known(SINCE, 20), [SINCE]),
}


@pytest.mark.parametrize(("said", "left"), SAID.values(), ids=SAID)
def test_what_a_peer_says_of_others_is_taken_over_unless_something_later_is_known(
    said: KnownMember, left: list[str]
) -> None:
    members = Members("ee" * 16)
    members.told([known(SINCE, 10)])
    members.told([said])
    assert list(members.known) == left
    assert members.known[left[0]].seen == (20 if left == [BEFORE] else 10)
