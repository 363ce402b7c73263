"""Every use of a run's seed has draws of its own."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
import torch

from assay.errors import UsageError
from assay.train import Hooks, fit, loop, train_system
from assay.train.streams import check_seed, stream_seed
from assay.values import Array, Data
from train_kit import task_of

USES = ["augmentation 0", "augmentation 1", "random starts", "watched random starts", "adversary", "generated rows"]


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
    assert len(found) == 6 * len(USES)
    assert all(0 <= one < 1 << 32 for one in found)


def correlations(left: Array, right: Array) -> Array:
    """Of each column of one with each of the other, in standard deviations of what chance gives."""
    left, right = ((one - one.mean(axis=0)) / one.std(axis=0) for one in (left, right))
    found: Array = left.T @ right / len(left) ** 0.5
    return found


def test_dropout_tells_nothing_of_the_order_though_both_begin_at_the_same_words() -> None:
    """Over 4,000 seeds: where the first rows go, and what the first mask drops; words as they are for other builds."""
    places, masks, words = [], [], []
    for seed in range(4000):
        places.append(torch.randperm(1001, generator=torch.Generator().manual_seed(seed))[:12])
        masks.append(torch.empty(12).bernoulli_(0.5, generator=torch.Generator().manual_seed(seed)))
        words.append(torch.rand(12, generator=torch.Generator().manual_seed(seed)))
    order, dropped, drawn = (torch.stack(one).double().numpy() for one in (places, masks, words))
    assert np.abs(correlations(order, dropped)).max() < 4.5
    assert np.abs(correlations(order, (drawn < 0.5).astype(float))).max() < 4.5
    assert np.abs(correlations(drawn, (drawn < 0.5).astype(float))).max() > 50  # what sharing a stream looks like


def test_augmentation_has_a_stream_that_is_not_that_of_order_and_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    def record(_: object, batch: torch.Tensor, generator: torch.Generator, **__: object) -> torch.Tensor:
        seen.append(generator.get_state().clone())
        return batch

    monkeypatch.setattr(loop, "augment", record)
    module, split, task, settings, columns = task_of("image")
    fit(module, split, task=task, settings=settings, seed=4, hooks=Hooks(columns=columns))
    assert not seen[0].equal(torch.Generator().manual_seed(4).get_state())
    assert seen[0].equal(torch.Generator().manual_seed(stream_seed(4, "augmentation 0")).get_state())


@pytest.mark.parametrize("seed", [-1, 1 << 32, (1 << 32) + 7])
def test_a_seed_that_would_train_the_model_of_another_is_refused(small_data: Data, seed: int) -> None:
    with pytest.raises(UsageError, match=f"the seed of a training is {seed}"):
        train_system(small_data, seed=seed)
    check_seed((1 << 32) - 1)
