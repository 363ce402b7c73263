"""Numbers of several labels a row: by hand, against scikit-learn, and whether intervals cover."""

import numpy as np
import pytest
from sklearn import metrics

from assay.probes.utility.area_under_roc import area_under_roc
from assay.probes.utility.average_precision import average_precision
from assay.probes.utility.calibration_error import calibration_error
from assay.probes.utility.multi_label_accuracy import multi_label_accuracy
from assay.probes.utility.precision_recall_f1 import precision_recall_f1
from assay.probes.utility.probability_loss import probability_loss
from assay.stats import make_draws
from assay.tasks import LabelThresholds, MultiLabel

TASK = MultiLabel(("a", "b", "c", "d"))


def made(num, seed=0, shift=0.0):
    """Labels that depend on each other, and probabilities of them, right but for `shift` on the log-odds scale."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(num, 1))
    logits = 1.5 * common + rng.normal(size=(num, 4)) - np.array([0, 0.5, 1, 2])
    labels = (rng.random((num, 4)) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    stated = (1 / (1 + np.exp(-(logits + shift)))).astype(np.float32)
    return labels, stated, LabelThresholds().decide(stated, None, None)


def draws_of(labels, predictions, num_draws=100):
    return make_draws(b"key", "split", [*labels.T, *predictions.T], num_draws=num_draws)


def table(found):
    return {(one.metric, one.slice): one for one in found}


def test_every_number_is_scikit_learns():
    labels, stated, predictions = made(400)
    draws = draws_of(labels, predictions)
    found = table(multi_label_accuracy(labels, predictions, TASK, draws))
    found |= table(precision_recall_f1(labels, predictions, TASK, draws))
    found |= table(area_under_roc(labels, stated, TASK, draws))
    found |= table(average_precision(labels, stated, TASK, draws))
    found |= table(probability_loss(labels, stated, TASK, draws))
    wanted = {
        ("subset_accuracy", ""): metrics.accuracy_score(labels, predictions),
        ("hamming_loss", ""): metrics.hamming_loss(labels, predictions),
        ("micro_f1", ""): metrics.f1_score(labels, predictions, average="micro"),
        ("macro_f1", ""): metrics.f1_score(labels, predictions, average="macro"),
        ("macro_precision", ""): metrics.precision_score(labels, predictions, average="macro"),
        ("macro_area_under_roc", ""): metrics.roc_auc_score(labels, stated),
        ("macro_average_precision", ""): metrics.average_precision_score(labels, stated),
        ("log_loss", ""): np.mean([metrics.log_loss(labels[:, k], stated[:, k].astype(float)) for k in range(4)]),
        ("brier_loss", ""): np.mean([metrics.brier_score_loss(labels[:, k], stated[:, k]) for k in range(4)]),
    }
    each = {
        "precision": metrics.precision_score(labels, predictions, average=None),
        "true_positive_rate": metrics.recall_score(labels, predictions, average=None),
        "f1": metrics.f1_score(labels, predictions, average=None),
        "area_under_roc": metrics.roc_auc_score(labels, stated, average=None),
        "average_precision": metrics.average_precision_score(labels, stated, average=None),
        "hamming_loss": (labels != predictions).mean(axis=0),
    }
    wanted |= {(name, f"label={TASK.label_names[k]}"): one for name, four in each.items() for k, one in enumerate(four)}
    for key, value in wanted.items():
        assert found[key].value == pytest.approx(value, abs=1e-6), key
        assert found[key].low < value < found[key].high, key


def test_an_errored_row_has_every_label_wrong():
    labels, _, predictions = made(100)
    predictions[:10] = -1
    found = table(multi_label_accuracy(labels, predictions, TASK, draws_of(labels, predictions)))
    turned = np.where(predictions < 0, 1 - labels, predictions)
    assert found["hamming_loss", ""].value == pytest.approx((turned != labels).mean())
    assert found["hamming_loss", ""].errored == 10
    f1 = table(precision_recall_f1(labels, predictions, TASK, draws_of(labels, predictions)))["micro_f1", ""]
    assert f1.value == pytest.approx(metrics.f1_score(labels, turned, average="micro"))


def test_a_label_that_is_said_too_often_is_found_and_a_right_one_left_alone():
    labels, stated, predictions = made(3000)
    stated = stated.copy()
    stated[:, 2] = np.minimum(1, stated[:, 2] + 0.2)
    found = table(calibration_error(labels, stated, predictions, TASK, draws_of(labels, predictions)))
    assert found["calibration_error", "label=c"].low > 0.12
    assert found["calibration_error", "label=a"].low < 0.01
    assert found["calibration_error", ""].low > 0.05
    assert found["kernel_calibration_error", "label=c"].low > 0.05


@pytest.mark.slow
def test_intervals_cover_although_labels_of_a_row_go_together():
    labels, _, predictions = made(400_000, seed=99)
    truth = {
        ("subset_accuracy", ""): (labels == predictions).all(axis=1).mean(),
        ("hamming_loss", ""): (labels != predictions).mean(),
        ("micro_f1", ""): metrics.f1_score(labels, predictions, average="micro"),
        ("macro_f1", ""): metrics.f1_score(labels, predictions, average="macro"),
        ("macro_precision", ""): metrics.precision_score(labels, predictions, average="macro"),
    }
    held = dict.fromkeys(truth, 0)
    for seed in range(300):
        labels, _, predictions = made(200, seed=seed)
        draws = draws_of(labels, predictions, 300)
        found = table(multi_label_accuracy(labels, predictions, TASK, draws))
        found |= table(precision_recall_f1(labels, predictions, TASK, draws))
        for key, value in truth.items():
            held[key] += found[key].low <= value <= found[key].high
    for key, hits in held.items():
        assert 0.92 <= hits / 300 <= 0.99, (key, hits)
