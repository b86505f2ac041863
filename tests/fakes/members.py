"""What a grant says of a domain's members, where a test does not care."""

from __future__ import annotations

import hashlib
from typing import Final

from rkeyserver.exchange.messages import Members, encode
from tests.fakes.keyrings import MEMBER

NOBODY_ELSE: Final = Members(member=MEMBER, members=[])
MEMBERS: Final = encode(NOBODY_ELSE)
MEMBERS_SHA512: Final = hashlib.sha512(MEMBERS).digest()
