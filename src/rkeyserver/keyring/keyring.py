"""The keyring: domain secret, generations of the root key, and the domain's policy, in one piece of key memory.

Its bytes are what is sealed and what is handed over (docs/spec/keyring.md):

    header length, 32-bit big-endian
    header, canonical JSON: version, domain id, epoch, sequence, generations, policy, changes
    domain secret, 32 bytes
    one root key of 32 bytes for each generation, in the header's order

Keys are used where they lie: every one is a view into these bytes, and nothing here copies one.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final, Literal, Self

import msgspec

from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected
from rkeyserver.hex_types import Hex16
from rkeyserver.keyring.derivation import KEY_SIZE, domain_id, generation_id
from rkeyserver.secret import MemoryKind, SecretBytes, copy_secret

_LENGTH_SIZE: Final = 4
MAX_KEYRING: Final = 256 * 1024
_MAX_POLICY: Final = 128 * 1024
_MAX_CHANGES: Final = 256
MAX_GENERATIONS: Final = 1024

Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class GenerationState(StrEnum):
    """What a generation is for: wrapping new secrets, or only reading old ones."""

    CURRENT = "current"
    READABLE = "readable"


class Generation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One root key by its public id; created: seconds since 1970."""

    id: Hex16
    created: Count
    state: GenerationState


class KeyringHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything in a keyring that is no key.

    policy: the domain's policy document, as text; changes: the changes that led to it, as text, oldest first. What
    they say is for the appraisal to read.
    """

    version: Literal[1]
    domain: Hex16
    epoch: Count
    sequence: Count
    generations: Annotated[list[Generation], msgspec.Meta(min_length=1, max_length=MAX_GENERATIONS)]
    policy: Annotated[str, msgspec.Meta(min_length=1, max_length=_MAX_POLICY)]
    changes: Annotated[list[Annotated[str, msgspec.Meta(min_length=1)]], msgspec.Meta(max_length=_MAX_CHANGES)]


class Keyring:
    """A keyring in key memory. Made by mint() or parse(), so its ids always match its keys. Close it when done."""

    __slots__ = ("_keys_at", "_secret", "header")

    def __init__(self, secret: SecretBytes, header: KeyringHeader, keys_at: int) -> None:
        self._secret = secret
        self.header = header
        self._keys_at = keys_at

    @classmethod
    def mint(cls, *, now: int, policy: str) -> Self:
        """Make a new domain with one generation.

        Only a primary started on an empty keystore may: design invariant 1. now: seconds since 1970.
        Raises: Misuse for a policy so long that the keyring could not be read again.
        """
        with SecretBytes.random(2 * KEY_SIZE) as keys:
            domain = domain_id(keys.view[:KEY_SIZE])
            first = Generation(
                id=generation_id(keys.view[KEY_SIZE:], domain), created=now, state=GenerationState.CURRENT
            )
            header = KeyringHeader(
                version=1, domain=domain, epoch=0, sequence=1, generations=[first], policy=policy, changes=[]
            )
            return cls._of(header, [keys.view])

    @classmethod
    def _of(cls, header: KeyringHeader, keys: Sequence[memoryview]) -> Self:
        encoded = msgspec.json.encode(header)
        keys_at = _LENGTH_SIZE + len(encoded)
        size = keys_at + sum(map(len, keys))
        fits = 0 < len(header.policy) <= _MAX_POLICY and size <= MAX_KEYRING
        if not fits or len(header.changes) > _MAX_CHANGES or len(header.generations) > MAX_GENERATIONS:
            raise Misuse(
                f"A policy of {len(header.policy)} characters with {len(header.changes)} signed change(s) and "
                f"{len(header.generations)} generation(s) does not fit a keyring of {MAX_KEYRING} bytes.",
                advice="Shorten the policy.",
            )
        secret = SecretBytes(size)
        secret.view[:_LENGTH_SIZE] = len(encoded).to_bytes(_LENGTH_SIZE, "big")
        secret.view[_LENGTH_SIZE:keys_at] = encoded
        at = keys_at
        for one in keys:
            copy_secret(one, secret.view[at : at + len(one)])
            at += len(one)
        return cls(secret, header, keys_at)

    def changed(self, *, policy: str, changes: Sequence[str], rotate: bool, now: int) -> Self:
        """The next state of this keyring: with another policy, and with `rotate` a new current generation.

        Only a primary may (design.md, "Words"). now: seconds since 1970. This keyring stays as it is.
        Raises: Misuse if it would not fit.
        """
        generations = self.header.generations
        with SecretBytes.random(KEY_SIZE) as key:
            if rotate:
                new = Generation(id=generation_id(key.view, self.domain), created=now, state=GenerationState.CURRENT)
                old = [msgspec.structs.replace(one, state=GenerationState.READABLE) for one in generations]
                generations = [*old, new]
            header = msgspec.structs.replace(
                self.header,
                sequence=self.header.sequence + 1,
                generations=generations,
                policy=policy,
                changes=list(changes),
            )
            return self._of(header, [self._secret.view[self._keys_at :], *([key.view] if rotate else [])])

    @classmethod
    def parse(cls, secret: SecretBytes) -> Self:
        """Take over `secret` as a keyring; it is closed if it is none.

        Raises: Corrupt if the bytes are no keyring, or if an id does not belong to its key.
        """
        try:
            return cls._parse(secret)
        except Corrupt:
            secret.close()
            raise

    @classmethod
    def _parse(cls, secret: SecretBytes) -> Self:
        view = secret.view
        keys_at = _LENGTH_SIZE + int.from_bytes(view[:_LENGTH_SIZE], "big")
        if not _LENGTH_SIZE < keys_at <= len(view) <= MAX_KEYRING:
            raise Corrupt(f"This is no keyring: {len(view)} bytes, of which {keys_at} should be its header.")
        encoded = bytes(view[_LENGTH_SIZE:keys_at])  # no secret: the keys begin behind it
        try:
            header = msgspec.json.decode(encoded, type=KeyringHeader)
        except (msgspec.DecodeError, UnicodeDecodeError):
            # Not chained and not quoted: if the length was wrong, these bytes may be keys.
            raise Corrupt("This is no keyring: its header does not decode.") from None
        if msgspec.json.encode(header) != encoded:
            raise Corrupt("The keyring's header is not in its canonical form.")
        wanted = keys_at + KEY_SIZE * (1 + len(header.generations))
        if len(view) != wanted:
            raise Corrupt(f"The keyring has {len(view)} bytes; its header asks for {wanted}.")
        keyring = cls(secret, header, keys_at)
        keyring._check_ids()
        return keyring

    def _check_ids(self) -> None:
        found = domain_id(self._key(0))
        if found != self.domain:
            raise Corrupt(f"The keyring says it is of domain {self.domain}; its secret is that of {found}.")
        for index, generation in enumerate(self.header.generations, start=1):
            found = generation_id(self._key(index), self.domain)
            if found != generation.id:
                raise Corrupt(f"The keyring says generation {generation.id}; its key is that of {found}.")
        if len({generation.id for generation in self.header.generations}) != len(self.header.generations):
            raise Corrupt("The keyring names a generation twice.")
        current = [one for one in self.header.generations if one.state is GenerationState.CURRENT]
        if len(current) != 1:
            raise Corrupt(f"The keyring has {len(current)} current generations; one is wanted.")

    def _key(self, index: int) -> memoryview:
        start = self._keys_at + KEY_SIZE * index
        return self._secret.view[start : start + KEY_SIZE]

    @property
    def domain(self) -> str:
        """The domain's id."""
        return self.header.domain

    @property
    def generation_ids(self) -> tuple[str, ...]:
        """Ids of all generations, oldest first."""
        return tuple(generation.id for generation in self.header.generations)

    @property
    def current(self) -> Generation:
        """The generation that new secrets are wrapped under."""
        return next(one for one in self.header.generations if one.state is GenerationState.CURRENT)

    @property
    def view(self) -> memoryview:
        """All bytes: to seal, or to hand to a peer with a verdict. Nothing else."""
        return self._secret.view

    @property
    def memory(self) -> MemoryKind:
        """How its memory is kept."""
        return self._secret.kind

    def root_key(self, generation: str) -> memoryview:
        """The root key of a generation, in place.

        Raises: KeyError if this keyring has no such generation.
        """
        for index, one in enumerate(self.header.generations, start=1):
            if one.id == generation:
                return self._key(index)
        raise KeyError(generation)

    def generation_named(self, name: str) -> str:
        """The id of a generation: the "first" one, the "current" one, or the one of that id.

        Raises: Rejected(NO_SUCH_GENERATION).
        """
        if name == "current":
            return self.current.id
        found = self.generation_ids[0] if name == "first" else name
        if found not in self.generation_ids:
            raise Rejected(
                Reason.NO_SUCH_GENERATION,
                f"Domain {self.domain} has no generation {name} here.",
                advice="It is another domain's, or one that this machine has not heard of yet: ask another machine.",
            )
        return found

    def same_as(self, other: Keyring) -> bool:
        """Whether both are the same, byte for byte (in constant time)."""
        return self._secret == other._secret

    def extends(self, other: Keyring) -> bool:
        """Whether this one may replace `other`: the very same, or a later one of its domain with all its generations.

        Whether its policy is one to believe is judged apart. Two keyrings of one state that differ are no extensions
        of each other.
        """
        return self.same_as(other) or (
            self.domain == other.domain
            and set(self.generation_ids) >= set(other.generation_ids)
            and (self.header.epoch, self.header.sequence) > (other.header.epoch, other.header.sequence)
        )

    def close(self) -> None:
        """Erase it."""
        self._secret.close()

    def __repr__(self) -> str:
        return f"<Keyring of domain {self.domain}, {len(self.header.generations)} generation(s)>"
