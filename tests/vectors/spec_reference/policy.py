"""docs/spec/policy.md."""

from __future__ import annotations

import base64
import re
import tomllib
from collections.abc import Callable
from typing import Final

from tests.vectors.spec_reference.notation import HEX16, HEX32, LABEL, Json, Refused, is_int, is_text, require


def one_of(*words: str) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and value in words


def list_of(pattern: str) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and bool(value) and all(is_text(one, pattern) for one in value)


def within(least: int, most: int) -> Callable[[object], bool]:
    return lambda value: is_int(value, least, most)


def either(*tests: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: any(test(value) for test in tests)


STATUSES: Final = (
    "UpToDate|SWHardeningNeeded|ConfigurationNeeded|ConfigurationAndSWHardeningNeeded"
    "|OutOfDate|OutOfDateConfigurationNeeded"
)
KEYS: Final[dict[str, Callable[[object], bool]]] = {
    "machines": either(one_of("any"), list_of(HEX16)),
    "mrenclave": either(one_of("any"), list_of(HEX32)),
    "mrsigner": either(one_of("any"), list_of(HEX32)),
    "isv_prod_id": within(0, 65535),
    "min_isv_svn": within(0, 65535),
    "tcb_statuses": list_of(STATUSES),
    "out_of_date_grace_days": within(0, 3650),
    "rejected_advisories": either(one_of("none"), list_of("INTEL-SA-[0-9]{5}")),
    "min_tcb_evaluation_data_number": within(1, 2147483648),
    "dynamic_platform": one_of("accept", "refuse"),
    "cached_keys": one_of("accept", "refuse"),
    "smt": one_of("accept", "refuse"),
}


ENCLAVE_KEYS: Final = KEYS | {"may": list_of("derive"), "labels": list_of(LABEL)}
SMALL_ORDER: Final = (
    0,
    1,
    2707385501144840649318225287225658788936804267575313519463743609750303402022,
    55188659117513257062467267217118295137698188065244968500265048394206261417927,
    57896044618658097711785492504343953926634992332820282019728792003956564819948,
)


def admin_key(line: object) -> bytes | None:
    """The 32 bytes of an admin's key; None for what is none."""
    found = re.fullmatch("ssh-ed25519 ([A-Za-z0-9+/]{68})( [ -~]{1,256})?", line) if isinstance(line, str) else None
    head = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"
    blob = base64.b64decode(found[1]) if found else b""
    return blob[len(head) :] if blob.startswith(head) else None


def check_admins(admins: object) -> None:
    require(isinstance(admins, dict) and set(admins) == {"threshold", "keys"}, "Misuse")
    assert isinstance(admins, dict)
    require(is_int(admins["threshold"], 1, 16), "Misuse")
    require(isinstance(admins["keys"], list) and 1 <= len(admins["keys"]) <= 16, "Misuse")
    keys = [admin_key(line) for line in admins["keys"]]
    for key in keys:
        y = int.from_bytes(key, "little") % 2**255 if key else 0
        require(y < 2**255 - 19 and y not in SMALL_ORDER, "Misuse")
    require(len(set(keys)) == len(keys) >= admins["threshold"], "Misuse")


GENERATION: Final = "first|current|[0-9a-f]{32}"
OWN_KEYS: Final[dict[str, Callable[[object], bool]]] = {
    "label": lambda value: is_text(value, "[!-~](?:[ -~]{0,254}[!-~])?"),
    "size": lambda value: type(value) is int and value in {16, 32},
    "encoding": one_of("raw", "hex"),
    "generation": lambda value: is_text(value, GENERATION),
}


def check_table(table: object, keys: dict[str, Callable[[object], bool]]) -> None:
    require(isinstance(table, dict) and set(table) == set(keys), "Misuse")
    assert isinstance(table, dict)
    require(all(test(table[key]) for key, test in keys.items()), "Misuse")
    require(table["mrenclave"] != "any" or table["mrsigner"] != "any", "Misuse")
    for value in table.values():
        require(not isinstance(value, list) or len(set(value)) == len(value), "Misuse")
    late = {"OutOfDate", "OutOfDateConfigurationNeeded"} & set(table["tcb_statuses"])
    require(bool(late) == (table["out_of_date_grace_days"] > 0), "Misuse")


def check_applications(provision: object, applications: object) -> None:
    if provision is None and applications is None:
        return
    require(isinstance(provision, dict) and set(provision) == {"ca_generation"}, "Misuse")
    assert isinstance(provision, dict)
    require(is_text(provision["ca_generation"], GENERATION), "Misuse")
    require(isinstance(applications, list) and 1 <= len(applications) <= 64, "Misuse")
    assert isinstance(applications, list)
    for one in applications:
        check_table(one, KEYS | OWN_KEYS)
    require(len({one["label"] for one in applications}) == len(applications), "Misuse")
    for index, one in enumerate(applications):
        for other in applications[:index]:
            sets = [(one[key], other[key]) for key in ("machines", "mrenclave", "mrsigner")]
            meet = [a == "any" or b == "any" or set(a) & set(b) for a, b in sets]
            require(one["isv_prod_id"] != other["isv_prod_id"] or not all(meet), "Misuse")


def check_callers(callers: object) -> None:
    require(isinstance(callers, list) and 1 <= len(callers) <= 64, "Misuse")
    assert isinstance(callers, list)
    for one in callers:
        require(isinstance(one, dict) and {"may", "labels"} <= set(one) and len(one) == 3, "Misuse")
        require(set(one) & {"uid", "gid", "token_sha256"}, "Misuse")
        for name in {"uid", "gid"} & set(one):
            require(is_int(one[name], 0, 4294967294) and one[name] != 65534, "Misuse")
        require("token_sha256" not in one or is_text(one["token_sha256"], HEX32), "Misuse")
        require(list_of("derive|wrap|unwrap|rewrap")(one["may"]) and list_of(LABEL)(one["labels"]), "Misuse")
        require(all(len(set(one[name])) == len(one[name]) for name in ("may", "labels")), "Misuse")
        require(not any("*" in label[:-1] for label in one["labels"]), "Misuse")


def read_policy(text: str) -> Json:
    require(len(text) <= 131072, "Misuse")
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError):
        raise Refused("Misuse") from None
    require(type(found.pop("version", None)) is int and tomllib.loads(text)["version"] == 1, "Misuse")
    if "callers" in found:
        check_callers(found.pop("callers"))
    if "admins" in found:
        check_admins(found.pop("admins"))
    check_applications(found.pop("provision", None), found.pop("applications", None))
    enclaves = found.pop("enclaves", None)
    require(enclaves is None or (isinstance(enclaves, list) and 1 <= len(enclaves) <= 64), "Misuse")
    enclaves = enclaves or []
    for one in enclaves:
        check_table(one, ENCLAVE_KEYS)
        require(not any("*" in label[:-1] for label in one["labels"]), "Misuse")
    require(found and set(found) <= {"sgx", "simulated"}, "Misuse")
    require(len(found) == 1 or "simulated" not in found, "Misuse")
    for table in found.values():
        check_table(table, KEYS)
    return found | {"enclaves": enclaves}


def check_named(policy: Json, platform: str, machine: str) -> Json:
    require(platform in policy, "platform-not-named")
    table = policy[platform]
    require(table["machines"] == "any" or machine in table["machines"], "machine-not-named")
    assert isinstance(table, dict)
    return table


def appraise(claims: Json, policy: Json, now: int) -> None:
    judge(claims, check_named(policy, claims["platform"], claims["ppid"]), now)


def appraise_application(claims: Json, text: str, now: int) -> str:
    require(claims["platform"] in read_policy(text), "platform-not-named")
    for one in tomllib.loads(text).get("applications", []):
        pairs = (("machines", "ppid"), ("mrenclave", "mrenclave"), ("mrsigner", "mrsigner"))
        is_named = all(one[key] == "any" or claims[found] in one[key] for key, found in pairs)
        if is_named and one["isv_prod_id"] == claims["isv_prod_id"]:
            judge(claims, one, now)
            return str(one["label"])
    raise Refused("application-not-named")


def check_enclave_named(policy: Json, platform: str, machine: str) -> None:
    require(platform in policy, "platform-not-named")
    require(
        any(one["machines"] == "any" or machine in one["machines"] for one in policy["enclaves"]), "machine-not-named"
    )


def names(pattern: str, label: str) -> bool:
    return label.startswith(pattern[:-1]) if pattern.endswith("*") else label == pattern


def appraise_enclave(claims: Json, policy: Json, labels: list[str], now: int) -> str:
    check_enclave_named(policy, claims["platform"], claims["ppid"])
    its = [
        one
        for one in policy["enclaves"]
        if one["isv_prod_id"] == claims["isv_prod_id"]
        and all(
            one[key] == "any" or claims[claim] in one[key]
            for key, claim in (("machines", "ppid"), ("mrenclave", "mrenclave"), ("mrsigner", "mrsigner"))
        )
    ]
    require(its, "enclave-not-named")
    for label in labels:
        failures: list[str | None] = []
        for one in its:
            if any(names(pattern, label) for pattern in one["labels"]):
                try:
                    judge(claims, one, now)
                    failures.append(None)
                except Refused as refused:
                    failures.append(refused.failure)
        require(failures, "not-permitted")
        require(None in failures, str(failures[0]))
    return "accepted"


def judge(claims: Json, table: Json, now: int) -> None:
    require(not claims["debug"], "debug-enclave")
    require(table["mrenclave"] == "any" or claims["mrenclave"] in table["mrenclave"], "wrong-measurement")
    require(table["mrsigner"] == "any" or claims["mrsigner"] in table["mrsigner"], "wrong-signer")
    require(claims["isv_prod_id"] == table["isv_prod_id"], "wrong-product")
    require(claims["isv_svn"] >= table["min_isv_svn"], "version-too-low")
    require(claims["tcb_status"] in table["tcb_statuses"], "tcb-status")
    if "OutOfDate" in claims["tcb_status"]:
        levels = ((claims["platform_status"], claims["tcb_date"]), (claims["qe_status"], claims["qe_tcb_date"]))
        oldest = min(date for status, date in levels if "OutOfDate" in status)
        require(oldest + table["out_of_date_grace_days"] * 86400 >= now, "tcb-too-old")
    require(claims["tcb_eval_data_number"] >= table["min_tcb_evaluation_data_number"], "tcb-too-old")
    refused = [] if table["rejected_advisories"] == "none" else table["rejected_advisories"]
    require(not set(claims["advisory_ids"]) & set(refused), "advisory")
    for key, found in (
        ("dynamic_platform", claims["dynamic_platform"]),
        ("cached_keys", claims["cached_keys"]),
        ("smt", claims["smt_enabled"]),
    ):
        require(table[key] == "accept" or found == "False", "platform-configuration")
    require(claims["expires"] >= now, "tcb-too-old")
