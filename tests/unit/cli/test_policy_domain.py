"""By what an admin knows the domain that he signs for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.fakes.claims import document, table
from tests.fakes.keyrings import OTHER_SECRET, SECRET, id_of, keyring_of
from tests.fakes.machines import NOW, expired, machine
from tests.fakes.pccs import SIMULATED

from rkeyserver.appraisal.change import PolicyChange, propose
from rkeyserver.appraisal.defaults import default_policy
from rkeyserver.attestation.sgx.bundle import Entry, write_bundle
from rkeyserver.attestation.sgx.collateral import decode
from rkeyserver.cli import policy, policy_domain
from rkeyserver.cli.policy_domain import Known
from rkeyserver.errors import Misuse, Reason, Rejected, RkeyError
from rkeyserver.exchange.armour import Kind, armour
from rkeyserver.exchange.mint_statement import state_mint
from rkeyserver.platforms.simulated.platform import SimulatedPlatform

DOMAIN, OTHER = id_of(SECRET), id_of(OTHER_SECRET)
HOSTED = document(table())  # of `sgx`


def change(policy: str, domain: str = DOMAIN) -> PolicyChange:
    return propose(domain=domain, sequence=1, replaces=policy, policy=policy)


@pytest.fixture(autouse=True)
def at_that_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_domain, "Clock", lambda: SimpleNamespace(now=lambda: NOW))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPlatform:
    return machine(tmp_path_factory.mktemp("machines") / "first")


@pytest.fixture(scope="module")
def policy_of(first: SimulatedPlatform) -> str:
    return default_policy("simulated", mrsigner=first.mrsigner, isv_prod_id=first.isv_prod_id).text


def statement_of(platform: SimulatedPlatform, policy: str = HOSTED) -> bytes:
    keyring = keyring_of(("a",), secret=SECRET, policy=policy)
    try:
        return state_mint(keyring, platform, now=NOW)
    finally:
        keyring.close()


@pytest.fixture(scope="module")
def statement(first: SimulatedPlatform) -> str:
    return armour(statement_of(first), Kind.MINT_STATEMENT)


def test_the_host_is_not_asked_where_it_counts_for_nothing() -> None:
    with pytest.raises(Misuse, match=f"Nothing but the host says that {DOMAIN}") as raised:
        Known().check(change(HOSTED))
    assert "--domain ID" in raised.value.advice
    assert "--minted FILE" in raised.value.advice


def test_where_the_host_is_trusted_nothing_has_to_be_known(policy_of: str) -> None:
    Known().check(change(policy_of))


def test_the_domain_as_it_was_noted() -> None:
    Known(domain=DOMAIN).check(change(HOSTED))


NOT_THAT_ONE = {"another": OTHER, "nothing": "", "a part": DOMAIN[:-1], "in upper case": DOMAIN.upper()}


@pytest.mark.parametrize("said", NOT_THAT_ONE.values(), ids=NOT_THAT_ONE)
@pytest.mark.parametrize("hosted", [True, False], ids=["sgx", "simulated"])
def test_a_change_for_another_domain(said: str, policy_of: str, hosted: bool) -> None:  # noqa: FBT001 - of the table
    with pytest.raises(Rejected, match="--domain says") as refused:
        Known(domain=said).check(change(HOSTED if hosted else policy_of))
    assert refused.value.reason is Reason.ANOTHER_DOMAIN


def test_what_a_statement_says_is_told(
    statement: str, policy_of: str, first: SimulatedPlatform, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rkey.bin.minted"
    path.write_text(statement)
    Known(minted=path).check(change(policy_of))
    told, named = capsys.readouterr().err, first.attester_identity().machine
    assert told.startswith(f"Domain {DOMAIN} was made at 2026-05-28T20:26:40Z by simulated {named}: genuine")
    assert first.mrsigner in told


Damage = Callable[[str], str]
DAMAGED: dict[str, tuple[Damage, type[RkeyError], str]] = {
    "nothing": (lambda _: "", Rejected, "no mint statement"),
    "another kind": (lambda text: text.replace("MINT STATEMENT", "RECOVERY REQUEST"), Rejected, "wanted is a mint"),
    "a line missing": (lambda text: text.replace("-----END", ""), Rejected, "last line is missing"),
    "a line too few": (lambda text: "\n".join(text.split("\n")[:1] + text.split("\n")[2:]), Rejected, "mint-statement"),
    "too much": (lambda text: text + " " * 400_000, Misuse, "at most so many are read"),
}


@pytest.mark.parametrize("row", DAMAGED.values(), ids=DAMAGED)
def test_a_file_that_is_no_statement(
    statement: str, policy_of: str, tmp_path: Path, row: tuple[Damage, type[RkeyError], str]
) -> None:
    damage, kind, says = row
    path = tmp_path / "minted"
    path.write_text(damage(statement))
    with pytest.raises(kind, match=says):
        Known(minted=path).check(change(policy_of))


def test_a_file_that_is_not_there(policy_of: str, tmp_path: Path) -> None:
    with pytest.raises(Misuse, match=r"The statement .*nowhere cannot be read"):
        Known(minted=tmp_path / "nowhere").check(change(policy_of))


def test_one_thing_known_does_not_make_up_for_another_that_is_wrong(
    statement: str, policy_of: str, tmp_path: Path
) -> None:
    path = tmp_path / "minted"
    path.write_text(statement)
    Known(domain=DOMAIN, minted=path).check(change(policy_of))
    with pytest.raises(Rejected, match="--domain says"):
        Known(domain=OTHER, minted=path).check(change(policy_of))
    with pytest.raises(Rejected, match=f"statement is about domain {DOMAIN}"):
        Known(domain=OTHER, minted=path).check(change(policy_of, OTHER))


def test_collateral_that_has_expired_is_made_good_by_newer(policy_of: str, tmp_path: Path) -> None:
    old = machine(tmp_path / "old", collateral=expired)
    path, bundle = tmp_path / "minted", tmp_path / "bundle.json"
    path.write_text(armour(statement_of(old), Kind.MINT_STATEMENT))
    with pytest.raises(Rejected) as refused:
        Known(minted=path).check(change(policy_of))
    assert refused.value.reason in {Reason.NOT_GENUINE, Reason.TCB_TOO_OLD}
    new = machine(tmp_path / "new").endorsements()
    bundle.write_bytes(write_bundle([Entry(SIMULATED.fmspc, SIMULATED.ca, "a test", NOW, decode(new))]))
    Known(minted=path, collateral=bundle).check(change(policy_of))
    bundle.write_text("{}")
    with pytest.raises(Rejected, match="bundle"):
        Known(minted=path, collateral=bundle).check(change(policy_of))


def test_the_options_are_what_is_known() -> None:
    words = ["sign", "CHANGE", "--key", "KEY", "--domain", DOMAIN, "--minted", "M", "--collateral", "C"]
    found = policy.parser().parse_args(words)
    assert Known.of(found) == Known(DOMAIN, Path("M"), Path("C"))
    assert Known.of(policy.parser().parse_args(words[:4])) == Known()
    assert [one.name for one in dataclasses.fields(Known)] == ["domain", "minted", "collateral"]
