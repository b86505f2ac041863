"""gramine-manifest [-D NAME=VALUE]... TEMPLATE OUTPUT: renders a template, checks its keys, writes it without comments.

What a template may use, which keys there are, and what is filled in are Gramine's, from gen_jinja_env.py,
manifest_check.py and manifest.py in python/graminelibos of its repository.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any, Final

import jinja2
import tomlkit

# Every key that Gramine's own schema knows; `*` is any name.
KEYS: Final = {
    "fs": {"insecure__keys", "mounts", "root", "start_dir"},
    "libos": {"check_invalid_pointers", "entrypoint"},
    "loader": {
        *("argv", "argv_src_file", "entrypoint", "env", "env_src_file", "gid", "insecure__disable_aslr"),
        *("insecure__use_cmdline_argv", "insecure__use_host_env", "log_file", "log_level", "uid"),
    },
    "sgx": {
        *("allowed_files", "cpu_features", "debug", "edmm_enable", "enable_stats", "enclave_size", "file_check_policy"),
        *("insecure__allow_memfaults_without_exinfo", "insecure__rpc_thread_num", "isvprodid", "isvsvn"),
        *("max_threads", "preheat_enclave", "profile", "ra_client_linkable", "ra_client_spid", "remote_attestation"),
        *("seal_key", "trusted_files", "use_exinfo", "vtune_profile"),
    },
    "sys": {
        *("allowed_ioctls", "brk", "disallow_subprocesses", "enable_extra_runtime_domain_names_conf"),
        *(
            "enable_sigterm_injection",
            "experimental__enable_flock",
            "insecure__allow_eventfd",
            "ioctl_structs",
            "stack",
        ),
    },
}
REQUIRED: Final = (("fs", "mounts"), ("libos", "entrypoint"), ("loader", "entrypoint"))
ENTRYPOINT: Final = {"uri", "sha256"}  # of the library OS; before 1.9 it was the URI alone
FILLED_IN: Final[dict[str, Any]] = {
    "trusted_files": [],
    "max_threads": 4,
    "isvprodid": 0,
    "isvsvn": 0,
    "remote_attestation": "none",
    "debug": False,
    "enable_stats": False,
    "edmm_enable": False,
    "enclave_size": "256M",
    "use_exinfo": False,
    "cpu_features": {
        "avx": "unspecified",
        "avx512": "unspecified",
        "amx": "unspecified",
        "mpx": "disabled",
        "pkru": "disabled",
    },
}


class _Runtime:
    """`gramine.runtimedir()`, or without the brackets."""

    def __init__(self, package: Path) -> None:
        self.package = package

    def __call__(self, libc: str = "glibc") -> Path:
        return (self.package / "runtime" / libc).resolve()

    def __str__(self) -> str:
        return str(self())

    def __truediv__(self, other: str) -> Path:
        return self() / other


def ldd(*objects: str) -> list[str]:
    """The shared objects that these need, by their paths."""
    said = subprocess.run(["ldd", *objects], capture_output=True, text=True, check=True).stdout
    words = [line.split() for line in said.splitlines()]
    return sorted({line[2] for line in words if len(line) > 2 and line[1] == "=>" and line[2].startswith("/")})


def render(template: str, defined: dict[str, str], package: Path) -> dict[str, Any]:
    """The manifest as a document."""
    paths = {name: Path(path) for name, path in sysconfig.get_paths().items()}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)  # noqa: S701 - no HTML
    environment.globals |= {
        "gramine": {"libos": package / "libsysdb.so", "pkglibdir": package, "runtimedir": _Runtime(package)},
        "python": {name: paths[name] for name in ("stdlib", "platstdlib", "purelib")},
        "env": os.environ,
        "ldd": ldd,
    }
    return tomllib.loads(environment.from_string(template).render(**defined))


def check(manifest: dict[str, Any]) -> None:
    """Refuse what Gramine has no key for, or what it must have."""
    for table, content in manifest.items():
        for key in content:
            if key not in KEYS.get(table, ()):
                sys.exit(f"ERROR: failed to validate manifest (after rendering): extra keys not allowed: {table}.{key}")
    for table, key in REQUIRED:
        if key not in manifest.get(table, {}):
            sys.exit(f"ERROR: failed to validate manifest (after rendering): required key not provided: {table}.{key}")
    entrypoint = manifest["loader"]["entrypoint"]
    if not isinstance(entrypoint, dict) or not {"uri"} <= set(entrypoint) <= ENTRYPOINT:
        sys.exit("ERROR: failed to validate manifest (after rendering): expected a dictionary: loader.entrypoint")


def main(words: list[str]) -> None:
    """Render one."""
    parser = argparse.ArgumentParser("gramine-manifest", allow_abbrev=False)
    parser.add_argument("-D", "--define", action="append", default=[])
    parser.add_argument("template", type=Path)
    parser.add_argument("output", type=Path)
    found = parser.parse_args(words)
    defined = dict(one.split("=", 1) for one in found.define)
    manifest = render(found.template.read_text(encoding="utf-8"), defined, Path(os.environ["STAND_IN"]))
    check(manifest)
    sgx = FILLED_IN | manifest.get("sgx", {})
    sgx["trusted_files"] = [{"uri": one} if isinstance(one, str) else one for one in sgx["trusted_files"]]
    found.output.write_text(tomlkit.dumps(manifest | {"sgx": sgx}), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
