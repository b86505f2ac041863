"""The operations of the test vectors, carried out by rkeyserver. spec_reference/ carries out the same by the spec."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.fakes.keyrings import MEMBER, OWNER

from rkeyserver import secret
from rkeyserver.appraisal import change, succession
from rkeyserver.appraisal.applications import appraise_application
from rkeyserver.appraisal.appraise import appraise
from rkeyserver.appraisal.policy import AdminsTable, parse_policy
from rkeyserver.attestation.evidence import Identity
from rkeyserver.attestation.report_data import report_data, transcript_hash
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.clock import Clock
from rkeyserver.errors import Rejected, RkeyError
from rkeyserver.exchange import hpke, messages
from rkeyserver.exchange.attested import Verifier
from rkeyserver.exchange.primary import Granter
from rkeyserver.exchange.standby import Asking, Greeting, Requesting
from rkeyserver.framing import framed
from rkeyserver.keyring import wrapping
from rkeyserver.keyring.derivation import derive_into, domain_id, generation_id
from rkeyserver.keyring.generations import Generation, GenerationState
from rkeyserver.keyring.keyring import Keyring, KeyringHeader
from rkeyserver.keyring.sealed import open_keyring
from rkeyserver.platforms.simulated import anchor, image, keys, processor, quoting
from rkeyserver.sealing import record, recovery, wrap
from rkeyserver.sealing.sealer import SealingIdentity
from rkeyserver.secret import SecretBytes
from rkeyserver.service.verification import InlineVerifier

Json = dict[str, Any]
Operation = Callable[[Json], Any]

MESSAGES: Final[dict[str, type[messages.Message]]] = {
    "hello": messages.Hello,
    "challenge-body": messages.ChallengeBody,
    "challenge": messages.Challenge,
    "attested": messages.AttestedMessage,
    "request-claims": messages.RequestClaims,
    "request": messages.Request,
    "grant-claims": messages.GrantClaims,
    "members": messages.Members,
    "grant": messages.Grant,
    "recovery-request-claims": messages.RecoveryRequestClaims,
    "recovery-request": messages.RecoveryRequest,
    "recovery-contribution": messages.RecoveryContribution,
    "wanted-key": messages.WantedKey,
    "release-request-claims": messages.ReleaseRequestClaims,
    "release-request": messages.ReleaseRequest,
    "release-claims": messages.ReleaseClaims,
    "release": messages.Release,
    "mint-statement-claims": messages.MintStatementClaims,
    "mint-statement": messages.MintStatement,
}


def failure(error: Exception) -> str:
    """An error as vectors name it: its reason, or its type."""
    if isinstance(error, Rejected):
        return str(error.reason)
    assert isinstance(error, RkeyError), f"an error that is none of ours: {error!r}"
    return type(error).__name__


@contextlib.contextmanager
def randomness(*given: bytes) -> Iterator[None]:
    """Key memory and salts take these bytes, in this order, for random ones."""
    queue = list(given)

    def fill(view: memoryview) -> None:
        view[:] = queue.pop(0)

    def urandom(size: int) -> bytes:
        assert len(queue[0]) == size
        return queue.pop(0)

    os = SimpleNamespace(urandom=urandom)
    before: list[tuple[Any, str, Any]] = [(secret, "fill_random", fill), (wrap, "os", os), (recovery, "os", os)]
    before.append((wrapping, "os", os))
    kept = [getattr(module, name) for module, name, _ in before]
    for module, name, replacement in before:
        setattr(module, name, replacement)
    try:
        yield
        assert not queue, "randomness was given that nothing took"
    finally:
        for (module, name, _), value in zip(before, kept, strict=True):
            setattr(module, name, value)


def key_memory(data: bytes) -> SecretBytes:
    made = SecretBytes(len(data))
    made.view[:] = data
    return made


def unhex(value: Any) -> Any:
    """A field of a message: {"hex": …} are bytes, {"message": …} is another message, the rest is itself."""
    if isinstance(value, dict) and "hex" in value:
        return bytes.fromhex(value["hex"])
    if isinstance(value, dict):
        return message_of(value)
    if isinstance(value, list):
        return [unhex(one) for one in value]
    return value


def message_of(case: Json) -> Any:
    fields = {name: unhex(value) for name, value in case["fields"].items()}
    if case["message"] == "known-member":
        return record.KnownMember(**fields)
    return MESSAGES[case["message"]](**fields)


# --- report-data.json, messages.json


def frame(case: Json) -> str:
    return framed(*map(bytes.fromhex, case["parts"])).hex()


def transcript(case: Json) -> str:
    return transcript_hash(*map(bytes.fromhex, case["messages"])).hex()


def bind(case: Json) -> str:
    return report_data(case["context"], bytes.fromhex(case["transcript"]), bytes.fromhex(case["claims"])).hex()


def encode(case: Json) -> str:
    return messages.encode(message_of(case)).hex()


def decode(case: Json) -> str:
    kind: Any = MESSAGES[case["message"]]
    return messages.encode(messages.decode(bytes.fromhex(case["bytes"]), kind)).hex()


@dataclass(frozen=True)
class FixedAttester:
    """Gives an identity, and for evidence bytes that nobody verifies."""

    platform: str
    machine: str
    waits = False

    def attester_identity(self) -> Identity:
        return Identity(self.platform, self.machine)

    def evidence(self, report_data: bytes) -> bytes:
        return b"no quote " + report_data

    def endorsements(self) -> bytes:
        return b""


def _verifiers() -> dict[str, Verifier]:
    return {"simulated": InlineVerifier(anchor.verify)}


def _granter(case: Json) -> Granter:
    with randomness(bytes.fromhex(case["mac_key"])):
        return Granter(
            attester=FixedAttester("simulated", case["primary_machine"]),
            verifiers=_verifiers(),
            clock=Clock(lambda: case["now"]),
            random=lambda _size: bytes.fromhex(case["challenge_nonce"]),
            instance=bytes.fromhex(case["primary_instance"]),
            audit_head=lambda: bytes(32),
        )


def challenge(case: Json) -> str:
    granter = _granter(case)
    try:
        return granter.challenge(bytes.fromhex(case["bytes"])).hex()
    finally:
        granter.close()


# --- hpke.json


def one_time_key(case: Json) -> hpke.OneTimeKey:
    mlkem = MLKEM768PrivateKey.from_seed_bytes(bytes.fromhex(case["mlkem_seed"]))
    x25519 = X25519PrivateKey.from_private_bytes(bytes.fromhex(case["x25519_private"]))
    made = hpke.OneTimeKey()
    made._private = MLKEM768X25519PrivateKey(mlkem, x25519)
    made.public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
    return made


def hpke_public(case: Json) -> str:
    return one_time_key(case).public.hex()


def hpke_open(case: Json) -> str:
    with one_time_key(case).open(bytes.fromhex(case["bytes"]), bytes.fromhex(case["info"])) as plaintext:
        return plaintext.view.hex()


def hpke_seal(case: Json) -> None:
    hpke.seal(memoryview(b"x"), bytes.fromhex(case["bytes"]), b"")


# --- keyring.json


def id_of_domain(case: Json) -> str:
    return domain_id(memoryview(bytes.fromhex(case["domain_secret"])))


def id_of_generation(case: Json) -> str:
    return generation_id(memoryview(bytes.fromhex(case["root_key"])), case["domain"])


def derive(case: Json) -> str:
    out = bytearray(case["length"])
    derive_into(
        memoryview(bytes.fromhex(case["root_key"])),
        domain=case["domain"],
        purpose=case["purpose"],
        label=bytes.fromhex(case["label"]),
        into=memoryview(out),
    )
    return out.hex()


def mint(case: Json) -> str:
    with randomness(bytes.fromhex(case["domain_secret"] + case["root_key"])):
        keyring = Keyring.mint(primary=case["primary"], now=case["now"], policy=case["policy"])
    try:
        return keyring.view.hex()
    finally:
        keyring.close()


def keyring_bytes(case: Json) -> str:
    """A keyring of any state."""
    root_keys = [bytes.fromhex(one["root_key"]) for one in case["generations"]]
    domain = domain_id(memoryview(bytes.fromhex(case["domain_secret"])))
    header = KeyringHeader(
        version=1,
        domain=domain,
        epoch=case["epoch"],
        sequence=case["sequence"],
        primary=case["primary"],
        generations=[
            Generation(
                id=generation_id(memoryview(key), domain), created=one["created"], state=GenerationState(one["state"])
            )
            for key, one in zip(root_keys, case["generations"], strict=True)
        ],
        policy=case["policy"],
        changes=case.get("changes", []),
    )
    encoded = msgspec.json.encode(header)
    return b"".join((len(encoded).to_bytes(4, "big"), encoded, bytes.fromhex(case["domain_secret"]), *root_keys)).hex()


def read_keyring(case: Json) -> Json:
    keyring = Keyring.parse(key_memory(bytes.fromhex(case["bytes"])))
    try:
        return {
            "domain": keyring.domain,
            "generations": list(keyring.generation_ids),
            "current": keyring.current.id,
            "root_key": keyring.root_key(keyring.current.id).hex(),
        }
    finally:
        keyring.close()


def extends(case: Json) -> bool:
    one, other = (Keyring.parse(key_memory(bytes.fromhex(case[name]))) for name in ("new", "old"))
    try:
        return one.extends(other)
    finally:
        one.close()
        other.close()


# --- record.json


@dataclass(frozen=True)
class GivenKeySealer:
    """Any platform that gives this key."""

    key: bytes
    its: SealingIdentity

    def identity(self) -> SealingIdentity:
        return self.its

    def seal(self, secret: memoryview, associated_data: bytes) -> bytes:
        return wrap.wrap(memoryview(self.key), secret, associated_data)

    def unseal(self, blob: bytes, associated_data: bytes, into: memoryview) -> None:
        wrap.unwrap(memoryview(self.key), blob, associated_data, into)


def _sealer(case: Json) -> GivenKeySealer:
    here = SealingIdentity(case["platform"], case["machine"], case["policy"], case["versions"])
    return GivenKeySealer(bytes.fromhex(case["platform_key"]), here)


def wrap_key(case: Json) -> str:
    with randomness(bytes.fromhex(case["salt"])):
        wrapped = wrap.wrap(
            memoryview(bytes.fromhex(case["platform_key"])),
            memoryview(bytes.fromhex(case["record_key"])),
            bytes.fromhex(case["slot_data"]),
        )
    return wrapped.hex()


def unwrap_key(case: Json) -> str:
    with SecretBytes(32) as found:
        wrap.unwrap(
            memoryview(bytes.fromhex(case["platform_key"])),
            bytes.fromhex(case["bytes"]),
            bytes.fromhex(case["slot_data"]),
            found.view,
        )
        return found.view.hex()


def seal_record(case: Json) -> str:
    contents = record.Contents(
        case["domain"],
        tuple(case["generations"]),
        case["epoch"],
        case["sequence"],
        case["written"],
        case["member"],
        tuple(msgspec.convert(case["members"], list[record.KnownMember])),
    )
    with (
        randomness(bytes.fromhex(case["record_key"]), bytes.fromhex(case["salt"])),
        key_memory(bytes.fromhex(case["keyring"])) as plaintext,
    ):
        return record.seal(contents, plaintext.view, _sealer(case)).hex()


def open_record(case: Json) -> str:
    keyring = open_keyring(record.parse(bytes.fromhex(case["bytes"])), _sealer(case))
    try:
        return keyring.view.hex()
    finally:
        keyring.close()


# --- simulated.json


def _processor(case: Json) -> processor.Processor:
    return processor.Processor(
        fuses=bytes.fromhex(case["fuses"]),
        ppid=bytes.fromhex(case["ppid"]),
        cpu_svn=bytes.fromhex(case["cpu_svn"]),
        pce_svn=case["pce_svn"],
    )


def _enclave(case: Json) -> image.EnclaveIdentity:
    return image.EnclaveIdentity(
        mrenclave=bytes.fromhex(case["mrenclave"]),
        mrsigner=bytes.fromhex(case["mrsigner"]),
        isv_prod_id=case["isv_prod_id"],
        isv_svn=case["isv_svn"],
        attributes=bytes.fromhex(case["attributes"]),
    )


def sealing_key(case: Json) -> str:
    with SecretBytes(processor.SEAL_KEY_SIZE) as key:
        _processor(case).seal_key(processor.KeyPolicy(case["policy"]), _enclave(case), key.view)
        return key.view.hex()


def _point(key: ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:].hex()


def pck(case: Json) -> str:
    return _point(_processor(case).pck_key())


def development_key(case: Json) -> str:
    return _point(keys.ec_key(case["sentence"]))


def quote_head(case: Json) -> str:
    enclave = quoting.QuotingEnclave(_processor(case), "no certificate")
    return enclave.quote(_enclave(case), bytes.fromhex(case["report_data"]))[:432].hex()


def quoting_enclave(case: Json) -> str:
    return quoting.report_body(_processor(case), quoting.QUOTING_ENCLAVE, bytes.fromhex(case["report_data"])).hex()


def _image(case: Json) -> bytes:
    return bytes.fromhex(case["image"]) * int(case.get("repeat", 1))


def measure(case: Json) -> str:
    return image.measure(_image(case)).hex()


def sign(case: Json) -> str:
    key = keys.image_signing_key()
    return image.sign_image(_image(case), key, case["isv_prod_id"], case["isv_svn"]).hex()


def load(case: Json) -> Json:
    found = image.load_signed(bytes.fromhex(case["bytes"]))
    return {
        "mrenclave": found.mrenclave.hex(),
        "mrsigner": found.mrsigner.hex(),
        "isv_prod_id": found.isv_prod_id,
        "isv_svn": found.isv_svn,
        "attributes": found.attributes.hex(),
    }


def read_processor(case: Json) -> Json:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / processor.STATE_FILE).write_text(case["text"], "utf-8")
        found = processor.open_processor(Path(folder))
    return {
        "fuses": found.fuses.hex(),
        "ppid": found.ppid.hex(),
        "cpu_svn": found.cpu_svn.hex(),
        "pce_svn": found.pce_svn,
    }


# --- policy.json


def read_policy(case: Json) -> str:
    return parse_policy(case["text"] + "#" * case.get("comment", 0)).digest


def proved(given: Json) -> SgxClaims:
    return SgxClaims(
        **given
        | {
            "advisory_ids": tuple(given["advisory_ids"]),
            "report_data": bytes(64),
            "fmspc": "",
            "attributes": "",
            "cpu_svn": "",
            "pce_svn": 0,
            "sgx_type": 0,
            "issued": 0,
        }
    )


def judge(case: Json) -> str:
    return appraise(proved(case["claims"]), parse_policy(case["text"]), now=case["now"]).policy


def judge_application(case: Json) -> str:
    policy = parse_policy(case["text"])
    return appraise_application(proved(case["claims"]), policy, now=case["now"]).application.label


# --- exchange.json


def primary(case: Json) -> str:
    """The keyring that the standby would get for this request."""
    granter, policy = _granter(case), parse_policy(case["policy"])
    keyring = Keyring.parse(key_memory(bytes.fromhex(case["keyring"])))
    request = bytes.fromhex(case["bytes"])
    try:
        for _ in range(1 + case.get("sent_before", 0)):
            proved = asyncio.run(granter.prove(request, policy))
        grant = messages.decode(
            granter.grant(granter.seal(granter.appraise(proved, policy), keyring, OWNER)), messages.Grant
        )
    finally:
        granter.close()
        keyring.close()
    with one_time_key(case).open(grant.ciphertext, proved.transcript) as found:
        return found.view.hex()


def _asking(case: Json) -> Asking:
    return Asking(
        attester=FixedAttester("simulated", case["standby_machine"]),
        verifiers=_verifiers(),
        policy=parse_policy(case["policy"]),
        clock=Clock(lambda: case["now"]),
        random=lambda _size: bytes.fromhex(case["request_nonce"]),
        instance=bytes.fromhex(case["standby_instance"]),
        held=None,
        admins=None,
        member=MEMBER,
        address="",
        holds=None,
        audit_head=lambda: bytes(32),
    )


def greet(case: Json) -> str:
    return Greeting.begin(_asking(case)).message.hex()


def challenged(case: Json) -> str:
    """What the standby says of itself in answer to a challenge, less key and evidence, which are random."""
    requesting = Greeting.begin(_asking(case)).challenged(bytes.fromhex(case["bytes"]))
    request = messages.decode(requesting.message, messages.Request)
    return messages.decode(request.attested.claims, messages.RequestClaims).nonce.hex()


def standby(case: Json) -> str:
    hello, chall, request = (bytes.fromhex(case[name]) for name in ("hello", "challenge", "request"))
    requesting = Requesting(
        message=request,
        asking=_asking(case),
        peer=Identity("simulated", case["primary_machine"]),
        nonce=bytes.fromhex(case["request_nonce"]),
        transcript=transcript_hash(hello, chall, request),
        _key=one_time_key(case),
    )
    received = asyncio.run(requesting.granted(bytes.fromhex(case["bytes"])))
    try:
        return received.keyring.view.hex()
    finally:
        received.keyring.close()


# --- change.json


def signed_bytes(case: Json) -> str:
    given = {name: case[name] for name in ("domain", "sequence", "replaces", "policy")}
    return change.propose(**given).signed_bytes().hex()


def sign_change(case: Json) -> str:
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(case["seed"]))
    return change.sign(change.parse_change(case["change"]), key).text()


def read_change(case: Json) -> Json:
    found = change.parse_change(bytes.fromhex(case["bytes"]))
    return {
        "domain": found.domain,
        "sequence": found.sequence,
        "replaces": found.replaces,
        "policy": change.digest(found.policy),
        "signed_by": [one.key.removeprefix("ssh-ed25519 ") for one in found.signatures],
    }


def _judged(case: Json) -> tuple[change.PolicyChange, AdminsTable | None]:
    """As a primary does, as far as it needs no machine."""
    found = change.parse_change(case["change"])
    change.check_next(found, domain=case["domain"], policy=case["policy"], changes=case["chain"])
    parse_policy(found.policy)
    admins = parse_policy(case["policy"]).admins
    change.check_authority(found, admins, owner=case["owner"])
    return found, admins


def check_change(case: Json) -> int:
    return _judged(case)[0].sequence


def chain_after(case: Json) -> list[str]:
    found, admins = _judged(case)
    return change.appended(case["chain"], found, admins=admins)


def believe(case: Json) -> int:
    admins = msgspec.convert(case["admins"], AdminsTable)
    return succession.believe(domain=case["domain"], policy=case["policy"], changes=case["chain"], admins=admins)


def _held(keyring: Json | None) -> succession.Held | None:
    if keyring is None:
        return None
    return succession.Held(**{"changes" if name == "chain" else name: value for name, value in keyring.items()})


def succeed(case: Json) -> int:
    found = _held(case["found"])
    assert found is not None
    admins = None if case["admins"] is None else msgspec.convert(case["admins"], AdminsTable)
    succession.check_succession(found, held=_held(case["held"]), root=admins)
    return change.last_sequence(found.changes)


OPERATIONS: Final[dict[str, Operation]] = {
    "frame": frame,
    "transcript": transcript,
    "bind": bind,
    "encode": encode,
    "decode": decode,
    "challenge": challenge,
    "hpke public key": hpke_public,
    "hpke open": hpke_open,
    "hpke seal": hpke_seal,
    "domain id": id_of_domain,
    "generation id": id_of_generation,
    "derive": derive,
    "mint": mint,
    "write keyring": keyring_bytes,
    "read keyring": read_keyring,
    "extends": extends,
    "wrap": wrap_key,
    "unwrap": unwrap_key,
    "seal": seal_record,
    "open": open_record,
    "sealing key": sealing_key,
    "pck": pck,
    "development key": development_key,
    "quote head": quote_head,
    "quoting enclave": quoting_enclave,
    "measure": measure,
    "sign": sign,
    "load": load,
    "read processor": read_processor,
    "read policy": read_policy,
    "appraise": judge,
    "appraise application": judge_application,
    "signed bytes": signed_bytes,
    "sign change": sign_change,
    "read change": read_change,
    "apply": check_change,
    "chain after": chain_after,
    "believe": believe,
    "succeed": succeed,
    "greet": greet,
    "answer challenge": challenged,
    "answer request": primary,
    "read grant": standby,
}
