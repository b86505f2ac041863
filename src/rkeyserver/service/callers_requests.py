"""What callers send, as JSON, and what it has to be (docs/spec/callers.md). Nothing here needs a server."""

from __future__ import annotations

from typing import Annotated, Final, TypeVar

import msgspec

from rkeyserver.appraisal.policy import GenerationName, Label
from rkeyserver.errors import Misuse
from rkeyserver.keyring.derived import DEFAULT_SIZE, MAX_SIZE, MIN_SIZE
from rkeyserver.keyring.wrapping import MAX_ASSOCIATED_DATA, MAX_PLAINTEXT, OVERHEAD
from rkeyserver.plain import in_words

MAX_WRAPPED: Final = MAX_PLAINTEXT + OVERHEAD
MAX_BODY: Final = 4 * (MAX_WRAPPED + MAX_ASSOCIATED_DATA) // 3 + 4096
AssociatedData = Annotated[bytes, msgspec.Meta(max_length=MAX_ASSOCIATED_DATA)]


class DeriveRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key of `size` bytes for a label, from a generation: "first", "current", or one by its id."""

    label: Label
    size: Annotated[int, msgspec.Meta(ge=MIN_SIZE, le=MAX_SIZE)] = DEFAULT_SIZE
    generation: GenerationName = "current"


class WrapRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A secret to be wrapped for a label, with the caller's associated data."""

    label: Label
    plaintext: Annotated[bytes, msgspec.Meta(max_length=MAX_PLAINTEXT)]
    associated_data: AssociatedData = b""


class UnwrapRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A wrapped secret to be opened, or wrapped anew, for the label and with the data that it was wrapped with."""

    label: Label
    wrapped: Annotated[bytes, msgspec.Meta(max_length=MAX_WRAPPED)]
    associated_data: AssociatedData = b""


WANTED: Final = {
    "label": "a text of 1 to 256 printable ASCII characters, no space at either end",
    "size": f"a number of bytes from {MIN_SIZE} to {MAX_SIZE}",
    "generation": '"first", "current", or the id of a generation, 32 lower-case hex digits',
    "plaintext": f"base64 of at most {MAX_PLAINTEXT} bytes",
    "wrapped": f"base64 of at most {MAX_WRAPPED} bytes",
    "associated_data": f"base64 of at most {MAX_ASSOCIATED_DATA} bytes",
}
_ADVICE: Final = "docs/spec/callers.md has its form."
T = TypeVar("T", DeriveRequest, WrapRequest, UnwrapRequest)


def read_request(body: bytes, kind: type[T]) -> T:
    """A request of that kind.

    Raises: Misuse that says which field is wrong and what is wanted; not what was found, which may be a secret.
    """
    wanted = {name: WANTED[name] for name in kind.__struct_fields__}
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        if "unknown field" in str(error):
            says = f"it has a field that is unknown; there is {', '.join(wanted)}"
        elif "$" not in str(error) and "missing" not in str(error):
            says = "it is no JSON object"
        else:
            says = in_words(error, wanted)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        says = "it is no JSON"
    raise Misuse(f"The request cannot be read: {says}.", advice=_ADVICE)
