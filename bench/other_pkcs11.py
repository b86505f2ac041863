"""SoftHSM doing the nearest thing, through PKCS#11: AES-GCM of 32 bytes with a key of its token.

It is a library in the process of whoever uses it: there is no server, no socket and nobody else in between. Run as
`python -m bench.other_pkcs11 FOLDER CALLERS SECONDS`; prints the seconds that each call took, as JSON. Each caller has
a thread and a session.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

LIBRARIES: Final = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
)
PIN: Final = "1234"


def library() -> str | None:
    """Where the system has it."""
    return next((one for one in LIBRARIES if Path(one).exists()), None)


def _token(folder: Path) -> Any:  # noqa: ANN401 - it has no types
    import pkcs11  # type: ignore[import-not-found]  # noqa: PLC0415 - of the bench alone

    configuration = folder / "softhsm2.conf"
    (folder / "tokens").mkdir(exist_ok=True)
    configuration.write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n")
    os.environ["SOFTHSM2_CONF"] = str(configuration)
    made = ["softhsm2-util", "--init-token", "--free", "--label", "bench", "--pin", PIN, "--so-pin", PIN]
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
    return pkcs11.lib(library()).get_token(token_label="bench")  # noqa: S106 - a name


def load(folder: Path, callers: int, seconds: float) -> dict[str, list[float]]:
    """What each call took, in seconds."""
    import pkcs11  # noqa: PLC0415 - as above

    token = _token(folder)
    plaintext = bytes(range(32))
    with token.open(user_pin=PIN, rw=True) as first:
        template = {pkcs11.Attribute.ENCRYPT: True, pkcs11.Attribute.DECRYPT: True}
        key = first.generate_key(pkcs11.KeyType.AES, 256, label="bench", store=True, template=template)
        gcm = {"mechanism": pkcs11.Mechanism.AES_GCM}

        nonce = os.urandom(12)
        ciphertext = key.encrypt(plaintext, mechanism_param=pkcs11.GCMParams(nonce), **gcm)
        calls: dict[str, Callable[[Any], object]] = {
            "wrap": lambda mine: mine.encrypt(plaintext, mechanism_param=pkcs11.GCMParams(os.urandom(12)), **gcm),
            "unwrap": lambda mine: mine.decrypt(ciphertext, mechanism_param=pkcs11.GCMParams(nonce), **gcm),
        }
        return {what: _threads(token, callers, seconds, call) for what, call in calls.items()}


def _threads(token: Any, callers: int, seconds: float, call: Callable[[Any], object]) -> list[float]:  # noqa: ANN401
    took, ready = list[float](), threading.Barrier(callers)

    def ask() -> None:
        with token.open() as session:
            mine = session.get_key(label="bench")
            call(mine)
            ready.wait()
            end = time.perf_counter() + seconds
            while (before := time.perf_counter()) < end:
                call(mine)
                took.append(time.perf_counter() - before)

    threads = [threading.Thread(target=ask) for _ in range(callers)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return took


if __name__ == "__main__":
    _folder, _callers, _seconds = sys.argv[1:]
    json.dump(load(Path(_folder), int(_callers), float(_seconds)), sys.stdout)
