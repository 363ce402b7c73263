"""Setting pictures upright against moments summed pixel by pixel and SciPy's own reading between pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform

from assay.models import Architecture, build, prepared
from assay.models.deskew import Deskew
from assay.models.store import load_system, save_system
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.treatments.train.dp_sgd import DpRecipe, DpSettings
from assay.values import Column
from support import small_images

COLUMNS = [Column("image", "image", low=0, high=255, shape=(1, 28, 28))]


def strokes(num, *, channels=1, height=28, width=24):
    """Leaning strokes of random place, thickness and slant on a ground of 0, float64 in 0..1."""
    rng = np.random.default_rng(num)
    made = np.zeros((num, channels, height, width))
    across = np.arange(width)
    for one in range(num):
        slant, centre, thick = rng.uniform(-0.6, 0.6), rng.uniform(9, 14), rng.uniform(1, 2.5)
        top, bottom = rng.integers(3, 8), rng.integers(18, 25)
        for y in range(top, bottom):
            bell = np.exp(-((across - centre - slant * (y - 14)) ** 2) / (2 * thick**2))
            made[one, :, y] = np.where(bell > 0.05, bell, 0) * rng.uniform(0.4, 1, (channels, 1))
    return made


def moments(picture):
    """Centre, slant without any bound, of a picture `(C, H, W)`: sums written out."""
    mass = sum_y = sum_x = 0.0
    for (_, y, x), weight in np.ndenumerate(picture):
        mass, sum_y, sum_x = mass + weight, sum_y + weight * y, sum_x + weight * x
    centre = sum_y / mass, sum_x / mass
    down = across = 0.0
    for (_, y, x), weight in np.ndenumerate(picture):
        down += weight * (y - centre[0]) ** 2 / mass
        across += weight * (y - centre[0]) * (x - centre[1]) / mass
    return *centre, across / (down + 1 / 12)


def upright(picture):
    """The definition by SciPy: output place o reads input place M o + offset."""
    centre_y, centre_x, slant = moments(picture)
    matrix = np.array([[1, 0], [np.clip(slant, -1, 1), 1]])
    middle = (np.array(picture.shape[1:]) - 1) / 2
    offset = np.array([centre_y, centre_x]) - matrix @ middle
    return np.stack([affine_transform(one, matrix, offset, order=1, mode="grid-constant") for one in picture])


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_read_where_the_definition_says(channels):
    pictures = strokes(6, channels=channels)
    steep = np.zeros((1, channels, 28, 24))
    for x in range(4, 20):  # leans by more than 45 degrees, so the bound holds
        steep[0, :, 10 + x // 4, x] = 1.0
    assert moments(steep[0])[2] > 2
    pictures = np.concatenate([pictures, steep])
    made = Deskew()(torch.from_numpy(pictures)).numpy()
    for one, found in zip(pictures, made, strict=True):
        np.testing.assert_allclose(found, upright(one), atol=1e-9)
    single = Deskew()(torch.from_numpy(pictures).float())
    np.testing.assert_allclose(single.numpy(), made, atol=2e-4)


def test_what_leaned_is_upright_and_in_the_middle():
    pictures = strokes(8)
    made = Deskew()(torch.from_numpy(pictures)).numpy()
    before, after = (np.array([moments(one) for one in each]) for each in (pictures, made))
    assert np.abs(before[:, 2]).max() > 0.3
    assert np.abs(after[:, 2]).max() < 0.01
    np.testing.assert_allclose(after[:, :2], [[13.5, 11.5]] * 8, atol=0.05)


def test_no_row_depends_on_another_nor_on_how_bright_it_is():
    pictures = torch.from_numpy(strokes(9)).float()
    made = Deskew()(pictures)
    for row in range(len(pictures)):
        assert torch.equal(Deskew()(pictures[row : row + 1]), made[row : row + 1])
    torch.testing.assert_close(Deskew()(pictures / 2), made / 2, atol=1e-4, rtol=0)
    assert torch.equal(Deskew()(torch.zeros(2, 1, 12, 12)), torch.zeros(2, 1, 12, 12))


def test_it_is_an_option_and_off_unless_asked_for():
    pictures = (strokes(5, width=28) * 255).astype(np.uint8)
    plain = build("scattering", columns=COLUMNS, num_outputs=3, params={}).eval()
    module = build("scattering", columns=COLUMNS, num_outputs=3, params={"deskew": True}).eval()
    assert not any(isinstance(layer, Deskew) for layer in plain.modules())
    upright_ones = Deskew()(torch.from_numpy(pictures).float())
    torch.testing.assert_close(plain.body(upright_ones / 255), prepared(module, pictures), atol=1e-3, rtol=1e-3)
    raw = torch.from_numpy(pictures).float().requires_grad_()
    (slope,) = torch.autograd.grad(module(raw)[:, 0].sum(), raw)
    assert bool(torch.isfinite(slope).all())
    assert bool((slope != 0).any())


@pytest.mark.slow
def test_a_private_training_is_saved_with_it_and_repeats(tmp_path):
    data = small_images(120, num_classes=2)
    settings = TrainSettings(epochs=1, batch_size=32)
    recipe = TrainRecipe(Architecture("scattering", {"deskew": True}), task_of(data), settings)
    assert recipe.digest != TrainRecipe(Architecture("scattering", {}), task_of(data), settings).digest
    system = train_system(data, recipe=recipe, seed=1)
    inputs = data.splits["test"].inputs
    loaded = load_system(save_system(system, tmp_path / "system"), data)
    np.testing.assert_array_equal(loaded.model.outputs(inputs), system.model.outputs(inputs))
    private = DpRecipe(recipe, DpSettings(epsilon=8.0, delta=1e-3, batch_size=32, epochs=1))
    first, again = (private.fit(data.splits["train"], data, 3).model.outputs(inputs) for _ in range(2))
    np.testing.assert_array_equal(first, again)
