"""What is measured into an image: read strictly, written the same way always, and part of a new domain's policy."""

from __future__ import annotations

import json

import pytest
from tests.fakes.claims import NOW, claims_with
from tests.fakes.recipients import age, recovery_table
from tests.fakes.signing import admins_table

from rkeyserver.appraisal.appraise import appraise
from rkeyserver.appraisal.defaults import default_policy, joining_policy
from rkeyserver.appraisal.measured import Measured, first_policy, measured_text, parse_measured
from rkeyserver.appraisal.policy import parse_recovery
from rkeyserver.errors import Misuse, Reason, Rejected

SIGNER, PRODUCT, MACHINE = "5a" * 32, 1, "a1" * 16
ADMINS = admins_table(["alice", "bob"])
SOMEBODY = age()
RECOVERY = recovery_table(1, [age()])
WHOLE = f'seal_to = "mrenclave"\n{ADMINS}{RECOVERY}'


WITH_SIGNERS = f'seal_to = "mrsigner"\nformer_signers = ["{"0f" * 32}", "{SIGNER}"]\n{ADMINS}'
READ = {"without recovery": f'seal_to = "mrsigner"\n{ADMINS}', "with recovery": WHOLE, "with signers": WITH_SIGNERS}


@pytest.mark.parametrize("text", READ.values(), ids=READ)
def test_what_is_written_is_what_is_read(text: str) -> None:
    measured = parse_measured(text)
    written = measured_text(measured)
    assert parse_measured(written) == measured
    assert measured_text(parse_measured(written)) == written


WRONG: dict[str, tuple[str, str]] = {
    "nothing": ("", "seal_to"),
    "no admins": ('seal_to = "mrsigner"\n', "admins"),
    "no key policy": (ADMINS, "seal_to"),
    "another key policy": (f'seal_to = "any"\n{ADMINS}', 'wanted is "mrsigner" or "mrenclave"'),
    "a signer that is none": (
        f'seal_to = "mrsigner"\nformer_signers = ["any"]\n{ADMINS}',
        'former_signers[1]: found "any"',
    ),
    "signers without end": (
        f'seal_to = "mrsigner"\nformer_signers = {json.dumps(["0f" * 32] * 9)}\n{ADMINS}',
        "former_signers: found a list",
    ),
    "a policy's rule": (f'seal_to = "mrsigner"\nmachines = "any"\n{ADMINS}', "machines: there is no such key"),
    "a platform": (f'seal_to = "mrsigner"\n{ADMINS}\n[sgx]\n', "sgx: there is no such key"),
    "no TOML": ("seal_to", "line 1"),
    "more signatures than admins": (
        f'seal_to = "mrsigner"\n{ADMINS.replace("threshold = 1", "threshold = 3")}',
        "3 of 2",
    ),
    "more shares than recipients": (f'seal_to = "mrsigner"\n{ADMINS}{recovery_table(2, [age()])}', "2 of 1"),
    "dots without end": ("a" + ".a" * 5000 + " = 1\n", "dots"),
}


@pytest.mark.parametrize(("text", "says"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(text: str, says: str) -> None:
    with pytest.raises(Misuse) as raised:
        parse_measured(text)
    assert says in str(raised.value)


# What `make enclave` reads as RECOVERY=FILE.
WRONG_RECOVERY: dict[str, tuple[str, str]] = {
    "nothing": ("", "recovery: it is missing"),
    "no TOML": ("[recovery", "line 1: it is no TOML"),
    "nobody": ("[recovery]\nthreshold = 1\nrecipients = []\n", "line 3: recovery.recipients"),
    "admins beside": (f"{RECOVERY}{ADMINS}", "admins: there is no such key"),
    "more than there are": (recovery_table(2, [age()]), "2 of 1"),
    "twice the same": (recovery_table(1, [SOMEBODY, SOMEBODY]), "twice"),
}


@pytest.mark.parametrize(("text", "says"), WRONG_RECOVERY.values(), ids=WRONG_RECOVERY)
def test_a_recovery_file_that_is_none(text: str, says: str) -> None:
    with pytest.raises(Misuse) as raised:
        parse_recovery(text)
    assert says in str(raised.value)


def test_a_recovery_file_is_the_table_of_a_policy() -> None:
    assert parse_recovery(RECOVERY) == parse_measured(WHOLE).recovery


def test_the_first_policy_is_the_closed_default_with_what_is_measured() -> None:
    default = default_policy("sgx", mrsigner=SIGNER, isv_prod_id=PRODUCT, machine=MACHINE)
    measured = parse_measured(WHOLE)
    made = first_policy(default, measured)
    assert (made.tables, made.admins, made.recovery) == (default.tables, measured.admins, measured.recovery)


def test_a_default_with_admins_of_its_own_is_none() -> None:
    measured = parse_measured(WHOLE)
    default = default_policy("sgx", mrsigner=SIGNER, isv_prod_id=PRODUCT, machine=MACHINE)
    with pytest.raises(Misuse, match="beside those of the image"):
        first_policy(first_policy(default, measured), measured)


ANY_MACHINE = claims_with(ppid="c3" * 16, mrsigner=SIGNER, isv_prod_id=PRODUCT, tcb_status="OutOfDate")


def test_a_joiner_goes_by_signer_and_product_until_it_has_a_policy() -> None:
    policy = joining_policy("sgx", mrsigner=SIGNER, isv_prod_id=PRODUCT)
    assert appraise(ANY_MACHINE, policy, now=NOW).claims == ANY_MACHINE


def test_a_joiner_that_is_signed_anew_goes_by_its_former_signers_too() -> None:
    former = parse_measured(WITH_SIGNERS).former_signers
    policy = joining_policy("sgx", mrsigner="c9" * 32, isv_prod_id=PRODUCT, former_signers=former)
    assert appraise(ANY_MACHINE, policy, now=NOW).claims == ANY_MACHINE
    assert policy.tables["sgx"].mrsigner == ["c9" * 32, *former]
    own = joining_policy("sgx", mrsigner=SIGNER, isv_prod_id=PRODUCT, former_signers=[SIGNER])
    assert own.tables["sgx"].mrsigner == [SIGNER]


def test_former_signers_are_no_part_of_a_new_domain_s_policy() -> None:
    default = default_policy("sgx", mrsigner=SIGNER, isv_prod_id=PRODUCT, machine=MACHINE)
    with_signers, without = parse_measured(WITH_SIGNERS), parse_measured(READ["without recovery"])
    assert first_policy(default, with_signers) == first_policy(default, without)


NOT_BY_A_JOINER: dict[str, tuple[dict[str, object], Reason]] = {
    "another signer": ({"mrsigner": "00" * 32}, Reason.WRONG_SIGNER),
    "another product": ({"isv_prod_id": 2}, Reason.WRONG_PRODUCT),
    "a simulated one": ({"platform": "simulated"}, Reason.PLATFORM_NOT_NAMED),
    "a version before the first": ({"isv_svn": 0}, Reason.VERSION_TOO_LOW),
    "collateral of an old evaluation": ({"tcb_eval_data_number": 16}, Reason.TCB_TOO_OLD),
}


@pytest.mark.parametrize(("found", "reason"), NOT_BY_A_JOINER.values(), ids=NOT_BY_A_JOINER)
def test_a_joiner_refuses(found: dict[str, object], reason: Reason) -> None:
    policy = joining_policy("sgx", mrsigner=SIGNER, isv_prod_id=PRODUCT)
    fields = {name: getattr(ANY_MACHINE, name) for name in type(ANY_MACHINE).__dataclass_fields__}
    with pytest.raises(Rejected) as raised:
        appraise(type(ANY_MACHINE)(**fields | found), policy, now=NOW)
    assert raised.value.reason is reason


def test_where_the_default_is_open_a_joiner_goes_by_that() -> None:
    assert joining_policy("simulated", mrsigner=SIGNER, isv_prod_id=PRODUCT) == default_policy(
        "simulated", mrsigner=SIGNER, isv_prod_id=PRODUCT
    )


def test_a_measured_is_what_it_says() -> None:
    assert parse_measured(WHOLE) == Measured("mrenclave", parse_measured(WHOLE).admins, parse_measured(WHOLE).recovery)
