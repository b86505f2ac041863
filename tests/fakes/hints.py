"""Hints of another member of a domain."""

from __future__ import annotations

import msgspec

from rkeyserver.service.hints import Hint
from tests.fakes.keyrings import SECRET, generation, id_of

OTHER_MEMBER = "dd" * 16


def hint_at(sequence: int, *, epoch: int = 0, domain: str = "", **said: object) -> Hint:
    """What the primary of the fakes' domain says, but for what is said."""
    made = Hint(
        domain=domain or id_of(SECRET),
        epoch=epoch,
        sequence=sequence,
        primary=OTHER_MEMBER,
        digest=f"{sequence:064x}",
        member=OTHER_MEMBER,
        role="primary",
        generations=[generation("first")],
        change=0,
        pending=False,
    )
    return msgspec.structs.replace(made, **said)
