"""A command as on a kernel that has no memfd_secret(2), or has it switched off. What a real command runs under."""

from __future__ import annotations

import sys
from typing import Final

from tests.fakes import seccomp

_SYS_MEMFD_SECRET: Final = 447
UNDER: Final = (sys.executable, seccomp.__file__, str(_SYS_MEMFD_SECRET), "--")
