"""A sum of vectors whose parts the aggregator never sees: pairwise masks that cancel, and shares for who drops out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from assay.errors import ModelError, Problem
from assay.values import Array

FRACTION_BITS = 32  # of 64: numbers from -2^31 to 2^31 / clients, in steps of 2^-32
PRIME = 2**521 - 1  # shares are numbers below it; a secret has 256 bits
SECRET = 32  # bytes
SHARE = 66  # bytes
NONCE = bytes(12)  # every key seals one message only

Public = tuple[bytes, bytes]  # what a member publishes: the key for masks, the key for sealing


def to_fixed(vector: Array, num: int) -> Array:
    """Float `(D,)` as fixed-point uint64 `(D,)`, so that sums modulo 2^64 of `num` such vectors are exact.

    Raises ModelError for numbers that `num` of could leave the range.

    >>> from_fixed(to_fixed(np.array([0.5, -2.0]), 3) + to_fixed(np.array([1.0, 0.25]), 3))
    array([ 1.5 , -1.75])
    """
    largest = float(np.abs(vector).max(initial=0.0))
    if not largest < 2.0 ** (63 - FRACTION_BITS) / max(num, 1):
        raise ModelError(Problem(f"a number of an update is {largest:.3g}", "less, for a secure sum", "Train slower"))
    return np.rint(vector.astype(np.float64) * 2.0**FRACTION_BITS).astype(np.int64).view(np.uint64)


def from_fixed(total: Array) -> Array:
    """Fixed-point uint64 `(D,)`, read as signed, to float64 `(D,)`."""
    found: Array = total.view(np.int64).astype(np.float64) / 2.0**FRACTION_BITS
    return found


def threshold(num: int) -> int:
    """How many of `num` members it takes to finish a round: more than two thirds."""
    return 2 * num // 3 + 1


def split_secret(secret: int, places: Sequence[int], needed: int, *, prime: int = PRIME) -> list[int]:
    """A share for each place (from 1): `needed` of them give the secret, fewer say nothing at all about it.

    Source: Shamir 1979, "How to Share a Secret".
    """
    drawn = [int.from_bytes(os.urandom(SHARE + 16), "big") % prime for _ in range(needed - 1)]
    shares = []
    for place in places:
        value = 0
        for coefficient in reversed([secret, *drawn]):
            value = (value * place + coefficient) % prime
        shares.append(value)
    return shares


def join_secret(shares: Mapping[int, int], *, prime: int = PRIME) -> int:
    """The secret from shares by place: the polynomial's value at 0."""
    total = 0
    for place, share in shares.items():
        weight = share
        for other in shares:
            if other != place:
                weight = weight * other % prime * pow(other - place, -1, prime) % prime
        total = (total + weight) % prime
    return total


def mask(key: bytes, length: int) -> Array:
    """`(length,)` uint64 that nobody without the key can tell from uniform draws: the ChaCha20 key stream."""
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(8 * length))
    return np.frombuffer(stream, dtype="<u8")


def _agreed(own: X25519PrivateKey, other: bytes, use: str, pair: tuple[int, int]) -> bytes:
    """The key that two members have in common, for one use."""
    shared = own.exchange(X25519PublicKey.from_public_bytes(other))
    about = f"assay secure sum {use} {min(pair)} {max(pair)}".encode()
    return HKDF(hashes.SHA256(), SECRET, salt=None, info=about).derive(shared)


class Member:
    """A client's side of one round; `number` is its place, from 0. All its secrets are drawn afresh for the round.

    It publishes two keys, sends every other member a sealed share of the secrets behind its masks, sends its masked
    vector, and at the end gives the aggregator for each member either the share that removes the mask of one who
    answered, or the share that removes what a dropped one left behind: never both, which would uncover a vector, also
    not one today and the other when asked again. Shares are sealed once and one vector is masked: a second one under
    the same keys would tell the difference of the two.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._mask_key, self._seal_key = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        self._own_seed = os.urandom(SECRET)
        self._held: dict[int, tuple[int, int]] = {}  # by member: shares of its mask key and of its own seed
        self._publics: Mapping[int, Public] = {}
        self._has_masked = False
        self._asked: tuple[frozenset[int], frozenset[int]] | None = None  # of whom it gave a share, and which

    def publish(self) -> Public:
        """The public keys."""
        keys = (self._mask_key, self._seal_key)
        return keys[0].public_key().public_bytes_raw(), keys[1].public_key().public_bytes_raw()

    def shares(self, publics: Mapping[int, Public]) -> dict[int, bytes]:
        """Sealed shares of both secrets by member, once everybody's public keys are known. Raises ModelError."""
        if self._publics:
            raise ModelError(Problem(f"client {self.number} has sealed its shares", "once", "Start a new round"))
        self._publics = publics
        places, needed = [number + 1 for number in publics], threshold(len(publics))
        secrets = (self._mask_key.private_bytes_raw(), self._own_seed)
        split = [split_secret(int.from_bytes(secret, "big"), places, needed) for secret in secrets]
        found = {}
        for number, key_share, seed_share in zip(publics, *split, strict=True):
            if number == self.number:
                self._held[number] = (key_share, seed_share)
                continue
            message = key_share.to_bytes(SHARE, "big") + seed_share.to_bytes(SHARE, "big")
            found[number] = ChaCha20Poly1305(self._seal(number, self.number)).encrypt(NONCE, message, None)
        return found

    def _seal(self, other: int, sender: int) -> bytes:
        return _agreed(self._seal_key, self._publics[other][1], f"seal by {sender}", (self.number, other))

    def keep(self, sealed: Mapping[int, bytes]) -> None:
        """Open and keep what the others sent. Raises ModelError for a share that was changed on its way."""
        for sender, message in sealed.items():
            try:
                opened = ChaCha20Poly1305(self._seal(sender, sender)).decrypt(NONCE, message, None)
            except InvalidTag as error:
                raise ModelError(Problem(f"a share of client {sender} was changed on its way")) from error
            self._held[sender] = (int.from_bytes(opened[:SHARE], "big"), int.from_bytes(opened[SHARE:], "big"))

    def masked(self, vector: Array) -> Array:
        """The fixed-point vector `(D,)` under its own mask and one for each other, modulo 2^64. Raises ModelError."""
        if self._has_masked:
            raise ModelError(Problem(f"client {self.number} has masked a vector", "one", "Start a new round"))
        self._has_masked = True
        total = vector + mask(self._own_seed, len(vector))
        for other, public in self._publics.items():
            if other != self.number:
                key = _agreed(self._mask_key, public[0], "mask", (self.number, other))
                _add_signed(total, mask(key, len(vector)), positive=self.number < other)
        return total

    def reveal(self, present: Sequence[int], dropped: Sequence[int]) -> dict[int, int]:
        """By member the one share that the aggregator needs. Raises ModelError when asked for both of one, ever."""
        asked = frozenset(present), frozenset(dropped)
        if asked[0] & asked[1] or (self._asked is not None and self._asked != asked):
            raise ModelError(Problem("both shares of a client were asked for", "one or the other"))
        if len(asked[0]) < threshold(len(self._publics)):
            what = f"{len(asked[0])} of {len(self._publics)} clients answered"
            raise ModelError(Problem(what, "more than two thirds"))
        self._asked = asked
        found = {number: self._held[number][1] for number in present}
        return found | {number: self._held[number][0] for number in dropped}


def _add_signed(total: Array, masked: Array, *, positive: bool) -> None:
    if positive:
        total += masked
    else:
        total -= masked


@dataclass
class Aggregator:
    """The other side: it adds up masked vectors and can take the masks off the sum alone."""

    publics: Mapping[int, Public]
    length: int
    total: Array = field(init=False)
    present: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.total = np.zeros(self.length, dtype=np.uint64)

    def add(self, number: int, masked: Array) -> None:
        """Take a masked vector `(D,)`. Raises ModelError for a second one of a member, and for one of a stranger."""
        if number in self.present or number not in self.publics:
            raise ModelError(Problem(f"a vector of client {number} came twice, or is a stranger's", "one of each"))
        self.total += masked
        self.present.append(number)

    @property
    def dropped(self) -> list[int]:
        """Who sent shares and no vector."""
        return [number for number in self.publics if number not in self.present]

    @property
    def is_enough(self) -> bool:
        """Whether enough members answered for the masks to come off."""
        return len(self.present) >= threshold(len(self.publics))

    def unmask(self, revealed: Mapping[int, Mapping[int, int]]) -> Array:
        """The exact sum `(D,)` of the vectors of those who answered, from what they revealed, by member."""
        total = self.total.copy()
        needed = threshold(len(self.publics))
        for number in self.publics:
            shares = {holder + 1: shares[number] for holder, shares in list(revealed.items())[:needed]}
            secret = join_secret(shares).to_bytes(SECRET, "big")
            if number in self.present:
                total -= mask(secret, self.length)
                continue
            key = X25519PrivateKey.from_private_bytes(secret)
            for other in self.present:
                left = mask(_agreed(key, self.publics[other][0], "mask", (number, other)), self.length)
                _add_signed(total, left, positive=number < other)  # the opposite of what `other` added
        return total


def secure_sum(num: int, vectors: Iterable[tuple[int, Array]], length: int) -> Array | None:
    """The sum `(D,)` float64 of float vectors of members 0 to `num` - 1, those that are there; None where too few are.

    All sides of the protocol in this process. Who is missing from `vectors` dropped out after sending its shares.
    Limits: against an aggregator that follows the protocol and looks at everything it is sent, alone or with up to two
    thirds of the members: keys are not certified, nobody proves that a vector is honest, and the sum itself can tell
    much of one member when the others are known. The aggregator learns who dropped out.

    Source: Bonawitz et al. 2017, "Practical Secure Aggregation", figure 4 (without round 3, against active servers).
    """
    members = [Member(number) for number in range(num)]
    publics = {member.number: member.publish() for member in members}
    sealed = {member.number: member.shares(publics) for member in members}
    for member in members:
        member.keep({sender: shares[member.number] for sender, shares in sealed.items() if sender != member.number})
    aggregator = Aggregator(publics, length)
    for number, vector in vectors:
        aggregator.add(number, members[number].masked(to_fixed(vector, num)))
    if not aggregator.is_enough:
        return None
    present, dropped = aggregator.present, aggregator.dropped
    return from_fixed(aggregator.unmask({number: members[number].reveal(present, dropped) for number in present}))
