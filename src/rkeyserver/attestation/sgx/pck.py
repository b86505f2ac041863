"""The SGX extension of a PCK certificate, read for people (Intel's "PCK Certificate and CRL Profile", 1.3).

What counts is read by the verification library. Nothing here is proved by being read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from rkeyserver.attestation.sgx.model import SGX_EXTENSION
from rkeyserver.errors import Reason, Rejected

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

PPID_SIZE: Final = 16
_ARCS: Final = bytes.fromhex("2a864886f84d010d01")  # the contents of that OID's encoding; what follows is one byte each
_SEQUENCE: Final = 0x30
_BOOLEAN: Final = 0x01
_NUMBERS: Final = (0x02, 0x0A)
_LONG: Final = 0x80


@dataclass(frozen=True)
class PckFields:
    """What a PCK certificate says of its processor; bytes in lower-case hex.

    components: the 16 SVNs that TCB levels are compared with. The flags are "True", "False" or "Undefined".
    """

    ppid: str
    fmspc: str
    pce_id: str
    cpu_svn: str
    pce_svn: int
    components: tuple[int, ...]
    sgx_type: int
    platform_instance_id: str
    dynamic_platform: str
    cached_keys: str
    smt: str


def read_extension(certificate: Certificate) -> PckFields:
    """The extension of `certificate`.

    Raises: ValueError, KeyError, cryptography's ExtensionNotFound where it has none of that form.
    """
    from cryptography import x509  # noqa: PLC0415 - as all of X.509

    found = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier(SGX_EXTENSION)).value
    values = dict(_values(cast("x509.UnrecognizedExtension", found).value))  # no library knows this one

    def octets(key: bytes) -> str:
        value = values[key]
        if not isinstance(value, bytes):
            raise ValueError("the SGX extension has a number where bytes belong")  # noqa: TRY004 - as what the parser raises
        return value.hex()

    return PckFields(
        ppid=octets(b"\1"),
        fmspc=octets(b"\4"),
        pce_id=octets(b"\3"),
        cpu_svn=octets(b"\2\x12"),
        pce_svn=int(values[b"\2\x11"]),
        components=tuple(int(values[bytes((2, number))]) for number in range(1, 17)),
        sgx_type=int(values[b"\5"]),
        platform_instance_id=octets(b"\6") if b"\6" in values else "",
        dynamic_platform=str(values.get(b"\7\1", "Undefined")),
        cached_keys=str(values.get(b"\7\2", "Undefined")),
        smt=str(values.get(b"\7\3", "Undefined")),
    )


def ppid_of(chain: bytes) -> str:
    """The PPID (hex) that the first certificate of a PEM chain names, as a quote carries it.

    Raises: Rejected(MALFORMED).
    """
    from cryptography import x509  # noqa: PLC0415 - as all of X.509
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - late: what a start does not need

    try:
        found = read_extension(x509.load_pem_x509_certificates(chain)[0]).ppid
    except (
        ValueError,
        TypeError,
        KeyError,
        UnsupportedAlgorithm,
        x509.InvalidVersion,
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
    ) as error:
        raise Rejected(Reason.MALFORMED, f"The quote's PCK certificate cannot be read: {error}.") from error
    if len(found) != 2 * PPID_SIZE or not int(found, 16):
        raise Rejected(Reason.MALFORMED, f"The quote's PCK certificate names no processor: its PPID is {found!r}.")
    return found


def _values(der: bytes, *, inside: bool = False) -> Iterator[tuple[bytes, bytes | int]]:
    """Every value under the OID that leads to it, by what follows the extension's own OID.

    inside: it is what an entry of the extension holds (the TCB, the configuration), and these hold no more of the kind.
    """
    for tag, sequence in _elements(der):
        if tag != _SEQUENCE:
            raise ValueError("the SGX extension is no sequence")
        for _, entry in _elements(sequence):
            (_, oid), (kind, content) = _elements(entry)
            if not oid.startswith(_ARCS):
                raise ValueError("the SGX extension has an identifier of another kind")
            if kind == _SEQUENCE:
                if inside:
                    raise ValueError("the SGX extension is nested too deeply")
                yield from _values(_wrapped(content), inside=True)
            elif kind == _BOOLEAN:
                yield oid[len(_ARCS) :], content != b"\0"
            elif kind in _NUMBERS:
                yield oid[len(_ARCS) :], int.from_bytes(content, "big", signed=True)
            else:
                yield oid[len(_ARCS) :], content


def _wrapped(content: bytes) -> bytes:
    size = len(content).to_bytes(4, "big")
    return bytes((_SEQUENCE, _LONG | len(size))) + size + content


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(der):
        if len(der) < at + 2:
            raise ValueError("the SGX extension ends too early")
        tag, size, at = der[at], der[at + 1], at + 2
        if size & _LONG:
            count = size & ~_LONG
            size, at = int.from_bytes(der[at : at + count], "big"), at + count
        if at + size > len(der):
            raise ValueError("the SGX extension ends too early")
        yield tag, der[at : at + size]
        at += size
