"""Fetching from a PCCS, over real TLS: what it gives is collateral, and whatever else it does is a clear error."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest
from tests.fakes.machines import NOW, anchor_of, private_authority, resigned
from tests.fakes.pccs import (
    BASE,
    PCK_CRL,
    QE,
    ROOT_CRL,
    SIMULATED,
    TCB,
    Change,
    PccsStandIn,
    Reply,
    Tls,
    issued_at,
    only,
    pccs,
)
from tests.fakes.processes import reserve

from rkeyserver.attestation.sgx.collateral import Collateral
from rkeyserver.attestation.sgx.model import Model
from rkeyserver.attestation.sgx.pcs import MAX_BODY
from rkeyserver.config import check_pccs
from rkeyserver.errors import Misuse, Reason, Rejected, RkeyError, Unavailable
from rkeyserver.platforms.simulated import tcb
from rkeyserver.platforms.simulated.pki import development_authority
from rkeyserver.service.pccs import Pccs
from rkeyserver.service.several_pccs import SeveralPccs, pccs_of

ISSUED = NOW - 86_400
GOOD = issued_at(ISSUED)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return Tls.make(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def shared(tls: Tls) -> Iterator[PccsStandIn]:
    with pccs(GOOD, tls) as running:
        yield running


@pytest.fixture
def service(shared: PccsStandIn) -> Iterator[PccsStandIn]:
    yield shared
    shared.collateral, shared.change = GOOD, lambda _path, reply: reply
    shared.asked.clear()


def fetch(service: PccsStandIn, model: Model = SIMULATED, *, seconds: float = 5.0, now: int = NOW) -> Collateral:
    return asyncio.run(Pccs(service.url, service.ca, seconds).fetch(model, now))


def refused(service: PccsStandIn, model: Model = SIMULATED, **how: float) -> RkeyError:
    with pytest.raises(RkeyError) as raised:
        fetch(service, model, **how)  # type: ignore[arg-type]  # a table has no narrower type
    return raised.value


def test_it_asks_for_four_documents_and_keeps_them_byte_for_byte(service: PccsStandIn) -> None:
    assert fetch(service) == GOOD
    assert service.asked == [
        f"{BASE}/pckcrl?ca=processor&encoding=der",
        f"{BASE}/tcb?fmspc={tcb.FMSPC.hex().upper()}",
        f"{BASE}/qe/identity",
        f"{BASE}/rootcacrl",
    ]


def older_header(path: str, reply: Reply) -> Reply:
    if path != TCB:
        return reply
    return replace(reply, headers={"SGX-TCB-Info-Issuer-Chain": reply.headers["TCB-Info-Issuer-Chain"]})


def with_more(path: str, reply: Reply) -> Reply:
    return replace(reply, body=b' {"more": 1,' + reply.body[1:]) if path in {TCB, QE} else reply


OTHER_FORMS: dict[str, Change] = {
    "CRLs in hex": only(PCK_CRL, body=GOOD.pck_crl.upper().encode()),
    "CRLs in DER": only(ROOT_CRL, body=bytes.fromhex(GOOD.root_ca_crl)),
    "hex with a line's end": only(ROOT_CRL, body=GOOD.root_ca_crl.encode() + b"\r\n"),
    "the older header": older_header,
    "a chain encoded in full": only(
        QE, headers={"sgx-enclave-identity-issuer-chain": quote(GOOD.qe_identity_issuer_chain, safe="")}
    ),
    "more in the object": with_more,
}


@pytest.mark.parametrize("change", OTHER_FORMS.values(), ids=OTHER_FORMS)
def test_other_forms_of_the_same(service: PccsStandIn, change: Change) -> None:
    service.change = change
    assert fetch(service) == GOOD


def test_what_is_signed_is_what_was_sent_whatever_its_spacing(service: PccsStandIn) -> None:
    spaced = json.dumps(json.loads(GOOD.tcb_info), indent=3)
    service.collateral = msgspec.structs.replace(GOOD, tcb_info=spaced)
    assert fetch(service).tcb_info == spaced


def other_model(document: dict[str, object]) -> None:
    document["fmspc"] = "00906ED50000"


def without(name: str) -> Callable[[dict[str, object]], None]:
    def change(document: dict[str, object]) -> None:
        del document[name]

    return change


def retitled(**said: object) -> Collateral:
    return resigned(GOOD, development_authority(), tcb_info=lambda document: document.update(said))


OTHER = private_authority().collateral(ISSUED)
WRONG: dict[str, tuple[Collateral, Reason, str]] = {
    "stale": (issued_at(NOW - tcb.VALID_FOR - 1), Reason.COLLATERAL_EXPIRED, "TCB info expired at"),
    "one part stale": (
        msgspec.structs.replace(GOOD, root_ca_crl=issued_at(NOW - tcb.VALID_FOR - 1).root_ca_crl),
        Reason.COLLATERAL_EXPIRED,
        "root CA CRL expired at",
    ),
    "future-dated": (issued_at(NOW + 1), Reason.NOT_GENUINE, "after this clock's"),
    "a CRL from the future": (
        msgspec.structs.replace(GOOD, pck_crl=issued_at(NOW + 1).pck_crl),
        Reason.NOT_GENUINE,
        "PCK CRL was issued at",
    ),
    "wrong FMSPC": (
        resigned(GOOD, development_authority(), tcb_info=other_model),
        Reason.NOT_GENUINE,
        "for FMSPC 00906ed50000, 00534d554c00 was asked for",
    ),
    "no FMSPC": (
        resigned(GOOD, development_authority(), tcb_info=without("fmspc")), Reason.MALFORMED, "fmspc",
    ),
    "an FMSPC that is none": (retitled(fmspc="xyz"), Reason.MALFORMED, "fmspc"),
    "TCB info of TDX": (retitled(id="TDX"), Reason.MALFORMED, "its id is TDX, wanted SGX"),
    "TCB info without a date": (
        resigned(GOOD, development_authority(), tcb_info=without("nextUpdate")), Reason.MALFORMED, "nextUpdate",
    ),
    "a date without a zone": (retitled(issueDate="2026-01-01T00:00:00"), Reason.MALFORMED, "issueDate"),
    "a negative evaluation number": (retitled(tcbEvaluationDataNumber=-1), Reason.MALFORMED, ">= 0"),
    "the PCK CRL with another's chain": (
        msgspec.structs.replace(GOOD, pck_crl_issuer_chain=GOOD.tcb_info_issuer_chain),
        Reason.NOT_GENUINE,
        "the chain sent with it is rkeyserver public development TCB Signing",
    ),
    "a chain whose parts do not follow": (
        msgspec.structs.replace(
            GOOD, tcb_info_issuer_chain=GOOD.tcb_info_issuer_chain + OTHER.tcb_info_issuer_chain
        ),
        Reason.NOT_GENUINE,
        "issuer chain is none",
    ),
    "an endless chain": (
        msgspec.structs.replace(GOOD, qe_identity_issuer_chain=GOOD.qe_identity_issuer_chain * 3),
        Reason.MALFORMED,
        "at most 4 are read",
    ),
    "a chain of nothing": (
        msgspec.structs.replace(GOOD, qe_identity_issuer_chain="nothing"),
        Reason.MALFORMED,
        "QE identity's issuer chain",
    ),
    "another root CRL in place of the PCK CRL": (
        msgspec.structs.replace(GOOD, pck_crl=GOOD.root_ca_crl), Reason.NOT_GENUINE, "The PCK CRL is issued by",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("collateral", "reason", "says"), WRONG.values(), ids=WRONG)
def test_what_is_not_what_was_asked_for(
    service: PccsStandIn, collateral: Collateral, reason: Reason, says: str
) -> None:
    service.collateral = collateral
    error = refused(service)
    assert isinstance(error, Rejected)
    assert error.reason is reason
    assert says in str(error)


def test_the_other_ca_s_crl(service: PccsStandIn) -> None:
    error = refused(service, Model(SIMULATED.fmspc, "platform"))
    assert "that of the platform CA was asked for" in str(error)


NUMBERS = b'{"tcbInfo":1,"enclaveIdentity":1,"signature":"' + b"0" * 128 + b'"}'
MALFORMED: dict[str, tuple[Change, str]] = {
    **{
        f"{name} to {path}": (only(path, body=body), says)
        for path, what in ((TCB, "TCB info"), (QE, "QE identity"))
        for name, body, says in (
            ("nothing", b"", f"The {what} cannot be read"),
            ("not JSON", b"<html>", f"The {what} cannot be read"),
            ("not UTF-8", b'{"tcbInfo":"\xff"}', f"The {what} cannot be read"),
            ("null", b"null", f"The {what} cannot be read"),
            ("no signature", b'{"tcbInfo":{},"enclaveIdentity":{}}', "signature"),
            ("a signature too short", b'{"tcbInfo":{},"enclaveIdentity":{},"signature":"00"}', "signature"),
            ("a number", NUMBERS, "length >= 2"),
            ("nested deeply", b'{"tcbInfo":' + b"[" * 50_000, f"The {what} cannot be read"),
            ("compressed", gzip.compress(b"{}"), f"The {what} cannot be read"),
        )
    },
    **{f"no header to {path}": (only(path, headers={}), "issuer-chain header") for path in (PCK_CRL, TCB, QE)},
    **{
        f"{name} to {path}": (only(path, body=body), says)
        for path in (PCK_CRL, ROOT_CRL)
        for name, body, says in (
            ("nothing", b"", "it is empty"),
            ("blanks", b"  ", "it is empty"),
            ("text", b"Not found", "neither DER nor DER in hex"),
            ("half a byte", b"308", "neither DER nor DER in hex"),
            ("other hex", b"3000", "CRL cannot be read"),
            ("other DER", b"\x30\x00", "CRL cannot be read"),
        )
    },
    "a chain that is too large": (only(TCB, headers={"TCB-Info-Issuer-Chain": "x" * 20_000}), "tcb_info_issuer_chain"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "says"), MALFORMED.values(), ids=MALFORMED)
def test_what_cannot_be_read(service: PccsStandIn, change: Change, says: str) -> None:
    service.change = change
    error = refused(service)
    assert isinstance(error, Rejected)
    assert error.reason is Reason.MALFORMED
    assert says in str(error)


NO_ANSWER: dict[str, tuple[Change, str, float]] = {
    "404": (only(TCB, status=404), "answers 404 to the request for the TCB info. Does the URL end", 0),
    "401": (only(QE, status=401), "answers 401 to the request for the QE identity. The service wants credentials", 0),
    "429 that says when": (only(QE, status=429, headers={"Retry-After": "17"}), "429", 17),
    "429 for ever": (only(QE, status=429, headers={"Retry-After": "9" * 18}), "429", 3600),
    "429 with a date": (only(QE, status=429, headers={"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}), "429", 0),
    "500": (only(ROOT_CRL, status=500), "answers 500 to the request for the root CA CRL", 0),
    "500 that says when": (only(PCK_CRL, status=503, headers={"Retry-After": "5"}), "503", 5),
    "204": (only(PCK_CRL, status=204, body=b""), "answers 204", 0),
    "a redirect": (
        only(TCB, status=302, headers={"Location": "https://elsewhere.invalid/"}),
        "a redirect (302). None is followed",
        0,
    ),
    "slow": (only(QE, pause=0.05), "no answer in time", 0),
    "half": (only(TCB, cut=100), "peer closed connection", 0),
    "none of it": (only(TCB, cut=0), "No answer from the PCCS", 0),
    "huge": (only(TCB, body=bytes(MAX_BODY + 1)), f"over {MAX_BODY} bytes of TCB info", 0),
    "a huge header": (only(QE, headers={"sgx-enclave-identity-issuer-chain": "x" * 200_000}), "No answer from", 0),
    "a length that is none": (only(QE, headers={"Content-Length": "many"}), "No answer from the PCCS", 0),
}  # fmt: skip


@pytest.mark.parametrize(("change", "says", "again"), NO_ANSWER.values(), ids=NO_ANSWER)
def test_no_answer(service: PccsStandIn, change: Change, says: str, again: float) -> None:
    service.change = change
    error = refused(service, seconds=0.7 if "in time" in says else 5.0)
    assert isinstance(error, Unavailable), error
    assert says in str(error)
    assert error.retry_after == again


def test_nobody_is_there(tls: Tls) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    error = refused(PccsStandIn(f"https://127.0.0.1:{port}{BASE}", tls.ca, GOOD))
    assert "Connection refused" in str(error)


def test_a_certificate_of_nobody_known(service: PccsStandIn) -> None:
    for ca in (None, Path("/etc/ssl/certs/ca-certificates.crt")):
        if ca is not None and not ca.exists():
            continue
        service.asked.clear()
        with pytest.raises(Unavailable, match=r"unable to get local issuer certificate.*--pccs-ca"):
            asyncio.run(Pccs(service.url, ca).fetch(SIMULATED, NOW))
        assert service.asked == []


def test_a_self_signed_certificate_counts_where_it_is_named(tmp_path: Path) -> None:
    with pccs(GOOD, Tls.make(tmp_path, self_signed=True)) as service:
        assert fetch(service) == GOOD
        with pytest.raises(Unavailable, match=r"self.signed certificate"):
            asyncio.run(Pccs(service.url).fetch(SIMULATED, NOW))


def test_a_certificate_of_another_host(tmp_path: Path) -> None:
    with pccs(GOOD, Tls.make(tmp_path, "elsewhere.invalid")) as service:
        assert "certificate is not valid for" in str(refused(service))
        assert service.asked == []


def test_a_service_without_tls(tls: Tls) -> None:
    with pccs(GOOD, None) as service:
        disguised = PccsStandIn(service.url.replace("http:", "https:"), tls.ca, GOOD)
        error = refused(disguised)
        assert isinstance(error, Unavailable)
        assert "No answer from the PCCS" in str(error)
        assert service.asked == []


def test_the_environment_brings_in_no_proxy_and_no_ca(
    service: PccsStandIn, tls: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetch(service) == GOOD
    monkeypatch.setenv("SSL_CERT_FILE", str(tls.ca))
    with pytest.raises(Unavailable, match="unable to get local issuer certificate"):
        asyncio.run(Pccs(service.url).fetch(SIMULATED, NOW))


@pytest.mark.parametrize(
    ("content", "says"), [(None, "No such file"), (b"", "no certificate"), (b"x", "no certificate")]
)
def test_a_ca_that_is_none(tmp_path: Path, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / "ca").write_bytes(content)
    with pytest.raises(Misuse, match=says):
        Pccs("https://127.0.0.1:1", tmp_path / "ca").tls()


def test_another_root_s_collateral_is_what_was_asked_for_and_is_not_proved_by_that(service: PccsStandIn) -> None:
    """That it is genuine nobody claims here; who keeps it proves it first."""
    service.collateral = OTHER
    assert fetch(service) == OTHER
    assert anchor_of(private_authority()).name == "a private root of a test"


# Several

ROUTES: dict[str, tuple[list[str], list[int]]] = {
    "the first answers": (["alive", "dead"], [0, 0]),
    "the first is dead": (["dead", "alive"], [1, 1]),
    "the first is out of order": (["broken", "alive"], [1, 1]),
    "two are dead": (["dead", "broken", "alive"], [2, 2]),
}


@pytest.mark.parametrize(("names", "gives"), ROUTES.values(), ids=ROUTES)
def test_the_first_of_several_that_gives_any(service: PccsStandIn, names: list[str], gives: list[int]) -> None:
    down = service.url.replace("/sgx/", "/elsewhere/")  # answers 404
    with reserve() as held:
        dead = f"https://127.0.0.1:{held.getsockname()[1]}/sgx/certification/v4"
        urls = [{"alive": service.url, "dead": dead, "broken": down}[name] for name in names]
        several = pccs_of(check_pccs(",".join(urls)), service.ca)
        assert isinstance(several, SeveralPccs)
        several.tls()
        assert several.url == ", ".join(urls)
        for number in gives:
            before = len(service.asked)
            assert asyncio.run(several.fetch(SIMULATED, NOW)) == service.collateral
            assert several.url == urls[number]
            asked = service.asked[before:]
        # Whoever did not help is not even asked the second time.
        assert len(asked) == 4


def test_where_none_of_several_gives_any_each_is_named(tls: Tls) -> None:
    with reserve() as one, reserve() as two:
        urls = [f"https://127.0.0.1:{held.getsockname()[1]}" for held in (one, two)]
        with pytest.raises(Unavailable) as raised:
            asyncio.run(pccs_of(",".join(urls), tls.ca).fetch(SIMULATED, NOW))
    assert all(f"No answer from the PCCS {url}: Connection refused." in raised.value.message for url in urls)


def test_one_alone_is_one() -> None:
    assert pccs_of("https://a", None) == Pccs("https://a")
