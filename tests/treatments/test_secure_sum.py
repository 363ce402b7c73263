"""Secure sums: exact, with and without drop-outs, and nothing of one vector in what the aggregator sees."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chi2

from assay.errors import ModelError
from assay.train.federation import secure_sum as secure
from assay.train.federation.secure_sum import Aggregator, Member, join_secret, mask, split_secret, to_fixed


def introduced(num):
    """Members who have exchanged keys and shares."""
    members = [Member(number) for number in range(num)]
    publics = {member.number: member.publish() for member in members}
    sealed = {member.number: member.shares(publics) for member in members}
    for member in members:
        member.keep({sender: shares[member.number] for sender, shares in sealed.items() if sender != member.number})
    return members, publics, sealed


@pytest.mark.parametrize(("num", "gone"), [(1, ()), (3, ()), (7, (2,)), (7, (0, 6)), (10, (1, 4, 5))])
def test_the_sum_is_exact_whoever_drops_out(num, gone):
    vectors = np.random.default_rng(0).integers(-(2**40), 2**40, (num, 50)) / 2.0**32  # steps of the fixed point
    present = [number for number in range(num) if number not in gone]
    found = secure.secure_sum(num, ((number, vectors[number]) for number in present), 50)
    np.testing.assert_array_equal(found, vectors[present].sum(axis=0))


def test_fixed_point_is_off_by_less_than_half_a_step_a_member():
    vectors = np.random.default_rng(1).normal(0, 30, (5, 400))
    found = secure.secure_sum(5, enumerate(vectors), 400)
    assert np.abs(found - vectors.sum(axis=0)).max() <= 5 * 2.0**-33
    with pytest.raises(ModelError, match="a number of an update is"):
        to_fixed(np.array([2.0**31]), 2)
    with pytest.raises(ModelError, match="nan"):
        to_fixed(np.array([np.nan]), 2)


def test_too_few_answers_give_no_sum_and_no_member_helps_to_uncover_one():
    assert secure.secure_sum(6, enumerate(np.ones((4, 3))), 3) is None
    assert secure.secure_sum(0, [], 3) is None
    members, _, _ = introduced(6)
    with pytest.raises(ModelError, match="4 of 6 clients answered"):
        members[0].reveal([0, 1, 2, 3], [4, 5])
    with pytest.raises(ModelError, match="both shares"):
        members[0].reveal([0, 1, 2, 3, 4], [4, 5])
    with pytest.raises(ModelError, match="4 of 6 clients answered"):
        members[0].reveal([0, 1, 2, 3, 3], [4, 5])


def test_nothing_that_would_uncover_a_vector_is_done_twice():
    members, publics, _ = introduced(3)
    aggregator = Aggregator(publics, 4)
    for member in members:
        aggregator.add(member.number, member.masked(to_fixed(np.ones(4), 3)))
    first = members[0].reveal([0, 1, 2], [])
    assert members[0].reveal([2, 1, 0], []) == first  # a request that came twice
    four, _, _ = introduced(4)
    four[0].reveal([0, 1, 2], [3])
    with pytest.raises(ModelError, match="both shares"):  # seed of 3, after the key of 3
        four[0].reveal([0, 1, 2, 3], [])
    with pytest.raises(ModelError, match="client 0 has masked a vector"):
        members[0].masked(to_fixed(np.zeros(4), 3))
    with pytest.raises(ModelError, match="client 0 has sealed its shares"):
        members[0].shares(publics)
    for number in (1, 7):
        with pytest.raises(ModelError, match=f"client {number} came twice, or is a stranger's"):
            aggregator.add(number, np.zeros(4, dtype=np.uint64))


def test_what_the_aggregator_sees_of_one_vector_is_uniform_whatever_the_vector():
    """Bytes of masked vectors against the uniform law, for a constant, a sparse and a random vector, and for sums."""
    members, publics, _ = introduced(4)
    length = 20_000
    vectors = [
        np.zeros(length),
        np.full(length, 3.0),
        np.eye(1, length)[0],
        np.random.default_rng(2).normal(size=length),
    ]
    masked = [member.masked(to_fixed(one, 4)) for member, one in zip(members, vectors, strict=True)]
    aggregator = Aggregator(publics, length)
    for number, one in enumerate(masked[:3]):
        aggregator.add(number, one)  # three of four: the mask of the last is still on it
    for seen in (*masked, aggregator.total):
        counts = np.bincount(seen.view(np.uint8), minlength=256)
        expected = counts.sum() / 256
        assert ((counts - expected) ** 2 / expected).sum() < chi2.isf(1e-5, 255)
    plain = np.bincount(to_fixed(vectors[3], 4).view(np.uint8), minlength=256)
    assert ((plain - plain.mean()) ** 2 / plain.mean()).sum() > 100 * chi2.isf(1e-5, 255)  # and the test has power
    words = np.stack([one.view(np.uint16) for one in masked]).astype(np.float64)
    off = np.corrcoef(words) - np.eye(4)
    assert np.abs(off).max() < 5 / np.sqrt(words.shape[1])


def test_the_same_vector_is_never_masked_the_same_way_twice():
    vector = to_fixed(np.ones(8), 3)
    seen = {introduced(3)[0][0].masked(vector).tobytes() for _ in range(4)}
    assert len(seen) == 4
    assert mask(bytes(32), 4).tobytes() != mask(bytes(31) + b"\1", 4).tobytes()


def test_the_key_stream_is_that_of_the_standard():
    """RFC 7539, appendix A.1, test vector 1: key, nonce and counter of zeros."""
    assert mask(bytes(32), 8).tobytes().hex().startswith("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b77")


def test_shares_give_the_secret_and_fewer_say_nothing():
    """Every polynomial over a small field: given two shares of three needed, each secret is equally likely."""
    prime, places = 7, (1, 2, 3)
    by_pair = {}
    for secret, first, second in itertools.product(range(prime), repeat=3):
        shares = [(secret + first * place + second * place**2) % prime for place in places]
        assert join_secret(dict(zip(places, shares, strict=True)), prime=prime) == secret
        by_pair.setdefault((shares[0], shares[1]), Counter())[secret] += 1
    assert all(counts == Counter(range(prime)) for counts in by_pair.values())
    shares = split_secret(123456789, [1, 2, 3, 4, 5], 3)
    for chosen in itertools.combinations(range(5), 3):
        assert join_secret({place + 1: shares[place] for place in chosen}) == 123456789
    assert join_secret({1: shares[0], 2: shares[1]}) != 123456789


def test_a_share_that_was_changed_is_refused():
    members, publics, sealed = introduced(3)
    broken = bytearray(sealed[1][0])
    broken[5] ^= 1
    with pytest.raises(ModelError, match="a share of client 1 was changed"):
        members[0].keep({1: bytes(broken)})
    assert set(publics) == {0, 1, 2}
