"""Every use of a run's seed has draws of its own."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import torch

from assay.train.streams import stream_seed

USES = ["order", "augmentation", "random starts", "noise"]


def draws(seed: int) -> torch.Tensor:
    return torch.rand(4096, generator=torch.Generator().manual_seed(seed))


def test_an_offset_above_32_bits_gives_a_cpu_generator_the_same_stream_again() -> None:
    assert draws(5).equal(draws(5 + (1 << 32)))
    assert draws(5).equal(draws(5 + (1 << 33)))


def test_no_two_uses_share_a_stream_and_none_is_correlated_with_another_at_any_lag() -> None:
    """Circular correlations of 4,096 draws at all lags; a stream beside itself is found."""
    for seed in (0, 7, 1 << 40):
        found = [draws(stream_seed(seed, use)).double().numpy() for use in USES]
        spectra = [np.fft.rfft(one - one.mean()) / (one.std() * len(one) ** 0.5) for one in found]
        for first, second in itertools.combinations(spectra, 2):
            assert np.abs(np.fft.irfft(first * second.conj())).max() * 64 < 6  # standard deviations
        assert np.fft.irfft(spectra[0] * spectra[0].conj()).max() * 64 > 60


def test_a_stream_is_the_seed_and_the_use_and_nothing_else() -> None:
    known = int.from_bytes(hashlib.sha256(b"noise\x00-3").digest()[:4], "little")
    assert stream_seed(-3, "noise") == known
    assert stream_seed(1, "1 noise") != stream_seed(11, " noise")


def test_seeds_that_a_cpu_generator_takes_for_one_are_told_apart() -> None:
    found = {stream_seed(seed, use) for seed in (0, 1, 1 << 32, 1 << 33, 1 << 80, -1) for use in USES}
    assert len(found) == 24
    assert all(0 <= one < 1 << 32 for one in found)
