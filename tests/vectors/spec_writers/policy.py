"""policy.json."""

from __future__ import annotations

from tests.vectors.spec_cases import Json
from tests.vectors.spec_writers.common import NOW, case, complete, numbered

MACHINE, OTHER_MACHINE = numbered(0x70, 16), "00" * 16
CODE, OTHER_CODE = numbered(0x20, 32), "00" * 32
SIGNER, OTHER_SIGNER = numbered(0x40, 32), "11" * 32

KEYS = {
    "machines": f'["{MACHINE}"]',
    "mrenclave": f'["{CODE}"]',
    "mrsigner": f'["{SIGNER}"]',
    "isv_prod_id": "1",
    "min_isv_svn": "3",
    "tcb_statuses": '["UpToDate", "SWHardeningNeeded"]',
    "out_of_date_grace_days": "0",
    "rejected_advisories": '["INTEL-SA-00615"]',
    "min_tcb_evaluation_data_number": "17",
    "dynamic_platform": '"refuse"',
    "cached_keys": '"refuse"',
    "smt": '"refuse"',
}
CLAIMS: Json = {
    "platform": "sgx",
    "ppid": MACHINE,
    "mrenclave": CODE,
    "mrsigner": SIGNER,
    "isv_prod_id": 1,
    "isv_svn": 3,
    "debug": False,
    "tcb_status": "UpToDate",
    "platform_status": "UpToDate",
    "qe_status": "UpToDate",
    "tcb_date": NOW - 30 * 86_400,
    "qe_tcb_date": NOW - 30 * 86_400,
    "advisory_ids": [],
    "tcb_eval_data_number": 17,
    "dynamic_platform": "False",
    "cached_keys": "False",
    "smt_enabled": "False",
    "expires": NOW,
}


def table(name: str = "sgx", *, left_out: str = "", **changed: str) -> str:
    """A platform's table."""
    lines = [f"{key} = {value}\n" for key, value in (KEYS | changed).items() if key != left_out]
    return f"[{name}]\n" + "".join(lines)


GOOD = "version = 1\n" + table()


def application(label: str = "db", *, left_out: str = "", **changed: str) -> str:
    """An entry of [[applications]]."""
    own = {"label": f'"{label}"', "size": "16", "encoding": '"raw"', "generation": '"current"'}
    return table("[applications]", left_out=left_out, **(own | changed))


PROVISION = '[provision]\nca_generation = "first"\n'
OTHER_APPLICATION = {"mrenclave": f'["{OTHER_CODE}"]'}
APPLICATIONS = GOOD + PROVISION + application() + application("log", **OTHER_APPLICATION)

APPLICATIONS_REFUSED = {
    "applications without [provision]": GOOD + application(),
    "[provision] without applications": GOOD + PROVISION,
    "an empty list of applications": "applications = []\n" + GOOD + PROVISION,
    "an application with any code": GOOD + PROVISION + application(mrenclave='"any"', mrsigner='"any"'),
    "a key of 24 bytes": GOOD + PROVISION + application(size="24"),
    "another encoding": GOOD + PROVISION + application(encoding='"base64"'),
    "another word for a generation": GOOD + PROVISION + application(generation='"newest"'),
    "a generation in upper case": GOOD + PROVISION + application(generation=f'"{"AB" * 16}"'),
    "another word for the CA's generation": GOOD + PROVISION.replace("first", "oldest") + application(),
    "an empty label": GOOD + PROVISION + application(""),
    "a label of 257 characters": GOOD + PROVISION + application("x" * 257),
    "a label with a space at its end": GOOD + PROVISION + application("db "),
    "a label that is not ASCII": GOOD + PROVISION + application("ü"),
    "a label twice": GOOD + PROVISION + application() + application(**OTHER_APPLICATION),
    "two applications that one enclave is": GOOD + PROVISION + application() + application("log", min_isv_svn="9"),
    "two that differ in the signer, one of which takes any": GOOD
    + PROVISION
    + application()
    + application("log", mrsigner='"any"'),
    **{
        f"an application without {left_out}": GOOD + PROVISION + application(left_out=left_out)
        for left_out in ("label", "size", "encoding", "generation", "machines", "smt")
    },
}

REFUSED = {
    "nothing": "",
    "no TOML": "version = ",
    "no version": table(),
    "another version": "version = 2\n" + table(),
    "no platform": "version = 1\n",
    "an unknown platform": "version = 1\n" + table("sev"),
    "an unknown key at the top": "version = 1\nextra = 1\n" + table(),
    "an unknown key": "version = 1\n" + table(extra="1"),
    "a table twice": "version = 1\n" + table() + table(),
    "simulated beside a real platform": "version = 1\n" + table() + table("simulated"),
    "any code": "version = 1\n" + table(mrenclave='"any"', mrsigner='"any"'),
    **{f"no {left_out}": "version = 1\n" + table(left_out=left_out) for left_out in KEYS},
    **{
        f"an empty list: {key}": "version = 1\n" + table(**{key: "[]"})
        for key in ("machines", "mrenclave", "mrsigner", "tcb_statuses", "rejected_advisories")
    },
    "another word for any": "version = 1\n" + table(machines='"all"'),
    "any in a list": "version = 1\n" + table(machines='["any"]'),
    "a machine in upper case": "version = 1\n" + table(machines=f'["{"AB" * 16}"]'),
    "a machine with a line feed at its end": "version = 1\n" + table(machines=f'["{MACHINE}\\n"]'),
    "a measurement too short": "version = 1\n" + table(mrenclave='["00"]'),
    "a product below zero": "version = 1\n" + table(isv_prod_id="-1"),
    "a product of 17 bits": "version = 1\n" + table(isv_prod_id="65536"),
    "a version as text": "version = 1\n" + table(min_isv_svn='"1"'),
    "OutOfDate without grace": "version = 1\n" + table(tcb_statuses='["OutOfDate"]'),
    "OutOfDateConfigurationNeeded without grace": "version = 1\n"
    + table(tcb_statuses='["OutOfDateConfigurationNeeded"]'),
    "grace without OutOfDate": "version = 1\n" + table(out_of_date_grace_days="30"),
    "grace below zero": "version = 1\n" + table(out_of_date_grace_days="-1"),
    "grace above the limit": "version = 1\n" + table(tcb_statuses='["OutOfDate"]', out_of_date_grace_days="3651"),
    "a machine twice": "version = 1\n" + table(machines=f'["{MACHINE}", "{OTHER_MACHINE}", "{MACHINE}"]'),
    "a measurement twice": "version = 1\n" + table(mrenclave=f'["{CODE}", "{CODE}"]'),
    "a signer twice": "version = 1\n" + table(mrsigner=f'["{SIGNER}", "{SIGNER}"]'),
    "a status twice": "version = 1\n" + table(tcb_statuses='["UpToDate", "UpToDate"]'),
    "an advisory twice": "version = 1\n" + table(rejected_advisories='["INTEL-SA-00001", "INTEL-SA-00001"]'),
    "Revoked accepted": "version = 1\n" + table(tcb_statuses='["Revoked"]'),
    "any TCB status": "version = 1\n" + table(tcb_statuses='"any"'),
    "an advisory that is none": "version = 1\n" + table(rejected_advisories='["SA-1"]'),
    "evaluation number zero": "version = 1\n" + table(min_tcb_evaluation_data_number="0"),
    "evaluation number above the limit": "version = 1\n" + table(min_tcb_evaluation_data_number="2147483649"),
    "another word for refuse": "version = 1\n" + table(smt='"deny"'),
    "a switch as a boolean": "version = 1\n" + table(smt="false"),
}

# In the order of the rules: each case breaks its rule and all that come after it.
BROKEN: dict[str, tuple[Json, str]] = {
    "the platform": ({"platform": "simulated"}, "platform-not-named"),
    "the machine": ({"ppid": OTHER_MACHINE}, "machine-not-named"),
    "debug": ({"debug": True}, "debug-enclave"),
    "the measurement": ({"mrenclave": OTHER_CODE}, "wrong-measurement"),
    "the signer": ({"mrsigner": OTHER_SIGNER}, "wrong-signer"),
    "the product": ({"isv_prod_id": 2}, "wrong-product"),
    "the version": ({"isv_svn": 2}, "version-too-low"),
    "the TCB status": ({"tcb_status": "OutOfDate"}, "tcb-status"),
    "the evaluation number": ({"tcb_eval_data_number": 16}, "tcb-too-old"),
    "an advisory": ({"advisory_ids": ["INTEL-SA-00289", "INTEL-SA-00615"]}, "advisory"),
    "a dynamic platform": ({"dynamic_platform": "True"}, "platform-configuration"),
    "expired collateral": ({"expires": NOW - 1}, "tcb-too-old"),
}

ALONE: dict[str, tuple[Json, str]] = {
    "cached keys": ({"cached_keys": "True"}, "platform-configuration"),
    "SMT": ({"smt_enabled": "True"}, "platform-configuration"),
    "SMT that the certificate does not tell of": ({"smt_enabled": "Undefined"}, "platform-configuration"),
    "a revoked platform": ({"tcb_status": "Revoked"}, "tcb-status"),
}

ACCEPTED: dict[str, Json] = {
    "exactly what is wanted": {},
    "a later version": {"isv_svn": 4},
    "a later evaluation number": {"tcb_eval_data_number": 18},
    "another status of the list": {"tcb_status": "SWHardeningNeeded", "advisory_ids": ["INTEL-SA-00289"]},
}

LAX = "version = 1\n" + table(
    machines='"any"',
    mrenclave='"any"',
    rejected_advisories='"none"',
    dynamic_platform='"accept"',
    cached_keys='"accept"',
    smt='"accept"',
)
LAX_CLAIMS: Json = {
    "ppid": OTHER_MACHINE,
    "mrenclave": OTHER_CODE,
    "advisory_ids": ["INTEL-SA-00615"],
    "dynamic_platform": "True",
    "cached_keys": "Undefined",
    "smt_enabled": "True",
}


GRACE = "version = 1\n" + table(
    tcb_statuses='["UpToDate", "OutOfDate", "OutOfDateConfigurationNeeded"]', out_of_date_grace_days="30"
)
LATE: Json = {"tcb_status": "OutOfDate", "platform_status": "OutOfDate"}
LATE_BOTH: Json = {
    "tcb_status": "OutOfDateConfigurationNeeded",
    "platform_status": "OutOfDateConfigurationNeeded",
    "qe_status": "OutOfDate",
}
WITHIN_GRACE: dict[str, Json] = {
    "the platform": LATE,
    "the quoting enclave": {"tcb_status": "OutOfDate", "qe_status": "OutOfDate", "tcb_date": 0},
    "both": LATE_BOTH,
    "none, whatever the dates": {"tcb_date": 0, "qe_tcb_date": 0},
}
PAST_GRACE: dict[str, Json] = {
    "the platform": LATE | {"tcb_date": NOW - 30 * 86_400 - 1, "qe_tcb_date": NOW},
    "the quoting enclave": {"tcb_status": "OutOfDate", "qe_status": "OutOfDate", "qe_tcb_date": NOW - 30 * 86_400 - 1},
    "the older of both": LATE_BOTH | {"tcb_date": NOW, "qe_tcb_date": NOW - 30 * 86_400 - 1},
}


APPLICATION_ACCEPTED: dict[str, Json] = {
    "the first": {},
    "the second": {"mrenclave": OTHER_CODE},
    "a later version": {"isv_svn": 9},
}
APPLICATION_REFUSED: dict[str, tuple[Json, str]] = {
    "another platform": ({"platform": "simulated"}, "platform-not-named"),
    "another machine": ({"ppid": OTHER_MACHINE}, "application-not-named"),
    "another measurement": ({"mrenclave": "22" * 32}, "application-not-named"),
    "another signer": ({"mrsigner": OTHER_SIGNER}, "application-not-named"),
    "another product": ({"isv_prod_id": 2}, "application-not-named"),
    "debug": ({"debug": True}, "debug-enclave"),
    "an older version": ({"isv_svn": 2}, "version-too-low"),
    "the TCB status": ({"tcb_status": "Revoked"}, "tcb-status"),
    "expired collateral": ({"expires": NOW - 1}, "tcb-too-old"),
}


def enclave(*labels: str, may: str = '["derive"]', **changes: str) -> str:
    """An entry of [[enclaves]]."""
    rows = KEYS | {"may": may, "labels": str(list(labels)).replace("'", '"')} | changes
    return "\n[[enclaves]]\n" + "".join(f"{key} = {value}\n" for key, value in rows.items())


ENCLAVES = GOOD + enclave("db/*", "log") + enclave("late", min_isv_svn="4") + enclave("web", isv_prod_id="2")
ENCLAVES_REFUSED: dict[str, str] = {
    "no label": enclave(),
    "a label twice": enclave("a", "a"),
    "a label with a space behind": enclave("a "),
    "a star in the middle of a label": enclave("a*b"),
    "nothing that it may": enclave("a", may="[]"),
    "what no enclave may": enclave("a", may='["unwrap"]'),
    "any code": enclave("a", mrenclave='"any"', mrsigner='"any"'),
    "one key too many": enclave("a", size="16"),
    "65 entries": "".join(enclave("a") for _ in range(65)),
}
ENCLAVES_ACCEPTED: dict[str, list[str]] = {
    "a label": ["log"],
    "labels that begin so": ["db/", "db/orders"],
}
ENCLAVES_NOT: dict[str, tuple[list[str], Json, str]] = {
    "a label of no entry": (["db/orders", "other"], {}, "not-permitted"),
    "the beginning of one": (["db"], {}, "not-permitted"),
    "a label of another's": (["web"], {}, "not-permitted"),
    "a label that wants a later version": (["log", "late"], {}, "version-too-low"),
    "other code": (["log"], {"mrenclave": OTHER_CODE}, "enclave-not-named"),
    "another signer": (["log"], {"mrsigner": OTHER_SIGNER}, "enclave-not-named"),
    "another machine": (["log"], {"ppid": OTHER_MACHINE}, "machine-not-named"),
    "another product": (["log"], {"isv_prod_id": 3}, "enclave-not-named"),
    "another platform": (["log"], {"platform": "simulated"}, "platform-not-named"),
    "a debug enclave": (["log"], {"debug": True}, "debug-enclave"),
}


def content() -> Json:
    """The file's content."""
    shared: Json = {"text": GOOD, "claims": CLAIMS, "now": NOW}
    broken: list[Json] = []
    worse: Json = {}
    for name, (change, reason) in reversed(BROKEN.items()):
        worse = change | worse
        broken.insert(0, case(f"refused first for {name}", "appraise", claims=CLAIMS | worse, error=reason))
    alone = BROKEN | ALONE
    return complete(
        "policy.json",
        "policies that are read or refused, and what they accept (policy.md)",
        [
            case("digest", "read policy"),
            case("digest of a lax policy", "read policy", text=LAX),
            case("digest of a policy for simulated", "read policy", text="version = 1\n" + table("simulated")),
            case("digest of a policy with grace", "read policy", text=GRACE),
            case("digest of a policy with applications", "read policy", text=APPLICATIONS),
            case("a comment counts", "read policy", text=GOOD + "# another digest\n"),
            *(
                case(f"refused: {name}", "read policy", text=text, error="Misuse")
                for name, text in (REFUSED | APPLICATIONS_REFUSED).items()
            ),
            case("as long as it may be", "read policy", comment=131_072 - len(GOOD)),
            case("refused: a character longer", "read policy", comment=131_073 - len(GOOD), error="Misuse"),
            *(case(f"accepted: {name}", "appraise", claims=CLAIMS | given) for name, given in ACCEPTED.items()),
            *(
                case(f"within grace: {name}", "appraise", text=GRACE, claims=CLAIMS | given)
                for name, given in WITHIN_GRACE.items()
            ),
            *(
                case(f"past grace: {name}", "appraise", text=GRACE, claims=CLAIMS | given, error="tcb-too-old")
                for name, given in PAST_GRACE.items()
            ),
            case("accepted: anything, where anything is named", "appraise", text=LAX, claims=CLAIMS | LAX_CLAIMS),
            case("a debug enclave, where anything is named", "appraise", text=LAX, claims=CLAIMS | {"debug": True})
            | {"error": "debug-enclave"},
            *(
                case(f"refused for {name}", "appraise", claims=CLAIMS | given, error=reason)
                for name, (given, reason) in alone.items()
            ),
            *broken,
            *(
                case(f"application: {name}", "appraise application", text=APPLICATIONS, claims=CLAIMS | given)
                for name, given in APPLICATION_ACCEPTED.items()
            ),
            *(
                case(f"no application: {name}", "appraise application", text=APPLICATIONS, claims=CLAIMS | given)
                | {"error": reason}
                for name, (given, reason) in APPLICATION_REFUSED.items()
            ),
            case("no application: a policy without any", "appraise application", error="application-not-named"),
            case("digest with enclaves", "read policy", text=ENCLAVES),
            *(
                case(f"refused among enclaves: {name}", "read policy", text=GOOD + text, error="Misuse")
                for name, text in ENCLAVES_REFUSED.items()
            ),
            *(
                case(f"enclave accepted for {name}", "appraise enclave", text=ENCLAVES, labels=labels)
                for name, labels in ENCLAVES_ACCEPTED.items()
            ),
            *(
                case(f"enclave refused for {name}", "appraise enclave", text=ENCLAVES, labels=labels)
                | {"claims": CLAIMS | given, "error": reason}
                for name, (labels, given, reason) in ENCLAVES_NOT.items()
            ),
        ],
        shared,
    )
