"""`rkeyserver appraise`, on quotes of simulated machines: its words, its JSON, its exit status."""

from __future__ import annotations

import base64
import functools
import io
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fakes.claims import document, table
from tests.fakes.machines import NOW, loaded, machine, running
from tests.fakes.processes import ROOT, environment

from rkeyserver.attestation.sgx.anchors import INTEL_SGX_ROOT
from rkeyserver.attestation.sgx.bundle import Entry, write_bundle
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.attestation.sgx.collateral import Collateral
from rkeyserver.attestation.sgx.explain import STEPS
from rkeyserver.cli.main import main
from rkeyserver.platforms.simulated import tcb
from rkeyserver.platforms.simulated.anchor import SIMULATED_ROOT

DATA = b"what was asked for".ljust(64, b"\0")
AT = str(NOW)
KEYS = {
    "platform", "simulated", "genuine", "accepted", "status", "advisories", "reason", "message", "advice",
    "report_data_checked", "policy", "judged_at", "clock", "written_as", "bytes", "claims", "evidence", "checks",
}  # fmt: skip


@dataclass(frozen=True)
class Said:
    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        found = json.loads(self.out)
        assert isinstance(found, dict)
        assert set(found) == KEYS
        return found


def sample(status: str = "UpToDate", *, debug: bool = False) -> tuple[bytes, bytes, str]:
    """A quote, its collateral, and which machine made it; the same ones each time."""
    return _made(status, debug)


@functools.cache
def _made(status: str, debug: bool) -> tuple[bytes, bytes, str]:  # noqa: FBT001 - a column of the table
    with tempfile.TemporaryDirectory() as folder:
        made = machine(Path(folder) / "m", status=status, enclave=(lambda: loaded(debug=True)) if debug else running)
        return made.evidence(DATA), made.endorsements(), made.processor.ppid.hex()


@dataclass
class Command:
    folder: Path
    capsys: pytest.CaptureFixture[str]

    def file(self, name: str, contents: bytes | str) -> str:
        path = self.folder / name
        path.write_bytes(contents.encode() if isinstance(contents, str) else contents)
        return str(path)

    def __call__(self, *argv: str) -> Said:
        self.capsys.readouterr()
        status = main(["appraise", *argv])
        found = self.capsys.readouterr()
        return Said(status, found.out, found.err)

    def simulated(self, *more: str, status: str = "UpToDate", debug: bool = False) -> Said:
        quote, collateral, _ = sample(status, debug=debug)
        files = (self.file("quote", quote), "--collateral", self.file("collateral", collateral))
        return self(*files, "--platform", "simulated", "--at", AT, *more)


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, capsys)


def policy(**differences: object) -> str:
    enclave = running()
    named: dict[str, object] = {
        "machines": [sample()[2]],
        "mrenclave": "any",
        "mrsigner": [enclave.mrsigner.hex()],
        "isv_prod_id": enclave.isv_prod_id,
        "min_isv_svn": enclave.isv_svn,
        "rejected_advisories": "none",
        "dynamic_platform": "accept",
        "cached_keys": "accept",
        "smt": "accept",
    }
    return document(table("simulated", **(named | differences)))


def test_genuine_and_nothing_more_was_asked(command: Command) -> None:
    said = command.simulated("--json")
    assert (said.status, said.err) == (0, "")
    found = said.json
    assert (found["genuine"], found["accepted"], found["status"], found["advisories"]) == (True, None, "UpToDate", [])
    assert (found["reason"], found["message"], found["advice"], found["policy"]) == (None,) * 4
    assert (found["platform"], found["simulated"]) == ("simulated", True)
    assert (found["report_data_checked"], found["judged_at"]) == (False, NOW)
    assert set(found["claims"]) == set(SgxClaims.__dataclass_fields__)
    assert found["claims"]["ppid"] == sample()[2] == found["evidence"]["processor"]["ppid"]
    assert found["claims"]["report_data"] == DATA.hex()
    assert set(found["evidence"]) == {"header", "enclave", "quoting_enclave", "certificates", "processor"}
    assert [one["name"] for one in found["checks"] if one["passed"] is None] == ["report data"]
    assert not [one for one in found["checks"] if one["passed"] is False]
    assert all(set(one) == {"name", "found", "wanted", "passed", "reason", "advice"} for one in found["checks"])


def test_the_same_for_people(command: Command) -> None:
    said = command.simulated()
    assert (said.status, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[0].startswith("SIMULATED: looked at under a root whose key is public.")
    assert "read as raw" in lines[1]
    assert lines[2].startswith("judged at  2026-05-28T20:26:40Z; this machine's clock says ")
    for expected in (
        "  report_data_text       what was asked for",
        "  attributes_flags       INIT MODE64BIT",
        "  not made report data",
        "  ok       verifier",
        "  genuine    SIMULATED, yes",
        "  status     UpToDate (no advisory)",
        f"  machine    simulated {sample()[2]}",
        "  accepted   not asked: no policy was given (--policy FILE)",
        "  bound      not asked (--report-data HEX): whom this quote speaks for is not proved. The server always asks",
    ):
        assert [line for line in lines if line.startswith(expected)], expected
    assert "the first that fails" not in said.out


def test_accepted_and_bound(command: Command) -> None:
    given = ("--policy", command.file("policy.toml", policy()), "--report-data", DATA.hex())
    found = command.simulated("--json", *given)
    assert found.status == 0
    assert (found.json["genuine"], found.json["accepted"], found.json["report_data_checked"]) == (True, True, True)
    assert all(one["passed"] for one in found.json["checks"])
    names = [one["name"] for one in found.json["checks"]]
    assert names[-15:][0] == "policy: platform"
    assert names[-1] == "policy: collateral expiry"
    said = command.simulated(*given)
    assert f"  accepted   SIMULATED, yes, by policy {found.json['policy']}" in said.out
    assert "  bound      to the report data that was asked for" in said.out


REFUSED: dict[str, tuple[dict[str, object], str, str]] = {
    "another machine": ({"machines": ["00" * 16]}, "machine-not-named", "The line that would admit it: simulated "),
    "another signer": ({"mrsigner": ["00" * 32]}, "wrong-signer", "MRSIGNER is "),
    "another product": ({"isv_prod_id": 77}, "wrong-product", "wanted is 77"),
    "a later version": ({"min_isv_svn": 99}, "version-too-low", "wanted is at least 99"),
    "newer collateral": ({"min_tcb_evaluation_data_number": 99}, "tcb-too-old", "Fetch newer collateral"),
    "no SMT": ({"smt": "refuse"}, "platform-configuration", "smt is Undefined"),
    "the platform": ({}, "platform-not-named", "the policy names: sgx"),
}


@pytest.mark.parametrize(("differences", "reason", "says"), REFUSED.values(), ids=REFUSED)
def test_genuine_and_not_accepted(differences: dict[str, object], reason: str, says: str, command: Command) -> None:
    text = policy(**differences) if differences else document(table("sgx"))
    given = ("--policy", command.file("policy.toml", text))
    said = command.simulated("--json", *given)
    assert said.status == 3
    found = said.json
    assert (found["genuine"], found["accepted"], found["reason"]) == (True, False, reason)
    assert says in said.err
    assert found["message"] in said.err
    failed = [one for one in found["checks"] if one["passed"] is False]
    assert [one["reason"] for one in failed] == [reason]
    people = command.simulated(*given)
    assert people.status == 3
    assert f"FAILED   {failed[0]['name']}   <- the first that fails" in people.out
    assert "  accepted   SIMULATED, no" in people.out
    assert f"  reason     {reason}: " in people.out


def test_what_is_not_genuine_is_not_accepted_and_no_rule_is_shown_as_passed(command: Command) -> None:
    said = command.simulated("--json", "--policy", command.file("policy.toml", policy()), debug=True)
    assert said.status == 3
    found = said.json
    assert (found["genuine"], found["accepted"], found["reason"]) == (False, False, "debug-enclave")
    assert (found["claims"], found["status"]) == (None, None)
    assert found["evidence"]["enclave"]["debug"] is True
    last = found["checks"][-1]
    assert (last["name"], last["passed"]) == ("policy", None)
    assert "Load an image that was not signed for debugging." in said.err


def test_a_status_and_its_advisories(command: Command) -> None:
    said = command.simulated("--json", status="OutOfDate")
    assert said.status == 0
    assert (said.json["status"], said.json["advisories"]) == ("OutOfDate", ["SIMULATED-SA-00002"])
    people = command.simulated(status="OutOfDate")
    assert "  status     OutOfDate (SIMULATED-SA-00002)" in people.out


def test_bound_to_something_else(command: Command) -> None:
    said = command.simulated("--json", "--report-data", "00" * 64)
    assert (said.status, said.json["reason"], said.json["genuine"]) == (3, "not-bound", False)
    (first, *_) = [one for one in said.json["checks"] if one["passed"] is False]
    assert (first["name"], first["found"], first["wanted"]) == ("report data", DATA.hex(), "00" * 64)
    people = command.simulated("--report-data", "00" * 64)
    assert "  bound" not in people.out


def test_simulated_evidence_is_only_looked_at_as_that_where_that_is_said(command: Command) -> None:
    quote, collateral, _ = sample()
    files = (command.file("quote", quote), "--collateral", command.file("collateral", collateral), "--at", AT)
    said = command(*files, "--json")
    assert said.status == 3
    assert (said.json["genuine"], said.json["simulated"], said.json["platform"]) == (False, True, "sgx")
    assert "--platform simulated looks at it as that" in said.err
    (first, *_) = [one for one in said.json["checks"] if one["passed"] is False]
    assert first["name"] == "PCK chain"
    people = command(*files)
    assert people.out.startswith("SIMULATED: the quote says that it is of the simulated platform")
    assert "  genuine    SIMULATED, no" in people.out


def test_without_collateral_nothing_is_proved(command: Command) -> None:
    said = command(command.file("quote", sample()[0]), "--platform", "simulated", "--json")
    assert (said.status, said.json["genuine"], said.json["reason"]) == (3, False, "malformed")
    passed = {one["name"]: one["passed"] for one in said.json["checks"]}
    assert passed["quote signature"] is True
    assert passed["collateral"] is False
    assert passed["PCK revocation"] is None
    assert passed["verifier"] is False


def bundled(fmspc: str) -> bytes:
    collateral = msgspec.json.decode(sample()[1], type=Collateral)
    changed = collateral.tcb_info.replace(tcb.FMSPC.hex().upper(), fmspc.upper())
    collateral = msgspec.structs.replace(collateral, tcb_info=changed)
    return write_bundle([Entry(fmspc, "processor", "a test", NOW, collateral)])


def test_collateral_in_a_bundle(command: Command) -> None:
    quote = command.file("quote", sample()[0])
    options = ("--platform", "simulated", "--at", AT)
    own = command.file("own.json", bundled(tcb.FMSPC.hex()))
    assert command(quote, "--collateral", own, *options).status == 0
    other = command.file("other.json", bundled("00906ed50000"))
    said = command(quote, "--collateral", other, *options)
    assert said.status == 2
    assert (
        f"no collateral for this quote's FMSPC {tcb.FMSPC.hex()}, processor CA; it has FMSPC 00906ed50000" in said.err
    )
    said = command(quote, "--collateral", command.file("broken.json", b'{"entries": []}'), *options)
    assert said.status == 3
    assert "The bundle cannot be read" in said.err
    cut = command.file("cut", sample()[0][:500])
    said = command(cut, "--collateral", own, *options, "--json")
    assert (said.status, said.json["reason"]) == (3, "malformed")


@pytest.mark.parametrize("form", ["hex", "base64"])
def test_a_quote_as_text_on_stdin(form: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    quote, collateral, _ = sample()
    text = quote.hex("\n", 40).encode() if form == "hex" else base64.encodebytes(quote)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    collected = command.file("collateral", collateral)
    said = command("-", "--collateral", collected, "--platform", "simulated", "--at", "2026-05-28T20:26:40Z", "--json")
    assert (said.status, said.json["written_as"], said.json["bytes"]) == (0, form, len(quote))


def test_now_where_no_time_was_given(command: Command) -> None:
    quote, collateral, _ = sample()
    files = (command.file("quote", quote), "--collateral", command.file("collateral", collateral))
    said = command(*files, "--platform", "simulated", "--json")
    assert said.json["judged_at"] == said.json["clock"]
    assert said.json["clock"] > 1_700_000_000


CUT: dict[str, tuple[slice | bytes, str]] = {
    "to its header": (slice(0, 100), "malformed"),
    "in its report": (slice(0, 431), "malformed"),
    "in its certificates": (slice(0, 2300), "malformed"),
    "with bytes after it": (b"\0" * 16, "malformed"),
    "far too large": (b"\0" * 20_000, "too-large"),
}


@pytest.mark.parametrize(("cut", "reason"), CUT.values(), ids=CUT)
def test_a_quote_that_is_not_whole(cut: slice | bytes, reason: str, command: Command) -> None:
    quote = sample()[0]
    given = quote + cut if isinstance(cut, bytes) else quote[cut]
    said = command(command.file("quote", given), "--platform", "simulated", "--json")
    assert (said.status, said.json["reason"]) == (3, reason)
    first = said.json["checks"][0]
    assert (first["name"], first["passed"]) == ("structure", False)
    assert first["advice"]
    assert "header" in said.json["evidence"]


def test_a_quote_without_certificates_that_can_be_read(command: Command) -> None:
    quote = bytearray(sample()[0])
    quote[1052 : 1052 + 27] = b"x" * 27
    said = command(command.file("quote", bytes(quote)), "--platform", "simulated", "--json")
    assert said.status == 3
    assert "certificates" not in said.json["evidence"] or "processor" not in said.json["evidence"]
    quote[1052:] = b"x" * len(quote[1052:])
    said = command(command.file("quote", bytes(quote)), "--json")
    assert (said.status, said.json["simulated"]) == (3, False)


FOREIGN = {"nothing": b"", "JSON": b"{}", "a report": b"\x0b" * 432, "TDX": b"\4\0\2\0\x81\0\0\0" + bytes(5000)}


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_quote(data: bytes, command: Command) -> None:
    said = command(command.file("quote", data), "--json", "--policy", command.file("policy.toml", policy()))
    assert (said.status, said.json["genuine"], said.json["accepted"]) == (3, False, False)
    assert "This is no version 3 SGX quote. It is " in said.err
    assert [one["name"] for one in said.json["checks"]] == ["structure", "policy"]


USAGE: dict[str, tuple[list[str], str]] = {
    "a quote that is not there": (["missing"], "missing cannot be read: No such file"),
    "collateral that is not there": (["quote", "--collateral", "missing"], "missing cannot be read"),
    "no time": (["quote", "--at", "soon"], "--at 'soon' is no time"),
    "no report data": (["quote", "--report-data", "00"], "--report-data has 2 characters"),
    "two from stdin": (["-", "--collateral", "-"], "Only one of quote, collateral and policy"),
    "a policy that is none": (["quote", "--policy", "bad.toml"], "The policy cannot be read: line 2: it is no TOML"),
    "a policy in another encoding": (["quote", "--policy", "latin.toml"], "is no text in UTF-8: see line 3"),
    "another platform": (["quote", "--platform", "tpm"], "invalid choice"),
    "no quote": ([], "required: quote"),
}


@pytest.mark.parametrize(("argv", "says"), USAGE.values(), ids=USAGE)
def test_wrong_usage(argv: list[str], says: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(command.folder)
    command.file("quote", sample()[0])
    command.file("bad.toml", "version = 1\nmachines = any\n")
    command.file("latin.toml", b"version = 1\n#\n# \xe4\n")
    said = command(*argv)
    assert (said.status, said.out) == (2, "")
    assert says in said.err


def test_what_evidence_says_is_printed_as_text_alone(command: Command) -> None:
    said = command(command.file("quote", b"-----BEGIN \x1b[31m"), "--json")
    assert said.status == 3
    quote = bytearray(sample()[0])
    quote[368:376] = b"\x1b[31mred"
    people = command(command.file("quote", bytes(quote)))
    assert "\x1b" not in people.out + people.err


PAGE = (ROOT / "docs" / "operations" / "appraise.md").read_text()


def rows(heading: str) -> list[list[str]]:
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    lines = re.findall(r"^\|.*$", section, re.MULTILINE)[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_page_names_every_field_every_check_and_every_status() -> None:
    assert {name for row in rows("As JSON") for name in re.findall(r"`(\w+)`", row[0])} == KEYS
    named = [name for row in rows("The checks") for name in re.findall(r"`([^`]+)`", row[0])]
    steps = [one.name for one in STEPS]
    in_order = [steps[0], "report data", *steps[1:], "verifier"]
    in_order = [name for name in in_order if not name.startswith("dates of")]
    assert [name for name in named if not name.endswith("...")] == in_order
    assert [row[0] for row in rows("Exit status")] == ["0", "2", "3", "5"]


# In a process of its own, since an unchecked anchor ends it: every byte of both anchors, then the command.
ANCHORS = """
import sys
from pathlib import Path
from rkeyserver.attestation.sgx import anchors, verify
from rkeyserver.cli.main import main
from rkeyserver.errors import Corrupt
from rkeyserver.platforms.simulated import anchor
quote, collateral = (Path(path).read_bytes() for path in sys.argv[1:3])
refused = 0
for one in (anchors.INTEL_SGX_ROOT, anchor.SIMULATED_ROOT):
    der = one.der
    for offset in range(len(der)):
        for bit in (0, 7):
            damaged = bytearray(der)
            damaged[offset] ^= 1 << bit
            object.__setattr__(one, "der", bytes(damaged))
            try:
                verify.SgxVerifier("simulated", one)(quote, collateral, quote[368:432], int(sys.argv[3]))
            except Corrupt:
                refused += 1
print("refused", refused, flush=True)
sys.exit(main(["appraise", sys.argv[1], "--collateral", sys.argv[2], *sys.argv[4:]]))
"""


@pytest.mark.parametrize("platform", ["sgx", "simulated"])
def test_a_damaged_anchor_is_refused_and_ends_no_process(platform: str, command: Command) -> None:
    quote, collateral, _ = sample()
    files = [command.file("quote", quote), command.file("collateral", collateral)]
    argv = [sys.executable, "-c", ANCHORS, *files, AT, "--at", AT, "--platform", platform]
    ended = subprocess.run(argv, capture_output=True, text=True, env=environment(), timeout=60, check=False)
    assert ended.stdout == f"refused {2 * (len(INTEL_SGX_ROOT.der) + len(SIMULATED_ROOT.der))}\n"
    assert ended.returncode == 5, ended.stderr
    assert ended.stderr.startswith("rkeyserver: The trust anchor ")
    assert "is damaged" in ended.stderr


def test_the_command_is_the_programs(command: Command) -> None:
    quote, collateral, _ = sample()
    files = [command.file("quote", quote), "--collateral", command.file("collateral", collateral)]
    argv = [sys.executable, "-m", "rkeyserver", "appraise", *files, "--platform", "simulated", "--at", AT, "--json"]
    ended = subprocess.run(argv, capture_output=True, text=True, env=environment(), timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    mine, theirs = command.simulated("--json").json, json.loads(ended.stdout)
    assert mine | {"clock": 0} == theirs | {"clock": 0}
