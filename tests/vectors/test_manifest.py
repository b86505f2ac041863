"""Every expectation of the vectors' manifest, through the server's own functions and through `rkeyserver appraise`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.processes import ROOT, environment
from tests.vectors import intel
from tests.vectors.intel import Submission, submission

from rkeyserver.attestation.sgx.foreign import foreign
from rkeyserver.attestation.sgx.verify import SgxVerifier
from rkeyserver.cli.main import main
from rkeyserver.errors import Reason, Rejected

if not intel.FOLDER.is_dir():
    pytest.skip("NOT TESTED: genuine Intel quotes; there is no ../shared/vectors", allow_module_level=True)

from tests.vectors import test_sgx_vectors as tables

GENUINE = tables.GENUINE
ITEMS = {one["name"]: one for one in intel.manifest()["items"]}
NEGATIVE = [(name, one) for name in GENUINE for one in ITEMS[name]["negative"]]


# --- what the manifest's words ask for


def _root_of_the_sample(given: Submission) -> None:
    given.verifier = SgxVerifier(platform="sgx", anchor=tables._own_root_of_the_sample())


def _other_collateral(given: Submission) -> None:
    (other,) = (name for name in GENUINE if submission(name).quote != given.quote)
    given.collateral = submission(other).collateral


def _last_digit(given: Submission) -> None:
    text = given.collateral["qe_identity_signature"]
    given.collateral["qe_identity_signature"] = text[:-1] + ("0" if text[-1] != "0" else "1")


def _negated_signature(given: Submission) -> None:
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    s = (order - int.from_bytes(given.quote[468:500], "big")).to_bytes(32, "big")
    given.quote = given.quote[:468] + s + given.quote[500:]


WORDS: tuple[tuple[str, Callable[..., None]], ...] = (
    (r"one (?:second|year) after the window|one second before the first accepted time", lambda _: None),
    (r"bit (\d) of byte (\d+) flipped", lambda given, bit, offset: given.flip(int(offset), int(bit))),
    (r"quote cut to its first (\d+) bytes", lambda given, kept: setattr(given, "quote", given.quote[: int(kept)])),
    (r"empty quote", lambda given: setattr(given, "quote", b"")),
    (r"wrong root", _root_of_the_sample),
    (r"tcb_info: first OutOfDate replaced", tables.in_part("tcb_info", '"OutOfDate"', '"UpToDate"')),
    (r"qe_identity_signature: last hex digit", _last_digit),
    (r"tcb_info and qe_identity swapped", tables.swap_documents),
    (r"root CRL given as the PCK CRL", tables.copy("pck_crl", "root_ca_crl")),
    (r"valid Intel collateral of another FMSPC", _other_collateral),
    (r"NOTE trailing 16 zero bytes", lambda given: setattr(given, "quote", given.quote + bytes(16))),
    (r"NOTE ECDSA s replaced by n-s", _negated_signature),
)


def carried_out(name: str, about: dict[str, Any]) -> Submission:
    given = submission(name)
    given.now = about.get("now", given.now)
    for pattern, change in WORDS:
        if found := re.match(pattern, about["what"]):
            change(given, *found.groups())
            return given
    raise AssertionError(f"nothing here does: {about['what']}")


def accepted(about: dict[str, Any]) -> bool:
    """The server takes every byte of a quote into account, so what is appended is refused: the manifest allows it."""
    return about["measured"].startswith("accept") and "trailing" not in about["what"]


# --- the command


@dataclass(frozen=True)
class Said:
    status: int
    found: dict[str, Any]
    err: str

    @property
    def failed(self) -> list[str]:
        return [one["name"] for one in self.found["checks"] if one["passed"] is False]


@dataclass
class Command:
    folder: Path
    capsys: pytest.CaptureFixture[str]

    def arguments(self, given: Submission, *more: str) -> list[str]:
        (self.folder / "quote").write_bytes(given.quote)
        (self.folder / "collateral").write_text(json.dumps(given.collateral))
        files = [str(self.folder / "quote"), "--collateral", str(self.folder / "collateral")]
        asked = ["--report-data", given.report_data.hex()] if len(given.report_data) == 64 else []
        return ["appraise", *files, "--at", str(given.now), *asked, *more]

    def __call__(self, given: Submission, *more: str) -> Said:
        self.capsys.readouterr()
        status = main(self.arguments(given, "--json", *more))
        said = self.capsys.readouterr()
        return Said(status, json.loads(said.out), said.err)


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, capsys)


def test_every_negative_is_carried_out() -> None:
    assert len(NEGATIVE) == 32
    for name, about in NEGATIVE:
        carried_out(name, about)


IDS = [f"{name}: {about['what']}" for name, about in NEGATIVE]


@pytest.mark.parametrize(("name", "about"), NEGATIVE, ids=IDS)
def test_a_negative_through_the_servers_functions(name: str, about: dict[str, Any]) -> None:
    given = carried_out(name, about)
    if accepted(about):
        assert given.verify() == tables.CLAIMS[name]
        return
    with pytest.raises(Rejected):
        given.verify()


@pytest.mark.parametrize(
    ("name", "about"), [one for one in NEGATIVE if "wrong root" not in one[1]["what"]],
    ids=[one for one in IDS if "wrong root" not in one],
)  # fmt: skip
def test_a_negative_through_the_command(name: str, about: dict[str, Any], command: Command) -> None:
    given = carried_out(name, about)
    said = command(given)
    if accepted(about):
        assert (said.status, said.found["genuine"], said.failed) == (0, True, [])
        return
    assert (said.status, said.found["genuine"], said.found["status"]) == (3, False, None)
    assert said.found["reason"] == str(tables.refusal(given))
    assert said.failed
    assert said.failed[0] != "verifier", "no check says what the verifier refused"
    assert said.found["message"] in said.err


@pytest.mark.parametrize("name", GENUINE)
def test_a_positive_through_the_command(name: str, command: Command) -> None:
    about, expected = ITEMS[name]["quote"], ITEMS[name]["expected"]
    said = command(submission(name))
    assert (said.status, said.err, said.failed) == (0, "", [])
    found = said.found
    assert (found["genuine"], found["accepted"]) == (True, None)
    assert (found["status"], found["advisories"]) == (expected["status"], expected["advisory_ids"])
    assert found["claims"]["qe_status"] == expected["qe_status"]["status"]
    assert found["claims"]["platform_status"] == expected["platform_status"]["status"]
    enclave, processor = found["evidence"]["enclave"], found["evidence"]["processor"]
    for field in ("mrenclave", "mrsigner", "isv_prod_id", "isv_svn", "attributes", "debug", "report_data", "cpu_svn"):
        assert enclave[field] == about[field], field
    assert (processor["ppid"], processor["fmspc"]) == (about["ppid"], about["fmspc"].lower())
    assert (processor["cpu_svn"], processor["pce_svn"]) == (about["pck_cpu_svn"], about["pce_svn"])
    (level,) = (one["found"] for one in found["checks"] if one["name"] == "TCB level")
    assert f"processor {expected['platform_status']['status']} " in level
    assert f"quoting enclave {expected['qe_status']['status']} (" in level
    assert ", ".join(expected["platform_status"]["advisory_ids"]) in level


@pytest.mark.parametrize("name", GENUINE)
def test_the_explanation_reads_a_certificate_as_the_verifier_does(name: str, command: Command) -> None:
    found = command(submission(name)).found
    processor, claims = found["evidence"]["processor"], found["claims"]
    assert (processor["dynamic_platform"], processor["cached_keys"], processor["smt"]) == (
        claims["dynamic_platform"], claims["cached_keys"], claims["smt_enabled"],
    )  # fmt: skip
    assert (processor["sgx_type"], processor["pce_svn"]) == (claims["sgx_type"], claims["pce_svn"])


@pytest.mark.parametrize("name", GENUINE)
def test_a_policy_that_names_it_accepts_and_one_that_does_not_refuses(name: str, command: Command) -> None:
    for configuration, status in (("accept", 0), ("refuse", 3)):
        path = command.folder / "policy.toml"
        path.write_text(tables.policy_text(tables.CLAIMS[name], configuration))
        said = command(submission(name), "--policy", str(path))
        assert (said.status, said.found["genuine"], said.found["accepted"]) == (status, True, status == 0)
    assert said.found["reason"] == "platform-configuration"


@pytest.mark.parametrize("name", GENUINE)
def test_the_window_of_the_collateral_to_the_second(name: str, command: Command) -> None:
    window = ITEMS[name]["collateral_window"]
    for now, status in (
        (window["not_before"] - 1, 3),
        (window["not_before"], 0),
        (window["not_after"], 0),
        (window["not_after"] + 1, 3),
    ):
        said = command(intel.at(submission(name), now))
        assert said.status == status
        assert bool(said.failed) == bool(status)
        assert all(one.startswith("dates of") or one == "verifier" for one in said.failed)


def test_the_debug_enclave(command: Command) -> None:
    said = command(submission(tables.DEBUG))
    assert (said.status, said.found["reason"]) == (3, "debug-enclave")
    assert said.failed == ["production enclave", "verifier"]


CHANGES: dict[str, Callable[[Submission], None]] = {
    **{f"quote: {name}": change for name, (change, _, _) in tables.REGIONS.items()},
    **{f"collateral: {name}": change for name, (change, _, _) in tables.COLLATERAL.items()},
    **{f"spliced: {name}": change for name, change in tables.SPLICED.items()},
    **{f"size: {name}": change for name, (change, _) in tables.SIZES.items()},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_the_server_refuses_the_command_refuses_and_says_where(
    change: Callable[[Submission], None], command: Command
) -> None:
    given = submission(tables.PHALA)
    change(given)
    said = command(given)
    assert (said.status, said.found["genuine"]) == (3, False)
    assert said.failed
    assert said.failed[0] != "verifier"
    if len(said.found["checks"]) > 1:
        assert said.found["reason"] == str(tables.refusal(given))


FOREIGN: dict[str, tuple[str, str]] = {
    "tdx-phala-outdated/quote.bin": ("a TDX quote, version 5", "go-tdx-guest"),
    "snp-trustee-milan/report.bin": ("an AMD SEV-SNP attestation report", "snpguest"),
    "snp-goguest-debug/report.bin": ("an AMD SEV-SNP attestation report", "go-sev-guest"),
    "tpm-gce-quote/quote.msg": ("a TPM 2.0 attestation", "tpm2_checkquote"),
    "tpm-ek-gce/ek_cert.pem": ("PEM", "quote is wanted"),
}


@pytest.mark.parametrize(("file", "what", "advice"), [(file, *said) for file, said in FOREIGN.items()], ids=FOREIGN)
def test_what_is_no_sgx_quote_is_refused_by_name(
    file: str, what: str, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert foreign(intel.read(file))[0] == what
    assert main(["appraise", str(intel.FOLDER / file), "--json"]) == 3
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["genuine"], found["reason"]) == (False, str(Reason.MALFORMED))
    assert f"It is {what}." in said.err
    assert advice in said.err


def test_every_kind_of_the_manifest_is_dealt_with() -> None:
    kinds = {name: one["kind"] for name, one in ITEMS.items()}
    sgx = {name for name, kind in kinds.items() if kind == "sgx-dcap-v3"}
    assert sgx == {*GENUINE, tables.DEBUG, "intel-qvl-sgx"}
    assert set(kinds) - sgx == {file.split("/")[0] for file in FOREIGN}


def test_a_quote_that_names_its_certificate_and_brings_none(capsys: pytest.CaptureFixture[str]) -> None:
    folder = intel.FOLDER / "intel-qvl-sgx"
    collateral = str(folder / "collateral.converted.json")
    assert main(["appraise", str(folder / "quote.dat"), "--collateral", collateral, "--json"]) == 3
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert "certification data type is 1, wanted 5" in found["message"]
    assert "PPID in the clear" in found["advice"]
    assert "quote provider library" in said.err


def _real(argv: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rkeyserver", *argv]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60, check=False)


@pytest.mark.parametrize("name", [*GENUINE, tables.DEBUG])
def test_the_program_itself(name: str, command: Command) -> None:
    given = submission(name)
    ended = _real(command.arguments(given))
    assert ended.returncode == (3 if name == tables.DEBUG else 0)
    assert f"  mrenclave              {ITEMS[name]['quote']['mrenclave']}" in ended.stdout
    assert ("  genuine    no" if name == tables.DEBUG else "  genuine    yes") in ended.stdout


def test_the_programs_answer_to_a_tdx_quote() -> None:
    ended = _real(["appraise", str(intel.FOLDER / "tdx-phala-outdated/quote.bin")])
    assert ended.returncode == 3
    assert "It is a TDX quote, version 5." in ended.stderr


def test_an_intel_quote_under_the_simulated_root(command: Command) -> None:
    said = command(submission(tables.PHALA), "--platform", "simulated")
    assert (said.status, said.found["genuine"], said.found["simulated"]) == (3, False, True)
    assert said.failed[0] == "PCK chain"


EXAMPLE = ROOT / "docs" / "operations" / "appraise.md"


def test_the_page_shows_what_the_program_prints(command: Command) -> None:
    """The worked example is what comes out; what is left out of it is marked by an ellipsis alone in its line."""
    (shown,) = re.findall(r"^```text\n(evidence .*?)^```", EXAMPLE.read_text(), re.MULTILINE | re.DOTALL)
    policy = re.findall(r"^```toml\n(.*?)^```", EXAMPLE.read_text(), re.MULTILINE | re.DOTALL)[0]
    (command.folder / "policy.toml").write_text(policy)
    given = submission(tables.PHALA)
    argv = command.arguments(given, "--policy", str(command.folder / "policy.toml"))
    command.capsys.readouterr()
    main(argv)
    out = re.sub(r"(clock says ).*", r"\g<1>2026-11-26T17:18:42Z", command.capsys.readouterr().out)
    pattern = ".*".join(re.escape(part) for part in shown.split("...\n"))
    assert re.fullmatch(pattern, out, re.DOTALL)
