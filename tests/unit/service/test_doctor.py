"""Every finding of the doctor in every state: one place is arranged, and one topic of it looked at."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.admins import admins, change
from tests.fakes.hints import hint_at
from tests.fakes.keyrings import OTHER_SECRET, OWNER, SECRET, id_of, keyring_of
from tests.fakes.machines import NOW, HostTime, machine, set_microcode
from tests.fakes.platform import FakePlatform
from tests.fakes.processes import ROOT
from tests.fakes.sealer import FakeSealer

from rkeyserver.address import Address
from rkeyserver.appraisal.change import appended
from rkeyserver.appraisal.defaults import default_policy
from rkeyserver.appraisal.measured import Measured
from rkeyserver.appraisal.policy import parse_policy, with_admins
from rkeyserver.attestation.evidence import Identity
from rkeyserver.attestation.sgx.bundle import Entry, write_bundle
from rkeyserver.attestation.sgx.collateral import decode
from rkeyserver.attestation.sgx.model import model_of
from rkeyserver.clock import DAY, Clock
from rkeyserver.config import Config
from rkeyserver.errors import EXIT_STATUS, Corrupt, Misuse, Rejected, RkeyError, Unavailable
from rkeyserver.keyring.sealed import seal_keyring
from rkeyserver.platforms.interface import Platform
from rkeyserver.platforms.registry import load_verifier
from rkeyserver.platforms.simulated.anchor import SIMULATED_ROOT
from rkeyserver.platforms.simulated.platform import SimulatedPlatform
from rkeyserver.platforms.simulated.processor import KeyPolicy
from rkeyserver.platforms.simulated.tcb import VALID_FOR
from rkeyserver.sealing.recovery import Recovery
from rkeyserver.secret import MemoryKind, SecretBytes
from rkeyserver.service import surroundings
from rkeyserver.service.doctor import NO_WAY_BACK, Examined, examine
from rkeyserver.service.doctor_changes import Change, Kind
from rkeyserver.service.doctor_ways import THE_IMAGE, Heard
from rkeyserver.service.finding import Finding, State, Topic
from rkeyserver.service.held import HeldCollateral
from rkeyserver.service.seen import Seen
from rkeyserver.service.sharing_inline import InlineSharing
from rkeyserver.service.verification import InlineVerifier

GOOD, WARNING, BAD, UNKNOWN = State
DOMAIN, OTHER_DOMAIN = id_of(SECRET), id_of(OTHER_SECRET)
PEER = Address("10.0.0.2", 8888)
ELSEWHERE = Identity("simulated", "b2" * 16)
AGE = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
RECIPIENTS = Recovery(1, (AGE,), InlineSharing())


def heard(domain: str = DOMAIN, machine_: Identity | None = ELSEWHERE) -> Heard:
    return Heard(hint_at(1, domain=domain), machine_)


@dataclass
class Place:
    """A machine with a record, and all that is looked at around it: in order, and alone, until a test changes it."""

    folder: Path
    platform: Platform
    host: HostTime = field(default_factory=HostTime)
    config: Config = field(init=False)
    peers: dict[Address, Heard] = field(default_factory=dict)
    instance: dict[str, Any] | RkeyError = field(default_factory=lambda: Unavailable("No instance answers."))
    opens: RkeyError | None = None
    measured: Measured | None = None
    held: Path | None = None

    def __post_init__(self) -> None:
        self.config = Config(keystore=self.folder / "rkey.bin", platform="simulated")
        self.seal()

    @property
    def policy(self) -> str:
        return default_policy("simulated", mrsigner=self.platform.mrsigner, isv_prod_id=self.platform.isv_prod_id).text

    @property
    def record(self) -> Path:
        assert isinstance(self.config.keystore, Path)
        return self.config.keystore

    def seal(
        self, *, sealer: Platform | None = None, recovery: Recovery | None = None, written: int = NOW, **said: Any
    ) -> None:
        keyring = keyring_of(**{"policy": self.policy} | said)
        self.record.write_bytes(seal_keyring(keyring, sealer or self.platform, OWNER, now=written, recovery=recovery))
        keyring.close()

    def set(self, **changes: Any) -> None:
        self.config = replace(self.config, **changes)

    def has_peer(self, found: Heard | None = None) -> None:
        self.set(hosts=(PEER,))
        self.peers[PEER] = found or heard()

    def runs(self, **said: Any) -> None:
        own = self.platform.attester_identity().machine
        self.instance = {"role": "standby", "domain": DOMAIN, "sequence": 1, "machine": own} | said

    def examine(self) -> Examined:
        def open_machine(_config: Config, clock: Clock) -> Seen:
            if self.opens is not None:
                raise self.opens
            verifier = InlineVerifier(load_verifier(self.platform.name))
            held = None
            if self.held is not None:
                held = HeldCollateral(self.held, SIMULATED_ROOT, self.platform, clock, verifier.hold, keeps=False)
                held.load()
            return Seen(self.platform, verifier, held, self.measured)

        def status() -> dict[str, Any]:
            if isinstance(self.instance, RkeyError):
                raise self.instance
            return self.instance

        return examine(self.config, Clock(self.host), open_machine, lambda host, _own: self.peers.get(host), status)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPlatform:
    return machine(tmp_path_factory.mktemp("machine"))


@pytest.fixture
def place(tmp_path: Path, platform: SimulatedPlatform) -> Place:
    return Place(tmp_path, platform)


def of(examined: Examined, topic: Topic) -> Finding:
    return next(one for one in examined.findings if one.topic is topic)


# Arrangements


def _recovery(place: Place) -> None:
    place.seal(recovery=RECIPIENTS)


def _another_machine(place: Place) -> None:
    place.seal(sealer=FakePlatform())


def _kept(place: Place) -> None:
    (place.folder / "rkey.bin.kept.domain-x.epoch-0.sequence-1").write_bytes(place.record.read_bytes())


def _lost(place: Place) -> None:
    _kept(place)
    place.record.unlink()


def _lost_by_the_audit_file(place: Place) -> None:
    place.record.unlink()
    place.config.audit_path.write_text('{"at":"x","event":"mint","verdict":"accepted","domain":"d"}\n')


def _never(place: Place) -> None:
    place.record.unlink()


def _damaged(place: Place) -> None:
    *sealed, last = place.record.read_bytes()
    place.record.write_bytes(bytes((*sealed, last ^ 1)))


def _no_record(place: Place) -> None:
    place.record.write_bytes(b"junk")


def _no_policy(place: Place) -> None:
    place.seal(policy="version = 2\n")


def _not_accepted(place: Place) -> None:
    place.seal(policy=place.policy.replace(place.platform.mrsigner, "ab" * 32))


def _not_accepted_with_others(place: Place) -> None:
    policy = place.policy.replace(place.platform.mrsigner, "ab" * 32)
    place.seal(policy=policy, recovery=Recovery(1, (AGE,), InlineSharing()))
    place.has_peer()


def _recovery_not_accepted(place: Place) -> None:
    place.seal(policy=place.policy.replace(place.platform.mrsigner, "ab" * 32), recovery=RECIPIENTS)


def _measured(*names: str) -> Callable[[Place], None]:
    """The policy has ann as its admin, and nobody signed it; these are measured into the image."""

    def arrange(place: Place) -> None:
        place.measured = Measured("mrsigner", admins(1, names))
        place.seal(policy=with_admins(parse_policy(place.policy), admins(1, ["ann"])).text)

    return arrange


def _with_recipients(place: Place) -> None:
    place.seal(recovery=RECIPIENTS, policy=with_admins(parse_policy(place.policy), admins(1, ["ann"])).text)


def _signed(place: Place) -> None:
    """By ann, for bob, who is measured into the image beside her."""
    before = with_admins(parse_policy(place.policy), admins(1, ["ann", "bob"])).text
    after = with_admins(parse_policy(place.policy), admins(1, ["bob"])).text
    made = change(1, before, after, ["ann", "bob"], domain=DOMAIN)
    place.measured = Measured("mrsigner", admins(1, ["ann", "bob"]))
    place.seal(policy=after, changes=appended([], made, admins=admins(1, ["ann", "bob"])))


def _collateral(data: Callable[[Place], bytes]) -> Callable[[Place], None]:
    def arrange(place: Place) -> None:
        place.held = place.folder / "collateral"
        place.held.write_bytes(data(place))

    return arrange


def bundle(place: Place) -> bytes:
    model = model_of(place.platform.evidence(bytes(64)))
    own = decode(place.platform.endorsements())
    return write_bundle([Entry(model.fmspc, model.ca, "a test", NOW, own)])


def _expired(place: Place) -> None:
    _collateral(bundle)(place)
    place.host.now = NOW + VALID_FOR


def _rules(**said: Any) -> Callable[[Place], None]:
    """A policy with other values."""

    def arrange(place: Place) -> None:
        text = place.policy
        for key, value in said.items():
            text = re.sub(f"(?m)^{key} = .*$", f"{key} = {json.dumps(value)}", text)
        place.seal(policy=text)

    return arrange


def _slot(**said: Any) -> Callable[[Place], None]:
    """A header whose slot says something else, so that it does not open."""

    def arrange(place: Place) -> None:
        magic, line, rest = place.record.read_bytes().split(b"\n", 2)
        header = json.loads(line)
        header["slots"][0] |= said
        place.record.write_bytes(b"\n".join([magic, json.dumps(header, separators=(",", ":")).encode(), rest]))

    return arrange


def _two_signers(place: Place) -> None:
    _rules(mrsigner=[place.platform.mrsigner, "ab" * 32])(place)


def _just_this_image(place: Place) -> None:
    assert isinstance(place.platform, SimulatedPlatform)
    _rules(mrenclave=[place.platform.enclave.mrenclave.hex()])(place)


def _audit_is_a_folder(place: Place) -> None:
    place.config.audit_path.mkdir()


def _audit_is_a_pipe(place: Place) -> None:
    os.mkfifo(place.config.audit_path)


def _audit_is_a_link(place: Place) -> None:
    place.config.audit_path.symlink_to(place.record)


def _audit_is_something_else(place: Place) -> None:
    place.config.audit_path.write_text("no line of one")


def _audit_is_there(place: Place) -> None:
    place.config.audit_path.write_text("{}\n")


def _socket_is_there(place: Place) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(place.config.socket_path))


def _changed(name: str, make: Callable[[Place], Any]) -> Callable[[Place], None]:
    return lambda place: setattr(place, name, make(place))


def _set(**changes: Any) -> Callable[[Place], None]:
    return lambda place: place.set(**changes)


def _runs(**said: Any) -> Callable[[Place], None]:
    return lambda place: place.runs(**said)


def _peer(found: Heard) -> Callable[[Place], None]:
    return lambda place: place.has_peer(found)


def _this_very_machine(place: Place) -> None:
    place.has_peer(heard(machine_=place.platform.attester_identity()))


def both(*arrange: Callable[[Place], None]) -> Callable[[Place], None]:
    def all_of(place: Place) -> None:
        for one in arrange:
            one(place)

    return all_of


def nothing(_place: Place) -> None:
    pass


CORRUPT, MISUSE, REJECTED, UNAVAILABLE = (EXIT_STATUS[kind] for kind in (Corrupt, Misuse, Rejected, Unavailable))
OK = 0
Case = tuple[Callable[[Place], None], Topic, State, str, int]

CASES: dict[str, Case] = {
    "a record": (nothing, Topic.RECORD, GOOD, f"domain {DOMAIN}, epoch 0, sequence 1, written 2026-", NO_WAY_BACK),
    "no record, and none ever": (_never, Topic.RECORD, BAD, "no trace of one", MISUSE),
    "no record, but kept copies": (_lost, Topic.RECORD, BAD, "is missing, but was there once", CORRUPT),
    "no record, but an audit file": (_lost_by_the_audit_file, Topic.RECORD, BAD, "by its audit file", CORRUPT),
    "something else than a record": (_no_record, Topic.RECORD, BAD, "does not begin with", CORRUPT),
    "a folder as record": (_set(keystore=Path("/..")), Topic.RECORD, BAD, "names a folder", MISUSE),
    "a folder that is not there": (_set(keystore=Path("/none/rkey")), Topic.RECORD, BAD, "has no folder", MISUSE),
    "of the domain that is asked for": (_set(domain=DOMAIN), Topic.RECORD, GOOD, DOMAIN, NO_WAY_BACK),
    "of another domain": (_set(domain=OTHER_DOMAIN), Topic.RECORD, BAD, f"asks for {OTHER_DOMAIN}", REJECTED),
    "written before now": (nothing, Topic.CLOCK, GOOD, "after the record was written", NO_WAY_BACK),
    "written after now": (lambda place: place.seal(written=NOW + 301), Topic.CLOCK, WARNING, "written at", NO_WAY_BACK),
    "written a little after now": (lambda place: place.seal(written=NOW + 300), Topic.CLOCK, GOOD, "", NO_WAY_BACK),
    "a simulated machine": (nothing, Topic.MACHINE, WARNING, "simulated ", NO_WAY_BACK),
    "no machine": (_changed("opens", lambda _: Misuse("no machine")), Topic.MACHINE, BAD, "no machine", MISUSE),
    "sealed to this machine as it is": (
        nothing, Topic.SEALED_TO, GOOD, "the mrsigner key of simulated .*, at .*cpu_svn 07.*, isv_svn 1$", NO_WAY_BACK
    ),
    "sealed to another machine": (_another_machine, Topic.SEALED_TO, WARNING, "which is another machine", CORRUPT),
    "sealed otherwise": (
        _slot(policy="mrenclave"), Topic.SEALED_TO, WARNING, "mrenclave key .*; this image seals to mrsigner", CORRUPT
    ),
    "sealed before an update": (
        _slot(versions={"isv_svn": "0"}), Topic.SEALED_TO, WARNING, r"at isv_svn 0 \(now 1\)", CORRUPT
    ),
    "sealed to who knows what": (_never, Topic.SEALED_TO, UNKNOWN, "not told", MISUSE),
    "it opens": (nothing, Topic.OPENS, GOOD, "opens here now", NO_WAY_BACK),
    "not tried without a record": (_never, Topic.OPENS, UNKNOWN, "not tried", MISUSE),
    "not tried without a machine": (_changed("opens", lambda _: Corrupt("x")), Topic.OPENS, UNKNOWN, "", CORRUPT),
    "of another machine": (_another_machine, Topic.OPENS, BAD, "sealed by machine a1", CORRUPT),
    "damaged": (_damaged, Topic.OPENS, BAD, "changed after it was sealed", CORRUPT),
    "a policy that cannot be read": (_no_policy, Topic.OPENS, BAD, "The record opens; The policy", CORRUPT),
    "the admins of the image, who have not signed": (
        _measured("ann"), Topic.ADMINS, WARNING, "would not believe .* never signed", NO_WAY_BACK
    ),
    "admins whom those of the image have put there": (
        _signed, Topic.ADMINS, GOOD, "others than are measured into the image, who have signed for them$", NO_WAY_BACK
    ),
    "other admins than the image's": (
        _measured("bob"), Topic.ADMINS, WARNING, "would not believe .* never signed", NO_WAY_BACK
    ),
    "admins of who knows what": (both(_measured("ann"), _damaged), Topic.ADMINS, UNKNOWN, "not told", CORRUPT),
    "accepted": (nothing, Topic.ACCEPTED, GOOD, "by the domain's policy", NO_WAY_BACK),
    "not accepted": (_not_accepted, Topic.ACCEPTED, WARNING, "MRSIGNER is", NO_WAY_BACK),
    "no collateral": (
        _collateral(lambda _: write_bundle([])), Topic.COLLATERAL, WARNING, "none is held for .* in /", NO_WAY_BACK
    ),
    "not tried without collateral": (
        _collateral(lambda _: write_bundle([])), Topic.ACCEPTED, UNKNOWN, "no collateral is held", NO_WAY_BACK
    ),
    "a collateral file that is none": (
        _collateral(lambda _: b"junk"), Topic.COLLATERAL, WARNING, "cannot be used", NO_WAY_BACK
    ),
    "held collateral": (_collateral(bundle), Topic.COLLATERAL, GOOD, "is good until", NO_WAY_BACK),
    "accepted by held collateral": (_collateral(bundle), Topic.ACCEPTED, GOOD, "its own evidence", NO_WAY_BACK),
    "held collateral that has expired": (_expired, Topic.ACCEPTED, UNKNOWN, "to be told now: .*expired", NO_WAY_BACK),
    "not tried unopened": (_damaged, Topic.ACCEPTED, UNKNOWN, "not tried", CORRUPT),
    "fresh collateral": (nothing, Topic.COLLATERAL, GOOD, "this machine's is good until", NO_WAY_BACK),
    "no copies": (nothing, Topic.KEPT_COPIES, GOOD, "none", NO_WAY_BACK),
    "a copy": (_kept, Topic.KEPT_COPIES, GOOD, "rkey.bin.kept.domain-x", NO_WAY_BACK),
    "no audit file yet": (nothing, Topic.AUDIT_FILE, GOOD, "a start makes it", NO_WAY_BACK),
    "an audit file": (_audit_is_there, Topic.AUDIT_FILE, GOOD, "can be appended to", NO_WAY_BACK),
    "a folder as audit file": (_audit_is_a_folder, Topic.AUDIT_FILE, BAD, "Is a directory", UNAVAILABLE),
    "a pipe as audit file": (_audit_is_a_pipe, Topic.AUDIT_FILE, BAD, "no regular file", MISUSE),
    "a link as audit file": (_audit_is_a_link, Topic.AUDIT_FILE, BAD, "symbolic links", UNAVAILABLE),
    "no audit file": (_audit_is_something_else, Topic.AUDIT_FILE, BAD, "is no audit file", MISUSE),
    "an audit file nowhere": (_set(audit=Path("/none/a")), Topic.AUDIT_FILE, BAD, "/none, .* not there", UNAVAILABLE),
    "no socket yet": (nothing, Topic.LOCAL_SOCKET, GOOD, "a start makes it", NO_WAY_BACK),
    "a socket": (_socket_is_there, Topic.LOCAL_SOCKET, GOOD, "is there", NO_WAY_BACK),
    "something else": (_set(socket=Path("/etc/passwd")), Topic.LOCAL_SOCKET, BAD, "something else", MISUSE),
    "a socket nowhere": (_set(socket=Path("/none/s")), Topic.LOCAL_SOCKET, BAD, "/none, .* not there", UNAVAILABLE),
    "a socket behind a file": (
        _set(socket=Path("/etc/passwd/s")), Topic.LOCAL_SOCKET, BAD, "Not a directory", UNAVAILABLE
    ),
    "a socket with a long name": (_set(socket=Path("/etc", "s" * 120)), Topic.LOCAL_SOCKET, BAD, "too long", MISUSE),
    "no instance": (nothing, Topic.INSTANCE, UNKNOWN, "none answers: No instance", NO_WAY_BACK),
    "an instance": (_runs(), Topic.INSTANCE, GOOD, "as standby; it serves this domain", NO_WAY_BACK),
    "one with another keystore": (
        _runs(audit={"path": "/elsewhere/a"}), Topic.INSTANCE, WARNING, "another audit file, /elsewhere/a", NO_WAY_BACK
    ),
    "one of another machine": (_runs(machine="c3" * 16), Topic.INSTANCE, WARNING, "of machine c3", NO_WAY_BACK),
    "one without a keyring": (_runs(domain=None), Topic.INSTANCE, WARNING, "no keyring yet", NO_WAY_BACK),
    "one of another domain": (_runs(domain=OTHER_DOMAIN), Topic.INSTANCE, WARNING, OTHER_DOMAIN, NO_WAY_BACK),
    "one that is elsewhere": (_runs(sequence=4), Topic.INSTANCE, WARNING, "sequence 4, .* at 1", NO_WAY_BACK),
    "one that says strange things": (_runs(role=[1], sequence={}), Topic.INSTANCE, WARNING, "", NO_WAY_BACK),
    "one that outlives its record": (both(_damaged, _runs()), Topic.INSTANCE, WARNING, "does not give", CORRUPT),
    "one without a record": (both(_never, _runs()), Topic.INSTANCE, WARNING, "does not give", MISUSE),
    "one without a machine": (
        both(_runs(), _changed("opens", lambda _: Misuse("x"))), Topic.INSTANCE, WARNING, "was not tried", MISUSE
    ),
    "no peer named": (nothing, Topic.PEER, UNKNOWN, "none was named", NO_WAY_BACK),
    "a peer that is silent": (_set(hosts=(PEER,)), Topic.PEER, WARNING, "does not answer", NO_WAY_BACK),
    "a peer": (_peer(heard()), Topic.PEER, GOOD, rf"serves domain {DOMAIN}, sequence 1 \(unproved\)", OK),
    "a peer that is ahead": (
        _peer(Heard(hint_at(2, domain=DOMAIN), ELSEWHERE)), Topic.PEER, WARNING, "sequence 2", OK
    ),
    "a peer that does not say who": (_peer(heard(machine_=None)), Topic.PEER, GOOD, DOMAIN, OK),
    "a peer that is this machine": (_this_very_machine, Topic.PEER, WARNING, "this very machine", NO_WAY_BACK),
    "a peer of another domain": (_peer(heard(OTHER_DOMAIN)), Topic.PEER, WARNING, OTHER_DOMAIN, NO_WAY_BACK),
    "a peer that would refuse": (_not_accepted_with_others, Topic.PEER, WARNING, "serves domain", NO_WAY_BACK),
    "a peer of who knows what": (both(_no_record, _peer(heard())), Topic.PEER, WARNING, "unproved", CORRUPT),
    "a peer of the wanted domain": (
        both(_no_record, _peer(heard()), _set(domain=DOMAIN)), Topic.PEER, GOOD, "unproved", CORRUPT
    ),
    "a peer whose policy is not believed": (
        both(_measured("bob"), _peer(heard())), Topic.PEER, WARNING, "serves domain", NO_WAY_BACK
    ),
    "a peer that is ahead of what is not believed": (
        both(_measured("bob"), _peer(Heard(hint_at(2), ELSEWHERE))), Topic.PEER, WARNING, "sequence 2", OK
    ),
    "another image on this machine, where this one opens nothing": (
        both(_damaged, _this_very_machine), Topic.PEER, GOOD, "serves domain", CORRUPT
    ),
    "no recovery": (nothing, Topic.RECOVERY, WARNING, "none: if every machine is lost", NO_WAY_BACK),
    "recovery": (_recovery, Topic.RECOVERY, GOOD, "1 of 1 recipients", OK),
    "recovery of who knows what": (_no_record, Topic.RECOVERY, UNKNOWN, "not known", CORRUPT),
    "recovery elsewhere only": (_not_accepted_with_others, Topic.RECOVERY, WARNING, "1 of 1", NO_WAY_BACK),
    "recovery of what is not believed": (
        both(_measured("bob"), _with_recipients), Topic.RECOVERY, WARNING, "1 of 1", NO_WAY_BACK
    ),
    "recovery without collateral": (
        both(_recovery, _collateral(lambda _: write_bundle([]))), Topic.RECOVERY, WARNING, "1 of 1", NO_WAY_BACK
    ),
    "a change": (nothing, Topic.CHANGE, WARNING, "microcode update: .*, and nothing brings", NO_WAY_BACK),
    "a change with a way back": (
        _recovery, Topic.CHANGE, GOOD, "microcode update: .* does not open after it; .* 1 of 1 recovery recipients$", OK
    ),
    "a change to who knows what": (_damaged, Topic.CHANGE, UNKNOWN, "not told", CORRUPT),
    "no way back to where nothing is believed": (_measured("bob"), Topic.WAYS_BACK, BAD, "nothing would", NO_WAY_BACK),
    "no way back": (nothing, Topic.WAYS_BACK, BAD, "nothing would open the domain here", NO_WAY_BACK),
    "no way back to where it is refused": (_not_accepted, Topic.WAYS_BACK, BAD, "nothing would", NO_WAY_BACK),
    "one way back": (_recovery, Topic.WAYS_BACK, GOOD, "it back: 1 of 1 recovery recipients", OK),
    "two ways back": (
        both(_recovery, _peer(heard())), Topic.WAYS_BACK, GOOD, "peer 10.0.0.2:8888 or 1 of 1 recovery recipients", OK
    ),
    "no way back any more": (_damaged, Topic.WAYS_BACK, BAD, "nothing that was looked at", CORRUPT),
    "a way back now": (both(_damaged, _peer(heard())), Topic.WAYS_BACK, WARNING, "peer 10.0.0.2:8888", CORRUPT),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_finding(place: Place, case: Case) -> None:
    arrange, topic, state, says, status = case
    arrange(place)
    before = {path: path.read_bytes() for path in place.folder.iterdir() if path.is_file()}
    examined = place.examine()
    found = of(examined, topic)
    assert found.state is state, found
    assert re.search(says, found.found), found
    assert examined.status == status, examined
    assert {path: path.read_bytes() for path in place.folder.iterdir() if path.is_file()} == before


def test_every_state_of_every_topic_is_in_the_table() -> None:
    found = {(topic, state) for _, topic, state, _, _ in CASES.values()}
    assert found == {
        *((topic, GOOD) for topic in Topic if topic not in {Topic.KEY_MEMORY, Topic.MACHINE}),
        *((topic, BAD) for topic in (Topic.RECORD, Topic.MACHINE, Topic.OPENS, Topic.AUDIT_FILE)),
        *((topic, BAD) for topic in (Topic.LOCAL_SOCKET, Topic.WAYS_BACK)),
        *((topic, WARNING) for topic in (Topic.CLOCK, Topic.MACHINE, Topic.ACCEPTED, Topic.INSTANCE, Topic.PEER)),
        *((topic, WARNING) for topic in (Topic.RECOVERY, Topic.WAYS_BACK, Topic.SEALED_TO, Topic.ADMINS)),
        *((topic, WARNING) for topic in (Topic.COLLATERAL, Topic.CHANGE)),
        *((topic, UNKNOWN) for topic in (Topic.SEALED_TO, Topic.ADMINS, Topic.CHANGE)),
        *((topic, UNKNOWN) for topic in (Topic.OPENS, Topic.ACCEPTED, Topic.INSTANCE, Topic.PEER, Topic.RECOVERY)),
    }, "but for those that have a test of their own below"


@pytest.mark.parametrize(("kind", "state"), [(MemoryKind.MEMFD_SECRET, GOOD), (MemoryKind.LOCKED, WARNING)])
def test_key_memory(place: Place, monkeypatch: pytest.MonkeyPatch, kind: MemoryKind, state: State) -> None:
    class Probe(SecretBytes):
        def __init__(self, size: int) -> None:
            super().__init__(size)
            self.kind = kind

    monkeypatch.setattr(surroundings, "SecretBytes", Probe)
    assert of(place.examine(), Topic.KEY_MEMORY).state is state


@pytest.mark.parametrize(("before", "state"), [(7 * DAY, GOOD), (7 * DAY - 1, WARNING), (3600, WARNING)])
def test_collateral_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, state: State) -> None:
    host = HostTime()
    own = machine(tmp_path / "machine", Clock(host))
    place = Place(tmp_path, own, host)
    issued = own._provisioned.issued
    monkeypatch.setattr(own, "_fresh", lambda _: True)  # it has no way out to fetch new
    host.now = issued + VALID_FOR - before
    found = of(place.examine(), Topic.COLLATERAL)
    assert found.state is state
    assert f"{before // 86400} days" in found.found


def test_after_an_update_of_microcode_it_says_what_changed_and_which_ways_there_are(place: Place) -> None:
    folder = place.folder / "machine"
    own = machine(folder)
    place.platform = own
    place.seal()
    _kept(place)
    place.has_peer()
    assert place.examine().status == 0
    set_microcode(folder, bytes(15) + b"\1")
    place.platform = SimulatedPlatform.look(folder, Clock(place.host))
    examined = place.examine()
    opens = of(examined, Topic.OPENS)
    assert "cpu_svn was" in opens.found
    assert "rkey.bin.kept.domain-x" in opens.advice
    assert "start with -i HOST" in opens.advice
    assert (examined.ways_back, examined.status) == (["peer 10.0.0.2:8888"], CORRUPT)


def test_a_record_of_another_machine_is_not_to_be_replaced(place: Place) -> None:
    place.seal(sealer=FakePlatform(sealer=FakeSealer(platform="simulated", machine="c4" * 16)))
    assert "move the file and all kept copies elsewhere" in of(place.examine(), Topic.OPENS).advice


def test_a_record_that_only_its_user_reads_is_no_damaged_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("rkeyserver.keystore.file_read.os.open", refuse)
    found = of(place.examine(), Topic.RECORD)
    assert (found.state, found.advice) == (BAD, "Run this as the user of the service, or as root.")


def test_a_folder_that_cannot_be_listed_is_said_to_be_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_record: Path) -> None:
        raise OSError(5, "Input/output error")

    place.record.unlink()
    monkeypatch.setattr("rkeyserver.service.doctor_look.refuse_lost", refuse)
    assert "cannot be listed: Input/output error" in of(place.examine(), Topic.RECORD).found


def test_an_audit_file_that_cannot_be_written(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a start finds it, whatever access(2) says of it: inside Gramine that says too much."""
    place.config.audit_path.write_text("")
    real = os.open

    def for_reading_only(path: Path, flags: int, *more: int) -> int:
        if path == place.config.audit_path and flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, flags, *more)

    monkeypatch.setattr(os, "open", for_reading_only)
    assert "cannot be used: Permission denied" in of(place.examine(), Topic.AUDIT_FILE).found


def test_a_folder_where_no_audit_file_can_be_made(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "not writable for this user" in of(place.examine(), Topic.AUDIT_FILE).found


def test_where_the_host_is_not_trusted_there_is_no_owner_s_socket(place: Place) -> None:
    place.platform = Untrusting()
    place.set(socket=Path("/etc/passwd"))
    examined = place.examine()
    assert Topic.LOCAL_SOCKET not in [one.topic for one in examined.findings]
    assert of(examined, Topic.MACHINE).state is GOOD


class Untrusting(FakePlatform):
    trusts_host = False
    simulated = False


def test_the_first_failure_gives_the_exit_status(place: Place) -> None:
    _damaged(place)
    _audit_is_a_folder(place)
    assert place.examine().status == CORRUPT


def test_the_page_has_every_topic_in_order() -> None:
    page = (ROOT / "docs" / "operations" / "doctor.md").read_text()
    assert [line[4:-1] for line in page.splitlines() if line.startswith("## `")] == [str(topic) for topic in Topic]


def test_a_simulated_machine_that_nobody_named_is_told_of(place: Place) -> None:
    place.set(platform=None)
    place.opens = Misuse("This machine has no SGX")
    assert "say --platform simulated" in of(place.examine(), Topic.MACHINE).advice


ALWAYS = ["1 of 1 recovery recipients"]


def of_kind(kind: Kind, why_not: str, ways: list[str]) -> Change:
    return Change(kind, opens=kind is Kind.IMAGE, accepted=not why_not, why_not=why_not, ways_back=ways)


CHANGES: dict[str, tuple[Callable[[Place], None], Change]] = {
    "microcode": (_recovery, of_kind(Kind.MICROCODE, "", ALWAYS)),
    "a later version": (_recovery, of_kind(Kind.LATER, "", [THE_IMAGE, *ALWAYS])),
    "a later version, alone": (nothing, of_kind(Kind.LATER, "", [THE_IMAGE])),
    "an earlier version": (_rules(min_isv_svn=0), of_kind(Kind.EARLIER, "", [THE_IMAGE])),
    "an earlier version, below the floor": (nothing, of_kind(Kind.EARLIER, "min_isv_svn is 1", [])),
    "another image": (nothing, of_kind(Kind.IMAGE, "", [THE_IMAGE])),
    "another image that is not named": (_just_this_image, of_kind(Kind.IMAGE, "it names no other MRENCLAVE", [])),
    "another signer": (nothing, of_kind(Kind.SIGNER, "it names no other MRSIGNER", [])),
    "another signer that is named": (_two_signers, of_kind(Kind.SIGNER, "", [THE_IMAGE])),
    "a later version beside": (_this_very_machine, of_kind(Kind.LATER, "", [THE_IMAGE, f"peer {PEER}"])),
    "microcode beside": (_this_very_machine, of_kind(Kind.MICROCODE, "", [])),
    "a later version of what is not believed": (_measured("bob"), of_kind(Kind.LATER, "", [])),
    "beside what is not believed": (both(_measured("bob"), _this_very_machine), of_kind(Kind.LATER, "", [])),
    "a later version without collateral": (_collateral(lambda _: write_bundle([])), of_kind(Kind.LATER, "", [])),
}


@pytest.mark.parametrize(("arrange", "wanted"), CHANGES.values(), ids=CHANGES)
def test_what_a_change_comes_to(place: Place, arrange: Callable[[Place], None], wanted: Change) -> None:
    arrange(place)
    assert [one for one in place.examine().changes if one.kind is wanted.kind] == [wanted]


def test_a_record_of_one_image_alone_opens_with_no_other(place: Place, tmp_path: Path) -> None:
    own = machine(tmp_path / "machine")
    own.key_policy = KeyPolicy.MRENCLAVE
    place.platform = own
    place.seal()
    assert [one.opens for one in place.examine().changes] == [False] * len(Kind)


def test_what_does_not_open_now_has_no_changes(place: Place) -> None:
    _damaged(place)
    assert place.examine().changes == []
