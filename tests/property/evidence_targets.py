"""What reads quotes, certificates and collateral for people, and what a PCCS or a bundle brings."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from urllib.parse import quote

from tests.fakes.claims import NOW
from tests.fakes.machines import HostTime
from tests.property.inputs import collaterals, folder, platform, policies, quotes, written
from tests.property.registry import target, text_of
from tests.vectors import intel

from rkeyserver.attestation.sgx import choose
from rkeyserver.attestation.sgx.bundle import Entry, merge, read_bundle, write_bundle
from rkeyserver.attestation.sgx.collateral import Collateral, decode
from rkeyserver.attestation.sgx.fields import parts
from rkeyserver.attestation.sgx.model import Model, model_of
from rkeyserver.attestation.sgx.parts import check_signed, describe
from rkeyserver.attestation.sgx.pck import ppid_of
from rkeyserver.attestation.sgx.pcs import Answer, Document, collateral_of
from rkeyserver.cli import appraise_input, appraise_quote
from rkeyserver.cli import collateral as cli_collateral
from rkeyserver.clock import Clock
from rkeyserver.errors import Misuse, Rejected
from rkeyserver.platforms.registry import load_anchor
from rkeyserver.service.held import HeldCollateral


@cache
def bundles() -> list[bytes]:
    return [write_bundle([entry(decode(one))]) for one in collaterals()]


def entry(collateral: Collateral) -> Entry:
    model = describe(collateral).model
    return Entry(model.fmspc, model.ca, "a test", NOW, collateral)


def file(name: str, data: bytes) -> str:
    path = folder() / name
    path.write_bytes(data)
    return str(path)


def appraised(quote_: bytes, collateral: bytes, policy: bytes, platform_name: str = "simulated") -> object:
    asked = appraise_quote.Asked(
        quote=file("quote", quote_),
        collateral=file("collateral", collateral),
        policy=file("policy", policy),
        report_data=None,
        at=str(NOW),
        platform=platform_name,
    )
    return appraise_quote.appraise(asked)


def foreign() -> list[bytes]:
    """Quotes of other technologies, which are told apart by name."""
    if not intel.FOLDER.is_dir():
        return quotes()
    return [path.read_bytes() for path in sorted(intel.FOLDER.rglob("*")) if path.suffix == ".bin"] + quotes()


target(
    "quote of appraise",
    lambda: [
        quotes()[0],
        quotes()[0][:-1],
        quotes()[0].hex().encode(),
        json.dumps("x").encode(),
        b"0x" + quotes()[0].hex().encode(),
    ],
    lambda data: appraised(data, collaterals()[0], policies()[1]),
    Misuse,
)
target("foreign quote of appraise", foreign, lambda data: appraised(data, b"", policies()[0], "sgx"), Misuse)
target(
    "collateral of appraise",
    lambda: [*collaterals(), *bundles()[:1]],
    lambda data: appraised(quotes()[0], data, policies()[1]),
    *(Misuse, Rejected),
)
target(
    "policy of appraise",
    policies,
    lambda data: appraised(quotes()[0], collaterals()[0], data),
    Misuse,
)
target("report data", lambda: [b"ab" * 64], lambda data: appraise_input.hex64(text_of(data)), Misuse)
target(
    "time", lambda: [b"1780000000", b"2026-05-28T20:26:40Z"], lambda data: appraise_input.moment(text_of(data)), Misuse
)
target("quote's model", quotes, model_of, Rejected)
target("quote's processor", lambda: [parts(one).certification for one in quotes()], ppid_of, Rejected)
target("bundle", bundles, read_bundle, Rejected)
target("bundles together", bundles, lambda data: merge([*read_bundle(data), *read_bundle(bundles()[0])]), Rejected)
target(
    "bundle of the command",
    lambda: [*bundles(), *collaterals()],
    lambda data: cli_collateral.read(written(data)),
    *(Rejected, Misuse),
)
target(
    "bundle for people",
    bundles,
    lambda data: cli_collateral.show(written(data), Clock(HostTime())),
    *(Rejected, Misuse),
)
target(
    "model of the command",
    lambda: [b"00906ed50000"],
    lambda data: cli_collateral._wanted(None, text_of(data), "platform"),
    Misuse,
)
target("collateral that is described", collaterals, lambda data: describe(decode(data)), Rejected)
target(
    "collateral that is signed",
    lambda: collaterals()[:1],
    lambda data: check_signed(decode(data), load_anchor("simulated")),
    Rejected,
)
target(
    "collateral beside what is held",
    collaterals,
    lambda data: choose.choose(quotes()[0], data, [collaterals()[0]], NOW),
    Rejected,
)
target("quote without collateral", quotes, lambda data: choose.choose(data, b"", [collaterals()[0]], NOW), Rejected)


def learned(data: bytes) -> None:
    held(folder() / "learned").learn(data)


def held(path: Path) -> HeldCollateral:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    return HeldCollateral(path, load_anchor("simulated"), platform(), Clock(HostTime()), lambda _: None)


def loaded(data: bytes) -> None:
    made = held(folder() / "held")
    made.path.write_bytes(data)
    made.load()
    made.status()


target("collateral that a peer sends", collaterals, learned)
target("held collateral's file", bundles, loaded)


@cache
def answers() -> dict[Document, Answer]:
    own = decode(collaterals()[0])
    chain = {document: quote(own.tcb_info_issuer_chain) for document in Document}
    tcb = f'{{"tcbInfo":{own.tcb_info},"signature":"{own.tcb_info_signature}"}}'
    qe = f'{{"enclaveIdentity":{own.qe_identity},"signature":"{own.qe_identity_signature}"}}'
    return {
        Document.PCK_CRL: Answer(own.pck_crl.encode(), {"sgx-pck-crl-issuer-chain": quote(own.pck_crl_issuer_chain)}),
        Document.TCB_INFO: Answer(tcb.encode(), {"tcb-info-issuer-chain": chain[Document.TCB_INFO]}),
        Document.QE_IDENTITY: Answer(
            qe.encode(), {"sgx-enclave-identity-issuer-chain": quote(own.qe_identity_issuer_chain)}
        ),
        Document.ROOT_CA_CRL: Answer(bytes.fromhex(own.root_ca_crl), {}),
    }


def answered(document: Document) -> Callable[[bytes], object]:
    return lambda data: collateral_of(answers() | {document: Answer(data, answers()[document].headers)}, model(), NOW)


def header(document: Document) -> Callable[[bytes], object]:
    def run(data: bytes) -> object:
        (name,) = answers()[document].headers
        changed = Answer(answers()[document].body, {name: data.decode("latin-1")})
        return collateral_of(answers() | {document: changed}, model(), NOW)

    return run


def model() -> Model:
    return describe(decode(collaterals()[0])).model


for _document in Document:
    target(f"PCCS's {_document}", lambda one=_document: [answers()[one].body], answered(_document), Rejected)  # type: ignore[misc]  # mypy has no type for a lambda's default
    if _document is not Document.ROOT_CA_CRL:
        target(
            f"chain with the PCCS's {_document}",
            lambda one=_document: [text.encode() for text in answers()[one].headers.values()],  # type: ignore[misc]  # mypy has no type for a lambda's default
            header(_document),
            Rejected,
        )
