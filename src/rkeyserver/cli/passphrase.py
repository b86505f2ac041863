"""What all private keys in files have in common: their size is small, and a passphrase may be asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rkeyserver.errors import Misuse

MAX_KEY_FILE: Final = 64 * 1024
Ask = Callable[[str], str]
"""Asks the person at the terminal for a passphrase, with this prompt."""


def ask_on_terminal(prompt: str) -> str:
    """Ask at the terminal, without showing what is typed.

    Raises: Misuse where there is none.
    """
    import getpass  # noqa: PLC0415 - late: what a start does not need
    import warnings  # noqa: PLC0415 - late: what a start does not need

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)  # it would be shown
            return getpass.getpass(prompt)
    except (EOFError, OSError, getpass.GetPassWarning) as error:
        raise Misuse("The key file has a passphrase, and there is no terminal to ask for it.") from error
