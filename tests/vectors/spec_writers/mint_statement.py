"""mint-statement.json: the quotes in it are recorded, since their signatures are random."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
from tests.vectors.spec_cases import Json, load
from tests.vectors.spec_rkeyserver import OPERATIONS, key_memory
from tests.vectors.spec_writers.common import NOW, case, complete, numbered
from tests.vectors.spec_writers.exchange import _flip, _platform, fixed, splices
from tests.vectors.spec_writers.keyring import DOMAIN_SECRET

from rkeyserver.attestation.report_data import report_data, transcript_hash
from rkeyserver.exchange.attested import Context
from rkeyserver.exchange.messages import AttestedMessage, MintStatement, MintStatementClaims, decode, encode
from rkeyserver.exchange.mint_statement import state_mint
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.platforms.simulated.image import EnclaveIdentity
from rkeyserver.platforms.simulated.platform import SimulatedPlatform

FILE: Final = "mint-statement.json"
OTHER_DOMAIN: Final = "00" * 16


def _shared() -> Json:
    whole = fixed()
    shared: Json = {name: whole[name] for name in ("now", "policy", "keyring")}
    return shared | {
        "machine": whole["primary_machine"],
        "domain": OPERATIONS["domain id"]({"domain_secret": DOMAIN_SECRET}),
    }


@dataclass(frozen=True)
class Recorder:
    """The machine that has made a domain."""

    platform: SimulatedPlatform
    keyring: str

    def statement(self) -> bytes:
        """By the real code."""
        keyring = Keyring.parse(key_memory(bytes.fromhex(self.keyring)))
        try:
            return state_mint(keyring, self.platform, now=NOW)
        finally:
            keyring.close()

    def variants(self, good: bytes) -> Iterator[tuple[str, bytes]]:
        """Statements that are genuine in all but one thing."""
        attested = decode(good, MintStatement).attested
        claims = decode(attested.claims, MintStatementClaims)

        def with_(
            context: Context = Context.MINT_STATEMENT,
            enclave: EnclaveIdentity = self.platform.enclave,
            before: tuple[bytes, ...] = (),
            **changes: object,
        ) -> bytes:
            said = encode(msgspec.structs.replace(claims, **changes))
            bound = report_data(context, transcript_hash(*before), said)
            evidence = self.platform._quoting.quote(enclave, bound)
            vouched = AttestedMessage(claims=said, evidence=evidence, endorsements=attested.endorsements)
            return encode(MintStatement(attested=vouched))

        debug = replace(self.platform.enclave, attributes=bytes.fromhex("07000000000000000300000000000000"))
        yield "of another version", with_(version=2)
        yield "about another domain", with_(domain=OTHER_DOMAIN)
        yield "vouched for as a recovery request", with_(context=Context.RECOVERY_REQUEST)
        yield "vouched for as a self-appraisal", with_(context=Context.SELF_APPRAISAL)
        yield "vouched for after another message", with_(before=(b"",))
        yield "of a debug enclave", with_(enclave=debug)
        yield "of another signer's image", with_(enclave=replace(self.platform.enclave, mrsigner=bytes(32)))
        yield "of another machine than it says", with_(machine="00" * 16)


ENDS: Final = {
    "of another version": "wrong-version",
    "about another domain": "another-domain",
    "vouched for as a recovery request": "not-bound",
    "vouched for as a self-appraisal": "not-bound",
    "vouched for after another message": "not-bound",
    "of a debug enclave": "debug-enclave",
    "of another signer's image": "wrong-signer",
    "of another machine than it says": "identity-changed",
}
PROVED_ONLY: Final = {"of another machine than it says"}


def _record(shared: Json) -> Json:
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(_platform(Path(folder) / "first", shared["machine"], numbered(1, 32)), shared["keyring"])
        good = recorder.statement()
        return {
            "statement": good.hex(),
            "variants": {name: splices(good, other) for name, other in recorder.variants(good)},
        }


def content(*, record_anew: bool) -> Json:
    """The file's content; record_anew: with new quotes."""
    shared = _shared()
    recorded = (
        _record(shared) if record_anew else {name: load(FILE)["shared"][name] for name in ("statement", "variants")}
    )
    shared |= recorded
    return complete(
        FILE,
        "what the enclave that makes a domain tells its admins (mint-statement.md); the statement is recorded",
        _cases(shared),
        shared,
    )


def _cases(shared: Json) -> list[Json]:
    data = bytes.fromhex(shared["statement"])
    attested = decode(data, MintStatement).attested
    quote, collateral = data.index(attested.evidence), data.index(attested.endorsements)

    def wrong(name: str, changes: list[list[Any]], error: str, **given: object) -> Json:
        return case(f"statement {name}", "check statement", of="statement", changes=changes, error=error) | given

    def field(name: bytes, width: int) -> list[list[Any]]:
        return _flip(data, data.index(name) + len(name) + width)

    other_machine = shared["policy"].replace('machines = "any"', f'machines = ["{"00" * 16}"]')
    other_signer = shared["policy"].replace('mrsigner = ["', 'mrsigner = ["' + "00" * 32 + '"] # ["')
    return [
        case("statement", "check statement", of="statement", changes=[]),
        wrong("of nothing", [[0, len(data), ""]], "malformed"),
        wrong("cut", [[len(data) - 1, 1, ""]], "malformed"),
        wrong("with a byte behind it", [[len(data), 0, "00"]], "malformed"),
        wrong("too long", [[0, 0, "00", 196_608]], "too-large"),
        wrong("as another message", _flip(data, data.index(b"mint-statement")), "malformed"),
        wrong("with claims of another type", _flip(data, data.index(b"mint-statement-claims")), "malformed"),
        wrong("for another domain", [], "another-domain", domain=OTHER_DOMAIN),
        wrong("with its generation changed", field(b"generation", 2), "not-bound"),
        wrong("with its policy's digest changed", field(b"policy_sha256", 2), "not-bound"),
        wrong("with its time changed", field(b"\xa4time", 2), "not-bound"),
        wrong("with report data changed", _flip(data, quote + 368), "not-bound"),
        wrong("where the machine is not named", [], "machine-not-named", policy=other_machine),
        wrong("where the platform is not named", [], "platform-not-named")
        | {"policy": shared["policy"].replace("[simulated]", "[sgx]")},
        wrong("where another signer is named", [], "wrong-signer", policy=other_signer),
        wrong("with collateral that is no JSON", _flip(data, collateral), "malformed", proved_only=True),
        wrong("with MRENCLAVE changed", _flip(data, quote + 112), "not-genuine", proved_only=True),
        wrong("with the quote's signature changed", _flip(data, quote + 436), "not-genuine", proved_only=True),
        *(
            wrong(name, shared["variants"][name], error) | ({"proved_only": True} if name in PROVED_ONLY else {})
            for name, error in ENDS.items()
        ),
    ]
