"""report-data.json."""

from __future__ import annotations

from tests.vectors.spec_cases import Json
from tests.vectors.spec_writers.common import case, complete

from rkeyserver.exchange.attested import Context


def content() -> Json:
    """The file's content."""
    digest = "aa" * 64
    return complete(
        "report-data.json",
        "framed(), transcript and report data (exchange.md)",
        [
            case("no parts", "frame", parts=[]),
            case("one empty part", "frame", parts=[""]),
            case("two parts", "frame", parts=["61", "6263"]),
            case("the same bytes, parted elsewhere", "frame", parts=["6162", "63"]),
            case("a part of 300 bytes", "frame", parts=["00" * 300]),
            case("transcript of nothing", "transcript", messages=[]),
            case("transcript of one message", "transcript", messages=[b"hello".hex()]),
            case("transcript of three messages", "transcript", messages=["01", "", "0203"]),
            *(
                case(
                    f"report data of a {context.name.lower()}", "bind", context=context, transcript=digest, claims="c1"
                )
                for context in Context
            ),
            case("report data of no claims", "bind", context="", transcript=digest, claims=""),
        ],
    )
