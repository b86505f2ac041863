from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.admins import line
from tests.fakes.claims import CLAIMS, NOW, TABLE, claims_with, document, policy_with, table

from rkeyserver.appraisal.appraise import appraise
from rkeyserver.appraisal.narrowing import narrows
from rkeyserver.appraisal.policy import Policy, SgxPolicy, parse_policy
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.clock import DAY
from rkeyserver.errors import Misuse, Rejected

A, B = "aa" * 16, "bb" * 16
HA, HB = "aa" * 32, "bb" * 32
GRACE = ["UpToDate", "OutOfDate"]

# old, new, what is said; the other way round, nothing is, unless `back` says what.
CASES: dict[str, tuple[dict[str, object], dict[str, object], list[str], list[str]]] = {
    "a machine removed": (
        {"machines": [A, B]}, {"machines": [B]}, [f"machines: machine {A} is no longer accepted."], [],
    ),
    "any machine becomes a list": (
        {"machines": "any"}, {"machines": [A, B]}, ["machines: any machine was accepted, now only 2 named."], [],
    ),
    "a machine changed": (
        {"machines": [A]}, {"machines": [B]},
        [f"machines: machine {A} is no longer accepted."], [f"machines: machine {B} is no longer accepted."],
    ),
    "a measurement removed": (
        {"mrenclave": [HA, HB]}, {"mrenclave": [HA]}, [f"mrenclave: MRENCLAVE {HB} is no longer accepted."], [],
    ),
    "any measurement becomes a list": (
        {"mrenclave": "any"}, {"mrenclave": [HA]}, ["mrenclave: any MRENCLAVE was accepted, now only 1 named."], [],
    ),
    "a signer removed": (
        {"mrsigner": [HA, HB]}, {"mrsigner": [HB]}, [f"mrsigner: MRSIGNER {HA} is no longer accepted."], [],
    ),
    "another product": (
        {"isv_prod_id": 1}, {"isv_prod_id": 2},
        ["isv_prod_id: product 1 is no longer accepted, now 2."],
        ["isv_prod_id: product 2 is no longer accepted, now 1."],
    ),
    "a floor raised": ({"min_isv_svn": 1}, {"min_isv_svn": 2}, ["min_isv_svn: the floor was 1, now 2."], []),
    "the evaluation number raised": (
        {"min_tcb_evaluation_data_number": 17}, {"min_tcb_evaluation_data_number": 18},
        ["min_tcb_evaluation_data_number: the floor was 17, now 18."], [],
    ),
    "a status removed": (
        {"tcb_statuses": ["UpToDate", "SWHardeningNeeded"]}, {"tcb_statuses": ["UpToDate"]},
        ["tcb_statuses: TCB status SWHardeningNeeded is no longer accepted."], [],
    ),
    "grace shortened": (
        {"tcb_statuses": GRACE, "out_of_date_grace_days": 30}, {"tcb_statuses": GRACE, "out_of_date_grace_days": 29},
        ["out_of_date_grace_days: the grace was 30 days, now 29."], [],
    ),
    "an advisory added": (
        {"rejected_advisories": ["INTEL-SA-00001"]}, {"rejected_advisories": ["INTEL-SA-00001", "INTEL-SA-00002"]},
        ["rejected_advisories: INTEL-SA-00002 is refused now."], [],
    ),
    "advisories where none were": (
        {"rejected_advisories": "none"}, {"rejected_advisories": ["INTEL-SA-00001"]},
        ["rejected_advisories: INTEL-SA-00001 is refused now."], [],
    ),
    **{
        name: ({name: "accept"}, {name: "refuse"}, [f"{name}: was accepted, is refused now."], [])
        for name in ("dynamic_platform", "cached_keys", "smt")
    },
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "says", "back"), CASES.values(), ids=CASES)
def test_what_is_narrower_is_said(
    old: dict[str, object], new: dict[str, object], says: list[str], back: list[str]
) -> None:
    before, after = policy_with(**old), policy_with(**new)
    assert narrows(before, after) == [f"[sgx] {one}" for one in says]
    assert narrows(after, before) == [f"[sgx] {one}" for one in back]
    assert narrows(before, before) == []


def test_every_key_can_be_narrowed() -> None:
    assert {key for old, new, *_ in CASES.values() for key in old | new} == set(SgxPolicy.__struct_fields__)


def test_a_platform_removed_and_one_added() -> None:
    before = parse_policy(document(table("simulated")))
    assert narrows(before, policy_with()) == ["[simulated]: the platform is no longer accepted."]


def test_who_may_change_it_is_no_part_of_what_is_accepted() -> None:
    admins = '[admins]\nthreshold = 1\nkeys = ["' + line("ann") + '"]\n'
    assert narrows(policy_with(), parse_policy(document(table(), admins))) == []


def some(values: list[str], word: str | None = None) -> st.SearchStrategy[object]:
    lists: st.SearchStrategy[object] = st.lists(st.sampled_from(values), min_size=1, unique=True)
    return lists if word is None else st.just(word) | lists


KEYS: dict[str, st.SearchStrategy[object]] = {
    "machines": some([A, B], "any"),
    "mrenclave": some([HA, HB], "any"),
    "mrsigner": some([HA, HB], "any"),
    "isv_prod_id": st.integers(1, 2),
    "min_isv_svn": st.integers(1, 3),
    "tcb_statuses": some(["UpToDate", "SWHardeningNeeded", "OutOfDate", "OutOfDateConfigurationNeeded"]),
    "out_of_date_grace_days": st.integers(0, 2),
    "rejected_advisories": some(["INTEL-SA-00001", "INTEL-SA-00002"], "none"),
    "min_tcb_evaluation_data_number": st.integers(1, 3),
    **{name: st.sampled_from(["accept", "refuse"]) for name in ("dynamic_platform", "cached_keys", "smt")},
}
FOUND: dict[str, st.SearchStrategy[object]] = {
    "ppid": st.sampled_from([A, B]),
    "mrenclave": st.sampled_from([HA, HB]),
    "mrsigner": st.sampled_from([HA, HB]),
    "isv_prod_id": st.integers(1, 2),
    "isv_svn": st.integers(1, 3),
    "tcb_status": st.sampled_from(["UpToDate", "SWHardeningNeeded", "OutOfDate", "OutOfDateConfigurationNeeded"]),
    "tcb_date": st.integers(0, 3).map(lambda days: NOW - days * DAY),
    "qe_tcb_date": st.just(NOW),
    "advisory_ids": st.lists(st.sampled_from(["INTEL-SA-00001", "INTEL-SA-00002"]), unique=True).map(tuple),
    "tcb_eval_data_number": st.integers(1, 3),
    **{
        name: st.sampled_from(["True", "False", "Undefined"])
        for name in ("dynamic_platform", "cached_keys", "smt_enabled")
    },
}


def accepts(policy: Policy, claims: SgxClaims) -> bool:
    try:
        appraise(claims, policy, now=NOW)
    except Rejected:
        return False
    return True


def consistent(keys: dict[str, object]) -> dict[str, object]:
    """The same without a contradiction about grace or any code."""
    statuses = keys["tcb_statuses"]
    assert isinstance(statuses, list)
    if not any(one.startswith("OutOfDate") for one in statuses):
        keys |= {"out_of_date_grace_days": 0}
    elif not keys["out_of_date_grace_days"]:
        keys |= {"out_of_date_grace_days": 1}
    return keys | ({"mrsigner": [HA]} if (keys["mrenclave"], keys["mrsigner"]) == ("any", "any") else {})


@given(st.fixed_dictionaries(KEYS), st.data())
def test_nothing_that_was_accepted_is_refused_unsaid(keys: dict[str, object], data: st.DataObject) -> None:
    old = consistent(keys)
    # A few keys changed, and claims that differ little from what the old policy names: else nearly all is refused.
    changed = data.draw(st.lists(st.sampled_from(sorted(KEYS)), min_size=1, max_size=3, unique=True))
    new = consistent(old | {key: data.draw(KEYS[key]) for key in changed})
    before, after = policy_with(**old), policy_with(**new)
    claims = claims_with(**data.draw(st.fixed_dictionaries(FOUND)))
    claims = nearer(claims, before)
    if accepts(before, claims) and not accepts(after, claims):
        assert narrows(before, after)
    if not narrows(before, after):
        assert accepts(after, claims) or not accepts(before, claims)


def nearer(claims: SgxClaims, policy: Policy) -> SgxClaims:
    """The claims with what the policy surely refuses put right."""
    named = policy.tables["sgx"]
    right: dict[str, object] = {"isv_prod_id": named.isv_prod_id}
    for key, name in (("machines", "ppid"), ("mrenclave", "mrenclave"), ("mrsigner", "mrsigner")):
        value = getattr(named, key)
        if value != "any" and getattr(claims, name) not in value:
            right[name] = value[0]
    if claims.tcb_status not in named.tcb_statuses:
        right["tcb_status"] = named.tcb_statuses[0]
    for key, name in (("dynamic_platform",) * 2, ("cached_keys",) * 2, ("smt", "smt_enabled")):
        if getattr(named, key) == "refuse":
            right[name] = "False"
    return claims_with(**{name: getattr(claims, name) for name in FOUND} | right)


@given(st.fixed_dictionaries(KEYS), st.sampled_from(sorted(TABLE)), st.sampled_from([None, [], "", {}]))
def test_no_field_is_loosened_by_leaving_it_out_or_empty(keys: dict[str, object], key: str, empty: object) -> None:
    whole = consistent(keys)
    policy_with(**whole)
    with pytest.raises(Misuse, match=f"sgx.{key}: "):
        policy_with(**whole | {key: empty})


def test_claims_of_the_property_are_all_that_a_policy_can_look_at() -> None:
    assert set(FOUND) < set(SgxClaims.__dataclass_fields__)
    assert accepts(policy_with(), CLAIMS)


# Recovery recipients

CAROL, DAVE = "age1" + "q" * 58, "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"


def recovered_by(threshold: int, *recipients: str) -> Policy:
    """A policy that has these recipients; for none, one without the table."""
    keys = ", ".join(f'"{one}"' for one in recipients)
    added = f"\n[recovery]\nthreshold = {threshold}\nrecipients = [{keys}]\n" if recipients else ""
    return parse_policy(policy_with().text + added)


RECIPIENTS: dict[str, tuple[Policy, Policy, list[str], list[str]]] = {
    "a recipient taken out": (
        recovered_by(1, CAROL, DAVE), recovered_by(1, DAVE),
        [f"[recovery] recipients: {CAROL} is none any more."], [],
    ),
    "the table taken out": (
        recovered_by(1, CAROL), recovered_by(0), ["[recovery] recipients: there are none any more."], [],
    ),
    "the threshold raised": (
        recovered_by(1, CAROL, DAVE), recovered_by(2, CAROL, DAVE),
        ["[recovery] threshold: 1 of them were enough, now it takes 2."], [],
    ),
    "a recipient in another's place": (
        recovered_by(1, CAROL), recovered_by(1, DAVE),
        [f"[recovery] recipients: {CAROL} is none any more."], [f"[recovery] recipients: {DAVE} is none any more."],
    ),
    "a name changed": (recovered_by(1, DAVE), recovered_by(1, f"{DAVE} dave@home"), [], []),
    "the order changed": (recovered_by(1, CAROL, DAVE), recovered_by(1, DAVE, CAROL), [], []),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "said", "back"), RECIPIENTS.values(), ids=RECIPIENTS)
def test_fewer_can_bring_it_back(old: Policy, new: Policy, said: list[str], back: list[str]) -> None:
    assert narrows(old, new) == said
    assert narrows(new, old) == back
