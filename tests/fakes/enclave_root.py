"""The enclave's world of files, by a mount namespace and a root of its own: what its manifest mounts and nothing else.

    EnclaveRoot(image, root, state, options, device).command()       for subprocess, or Running

The root is empty memory, as the manifest's is. The C library in /lib is the one that the manifest mounts there, which
in tests is the host's (tests/fakes/gramine_build). Interpreter, arguments and environment are the manifest's own. The
curated tree and /etc are there to be read, /state and /options.json are the host's, /tmp is memory, and of /dev there
is what Gramine makes itself. The network is the host's.
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

MANIFEST: Final = "rkeyserver.manifest.sgx"
_DEVICES: Final = ("null", "random", "urandom", "zero")  # Gramine's pseudo-files


# A mount that was nosuid, nodev or the like for its user has to stay it.
_READ_ONLY: Final = """\
read_only() {
    options=$(findmnt --noheadings --output VFS-OPTIONS --mountpoint "$1" | sed -n '$s/^rw/ro/p')
    mount -o "remount,bind,$options" "$1"
}"""


@dataclass(frozen=True)
class EnclaveRoot:
    """image: the folder that `make enclave` builds; root: an empty folder, where the mounts are made.

    device: a folder that is its /dev/attestation; over: other files of the host in the place of the tree's, by their
    paths inside, for tests that must put the program together otherwise.
    """

    image: Path
    root: Path
    state: Path
    options: Path
    device: Path | None = None
    over: Mapping[str, Path] = field(default_factory=dict)

    @property
    def manifest(self) -> dict[str, Any]:
        return tomllib.loads((self.image / MANIFEST).read_text())

    @property
    def argv(self) -> list[str]:
        """What the manifest starts."""
        found: list[str] = self.manifest["loader"]["argv"]
        return found

    @property
    def environment(self) -> dict[str, str]:
        """All of it."""
        found: dict[str, str] = self.manifest["loader"]["env"]
        return found

    def command(self, argv: Sequence[str] = ()) -> list[str]:
        """What runs `argv`, or what the manifest starts, inside. A signal to it reaches that program."""
        inside = ["chroot", str(self.root), *(argv or self.argv)]
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        last = shlex.join(["exec", "/usr/bin/env", "-i", "-C", "/", *self._chroot(variables, inside)])
        script = "\n".join(["set -e", _READ_ONLY, *self._mounts(), last])
        return ["unshare", "--user", "--map-root-user", "--mount", "/bin/sh", "-c", script]

    def _chroot(self, variables: list[str], inside: list[str]) -> list[str]:
        # chroot(8) itself is of the host and runs in its environment; what it starts finds only the manifest's.
        return [*variables, "/usr/sbin/chroot", *inside[1:]]

    def _mounts(self) -> list[str]:
        lines = [shlex.join(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(self.root)])]
        for mount in self.manifest["fs"]["mounts"]:
            place = self.root / mount["path"].removeprefix("/")
            if mount.get("type") == "tmpfs":
                lines.append(shlex.join(["mkdir", "-p", str(place)]))
                continue
            lines += self._bind(self._host(mount["uri"]), place, writable=mount["path"] == "/state")
        for path, source in self.over.items():
            lines += self._bind(source, self.root / path.removeprefix("/"), writable=False)
        # The kernel asks for the loader in the place that is in the interpreter; Gramine looks for it in /lib.
        lines.append(shlex.join(["ln", "-s", "lib", str(self.root / "lib64")]))
        for name in _DEVICES:
            lines += self._bind(Path("/dev") / name, self.root / "dev" / name, writable=True)
        if self.device is not None:
            lines += self._bind(self.device, self.root / "dev" / "attestation", writable=True)
        return lines

    def _host(self, uri: str) -> Path:
        """Where on the host a URI of the manifest is, as the launcher has it."""
        name = uri.removeprefix("file:")
        return {"state": self.state, "options.json": self.options}.get(name, self.image / name)

    def _bind(self, source: Path, place: Path, *, writable: bool) -> list[str]:
        make = ["mkdir", "-p", str(place if source.is_dir() else place.parent)]
        lines = [shlex.join(make)]
        if not source.is_dir():
            lines.append(f"[ -e {shlex.quote(str(place))} ] || : > {shlex.quote(str(place))}")
        lines.append(shlex.join(["mount", "--bind", str(source), str(place)]))
        if not writable:
            lines.append(f"read_only {shlex.quote(str(place))}")
        return lines
