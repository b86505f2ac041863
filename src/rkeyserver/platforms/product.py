"""What an image of this product says of itself in its SIGSTRUCT."""

from __future__ import annotations

from typing import Final

ISV_PROD_ID: Final = 1
ISV_SVN: Final = 1
