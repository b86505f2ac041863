"""What `rkeyserver doctor` says of one thing that it looked at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How a finding is to be read."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"
    UNKNOWN = "unknown"


class Topic(StrEnum):
    """What was looked at; docs/operations/doctor.md has a section for each."""

    RECORD = "record"
    CLOCK = "clock"
    MACHINE = "machine"
    KEY_MEMORY = "key memory"
    SEALED_TO = "sealed to"
    OPENS = "opens"
    ADMINS = "admins"
    ACCEPTED = "accepted"
    COLLATERAL = "collateral"
    KEPT_COPIES = "kept copies"
    AUDIT_FILE = "audit file"
    LOCAL_SOCKET = "local socket"
    INSTANCE = "instance"
    PEER = "peer"
    RECOVERY = "recovery"
    CHANGE = "change"
    WAYS_BACK = "ways back"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. advice: what to do, empty where nothing is."""

    topic: Topic
    state: State
    found: str
    advice: str = ""
