"""The collateral that an instance holds: in memory, and in a file that outlives it (docs/spec/collateral.md).

It is for verifying others, and is sent along with this machine's own evidence. What is in the file is untrusted: it
counts only where it is signed under the platform's trust anchor, and is verified again whenever it is used.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from rkeyserver import files
from rkeyserver.attestation.evidence import MAX_ENDORSEMENTS, REPORT_DATA_SIZE, Attester
from rkeyserver.attestation.sgx.anchors import TrustAnchor
from rkeyserver.attestation.sgx.bundle import MAX_BUNDLE, MAX_ENTRIES, Entry, newest, read_bundle, write_bundle
from rkeyserver.attestation.sgx.collateral import decode, fmspc
from rkeyserver.attestation.sgx.model import Model, model_of
from rkeyserver.attestation.sgx.parts import Described, check_signed, describe, in_force
from rkeyserver.clock import DAY, Clock, utc
from rkeyserver.config import Config
from rkeyserver.errors import Reason, Rejected, Unavailable
from rkeyserver.platforms.interface import Platform
from rkeyserver.platforms.registry import load_anchor

WARN_DAYS: Final = 7  # before collateral expires: by then it should have been fetched anew
LEARN_SECONDS: Final = 60  # between two looks at what peers send of one model
FROM_PEER: Final = "a peer"
log = logging.getLogger(__name__)


def held_for(
    config: Config,
    platform: Platform,
    clock: Clock,
    changed: Callable[[tuple[bytes, ...]], None],
    *,
    keeps: bool = True,
) -> HeldCollateral | None:
    """What holds the collateral of an instance; None where the platform has its own and nobody named another source."""
    if config.pccs is None and config.collateral is None and platform.endorsements():
        return None
    return HeldCollateral(config.collateral_path, load_anchor(platform.name), platform, clock, changed, keeps)


@dataclass
class HeldCollateral:
    """Collateral by processor model. changed: is given all of it, encoded, whenever it changes.

    keeps: whether the file may be changed. problem: why what is in the file was not taken, "" where it was.
    """

    path: Path
    anchor: TrustAnchor
    attester: Attester
    clock: Clock
    changed: Callable[[tuple[bytes, ...]], None]
    keeps: bool = True
    problem: str = field(default="", init=False)
    entries: dict[Model, Entry] = field(default_factory=dict, init=False)
    _own: Model | None = field(default=None, init=False)
    _encoded: dict[Model, bytes] = field(default_factory=dict, init=False, repr=False)
    _looked: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def load(self) -> None:
        """Take what the file has. One that is damaged is set aside, and what it had is fetched again."""
        try:
            with self.path.open("rb") as file:
                data = file.read(MAX_BUNDLE + 1)
            entries = read_bundle(data)
        except FileNotFoundError:
            return
        except OSError as error:
            self._cannot(f"The collateral in {self.path} cannot be read: {error.strerror}.")
            return
        except Rejected as error:
            self._cannot(f"The collateral in {self.path} cannot be used: {error} {self._set_aside()}".rstrip())
            return
        for entry in entries:
            try:
                check_signed(entry.collateral, self.anchor)
            except Rejected as error:
                self._cannot(f"The collateral for {entry.model} in {self.path} is left out: {error}")
            else:
                self._put(entry)
        self._tell()

    def _cannot(self, why: str) -> None:
        self.problem = why
        log.warning("%s", why)

    def _set_aside(self) -> str:
        if not self.keeps:
            return ""
        aside = self.path.with_name(self.path.name + ".damaged")
        try:
            self.path.replace(aside)
        except OSError as error:
            return f"It was left as it is: {error.strerror}."
        return f"It was set aside as {aside}."

    def own_model(self) -> Model:
        """The model of this machine, from its own evidence.

        Raises: Unavailable if the platform gives none now; Rejected if that cannot be read.
        """
        if self._own is None:
            self._own = model_of(self.attester.evidence(secrets.token_bytes(REPORT_DATA_SIZE)))
        return self._own

    def own(self) -> tuple[Entry, Described] | None:
        """What is held for this machine's model."""
        entry = self.entries.get(self.own_model())
        return None if entry is None else (entry, describe(entry.collateral))

    def for_own_evidence(self) -> bytes:
        """What is sent along with this machine's evidence: empty if nothing is held for it yet; a peer may hold it.

        Raises: Unavailable (COLLATERAL_EXPIRED).
        """
        found = self.own()
        if found is None:
            return b""
        if (expired := found[1].expires) < (now := self.clock.now()):
            raise Unavailable(
                f"The collateral of this processor model ({self.own_model()}) expired at {utc(expired)}, it is now "
                f"{utc(now)}: nobody can verify this machine by it.",
                advice="See in `rkeyserver status` why the PCCS gave none, or bring a new bundle (`rkeyserver "
                "collateral fetch` on a machine that reaches one; --collateral FILE here), or set the clock.",
                reason=Reason.COLLATERAL_EXPIRED,
            )
        return self._encoded[self.own_model()]

    def with_newest(self, entry: Entry) -> Entry:
        """`entry` with whatever is held and newer; of what is held, parts that have expired are passed over."""
        held = self.entries.get(entry.model)
        if held is None:
            return entry
        left = in_force(held.collateral, entry.collateral, self.clock.now())
        if left == entry.collateral:
            return entry
        chosen = newest(msgspec.structs.replace(held, collateral=left), entry)
        return msgspec.structs.replace(chosen, fetched=entry.fetched)

    def keep(self, entry: Entry) -> None:
        """Hold what was proved, in memory and in the file."""
        self._put(entry)
        self._tell()
        self._save()

    def learn(self, sent: bytes) -> None:
        """Hold what a peer sent, after its evidence was verified: only what is newer than what is held."""
        if not sent or sent in self._encoded.values():
            return
        now = self.clock.now()
        try:
            collateral = decode(sent)
            model = fmspc(collateral)
            if now < self._looked.get(model, 0):
                return
            described = describe(collateral)
            check_signed(collateral, self.anchor)
        except Rejected as error:
            log.debug("Not learned from a peer: %s", error)
            return
        if described.expires < now or any(part.issued > now for part in described.parts):
            return
        if described.model not in self.entries and len(self.entries) >= MAX_ENTRIES - 1:  # one is for this machine's
            return
        self._looked[model] = now + LEARN_SECONDS
        before = self.entries.get(described.model)
        found = self.with_newest(Entry(model, described.model.ca, FROM_PEER, now, collateral))
        if before is None or found.collateral != before.collateral:
            log.info("Learned newer collateral for %s from a peer.", described.model)
            self.keep(found)

    def _put(self, entry: Entry) -> None:
        encoded = entry.encoded
        if len(encoded) <= MAX_ENDORSEMENTS:
            self.entries[entry.model], self._encoded[entry.model] = entry, encoded

    def _tell(self) -> None:
        self.changed(tuple(self._encoded.values()))

    def _save(self) -> None:
        if not self.keeps:
            return
        try:
            files.replace(self.path, write_bundle(self.entries.values()))
        except OSError as error:
            # Nothing is lost: it is fetched again at the next start.
            log.warning("Collateral is held in memory only: %s cannot be written: %s.", self.path, error.strerror)

    def status(self) -> list[dict[str, Any]]:
        """For each model: from when to when it is in force, how many days are left, where it came from."""
        now = self.clock.now()
        found = []
        for model, entry in sorted(self.entries.items()):
            described = describe(entry.collateral)
            found.append(
                {
                    "fmspc": model.fmspc,
                    "ca": model.ca,
                    "own": model == self._own,
                    "issued": utc(described.issued),
                    "expires": utc(described.expires),
                    "days_left": round((described.expires - now) / DAY, 2),
                    "evaluation_number": described.number,
                    "source": entry.source,
                    "fetched": utc(entry.fetched),
                }
            )
        return found
