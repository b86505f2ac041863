"""The keyring: domain secret, generations of the root key, and the domain's policy, in one piece of key memory.

Its bytes are what is sealed and what is handed over (docs/spec/keyring.md):

    header length, 32-bit big-endian
    header, canonical JSON: version, domain id, epoch, sequence, primary, generations, policy, changes
    domain secret, 32 bytes
    one root key of 32 bytes for each generation, in the header's order

Keys are used where they lie: every one is a view into these bytes, and nothing here copies one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Annotated, Final, Literal, Self

import msgspec

from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected
from rkeyserver.hex_types import Hex16
from rkeyserver.keyring import generations
from rkeyserver.keyring.derivation import KEY_SIZE, domain_id, generation_id
from rkeyserver.keyring.generations import Count, Generation, GenerationState
from rkeyserver.keyring.place import Place
from rkeyserver.secret import MemoryKind, SecretBytes, copy_secret

_LENGTH_SIZE: Final = 4
MAX_KEYRING: Final = 256 * 1024
_MAX_POLICY: Final = 128 * 1024
_MAX_CHANGES: Final = 256
MAX_GENERATIONS: Final = 1024


class KeyringHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything in a keyring that is no key.

    primary: the member that made this state, and may make the next one.
    policy: the domain's policy document, as text; changes: the changes that led to it, as text, oldest first. What
    they say is for the appraisal to read.
    """

    version: Literal[1]
    domain: Hex16
    epoch: Count
    sequence: Count
    primary: Hex16
    generations: Annotated[list[Generation], msgspec.Meta(min_length=1, max_length=MAX_GENERATIONS)]
    policy: Annotated[str, msgspec.Meta(min_length=1, max_length=_MAX_POLICY)]
    changes: Annotated[list[Annotated[str, msgspec.Meta(min_length=1)]], msgspec.Meta(max_length=_MAX_CHANGES)]


class Keyring:
    """A keyring in key memory. Made by mint() or parse(), so its ids always match its keys. Close it when done."""

    __slots__ = ("_current", "_keys_at", "_places", "_secret", "header")

    def __init__(self, secret: SecretBytes, header: KeyringHeader, keys_at: int) -> None:
        self._secret = secret
        self.header = header
        self._keys_at = keys_at
        # Looked up with each call of a caller, and of a keyring nothing changes.
        self._places = {one.id: index for index, one in enumerate(header.generations, start=1)}
        self._current = [one for one in header.generations if one.state is GenerationState.CURRENT]

    @classmethod
    def mint(cls, *, now: int, policy: str, primary: str) -> Self:
        """Make a new domain with one generation.

        Only a primary started on an empty keystore may: design invariant 1. now: seconds since 1970; primary: the
        member that makes it. Raises: Misuse for a policy so long that the keyring could not be read again.
        """
        with SecretBytes.random(2 * KEY_SIZE) as keys:
            domain = domain_id(keys.view[:KEY_SIZE])
            first = Generation(
                id=generation_id(keys.view[KEY_SIZE:], domain), created=now, state=GenerationState.CURRENT
            )
            header = KeyringHeader(
                version=1,
                domain=domain,
                epoch=0,
                sequence=1,
                primary=primary,
                generations=[first],
                policy=policy,
                changes=[],
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

    # The next states. Only a primary makes them (design.md, "Words"); each leaves this keyring as it is, and raises
    # Misuse if the new one would not fit. now: seconds since 1970.

    def changed(self, *, policy: str, changes: Sequence[str], add: GenerationState | None, now: int) -> Self:
        """With another policy; add: the state of a generation that is added with it, current or pending, or None."""
        header = msgspec.structs.replace(self.header, policy=policy, changes=list(changes))
        return self._next(header) if add is None else self._with_generation(header, add, now)

    def rotated(self, *, add: GenerationState, now: int) -> Self:
        """With a new generation. add: pending, or current where nobody else can have it yet."""
        return self._with_generation(self.header, add, now)

    def activated(self) -> Self:
        """With the pending generation as the current one: it is elsewhere too."""
        return self._next(self._with(generations.activated(self.header.generations)))

    def retired(self, generation: str) -> Self:
        """With a readable generation that is not read any more.

        Raises: Misuse for one that is in another state; Rejected(NO_SUCH_GENERATION).
        """
        found = self._generation(generation)
        if found.state is not GenerationState.READABLE:
            raise Misuse(
                f"Generation {found.id} is {found.state}; only a readable one is retired.",
                advice="Rotate first, so that another one is current."
                if found.state is GenerationState.CURRENT
                else "",
            )
        return self._next(self._with(generations.retired(self.header.generations, found.id)))

    def promoted(self, primary: str, *, at_least: int = 0) -> Self:
        """In the next epoch, whose changes are that member's; at_least: the lowest epoch that it may be."""
        epoch = max(self.header.epoch + 1, at_least)
        return self._next(msgspec.structs.replace(self.header, epoch=epoch, primary=primary))

    def merged(
        self, other: Keyring, primary: str, *, policy: str, changes: Sequence[str], rotate: bool, now: int
    ) -> Self:
        """Reunion: with the generations of another state of this domain, which went apart from it.

        What wraps is that of the later of the two; the result is later than both. rotate: with a pending generation
        more, for the policy that was taken over accepts less.
        """
        leading, following = (self, other) if self.place > other.place else (other, self)
        both = generations.merged(leading.header.generations, following.header.generations)
        header = msgspec.structs.replace(
            self.header,
            epoch=leading.header.epoch,
            sequence=max(self.header.sequence, other.header.sequence) + 1,
            primary=primary,
            generations=both,
            policy=policy,
            changes=list(changes),
        )
        source = {one: keyring for keyring in (other, self) for one in keyring.generation_ids}

        def key_of(generation: str) -> memoryview:
            return source[generation].root_key(generation)

        if not rotate:
            return self._of(header, self._keys(header, key_of))
        with SecretBytes.random(KEY_SIZE) as key:
            new = Generation(id=generation_id(key.view, self.domain), created=now, state=GenerationState.PENDING)
            more = msgspec.structs.replace(header, generations=generations.with_pending(both, new))
            return self._of(more, [*self._keys(header, key_of), key.view])

    def _keys(self, header: KeyringHeader, key_of: Callable[[str], memoryview]) -> list[memoryview]:
        return [self._key(0), *(key_of(one.id) for one in header.generations)]

    def _with(self, changed: list[Generation]) -> KeyringHeader:
        return msgspec.structs.replace(self.header, generations=changed)

    def _next(self, header: KeyringHeader) -> Self:
        header = msgspec.structs.replace(header, sequence=self.header.sequence + 1)
        return self._of(header, [self._secret.view[self._keys_at :]])

    def _with_generation(self, header: KeyringHeader, add: GenerationState, now: int) -> Self:
        place = generations.with_current if add is GenerationState.CURRENT else generations.with_pending
        with SecretBytes.random(KEY_SIZE) as key:
            new = Generation(id=generation_id(key.view, self.domain), created=now, state=add)
            header = msgspec.structs.replace(
                header, sequence=self.header.sequence + 1, generations=place(header.generations, new)
            )
            return self._of(header, [self._secret.view[self._keys_at :], key.view])

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
        if len(self._places) != len(self.header.generations):
            raise Corrupt("The keyring names a generation twice.")
        for state, most in ((GenerationState.CURRENT, 1), (GenerationState.PENDING, 1)):
            number = sum(one.state is state for one in self.header.generations)
            if number > most or (not number and state is GenerationState.CURRENT):
                raise Corrupt(f"The keyring has {number} {state} generations; one is wanted.")

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
        return self._current[0]

    @property
    def pending(self) -> Generation | None:
        """The generation that is to be current once it is elsewhere too; None if there is none."""
        return next((one for one in self.header.generations if one.state is GenerationState.PENDING), None)

    @property
    def place(self) -> Place:
        """Which state of its domain this is."""
        header = self.header
        encoded = self._secret.view[_LENGTH_SIZE : self._keys_at]
        return Place(header.epoch, header.sequence, header.primary, hashlib.sha256(encoded).hexdigest())

    @property
    def domain_secret(self) -> memoryview:
        """The domain's secret, in place: to derive from, where a key is to stay the same over all generations."""
        return self._key(0)

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
        return self._key(self._places[generation])

    def generation_named(self, name: str) -> str:
        """The id of a generation to use: the "first" one, the "current" one, or the one of that id.

        Raises: Rejected(NO_SUCH_GENERATION | GENERATION_RETIRED).
        """
        if name == "current":
            return self.current.id
        found = self._generation(self.header.generations[0].id if name == "first" else name)
        if found.state is GenerationState.RETIRED:
            raise Rejected(
                Reason.GENERATION_RETIRED,
                f"Generation {found.id} of domain {self.domain} was retired: nothing is read or derived with it.",
                advice="What it had wrapped was to be wrapped anew before: ask who retired it.",
            )
        return found.id

    def _generation(self, name: str) -> Generation:
        if (place := self._places.get(name)) is not None:
            return self.header.generations[place - 1]
        raise Rejected(
            Reason.NO_SUCH_GENERATION,
            f"Domain {self.domain} has no generation {name} here.",
            advice="It is another domain's, or one that this machine has not heard of yet: ask another machine.",
        )

    def same_as(self, other: Keyring) -> bool:
        """Whether both are the same, byte for byte (in constant time)."""
        return self._secret == other._secret

    def extends(self, other: Keyring) -> bool:
        """Whether this one may replace `other`: the very same, or a later one of its domain with all its generations.

        Whether its policy is one to believe is judged apart.
        """
        return self.same_as(other) or (
            self.domain == other.domain
            and set(self.generation_ids) >= set(other.generation_ids)
            and self.place > other.place
        )

    def close(self) -> None:
        """Erase it."""
        self._secret.close()

    def __repr__(self) -> str:
        return f"<Keyring of domain {self.domain}, {len(self.header.generations)} generation(s)>"
