"""Scattering against its definition, and the network that learns one layer on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.errors import ModelError
from assay.models import Architecture, FitsEncoding, build, prepared
from assay.models.scattering import MARGIN, Scattering, morlet
from assay.models.store import load_system, save_system
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.treatments.train.dp_sgd import dp_sgd
from assay.values import Column
from support import small_images

COLUMNS = [Column("image", "image", low=0, high=255, shape=(1, 28, 28))]


def convolved(picture, wavelet):
    """The circular convolution, term by term over the wavelet's places."""
    found = np.zeros(picture.shape, dtype=complex)
    for (y, x), weight in np.ndenumerate(wavelet):
        if abs(weight) > 1e-12:
            found += weight * np.roll(picture, (y, x), axis=(0, 1))
    return found


def averaged(picture):
    """Gaussian of deviation 1.6 around every fourth pixel inside the margins, term by term."""
    found = np.zeros((7, 7))
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
    for i in range(7):
        for j in range(7):
            bell = np.exp(-((y - MARGIN - 4 * i) ** 2 + (x - MARGIN - 4 * j) ** 2) / (2 * 1.6**2))
            found[i, j] = (picture * bell).sum() / bell.sum()
    return found


def test_paths_are_what_the_definition_says():
    picture = np.random.default_rng(0).random((28, 28))
    made = Scattering(28, 28)(torch.from_numpy(picture)[None, None].float())[0].numpy()
    wide = np.pad(picture, MARGIN, mode="reflect")
    first = np.abs(convolved(wide, morlet(*wide.shape, 0, 3, 8)))
    second = np.abs(convolved(first, morlet(*wide.shape, 1, 5, 8)))
    np.testing.assert_allclose(made[0], averaged(wide), atol=1e-5)
    np.testing.assert_allclose(made[1 + 3], averaged(first), atol=1e-5)
    # Coarse moduli are read at every second pixel, so their averages differ from the definition by a little.
    assert np.linalg.norm(made[17 + 8 * 3 + 5] - averaged(second)) < 0.01 * np.linalg.norm(averaged(second))


def test_wavelets_have_no_mean_and_are_conjugate_in_a_point():
    for scale in (0, 1):
        for angle in range(8):
            wavelet = morlet(36, 36, scale, angle, 8)
            assert abs(wavelet.sum()) < 1e-12
            assert np.abs(np.fft.fft2(wavelet).imag).max() < 1e-12


def test_a_move_of_a_pixel_changes_pixels_much_more_than_averages():
    picture = torch.from_numpy(small_images(20).splits["train"].inputs[:1]).float() / 255
    moved = torch.roll(picture, 1, dims=3)
    side = picture.shape[-1]
    scattering = Scattering(side, side)
    before, after = scattering(picture), scattering(moved)
    pixels = float((picture - moved).norm() / picture.norm())
    assert float((before - after).norm() / before.norm()) < 0.6 * pixels


def test_what_is_prepared_gives_the_same_answers_gradients_and_training():
    module = build("scattering", columns=COLUMNS, num_outputs=3, params={}).eval()
    assert not isinstance(module, FitsEncoding)  # nothing of the training rows but the layer
    inputs = np.random.default_rng(1).integers(0, 256, (70, 1, 28, 28)).astype(np.uint8)
    ready = prepared(module, inputs)
    assert ready.shape == (70, 81 * 49)
    raw = torch.from_numpy(inputs).float().requires_grad_()
    answers = module(raw)
    torch.testing.assert_close(module(ready), answers, atol=1e-5, rtol=1e-5)
    (slope,) = torch.autograd.grad(answers[:, 0].sum(), raw)
    assert bool(torch.isfinite(slope).all())
    assert bool((slope != 0).any())


@pytest.mark.parametrize(
    ("params", "said"), [({"num_groups": 7}, "groups that divide 81"), ({"num_groups": 0}, "groups that divide 81")]
)
def test_wrong_sizes_are_said(params, said):
    with pytest.raises(ModelError, match=said):
        build("scattering", columns=COLUMNS, num_outputs=3, params=params)
    with pytest.raises(ModelError, match="images have shape"):
        build("scattering", columns=COLUMNS, num_outputs=3, params={})(torch.zeros(1, 1, 9, 9))


@pytest.mark.slow
def test_trained_privately_and_saved(tmp_path):
    data = small_images(200, num_classes=2)
    settings = TrainSettings(epochs=8, batch_size=32)
    system = train_system(data, recipe=TrainRecipe(Architecture("scattering", {}), task_of(data), settings), seed=1)
    treated = dp_sgd(system, epsilon=8.0, delta=1e-3, training={"epochs": 2, "batch_size": 64, "average": 0.9})
    said = treated.lineage[-1].outcome["not_covered"]
    assert not any("pictures" in one for one in said)  # no mean and no deviation was taken from them
    assert treated.recipe.settings.average == 0.9
    test = data.splits["test"]
    assert (system.model.outputs(test.inputs).argmax(axis=1) == test.labels).mean() > 0.7
    loaded = load_system(save_system(treated, tmp_path / "system"), data)
    np.testing.assert_array_equal(loaded.model.outputs(test.inputs), treated.model.outputs(test.inputs))
