from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.claims import CLAIMS, NOW, claims_with, document, policy_with, table

from rkeyserver.appraisal.appraise import Verdict, appraise, check_identity, explain
from rkeyserver.appraisal.policy import TcbStatus, parse_policy
from rkeyserver.appraisal.rules import MACHINE, PLATFORM, RULES
from rkeyserver.attestation.evidence import Identity
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.clock import DAY
from rkeyserver.errors import Reason, Rejected

OTHER_HEX16 = "d4" * 16
OTHER_HEX32 = "e5" * 32


@dataclass(frozen=True)
class Edge:
    """The last claims that a rule accepts, the first that it refuses, and what the refusal has to name."""

    reason: Reason
    refused: dict[str, object]
    says: tuple[str, ...]
    accepted: dict[str, object] = field(default_factory=dict)
    policy: dict[str, object] = field(default_factory=dict)


GRACE: dict[str, object] = {
    "tcb_statuses": ["UpToDate", "OutOfDate", "OutOfDateConfigurationNeeded"],
    "out_of_date_grace_days": 30,
}
BOTH: dict[str, object] = {
    "tcb_status": "OutOfDateConfigurationNeeded",
    "platform_status": "OutOfDateConfigurationNeeded",
    "qe_status": "OutOfDate",
}

EDGES: dict[str, Edge] = {
    "machine": Edge(Reason.MACHINE_NOT_NAMED, {"ppid": OTHER_HEX16}, (OTHER_HEX16, "1", f"sgx {OTHER_HEX16}")),
    "the last of many machines": Edge(
        Reason.MACHINE_NOT_NAMED,
        {"ppid": "a1" * 15 + "a2"},
        ("a1a2 is not", "2"),
        policy={"machines": ["00" * 16, CLAIMS.ppid]},
    ),
    "debug": Edge(Reason.DEBUG_ENCLAVE, {"debug": True}, ("debug",)),
    "measurement": Edge(
        Reason.WRONG_MEASUREMENT, {"mrenclave": OTHER_HEX32}, ("MRENCLAVE", OTHER_HEX32, CLAIMS.mrenclave)
    ),
    "the last of many measurements": Edge(
        Reason.WRONG_MEASUREMENT,
        {"mrenclave": OTHER_HEX32},
        ("00" * 32, CLAIMS.mrenclave),
        policy={"mrenclave": ["00" * 32, CLAIMS.mrenclave]},
    ),
    "signer": Edge(Reason.WRONG_SIGNER, {"mrsigner": OTHER_HEX32}, ("MRSIGNER", OTHER_HEX32, CLAIMS.mrsigner)),
    "product below": Edge(Reason.WRONG_PRODUCT, {"isv_prod_id": 6}, ("6", "7")),
    "product above": Edge(Reason.WRONG_PRODUCT, {"isv_prod_id": 8}, ("8", "7")),
    "version": Edge(Reason.VERSION_TOO_LOW, {"isv_svn": 2}, ("2", "at least 3"), accepted={"isv_svn": 3}),
    "a later version": Edge(Reason.VERSION_TOO_LOW, {"isv_svn": 0}, ("0", "3"), accepted={"isv_svn": 65_535}),
    "status": Edge(
        Reason.TCB_STATUS,
        {"tcb_status": "SWHardeningNeeded", "advisory_ids": ("INTEL-SA-00289",)},
        ("SWHardeningNeeded", "INTEL-SA-00289", "UpToDate", "microcode"),
    ),
    "another status named": Edge(
        Reason.TCB_STATUS,
        {"tcb_status": "ConfigurationNeeded"},
        ("ConfigurationNeeded", "no advisory", "UpToDate, SWHardeningNeeded"),
        accepted={"tcb_status": "SWHardeningNeeded"},
        policy={"tcb_statuses": ["UpToDate", "SWHardeningNeeded"]},
    ),
    "out of date, and not yet for too long": Edge(
        Reason.TCB_TOO_OLD,
        {"tcb_status": "OutOfDate", "platform_status": "OutOfDate", "tcb_date": NOW - 30 * DAY - 1},
        ("OutOfDate", "2026-04-28T20:26:39Z", "2026-04-28T20:26:40Z", "30 days", "now, 2026-05-28T20:26:40Z"),
        accepted={"tcb_status": "OutOfDate", "platform_status": "OutOfDate", "tcb_date": NOW - 30 * DAY},
        policy=GRACE,
    ),
    "a quoting enclave out of date, and not yet for too long": Edge(
        Reason.TCB_TOO_OLD,
        {"tcb_status": "OutOfDate", "qe_status": "OutOfDate", "tcb_date": NOW, "qe_tcb_date": NOW - 30 * DAY - 1},
        ("2026-04-28T20:26:39Z",),
        accepted={"tcb_status": "OutOfDate", "qe_status": "OutOfDate", "tcb_date": 0, "qe_tcb_date": NOW - 30 * DAY},
        policy=GRACE,
    ),
    "both out of date, the older one counts": Edge(
        Reason.TCB_TOO_OLD,
        BOTH | {"tcb_date": NOW - 31 * DAY, "qe_tcb_date": NOW},
        ("OutOfDateConfigurationNeeded",),
        accepted=BOTH | {"tcb_date": NOW - 29 * DAY, "qe_tcb_date": NOW - 30 * DAY},
        policy=GRACE,
    ),
    "out of date, and neither says why": Edge(
        Reason.TCB_TOO_OLD,
        {"tcb_status": "OutOfDate", "tcb_date": NOW, "qe_tcb_date": NOW - 31 * DAY},
        ("OutOfDate",),
        accepted={"tcb_status": "OutOfDate", "tcb_date": NOW, "qe_tcb_date": NOW},
        policy=GRACE,
    ),
    "grace is for nothing else": Edge(
        Reason.TCB_STATUS,
        {"tcb_status": "ConfigurationNeeded", "tcb_date": NOW},
        ("ConfigurationNeeded",),
        accepted={"tcb_date": 0, "qe_tcb_date": 0},
        policy=GRACE,
    ),
    "evaluation number": Edge(
        Reason.TCB_TOO_OLD,
        {"tcb_eval_data_number": 16},
        ("16", "at least 17", "collateral"),
        accepted={"tcb_eval_data_number": 17},
    ),
    "a later evaluation number": Edge(
        Reason.TCB_TOO_OLD, {"tcb_eval_data_number": 0}, ("0",), accepted={"tcb_eval_data_number": 2**31}
    ),
    "advisory": Edge(
        Reason.ADVISORY,
        {"advisory_ids": ("INTEL-SA-00289", "INTEL-SA-00615")},
        ("INTEL-SA-00615",),
        accepted={"advisory_ids": ("INTEL-SA-00289", "INTEL-SA-00614", "INTEL-SA-00616")},
    ),
    "two advisories": Edge(
        Reason.ADVISORY,
        {"advisory_ids": ("INTEL-SA-00615", "INTEL-SA-00001")},
        ("INTEL-SA-00001, INTEL-SA-00615",),
        policy={"rejected_advisories": ["INTEL-SA-00615", "INTEL-SA-00001", "INTEL-SA-00002"]},
    ),
    "dynamic platform": Edge(
        Reason.PLATFORM_CONFIGURATION, {"dynamic_platform": "True"}, ("dynamic_platform is True", "False")
    ),
    "dynamic platform unsaid": Edge(
        Reason.PLATFORM_CONFIGURATION, {"dynamic_platform": "Undefined"}, ("dynamic_platform is Undefined",)
    ),
    "cached keys": Edge(Reason.PLATFORM_CONFIGURATION, {"cached_keys": "True"}, ("cached_keys is True", "False")),
    "cached keys unsaid": Edge(Reason.PLATFORM_CONFIGURATION, {"cached_keys": "Undefined"}, ("Undefined",)),
    "smt": Edge(Reason.PLATFORM_CONFIGURATION, {"smt_enabled": "True"}, ("smt is True", "False")),
    "smt unsaid": Edge(Reason.PLATFORM_CONFIGURATION, {"smt_enabled": "Undefined"}, ("smt is Undefined",)),
    "a word that the certificate cannot have": Edge(
        Reason.PLATFORM_CONFIGURATION, {"smt_enabled": "false"}, ("smt is false",)
    ),
    "expired": Edge(
        Reason.TCB_TOO_OLD,
        {"expires": NOW - 1},
        ("expired at 2026-05-28T20:26:39Z", "now 2026-05-28T20:26:40Z", "collateral"),
        accepted={"expires": NOW},
    ),
    "platform": Edge(Reason.PLATFORM_NOT_NAMED, {"platform": "tpm"}, ("tpm", "names: sgx")),
    "simulated claims": Edge(Reason.PLATFORM_NOT_NAMED, {"platform": "simulated"}, ("simulated", "names: sgx")),
    "a platform in another case": Edge(Reason.PLATFORM_NOT_NAMED, {"platform": "SGX"}, ("SGX",)),
    "no platform": Edge(Reason.PLATFORM_NOT_NAMED, {"platform": ""}, ("names: sgx",)),
}


@pytest.mark.parametrize("edge", EDGES.values(), ids=EDGES)
def test_a_rule_accepts_at_its_edge_and_refuses_one_past_it(edge: Edge) -> None:
    policy = policy_with(**edge.policy)
    accepted = claims_with(**edge.accepted)
    assert appraise(accepted, policy, now=NOW) == Verdict(claims=accepted, policy=policy.digest, at=NOW)
    with pytest.raises(Rejected) as raised:
        appraise(claims_with(**edge.refused), policy, now=NOW)
    assert raised.value.reason is edge.reason
    assert [text for text in edge.says if text not in str(raised.value)] == []
    assert raised.value.message.endswith(".")
    assert raised.value.advice, "what to do about it is not said"


def test_an_expired_verdict_comes_with_time_alone() -> None:
    policy = policy_with()
    appraise(CLAIMS, policy, now=CLAIMS.expires)
    with pytest.raises(Rejected, match="expired") as raised:
        appraise(CLAIMS, policy, now=CLAIMS.expires + 1)
    assert raised.value.reason is Reason.TCB_TOO_OLD


ANY: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "machines": ({"machines": "any"}, {"ppid": OTHER_HEX16}),
    "mrenclave": ({"mrenclave": "any"}, {"mrenclave": OTHER_HEX32}),
    "mrsigner": ({"mrsigner": "any"}, {"mrsigner": OTHER_HEX32}),
    "advisories": ({"rejected_advisories": "none"}, {"advisory_ids": ("INTEL-SA-00615",)}),
    "dynamic platform": ({"dynamic_platform": "accept"}, {"dynamic_platform": "True"}),
    "cached keys": ({"cached_keys": "accept"}, {"cached_keys": "Undefined"}),
    "smt": ({"smt": "accept"}, {"smt_enabled": "True"}),
}


@pytest.mark.parametrize(("opened", "found"), ANY.values(), ids=ANY)
def test_what_is_opened_by_a_word_is_open_only_by_that_word(
    opened: dict[str, object], found: dict[str, object]
) -> None:
    claims = claims_with(**found)
    assert appraise(claims, policy_with(**opened), now=NOW).claims == claims
    with pytest.raises(Rejected):
        appraise(claims, policy_with(), now=NOW)


def test_debug_is_refused_by_every_policy() -> None:
    most = {name: value for opened, _ in ANY.values() for name, value in opened.items() if name != "mrsigner"}
    with pytest.raises(Rejected) as raised:
        appraise(claims_with(debug=True), policy_with(**most), now=NOW)
    assert raised.value.reason is Reason.DEBUG_ENCLAVE


def test_revoked_is_refused_by_every_policy() -> None:
    every = policy_with(tcb_statuses=list(get_args(TcbStatus)), out_of_date_grace_days=3650)
    with pytest.raises(Rejected) as raised:
        appraise(claims_with(tcb_status="Revoked"), every, now=NOW)
    assert raised.value.reason is Reason.TCB_STATUS


# Each step repairs the first thing that is wrong, so the reasons come in the order of the rules.
ORDER: list[tuple[Reason, dict[str, object]]] = [
    (Reason.PLATFORM_NOT_NAMED, {"platform": "sgx"}),
    (Reason.MACHINE_NOT_NAMED, {"ppid": CLAIMS.ppid}),
    (Reason.DEBUG_ENCLAVE, {"debug": False}),
    (Reason.WRONG_MEASUREMENT, {"mrenclave": CLAIMS.mrenclave}),
    (Reason.WRONG_SIGNER, {"mrsigner": CLAIMS.mrsigner}),
    (Reason.WRONG_PRODUCT, {"isv_prod_id": CLAIMS.isv_prod_id}),
    (Reason.VERSION_TOO_LOW, {"isv_svn": CLAIMS.isv_svn}),
    (Reason.TCB_STATUS, {"tcb_status": "OutOfDate"}),
    (Reason.TCB_TOO_OLD, {"tcb_date": CLAIMS.tcb_date, "qe_tcb_date": CLAIMS.qe_tcb_date}),
    (Reason.TCB_TOO_OLD, {"tcb_eval_data_number": CLAIMS.tcb_eval_data_number}),
    (Reason.ADVISORY, {"advisory_ids": ()}),
    (Reason.PLATFORM_CONFIGURATION, {"dynamic_platform": "False"}),
    (Reason.PLATFORM_CONFIGURATION, {"cached_keys": "False"}),
    (Reason.PLATFORM_CONFIGURATION, {"smt_enabled": "False"}),
    (Reason.TCB_TOO_OLD, {"expires": CLAIMS.expires}),
]


NAMES = [PLATFORM.name, MACHINE.name, *(rule.name for rule in RULES)]


def test_the_first_rule_that_fails_is_the_reason() -> None:
    claims = claims_with(
        platform="tpm",
        ppid=OTHER_HEX16,
        debug=True,
        mrenclave=OTHER_HEX32,
        mrsigner=OTHER_HEX32,
        isv_prod_id=0,
        isv_svn=0,
        tcb_status="Revoked",
        tcb_date=0,
        qe_tcb_date=0,
        tcb_eval_data_number=0,
        advisory_ids=("INTEL-SA-00615",),
        dynamic_platform="True",
        cached_keys="True",
        smt_enabled="True",
        expires=0,
    )
    policy = policy_with(tcb_statuses=["OutOfDate"], out_of_date_grace_days=60)
    failing = len(ORDER)
    for reason, repair in ORDER:
        with pytest.raises(Rejected) as raised:
            appraise(claims, policy, now=NOW)
        assert raised.value.reason is reason
        checks = explain(claims, policy, now=NOW)
        assert [one.name for one in checks] == NAMES
        first = checks[len(NAMES) - failing]
        assert (first.passed, first.reason, first.advice) == (False, str(reason), raised.value.advice)
        assert all(one.passed for one in checks[: len(NAMES) - failing])
        failing -= 1
        claims = replace(claims, **repair)  # type: ignore[arg-type]  # a table of all fields has no narrower type
    assert appraise(claims, policy, now=NOW).claims == claims == replace(CLAIMS, tcb_status="OutOfDate")
    assert all(one.passed and not one.advice for one in explain(claims, policy, now=NOW))
    assert len(ORDER) == len(NAMES)


def test_what_there_is_no_table_for_is_not_shown_as_passed() -> None:
    checks = explain(claims_with(platform="simulated"), policy_with(), now=NOW)
    assert [one.name for one in checks] == NAMES
    assert [one.passed for one in checks] == [False, *[None] * (len(NAMES) - 1)]
    assert (checks[0].found, checks[0].wanted) == ("simulated", "sgx")


@pytest.mark.parametrize("edge", EDGES.values(), ids=EDGES)
def test_an_explanation_has_the_verdict_and_the_words_of_the_judgement(edge: Edge) -> None:
    policy = policy_with(**edge.policy)
    assert all(one.passed for one in explain(claims_with(**edge.accepted), policy, now=NOW))
    failed = [one for one in explain(claims_with(**edge.refused), policy, now=NOW) if one.passed is False]
    with pytest.raises(Rejected) as raised:
        appraise(claims_with(**edge.refused), policy, now=NOW)
    # Each case breaks one rule alone, so this is also the table of what each single rule refuses.
    assert [(one.reason, one.advice) for one in failed] == [(str(edge.reason), raised.value.advice)]
    assert failed[0].wanted


def test_every_rule_is_the_only_one_that_fails_for_some_claims() -> None:
    alone = set()
    for edge in EDGES.values():
        checks = explain(claims_with(**edge.refused), policy_with(**edge.policy), now=NOW)
        alone |= {one.name for one in checks if one.passed is False}
    assert alone == set(NAMES)


OPEN: dict[str, object] = {"machines": "any", "mrenclave": "any", "rejected_advisories": "none", "smt": "accept"}


def test_what_a_policy_leaves_open_is_shown_so() -> None:
    claims = claims_with(ppid=OTHER_HEX16, advisory_ids=("INTEL-SA-00615",), smt_enabled="True")
    shown = {one.name: (one.found, one.wanted) for one in explain(claims, policy_with(**OPEN), now=NOW)}
    assert shown["machines"] == (OTHER_HEX16, "any")
    assert shown["mrenclave"] == (CLAIMS.mrenclave, "any")
    assert shown["rejected_advisories"] == ("INTEL-SA-00615", "any")
    assert shown["smt"] == ("True", "any")
    assert shown["out_of_date_grace_days"] == ("not out of date", "not out of date")


def test_each_platform_is_judged_by_its_own_table() -> None:
    policy = parse_policy(document(table("simulated", machines="any", mrenclave="any")))
    claims = claims_with(platform="simulated", mrenclave=OTHER_HEX32)
    assert appraise(claims, policy, now=NOW).claims == claims
    with pytest.raises(Rejected) as raised:
        appraise(CLAIMS, policy, now=NOW)
    assert raised.value.reason is Reason.PLATFORM_NOT_NAMED


CLAIMED: dict[str, tuple[Identity, Reason | None]] = {
    "named": (Identity("sgx", CLAIMS.ppid), None),
    "another machine": (Identity("sgx", OTHER_HEX16), Reason.MACHINE_NOT_NAMED),
    "no machine": (Identity("sgx", ""), Reason.MACHINE_NOT_NAMED),
    "part of a machine": (Identity("sgx", CLAIMS.ppid[:-1]), Reason.MACHINE_NOT_NAMED),
    "upper case": (Identity("sgx", CLAIMS.ppid.upper()), Reason.MACHINE_NOT_NAMED),
    "the word": (Identity("sgx", "any"), Reason.MACHINE_NOT_NAMED),
    "another platform": (Identity("simulated", CLAIMS.ppid), Reason.PLATFORM_NOT_NAMED),
    "the version": (Identity("version", CLAIMS.ppid), Reason.PLATFORM_NOT_NAMED),
}


@pytest.mark.parametrize(("identity", "reason"), CLAIMED.values(), ids=CLAIMED)
def test_a_claimed_identity_is_tried_before_any_signature(identity: Identity, reason: Reason | None) -> None:
    policy = policy_with()
    if reason is None:
        assert check_identity(identity, policy) == policy.tables["sgx"]
        return
    with pytest.raises(Rejected) as raised:
        check_identity(identity, policy)
    assert raised.value.reason is reason
    assert raised.value.advice


def test_the_line_that_would_admit_a_machine_names_platform_and_machine() -> None:
    with pytest.raises(Rejected) as raised:
        check_identity(Identity("sgx", OTHER_HEX16), policy_with())
    assert raised.value.advice.endswith(f": sgx {OTHER_HEX16}")


HEX16 = st.binary(min_size=16, max_size=16).map(bytes.hex)
HEX32 = st.binary(min_size=32, max_size=32).map(bytes.hex)
ADVISORIES = st.lists(st.integers(0, 99_999).map(lambda number: f"INTEL-SA-{number:05}"), max_size=4, unique=True)
STATUSES = st.sampled_from(["UpToDate", "SWHardeningNeeded", "ConfigurationNeeded"])


@st.composite
def proved(draw: st.DrawFn) -> SgxClaims:
    return claims_with(
        ppid=draw(HEX16),
        mrenclave=draw(HEX32),
        mrsigner=draw(HEX32),
        isv_prod_id=draw(st.integers(0, 65_535)),
        isv_svn=draw(st.integers(1, 65_535)),
        tcb_status=draw(STATUSES),
        tcb_eval_data_number=draw(st.integers(2, 2**31)),
        advisory_ids=tuple(draw(ADVISORIES)),
        expires=draw(st.integers(NOW, 2**32)),
    )


CHANGES: dict[str, tuple[st.SearchStrategy[object], Reason]] = {
    "ppid": (HEX16, Reason.MACHINE_NOT_NAMED),
    "mrenclave": (HEX32, Reason.WRONG_MEASUREMENT),
    "mrsigner": (HEX32, Reason.WRONG_SIGNER),
    "isv_prod_id": (st.integers(0, 65_535), Reason.WRONG_PRODUCT),
    "tcb_status": (STATUSES | st.sampled_from(["Revoked", "OutOfDate", ""]), Reason.TCB_STATUS),
    "debug": (st.just(value=True), Reason.DEBUG_ENCLAVE),
    "platform": (st.sampled_from(["simulated", "tpm", ""]), Reason.PLATFORM_NOT_NAMED),
}


@given(proved(), st.data())
def test_a_policy_that_names_exact_values_accepts_exactly_those(claims: SgxClaims, data: st.DataObject) -> None:
    policy = policy_with(
        machines=[claims.ppid],
        mrenclave=[claims.mrenclave],
        mrsigner=[claims.mrsigner],
        isv_prod_id=claims.isv_prod_id,
        min_isv_svn=claims.isv_svn,
        tcb_statuses=[claims.tcb_status],
        min_tcb_evaluation_data_number=claims.tcb_eval_data_number,
        rejected_advisories="none",
    )
    assert appraise(claims, policy, now=NOW).claims == claims
    name = data.draw(st.sampled_from(sorted(CHANGES)))
    values, reason = CHANGES[name]
    value = data.draw(values.filter(lambda value: value != getattr(claims, name)))
    with pytest.raises(Rejected) as raised:
        appraise(replace(claims, **{name: value}), policy, now=NOW)  # type: ignore[arg-type]  # as above
    assert raised.value.reason is reason


@given(st.integers(0, 65_535), st.integers(0, 65_535))
def test_a_least_version_accepts_it_and_all_above(found: int, least: int) -> None:
    policy = policy_with(min_isv_svn=least)
    claims = claims_with(isv_svn=found)
    if found >= least:
        assert appraise(claims, policy, now=NOW).claims == claims
        return
    with pytest.raises(Rejected) as raised:
        appraise(claims, policy, now=NOW)
    assert raised.value.reason is Reason.VERSION_TOO_LOW


@given(ADVISORIES, ADVISORIES.filter(bool))
def test_an_advisory_is_refused_exactly_where_it_is_named(found: list[str], refused: list[str]) -> None:
    policy = policy_with(rejected_advisories=refused)
    claims = claims_with(advisory_ids=tuple(found))
    if not set(found) & set(refused):
        assert appraise(claims, policy, now=NOW).claims == claims
        return
    with pytest.raises(Rejected) as raised:
        appraise(claims, policy, now=NOW)
    assert raised.value.reason is Reason.ADVISORY
    assert [one for one in found if (one in raised.value.message) != (one in refused)] == []
