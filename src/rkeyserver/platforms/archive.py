"""Archives of code: uncompressed, with nothing in them but names and bytes, so the same code makes the same archive.

Bytecode in them carries its source's hash and is never checked against it: what is measured is what runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_DATE: Final = (1980, 1, 1, 0, 0, 0)
_MODE: Final = 0o100644
_UNIX: Final = 3
_UNCHECKED_HASH: Final = 1
_MARSHAL_WITHOUT_REFERENCES: Final = 2


def archive(entries: Mapping[str, bytes]) -> bytes:
    """A zip of files by their names, in the order of these, that Python can import from."""
    import io  # noqa: PLC0415 - 15 ms that a start from a signed image does not need
    import zipfile  # noqa: PLC0415 - late: what a start does not need

    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as file:
        for name in sorted(entries):
            info = zipfile.ZipInfo(name, _DATE)
            info.create_system = _UNIX
            info.external_attr = _MODE << 16
            file.writestr(info, entries[name])
    return made.getvalue()


def bytecode(source: bytes, name: str) -> bytes:
    """The compiled form (.pyc) of a module for the Python that runs this; tracebacks will call its file `name`.

    Raises: SyntaxError, ValueError if it is no module.
    """
    import importlib.util  # noqa: PLC0415 - needed only where images are built
    import marshal  # noqa: PLC0415 - late: what a start does not need

    code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    # Later formats of marshal note which objects are shared, and that depends on what else the process holds.
    return b"".join(
        (
            importlib.util.MAGIC_NUMBER,
            _UNCHECKED_HASH.to_bytes(4, "little"),
            importlib.util.source_hash(source),
            marshal.dumps(code, _MARSHAL_WITHOUT_REFERENCES),
        )
    )
