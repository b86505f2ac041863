"""What the making of shares leaves behind in the serving process, where no other can be started: no secret, no share.

What is left is the libraries', as docs/limitations.md says: the secret's halves, and a share's words as text.
"""

from __future__ import annotations

import subprocess
import sys

from tests.attacks.left_in_memory import pieces
from tests.fakes.processes import DEADLINE, ROOT, environment

SIZE = 32
LEAST_LOOKED = 10 * 1024 * 1024
SERVER = """
import os, sys
from tests.fakes.recipients import age
from rkeyserver.sealing.recovery import ShareSet
from rkeyserver.secret import SecretBytes, take_bytes
from rkeyserver.service.sharing_inline import InlineSharing

recipients = [age() for _ in range(3)]
share_set = ShareSet("d0" * 16, "5e" * 16, 2, tuple(one.public for one in recipients))
secret, sharing = SecretBytes.random(32), InlineSharing()
shares = sharing.split(secret.view, share_set)
given = [take_bytes(one.opens(share.sealed)) for one, share in zip(recipients, shares)]
back = sharing.combine([one.view for one in given[:2]], share_set)
assert back == secret
# The dynamic linker puts vector registers on the stack when it looks up a function for the first time, with what was
# last copied through them. A server goes on and writes over that; so does this.
compile("+".join(["1"] * 500), "deep in the stack", "eval")
os.write(1, secret.view)
sys.stdin.read()
"""


def test_neither_the_secret_nor_a_share_is_in_ordinary_memory() -> None:
    env = environment(PYTHONPATH=f"{ROOT / 'src'}:{ROOT}")
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            secret = process.stdout.read(SIZE)
            assert len(secret) == SIZE
            memory = [data for _, data in pieces(process.pid)]
        finally:
            process.communicate(timeout=DEADLINE)
    assert sum(map(len, memory)) > LEAST_LOOKED
    looked_for = {
        "the recovery secret": secret,
        "a share as its recipient has it": b'{"format":"rkeyserver-share/v1","domain":"',
    }
    assert [name for name, pattern in looked_for.items() if any(pattern in data for data in memory)] == []
    assert any(b"d0" * 16 in data for data in memory), "the search finds nothing at all"
