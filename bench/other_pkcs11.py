"""SoftHSM doing the nearest thing, through PKCS#11: AES-CBC of 32 bytes with a key of its token.

It is a library in the process of whoever uses it: there is no server, no socket and nobody else in between. Run as
`python -m bench.other_pkcs11 FOLDER CALLERS SECONDS`; prints the seconds that each call took, as JSON. Each caller is a
process: threads of one fail now and then with a general error.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

LIBRARIES: Final = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
)
PIN: Final = "1234"
START_SECONDS: Final = 0.15


def library() -> str | None:
    """Where the system has it."""
    return next((one for one in LIBRARIES if Path(one).exists()), None)


def _token(folder: Path, *, new: bool) -> Any:  # noqa: ANN401 - it has no types
    import pkcs11  # type: ignore[import-not-found]  # noqa: PLC0415 - of the bench alone

    configuration = folder / "softhsm2.conf"
    os.environ["SOFTHSM2_CONF"] = str(configuration)
    if new:
        (folder / "tokens").mkdir()
        configuration.write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n")
        made = ["softhsm2-util", "--init-token", "--free", "--label", "bench", "--pin", PIN, "--so-pin", PIN]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
    return pkcs11.lib(library()).get_token(token_label="bench")  # noqa: S106 - a name


def load(folder: Path, callers: int, seconds: float) -> dict[str, list[float]]:
    """What each call took, in seconds."""
    import pkcs11  # noqa: PLC0415 - as above

    with _token(folder, new=True).open(user_pin=PIN, rw=True) as session:
        template = {pkcs11.Attribute.ENCRYPT: True, pkcs11.Attribute.DECRYPT: True}
        session.generate_key(pkcs11.KeyType.AES, 256, label="bench", store=True, template=template)
    found = dict[str, list[float]]()
    for what in ("wrap", "unwrap"):
        begin = time.time() + 1 + callers * START_SECONDS  # when all of them have started
        command = [sys.executable, "-m", "bench.other_pkcs11", str(folder), "0", str(seconds), what, str(begin)]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(callers)]
        found[what] = [took for one in running for took in json.loads(one.communicate()[0])]
    return found


def ask(folder: Path, seconds: float, what: str, begin: float) -> list[float]:
    """One caller, from `begin` on (seconds since 1970)."""
    import pkcs11  # noqa: PLC0415 - as above

    took, plaintext, iv = list[float](), bytes(range(32)), os.urandom(16)
    with (folder / "turn").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # several that open the token at once fail now and then
        session = _token(folder, new=False).open(user_pin=PIN)
        key, cbc = session.get_key(label="bench"), pkcs11.Mechanism.AES_CBC_PAD
        ciphertext = key.encrypt(plaintext, mechanism=cbc, mechanism_param=iv)
    with session:
        time.sleep(max(0, begin - time.time()))
        end = time.perf_counter() + seconds
        while (before := time.perf_counter()) < end:
            if what == "wrap":
                key.encrypt(plaintext, mechanism=cbc, mechanism_param=os.urandom(16))
            else:
                key.decrypt(ciphertext, mechanism=cbc, mechanism_param=iv)
            took.append(time.perf_counter() - before)
    return took


if __name__ == "__main__":
    _folder, _callers, _seconds, *_rest = sys.argv[1:]
    if _rest:
        json.dump(ask(Path(_folder), float(_seconds), _rest[0], float(_rest[1])), sys.stdout)
    else:
        json.dump(load(Path(_folder), int(_callers), float(_seconds)), sys.stdout)
