"""What the pages of docs/spec say in tables is what the code does."""

from __future__ import annotations

import ast
import json
import re
from itertools import pairwise
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Final, cast, get_args

import msgspec
import pytest
from msgspec import inspect
from starlette.routing import Route
from tests.vectors.spec_cases import FOLDER, SPEC
from tests.vectors.test_spec_vectors import generator

from rkeyserver.appraisal import callers, change, defaults, ed25519_keys, policy, policy_errors, rules, signatures
from rkeyserver.appraisal.measured import Measured
from rkeyserver.attestation.sgx import ra_tls
from rkeyserver.attestation.sgx.collateral import Collateral
from rkeyserver.errors import EXIT_STATUS, HTTP_STATUS, Corrupt, Misuse, Reason, Rejected, RkeyError, Unavailable
from rkeyserver.exchange import messages
from rkeyserver.exchange.attested import Context
from rkeyserver.exchange.challenges import CHALLENGE_LIFE, MAX_REMEMBERED
from rkeyserver.keyring import generations, keyring
from rkeyserver.keyring.derivation import Purpose
from rkeyserver.platforms import sigstruct
from rkeyserver.platforms.simulated import anchor, keys, processor, quoting, tcb
from rkeyserver.platforms.simulated.platform import BACKDATED
from rkeyserver.sealing import record, recovery, shares
from rkeyserver.service import (
    app,
    callers_app,
    callers_requests,
    fetch,
    http_client,
    limits,
    local_app,
    on_demand,
    policy_app,
    provision,
    provision_tls,
    release,
    token_listener,
)
from rkeyserver.service.authority import Authority
from rkeyserver.service.instance import Instance
from rkeyserver.service.local_app import make_local_app
from rkeyserver.service.ops import make_ops_app
from rkeyserver.service.steward import Steward

PAGES: Final = sorted(SPEC.glob("*.md"))
Row = tuple[str, ...]


def table(page: str, heading: str, number: int = 0) -> list[Row]:
    """The rows of a table under a heading, without its first; cells without the backquotes around a whole cell."""
    text = (SPEC / page).read_text("utf-8")
    (section,) = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    tables = re.findall(r"(?:^\|.*\|\n)+", section, re.MULTILINE)
    lines = tables[number].splitlines()[2:]
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
    return [tuple(re.sub(r"^`([^`]*)`$", r"\1", cell) for cell in row) for row in rows]


def number(text: str) -> int:
    found = re.match(r"2\^(\d+)|\d+", text)
    assert found is not None, f"no number: {text}"
    return int(2 ** int(found[1]) if found[1] else int(found[0]))


# --- README.md


@pytest.mark.parametrize("row", table("README.md", "Constants"), ids=lambda row: row[0])
def test_a_constant_is_the_codes(row: Row) -> None:
    name, value, pages = row
    module, _, attribute = name.rpartition(".")
    assert resolve_name(f"rkeyserver.{module}:{attribute}") == ast.literal_eval(value)
    assert all((SPEC / f"{page}.md").is_file() for page in pages.split(", "))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, anchor_name in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text("utf-8")):
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name} links to {target}"
        headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE) if anchor_name else []
        assert not anchor_name or anchor_name in {one.lower().replace(" ", "-") for one in headings}


def test_the_index_names_every_page_and_the_pages_every_vector_file() -> None:
    index = (SPEC / "README.md").read_text("utf-8")
    assert all(f"]({page.name})" in index for page in PAGES if page.name != "README.md")
    text = "".join(page.read_text("utf-8") for page in PAGES)
    assert all(f"](vectors/{path.name})" in text for path in FOLDER.glob("*.json"))


# --- exchange.md: HTTP


def test_routes() -> None:
    routes = [one for one in app.make_app(Steward(cast("Instance", None))).routes if isinstance(one, Route)]
    found = [((one.methods or set()) - {"HEAD"}, one.path) for one in routes]
    rows = [*table("exchange.md", "Routes"), *table("release.md", "Routes of a release")]
    assert found == [({method}, path) for method, path, *_ in rows]
    caps = {kind.__name__: str(most) for kind, most in messages.MAX_MESSAGE.items()}
    assert [(body, most) for *_, body, most, _answer in rows] == [
        ("Hello", caps["Hello"]),
        ("Request", caps["Request"]),
        ("not read", "0"),
        ("not read", "0"),
        ("RecoveryContribution", str(app.MAX_CONTRIBUTION_BODY)),
        ("Hello", caps["Hello"]),
        ("ReleaseRequest", caps["ReleaseRequest"]),
    ]


ERRORS: Final[dict[str, RkeyError]] = {
    "Misuse": Misuse(""),
    "Rejected": Rejected(Reason.BAD_MAC, ""),
    "Rejected for `too-large`": Rejected(Reason.TOO_LARGE, ""),
    "Unavailable": Unavailable(""),
    "Corrupt": Corrupt(""),
}


def test_errors() -> None:
    found = []
    for name, error in ERRORS.items():
        answer = app.coarse(error)
        body = json.loads(bytes(answer.body))
        assert set(body) == {"error"}
        assert answer.headers["connection"] == "close"
        assert answer.headers.get("retry-after") == ("1" if name == "Unavailable" else None)
        found.append((name, body["error"], str(answer.status_code), str(EXIT_STATUS[type(error)])))
    assert [row[:4] for row in table("exchange.md", "Errors")] == found
    assert {type(error) for error in ERRORS.values()} == set(HTTP_STATUS) == set(EXIT_STATUS)


def test_limits_and_lifetimes() -> None:
    assert [number(row[1]) for row in table("exchange.md", "Limits and lifetimes")] == [
        CHALLENGE_LIFE,
        CHALLENGE_LIFE,
        MAX_REMEMBERED,
        limits.CONNECTION_SECONDS,
        limits.MAX_CONNECTION_BYTES,
        limits.MAX_HEAD,
        app.MAX_SHARE,
        limits.PER_ADDRESS,
        fetch.EXCHANGE_SECONDS,
        http_client.CONNECT_SECONDS,
    ]


def test_reasons() -> None:
    assert [row[0] for row in table("exchange.md", "Reasons")] == [str(reason) for reason in Reason]


def test_only_reasons_are_named_as_reasons() -> None:
    """Every code in parentheses on the pages is one: `(`bad-mac`)`."""
    known = {str(reason) for reason in Reason} | {"Corrupt", "Misuse"}
    for page in ("exchange.md", "record.md", "recovery.md", "keyring.md", "simulated.md", "callers.md", "release.md"):
        for codes in re.findall(r"\((?:else )?((?:`[a-zA-Z-]+`(?:, )?)+)\)", (SPEC / page).read_text("utf-8")):
            assert set(re.findall("`([^`]+)`", codes)) <= known | {"unavailable"}, f"{page}: {codes}"


# --- fields


STRUCTS: Final = {
    "RecoveryShare": "share",
    "Generation": "generation",
    "AttestedMessage": "AttestedMessage",
    "WantedKey": "WantedKey",
    "KnownMember": "member",
    "Signature": "signature",
    "AdminsTable": "admins",
}
SLOTS: Final = {"PlatformSlot", "RecoverySlot"}
MAX_ADDRESS: Final = 300
HEX: Final = {f"^[0-9a-f]{{{2 * size}}}\\Z": f"hex{size}" for size in (16, 32, 64)}


def pattern_of(text: object) -> str:
    kind = inspect.type_info(text)
    assert isinstance(kind, inspect.StrType)
    return kind.pattern or ""


NAMED: Final = {pattern_of(policy.Label): "label", pattern_of(policy.GenerationName): "generation"}


def span(least: int | None, most: int | None) -> str:
    if least is not None and least == most:
        return str(least)
    return "" if most is None else f"{least or 0}..{'2^62' if most == 2**62 else most}"


def text_form(kind: inspect.StrType) -> tuple[str, str]:
    pattern = kind.pattern or ""
    if "ssh-" in pattern:
        return "public key", span(kind.min_length, kind.max_length)
    if "a-z:" in pattern:
        assert (kind.min_length, kind.max_length) == (1, 128)
        return "text", "name"
    if "a-z.:" in pattern.lower() and kind.max_length == MAX_ADDRESS:
        return "text", "address"
    if pattern in NAMED:
        return "text", NAMED[pattern]
    return (HEX[pattern], "") if pattern in HEX else ("text", span(kind.min_length, kind.max_length))


def form(kind: inspect.Type) -> tuple[str, str]:  # noqa: C901, PLR0911 - one for each kind of type
    """A type as the tables write it: type, limits."""
    match kind:
        case inspect.BytesType():
            return "bytes", span(kind.min_length, kind.max_length)
        case inspect.StrType():
            return text_form(kind)
        case inspect.IntType():
            return "int", span(kind.ge, kind.le) or "any"
        case inspect.LiteralType():
            text = isinstance(kind.values[0], str)
            return "text" if text else "int", ", ".join(f"{one}" for one in kind.values)
        case inspect.EnumType():
            return "text", ", ".join(f"`{one.value}`" for one in kind.cls)
        case inspect.ListType():
            return f"array of {form(kind.item_type)[0]}", span(kind.min_length, kind.max_length)
        case inspect.DictType():
            return "map of names to names", ""
        case inspect.StructType():
            return STRUCTS[kind.cls.__name__], ""
        case inspect.UnionType(types=(one, inspect.NoneType())):
            return f"{form(one)[0]}, or `null`", ""
        case inspect.UnionType():
            assert {one.cls.__name__ for one in kind.types if isinstance(one, inspect.StructType)} == SLOTS
            return "slot", ""
    raise AssertionError(f"no form for {kind}")


def fields(struct: type[msgspec.Struct]) -> list[Row]:
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    assert info.forbid_unknown_fields
    assert all(one.required for one in info.fields)
    return [(one.encode_name, *form(one.type)) for one in info.fields]


RELEASE: Final = {
    messages.WantedKey,
    messages.ReleaseRequestClaims,
    messages.ReleaseRequest,
    messages.ReleaseClaims,
    messages.Release,
}


def page_of(kind: type[messages.Message]) -> str:
    return "release.md" if kind in RELEASE else "exchange.md"


MESSAGES: Final[list[type[messages.Message]]] = [
    *messages.MAX_MESSAGE,
    messages.AttestedMessage,
    messages.WantedKey,
]
TABLES: Final[dict[str, tuple[type[msgspec.Struct], str, str, int]]] = {
    **{kind.__name__: (kind, page_of(kind), kind.__name__, 0) for kind in MESSAGES},
    "record header": (record.Header, "record.md", "Bytes", 0),
    "keyring header": (keyring.KeyringHeader, "keyring.md", "Bytes", 0),
    "known member": (record.KnownMember, "record.md", "Members", 0),
    "generation": (generations.Generation, "keyring.md", "Bytes", 1),
    "policy change": (change.PolicyChange, "policy.md", "Changes", 0),
    "signature": (signatures.Signature, "policy.md", "Changes", 1),
    "link": (change.Link, "policy.md", "Links", 0),
}


@pytest.mark.parametrize(("struct", "page", "heading", "index"), TABLES.values(), ids=TABLES)
def test_fields(struct: type[msgspec.Struct], page: str, heading: str, index: int) -> None:
    assert [row[:3] for row in table(page, heading, index)] == fields(struct)


def in_json(rows: list[Row]) -> list[Row]:
    """A table of fields as JSON has them: bytes are base64 there."""
    return [(name, "base64" if kind == "bytes" else kind, most) for name, kind, most in rows]


SLOT_TABLES: Final[dict[str, tuple[type[msgspec.Struct], str, int]]] = {
    "platform": (record.PlatformSlot, "Slots", 0),
    "recovery": (recovery.RecoverySlot, "Recovery slot", 0),
}


@pytest.mark.parametrize(("struct", "heading", "index"), SLOT_TABLES.values(), ids=SLOT_TABLES)
def test_fields_of_a_slot(struct: type[msgspec.Struct], heading: str, index: int) -> None:
    tag, *rows = (row[:3] for row in table("record.md", heading, index))
    assert tag == ("type", "text", str(struct.__struct_config__.tag))
    assert rows == in_json(fields(struct))


def test_fields_of_a_recovery_share() -> None:
    assert [row[:3] for row in table("record.md", "Recovery slot", 1)] == in_json(fields(recovery.RecoveryShare))
    assert [row[0] for row in table("recovery.md", "Shares")] == list(shares.ShareDocument.__struct_fields__)


def test_sizes_of_messages() -> None:
    assert table("exchange.md", "Messages") + table("release.md", "Messages of a release") == [
        (kind.__name__, str(kind.__struct_config__.tag), str(most)) for kind, most in messages.MAX_MESSAGE.items()
    ]


def test_contexts() -> None:
    assert [row[1] for row in table("exchange.md", "Report data")] == [str(context) for context in Context]


def test_parts_of_the_collateral() -> None:
    info = inspect.type_info(Collateral)
    assert isinstance(info, inspect.StructType)
    found = []
    for one in info.fields:
        assert isinstance(one.type, inspect.StrType)
        signature = re.search(r"\{(\d+)\}\\Z", one.type.pattern or "")
        found.append((one.name, signature[1] if signature else span(one.type.min_length, one.type.max_length)))
    # A form of pairs of hex digits has a {2} of its own.
    found = [(name, "2..65536" if size == "2" else size) for name, size in found]
    assert [row[:2] for row in table("exchange.md", "The attested message")] == found


# --- record.md


def test_the_example_is_the_vectors_record() -> None:
    content = json.loads((FOLDER / "record.json").read_text("utf-8"))
    page = (SPEC / "record.md").read_text("utf-8")
    generate = generator()
    assert generate.example(content) in page
    whole = next(case["out"] for case in content["cases"] if case["name"] == "record")
    shown = "".join(line[6:53] for line in page.splitlines() if re.match(r"[0-9a-f]{4}  ", line))
    assert bytes.fromhex(shown).hex() == whole


# --- policy.md


def test_keys_of_a_policy() -> None:
    rows = table("policy.md", "The table of a platform")
    assert [row[0] for row in rows] == list(policy.SgxPolicy.__struct_fields__)
    info = inspect.type_info(policy.SgxPolicy)
    assert isinstance(info, inspect.StructType)
    assert all(one.required for one in info.fields)
    bounds = {one.name: one.type for one in info.fields if isinstance(one.type, inspect.IntType)}
    assert {name: f"{kind.ge}..{kind.le}" for name, kind in bounds.items()} == {
        row[0]: row[1] for row in rows if ".." in row[1]
    }


def test_keys_of_an_application() -> None:
    rows = [row[0] for row in table("policy.md", "Applications")]
    assert sorted(rows) == sorted(set(policy.Application.__struct_fields__) - set(policy.SgxPolicy.__struct_fields__))
    assert str(policy.MAX_APPLICATIONS) in (SPEC / "policy.md").read_text("utf-8")


def test_the_numbers_of_ra_tls() -> None:
    rows = {row[0]: row[1] for row in table("ra-tls.md", "Limits")}
    assert [number(value) for value in rows.values()] == [
        ra_tls.MAX_CERTIFICATE,
        ra_tls.MAX_CLAIMS,
        provision_tls.MAX_RECEIVED,
        provision.HANDSHAKE_SECONDS,
        provision.CONNECTION_SECONDS,
        provision.MAX_CONNECTIONS,
        limits.PER_ADDRESS,
        app.MAX_SHARE,
        provision.PER_SECOND,
        on_demand.MOST_FETCHES,
        on_demand.AGAIN_SECONDS,
    ]
    assert f"{provision.BURST:.0f} at once" in rows["keys of one application on one machine"]
    texts = [row[0] for row in table("ra-tls.md", "The protocol")]
    assert [len(provision.REQUEST), len(provision.RESPONSE)] == [int(one) for one in texts[:2]]


def test_tables_of_a_policy() -> None:
    names = [row[0].strip("[]") for row in table("policy.md", "The document")]
    assert names == list(policy.PolicyDocument.__struct_fields__)


def test_keys_of_a_caller() -> None:
    rows = table("policy.md", "Callers")
    assert [row[0] for row in rows] == list(policy.CallerEntry.__struct_fields__)
    info = inspect.type_info(policy.CallerEntry)
    assert isinstance(info, inspect.StructType)
    assert [one.name for one in info.fields if one.required] == ["may", "labels"]
    (uid,) = (one.type for one in info.fields if one.name == "uid")
    assert isinstance(uid, inspect.UnionType)
    (number_type,) = (one for one in uid.types if isinstance(one, inspect.IntType))
    assert rows[0][1] == rows[1][1] == f"{number_type.ge}..{number_type.le}"
    assert rows[3][1] == "list of " + ", ".join(f"`{one}`" for one in callers.Action)


# --- callers.md


def test_routes_of_callers() -> None:
    routes = callers_app.caller_routes()
    found = [(*((one.methods or set()) - {"HEAD"}), one.path) for one in routes]
    rows = table("callers.md", "Requests")
    assert [row[:2] for row in rows] == found
    assert {row[3] for row in rows} == {"", str(callers_requests.MAX_BODY)}


REQUESTS: Final = {
    "Derive": callers_requests.DeriveRequest,
    "Wrap": callers_requests.WrapRequest,
    "Unwrap": callers_requests.UnwrapRequest,
}


@pytest.mark.parametrize("index", range(3), ids=REQUESTS)
def test_fields_of_a_request(index: int) -> None:
    struct = list(REQUESTS.values())[index]
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    assert info.forbid_unknown_fields
    found = []
    for one in info.fields:
        kind, limits_of = form(one.type) if one.name not in {"label", "generation"} else ("text", "")
        kind = "base64" if kind == "bytes" else kind
        limits_of = {"label": "1..256", "generation": "`first`, `current`, hex16"}.get(one.name, limits_of)
        size = one.type.ge if isinstance(one.type, inspect.IntType) else None
        limits_of = limits_of.replace("0..", f"{size}..", 1) if size else limits_of
        default = {b"": "empty"}.get(one.default, str(one.default))
        found.append((one.name, kind, limits_of, "it has to be there" if one.required else default))
    assert table("callers.md", "Requests", 1 + index) == found


def test_errors_of_callers() -> None:
    kinds = (Misuse(""), Rejected(Reason.NOT_PERMITTED, ""), Unavailable(""), Corrupt(""))
    found = []
    for error in kinds:
        answer = policy_app.told(error)
        body = json.loads(bytes(answer.body))
        assert set(body) == {"error", "message", "advice"} | ({"reason"} if isinstance(error, Rejected) else set())
        found.append((type(error).__name__, body["error"], str(answer.status_code)))
    assert [row[:3] for row in table("callers.md", "Errors")] == found


def test_how_often_a_caller_may_ask() -> None:
    rows = table("callers.md", "Limits")
    assert [row[1] for row in rows] == [
        f"{local_app.PER_SECOND:.0f}",
        "any number: he may stop it as well",
        f"{token_listener.PER_SECOND:.0f}",
        f"{release.PER_SECOND:.0f}",
    ]
    assert [row[2] for row in rows[2:]] == [str(token_listener.PER_TOKEN), f"{app.MAX_RELEASES} of one address"]


def test_reasons_of_callers() -> None:
    assert {row[0] for row in table("callers.md", "Errors", 1)} <= {str(one) for one in Reason}


def test_every_route_is_described() -> None:
    authority = Authority(Steward(cast("Instance", None)))
    apps = {
        "callers": make_local_app(authority),
        "tokens": cast("Any", token_listener.make_token_app(cast("Instance", None), "localhost")).app,
        "operations": cast("Any", make_ops_app(authority, "localhost")).app,
        "peers": app.make_app(Steward(cast("Instance", None))),
    }
    for name, found in apps.items():
        described = json.loads((SPEC / f"{name}.openapi.json").read_text("utf-8"))["paths"]
        assert {(path, method.upper()) for path, methods in described.items() for method in methods} == {
            (one.path, method)
            for one in found.routes
            if isinstance(one, Route)
            for method in (one.methods or set()) - {"HEAD"}
        }, name


def test_purposes_of_derived_keys() -> None:
    assert {row[0] for row in table("keyring.md", "Derivation")} >= {str(Purpose.DERIVED_KEY), str(Purpose.WRAP)}


# --- changes


def test_the_checks_of_a_change_name_reasons() -> None:
    text = (SPEC / "policy.md").read_text("utf-8")
    (checks,) = re.findall(r"^1\. .*?^7\. [^\n]*\n", text[text.index("## Changes\n") :], re.MULTILINE | re.DOTALL)
    named = re.findall(r"\(`([a-zA-Z-]+)`\)", checks)
    kinds = {"Misuse", *map(str, Reason)}
    assert [name for name in named if name not in kinds] == []
    assert dict.fromkeys(named).keys() == {"Misuse", "another-domain", "not-the-next-change", "not-signed"}


def test_keys_that_anybody_signs_for() -> None:
    assert [int(row[0]) for row in table("policy.md", "Keys of admins")] == sorted(ed25519_keys.SMALL_ORDER)


def test_statuses_that_a_policy_can_name() -> None:
    assert [row[0] for row in table("policy.md", "The table of a platform", 1)] == list(get_args(policy.TcbStatus))


def test_appraisal_has_a_row_for_every_rule() -> None:
    rows = table("policy.md", "Appraisal")
    found = [(one.name, str(one.reason)) for one in rules.RULES]
    first = [(rules.PLATFORM.name, str(rules.PLATFORM.reason)), (rules.MACHINE.name, str(rules.MACHINE.reason))]
    assert [(name, reason) for name, _, reason in rows] == [*first, *found]


def test_errors_have_words_for_every_key() -> None:
    structs = (
        *(policy.PolicyDocument, policy.SgxPolicy, policy.Application, policy.ProvisionTable, policy.CallerEntry),
        policy.EnclaveEntry,
        *(policy.AdminsTable, policy.RecoveryTable, Measured),
    )
    assert set(policy_errors.WANTED) == {name for one in structs for name in one.__struct_fields__}
    assert policy_errors.WANTED["tcb_statuses"] == f"a list of {', '.join(get_args(policy.TcbStatus))}"


def test_the_default_policies_are_the_files() -> None:
    shown = re.findall(r"```toml\n(.*?)```", (SPEC / "policy.md").read_text("utf-8"), re.DOTALL)
    names = ("default_simulated", "default_sgx", "joining_sgx")
    files = [Path(defaults.__file__).with_name(f"{name}.toml") for name in names]
    assert sorted(files) == sorted(Path(defaults.__file__).parent.glob("*.toml"))
    for file, text in zip(files, shown, strict=True):
        lines = file.read_text("utf-8").splitlines(keepends=True)
        assert [line[:1] for line in lines[:2]] == ["#", "#"]
        assert "".join(line for line in lines if line[:1] != "#") == text


# --- simulated.md


def test_levels() -> None:
    rows = [
        (int(least), status, advisories)
        for least, status, advisories in table("simulated.md", "Certificates and collateral", 1)
    ]
    assert rows == [(least, status, ", ".join(ids)) for status, (least, ids) in tcb.LEVELS.items()]


def test_values_of_collateral() -> None:
    assert [row[1].removesuffix(" s") for row in table("simulated.md", "Certificates and collateral")] == [
        tcb.FMSPC.hex(),
        str(tcb.EVALUATION_DATA_NUMBER),
        str(tcb.VALID_FOR),
        str(BACKDATED),
        anchor.SIMULATED_ROOT.sha256,
    ]


def test_development_keys_are_those_of_their_sentences() -> None:
    sentences = {row[0]: row[1] for row in table("simulated.md", "Development keys")}
    made = keys.development_keys()
    for name, key in (("root", made.root), ("PCK CA", made.pck_ca), ("TCB signing", made.tcb_signing)):
        assert keys.ec_key(sentences[name]).private_numbers() == key.private_numbers()


def test_the_quoting_enclave() -> None:
    rows = {row[0]: row[1] for row in table("simulated.md", "Quotes", 1)}
    enclave = quoting.QUOTING_ENCLAVE
    assert rows["ATTRIBUTES"] == enclave.attributes.hex()
    assert (rows["ISVPRODID"], rows["ISVSVN"]) == (str(enclave.isv_prod_id), str(enclave.isv_svn))
    quote = {row[2]: row[3] for row in table("simulated.md", "Quotes")}
    assert quote["QE vendor"] == quoting.QE_VENDOR_ID.hex()
    assert quote["QE SVN"] == str(tcb.QE_ISV_SVN)


def test_sigstruct() -> None:
    rows = {row[2]: row for row in table("simulated.md", "Image")}
    assert rows["HEADER"][3] == sigstruct.HEADER.hex()
    assert rows["HEADER2"][3] == sigstruct.HEADER2.hex()
    spans = [(int(offset), int(offset) + int(size)) for offset, size, *_ in rows.values()]
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert spans[-1][1] == sigstruct.SIZE


def test_the_state_of_a_processor() -> None:
    rows = table("simulated.md", "Processor")
    assert [row[0] for row in rows] == list(processor._State.__struct_fields__)
    fresh: dict[str, Any] = json.loads(processor._new_state())
    assert fresh["cpu_svn"] == "07" + "00" * 15
    assert fresh["pce_svn"] == tcb.CURRENT_PCE_SVN
