"""What is read of collateral beside its verification: model, parts, signatures, bundles, and which of two is taken."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dcap_qvl  # type: ignore[import-untyped]
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from tests.fakes.machines import (
    HONEST,
    NOW,
    anchor_of,
    machine,
    private_authority,
    revoking_the_pck_ca,
    revoking_the_tcb_signer,
)
from tests.fakes.pccs import SIMULATED, issued_at, number_of
from tests.vectors import intel

from rkeyserver.attestation.sgx import bundle, model
from rkeyserver.attestation.sgx.anchors import INTEL_SGX_ROOT, TrustAnchor
from rkeyserver.attestation.sgx.bundle import MAX_BUNDLE, MAX_ENTRIES, Entry, merge, read_bundle, write_bundle
from rkeyserver.attestation.sgx.choose import choose
from rkeyserver.attestation.sgx.collateral import Collateral
from rkeyserver.attestation.sgx.model import Model, ca_of, model_of
from rkeyserver.attestation.sgx.parts import check_signed, describe
from rkeyserver.attestation.sgx.pcs import Answer, Document, collateral_of, path
from rkeyserver.errors import Reason, Rejected
from rkeyserver.platforms.simulated import certificates, tcb
from rkeyserver.platforms.simulated.anchor import SIMULATED_ROOT, verify
from rkeyserver.platforms.simulated.pki import development_authority
from rkeyserver.platforms.simulated.processor import open_processor

GENUINE = ("sgx-automata-swh", "sgx-phala", "sgx-debug-refused")
ISSUED = NOW - 86_400
GOOD = issued_at(ISSUED)


def genuine(name: str) -> Collateral:
    return msgspec.json.decode(intel.read(f"{name}/collateral.json"), type=Collateral)


def encoded(collateral: Collateral) -> bytes:
    return msgspec.json.encode(collateral)


@pytest.fixture(scope="module")
def simulated_quote(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return machine(tmp_path_factory.mktemp("machine")).evidence(bytes(64))


# --- the model


@pytest.mark.parametrize("name", GENUINE)
def test_the_model_of_a_genuine_quote_is_what_others_read_there(name: str) -> None:
    evidence = intel.read(f"{name}/quote.bin")
    parsed = dcap_qvl.parse_quote(evidence)
    assert model_of(evidence) == Model(parsed.fmspc().lower(), parsed.ca()) == describe(genuine(name)).model


def test_the_model_of_a_simulated_quote(simulated_quote: bytes) -> None:
    assert model_of(simulated_quote) == SIMULATED == describe(GOOD).model


def test_both_of_intels_cas() -> None:
    assert {ca_of("Intel SGX PCK Platform CA"), ca_of("Intel SGX PCK Processor CA")} == {"platform", "processor"}
    assert str(Model("00" * 6, "platform")) == "FMSPC 000000000000, platform CA"


def with_chain(chain: bytes) -> bytes:
    given = intel.submission("sgx-phala")
    given.set_certification(chain)
    return given.quote


NO_MODEL: dict[str, Callable[[], bytes]] = {
    "no quote": lambda: b"nonsense",
    "no certificate": lambda: with_chain(b"nothing"),
    "a certificate that is none": lambda: with_chain(intel.pem(b"\x30\x00")),
    "a certificate that is no processor's": lambda: with_chain(intel.pem(INTEL_SGX_ROOT.der)),
    "an extension without the FMSPC": lambda: intel.read("sgx-phala/quote.bin"),
}


@pytest.mark.parametrize("name", NO_MODEL)
def test_a_quote_that_names_no_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "an extension without the FMSPC":
        monkeypatch.setattr(model, "_FMSPC", b"what is not there")
    with pytest.raises(Rejected) as refused:
        model_of(NO_MODEL[name]())
    assert refused.value.reason is Reason.MALFORMED


def test_damaged_certificates_are_refused_and_nothing_else_happens() -> None:
    rng = random.Random(7)  # noqa: S311 - it chooses what to damage
    whole = intel.read("sgx-phala/quote.bin")
    leaf = intel.chain(whole[intel.CHAIN :])[0]
    for _ in range(300):
        given = intel.submission("sgx-phala")
        given.flip_certificate(0, rng.randrange(len(leaf)))
        with contextlib.suppress(Rejected):
            model_of(given.quote)


# --- the parts


@pytest.mark.parametrize("name", GENUINE)
def test_genuine_collateral_is_described_and_signed(name: str) -> None:
    collateral = genuine(name)
    described = describe(collateral)
    window = intel.item(name)["collateral_window"]
    assert described.expires == window["not_after"]
    assert max(part.issued for part in described.parts) == window["not_before"]
    assert [part.name for part in described.parts] == [
        str(one) for one in (Document.TCB_INFO, Document.QE_IDENTITY, Document.PCK_CRL, Document.ROOT_CA_CRL)
    ]
    assert described.number == json.loads(collateral.tcb_info)["tcbEvaluationDataNumber"]
    assert described.parts[0].issuer == "Intel SGX TCB Signing"
    assert described.parts[3].issuer == "Intel SGX Root CA"
    assert described.parts[0].entries > 0
    check_signed(collateral, INTEL_SGX_ROOT)


def answers_of(has: Collateral) -> dict[Document, Answer]:
    return {
        Document.PCK_CRL: Answer(
            bytes.fromhex(has.pck_crl), {"sgx-pck-crl-issuer-chain": quote(has.pck_crl_issuer_chain)}
        ),
        Document.TCB_INFO: Answer(
            b'{"tcbInfo":' + has.tcb_info.encode() + b',"signature":"' + has.tcb_info_signature.encode() + b'"}',
            {"tcb-info-issuer-chain": quote(has.tcb_info_issuer_chain)},
        ),
        Document.QE_IDENTITY: Answer(
            b'{"enclaveIdentity":'
            + has.qe_identity.encode()
            + b',"signature":"'
            + has.qe_identity_signature.encode()
            + b'"}',
            {"sgx-enclave-identity-issuer-chain": quote(has.qe_identity_issuer_chain)},
        ),
        Document.ROOT_CA_CRL: Answer(has.root_ca_crl.encode(), {}),
    }


@pytest.mark.parametrize("name", GENUINE)
def test_genuine_answers_become_collateral_that_verifies(name: str) -> None:
    given = intel.submission(name)
    wanted = model_of(given.quote)
    built = collateral_of(answers_of(genuine(name)), wanted, given.now)
    assert built == genuine(name)
    assert path(Document.TCB_INFO, wanted) == f"/tcb?fmspc={wanted.fmspc.upper()}"
    given.collateral = msgspec.to_builtins(built)
    if name != "sgx-debug-refused":
        assert given.verify().fmspc == wanted.fmspc


def test_an_answer_over_the_cap_is_refused_whoever_read_it() -> None:
    answers = answers_of(GOOD) | {Document.ROOT_CA_CRL: Answer(bytes(200_000), {})}
    with pytest.raises(Rejected) as refused:
        collateral_of(answers, SIMULATED, NOW)
    assert refused.value.reason is Reason.TOO_LARGE
    chain = {"sgx-pck-crl-issuer-chain": "x" * 40_000}
    with pytest.raises(Rejected) as refused:
        collateral_of(answers_of(GOOD) | {Document.PCK_CRL: Answer(b"", chain)}, SIMULATED, NOW)
    assert refused.value.reason is Reason.TOO_LARGE


def test_answers_too_large_together_for_a_message_are_refused() -> None:
    answers = answers_of(GOOD) | {Document.ROOT_CA_CRL: Answer(b"30" * 40_000, {})}
    with pytest.raises(Rejected, match="root_ca_crl"):
        collateral_of(answers, SIMULATED, NOW)


def other(**parts: str) -> Collateral:
    return msgspec.structs.replace(GOOD, **parts)


def turned(text: str) -> str:
    return text[:-1] + ("0" if text[-1] != "0" else "1")


PRIVATE = private_authority().collateral(ISSUED)
FORGED: dict[str, tuple[Collateral, str]] = {
    "TCB info changed": (other(tcb_info=GOOD.tcb_info.replace("20", "21", 1)), "TCB info is not signed"),
    "QE identity changed": (other(qe_identity=GOOD.qe_identity.replace("QE", "QQ", 1)), "QE identity is not signed"),
    "a signature changed": (other(tcb_info_signature=turned(GOOD.tcb_info_signature)), "TCB info is not signed"),
    "a signature of nothing": (other(qe_identity_signature="00" * 64), "QE identity is not signed"),
    "the PCK CRL changed": (other(pck_crl=turned(GOOD.pck_crl)), "PCK CRL"),
    "the root CRL changed": (other(root_ca_crl=turned(GOOD.root_ca_crl)), "root CA CRL is not signed"),
    "another root": (PRIVATE, "root CA CRL is not signed"),
    "another root's chain": (other(tcb_info_issuer_chain=PRIVATE.tcb_info_issuer_chain), "TCB info's issuer"),
    "another root's PCK CRL": (
        other(pck_crl=PRIVATE.pck_crl, pck_crl_issuer_chain=PRIVATE.pck_crl_issuer_chain),
        "PCK CRL's issuer chain is not",
    ),
    "a chain of the root alone": (
        other(qe_identity_issuer_chain=GOOD.qe_identity_issuer_chain.split("-----END CERTIFICATE-----\n", 1)[1]),
        "QE identity's issuer chain is not signed",
    ),
    "the PCK CA's chain for the TCB info": (other(tcb_info_issuer_chain=GOOD.pck_crl_issuer_chain), "TCB info is not"),
}  # fmt: skip


@pytest.mark.parametrize(("collateral", "says"), FORGED.values(), ids=FORGED)
def test_what_is_not_signed_under_the_anchor(collateral: Collateral, says: str) -> None:
    check_signed(GOOD, SIMULATED_ROOT)
    with pytest.raises(Rejected, match=says) as refused:
        check_signed(collateral, SIMULATED_ROOT)
    assert refused.value.reason in {Reason.NOT_GENUINE, Reason.MALFORMED}


@pytest.mark.parametrize("anchor", [INTEL_SGX_ROOT, anchor_of(private_authority())], ids=["Intel's", "a private one"])
def test_nothing_simulated_is_signed_under_another_anchor(anchor: TrustAnchor) -> None:
    with pytest.raises(Rejected, match=anchor.name):
        check_signed(GOOD, anchor)


@pytest.mark.parametrize("revoke", [revoking_the_pck_ca, revoking_the_tcb_signer])
def test_a_revoked_signer(tmp_path: Path, revoke: Callable[..., Collateral]) -> None:
    HONEST.open(tmp_path / "m")
    revoked = revoke(development_authority(), open_processor(tmp_path / "m"), ISSUED)
    with pytest.raises(Rejected, match="is revoked by the root CA's CRL"):
        check_signed(revoked, SIMULATED_ROOT)


def test_a_signer_whose_key_is_of_another_kind() -> None:
    authority = private_authority()
    key: Any = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    signer = certificates.tcb_signing(key, authority.root_name, authority.keys.root)
    root = intel.pem(authority.root).decode()
    chain = signer.public_bytes(Encoding.PEM).decode() + root
    with pytest.raises(Rejected, match="TCB info's issuer chain is not signed under a private root"):
        check_signed(msgspec.structs.replace(PRIVATE, tcb_info_issuer_chain=chain), anchor_of(authority))


def without_next_update(crl: str) -> str:
    """A CRL's DER without its second time: 15 bytes, and as many less in the two lengths before it."""
    der = bytearray.fromhex(crl)
    first = der.index(b"\x17\x0d")
    assert der[first + 15 : first + 17] == b"\x17\x0d"
    del der[first + 15 : first + 30]
    assert der[:2] + der[3:5] == b"\x30\x81\x30\x81"
    der[2] -= 15
    der[5] -= 15
    return der.hex()


def test_a_crl_that_does_not_say_until_when() -> None:
    with pytest.raises(Rejected, match="does not say when the next one comes"):
        describe(other(root_ca_crl=without_next_update(GOOD.root_ca_crl)))


def test_a_document_that_is_no_text() -> None:
    answers = answers_of(GOOD)
    answers[Document.TCB_INFO] = Answer(
        b'{"tcbInfo":"\xff","signature":"' + b"0" * 128 + b'"}', answers[Document.TCB_INFO].headers
    )
    with pytest.raises(Rejected, match="The TCB info cannot be read"):
        collateral_of(answers, SIMULATED, NOW)


def test_damaged_answers_and_bundles_are_refused_and_nothing_else_happens() -> None:
    rng = random.Random(11)  # noqa: S311 - it chooses what to damage
    written = write_bundle(ENTRIES)
    for _ in range(300):
        answers = answers_of(GOOD)
        document = rng.choice(list(Document))
        damaged = bytearray(answers[document].body)
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        headers = {name: value[: rng.randrange(len(value))] for name, value in answers[document].headers.items()}
        answers[document] = Answer(bytes(damaged), rng.choice([headers, answers[document].headers]))
        with contextlib.suppress(Rejected):
            check_signed(collateral_of(answers, SIMULATED, NOW), SIMULATED_ROOT)
        damaged = bytearray(written)
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        with contextlib.suppress(Rejected):
            read_bundle(bytes(damaged))


# --- bundles


def entry(collateral: Collateral = GOOD, source: str = "a test") -> Entry:
    about = describe(collateral).model
    return Entry(about.fmspc, about.ca, source, NOW, collateral)


ENTRIES = [entry(), *(entry(genuine(name)) for name in GENUINE[:2])]


def test_a_bundle_survives_its_encoding() -> None:
    written = write_bundle(ENTRIES)
    assert sorted(read_bundle(written), key=lambda one: one.model) == sorted(ENTRIES, key=lambda one: one.model)
    assert write_bundle(read_bundle(written)[::-1]) == written
    assert read_bundle(write_bundle([])) == []


def text(**said: object) -> bytes:
    return json.dumps({"version": 1, "entries": [msgspec.to_builtins(entry())]} | said).encode()


def entry_with(**said: object) -> bytes:
    return text(entries=[msgspec.to_builtins(entry()) | said])


UNREADABLE: dict[str, tuple[bytes, Reason, str]] = {
    "nothing": (b"", Reason.MALFORMED, "truncated"),
    "cut": (text()[:-1], Reason.MALFORMED, "truncated"),
    "not JSON": (b"<html>", Reason.MALFORMED, "malformed"),
    "not UTF-8": (b'{"version": 1, "entries": "\xff"}', Reason.MALFORMED, "."),
    "nested deeply": (b'{"version": 1, "entries": ' + b"[" * 100_000, Reason.MALFORMED, "."),
    "too large": (b" " * (MAX_BUNDLE + 1), Reason.TOO_LARGE, str(MAX_BUNDLE)),
    "a later version": (text(version=2), Reason.WRONG_VERSION, "version 2"),
    "no version": (b'{"entries": []}', Reason.MALFORMED, "version"),
    "more than is known": (text(more=1), Reason.MALFORMED, "more"),
    "two of one model": (text(entries=[msgspec.to_builtins(entry())] * 2), Reason.MALFORMED, "two entries"),
    "too many": (text(entries=[msgspec.to_builtins(entry())] * (MAX_ENTRIES + 1)), Reason.MALFORMED, "length"),
    "another model's collateral": (entry_with(fmspc="00" * 6), Reason.MALFORMED, "for FMSPC 000000000000, processor"),
    "the other CA's": (entry_with(ca="platform"), Reason.MALFORMED, "has collateral for"),
    "a CA that is none": (entry_with(ca="root"), Reason.MALFORMED, "ca"),
    "an FMSPC in capitals": (entry_with(fmspc=SIMULATED.fmspc.upper()), Reason.MALFORMED, "fmspc"),
    "a part that is none": (
        entry_with(collateral=msgspec.to_builtins(other(pck_crl="00"))), Reason.MALFORMED, "PCK CRL",
    ),
    "a time before time": (entry_with(fetched=-1), Reason.MALFORMED, "fetched"),
    "a long source": (entry_with(source="x" * 257), Reason.MALFORMED, "source"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "reason", "says"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_bundle_that_cannot_be_read(data: bytes, reason: Reason, says: str) -> None:
    with pytest.raises(Rejected, match=says) as refused:
        read_bundle(data)
    assert refused.value.reason is reason


def test_a_bundle_of_too_many() -> None:
    with pytest.raises(Rejected, match=f"at most {MAX_ENTRIES}"):
        write_bundle([entry()] * (MAX_ENTRIES + 1))


def test_a_later_next_expiry_lies_in_one_entry_for_each_model() -> None:
    newer = issued_at(NOW)
    for order in ([entry(), entry(newer, source="newer")], [entry(newer, source="newer"), entry()]):
        (merged,) = merge(order)
        assert (merged.collateral, merged.source) == (newer, "newer")
    assert {one.model for one in merge([*ENTRIES, entry(newer)])} == {one.model for one in ENTRIES}
    mixed = other(tcb_info=newer.tcb_info, tcb_info_signature=newer.tcb_info_signature)
    (merged,) = merge([entry(mixed), entry(other(root_ca_crl=newer.root_ca_crl))])
    assert (merged.collateral.tcb_info, merged.collateral.root_ca_crl) == (newer.tcb_info, newer.root_ca_crl)
    assert bundle.newest(entry(newer), entry()) == entry(newer)


# --- which is taken


NEWER, OLDER = issued_at(NOW, 21), issued_at(ISSUED, 19)
CHOICES: dict[str, tuple[Collateral | None, list[Collateral], Collateral | None]] = {
    "nothing anywhere": (None, [], None),
    "only sent": (GOOD, [], GOOD),
    "only held": (None, [GOOD], GOOD),
    "the same": (GOOD, [GOOD], GOOD),
    "held is newer": (OLDER, [NEWER], NEWER),
    "sent is newer": (NEWER, [OLDER], NEWER),
    "held is of other models": (GOOD, [genuine("sgx-phala"), genuine("sgx-automata-swh")], GOOD),
    "nothing held for it": (None, [genuine("sgx-phala")], None),
    "the newest of several": (OLDER, [genuine("sgx-phala"), NEWER], NEWER),
    # A higher number that has expired is of no use, and would keep out what is in force.
    "held has expired": (OLDER, [issued_at(NOW - tcb.VALID_FOR - 1, 30)], OLDER),
}


@pytest.mark.parametrize(("sent", "held", "wanted"), CHOICES.values(), ids=CHOICES)
def test_choice(
    simulated_quote: bytes, sent: Collateral | None, held: list[Collateral], wanted: Collateral | None
) -> None:
    given = b"" if sent is None else encoded(sent)
    chosen = choose(simulated_quote, given, [encoded(one) for one in held], NOW)
    assert chosen == (b"" if wanted is None else encoded(wanted))
    if wanted is not None:
        claims = verify(simulated_quote, chosen, bytes(64), NOW)
        assert claims.tcb_eval_data_number == number_of(chosen)


def test_nothing_sent_and_what_is_held_has_expired(simulated_quote: bytes) -> None:
    held = [encoded(issued_at(NOW - tcb.VALID_FOR - gone)) for gone in (1, 2)]
    with pytest.raises(Rejected, match=r"what is here for FMSPC 00534d554c00 expired at .*; it is now") as refused:
        choose(simulated_quote, b"", held, NOW)
    assert refused.value.reason is Reason.COLLATERAL_EXPIRED


def test_of_two_cas_the_quotes_own() -> None:
    """One model may be certified by either CA; the CRL that helps is that of the quote's own."""
    given = intel.submission("sgx-phala")
    own = genuine("sgx-phala")
    platform = msgspec.structs.replace(
        own,
        pck_crl=genuine("sgx-automata-swh").pck_crl,
        pck_crl_issuer_chain=genuine("sgx-automata-swh").pck_crl_issuer_chain,
    )
    assert describe(platform).model == Model(describe(own).model.fmspc, "platform")
    now = describe(own).issued + 1
    for held in ([own, platform], [platform, own]):
        chosen = choose(given.quote, b"", [encoded(one) for one in held], now)
        assert msgspec.json.decode(chosen, type=Collateral).pck_crl == own.pck_crl


@pytest.mark.parametrize("sent", [b"junk", b"{}"])
def test_what_was_sent_and_cannot_be_read_is_refused(simulated_quote: bytes, sent: bytes) -> None:
    with pytest.raises(Rejected) as refused:
        choose(simulated_quote, sent, [encoded(GOOD)], NOW)
    assert refused.value.reason is Reason.MALFORMED
