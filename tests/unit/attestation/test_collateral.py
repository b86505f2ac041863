from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from rkeyserver.attestation.evidence import MAX_ENDORSEMENTS
from rkeyserver.attestation.sgx.collateral import Collateral, crl_issued, decode, fmspc, newer
from rkeyserver.errors import Reason, Rejected

KEY = ec.generate_private_key(ec.SECP256R1())
START = datetime(2025, 1, 1, tzinfo=UTC)


def crl(day: int, issuer: str = "PCK CA") -> str:
    issued = START + timedelta(days=day)
    builder = x509.CertificateRevocationListBuilder(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]), issued, issued + timedelta(days=30)
    )
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER).hex()


def document(day: int, number: int = 17, **more: object) -> str:
    issued = (START + timedelta(days=day)).isoformat().replace("+00:00", "Z")
    return json.dumps({"issueDate": issued, "tcbEvaluationDataNumber": number, "other": [1], **more})


def made(
    *,
    tcb: tuple[int, int] = (5, 17),
    qe: tuple[int, int] = (5, 17),
    pck_crl: int = 5,
    root_crl: int = 5,
    model: str = "00606A000000",
    pck_issuer: str = "PCK CA",
    who: str = "own",
) -> Collateral:
    """Unsigned collateral; each part's chain or signature shows whose it is."""
    signature = who.encode().hex().ljust(128, "0")
    return Collateral(
        pck_crl_issuer_chain=f"{who} PCK CRL chain",
        root_ca_crl=crl(root_crl, "Root CA"),
        pck_crl=crl(pck_crl, pck_issuer),
        tcb_info_issuer_chain=f"{who} TCB chain",
        tcb_info=document(*tcb, fmspc=model),
        tcb_info_signature=signature,
        qe_identity_issuer_chain=f"{who} QE chain",
        qe_identity=document(*qe),
        qe_identity_signature=signature,
    )


PARTS: dict[str, str] = msgspec.to_builtins(made())


def encoded(**parts: object) -> bytes:
    return json.dumps({**PARTS, **parts}).encode()


def test_collateral_survives_its_encoding() -> None:
    collateral = made()
    assert decode(msgspec.json.encode(collateral)) == collateral
    assert msgspec.to_builtins(decode(json.dumps(PARTS, indent=2).encode())) == PARTS


LIMITS: dict[str, dict[str, str]] = {
    "a chain of the greatest size": {"tcb_info_issuer_chain": "x" * (16 * 1024)},
    "a document of the greatest size": {"tcb_info": "x" * (64 * 1024)},
    "a CRL of the greatest size": {"pck_crl": "00" * (32 * 1024)},
    "hex in capitals": {"pck_crl": "AB", "tcb_info_signature": "AB" * 64},
}


@pytest.mark.parametrize("parts", LIMITS.values(), ids=LIMITS)
def test_what_is_still_read(parts: dict[str, str]) -> None:
    assert msgspec.to_builtins(decode(encoded(**parts))) == {**PARTS, **parts}


UNREADABLE: dict[str, tuple[bytes, Reason, str]] = {
    "empty": (b"", Reason.MALFORMED, "no collateral"),
    "too large": (encoded().ljust(MAX_ENDORSEMENTS + 1), Reason.TOO_LARGE, f"at most {MAX_ENDORSEMENTS}"),
    "no JSON": (b"no", Reason.MALFORMED, "truncated"),
    "cut": (encoded()[:-1], Reason.MALFORMED, "truncated"),
    "more after it": (encoded() + b"{}", Reason.MALFORMED, "trailing"),
    "not UTF-8": (b'{"tcb_info":"\xff\xff"}', Reason.MALFORMED, "utf-8"),
    "half a character": (b'{"tcb_info":"\\ud800\\u0041"}', Reason.MALFORMED, "surrogate"),
    "a list": (b"[]", Reason.MALFORMED, "array"),
    "null": (b"null", Reason.MALFORMED, "null"),
    "no part": (b"{}", Reason.MALFORMED, "missing required field"),
    "an unknown part": (encoded(pck_certificate_chain="x"), Reason.MALFORMED, "pck_certificate_chain"),
    "nested deeply": (b"[" * 100_000, Reason.MALFORMED, "array"),
    "nested deeply, in a part": (b'{"tcb_info":' + b"[" * 100_000, Reason.MALFORMED, "array"),
    "nested deeply, in an unknown part": (b'{"more":' + b"[" * 100_000, Reason.MALFORMED, "more"),
    "a document as an object": (encoded(tcb_info={}), Reason.MALFORMED, "tcb_info"),
    "a CRL as a number": (encoded(pck_crl=1), Reason.MALFORMED, "pck_crl"),
    "a part that is null": (encoded(pck_crl=None), Reason.MALFORMED, "pck_crl"),
    "an empty CRL": (encoded(pck_crl=""), Reason.MALFORMED, "pck_crl"),
    "a CRL of half a byte more": (encoded(pck_crl="000"), Reason.MALFORMED, "pck_crl"),
    "a CRL that is no hex": (encoded(root_ca_crl="0g"), Reason.MALFORMED, "root_ca_crl"),
    "a CRL and a new line": (encoded(root_ca_crl="00\n"), Reason.MALFORMED, "root_ca_crl"),
    "a CRL in other digits": (encoded(root_ca_crl="\u0660\u0660"), Reason.MALFORMED, "root_ca_crl"),
    "a CRL that is too large": (encoded(pck_crl="00" * (32 * 1024 + 1)), Reason.MALFORMED, "pck_crl"),
    "a signature cut": (encoded(tcb_info_signature="00" * 63), Reason.MALFORMED, "tcb_info_signature"),
    "a signature too long": (encoded(qe_identity_signature="00" * 65), Reason.MALFORMED, "qe_identity_signature"),
    "a signature and a new line": (encoded(tcb_info_signature="00" * 64 + "\n"), Reason.MALFORMED, "signature"),
    "an empty chain": (encoded(tcb_info_issuer_chain=""), Reason.MALFORMED, "tcb_info_issuer_chain"),
    "a chain that is too large": (encoded(pck_crl_issuer_chain="x" * 16_385), Reason.MALFORMED, "pck_crl_issuer"),
    "an empty document": (encoded(qe_identity=""), Reason.MALFORMED, "qe_identity"),
    "a document that is too large": (encoded(qe_identity="x" * 65_537), Reason.MALFORMED, "qe_identity"),
}


@pytest.mark.parametrize(("endorsements", "reason", "says"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_collateral_is_named(endorsements: bytes, reason: Reason, says: str) -> None:
    with pytest.raises(Rejected, match=says) as refused:
        decode(endorsements)
    assert refused.value.reason is reason


@pytest.mark.parametrize("part", PARTS)
def test_all_nine_parts_are_wanted(part: str) -> None:
    rest = {name: value for name, value in PARTS.items() if name != part}
    with pytest.raises(Rejected, match=f"missing required field `{part}`") as refused:
        decode(json.dumps(rest).encode())
    assert refused.value.reason is Reason.MALFORMED


def test_the_model_that_tcb_info_is_for() -> None:
    assert fmspc(made(model="00A067110000")) == "00a067110000"


BAD_DOCUMENTS: dict[str, str] = {
    "no JSON": "no",
    "a list": "[]",
    "nested deeply": '{"more":' + "[" * 20_000,
    "no date": '{"tcbEvaluationDataNumber":17}',
    "no number": '{"issueDate":"2025-01-01T00:00:00Z"}',
    "a date that is none": '{"issueDate":"2025-13-01T00:00:00Z","tcbEvaluationDataNumber":17}',
    "a date of no time zone": '{"issueDate":"2025-01-01T00:00:00","tcbEvaluationDataNumber":17}',
    "a number that is text": '{"issueDate":"2025-01-01T00:00:00Z","tcbEvaluationDataNumber":"17"}',
    "a number without end": '{"issueDate":"2025-01-01T00:00:00Z","tcbEvaluationDataNumber":' + "9" * 5_000 + "}",
    "a number beyond all": '{"issueDate":"2025-01-01T00:00:00Z","tcbEvaluationDataNumber":1e400}',
    "a model that is a number": '{"issueDate":"2025-01-01T00:00:00Z","tcbEvaluationDataNumber":17,"fmspc":1}',
}


@pytest.mark.parametrize("bad", BAD_DOCUMENTS.values(), ids=BAD_DOCUMENTS)
def test_a_document_that_cannot_be_read(bad: str) -> None:
    with pytest.raises(Rejected, match="TCB info or QE identity cannot be read") as refused:
        newer(encoded(), encoded(tcb_info=bad))
    assert refused.value.reason is Reason.MALFORMED


@pytest.mark.parametrize("part", ["pck_crl", "root_ca_crl"])
@pytest.mark.parametrize("bad", ["00", "3000", PARTS["pck_crl"] + "00", PARTS["pck_crl"][:-2]])
def test_a_crl_that_cannot_be_read(part: str, bad: str) -> None:
    with pytest.raises(Rejected, match="CRL of the collateral cannot be read") as refused:
        newer(encoded(), encoded(**{part: bad}))
    assert refused.value.reason is Reason.MALFORMED


def test_when_a_crl_was_issued() -> None:
    assert crl_issued(crl(1)) == int(START.timestamp()) + 86_400
    with pytest.raises(ValueError, match="parsing"):
        crl_issued("3000")
    with pytest.raises(ValueError, match="version"):
        crl_issued(crl(1).replace("020101", "02010c", 1))


OLD = (1, 17)
NEW = (9, 17)
# Which parts are the verifier's own (the rest is the peer's): t TCB info, q QE identity, p PCK CRL, r root CRL.
CHOICES: dict[str, tuple[Collateral, str]] = {
    "all of the peer's newer": (made(tcb=NEW, qe=NEW, pck_crl=9, root_crl=9, who="peer"), ""),
    "all of the peer's older": (made(tcb=OLD, qe=OLD, pck_crl=1, root_crl=1, who="peer"), "tqpr"),
    "all the same age": (made(who="peer"), "tqpr"),
    "the peer's TCB info older": (made(tcb=OLD, qe=NEW, pck_crl=9, root_crl=9, who="peer"), "t"),
    "the peer's QE identity older": (made(tcb=NEW, qe=OLD, pck_crl=9, root_crl=9, who="peer"), "q"),
    "the peer's PCK CRL older": (made(tcb=NEW, qe=NEW, pck_crl=1, root_crl=9, who="peer"), "p"),
    "the peer's root CRL older": (made(tcb=NEW, qe=NEW, pck_crl=9, root_crl=1, who="peer"), "r"),
    "the peer's documents later of a lower number": (
        made(tcb=(9, 16), qe=(9, 16), pck_crl=9, root_crl=9, who="peer"),
        "tq",
    ),
    "the peer's documents earlier of a higher number": (
        made(tcb=(1, 18), qe=(1, 18), pck_crl=1, root_crl=1, who="peer"),
        "pr",
    ),
    "the peer's PCK CRL of the other CA": (
        made(tcb=OLD, qe=OLD, pck_crl=1, root_crl=1, pck_issuer="Platform CA", who="peer"),
        "tqr",
    ),
    "the peer's model another": (made(tcb=OLD, qe=OLD, pck_crl=1, root_crl=1, model="00A067110000", who="peer"), ""),
    "the peer's model in small letters": (made(tcb=OLD, qe=OLD, model="00606a000000", who="peer"), "tqpr"),
}
FIELDS = {
    "t": ("tcb_info", "tcb_info_signature", "tcb_info_issuer_chain"),
    "q": ("qe_identity", "qe_identity_signature", "qe_identity_issuer_chain"),
    "p": ("pck_crl", "pck_crl_issuer_chain"),
    "r": ("root_ca_crl",),
}


@pytest.mark.parametrize(("peers", "own_parts"), CHOICES.values(), ids=CHOICES)
def test_of_each_part_the_newer_one(peers: Collateral, own_parts: str) -> None:
    own = made()
    chosen = decode(newer(msgspec.json.encode(own), msgspec.json.encode(peers)))
    for letter, names in FIELDS.items():
        source = own if letter in own_parts else peers
        assert [getattr(chosen, name) for name in names] == [getattr(source, name) for name in names]


BYTES_KEPT: dict[str, tuple[bytes | None, bytes, Callable[[bytes | None, bytes], bytes | None]]] = {
    "nothing of one's own": (None, b"anything", lambda _own, sent: sent),
    "neither": (None, b"", lambda _own, sent: sent),
    "nothing sent": (b"own", b"", lambda own, _sent: own),
    "the same": (b"same", b"same", lambda own, _sent: own),
}


@pytest.mark.parametrize(("own", "sent", "wanted"), BYTES_KEPT.values(), ids=BYTES_KEPT)
def test_where_there_is_no_choice_nothing_is_read(
    own: bytes | None, sent: bytes, wanted: Callable[[bytes | None, bytes], bytes | None]
) -> None:
    assert newer(own, sent) == wanted(own, sent)


@pytest.mark.parametrize(("own", "sent"), [(b"junk", encoded()), (encoded(), b"junk")], ids=["own", "sent"])
def test_collateral_that_cannot_be_read_is_not_passed_over(own: bytes, sent: bytes) -> None:
    with pytest.raises(Rejected) as refused:
        newer(own, sent)
    assert refused.value.reason is Reason.MALFORMED


def test_what_was_sent_is_capped_before_it_is_read() -> None:
    with pytest.raises(Rejected) as refused:
        newer(encoded(), bytes(MAX_ENDORSEMENTS + 1))
    assert refused.value.reason is Reason.TOO_LARGE
