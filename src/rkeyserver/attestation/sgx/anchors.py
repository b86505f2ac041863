"""The root certificates that quotes are verified against, each pinned by its SHA-256.

The verification library ends the whole process when an anchor is damaged in certain places, so an anchor is a constant
of ours and is checked against its digest before every use. None ever comes from outside.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from typing import Final

from rkeyserver.errors import Corrupt


@dataclass(frozen=True)
class TrustAnchor:
    """A root certificate that is what it is supposed to be.

    name: how messages call it; der: the certificate; sha256: of the DER, lower-case hex.

    Raises: Corrupt if `der` does not have that digest.
    """

    name: str
    der: bytes = field(repr=False)
    sha256: str

    def __post_init__(self) -> None:
        self.checked()

    def checked(self) -> bytes:
        """The DER, its digest compared once more: a damaged one aborts the library, not just the verification.

        Raises: Corrupt if it does not have the digest.
        """
        found = hashlib.sha256(self.der).hexdigest()
        if found != self.sha256:
            raise Corrupt(
                f"The trust anchor {self.name} is damaged: its SHA-256 is {found}, wanted {self.sha256}.",
                advice="Reinstall the program.",
            )
        return self.der


INTEL_SGX_ROOT: Final = TrustAnchor(
    name="Intel SGX Root CA",
    der=base64.b64decode(
        """
        MIICjzCCAjSgAwIBAgIUImUM1lqdNInzg7SVUr9QGzknBqwwCgYIKoZIzj0EAwIwaDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJvb3Qg
        Q0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJBgNVBAYT
        AlVTMB4XDTE4MDUyMTEwNDUxMFoXDTQ5MTIzMTIzNTk1OVowaDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJvb3QgQ0ExGjAYBgNVBAoM
        EUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJBgNVBAYTAlVTMFkwEwYHKoZI
        zj0CAQYIKoZIzj0DAQcDQgAEC6nEwMDIYZOj/iPWsCzaEKi71OiOSLRFhWGjbnBVJfVnkY4u3IjkDYYL0MxO4mqsyYjlBalTVYxF
        P2sJBK5zlKOBuzCBuDAfBgNVHSMEGDAWgBQiZQzWWp00ifODtJVSv1AbOScGrDBSBgNVHR8ESzBJMEegRaBDhkFodHRwczovL2Nl
        cnRpZmljYXRlcy50cnVzdGVkc2VydmljZXMuaW50ZWwuY29tL0ludGVsU0dYUm9vdENBLmRlcjAdBgNVHQ4EFgQUImUM1lqdNInz
        g7SVUr9QGzknBqwwDgYDVR0PAQH/BAQDAgEGMBIGA1UdEwEB/wQIMAYBAf8CAQEwCgYIKoZIzj0EAwIDSQAwRgIhAOW/5QkR+S9C
        iSDcNoowLuPRLsWGf/Yi7GSX94BgwTwgAiEA4J0lrHoMs+Xo5o/sX6O9QWxHRAvZUGOdRQ7cvqRXaqI=
        """
    ),
    sha256="44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3",
)
