"""Asking a PCCS for collateral, over TLS that is always verified (docs/spec/collateral.md, "What is asked").

Everything that it answers is signed by the processor's maker, so TLS is not what makes it genuine. It keeps others from
seeing which machines a domain has, and from withholding what is newer.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from rkeyserver.attestation.sgx.collateral import Collateral
from rkeyserver.attestation.sgx.model import Model
from rkeyserver.attestation.sgx.pcs import MAX_BODY, Answer, Document, collateral_of, path
from rkeyserver.errors import Misuse, Unavailable
from rkeyserver.service.http_client import body_of, tls_client
from rkeyserver.why import why

FETCH_SECONDS: Final = 20.0  # for all four answers, however slowly they come
MAX_RETRY_AFTER: Final = 3600
_REDIRECTS: Final = range(300, 400)
_ADVICE: Final = {
    401: "The service wants credentials; this program has none to give.",
    403: "The service wants credentials; this program has none to give.",
    404: "Does the URL end as the service's API does, in /sgx/certification/v4? Does the service know this processor "
    "model: has a machine of it been registered there?",
    429: "It is asked too often.",
}


@dataclass(frozen=True)
class Pccs:
    """A service. url: its base, without a slash at the end; ca: the CA of its certificate (PEM), None for public ones.

    seconds: for all of one fetch.
    """

    url: str
    ca: Path | None = None
    seconds: float = FETCH_SECONDS

    def tls(self) -> ssl.SSLContext:
        """What its certificate is verified by: the CA's file, or the public ones, and nothing else that is here.

        Raises: Misuse if the CA's file is none.
        """
        import certifi  # noqa: PLC0415 - only a fetch needs it

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies chain and host name
        try:
            context.load_verify_locations(certifi.where() if self.ca is None else self.ca)
        except OSError as error:  # SSLError is one
            raise Misuse(
                f"The CA of the PCCS, {self.ca}, cannot be used: {_tls_reason(error) or error.strerror}.",
                advice="Wanted is a file with certificates, PEM.",
            ) from error
        return context

    async def fetch(self, model: Model, now: int) -> Collateral:
        """Collateral for a processor model, in force at `now` (seconds since 1970). Nothing of it is proved.

        Raises: Unavailable if the service does not give it now; Rejected if what it gives is not what was asked for;
        Misuse for the CA's file.
        """
        tls = self.tls()
        try:
            async with (
                asyncio.timeout(self.seconds),
                tls_client(self.seconds, tls) as asked,
            ):
                answers = {document: await self._get(asked, document, model) for document in Document}
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as error:
            # Only while it connects: a deadline that interrupts TLS later is no failure of TLS.
            reason = _tls_reason(error) if isinstance(error, httpx.ConnectError) else ""
            raise Unavailable(
                f"No answer from the PCCS {self.url}: {(reason or why(error)).rstrip('.')}.",
                advice="--pccs-ca names the CA of its certificate, where that is a private one." if reason else "",
            ) from error
        return collateral_of(answers, model, now)

    async def _get(self, asked: httpx.AsyncClient, document: Document, model: Model) -> Answer:
        url = self.url + path(document, model)
        async with asked.stream("GET", url) as response:
            if response.status_code in _REDIRECTS:
                raise Unavailable(
                    f"The PCCS answers the request for the {document} with a redirect ({response.status_code}).",
                    advice="None is followed: name the URL that it leads to, if that is the right one.",
                )
            if response.status_code != httpx.codes.OK:
                raise Unavailable(
                    f"The PCCS {self.url} answers {response.status_code} to the request for the {document}.",
                    advice=_ADVICE.get(response.status_code, ""),
                    retry_after=_retry_after(response.headers.get("retry-after", "")),
                )
            body = await body_of(response, MAX_BODY)
            if body is None:
                raise Unavailable(f"The PCCS {self.url} answers with over {MAX_BODY} bytes of {document}.")
            return Answer(body, {name.lower(): value for name, value in response.headers.items()})


def _retry_after(text: str) -> float:
    return min(int(text), MAX_RETRY_AFTER) if text.isdecimal() and len(text) < len(str(2**63)) else 0


def _tls_reason(error: BaseException | None) -> str:
    """What TLS said; empty if it was not TLS. Its error numbers are not the system's."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message
        if isinstance(error, ssl.SSLError):
            return (error.reason or "TLS failed").replace("_", " ").lower()
        error = error.__cause__ or error.__context__
    return ""
