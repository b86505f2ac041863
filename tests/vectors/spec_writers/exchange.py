"""exchange.json: one whole hand-over between two simulated machines, and what goes wrong with it.

The quotes in it are recorded, since their signatures are random. What only the sender could have vouched for (a wrong
nonce in a genuine grant, say) is recorded with them, as changes of the genuine message.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
from tests.fakes.keyrings import MEMBER, OWNER
from tests.fakes.members import MEMBERS, MEMBERS_SHA512
from tests.vectors.spec_cases import Json, load
from tests.vectors.spec_rkeyserver import OPERATIONS, key_memory, one_time_key, randomness
from tests.vectors.spec_writers.common import NOW, case, complete, numbered
from tests.vectors.spec_writers.keyring import DOMAIN_SECRET, ROOT_KEY

from rkeyserver.appraisal.defaults import default_policy
from rkeyserver.appraisal.policy import parse_policy
from rkeyserver.attestation.report_data import report_data, transcript_hash
from rkeyserver.clock import Clock
from rkeyserver.exchange import hpke, messages, standby
from rkeyserver.exchange.attested import Context
from rkeyserver.exchange.messages import AttestedMessage
from rkeyserver.exchange.primary import Granter
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.platforms.simulated import image, keys
from rkeyserver.platforms.simulated.image import EnclaveIdentity
from rkeyserver.platforms.simulated.platform import SimulatedPlatform
from rkeyserver.platforms.simulated.processor import Processor
from rkeyserver.service.verification import InlineVerifier

FILE: Final = "exchange.json"


def fixed() -> Json:
    """All inputs that are the same for every recording, and the messages that have no randomness of their own."""
    mrsigner = image.load_signed(_signed()).mrsigner.hex()
    policy = default_policy("simulated", mrsigner=mrsigner, isv_prod_id=1).text
    shared: Json = {
        "now": NOW,
        "mac_key": numbered(0xE0, 32),
        "primary_instance": numbered(0x60, 16),
        "primary_machine": numbered(0x70, 16),
        "standby_instance": numbered(0x10, 16),
        "standby_machine": numbered(0x20, 16),
        "challenge_nonce": numbered(0x40, 32),
        "request_nonce": numbered(0x80, 32),
        "mlkem_seed": numbered(0, 64),
        "x25519_private": numbered(0x80, 32),
        "policy": policy,
    }
    shared["keyring"] = OPERATIONS["mint"](
        {"domain_secret": DOMAIN_SECRET, "root_key": ROOT_KEY, "now": 1000, "policy": policy, "primary": "90" * 16}
    )
    shared["hello"] = OPERATIONS["greet"](shared)
    shared["challenge"] = OPERATIONS["challenge"](shared | {"bytes": shared["hello"]})
    return shared


def _signed() -> bytes:
    return image.sign_image(b"no program", keys.image_signing_key(), 1, 1)


def _platform(folder: Path, ppid: str, fuses: str) -> SimulatedPlatform:
    folder.mkdir()
    processor = Processor(bytes.fromhex(fuses), bytes.fromhex(ppid), bytes([7]).ljust(16, b"\0"), 13)
    return SimulatedPlatform(processor, image.load_signed(_signed()), folder, Clock(lambda: NOW))


def splices(base: bytes, other: bytes) -> list[list[Any]]:
    """The changes that make `other` of `base`."""
    if len(base) != len(other):
        start = next(index for index in range(len(base)) if base[index] != other[index])
        end = next(index for index in range(1, len(base)) if base[-index] != other[-index]) - 1
        end = min(end, len(base) - start, len(other) - start)
        return [[start, len(base) - end - start, other[start : len(other) - end].hex()]]
    found: list[list[int]] = []
    for index, (one, two) in enumerate(zip(base, other, strict=True)):
        if one != two:
            if found and index - found[-1][1] < 16:
                found[-1][1] = index + 1
            else:
                found.append([index, index + 1])
    return [[start, end - start, other[start:end].hex()] for start, end in found]


@dataclass(frozen=True)
class Recorder:
    """The two machines, and all that one hand-over between them needs."""

    shared: Json
    primary: SimulatedPlatform
    standby: SimulatedPlatform

    def hex(self, name: str) -> bytes:
        return bytes.fromhex(self.shared[name])

    def request(self) -> bytes:
        """The request of the real standby's code, with the given one-time key."""
        asking = standby.Asking(
            attester=self.standby,
            verifiers={},
            policy=parse_policy(self.shared["policy"]),
            clock=Clock(lambda: NOW),
            random=lambda _size: self.hex("request_nonce"),
            instance=self.hex("standby_instance"),
            held=None,
            admins=None,
            member=MEMBER,
            address="",
            holds=None,
            audit_head=lambda: bytes.fromhex(numbered(0x60, 32)),
        )
        setattr(standby, "OneTimeKey", lambda: one_time_key(self.shared))  # noqa: B010 - no attribute of that type
        try:
            return standby.Greeting.begin(asking).challenged(self.hex("challenge")).message
        finally:
            setattr(standby, "OneTimeKey", hpke.OneTimeKey)  # noqa: B010 - mypy takes an assignment for one of another type

    def grant(self, request: bytes) -> bytes:
        """The grant of the real primary's code."""
        with randomness(self.hex("mac_key")):
            granter = Granter(
                attester=self.primary,
                verifiers={"simulated": InlineVerifier(self.primary.verify)},
                clock=Clock(lambda: NOW),
                random=lambda _size: self.hex("challenge_nonce"),
                instance=self.hex("primary_instance"),
                audit_head=lambda: bytes.fromhex(numbered(0x60, 32)),
            )
        policy = parse_policy(self.shared["policy"])
        keyring = Keyring.parse(key_memory(self.hex("keyring")))
        accepted = granter.appraise(asyncio.run(granter.prove(request, policy)), policy)
        found = granter.grant(granter.seal(accepted, keyring, OWNER))
        keyring.close()
        granter.close()
        return found

    def requests(self, request: bytes) -> Iterator[tuple[str, bytes]]:
        """Requests that are genuine in all but one thing."""
        good = messages.decode(request, messages.Request)
        claims = messages.decode(good.attested.claims, messages.RequestClaims)
        transcript = transcript_hash(good.hello, good.challenge)

        def with_(
            changed: bytes | None = None,
            context: Context = Context.HAND_OVER_REQUEST,
            enclave: EnclaveIdentity = self.standby.enclave,
        ) -> bytes:
            claims_bytes = good.attested.claims if changed is None else changed
            evidence = self.standby._quoting.quote(enclave, report_data(context, transcript, claims_bytes))
            attested = AttestedMessage(claims=claims_bytes, evidence=evidence, endorsements=good.attested.endorsements)
            return messages.encode(msgspec.structs.replace(good, attested=attested))

        no_key = msgspec.structs.replace(claims, kem_public_key=claims.kem_public_key[:1184] + bytes(32))
        yield "vouched for as a grant", with_(context=Context.HAND_OVER_GRANT)
        yield "with a one-time key that is none", with_(messages.encode(no_key))
        debug = replace(self.standby.enclave, attributes=bytes.fromhex("07000000000000000300000000000000"))
        yield "of a debug enclave", with_(enclave=debug)
        yield "of another signer's image", with_(enclave=replace(self.standby.enclave, mrsigner=bytes(32)))
        named = dict(self.shared) | {"standby_machine": "00" * 16}
        hello = OPERATIONS["greet"](named)
        challenge = bytes.fromhex(OPERATIONS["challenge"](named | {"bytes": hello}))
        transcript = transcript_hash(bytes.fromhex(hello), challenge)
        good = msgspec.structs.replace(good, hello=bytes.fromhex(hello), challenge=challenge)
        yield "of another machine than the hello names", with_()

    def grants(self, request: bytes, grant: bytes) -> Iterator[tuple[str, bytes]]:
        """Grants that the primary itself vouched for, wrong in one thing."""
        good = messages.decode(grant, messages.Grant)
        transcript = transcript_hash(self.hex("hello"), self.hex("challenge"), request)
        endorsements = good.attested.endorsements

        def with_(
            ciphertext: bytes = good.ciphertext,
            nonce: bytes = self.hex("request_nonce"),
            answer: bytes = b"",
            context: Context = Context.HAND_OVER_GRANT,
            digest: bytes | None = None,
        ) -> bytes:
            digest = hashlib.sha512(ciphertext).digest() if digest is None else digest
            claims = messages.encode(
                messages.GrantClaims(
                    members_sha512=MEMBERS_SHA512,
                    ciphertext_sha512=digest,
                    nonce=nonce,
                    credential_answer=answer,
                    audit_head=bytes(32),
                )
            )
            evidence = self.primary.evidence(report_data(context, transcript, claims))
            attested = AttestedMessage(claims=claims, evidence=evidence, endorsements=endorsements)
            return messages.encode(messages.Grant(attested=attested, ciphertext=ciphertext, members=MEMBERS))

        def sealed(keyring: bytes, info: bytes = transcript) -> bytes:
            return hpke.seal(memoryview(keyring), one_time_key(self.shared).public, info)

        keyring = self.hex("keyring")
        signer = self.primary.mrsigner
        yield "vouched for as a request", with_(context=Context.HAND_OVER_REQUEST)
        yield "for another request's nonce", with_(nonce=bytes(32))
        yield "with the digest of another ciphertext", with_(digest=bytes(64))
        yield "with a credential's answer", with_(answer=b"\xaa")
        yield "sealed under another transcript", with_(sealed(keyring, bytes(64)))
        yield "of a keyring whose key is not its id's", with_(sealed(keyring[:-1] + bytes([keyring[-1] ^ 1])))
        other = keyring.replace(signer.encode(), b"00" * 32)
        yield "of a domain whose policy refuses the primary", with_(sealed(other))
        broken = keyring.replace(b"version = 1", b"version = 9")
        yield "of a domain whose policy cannot be read", with_(sealed(broken))


def record(shared: Json) -> Json:
    """What is random by nature, made anew."""
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(
            shared,
            _platform(Path(folder) / "primary", shared["primary_machine"], numbered(1, 32)),
            _platform(Path(folder) / "standby", shared["standby_machine"], numbered(2, 32)),
        )
        request = recorder.request()
        grant = recorder.grant(request)
        return {
            "request": request.hex(),
            "grant": grant.hex(),
            "request_variants": {name: splices(request, other) for name, other in recorder.requests(request)},
            "grant_variants": {name: splices(grant, other) for name, other in recorder.grants(request, grant)},
        }


REQUEST_ENDS: Final = {
    "vouched for as a grant": "not-bound",
    "with a one-time key that is none": "malformed",
    "of a debug enclave": "debug-enclave",
    "of another signer's image": "wrong-signer",
    "of another machine than the hello names": "identity-changed",
}
GRANT_ENDS: Final = {
    "vouched for as a request": "not-bound",
    "for another request's nonce": "not-bound",
    "with the digest of another ciphertext": "not-bound",
    "with a credential's answer": "malformed",
    "sealed under another transcript": "not-bound",
    "of a keyring whose key is not its id's": "key-id-mismatch",
    "of a domain whose policy refuses the primary": "policy-not-believed",
    "of a domain whose policy cannot be read": "policy-not-believed",
}
# What only a verifier of quotes can find: the reference has none.
PROVED_ONLY: Final = {"of another machine than the hello names"}


def content(*, record_anew: bool) -> Json:
    """The file's content; record_anew: with new quotes."""
    shared = fixed()
    names = ("request", "grant", "request_variants", "grant_variants")
    recorded = record(shared) if record_anew else {name: load(FILE)["shared"][name] for name in names}
    shared |= recorded
    return complete(
        FILE,
        "one hand-over between two simulated machines (exchange.md); request and grant are recorded",
        [*_beginning(shared), *_requests(shared), *_grants(shared)],
        shared,
    )


def _flip(data: bytes, at: int) -> list[list[Any]]:
    return [[at, 1, bytes([data[at] ^ 1]).hex()]]


def _beginning(shared: Json) -> list[Json]:
    challenge = bytes.fromhex(shared["challenge"])
    credential = challenge.index(b"credential") + len(b"credential")
    length = challenge.index(b"body") + len(b"body") + 1
    instance = bytes.fromhex(shared["primary_instance"])
    size = challenge[length]
    return [
        case("hello", "greet", out=shared["hello"]),
        case("challenge for the hello", "challenge", of="hello", changes=[], out=shared["challenge"]),
        case("answer", "answer challenge", of="challenge", changes=[], out=shared["request_nonce"]),
        case(
            "challenge from oneself",
            "answer challenge",
            of="challenge",
            changes=[[challenge.index(instance), 16, shared["standby_instance"]]],
            error="talking-to-itself",
        ),
        case(
            "challenge with a credential",
            "answer challenge",
            of="challenge",
            changes=[[credential, 2, "c401aa"], [length, 1, f"{size + 1:02x}"]],
            error="malformed",
        ),
        case("challenge cut", "answer challenge", of="challenge", changes=[[len(challenge) - 1, 1, ""]])
        | {"error": "malformed"},
        case("challenge too long", "answer challenge", of="challenge", changes=[[0, 0, "00", 65_536]])
        | {"error": "too-large"},
    ]


def _wrong(do: str, of: str, name: str, changes: list[list[Any]], error: str, **given: object) -> Json:
    return case(f"{of} {name}", do, of=of, changes=changes, error=error) | given


def _requests(shared: Json) -> list[Json]:
    data = bytes.fromhex(shared["request"])
    request = messages.decode(data, messages.Request)
    hello, challenge = data.index(request.hello), data.index(request.challenge)
    claims, quote = data.index(request.attested.claims), data.index(request.attested.evidence)
    collateral = data.index(request.attested.endorsements)

    def wrong(name: str, changes: list[list[Any]], error: str, **given: object) -> Json:
        return _wrong("answer request", "request", name, changes, error, **given)

    at_nonce = data.index(bytes.fromhex(shared["challenge_nonce"]))
    at_time = data.index(b"\xa4time", challenge) + 6
    at_mac = data.index(b"\xa3mac", challenge) + 6
    credential = data.index(b"\xaacredential\xc4\x00", claims) + 11
    claims_length = claims - 2
    longer = (len(request.attested.claims) + 1).to_bytes(2, "big").hex()
    other_policy = shared["policy"].replace('machines = "any"', f'machines = ["{"00" * 16}"]')
    no_table = shared["policy"].replace("[simulated]", "[sgx]")
    return [
        case("request", "answer request", of="request", changes=[], out=shared["keyring"]),
        case("request in the last second", "answer request", of="request", changes=[], out=shared["keyring"])
        | {"now": NOW + 60},
        wrong("of nothing", [[0, len(data), ""]], "malformed"),
        wrong("cut", [[len(data) - 1, 1, ""]], "malformed"),
        wrong("with a byte behind it", [[len(data), 0, "00"]], "malformed"),
        wrong("too long", [[0, 0, "00", 294_912]], "too-large"),
        wrong("as a grant", [[data.index(b"request"), 7, b"requesT".hex()]], "malformed"),
        wrong("with the hello changed", _flip(data, hello + len(request.hello) - 3), "bad-mac"),
        wrong("with the challenge's nonce changed", _flip(data, at_nonce), "bad-mac"),
        wrong("with the challenge's time changed", _flip(data, at_time + 3), "bad-mac"),
        wrong("with the MAC changed", _flip(data, at_mac), "bad-mac"),
        wrong("for another run of the primary", [], "bad-mac", mac_key="00" * 32),
        wrong("a second too late", [], "challenge-expired", now=NOW + 61),
        wrong("a second too early", [], "challenge-expired", now=NOW - 1),
        wrong("with its nonce changed", _flip(data, data.index(bytes.fromhex(shared["request_nonce"]))), "not-bound"),
        wrong("with its one-time key changed", _flip(data, data.index(b"kem_public_key") + 20), "not-bound"),
        wrong(
            "with a credential",
            [[credential, 2, "c401aa"], [claims_length, 2, longer]],
            "malformed",
        ),
        wrong("with claims of another type", _flip(data, data.index(b"request-claims") + 3), "malformed"),
        wrong("with a quote of version 2", [[quote, 1, "02"]], "malformed"),
        wrong("with a quote of another TEE", [[quote + 4, 1, "81"]], "malformed"),
        wrong("with a quote whose length is wrong", _flip(data, quote + 432), "malformed"),
        wrong("with a quote whose certification data is of another type", [[quote + 1046, 1, "01"]], "malformed"),
        wrong("with report data changed", _flip(data, quote + 368), "not-bound"),
        wrong("where no machine is named", [], "machine-not-named", policy=other_policy),
        wrong("where the platform is not named", [], "platform-not-named", policy=no_table),
        wrong("with collateral that is no JSON", _flip(data, collateral), "malformed", proved_only=True),
        wrong("with MRENCLAVE changed", _flip(data, quote + 112), "not-genuine", proved_only=True),
        wrong("with the quote's signature changed", _flip(data, quote + 436), "not-genuine", proved_only=True),
        wrong("with the QE report's signature changed", _flip(data, quote + 948), "not-genuine", proved_only=True),
        wrong("answered before", [], "challenge-reused", sent_before=1),
        *(
            wrong(name, shared["request_variants"][name], error)
            | ({"proved_only": True} if name in PROVED_ONLY else {})
            for name, error in REQUEST_ENDS.items()
        ),
    ]


def _grants(shared: Json) -> list[Json]:
    data = bytes.fromhex(shared["grant"])
    grant = messages.decode(data, messages.Grant)
    quote, ciphertext = data.index(grant.attested.evidence), data.index(grant.ciphertext)

    def wrong(name: str, changes: list[list[Any]], error: str, **given: object) -> Json:
        return _wrong("read grant", "grant", name, changes, error, **given)

    other_policy = shared["policy"].replace('machines = "any"', f'machines = ["{"00" * 16}"]')
    other_signer = shared["policy"].replace('mrsigner = ["', 'mrsigner = ["' + "00" * 32 + '"] # ["')
    return [
        case("grant", "read grant", of="grant", changes=[], out=shared["keyring"]),
        wrong("of nothing", [[0, len(data), ""]], "malformed"),
        wrong("cut", [[len(data) - 1, 1, ""]], "malformed"),
        wrong("too long", [[0, 0, "00", 985_088]], "too-large"),
        wrong("that is the request", [[0, len(data), shared["request"][:2000]]], "malformed"),
        wrong("with its nonce changed", _flip(data, data.index(bytes.fromhex(shared["request_nonce"]))), "not-bound"),
        wrong("with its digest changed", _flip(data, data.index(b"ciphertext_sha512") + 19), "not-bound"),
        wrong("with report data changed", _flip(data, quote + 368), "not-bound"),
        wrong("with the encapsulated key changed", _flip(data, ciphertext), "not-bound"),
        wrong("with the ciphertext changed", _flip(data, ciphertext + 1120), "not-bound"),
        wrong("with the tag changed", _flip(data, len(data) - 1), "not-bound"),
        wrong("to another request", [], "not-bound", challenge=shared["challenge"][:-2] + "00"),
        wrong("to another key pair", [], "not-bound", x25519_private="01" * 32),
        wrong("with the quote's signature changed", _flip(data, quote + 436), "not-genuine", proved_only=True),
        wrong("of another machine than the challenge names", [], "identity-changed", proved_only=True)
        | {"primary_machine": "00" * 16},
        wrong("where the primary is not named", [], "machine-not-named", policy=other_policy),
        wrong("where another signer is named", [], "wrong-signer", policy=other_signer),
        *(wrong(name, shared["grant_variants"][name], error) for name, error in GRANT_ENDS.items()),
    ]
