"""The log's form: INFO [<file>(<line>) -> <function>]: message."""

from __future__ import annotations

import logging
import sys
from typing import Final

FORM: Final = "%(levelname)s [%(place)s(%(lineno)d) -> %(funcName)s]: %(message)s"


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        # The file from the package on: where it is installed is nobody's business.
        _, found, inside = ("/" + record.pathname).rpartition("/rkeyserver/")
        record.place = f"rkeyserver/{inside}" if found else record.filename
        return super().format(record)


def set_up(level: str) -> None:
    """Log to stderr from `level` on, and announcements, always, to stdout."""
    formatter = _Formatter(FORM)
    to_stderr = logging.StreamHandler(sys.stderr)
    to_stderr.setFormatter(formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[to_stderr], force=True)
    logging.getLogger("rkeyserver").setLevel(level.upper())
    to_stdout = logging.StreamHandler(sys.stdout)
    to_stdout.setFormatter(formatter)
    announce = logging.getLogger("rkeyserver.announce")
    announce.handlers = [to_stdout]
    announce.setLevel(logging.INFO)
    announce.propagate = False
