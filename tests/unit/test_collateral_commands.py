"""`rkeyserver collateral`, in this process, with the time that a test gives it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.fakes.machines import NOW, HostTime, machine, private_authority, revoking_the_processor
from tests.fakes.pccs import SIMULATED, TCB, PccsStandIn, Tls, issued_at, only, pccs
from tests.vectors import intel

from rkeyserver.attestation.sgx.bundle import Entry, read_bundle, write_bundle
from rkeyserver.attestation.sgx.collateral import Collateral
from rkeyserver.attestation.sgx.model import Model
from rkeyserver.attestation.sgx.parts import describe
from rkeyserver.cli import collateral as commands
from rkeyserver.cli.main import main
from rkeyserver.clock import Clock
from rkeyserver.errors import EXIT_STATUS, Misuse, Reason, Rejected, Unavailable
from rkeyserver.platforms.simulated.pki import development_authority

GOOD = issued_at(NOW - 86_400)
CLOCK = Clock(HostTime())
MISUSE, REJECTED, UNAVAILABLE = (EXIT_STATUS[kind] for kind in (Misuse, Rejected, Unavailable))


def at(now: int) -> Clock:
    return Clock(HostTime(now))


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "Clock", lambda: CLOCK)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[PccsStandIn]:
    with pccs(GOOD, Tls.make(tmp_path)) as running:
        yield running


def genuine(name: str) -> Collateral:
    return msgspec.json.decode(intel.read(f"{name}/collateral.json"), type=Collateral)


def entry(found: Collateral, fetched: int = NOW) -> Entry:
    about = describe(found).model
    return Entry(about.fmspc, about.ca, "a test", fetched, found)


# --- fetch


def test_fetch_by_the_model(service: PccsStandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["collateral", "fetch", "--pccs", service.url + "/", "--pccs-ca", str(service.ca)]
    words += ["--fmspc", SIMULATED.fmspc.upper(), "--ca", "processor"]
    assert main(words) == 0
    (found,) = read_bundle(capsys.readouterr().out.encode())
    assert found == Entry(SIMULATED.fmspc, SIMULATED.ca, service.url, NOW, GOOD)
    assert main([*words, "-o", str(tmp_path / "out")]) == 0
    assert read_bundle((tmp_path / "out").read_bytes()) == [found]
    assert capsys.readouterr().out.startswith("Written to ")


def test_fetch_by_a_quote_proves_it_by_that_quote(service: PccsStandIn, tmp_path: Path) -> None:
    mine = machine(tmp_path / "m")
    (tmp_path / "quote").write_bytes(mine.evidence(b"\7" * 64))
    (found,) = read_bundle(commands.fetch(service.url, service.ca, tmp_path / "quote", CLOCK))
    assert (found.model, found.collateral) == (SIMULATED, GOOD)
    service.collateral = revoking_the_processor(development_authority(), mine.processor, NOW - 86_400)
    with pytest.raises(Rejected, match="not genuine under rkeyserver PUBLIC DEVELOPMENT ROOT"):
        commands.fetch(service.url, service.ca, tmp_path / "quote", CLOCK)


def test_fetch_for_a_genuine_machine(service: PccsStandIn, tmp_path: Path) -> None:
    """Intel's own collateral, from a time when it was in force."""
    given = intel.submission("sgx-automata-swh")
    service.collateral = genuine("sgx-automata-swh")
    (tmp_path / "quote").write_bytes(given.quote)
    (found,) = read_bundle(commands.fetch(service.url, service.ca, tmp_path / "quote", at(given.now)))
    assert found.collateral == service.collateral
    assert found.model == Model("00606a000000", "platform")
    text = commands._lines(found, given.now)
    assert text[-1] == "genuine      every part is signed under Intel SGX Root CA"


def test_what_proves_it() -> None:
    given = intel.submission("sgx-automata-swh")
    found = genuine("sgx-automata-swh")
    for evidence in (given.quote, None):
        assert commands.proved(found, evidence, "there", given.now) == msgspec.structs.replace(
            entry(found, given.now), source="there"
        )
    with pytest.raises(Rejected, match="not genuine under Intel SGX Root CA"):
        commands.proved(found, intel.read("sgx-phala/quote.bin"), "there", given.now)
    with pytest.raises(Rejected, match="not signed under"):
        commands.proved(private_authority().collateral(NOW - 86_400), None, "there", NOW)


def test_what_is_signed_under_no_known_root_is_not_written(service: PccsStandIn, tmp_path: Path) -> None:
    service.collateral = private_authority().collateral(NOW - 86_400)
    with pytest.raises(Rejected, match=r"not signed under Intel SGX Root CA.*not signed under rkeyserver PUBLIC") as no:
        commands.fetch(service.url, service.ca, SIMULATED, CLOCK)
    assert no.value.reason is Reason.NOT_GENUINE
    assert not (tmp_path / "out").exists()


FETCH = ["collateral", "fetch", "--pccs", "https://127.0.0.1:9"]
MODEL = ["--fmspc", "00534D554C00", "--ca", "processor"]
REFUSED: dict[str, tuple[list[str], int, str]] = {
    "no command": (["collateral"], MISUSE, "required: COMMAND"),
    "another": (["collateral", "delete"], MISUSE, "choose from"),
    "no service": (["collateral", "fetch", *MODEL], MISUSE, "--pccs"),
    "plain http": (["collateral", "fetch", "--pccs", "http://127.0.0.1:9", *MODEL], MISUSE, "over https only"),
    "neither model nor quote": (FETCH, MISUSE, "--quote FILE, or --fmspc HEX and --ca"),
    "a model without its CA": ([*FETCH, "--fmspc", "00534D554C00"], MISUSE, "--fmspc HEX and --ca"),
    "a CA without a model": ([*FETCH, "--ca", "platform"], MISUSE, "--fmspc HEX and --ca"),
    "both": ([*FETCH, *MODEL, "--quote", "quote"], MISUSE, "--quote FILE, or"),
    "an FMSPC that is none": ([*FETCH, "--fmspc", "00534D554C0", "--ca", "platform"], MISUSE, "12 hex digits"),
    "a CA that is none": ([*FETCH, "--fmspc", "00534D554C00", "--ca", "root"], MISUSE, "--ca"),
    "no quote there": ([*FETCH, "--quote", "missing"], MISUSE, "missing cannot be read: No such file"),
    "a quote that is none": ([*FETCH, "--quote", "nonsense"], REJECTED, "bytes, at least"),
    "a giant quote": ([*FETCH, "--quote", "giant"], MISUSE, "more than 16384 bytes"),
    "nobody there": ([*FETCH, *MODEL], UNAVAILABLE, "No answer from the PCCS https://127.0.0.1:9"),
    "show nothing": (["collateral", "show"], MISUSE, "path"),
    "show what is not there": (["collateral", "show", "missing"], MISUSE, "cannot be read"),
    "show nonsense": (["collateral", "show", "nonsense"], REJECTED, "nonsense: The bundle cannot be read"),
    "show another version": (["collateral", "show", "later"], REJECTED, "later: The bundle is of version 2"),
    "show half a collateral": (["collateral", "show", "half"], REJECTED, "half: The bundle cannot be read"),
    "show unreadable parts": (["collateral", "show", "parts"], REJECTED, "The PCK CRL cannot be read"),
    "bundle without a place": (["collateral", "bundle", "good"], MISUSE, "-o"),
    "bundle of nonsense": (["collateral", "bundle", "good", "nonsense", "-o", "out"], REJECTED, "nonsense: The bundle"),
    "bundle into no folder": (["collateral", "bundle", "good", "-o", "no/out"], UNAVAILABLE, "cannot be written"),
}


@pytest.mark.parametrize(("words", "status", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_writes_nothing(  # noqa: PLR0917 - three are pytest's
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    says: str,
) -> None:
    parts: dict[str, str] = msgspec.to_builtins(GOOD)
    there = {
        "nonsense": b"nonsense",
        "giant": bytes(20_000),
        "later": b'{"version": 2}',
        "half": json.dumps({name: parts[name] for name in list(parts)[:5]}).encode(),
        "parts": json.dumps(parts | {"pck_crl": "3000"}).encode(),
        "good": write_bundle([entry(GOOD)]),
    }
    for name, data in there.items():
        (tmp_path / name).write_bytes(data)
    monkeypatch.chdir(tmp_path)
    assert main(words) == status
    said = capsys.readouterr()
    assert says in said.err
    assert said.out == ""
    assert {one.name for one in tmp_path.iterdir()} == set(there)


def test_a_service_that_answers_something_else(service: PccsStandIn, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["collateral", "fetch", "--pccs", service.url, "--pccs-ca", str(service.ca), *MODEL]
    service.change = only(TCB, status=404)
    assert main(words) == UNAVAILABLE
    service.change = only(TCB, body=b"<html>")
    assert main(words) == REJECTED
    assert capsys.readouterr().out == ""


# --- show


def test_show_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "held").write_bytes(write_bundle([entry(GOOD)]))
    assert main(["collateral", "show", str(tmp_path / "held")]) == 0
    day = "issued 2026-05-27T20:26:40Z, next update 2026-06-26T20:26:40Z, 29.0 days left"
    signer = "by rkeyserver public development TCB Signing - protects nothing, evaluation number 20"
    assert capsys.readouterr().out.splitlines() == [
        "collateral   FMSPC 00534d554c00, processor CA",
        "from         a test, 2026-05-28T20:26:40Z",
        f"  TCB info     {day}",
        f"               {signer}, 2 advisories",
        f"  QE identity  {day}",
        f"               {signer}, 0 advisories",
        f"  PCK CRL      {day}",
        "               by rkeyserver public development PCK CA - protects nothing, 0 revoked",
        f"  root CA CRL  {day}",
        "               by rkeyserver PUBLIC DEVELOPMENT ROOT - protects nothing, 0 revoked",
        "expires      2026-06-26T20:26:40Z, 29.0 days left",
        "genuine      every part is signed under rkeyserver PUBLIC DEVELOPMENT ROOT - protects nothing",
        "SIMULATED: anyone can sign such.",
    ]


def test_show_what_a_peer_sends_and_what_has_expired() -> None:
    text = commands.show(intel.FOLDER / "sgx-phala" / "collateral.json", CLOCK)
    assert "collateral   FMSPC 00a067110000, processor CA" in text
    assert "expires      2025-07-19T10:01:18Z, EXPIRED 313.4 days ago" in text
    assert text.endswith("genuine      every part is signed under Intel SGX Root CA\n")


def test_show_what_is_not_genuine(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(msgspec.json.encode(private_authority().collateral(NOW - 86_400)))
    assert "genuine      NO: The root CA CRL is not signed under Intel" in commands.show(tmp_path / "c", CLOCK)


# --- bundle


def test_bundle_takes_the_newest_of_each_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newer = issued_at(NOW - 60, 21)
    mixed = msgspec.structs.replace(
        GOOD, qe_identity=newer.qe_identity, qe_identity_signature=newer.qe_identity_signature
    )
    (tmp_path / "one").write_bytes(write_bundle([entry(GOOD), entry(genuine("sgx-phala"))]))
    (tmp_path / "two").write_bytes(msgspec.json.encode(mixed))
    (tmp_path / "three").write_bytes(write_bundle([entry(genuine("sgx-automata-swh"))]))
    files = [str(tmp_path / name) for name in ("one", "two", "three")]
    assert main(["collateral", "bundle", *files, "-o", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("Written to ")
    found = {one.model: one.collateral for one in read_bundle((tmp_path / "out").read_bytes())}
    assert set(found) == {describe(one).model for one in (GOOD, genuine("sgx-phala"), genuine("sgx-automata-swh"))}
    assert found[SIMULATED] == mixed


def test_what_a_bundle_says_of_itself_is_not_obeyed_by_a_terminal(tmp_path: Path) -> None:
    hostile = msgspec.structs.replace(entry(GOOD), source="\x1b[2Jhttps://a\ngenuine      every part \x9b31m\u202e")
    (tmp_path / "bundle").write_bytes(write_bundle([hostile]))
    shown = commands.show(tmp_path / "bundle", CLOCK)
    assert all(line.isprintable() for line in shown.splitlines())
    assert sum(line.startswith("genuine") for line in shown.split("\n")) == 1
