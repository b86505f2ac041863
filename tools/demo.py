"""Shows, narrated: hand-overs, a theft, strangers, enrolment, all machines lost; then rotation and takeovers.

    PYTHONPATH=src python tools/demo.py OUT

OUT is what tools/build-out.py made. Everything runs on loopback, in a temporary folder, as whoever starts it; every
process that was started is ended. The status is 0 only if each thing happened that the text says.
"""
# ruff: noqa: T201 - a program, in no package, that prints

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from demo_second_act import second_act
from demo_stage import (
    BOLD,
    PLAIN,
    PROGRAM,
    Machine,
    expect,
    keys,
    scene,
    show,
    show_command,
    tell,
    until,
)
from rkeyserver.errors import EXIT_STATUS, Corrupt, Rejected
from rkeyserver.platforms.simulated.image import build_image, sign_image

SIGNED_IMAGE: Final = "libenclave-rkeyserver.signed.so"


def new_ssh_key(path: Path) -> str:
    """Make a private key there, as `ssh-keygen -t ed25519` does; its public line."""
    key = Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return f"{public} {path.name}"


def strangers_program(out: Path, into: Path) -> Path:
    """A copy of `out` with one module changed to write the key down, signed by a key of his own."""
    shutil.copytree(out, into, symlinks=True)
    signed = into / PROGRAM.parent / SIGNED_IMAGE
    with zipfile.ZipFile(signed) as archive, tempfile.TemporaryDirectory() as folder:
        archive.extractall(folder)
        package = Path(folder) / "rkeyserver"
        module = package / "service" / "instance.py"
        line = "        keyring = received.keyring\n"
        expect(line in module.read_text(), "the stranger finds the line to change")
        theft = f"{line}        open('/tmp/stolen', 'wb').write(keyring.view)\n"
        module.write_text(module.read_text().replace(line, theft))
        image = build_image(package, bytecode=False)
    key = rsa.generate_private_key(public_exponent=3, key_size=3072)  # SGX signs with exponent 3
    signed.write_bytes(sign_image(image, key, 1, 1))
    return into / PROGRAM


def story(out: Path, folder: Path, machines: list[Machine]) -> None:
    """Tell and show it. Machines that are started go into `machines`."""

    def machine(name: str, program: Path = out / PROGRAM) -> Machine:
        machines.append(Machine(name, folder / name, program))
        return machines[-1]

    host, backup, third = machine("host"), machine("backup"), machine("third")
    tell(
        """Everything here is simulated: the processors are files, and nothing is protected. What is real is the code:
        the same quotes, checks, encryption and records as on hardware. Lines with a bar are what it printed."""
    )

    scene(1, "The host makes a root key")
    tell("Its keystore is empty, so it makes one and seals it with its processor's own key.")
    host.start(warning=True)
    tell("Each start warns of the platform like that; from here on this is left out.")
    domain, generations = keys(host)
    tell(f"Domain {domain}, root key {generations[0]}: ids, not keys. The record at rest, as anyone may read it:")
    inspect = [str(out / PROGRAM), "inspect", str(host.keystore)]
    show(subprocess.run(inspect, capture_output=True, text=True, check=True).stdout)  # noqa: S603 - our own program

    scene(2, "A backup asks for it: rkeyserver -i HOST -p PORT")
    tell("Each verifies the other's quote and judges it by its policy; only then does the key travel, encrypted.")
    backup.start("-i", "127.0.0.1", "-p", str(host.port))
    expect(keys(backup) == (domain, generations), "the backup holds the same key")
    tell("Same domain, same root key, sealed anew to the backup's own processor. The host's audit file:")
    show((host.home / "rkey.bin.audit.jsonl").read_text().splitlines()[-1])

    scene(3, "The host dies")
    host.end(kill=True)
    tell("Killed without a warning. A third machine asks the backup:")
    third.start("-i", f"127.0.0.1:{host.port}", "-i", f"127.0.0.1:{backup.port}")
    expect(keys(third) == (domain, generations), "the third machine holds the same key")
    tell("The root key outlived the machine it was made on.")

    thieves(out, folder, machine, backup)

    scene(6, "The host comes back, from its own record")
    host.start()
    expect(keys(host) == (domain, generations), "the host holds the same key again")
    tell("No other machine was needed. `rkeyserver status` there:")
    show(host.ask("status"))
    tell(
        """The backup and the third machine have the key too. It has not heard of them since its start, and counts only
        what it knows."""
    )

    spare = machine("spare")
    enrolment(folder, [host, backup, third], machine("newcomer"), spare)
    every_machine_is_lost(folder, machines, spare)


def thieves(out: Path, folder: Path, machine: Callable[..., Machine], backup: Machine) -> None:
    """Two who want the key: with a copy of the record, and with a program of their own."""
    scene(4, "A thief copies the backup's record to a machine of his own")
    thief = machine("thief")
    thief.home.mkdir()
    shutil.copy(backup.keystore, thief.keystore)
    before = hashlib.sha256(thief.keystore.read_bytes()).digest()
    code, output = thief.fails()
    show(output)
    expect(code == EXIT_STATUS[Corrupt], "the record does not open there")
    expect(hashlib.sha256(thief.keystore.read_bytes()).digest() == before, "the stolen record stays as it was")
    tell(f"Another processor derives another key: exit status {code}, and the file was left as it was.")

    scene(5, "A stranger changes the program to write the key down, signs it himself, and asks")
    stranger = machine("stranger", strangers_program(out, folder / "strangers-out"))
    seen = len(backup.said())
    code, output = stranger.fails("-i", "127.0.0.1", "-p", str(backup.port), "--once", "--wait", "0")
    show(output)
    expect(code == EXIT_STATUS[Rejected], "the stranger is refused")
    expect(not stranger.keystore.exists(), "the stranger has no record")
    tell(f"Exit status {code}. He is told no more than that; the backup's log has the reason:")
    show("\n".join(backup.said()[seen:]))


def enrolment(folder: Path, machines: list[Machine], newcomer: Machine, spare: Machine) -> None:
    """From any machine to named ones, and how another gets among them. The first of `machines` is the primary."""
    host, backup, *_ = machines
    scene(7, "The operator says which machines may have the key, and whose signature changes that")
    tell(
        """Until now the policy took any simulated machine whose program is signed by the same key. The new one names
        three, and a spare one that stands in a cupboard. It says too who may change it from now on, and who together
        brings the key back when every machine is lost: each by an SSH key."""
    )
    admin, rules, change = folder / "alice", folder / "policy.toml", folder / "change.json"
    named = json.dumps([one.identity().split()[1] for one in [*machines, spare]])
    text = host.ask("policy", "show").replace('machines = "any"', f"machines = {named}")
    added = f"\n[admins]\nthreshold = 1\nkeys = [{json.dumps(new_ssh_key(admin))}]\n"
    recipients = json.dumps([new_ssh_key(folder / name) for name in ("carol", "dave", "erin")])
    added += f"\n[recovery]\nthreshold = 2\nrecipients = {recipients}\n"
    rules.write_text(text + added)
    show(f"[simulated]\nmachines = {named}\n...{added}")
    show_command("rkeyserver policy propose policy.toml -o change.json")
    host.ask("policy", "propose", str(rules), "-o", str(change))
    show_command("rkeyserver policy sign change.json --key alice -o change.json")
    host.run("policy", "sign", str(change), "--key", str(admin), "-o", str(change))
    show_command("rkeyserver policy apply change.json")
    show(host.ask("policy", "apply", str(change)))
    tell("It takes something away, from any machine to four: so a generation of the root key is added.")
    domain, generations = keys(host)
    expect(len(generations) == 2, "a generation was added")  # noqa: PLR2004 - as the text beside it says
    until("the backup follows", lambda: keys(backup) == (domain, generations))
    tell("The backup heard a hint of it, asked, and has the same by the same exchange of proofs as ever.")

    scene(8, "A machine that nobody named asks, is refused, and is enrolled")
    newcomer.begin("-i", f"127.0.0.1:{host.port}", "--wait", "60")
    newcomer.wait_for("This machine is:")
    show("\n".join(newcomer.said()[-2:]))
    expect(not newcomer.keystore.exists(), "the newcomer has no record")
    line = newcomer.identity()
    tell("It waits. Whoever runs it reads that line there, and has an admin put it into the policy:")
    show_command(f"rkeyserver policy admit '{line} newcomer' --key alice")
    show(host.ask("policy", "admit", f"{line} newcomer", "--key", str(admin)))
    newcomer.wait_for("Serving as")
    show("\n".join(newcomer.said()[-2:]))
    expect(keys(newcomer) == keys(host), "the newcomer holds the same keys")
    tell("It asked again, and was given the key. Its own audit file and the host's say who decided that, and by what.")


def every_machine_is_lost(folder: Path, machines: list[Machine], spare: Machine) -> None:
    """All are killed and their processors gone; two of the three recipients bring the key back on the spare one."""
    host = machines[0]
    scene(9, "Every machine is lost")
    domain, generations = keys(host)
    spare.home.mkdir(exist_ok=True)
    shutil.copy(host.keystore, spare.keystore)  # the copy that somebody kept elsewhere
    own_policy = folder / "recipients-policy.toml"
    own_policy.write_text(host.ask("policy", "show"))
    for machine in machines:
        machine.end(kill=True)
        if machine is not spare:
            shutil.rmtree(machine.home / "processor", ignore_errors=True)
    tell(
        """All processes are killed and all processors but the spare one erased. What is left is a copy of the host's
        record, which opens nowhere by itself, and the recipients. On the spare machine, with that copy:"""
    )
    show_command(f"rkeyserver --recover --domain {domain} ...")
    spare.begin("--recover", "--domain", domain)
    spare.wait_for("Asking for")
    show("\n".join(line for line in spare.said() if line.startswith("INFO")))
    tell(
        "Two of the three, each on a machine of his own, judge it by a policy of their own. Then they give their share:"
    )
    for name in ("carol", "erin"):
        words = ["--identity", str(folder / name), "--policy", str(own_policy), "--domain", domain]
        show_command(f"rkeyserver recovery contribute -i SPARE --identity {name} --policy mine.toml --domain ID")
        show(host.run("recovery", "contribute", "-i", f"127.0.0.1:{spare.port}", *words))
    spare.wait_for("Serving as")
    show("\n".join(line for line in spare.said()[-3:] if line.startswith("INFO")))
    expect(keys(spare) == (domain, generations), "the same keys are back")
    tell("Domain and root keys are as before. No recipient saw more than one share, and each went out sealed.")


def end_all(machines: list[Machine]) -> None:
    """End every instance that still runs."""
    for machine in machines:
        machine.end()


def main(out: Path) -> None:
    """The story, and the end of all it started."""
    begun = time.monotonic()
    machines: list[Machine] = []
    with tempfile.TemporaryDirectory(prefix="rk-") as folder, contextlib.ExitStack() as ends:
        ends.callback(end_all, machines)
        story(out, Path(folder), machines)
        end_all(machines)
        second_act(Path(folder), out / PROGRAM, machines)
    print(f"\n{BOLD}All of it happened as told, in {time.monotonic() - begun:.0f} seconds.{PLAIN} README.md goes on.")


if __name__ == "__main__":
    if len(sys.argv) != 2:  # noqa: PLR2004 - as the text beside it says
        sys.exit("One argument is wanted: the folder that make built into.")
    os.environ.pop("PYTHONPATH", None)
    main(Path(sys.argv[1]).absolute())
