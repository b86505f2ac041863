"""release.json: one whole attested release from a simulated server to a simulated enclave, and what goes wrong with it.

Recorded as exchange.json is, and for the same reason.
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
from tests.vectors.spec_cases import Json, load
from tests.vectors.spec_operations import OPERATIONS
from tests.vectors.spec_rkeyserver import key_memory, one_time_key, randomness
from tests.vectors.spec_rkeyserver_release import wanted_of
from tests.vectors.spec_writers.common import NOW, case, complete, numbered
from tests.vectors.spec_writers.exchange import _flip, _signed, _wrong, fixed, splices
from tests.vectors.spec_writers.keyring import DOMAIN_SECRET, ROOT_KEY

from rkeyserver.appraisal.policy import parse_policy
from rkeyserver.attestation.report_data import report_data, transcript_hash
from rkeyserver.client.enclave import entry
from rkeyserver.clock import Clock
from rkeyserver.exchange import hpke, messages, requester
from rkeyserver.exchange.attested import Context
from rkeyserver.exchange.messages import AttestedMessage
from rkeyserver.exchange.releaser import Releaser
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.platforms.simulated import image, keys
from rkeyserver.platforms.simulated.image import EnclaveIdentity
from rkeyserver.platforms.simulated.platform import SimulatedPlatform
from rkeyserver.platforms.simulated.processor import Processor
from rkeyserver.service.verification import InlineVerifier

FILE: Final = "release.json"
NEW_KEY: Final = numbered(0x33, 32)
KEYS: Final = [
    {"label": "db/orders", "size": 32, "generation": "current"},
    {"label": "db/orders", "size": 16, "generation": "first"},
    {"label": "backup", "size": 64, "generation": "current"},
]


def _platform(folder: Path, ppid: str, fuses: str, signed: bytes) -> SimulatedPlatform:
    folder.mkdir(exist_ok=True)
    processor = Processor(bytes.fromhex(fuses), bytes.fromhex(ppid), bytes([7]).ljust(16, b"\0"), 13)
    return SimulatedPlatform(processor, image.load_signed(signed), folder, Clock(lambda: NOW), keeps=False)


def _enclave(folder: Path, shared: Json) -> SimulatedPlatform:
    signed = image.sign_image(b"an enclave elsewhere", keys.image_signing_key(), 1000, 2)
    return _platform(folder, shared["standby_machine"], numbered(2, 32), signed)


def inputs() -> Json:
    """All inputs that are the same for every recording, and the messages that have no randomness of their own."""
    shared = fixed()
    server_policy = shared["policy"]
    with tempfile.TemporaryDirectory() as folder:
        table = entry(_enclave(Path(folder) / "enclave", shared), ["db/*", "backup"])
    shared["policy"] = f"{server_policy}\n{table}"
    generations = [
        {"root_key": ROOT_KEY, "created": 1000, "state": "readable"},
        {"root_key": NEW_KEY, "created": 2000, "state": "current"},
    ]
    keyring = {
        "domain_secret": DOMAIN_SECRET,
        "epoch": 0,
        "sequence": 2,
        "primary": "90" * 16,
        "generations": generations,
        "policy": shared["policy"],
    }
    shared["keyring"] = OPERATIONS["write keyring"](keyring)
    shared |= {
        "domain": OPERATIONS["domain id"]({"domain_secret": DOMAIN_SECRET}),
        "keys": KEYS,
        "server_policy": server_policy,
        "hand_over": load("exchange.json")["shared"]["request"],
    }
    shared["challenge"] = OPERATIONS["release challenge"](shared | {"bytes": shared["hello"]})
    return shared


@dataclass(frozen=True)
class Recorder:
    """The two machines, and all that one release between them needs."""

    shared: Json
    server: SimulatedPlatform
    enclave: SimulatedPlatform

    def hex(self, name: str) -> bytes:
        return bytes.fromhex(self.shared[name])

    def request(self) -> bytes:
        """The request of the real enclave's code, with the given one-time key."""
        wanting = requester.Wanting(
            attester=self.enclave,
            verifiers={},
            policy=parse_policy(self.shared["server_policy"]),
            clock=Clock(lambda: NOW),
            random=lambda _size: self.hex("request_nonce"),
            instance=self.hex("standby_instance"),
            domain=self.shared["domain"],
            keys=wanted_of(self.shared),
        )
        setattr(requester, "OneTimeKey", lambda: one_time_key(self.shared))  # noqa: B010 - no attribute of that type
        try:
            return requester.Greeting.begin(wanting).challenged(self.hex("challenge")).message
        finally:
            setattr(requester, "OneTimeKey", hpke.OneTimeKey)  # noqa: B010 - mypy takes an assignment for one of another type

    def release(self, request: bytes) -> bytes:
        """The release of the real server's code."""
        with randomness(self.hex("mac_key")):
            releaser = Releaser(
                attester=self.server,
                verifiers={"simulated": InlineVerifier(self.server.verify)},
                clock=Clock(lambda: NOW),
                random=lambda _size: self.hex("challenge_nonce"),
                instance=self.hex("primary_instance"),
            )
        policy = parse_policy(self.shared["policy"])
        keyring = Keyring.parse(key_memory(self.hex("keyring")))
        proved = asyncio.run(releaser.prove(request, policy, domain=keyring.domain))
        found = releaser.find(releaser.appraise(proved, policy), keyring)
        made = releaser.release(releaser.seal(found, keyring))
        keyring.close()
        releaser.close()
        return made

    def requests(self, request: bytes) -> Iterator[tuple[str, bytes]]:
        """Requests that are genuine in all but one thing."""
        good = messages.decode(request, messages.ReleaseRequest)
        claims = messages.decode(good.attested.claims, messages.ReleaseRequestClaims)
        transcript = transcript_hash(good.hello, good.challenge)

        def with_(
            context: Context = Context.RELEASE_REQUEST, enclave: EnclaveIdentity = self.enclave.enclave, **changes: Any
        ) -> bytes:
            changed = messages.encode(msgspec.structs.replace(claims, **changes))
            evidence = self.enclave._quoting.quote(enclave, report_data(context, transcript, changed))
            attested = AttestedMessage(claims=changed, evidence=evidence, endorsements=good.attested.endorsements)
            return messages.encode(msgspec.structs.replace(good, attested=attested))

        first, *rest = claims.keys
        own = self.enclave.enclave
        yield "vouched for as a hand-over's", with_(Context.HAND_OVER_REQUEST)
        yield "of another domain", with_(domain="00" * 16)
        yield "with a key twice", with_(keys=[first, *rest, first])
        yield "with a label that is not listed", with_(keys=[first, msgspec.structs.replace(first, label="web")])
        yield "with a generation that there is not", with_(keys=[msgspec.structs.replace(first, generation="00" * 16)])
        yield "with a one-time key that is none", with_(kem_public_key=claims.kem_public_key[:1184] + bytes(32))
        debug = bytes.fromhex("07000000000000000300000000000000")
        yield "of a debug enclave", with_(enclave=replace(own, attributes=debug))
        yield "of other code", with_(enclave=replace(own, mrenclave=bytes(32)))
        yield "of an older version", with_(enclave=replace(own, isv_svn=1))

    def releases(self, request: bytes, release: bytes) -> Iterator[tuple[str, bytes]]:
        """Releases that the server itself vouched for, wrong in one thing."""
        good = messages.decode(release, messages.Release)
        claims = messages.decode(good.attested.claims, messages.ReleaseClaims)
        transcript = transcript_hash(self.hex("hello"), self.hex("challenge"), request)

        def with_(ciphertext: bytes = good.ciphertext, context: Context = Context.RELEASE, **changes: Any) -> bytes:
            digest = hashlib.sha512(ciphertext).digest()
            changed = messages.encode(msgspec.structs.replace(claims, **({"ciphertext_sha512": digest} | changes)))
            evidence = self.server.evidence(report_data(context, transcript, changed))
            attested = AttestedMessage(claims=changed, evidence=evidence, endorsements=good.attested.endorsements)
            return messages.encode(messages.Release(attested=attested, ciphertext=ciphertext))

        def sealed(size: int, info: bytes = transcript) -> bytes:
            return hpke.seal(memoryview(bytes(size)), one_time_key(self.shared).public, info)

        yield "vouched for as a grant", with_(context=Context.HAND_OVER_GRANT)
        yield "of another domain", with_(domain="00" * 16)
        yield "for another request's nonce", with_(nonce=bytes(32))
        yield "with the digest of another ciphertext", with_(ciphertext_sha512=bytes(64))
        yield "with a generation too few", with_(generations=claims.generations[:-1])
        yield "with a byte too few", with_(sealed(111))
        yield "sealed under another transcript", with_(sealed(112, bytes(64)))


def record(shared: Json) -> Json:
    """What is random by nature, made anew."""
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(
            shared,
            _platform(Path(folder) / "server", shared["primary_machine"], numbered(1, 32), _signed()),
            _enclave(Path(folder) / "enclave", shared),
        )
        request = recorder.request()
        release = recorder.release(request)
        return {
            "request": request.hex(),
            "release": release.hex(),
            "request_variants": {name: splices(request, other) for name, other in recorder.requests(request)},
            "release_variants": {name: splices(release, other) for name, other in recorder.releases(request, release)},
        }


REQUEST_ENDS: Final = {
    "vouched for as a hand-over's": "not-bound",
    "of another domain": "another-domain",
    "with a key twice": "malformed",
    "with a label that is not listed": "not-permitted",
    "with a generation that there is not": "no-such-generation",
    "with a one-time key that is none": "malformed",
    "of a debug enclave": "debug-enclave",
    "of other code": "enclave-not-named",
    "of an older version": "version-too-low",
}
RELEASE_ENDS: Final = {
    "vouched for as a grant": "not-bound",
    "of another domain": "another-domain",
    "for another request's nonce": "not-bound",
    "with the digest of another ciphertext": "not-bound",
    "with a generation too few": "malformed",
    "with a byte too few": "malformed",
    "sealed under another transcript": "not-bound",
}


def content(*, record_anew: bool) -> Json:
    """The file's content; record_anew: with new quotes."""
    shared = inputs()
    names = ("request", "release", "request_variants", "release_variants")
    shared |= record(shared) if record_anew else {name: load(FILE)["shared"][name] for name in names}
    return complete(
        FILE,
        "one attested release between two simulated machines (release.md); request and release are recorded",
        [
            case("challenge for the hello", "release challenge", of="hello", changes=[], out=shared["challenge"]),
            *_requests(shared),
            *_releases(shared),
        ],
        shared,
    )


def _requests(shared: Json) -> list[Json]:
    data = bytes.fromhex(shared["request"])
    request = messages.decode(data, messages.ReleaseRequest)
    quote = data.index(request.attested.evidence)

    def wrong(name: str, changes: list[list[Any]], error: str, **given: object) -> Json:
        return _wrong("answer release request", "request", name, changes, error, **given)

    no_enclaves = shared["server_policy"]
    elsewhere = shared["policy"].replace(shared["standby_machine"], "00" * 16)
    at = data.index(b"db/orders")
    return [
        case("request", "answer release request", of="request", changes=[]),
        wrong("of nothing", [[0, len(data), ""]], "malformed"),
        wrong("cut", [[len(data) - 1, 1, ""]], "malformed"),
        wrong("too long", [[0, 0, "00", 278_528]], "too-large"),
        wrong("of a hand-over", [[data.index(b"release-request") - 1, 16, "a772657175657374"]], "malformed"),
        wrong("with the hello changed", _flip(data, data.index(request.hello) + len(request.hello) - 3), "bad-mac"),
        wrong("for another run of the server", [], "bad-mac", mac_key="00" * 32),
        wrong("a second too late", [], "challenge-expired", now=NOW + 61),
        wrong("with a label changed", [[at, 9, b"db/others".hex()]], "not-bound"),
        wrong("with report data changed", _flip(data, quote + 368), "not-bound"),
        wrong("where no enclave is named", [], "machine-not-named", policy=no_enclaves),
        wrong("where the enclave is on another machine", [], "machine-not-named", policy=elsewhere),
        wrong("with the quote's signature changed", _flip(data, quote + 436), "not-genuine", proved_only=True),
        wrong("answered before", [], "challenge-reused", sent_before=1),
        *(wrong(name, shared["request_variants"][name], error) for name, error in REQUEST_ENDS.items()),
        *_of_other_purposes(shared),
    ]


def _of_other_purposes(shared: Json) -> list[Json]:
    """Challenge and request of each purpose where the other is awaited, under one and the same key."""
    data = bytes.fromhex(shared["request"])
    other = OPERATIONS["challenge"](shared | {"bytes": shared["hello"]})
    challenge = bytes.fromhex(shared["challenge"])
    swap = [[data.index(challenge), len(challenge), other]]
    found, old = bytes.fromhex(shared["hand_over"]), bytes.fromhex(other)
    back = [[found.index(old), len(old), shared["challenge"]]]
    return [
        _wrong("answer release request", "request", "with a challenge for a hand-over", swap, "bad-mac"),
        case("hand-over with a challenge for a release", "answer request", of="hand_over", changes=back)
        | {"error": "bad-mac"},
    ]


def _releases(shared: Json) -> list[Json]:
    data = bytes.fromhex(shared["release"])
    release = messages.decode(data, messages.Release)
    quote, ciphertext = data.index(release.attested.evidence), data.index(release.ciphertext)

    def wrong(name: str, changes: list[list[Any]], error: str, **given: object) -> Json:
        return _wrong("read release", "release", name, changes, error, **given)

    policy = shared["server_policy"]
    by_id = [one | {"generation": "00" * 16} for one in KEYS]
    return [
        case("release", "read release", of="release", changes=[]),
        wrong("of nothing", [[0, len(data), ""]], "malformed"),
        wrong("cut", [[len(data) - 1, 1, ""]], "malformed"),
        wrong("too long", [[0, 0, "00", 163_840]], "too-large"),
        wrong("with report data changed", _flip(data, quote + 368), "not-bound"),
        wrong("with the encapsulated key changed", _flip(data, ciphertext), "not-bound"),
        wrong("to another request", [], "not-bound", challenge=shared["challenge"][:-2] + "00"),
        wrong("to another key pair", [], "not-bound", x25519_private="01" * 32),
        wrong("where another domain is wanted", [], "another-domain", domain="00" * 16),
        wrong("where another generation is wanted", [], "not-bound", keys=by_id),
        wrong("where fewer keys are wanted", [], "malformed", keys=KEYS[:2]),
        wrong("with the quote's signature changed", _flip(data, quote + 436), "not-genuine", proved_only=True),
        wrong("where the server is not named", [], "machine-not-named")
        | {"server_policy": policy.replace('machines = "any"', f'machines = ["{"00" * 16}"]')},
        wrong("where another signer is named", [], "wrong-signer")
        | {"server_policy": policy.replace('mrsigner = ["', 'mrsigner = ["' + "00" * 32 + '"] # ["')},
        *(wrong(name, shared["release_variants"][name], error) for name, error in RELEASE_ENDS.items()),
    ]
