import numpy as np
import pytest

from assay.probes.fairness._binned import binned_error
from assay.probes.fairness.calibration_by_group import calibration_by_group
from assay.stats import make_draws
from assay.tasks import Classification
from assay.values import Column, Groups

COLUMNS = (Column("sex", "categorical", ("f", "m")), Column("origin", "categorical", ("a", "b", "c")))


def measure(labels, chance, codes, num_draws=50):
    draws = make_draws(b"key", "split", [labels, *codes.T], num_draws=num_draws)
    probabilities, groups = np.column_stack([1 - chance, chance]), Groups(codes, COLUMNS[: codes.shape[1]])
    predictions = np.where(np.isnan(chance), -1, chance > 0.5).astype(int)
    found = calibration_by_group(labels, probabilities, predictions, groups, Classification(("no", "yes")), draws)
    return {(one.metric, one.slice): one for one in found}


def test_in_the_large_equals_averaging_by_hand():
    rng = np.random.default_rng(0)
    chance, labels = rng.random(90), rng.integers(2, size=90)
    codes = np.column_stack([rng.integers(-1, 2, 90), rng.integers(3, size=90)])
    chance[:3] = np.nan
    found = measure(labels, chance, codes)
    gaps = []
    for o, origin in enumerate("abc"):
        rows = [
            (1.0, 0) if np.isnan(c) else (c, y) for c, y, g in zip(chance, labels, codes[:, 1], strict=True) if g == o
        ]
        gaps.append(np.mean([c - y for c, y in rows]))
        one = found["calibration_in_the_large", f"origin={origin}"]
        assert one.value == pytest.approx(gaps[-1])
        assert one.attempted == len(rows)
        assert one.errored == int(np.isnan(chance[codes[:, 1] == o]).sum())
    assert found["calibration_difference", "origin"].value == pytest.approx(max(gaps) - min(gaps))


def test_group_error_equals_its_formula_by_bins():
    rng = np.random.default_rng(3)
    chance, codes = rng.random(200), np.repeat([0, 1], 100)[:, None]
    labels = (rng.random(200) < chance**2).astype(int)
    own, happened = chance[:100], labels[:100]
    parts = np.array_split(np.argsort(own), 5)  # 100 rows: five bins of twenty
    square = 0.0
    for part in parts:
        h = happened[part].mean()
        square += len(part) / 100 * ((own[part].mean() - h) ** 2 - h * (1 - h) / (len(part) - 1))
    found = measure(labels, chance, codes)["group_calibration_error", "sex=f"]
    assert found.value == pytest.approx(np.sqrt(max(0, square)))


def test_a_group_that_is_promised_too_much_is_found_and_a_calibrated_one_left_alone():
    seen = alarms = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        codes, chance = rng.integers(2, size=(600, 1)), rng.random(600)
        fair = measure((rng.random(600) < chance).astype(int), chance, codes)
        alarms += fair["calibration_difference", "sex"].low > 0
        alarms += fair["group_calibration_error", "sex=m"].low > 0
        worse = np.where(codes[:, 0] == 1, 0.55 * chance, chance)
        bad = measure((rng.random(600) < worse).astype(int), chance, codes)
        seen += bad["calibration_difference", "sex"].low > 0
        seen += bad["group_calibration_error", "sex=m"].low > 0
    assert alarms <= 12
    assert seen >= 110


@pytest.mark.slow
@pytest.mark.parametrize(("num", "shift"), [(30, 0.0), (60, 0.3), (200, 0.15), (200, 0.3), (1000, 0.15)])
def test_interval_of_the_error_covers_what_the_bins_can_see(num, shift):
    held = 0
    for seed in range(500):
        rng = np.random.default_rng(seed)
        chance = rng.beta(1, 3, num)
        true = chance * (1 - 0.4 * shift / 0.3)
        found = binned_error(chance, (rng.random(num) < true).astype(float), num_bins=10, level=0.95)
        bins = np.array_split(np.argsort(chance), max(1, min(10, num // 20)))
        truth = np.sqrt(sum(len(b) / num * (chance[b] - true[b]).mean() ** 2 for b in bins))
        held += found.low <= truth <= found.high
    assert held >= 0.925 * 500
