"""Attested release under attack: what enclaves, servers and the network can try. No key leaves by any of it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import msgspec
import pytest
from tests.attacks.parties import Machines, Pair, WatchedVerifier, changed, edited, verifiers_of
from tests.fakes.audit_lines import decisions_in
from tests.fakes.flavours import VERIFY, machine_of, policy_of
from tests.fakes.keyrings import MEMBER
from tests.fakes.machines import NOW, HostTime, loaded, other_signer

from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.attestation.report_data import transcript_hash
from rkeyserver.client.enclave import entry, servers
from rkeyserver.clock import Clock
from rkeyserver.errors import Reason, Rejected, RkeyError, Unavailable
from rkeyserver.exchange import hpke, requester
from rkeyserver.exchange.attested import Context, vouch
from rkeyserver.exchange.challenges import CHALLENGE_LIFE
from rkeyserver.exchange.messages import (
    MAX_MESSAGE,
    AttestedMessage,
    Challenge,
    Hello,
    Release,
    ReleaseClaims,
    ReleaseRequest,
    ReleaseRequestClaims,
    Request,
    RequestClaims,
    WantedKey,
    decode,
    encode,
)
from rkeyserver.exchange.releaser import Releaser
from rkeyserver.exchange.requester import Greeting, Released, Requesting, Wanting
from rkeyserver.keyring.derived import derive
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.platforms.interface import Platform
from rkeyserver.platforms.simulated import image
from rkeyserver.platforms.simulated.processor import STATE_FILE
from rkeyserver.secret import SecretBytes
from rkeyserver.service.audit import Audit
from rkeyserver.service.instance import Instance
from rkeyserver.service.release import AttestedRelease
from rkeyserver.service.turns import Turns

CODE: Final = b"an enclave elsewhere"
PRODUCT: Final = 1000


def enclave_of(code: bytes = CODE, **differences: Any) -> Callable[[], image.EnclaveIdentity]:
    return lambda: loaded(code, **({"isv_prod_id": PRODUCT} | differences))


def wanted(label: str = "db/a", size: int = 32, generation: str = "current") -> WantedKey:
    return WantedKey(label=label, size=size, generation=generation)


def policy_with(base: Policy, *entries: str) -> Policy:
    return parse_policy("\n".join((base.text, *entries)))


@dataclass
class Server:
    """An instance that releases keys, driven by hand."""

    platform: Platform
    policy: Policy
    keyring: Keyring
    host: HostTime = field(default_factory=HostTime)
    verifier: WatchedVerifier = field(init=False)
    sealed: int = 0
    releaser: Releaser = field(init=False)

    def __post_init__(self) -> None:
        self.verifier = WatchedVerifier(VERIFY[self.platform.name])
        self.releaser = Releaser(
            attester=self.platform,
            verifiers={self.platform.name: self.verifier},
            clock=Clock(self.host),
            random=secrets.token_bytes,
            instance=secrets.token_bytes(16),
        )

    def challenge(self, hello: bytes) -> bytes:
        return self.releaser.challenge(hello)

    async def answered(self, request: bytes) -> bytes:
        """What service/release.py does with a request, less the audit file."""
        proved = await self.releaser.prove(request, self.policy, domain=self.keyring.domain)
        found = self.releaser.find(self.releaser.appraise(proved, self.policy), self.keyring)
        self.sealed += 1
        return self.releaser.release(self.releaser.seal(found, self.keyring))

    def answer(self, request: bytes) -> bytes:
        return asyncio.run(self.answered(request))

    def close(self) -> None:
        self.releaser.close()
        self.keyring.close()


@dataclass
class Enclave:
    """An enclave that asks a server of `domain`, which has to be what `policy` says."""

    platform: Platform
    policy: Policy
    domain: str
    keys: tuple[WantedKey, ...] = (wanted(),)
    host: HostTime = field(default_factory=HostTime)

    def greet(self) -> Greeting:
        return Greeting.begin(
            Wanting(
                attester=self.platform,
                verifiers=verifiers_of(self.platform),
                policy=self.policy,
                clock=Clock(self.host),
                random=secrets.token_bytes,
                instance=secrets.token_bytes(16),
                domain=self.domain,
                keys=self.keys,
            )
        )

    def ask(self, server: Server) -> Requesting:
        greeting = self.greet()
        return greeting.challenged(server.challenge(greeting.message))


def opened(requesting: Requesting, release: bytes) -> Released:
    return asyncio.run(requesting.released(release))


@dataclass
class Scene:
    """An honest server and an honest enclave, on two machines, and where other machines are made."""

    server: Server
    enclave: Enclave
    folder: Path

    def machine(self, folder: Path, **differences: Any) -> Platform:
        """Another machine of their platform; `differences` as tests.fakes.machines.Making has them."""
        return machine_of(self.server.platform.name, folder, **differences)

    def works(self) -> None:
        requesting = self.enclave.ask(self.server)
        released = opened(requesting, self.server.answer(requesting.message))
        try:
            for one, key in zip(self.enclave.keys, released.keys, strict=True):
                made = derive(self.server.keyring, one.label.encode(), size=one.size, generation=one.generation)
                with made.secret as secret:
                    assert key.secret == secret
                assert (key.label, key.generation) == (one.label, made.generation)
        finally:
            released.close()

    @contextlib.contextmanager
    def refuses(
        self, reason: Reason, *, asked: int | None = None, sealed: int = 0, says: str | None = None
    ) -> Iterator[None]:
        """What is done inside is refused, seals nothing, and hinders no honest release. asked: quotes verified."""
        sealed_before, verified = self.server.sealed, self.server.verifier.asked
        with pytest.raises(Rejected, match=says) as refused:
            yield
        assert refused.value.reason is reason
        assert self.server.sealed == sealed_before + sealed
        if asked is not None:
            assert self.server.verifier.asked == verified + asked
        self.works()


@dataclass(frozen=True)
class Elsewhere:
    """The machine that enclaves run on."""

    platform: Platform
    folder: Path


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, platform: str) -> Elsewhere:
    folder = tmp_path_factory.mktemp("elsewhere") / "machine"
    return Elsewhere(machine_of(platform, folder, enclave=enclave_of()), folder)


@pytest.fixture
def scene(machines: Machines, elsewhere: Elsewhere) -> Iterator[Scene]:
    own = machines.first
    policy = policy_with(policy_of(own), entry(elsewhere.platform, ["db/*"]))
    keyring = Keyring.mint(primary=MEMBER, now=NOW, policy=policy.text)
    server = Server(own, policy, keyring)
    trusted = servers(own.name, mrsigner=own.mrsigner, isv_prod_id=own.isv_prod_id)
    try:
        yield Scene(server, Enclave(elsewhere.platform, trusted, keyring.domain), elsewhere.folder.parent)
    finally:
        server.close()


def with_claims(request: bytes, **changes: object) -> bytes:
    """A request whose claims were changed and whose evidence was not."""
    attested = decode(request, ReleaseRequest).attested
    claims = edited(attested.claims, ReleaseRequestClaims, **changes)
    return edited(request, ReleaseRequest, attested=msgspec.structs.replace(attested, claims=claims))


def vouched(
    scene: Scene,
    request: bytes,
    claims: bytes,
    context: Context = Context.RELEASE_REQUEST,
    by: Platform | None = None,
) -> bytes:
    """A request with other claims, genuinely vouched for."""
    found = decode(request, ReleaseRequest)
    before = transcript_hash(found.hello, found.challenge)
    return edited(request, ReleaseRequest, attested=vouch(by or scene.enclave.platform, context, before, claims))


def claims_in(request: bytes) -> ReleaseRequestClaims:
    return decode(decode(request, ReleaseRequest).attested.claims, ReleaseRequestClaims)


# What works, so that what follows fails for what its name says


def test_the_honest_exchange(scene: Scene) -> None:
    scene.works()


def test_sixteen_keys_at_once(scene: Scene) -> None:
    scene.enclave.keys = tuple(wanted(f"db/{number}", 16 + 3 * number) for number in range(16))
    scene.works()


def test_one_label_in_other_sizes_and_by_other_names_of_its_generation(scene: Scene) -> None:
    ids = scene.server.keyring.generation_ids
    scene.enclave.keys = (wanted(), wanted(size=64), wanted(generation="first"), wanted(generation=ids[0]))
    scene.works()


# Replay and relay


def test_a_request_sent_twice(scene: Scene) -> None:
    request = scene.enclave.ask(scene.server).message
    scene.server.answer(request)
    with scene.refuses(Reason.CHALLENGE_REUSED):
        scene.server.answer(request)


def test_a_request_sent_after_its_time(scene: Scene) -> None:
    request = scene.enclave.ask(scene.server).message
    scene.server.host.now += CHALLENGE_LIFE + 1
    scene.enclave.host.now = scene.server.host.now
    with scene.refuses(Reason.CHALLENGE_EXPIRED, asked=0):
        scene.server.answer(request)


def test_a_challenge_that_gets_too_old_while_it_is_verified(scene: Scene) -> None:
    request = scene.enclave.ask(scene.server).message

    def later() -> None:
        scene.server.host.now += CHALLENGE_LIFE + 1
        scene.enclave.host.now = scene.server.host.now
        scene.server.verifier.meanwhile = lambda: None

    scene.server.verifier.meanwhile = later
    with scene.refuses(Reason.CHALLENGE_EXPIRED, asked=1):
        scene.server.answer(request)


def test_a_request_to_another_server(scene: Scene, machines: Machines) -> None:
    other = Server(
        machines.second, scene.server.policy, Keyring.mint(primary=MEMBER, now=NOW, policy=scene.server.policy.text)
    )
    request = scene.enclave.ask(scene.server).message
    try:
        with scene.refuses(Reason.BAD_MAC, asked=0):
            other.answer(request)
    finally:
        other.close()


def test_a_release_given_to_another_request_of_the_same_enclave(scene: Scene) -> None:
    one, other = scene.enclave.ask(scene.server), scene.enclave.ask(scene.server)
    release = scene.server.answer(one.message)
    with scene.refuses(Reason.NOT_BOUND):
        opened(other, release)


def test_anothers_evidence_relayed_under_an_own_one_time_key(scene: Scene) -> None:
    request = scene.enclave.ask(scene.server).message
    with scene.refuses(Reason.NOT_BOUND, asked=0):
        scene.server.answer(with_claims(request, kem_public_key=hpke.OneTimeKey().public))


def test_anothers_evidence_relayed_to_a_challenge_of_ones_own(scene: Scene) -> None:
    theirs = decode(scene.enclave.ask(scene.server).message, ReleaseRequest).attested
    mine = scene.enclave.ask(scene.server).message
    with scene.refuses(Reason.NOT_BOUND, asked=0):
        scene.server.answer(edited(mine, ReleaseRequest, attested=theirs))


def test_a_hello_in_anothers_name(scene: Scene) -> None:
    stranger = scene.machine(scene.folder / "stranger", enclave=enclave_of())
    greeting = scene.enclave.greet()
    challenge = scene.server.challenge(greeting.message)
    claims = ReleaseRequestClaims(
        domain=scene.enclave.domain,
        keys=[wanted()],
        nonce=bytes(32),
        kem_public_key=hpke.OneTimeKey().public,
    )
    attested = vouch(stranger, Context.RELEASE_REQUEST, transcript_hash(greeting.message, challenge), encode(claims))
    request = encode(ReleaseRequest(hello=greeting.message, challenge=challenge, attested=attested))
    with scene.refuses(Reason.IDENTITY_CHANGED, asked=1):
        scene.server.answer(request)


# Changed on the way

LABELS: Final[dict[str, dict[str, object]]] = {
    "another label": {"keys": [wanted("db/b")]},
    "one more": {"keys": [wanted(), wanted("db/b")]},
    "another size": {"keys": [wanted(size=64)]},
    "another generation": {"keys": [wanted(generation="first")]},
    "another nonce": {"nonce": bytes(32)},
}


@pytest.mark.parametrize("changes", LABELS.values(), ids=LABELS)
def test_what_is_asked_for_changed_on_the_way(scene: Scene, changes: dict[str, object]) -> None:
    request = scene.enclave.ask(scene.server).message
    with scene.refuses(Reason.NOT_BOUND, asked=0):
        scene.server.answer(with_claims(request, **changes))


def test_generations_changed_on_the_way_back(scene: Scene) -> None:
    requesting = scene.enclave.ask(scene.server)
    release = decode(scene.server.answer(requesting.message), Release)
    claims = edited(release.attested.claims, ReleaseClaims, generations=["ab" * 16])
    changed_release = msgspec.structs.replace(
        release, attested=msgspec.structs.replace(release.attested, claims=claims)
    )
    with scene.refuses(Reason.NOT_BOUND):
        opened(requesting, encode(changed_release))


def test_a_ciphertext_changed_on_the_way_back(scene: Scene) -> None:
    requesting = scene.enclave.ask(scene.server)
    release = scene.server.answer(requesting.message)
    with scene.refuses(Reason.NOT_BOUND):
        opened(requesting, edited(release, Release, ciphertext=decode(release, Release).ciphertext[:-1] + b"\0"))


# One purpose for another


def test_a_challenge_for_a_hand_over_serves_no_release(scene: Scene, pair: Pair) -> None:
    greeting = scene.enclave.greet()
    requesting = greeting.challenged(pair.primary.challenge(greeting.message))
    with scene.refuses(Reason.BAD_MAC, asked=0):
        scene.server.answer(requesting.message)


def test_a_challenge_for_a_release_serves_no_hand_over(scene: Scene, pair: Pair) -> None:
    greeting = pair.standby.greet()
    request = greeting.challenged(scene.server.challenge(greeting.message)).message
    with pair.refuses(Reason.BAD_MAC, asked=0):
        pair.primary.answer(request)


def test_not_even_with_the_same_key_is_a_challenge_for_both(scene: Scene, pair: Pair) -> None:
    # Only the label of the MAC tells them apart then.
    for challenges in (pair.primary.granter._challenges, scene.server.releaser._challenges):
        challenges._mac_key.view[:] = bytes(32)
    greeting = pair.standby.greet()
    request = greeting.challenged(scene.server.challenge(greeting.message)).message
    with pair.refuses(Reason.BAD_MAC, asked=0):
        pair.primary.answer(request)


def test_a_hand_over_request_as_a_release_request(scene: Scene, pair: Pair) -> None:
    request = pair.standby.ask(pair.primary).message
    with scene.refuses(Reason.MALFORMED, asked=0):
        scene.server.answer(request)
    found = decode(request, Request)
    same = ReleaseRequest(hello=found.hello, challenge=found.challenge, attested=found.attested)
    with scene.refuses(Reason.BAD_MAC, asked=0):
        scene.server.answer(encode(same))


def test_a_release_request_as_a_hand_over_request(scene: Scene, pair: Pair) -> None:
    request = scene.enclave.ask(scene.server).message
    with pair.refuses(Reason.MALFORMED, asked=0):
        pair.primary.answer(request)
    found = decode(request, ReleaseRequest)
    same = Request(hello=found.hello, challenge=found.challenge, attested=found.attested)
    with pair.refuses(Reason.BAD_MAC, asked=0):
        pair.primary.answer(encode(same))


@pytest.mark.parametrize("context", [one for one in Context if one is not Context.RELEASE_REQUEST])
def test_a_request_that_was_vouched_for_as_something_else(scene: Scene, context: Context) -> None:
    request = scene.enclave.ask(scene.server).message
    claims = decode(request, ReleaseRequest).attested.claims
    with scene.refuses(Reason.NOT_BOUND, asked=0):
        scene.server.answer(vouched(scene, request, claims, context))


def test_claims_of_a_hand_over_that_were_vouched_for(scene: Scene) -> None:
    request = scene.enclave.ask(scene.server).message
    claims = RequestClaims(
        nonce=bytes(32),
        kem_public_key=hpke.OneTimeKey().public,
        credential_mac=b"",
        credential=b"",
        member=MEMBER,
        address="",
        epoch=0,
        sequence=0,
        digest=b"",
        audit_head=bytes(32),
    )
    with scene.refuses(Reason.MALFORMED, asked=0):
        scene.server.answer(vouched(scene, request, encode(claims)))


def test_a_request_sent_back_as_its_own_release(scene: Scene) -> None:
    requesting = scene.enclave.ask(scene.server)
    attested = decode(requesting.message, ReleaseRequest).attested
    with scene.refuses(Reason.MALFORMED):
        opened(requesting, encode(Release(attested=attested, ciphertext=b"x")))


def test_a_grant_of_a_keyring_as_a_release(scene: Scene, pair: Pair) -> None:
    requesting = pair.standby.ask(pair.primary)
    grant = pair.primary.answer(requesting.message)
    with scene.refuses(Reason.MALFORMED):
        opened(scene.enclave.ask(scene.server), grant)


# What is not permitted


def asking_for(scene: Scene, *keys: WantedKey, platform: Platform | None = None) -> bytes:
    """A request for these keys, genuinely vouched for, from whoever makes no check of his own."""
    enclave = replace(scene.enclave, platform=platform or scene.enclave.platform)
    request = enclave.ask(scene.server).message
    claims = msgspec.structs.replace(claims_in(request), keys=list(keys))
    return vouched(scene, request, encode(claims), by=platform)


NOT_LISTED: Final[dict[str, tuple[WantedKey, ...]]] = {
    "a label that is not listed": (wanted("web"),),
    "the beginning of a listed one": (wanted("db"),),
    "a pattern": (wanted("d*"),),
    "one that is listed and one that is not": (wanted(), wanted("web")),
    "one that is not listed behind fifteen that are": (*(wanted(f"db/{one}") for one in range(15)), wanted("web")),
}


@pytest.mark.parametrize("keys", NOT_LISTED.values(), ids=NOT_LISTED)
def test_a_label_that_is_not_listed_refuses_the_whole(scene: Scene, keys: tuple[WantedKey, ...]) -> None:
    with scene.refuses(Reason.NOT_PERMITTED, asked=1, says=f"derive for label '{keys[-1].label}'".replace("*", r"\*")):
        scene.server.answer(asking_for(scene, *keys))


def test_a_generation_that_there_is_not(scene: Scene) -> None:
    with scene.refuses(Reason.NO_SUCH_GENERATION):
        scene.server.answer(asking_for(scene, wanted(generation="ab" * 16)))


def test_the_same_key_twice(scene: Scene) -> None:
    with scene.refuses(Reason.MALFORMED, asked=0, says="names a key twice"):
        scene.server.answer(asking_for(scene, wanted(), wanted("db/b"), wanted()))


MALFORMED: Final[dict[str, list[dict[str, object]]]] = {
    "no key": [],
    "17 keys": [{"label": f"db/{number}"} for number in range(17)],
    "an empty label": [{"label": ""}],
    "a label with a space behind": [{"label": "db/a "}],
    "a label with a line break": [{"label": "db/a\n"}],
    "a label beyond ASCII": [{"label": "db/\u00e4"}],
    "a label that is too long": [{"label": "db/" + "a" * 254}],
    "a size of 15": [{"size": 15}],
    "a size of 65": [{"size": 65}],
    "a size that is no number": [{"size": "32"}],
    "a generation that is none": [{"generation": "second"}],
    "another field": [{"root": True}],
}


@pytest.mark.parametrize("keys", MALFORMED.values(), ids=MALFORMED)
def test_a_request_in_another_form(scene: Scene, keys: list[dict[str, object]]) -> None:
    request = scene.enclave.ask(scene.server).message
    honest = msgspec.to_builtins(claims_in(request), builtin_types=(bytes,))
    plain = {"type": "wanted-key", "label": "db/a", "size": 32, "generation": "current"}
    claims = msgspec.msgpack.encode(honest | {"keys": [plain | one for one in keys]})
    with scene.refuses(Reason.MALFORMED, asked=0):
        scene.server.answer(vouched(scene, request, claims))


def test_another_domains_keys(scene: Scene) -> None:
    other = replace(scene.enclave, domain="ab" * 16)
    with scene.refuses(Reason.ANOTHER_DOMAIN, asked=0):
        scene.server.answer(other.ask(scene.server).message)


def test_messages_that_are_too_long(scene: Scene) -> None:
    requesting = scene.enclave.ask(scene.server)
    with scene.refuses(Reason.TOO_LARGE, asked=0):
        scene.server.challenge(bytes(MAX_MESSAGE[Hello] + 1))
    with scene.refuses(Reason.TOO_LARGE, asked=0):
        scene.server.answer(bytes(MAX_MESSAGE[ReleaseRequest] + 1))
    with scene.refuses(Reason.TOO_LARGE):
        scene.enclave.greet().challenged(bytes(MAX_MESSAGE[Challenge] + 1))
    with scene.refuses(Reason.TOO_LARGE):
        opened(requesting, bytes(MAX_MESSAGE[Release] + 1))
    long = vouched(scene, requesting.message, bytes(MAX_MESSAGE[ReleaseRequestClaims] + 1))
    with scene.refuses(Reason.TOO_LARGE, asked=0):
        scene.server.answer(long)


def test_the_longest_messages_that_there_are_fit(scene: Scene) -> None:
    ids = scene.server.keyring.generation_ids
    longest = tuple(wanted(f"db/{number:0253}", 64, ids[0]) for number in range(16))
    scene.enclave.keys = longest
    scene.works()
    whole = AttestedMessage(claims=bytes(2048), evidence=bytes(16 * 1024), endorsements=bytes(128 * 1024))
    assert len(encode(Release(attested=whole, ciphertext=bytes(2144)))) <= MAX_MESSAGE[Release]
    whole = msgspec.structs.replace(whole, claims=bytes(16 * 1024))
    most = ReleaseRequest(hello=bytes(32 * 1024), challenge=bytes(64 * 1024), attested=whole)
    assert len(encode(most)) <= MAX_MESSAGE[ReleaseRequest]


# Enclaves that are others

OTHERS: Final[dict[str, tuple[dict[str, Any], Reason]]] = {
    "other code": ({"enclave": enclave_of(b"other")}, Reason.ENCLAVE_NOT_NAMED),
    "another signer": ({"enclave": enclave_of(key=other_signer())}, Reason.ENCLAVE_NOT_NAMED),
    "another product": ({"enclave": enclave_of(isv_prod_id=1)}, Reason.ENCLAVE_NOT_NAMED),
    "an older version": ({"enclave": enclave_of(isv_svn=0)}, Reason.VERSION_TOO_LOW),
    "a debug enclave": ({"enclave": enclave_of(debug=True)}, Reason.DEBUG_ENCLAVE),
    "a machine that is out of date": ({"enclave": enclave_of(), "status": "OutOfDate"}, Reason.TCB_STATUS),
}


@pytest.mark.parametrize(("differences", "reason"), OTHERS.values(), ids=OTHERS)
def test_an_enclave_that_is_another(
    scene: Scene, elsewhere: Elsewhere, differences: dict[str, Any], reason: Reason
) -> None:
    honest = (elsewhere.folder / STATE_FILE).read_text()
    other = scene.machine(elsewhere.folder, **differences)
    (elsewhere.folder / STATE_FILE).write_text(honest)
    enclave = replace(scene.enclave, platform=other)
    with scene.refuses(reason):
        scene.server.answer(enclave.ask(scene.server).message)


def test_the_same_enclave_on_a_machine_that_is_not_named(scene: Scene) -> None:
    stranger = replace(scene.enclave, platform=scene.machine(scene.folder / "stranger", enclave=enclave_of()))
    with scene.refuses(Reason.MACHINE_NOT_NAMED, asked=0):
        scene.server.answer(stranger.ask(scene.server).message)


def test_a_machine_of_the_domain_is_no_enclave_of_the_policy(scene: Scene, machines: Machines) -> None:
    with scene.refuses(Reason.MACHINE_NOT_NAMED, asked=0):
        scene.server.answer(asking_for(scene, wanted(), platform=machines.second))


def test_an_enclave_of_the_policy_is_no_machine_of_the_domain(scene: Scene, pair: Pair) -> None:
    with pair.refuses(Reason.WRONG_PRODUCT):
        pair.primary.answer(replace(pair.standby, platform=scene.enclave.platform).ask(pair.primary).message)


# Servers that are false


def release_by(scene: Scene, requesting: Requesting, platform: Platform, **changes: Any) -> bytes:
    """What a server on `platform` would send, but for `changes`: of its claims, or keys, or context."""
    claims = claims_in(requesting.message)
    keys = changes.pop("keys", b"k" * 32)
    ciphertext = hpke.seal(memoryview(keys), claims.kem_public_key, changes.pop("info", requesting.transcript))
    said = {
        "domain": scene.enclave.domain,
        "generations": [scene.server.keyring.current.id],
        "ciphertext_sha512": hashlib.sha512(ciphertext).digest(),
        "nonce": requesting.nonce,
    }
    context = changes.pop("context", Context.RELEASE)
    transcript = changes.pop("transcript", requesting.transcript)
    about = encode(ReleaseClaims(**(said | changes)))
    return encode(Release(attested=vouch(platform, context, transcript, about), ciphertext=ciphertext))


def test_a_release_made_by_hand_as_a_server_makes_it_is_taken(scene: Scene) -> None:
    # So that those below fail for what their names say.
    requesting = scene.enclave.ask(scene.server)
    released = opened(requesting, release_by(scene, requesting, scene.server.platform))
    assert bytes(released.keys[0].secret.view) == b"k" * 32
    released.close()


FALSE: Final[dict[str, tuple[dict[str, Any], Reason]]] = {
    "of another domain": ({"domain": "ab" * 16}, Reason.ANOTHER_DOMAIN),
    "to another request": ({"nonce": bytes(32)}, Reason.NOT_BOUND),
    "for another ciphertext": ({"ciphertext_sha512": bytes(64)}, Reason.NOT_BOUND),
    "of two generations": ({"generations": ["ab" * 16] * 2}, Reason.MALFORMED),
    "with too few bytes": ({"keys": b"k" * 31}, Reason.MALFORMED),
    "with too many bytes": ({"keys": b"k" * 33}, Reason.MALFORMED),
    "sealed for another exchange": ({"info": bytes(64)}, Reason.NOT_BOUND),
    "vouched for as a grant": ({"context": Context.HAND_OVER_GRANT}, Reason.NOT_BOUND),
    "vouched for as a request": ({"context": Context.RELEASE_REQUEST}, Reason.NOT_BOUND),
    "vouched for in another exchange": ({"transcript": bytes(64)}, Reason.NOT_BOUND),
}


@pytest.mark.parametrize(("changes", "reason"), FALSE.values(), ids=FALSE)
def test_a_release_that_is_false(scene: Scene, changes: dict[str, Any], reason: Reason) -> None:
    requesting = scene.enclave.ask(scene.server)
    with scene.refuses(reason):
        opened(requesting, release_by(scene, requesting, scene.server.platform, **dict(changes)))


def test_a_key_of_another_generation_than_the_one_that_was_asked_for(scene: Scene) -> None:
    asking = replace(scene.enclave, keys=(wanted(generation=scene.server.keyring.current.id),))
    requesting = asking.ask(scene.server)
    release = release_by(scene, requesting, scene.server.platform, generations=["ab" * 16])
    with scene.refuses(Reason.NOT_BOUND, says="wanted is generation"):
        opened(requesting, release)


FALSE_SERVERS: Final[dict[str, tuple[dict[str, Any], Reason]]] = {
    "other code by another signer": ({"enclave": lambda: loaded(key=other_signer())}, Reason.WRONG_SIGNER),
    "another product of the signer": ({"enclave": lambda: loaded(isv_prod_id=7)}, Reason.WRONG_PRODUCT),
    "an older version": ({"enclave": lambda: loaded(isv_svn=0)}, Reason.VERSION_TOO_LOW),
    "a debug enclave": ({"enclave": lambda: loaded(debug=True)}, Reason.DEBUG_ENCLAVE),
    "a machine that is out of date": ({"status": "OutOfDate"}, Reason.TCB_STATUS),
}


@pytest.mark.parametrize(("differences", "reason"), FALSE_SERVERS.values(), ids=FALSE_SERVERS)
def test_a_server_that_is_another(scene: Scene, tmp_path: Path, differences: dict[str, Any], reason: Reason) -> None:
    false = Server(
        scene.machine(tmp_path / "false", **differences),
        scene.server.policy,
        Keyring.mint(primary=MEMBER, now=NOW, policy=scene.server.policy.text),
    )
    requesting = scene.enclave.ask(false)
    release = release_by(scene, requesting, false.platform)
    false.close()
    with scene.refuses(reason):
        opened(requesting, release)


def test_the_genuine_program_with_a_domain_of_its_own(scene: Scene, tmp_path: Path) -> None:
    # Anyone can run it. That it serves another domain is what it says by itself.
    own = Server(
        scene.machine(tmp_path / "own"),
        scene.server.policy,
        Keyring.mint(primary=MEMBER, now=NOW, policy=scene.server.policy.text),
    )
    requesting = scene.enclave.ask(own)
    try:
        with scene.refuses(Reason.ANOTHER_DOMAIN):
            own.answer(requesting.message)
    finally:
        own.close()


def test_evidence_of_another_server_relayed(scene: Scene, machines: Machines) -> None:
    requesting = scene.enclave.ask(scene.server)
    with scene.refuses(Reason.IDENTITY_CHANGED):
        opened(requesting, release_by(scene, requesting, machines.second))


def test_a_server_that_the_enclave_does_not_name(scene: Scene, machines: Machines) -> None:
    named = changed(scene.enclave.policy, machines=[machines.second.attester_identity().machine])
    requesting = replace(scene.enclave, policy=named).ask(scene.server)
    release = scene.server.answer(requesting.message)
    with scene.refuses(Reason.MACHINE_NOT_NAMED):
        opened(requesting, release)


# The service around it: what changes while one asks, and what cannot be recorded


@dataclass
class Serving:
    """An AttestedRelease over as much of an instance as it looks at."""

    scene: Scene
    folder: Path
    releases: AttestedRelease = field(init=False)
    instance: SimpleNamespace = field(init=False)

    def __post_init__(self) -> None:
        server = self.scene.server
        self.instance = SimpleNamespace(
            keyring=server.keyring,
            policy=server.policy,
            audit=Audit.open(self.folder / "audit.jsonl", Clock(server.host)),
            platform=server.platform,
            released=0,
            joins=Turns(most=1),
        )
        self.releases = AttestedRelease(cast("Instance", self.instance), server.releaser)

    def ask(self) -> bytes:
        greeting = self.scene.enclave.greet()
        requesting = greeting.challenged(self.releases.challenge(greeting.message))
        return asyncio.run(self.releases.release(requesting.message, "10.0.0.9"))

    def lines(self) -> list[tuple[str, str]]:
        found = decisions_in(self.folder / "audit.jsonl")
        assert {line["event"] for line in found} <= {"release"}
        return [(line["verdict"], line.get("reason", "")) for line in found]

    def replace_keyring(self) -> None:
        self.instance.keyring = None


@pytest.fixture
def serving(scene: Scene, tmp_path: Path) -> Iterator[Serving]:
    made = Serving(scene, tmp_path)
    yield made
    with contextlib.suppress(OSError):  # a test may have closed it
        made.instance.audit.close()


def test_a_release_is_recorded_and_counted(serving: Serving) -> None:
    assert serving.ask()
    assert serving.lines() == [("accepted", "")]
    assert serving.instance.released == 1


def test_an_enclave_that_asks_too_often_is_told_so_and_has_no_line(serving: Serving) -> None:
    serving.releases._rates.now = lambda: 0.0
    serving.releases._rates.burst = 2
    assert serving.ask()
    assert serving.ask()
    for _ in range(2):
        with pytest.raises(Unavailable, match="More requests than 100 in a second"):
            serving.ask()
    assert serving.lines() == [("accepted", "")] * 2
    serving.releases._rates.now = lambda: 1.0
    assert serving.ask()


def test_a_policy_that_changes_while_evidence_is_verified(serving: Serving) -> None:
    serving.scene.server.verifier.meanwhile = serving.replace_keyring
    with pytest.raises(Unavailable, match="keyring was replaced"):
        serving.ask()
    assert serving.lines() == [("accepted", ""), ("refused", "unavailable")]
    assert serving.instance.released == 0


def test_a_policy_that_changes_while_the_server_vouches(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = serving.scene.server.releaser.release

    def slow(sealed: Any) -> bytes:
        serving.replace_keyring()
        return honest(sealed)

    monkeypatch.setattr(serving.scene.server.releaser, "release", slow)
    with pytest.raises(Unavailable, match="keyring was replaced"):
        serving.ask()
    assert serving.lines() == [("accepted", ""), ("refused", "unavailable")]


def test_nothing_leaves_that_cannot_be_recorded(serving: Serving) -> None:
    async def full(_line: object) -> None:
        raise Unavailable("The audit file is full.")

    serving.instance.audit.close()
    serving.instance.audit = SimpleNamespace(write=full, close=lambda: None)
    with pytest.raises(Unavailable, match="is full"):
        serving.ask()
    assert serving.instance.released == 0


NOT_SERVING: Final[dict[str, tuple[dict[str, Any], type[RkeyError]]]] = {
    "no keyring": ({"keyring": None}, Unavailable),
    "a policy without enclaves": ({"policy": None}, Rejected),
}


@pytest.mark.parametrize(("state", "kind"), NOT_SERVING.values(), ids=NOT_SERVING)
def test_an_instance_that_releases_nothing_says_so_to_a_hello(
    serving: Serving, state: dict[str, Any], kind: type[RkeyError]
) -> None:
    vars(serving.instance).update(state)
    if "policy" in state:
        serving.instance.policy = policy_of(serving.scene.server.platform)
    with pytest.raises(kind):
        serving.ask()
    assert serving.lines() == []


def test_no_key_stays_open_where_there_is_no_memory_for_the_next(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.enclave.keys = (wanted("db/a"), wanted("db/b"))
    requesting = scene.enclave.ask(scene.server)
    release = scene.server.answer(requesting.message)
    made: list[SecretBytes] = []

    def scarce(size: int) -> SecretBytes:
        if made:
            raise Unavailable("No locked memory for a key.")
        made.append(SecretBytes(size))
        return made[0]

    monkeypatch.setattr(requester, "SecretBytes", scarce)
    with pytest.raises(Unavailable, match="No locked memory"):
        opened(requesting, release)
    with pytest.raises(ValueError, match="released"):
        made[0].view.tobytes()
