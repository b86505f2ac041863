"""The program on the host that starts the enclave. It is trusted with nothing: whatever it may say, a host may say.

It reads the operator's arguments as the ordinary program does, writes them into the one document that the enclave
reads, and starts it by gramine-sgx. What it refuses, it refuses for the operator's sake, early and in words: the
enclave refuses by itself what must be refused. Commands that need no machine run here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

from rkeyserver.cli import main as ordinary
from rkeyserver.cli.command import Said, configuration
from rkeyserver.cli.host_lock import host_lock
from rkeyserver.cli.run_folder import parent, run_folder
from rkeyserver.cli.supervise import serves, supervise
from rkeyserver.config import DEFAULT_MACHINE, DEFAULT_OPS, Config
from rkeyserver.enclave_options import COMMANDS, PLATFORM, REFUSED, written
from rkeyserver.errors import Corrupt, Misuse
from rkeyserver.keystore.file_read import resolve

APPLICATION: Final = "rkeyserver"
GRAMINE: Final = "gramine-sgx"
HELP: Final = f"""\
this build runs in an enclave (platform {PLATFORM}):
  serve, doctor and identity are started in it by {GRAMINE}; the other commands run on the host
  --keystore is a file, not a database: no driver of one is measured into the image
  it sees the keystore's folder alone: --audit, --collateral, --change, --pccs-ca and --coordinator-ca, -cert and
  -key are files in there
  what to accept is in the image: --policy, --admins and --socket, --machine and other platforms are refused
"""


def main(image: Path, argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. image: the folder with the enclave's manifest and files."""
    words = list(sys.argv[1:] if argv is None else argv)
    name, own = ordinary.command_of(words)
    if name not in COMMANDS:
        return ordinary.main(words)
    return ordinary.outcome(lambda: launch(image, name, own))


def launch(image: Path, name: str, words: list[str]) -> Said:
    """Run command `name` with the arguments `words` in the enclave of `image`, and end as it does.

    Raises: Misuse for what the enclave would not take, or if it cannot be started here; Corrupt, Unavailable for the
    keystore's place.
    """
    parser = import_module(f"rkeyserver.cli.{name}").parser()
    parser.epilog = f"{parser.epilog or ''}\n{HELP}".lstrip()
    given = vars(parser.parse_args(words))
    as_json = given.pop("json", False)
    config = configuration(given)
    _check_for_the_enclave(config)
    record = None if name == "identity" else _record(config)
    said = _said(name, config, record)
    if as_json:
        said["json"] = True
    options = written(name, said)
    gramine = _gramine(image)
    serving = name == "serve"
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(host_lock(record))] if serving and record is not None else []
        state = None if record is None else record.parent
        folder, lock = stack.enter_context(run_folder(parent(os.environ), image, state, options))
        ready = (lambda: serves(config.ops)) if serving and "NOTIFY_SOCKET" in os.environ else None
        return Said("", supervise([gramine, APPLICATION], folder, [lock, *held], ready))


def _check_for_the_enclave(config: Config) -> None:
    given = {
        "policy": config.policy is not None,
        "admins": config.admins is not None,
        "socket": config.socket is not None,
        "machine": config.machine != DEFAULT_MACHINE,
    }
    for name, why in REFUSED.items():
        if given[name]:
            raise Misuse(
                f"--{name} {why}: the enclave does not take it.",
                advice="Leave it out. A change that the admins have signed is applied with `rkeyserver policy apply`.",
            )
    if config.platform not in (None, PLATFORM):
        raise Misuse(
            f"--platform {config.platform}: this build is for an enclave, whose platform is {PLATFORM}.",
            advice="Leave it out, or use a build for that platform.",
        )


def _record(config: Config) -> Path:
    """Where the record really lies: inside, a symbolic link of the host's cannot be seen."""
    if not isinstance(config.keystore, Path):
        raise Misuse(
            f"The keystore is {config.keystore}: the enclave takes a file only.",
            advice="No driver of a database, nor what it speaks over the network, is measured into the image. Name a "
            "path with --keystore, and keep copies of that file in the database if you want them there.",
        )
    record = resolve(config.keystore)
    if config.keystore.is_symlink() and not config.hosts and not record.exists():
        raise Corrupt(
            f"The keystore is a symbolic link to {record}, which is not there.",
            advice="Nothing was changed. Mount or restore what it names. For a new domain, name the file itself.",
        )
    return record


def _said(name: str, config: Config, record: Path | None) -> dict[str, object]:
    """What there is to say to command `name`, by the options' names."""
    if record is None:
        return {}
    usual = Config()
    paths = {
        "change": config.change,
        "audit": config.audit,
        "pccs-ca": config.pccs_ca,
        "collateral": config.collateral,
        "coordinator-ca": config.coordinator_ca,
        "coordinator-cert": config.coordinator_cert,
        "coordinator-key": config.coordinator_key,
    }
    values: dict[str, tuple[object, object]] = {
        "host": ([str(host) for host in config.hosts], []),
        "peer": ([str(peer) for peer in config.peers], []),
        "domain": (config.domain, usual.domain),
        "wait-ms": (round(config.wait * 1000), round(usual.wait * 1000)),
        "once": (config.once, usual.once),
        "recover": (config.recover, usual.recover),
        "listen": ([str(one) for one in config.listen], [str(one) for one in usual.listen]),
        "ops": (str(config.ops), str(DEFAULT_OPS)),
        "pccs": (config.pccs, usual.pccs),
        "provision": (str(config.provision), str(usual.provision)),
        "callers": (str(config.callers), str(usual.callers)),
        "coordinator": (config.coordinator, usual.coordinator),
        "lease": (config.lease, usual.lease),
        "log-level": (config.log_level, usual.log_level),
    }
    said: dict[str, object] = {option: value for option, (value, default) in values.items() if value != default}
    said["keystore"] = record.name
    said |= {option: _inside(path, record.parent, option) for option, path in paths.items() if path is not None}
    takes = COMMANDS[name].__struct_encode_fields__
    return {option: value for option, value in said.items() if option in takes}


def _inside(path: Path, folder: Path, option: str) -> str:
    """The name below `folder` of what an operator named."""
    found = Path(os.path.realpath(path.parent)) / path.name
    if not found.is_relative_to(folder):
        raise Misuse(
            f"--{option} {path} is not in the keystore's folder, {folder}, which is all that the enclave sees.",
            advice="Put it there, or have the keystore where it is.",
        )
    return str(found.relative_to(folder))


def _gramine(image: Path) -> str:
    if not (image / f"{APPLICATION}.manifest.sgx").is_file():
        raise Misuse(
            f"There is no enclave in {image}: {APPLICATION}.manifest.sgx is missing.", advice="`make enclave` makes it."
        )
    found = shutil.which(GRAMINE)
    if found is None:
        raise Misuse(
            f"{GRAMINE} is not on the PATH: the enclave runs in Gramine.",
            advice="Install Gramine 1.9 (the package `gramine` of packages.gramineproject.io), and see with "
            "`is-sgx-available` that this machine has SGX.",
        )
    return found
