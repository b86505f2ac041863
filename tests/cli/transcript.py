"""Transcripts of the command line: what is typed, what comes back, word for word.

A file of lines, each of a kind that its first character says:

    #  about what follows                   <  a file of this name, its lines after |
    $  a command, run by sh to its end      &  NAME and a command, run until it serves
    >  what it printed                      ;  NAME: stop it, as a service manager does
    !  what it said on stderr               ?  its exit status

`rkeyserver` is this source tree's; `devices NAMES -- COMMAND` runs a command where /dev holds these and nothing else.
$PORT1 to $PORT9 are ports that nobody has. What differs from run to run is written as below in `stable()`. To take what
is printed now as right, and read the difference:

    PYTHONPATH=src:. python -m tests.cli.transcript tests/cli/*.txt
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.fakes.processes import Ended, Running, environment, reserve

PORTS: Final = 9
_SHIM: Final = '#!/bin/sh\nexec "{python}" -m rkeyserver "$@"\n'
_DEVICES: Final = """\
#!/bin/sh
# Its file system is its own, and so are its devices.
[ "$1" = inside ] || {
    [ "$(id -u)" = 0 ] || user=--map-root-user
    exec unshare --mount $user "$0" inside "$@"
}
shift
mount -t tmpfs none /dev
while [ "$1" != -- ]; do touch "/dev/$1"; shift; done
shift
exec "$@"
"""
_STEPS: Final = "$&;<"


@dataclass
class Step:
    """One command: its line, what is typed with it (a file's lines), and what came back."""

    line: str
    typed: list[str] = field(default_factory=list)
    answer: list[str] = field(default_factory=list)


def read(text: str) -> list[Step]:
    """The steps of a transcript; what stands before the first, or between, are steps without an answer."""
    steps: list[Step] = []
    for line in text.splitlines():
        if line[:1] == "|":
            steps[-1].typed.append(line)
        elif line[:1] in {">", "!", "?"}:
            steps[-1].answer.append(line)
        else:
            steps.append(Step(line))
    return steps


@dataclass
class Player:
    """Plays transcripts in `folder`."""

    folder: Path
    ports: list[int]
    running: dict[str, Running] = field(default_factory=dict)
    _ids: dict[str, str] = field(default_factory=dict)

    def play(self, step: Step) -> list[str]:
        """Carry out a step; the lines of what came back."""
        kind, line = step.line[:1], step.line[2:]
        if kind == "<":
            (self.folder / line).write_text("\n".join(self._filled(one[2:]) for one in step.typed) + "\n")
        elif kind == "&":
            name, _, command = line.partition(" ")
            self.running[name] = self._begin(f"exec {command}").ready()
        elif kind == ";":
            return self._answer(self.running.pop(line).stop())
        elif kind == "$":
            return self._answer(self._begin(line).wait())
        return []

    def _filled(self, text: str) -> str:
        return re.sub(r"\$PORT(\d)", lambda match: str(self.ports[int(match[1]) - 1]), text)

    def _begin(self, command: str) -> Running:
        path = f"{self.folder.parent / 'bin'}:{os.defpath}:/usr/sbin:/sbin"
        env = environment(PATH=path, COLUMNS="120", LC_ALL="C.UTF-8")
        return Running(["sh", "-c", self._filled(command)], cwd=self.folder, env=env)

    def _answer(self, ended: Ended) -> list[str]:
        out, err = (
            [f"{kind} {line}".rstrip() for line in self.stable(text).splitlines()]
            for kind, text in ((">", ended.out), ("!", ended.err))
        )
        return [*out, *err, f"? {ended.status}"]

    def stable(self, text: str) -> str:
        """`text` with everything that differs from run to run named."""
        for number, port in enumerate(self.ports, start=1):
            text = re.sub(rf"\b{port}\b", f"$PORT{number}", text)
        text = text.replace(str(self.folder.resolve()), "DIR").replace(os.uname().nodename, "NODE")
        for pattern, name in (
            (r"(?<=\.py)\(\d+\)", "(LINE)"),
            (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME"),
            (r"\bprocess \d+\b", "process PID"),
            (r"(?<=Asking again in )[\d.]+", "SECONDS"),
            (r"(?<=Python)/[\d.]+", ""),
            (r"(?<=ssh-ed25519 )AAAA\S+", "KEY"),
            # How keys lie in memory is the kernel's doing; where it hides them nothing is said of it.
            (r"(?<=^key memory   )(?:memfd_secret|locked)$", "KIND"),
            (r'"memfd_secret",(\s+"key_memory_hidden":) true\b', r'"KIND",\1 HIDDEN'),
            (r'"locked",(\s+"key_memory_hidden":) false\b', r'"KIND",\1 HIDDEN'),
            (r"^WARNING \[\S*\(LINE\) -> warn_of_memory\]: .*\n", ""),
        ):
            text = re.sub(pattern, name, text, flags=re.MULTILINE)
        text = re.sub(r"\b(?:[0-9a-f]{32}|[0-9a-f]{64})\b", self._id, text)
        # Python 3.13 names an option's argument once, and no longer quotes what there is to choose from.
        text = re.sub(r"-(\w) (\S+), (--\S+ \2)( *)", _once, text)
        return re.sub(r"(?<=\(choose from )[^)]*", lambda match: match[0].replace("'", ""), text)

    def _id(self, match: re.Match[str]) -> str:
        return self._ids.setdefault(match[0], f"ID{len(self._ids) + 1}")


def _once(match: re.Match[str]) -> str:
    once = f"-{match[1]}, {match[3]}"
    return once.ljust(len(match[0])) if match[4] else once


@contextlib.contextmanager
def player(folder: Path) -> Iterator[Player]:
    """A player with an empty folder, whose processes end with the context."""
    (folder / "bin").mkdir()
    (folder / "at").mkdir()
    for name, script in (("rkeyserver", _SHIM.format(python=sys.executable)), ("devices", _DEVICES)):
        (folder / "bin" / name).write_text(script)
        (folder / "bin" / name).chmod(0o755)
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(reserve()) for _ in range(PORTS)]
        made = Player(folder / "at", [int(one.getsockname()[1]) for one in held])
        try:
            yield made
        finally:
            for running in made.running.values():
                running.kill()


def rewrite(path: Path) -> None:
    """Take what is printed now as right."""
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder, player(Path(folder)) as made:
        for step in read(path.read_text()):
            lines += [step.line, *step.typed, *made.play(step)]
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        rewrite(Path(name))
