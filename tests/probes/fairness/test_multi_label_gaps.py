import numpy as np
import pytest

from assay.probes.fairness.multi_label_gaps import multi_label_gaps
from assay.stats import make_draws
from assay.tasks import MultiLabel
from assay.values import Column, Groups

TASK = MultiLabel(("a", "b", "c"))
SEX = (Column("sex", "categorical", ("f", "m")),)


def measure(labels, predictions, sex):
    draws = make_draws(b"key", "split", [sex, *labels.T, *predictions.T], num_draws=200)
    found = multi_label_gaps(labels, predictions, Groups(sex[:, None], SEX), TASK, draws)
    return {(one.metric, one.slice): one for one in found}


def made(num=1200, missed=0.0, seed=0):
    """Answers that are wrong one time in ten, and of label b in the second group miss it `missed` of the time."""
    rng = np.random.default_rng(seed)
    sex, labels = rng.integers(0, 2, num), (rng.random((num, 3)) < [0.5, 0.5, 0.2]).astype(np.int64)
    predictions = labels ^ (rng.random((num, 3)) < 0.1)
    lost = (sex == 1) & (rng.random(num) < missed)
    predictions[lost, 1] = 0
    return labels, predictions, sex


def test_equals_counting_by_hand():
    labels, predictions, sex = made(300, missed=0.3)
    predictions[:20] = -1
    found = measure(labels, predictions, sex)
    wrong = (labels != predictions).mean(axis=1)
    f, m = (wrong[sex == code].mean() for code in (0, 1))
    assert found["hamming_loss_difference", "sex"].value == pytest.approx(abs(f - m))
    assert found["group_hamming_loss", "sex=m"].value == pytest.approx(m)
    gaps = []
    for k, name in enumerate(TASK.label_names):
        said = predictions[:, k] == 1
        rates = [said[sex == code].mean() for code in (0, 1)]
        assert found["demographic_parity_difference", f"sex & label={name}"].value == pytest.approx(
            abs(np.subtract(*rates))
        )
        assert found["selection_rate", f"sex=f & label={name}"].value == pytest.approx(rates[0])
        odds = [
            abs(np.subtract(*(said[(sex == code) & (labels[:, k] == truth)].mean() for code in (0, 1))))
            for truth in (0, 1)
        ]
        assert found["equalized_odds_difference", f"sex & label={name}"].value == pytest.approx(max(odds))
        gaps.append(max(odds))
    assert found["equalized_odds_difference", "sex"].value == pytest.approx(max(gaps))


def test_a_label_missed_in_one_group_is_found_and_only_that_one():
    found = measure(*made(missed=0.5))
    assert found["equalized_odds_difference", "sex & label=b"].low > 0.3
    assert found["equalized_odds_difference", "sex"].low > 0.25
    assert "label=b" in found["equalized_odds_difference", "sex"].reason
    assert found["equalized_odds_difference", "sex & label=a"].low < 0.02
    assert found["hamming_loss_difference", "sex"].low > 0.02
    clean = measure(*made())
    assert clean["hamming_loss_difference", "sex"].low == 0
    assert clean["equalized_odds_difference", "sex"].low < 0.02
