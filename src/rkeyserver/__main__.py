"""`python -m rkeyserver`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from rkeyserver.cli.main import main

    sys.exit(main())
