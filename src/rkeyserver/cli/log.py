"""The log's form: INFO [<file>(<line>) -> <function>]: message."""

from __future__ import annotations

import logging
import sys
from typing import Final, TextIO

FORM: Final = "%(levelname)s [%(place)s(%(lineno)d) -> %(funcName)s]: %(message)s"


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        # The file from the package on: where it is installed is nobody's business.
        _, found, inside = ("/" + record.pathname).rpartition("/rkeyserver/")
        record.place = f"rkeyserver/{inside}" if found else record.filename
        return super().format(record)


class _Handler(logging.StreamHandler[TextIO]):
    """A handler whose reader may go away: a log that nobody reads stops nothing."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.setFormatter(_Formatter(FORM))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def set_up(level: str) -> None:
    """Log to stderr from `level` on, and announcements, always, to stdout."""
    logging.basicConfig(level=logging.WARNING, handlers=[_Handler(sys.stderr)], force=True)
    logging.getLogger("rkeyserver").setLevel(level.upper())
    # What it warns of is a line for each malformed request of anyone: those are counted, not logged one by one.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    to_stdout = _Handler(sys.stdout)
    announce = logging.getLogger("rkeyserver.announce")
    announce.handlers = [to_stdout]
    announce.setLevel(logging.INFO)
    announce.propagate = False
