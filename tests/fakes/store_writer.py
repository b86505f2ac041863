"""A process that uses a file keystore, so that tests can kill it, starve it or take its rights away.

    store_writer.py PATH COMMAND...

    become:UID         drop root's rights (as another user: nothing to drop)
    umask:OCTAL
    limit:BYTES        no file may grow beyond this (RLIMIT_FSIZE)
    gramine            from now on have system calls answered as inside an enclave
    wait               say so, then wait for SIGUSR1
    open  load  close
    replace:WORD:NAME  store record(WORD), keeping what it replaces as NAME (empty: not keeping it)

One line of output for each command done; an error of ours ends it with that error's exit status. It imports little: it
is started once for every system call of a write.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
from pathlib import Path

from rkeyserver.errors import RkeyError, exit_status
from rkeyserver.keystore.file import FileKeystore


def record(word: str) -> bytes:
    """A record that cannot be mistaken for another, nor for a part of itself."""
    return b"<" + word.encode() * 3000 + b">"


def _name(content: bytes | None) -> str:
    if content is None:
        return "none"
    word = content[1 : len(content) // 3000 + 1].decode("ascii", "replace")
    return word if content == record(word) else "something else"


def _become(uid: int) -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)


def _prepare(verb: str, argument: str) -> None:
    if verb == "become":
        _become(int(argument))
    elif verb == "umask":
        os.umask(int(argument, 8))
    elif verb == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(argument), int(argument)))
    elif verb == "gramine":
        from tests.sgx.gramine_calls import answer_as_gramine  # noqa: PLC0415 - the others do without

        answer_as_gramine()
    elif verb == "wait":
        os.write(1, b"waiting\n")
        signal.sigwait({signal.SIGUSR1})
    else:
        sys.exit(f"no command {verb}, or before open")


def _use(store: FileKeystore, verb: str, argument: str) -> str:
    if verb == "load":
        return _name(store.load())
    if verb == "replace":
        word, _, name = argument.partition(":")
        return "replaced" if store.replace(record(word), name or None) else "first"
    if verb == "close":
        store.close()
    else:
        _prepare(verb, argument)
    return ""


def _run(path: Path, commands: list[str]) -> None:
    store: FileKeystore | None = None
    for command in commands:
        verb, _, argument = command.partition(":")
        result = ""
        if verb == "open":
            store = FileKeystore.open(path)
        elif store is None:
            _prepare(verb, argument)
        else:
            result = _use(store, verb, argument)
        os.write(1, f"{verb} {result}\n".encode())


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(message)s")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        _run(Path(sys.argv[1]), sys.argv[2:])
    except RkeyError as error:
        os.write(1, f"{type(error).__name__} {error}\n".encode())
        sys.exit(exit_status(error))
