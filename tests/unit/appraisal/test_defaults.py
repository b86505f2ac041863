from __future__ import annotations

import pytest
from tests.fakes.claims import NOW, claims_with

from rkeyserver.appraisal.appraise import appraise
from rkeyserver.appraisal.defaults import default_policy
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.errors import Misuse, Reason, Rejected

SIGNER = "5a" * 32
PRODUCT = 9
OWN = claims_with(
    platform="simulated", mrsigner=SIGNER, isv_prod_id=PRODUCT, isv_svn=1, tcb_eval_data_number=1, smt_enabled="True"
)


def test_the_default_of_simulated_accepts_this_product_on_any_machine() -> None:
    policy = default_policy("simulated", mrsigner=SIGNER, isv_prod_id=PRODUCT)
    assert list(policy.tables) == ["simulated"]
    assert policy.tables["simulated"].machines == "any"
    assert appraise(OWN, policy, now=NOW).claims == OWN


REFUSED: dict[str, tuple[dict[str, object], Reason]] = {
    "another signer": ({"mrsigner": "00" * 32}, Reason.WRONG_SIGNER),
    "another product": ({"isv_prod_id": PRODUCT + 1}, Reason.WRONG_PRODUCT),
    "version zero": ({"isv_svn": 0}, Reason.VERSION_TOO_LOW),
    "debug": ({"debug": True}, Reason.DEBUG_ENCLAVE),
    "another platform": ({"platform": "sgx"}, Reason.PLATFORM_NOT_NAMED),
    "revoked": ({"tcb_status": "Revoked"}, Reason.TCB_STATUS),
    "out of date": ({"tcb_status": "OutOfDate"}, Reason.TCB_STATUS),
    "configuration needed": ({"tcb_status": "ConfigurationNeeded"}, Reason.TCB_STATUS),
    "evaluation number zero": ({"tcb_eval_data_number": 0}, Reason.TCB_TOO_OLD),
}


@pytest.mark.parametrize(("found", "reason"), REFUSED.values(), ids=REFUSED)
def test_the_default_of_simulated_is_strict_in_all_else(found: dict[str, object], reason: Reason) -> None:
    claims = SgxClaims(**{name: getattr(OWN, name) for name in SgxClaims.__dataclass_fields__} | found)
    with pytest.raises(Rejected) as raised:
        appraise(claims, default_policy("simulated", mrsigner=SIGNER, isv_prod_id=PRODUCT), now=NOW)
    assert raised.value.reason is reason


MACHINE = "a1" * 16
ON_SGX = claims_with(
    ppid=MACHINE, mrsigner=SIGNER, isv_prod_id=PRODUCT, isv_svn=1, tcb_eval_data_number=17, smt_enabled="True"
)


def test_the_default_of_sgx_accepts_the_machine_that_made_the_domain_and_no_other() -> None:
    policy = default_policy("sgx", mrsigner=SIGNER, isv_prod_id=PRODUCT, machine=MACHINE)
    assert list(policy.tables) == ["sgx"]
    assert appraise(ON_SGX, policy, now=NOW).claims == ON_SGX


CLOSED: dict[str, tuple[dict[str, object], Reason]] = {
    "another machine": ({"ppid": "b2" * 16}, Reason.MACHINE_NOT_NAMED),
    "a simulated one": ({"platform": "simulated"}, Reason.PLATFORM_NOT_NAMED),
    "another signer": ({"mrsigner": "00" * 32}, Reason.WRONG_SIGNER),
    "collateral of an old evaluation": ({"tcb_eval_data_number": 16}, Reason.TCB_TOO_OLD),
}


@pytest.mark.parametrize(("found", "reason"), CLOSED.values(), ids=CLOSED)
def test_the_default_of_sgx_is_closed(found: dict[str, object], reason: Reason) -> None:
    claims = SgxClaims(**{name: getattr(ON_SGX, name) for name in SgxClaims.__dataclass_fields__} | found)
    with pytest.raises(Rejected) as raised:
        appraise(claims, default_policy("sgx", mrsigner=SIGNER, isv_prod_id=PRODUCT, machine=MACHINE), now=NOW)
    assert raised.value.reason is reason


@pytest.mark.parametrize("machine", ["", "any", "A1" * 16, 'a", "b'])
def test_a_closed_default_names_a_machine(machine: str) -> None:
    with pytest.raises(Misuse, match="machines"):
        default_policy("sgx", mrsigner=SIGNER, isv_prod_id=PRODUCT, machine=machine)


@pytest.mark.parametrize("platform", ["tpm", "", "SIMULATED", "simulated/../default_simulated"])
def test_no_other_platform_has_a_default(platform: str) -> None:
    with pytest.raises(Misuse, match="no default policy"):
        default_policy(platform, mrsigner=SIGNER, isv_prod_id=PRODUCT)


WRONG: dict[str, tuple[str, int]] = {
    "no signer": ("", PRODUCT),
    "the word": ("any", PRODUCT),
    "TOML in the signer": ('00"]\nmachines = "any"\n#', PRODUCT),
    "a product that is none": (SIGNER, 65_536),
}


@pytest.mark.parametrize(("signer", "product"), WRONG.values(), ids=WRONG)
def test_a_default_for_a_product_that_is_none_is_an_error(signer: str, product: int) -> None:
    with pytest.raises(Misuse, match="cannot be read"):
        default_policy("simulated", mrsigner=signer, isv_prod_id=product)
