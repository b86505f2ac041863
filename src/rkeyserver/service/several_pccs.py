"""Several services that give collateral: the next is asked where one does not. What any gives is proved anyway."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from rkeyserver.attestation.sgx.collateral import Collateral
from rkeyserver.attestation.sgx.model import Model
from rkeyserver.errors import Rejected, Unavailable
from rkeyserver.service.living import Health
from rkeyserver.service.pccs import Pccs

SILENT_SECONDS: Final = 5.0  # for all of one fetch, while there is another to ask
REMEMBER_SECONDS: Final = 600.0


def pccs_of(urls: str, ca: Path | None) -> Pccs | SeveralPccs:
    """The service, or the services, of a --pccs that was checked. ca: of the certificates of all of them."""
    found = tuple(Pccs(one, ca) for one in urls.split(","))
    return found[0] if len(found) == 1 else SeveralPccs(found)


@dataclass
class SeveralPccs:
    """A refresh.Source of several. One that did not help is asked last for a while."""

    all: tuple[Pccs, ...]
    health: Health[Pccs] = field(default_factory=lambda: Health(seconds=REMEMBER_SECONDS))
    _helped: Pccs | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        """That of the one that gave collateral last; before there was any, all of them."""
        return self._helped.url if self._helped is not None else ", ".join(one.url for one in self.all)

    def tls(self) -> None:
        """Whether their certificates can be verified.

        Raises: Misuse, as Pccs.tls().
        """
        self.all[0].tls()  # the CA is that of all

    async def fetch(self, model: Model, now: int) -> Collateral:
        """As Pccs.fetch(), from the first that gives any.

        Raises: as Pccs.fetch(), if none does; then Unavailable names each.
        """
        failures: list[Rejected | Unavailable] = []
        order = self.health.order(self.all)
        for one in order:
            asked = one if one is order[-1] else replace(one, seconds=SILENT_SECONDS)
            try:
                found = await asked.fetch(model, now)
            except (Rejected, Unavailable) as error:
                self.health.failed(one)
                failures.append(error)
                continue
            self.health.answered(one)
            self._helped = one
            return found
        told = [error for error in failures if isinstance(error, Unavailable)]
        raise Unavailable(
            " ".join(error.message for error in failures),
            advice=next((error.advice for error in failures if error.advice), ""),
            retry_after=min((error.retry_after for error in told), default=0),
        )
