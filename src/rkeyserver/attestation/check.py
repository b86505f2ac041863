"""A check for people: what was looked at, what was found, what was wanted. It decides nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One check: its name, what was found, what was wanted.

    passed: None where it could not be made, because an earlier one failed or nothing was given to make it with.
    reason: the code that a failure of it has. advice: what to do where it failed; empty where it did not.
    """

    name: str
    found: str
    wanted: str
    passed: bool | None
    reason: str
    advice: str = ""
