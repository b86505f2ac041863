"""ra-tls.json."""

from __future__ import annotations

from tests.vectors.spec_cases import Json
from tests.vectors.spec_operations import OPERATIONS
from tests.vectors.spec_writers.common import case, complete, numbered
from tests.vectors.spec_writers.keyring import DOMAIN_SECRET, ROOT_KEY, SECOND_KEY

# SubjectPublicKeyInfo of a key on P-384: the curve's base point.
SPKI = (
    "3076301006072a8648ce3d020106052b81040022036200"
    "04aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7"
    "3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f"
)


def content() -> Json:
    """The file's content."""
    keyring: Json = {
        "domain_secret": DOMAIN_SECRET,
        "epoch": 0,
        "sequence": 2,
        "primary": "90" * 16,
        "policy": "version = 1\n",
        "generations": [
            {"root_key": ROOT_KEY, "created": 1000, "state": "readable"},
            {"root_key": SECOND_KEY, "created": 2000, "state": "current"},
        ],
    }
    first = OPERATIONS["generation id"](
        {"root_key": ROOT_KEY, "domain": OPERATIONS["domain id"]({"domain_secret": DOMAIN_SECRET})}
    )
    shared: Json = {"label": "db", "size": 16, "encoding": "raw", "generation": "current"}
    shared["keyring"] = OPERATIONS["write keyring"](keyring)
    return complete(
        "ra-tls.json",
        "evidence in certificates, and what applications are sent (ra-tls.md)",
        [
            case("evidence", "ra-tls evidence", spki=SPKI, quote=numbered(0, 300)),
            case("evidence around a short quote", "ra-tls evidence", spki=SPKI, quote=numbered(0, 23)),
            case("16 bytes", "ra-tls answer"),
            case("32 bytes", "ra-tls answer", size=32),
            case("hex", "ra-tls answer", encoding="hex"),
            case("32 bytes in hex", "ra-tls answer", size=32, encoding="hex"),
            case("of the first generation", "ra-tls answer", generation="first"),
            case("of a generation by its id", "ra-tls answer", generation=first),
            case("another label", "ra-tls answer", label="a label, with a space"),
        ],
        shared,
    )
