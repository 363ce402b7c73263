"""Equality with fairlearn and scikit-learn on random data, to 1e-9."""

import numpy as np
import pytest

from assay.probes.fairness.equal_opportunity_difference import equal_opportunity_difference
from assay.probes.fairness.equalized_odds_difference import equalized_odds_difference
from assay.probes.fairness.group_error_gap import group_error_gap
from assay.probes.fairness.group_error_rates import group_error_rates
from assay.probes.fairness.prediction_gap import prediction_gap
from assay.probes.fairness.predictive_parity_difference import predictive_parity_difference
from assay.probes.fairness.ranking_by_group import ranking_by_group
from assay.probes.fairness.selection_rate_gap import selection_rate_gap
from assay.probes.utility.accuracy import accuracy
from assay.probes.utility.area_under_roc import area_under_roc
from assay.probes.utility.balanced_accuracy import balanced_accuracy
from assay.probes.utility.precision_recall_f1 import precision_recall_f1
from assay.probes.utility.probability_loss import probability_loss
from assay.probes.utility.regression_error import regression_error
from assay.stats import make_draws
from assay.tasks import Classification
from assay.values import Column, Groups

pytestmark = pytest.mark.peer
fairness = pytest.importorskip("fairlearn.metrics")
metrics = pytest.importorskip("sklearn.metrics")

COLUMNS = (Column("sex", "categorical", ("f", "m")), Column("origin", "categorical", ("a", "b", "c")))


def close(found, expected):
    assert found == pytest.approx(expected, abs=1e-9)


def case(seed, num_classes, num=400):
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=num)
    logits = rng.normal(size=(num, num_classes)) + 1.5 * np.eye(num_classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    groups = Groups(np.column_stack([rng.integers(2, size=num), rng.integers(3, size=num)]), COLUMNS)
    predictions = probabilities.argmax(axis=1)
    task = Classification(tuple("abcdefgh"[:num_classes]), "b" if num_classes == 2 else None)
    draws = make_draws(b"key", "split", [labels, predictions, *groups.codes.T], num_draws=50)
    return labels, probabilities, predictions, groups, task, draws


def value(found, metric, where=""):
    return next(one.value for one in found if one.metric == metric and one.slice == where)


@pytest.mark.parametrize("seed", range(4))
def test_group_metrics_equal_fairlearn(seed):
    labels, _, predictions, groups, task, draws = case(seed, 2)
    sex, origin = groups.codes.T
    shown = {"sex": sex, "origin": origin, "sex & origin": [f"{s} {o}" for s, o in zip(sex, origin, strict=True)]}
    rates = selection_rate_gap(predictions, groups, task, draws)
    odds = equalized_odds_difference(labels, predictions, groups, task, draws)
    chances = equal_opportunity_difference(labels, predictions, groups, task, draws)
    parity = predictive_parity_difference(labels, predictions, groups, task, draws)
    for name, column in shown.items():
        expected = fairness.equal_opportunity_difference(labels, predictions, sensitive_features=column)
        close(value(chances, "equal_opportunity_difference", name), expected)
        frame = fairness.MetricFrame(
            metrics=metrics.precision_score, y_true=labels, y_pred=predictions, sensitive_features=column
        )
        close(value(parity, "predictive_parity_difference", name), frame.difference())
        expected = fairness.demographic_parity_difference(labels, predictions, sensitive_features=column)
        close(value(rates, "demographic_parity_difference", name), expected)
        expected = fairness.equalized_odds_difference(labels, predictions, sensitive_features=column)
        close(value(odds, "equalized_odds_difference", name), expected)


@pytest.mark.parametrize("seed", range(3))
def test_rates_by_group_equal_a_metric_frame(seed):
    labels, _, predictions, groups, task, draws = case(seed, 2)
    rates = selection_rate_gap(predictions, groups, task, draws)
    errors = group_error_rates(labels, predictions, groups, task, draws)
    wanted = {
        "selection_rate": fairness.selection_rate,
        "true_positive_rate": fairness.true_positive_rate,
        "false_positive_rate": fairness.false_positive_rate,
        "accuracy": metrics.accuracy_score,
    }
    sex, origin = groups.codes.T
    frame = fairness.MetricFrame(
        metrics=wanted, y_true=labels, y_pred=predictions, sensitive_features={"sex": sex, "origin": origin}
    )
    for (s, o), row in frame.by_group.iterrows():
        where = f"sex={COLUMNS[0].categories[s]} & origin={COLUMNS[1].categories[o]}"
        close(value(rates, "selection_rate", where), row["selection_rate"])
        close(value(errors, "true_positive_rate", where), row["true_positive_rate"])
        close(value(errors, "false_positive_rate", where), row["false_positive_rate"])
        close(1 - value(errors, "error_rate", where), row["accuracy"])
    close(value(errors, "worst_group_accuracy", "sex & origin"), frame.group_min()["accuracy"])


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_classification_metrics_equal_scikit_learn(num_classes):
    labels, probabilities, predictions, _, task, draws = case(7, num_classes)
    close(accuracy(labels, predictions, draws)[0].value, metrics.accuracy_score(labels, predictions))
    found = balanced_accuracy(labels, predictions, task, draws)[0].value
    close(found, metrics.balanced_accuracy_score(labels, predictions))
    close(found, metrics.recall_score(labels, predictions, average="macro"))
    found = precision_recall_f1(labels, predictions, task, draws)
    close(value(found, "macro_f1"), metrics.f1_score(labels, predictions, average="macro"))
    close(value(found, "macro_precision"), metrics.precision_score(labels, predictions, average="macro"))
    parts = metrics.precision_recall_fscore_support(labels, predictions)
    for k, name in enumerate(task.classes):
        for metric, part in zip(("precision", "true_positive_rate", "f1"), parts, strict=False):
            close(value(found, metric, f"class={name}"), part[k])
    found = probability_loss(labels, probabilities, task, draws)
    expected = probabilities[:, 1] if num_classes == 2 else probabilities
    close(value(found, "brier_loss"), metrics.brier_score_loss(labels, expected, scale_by_half="auto"))
    close(value(found, "log_loss"), metrics.log_loss(labels, probabilities))


def test_a_class_that_is_never_answered_is_left_out_as_scikit_learn_can_be_told_to():
    labels, predictions = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 0, 1, 1])
    draws = make_draws(b"key", "split", [labels, predictions], num_draws=20)
    found = precision_recall_f1(labels, predictions, Classification(("a", "b", "c", "d")), draws)
    every = {"average": "macro", "labels": [0, 1, 2, 3], "zero_division": np.nan}
    close(value(found, "macro_precision"), metrics.precision_score(labels, predictions, **every))
    close(value(found, "macro_f1"), metrics.f1_score(labels, predictions, **every))


@pytest.mark.parametrize("rounded", [False, True])
def test_area_under_roc_equals_scikit_learn_with_and_without_ties(rounded):
    labels, probabilities, _, _, task, draws = case(3, 2)
    probabilities = probabilities.round(1) if rounded else probabilities
    close(
        area_under_roc(labels, probabilities, task, draws)[0].value, metrics.roc_auc_score(labels, probabilities[:, 1])
    )
    labels, probabilities, _, _, task, draws = case(3, 4)
    found = area_under_roc(labels, probabilities, task, draws)
    close(value(found, "macro_area_under_roc"), metrics.roc_auc_score(labels, probabilities, multi_class="ovr"))
    for k, name in enumerate(task.classes):
        close(value(found, "area_under_roc", f"class={name}"), metrics.roc_auc_score(labels == k, probabilities[:, k]))


def test_regression_metrics_equal_scikit_learn_and_fairlearn():
    rng = np.random.default_rng(5)
    labels = rng.normal(50, 10, size=300)
    predictions = labels + rng.normal(1, 3, size=300)
    codes = np.column_stack([rng.integers(2, size=300), rng.integers(3, size=300)])
    draws = make_draws(b"key", "split", list(codes.T), num_draws=50)
    found = regression_error(labels, predictions, draws)
    close(value(found, "mean_absolute_error"), metrics.mean_absolute_error(labels, predictions))
    close(value(found, "root_mean_squared_error"), metrics.root_mean_squared_error(labels, predictions))
    close(value(found, "r_squared"), metrics.r2_score(labels, predictions))
    found = group_error_gap(labels, predictions, Groups(codes, COLUMNS), draws)
    frame = fairness.MetricFrame(
        metrics=metrics.mean_absolute_error, y_true=labels, y_pred=predictions, sensitive_features=codes[:, 1]
    )
    close(value(found, "mean_absolute_error_difference", "origin"), frame.difference())
    for code, name in enumerate(COLUMNS[1].categories):
        close(value(found, "group_mean_absolute_error", f"origin={name}"), frame.by_group[code])


def test_areas_by_group_equal_a_metric_frame():
    labels, probabilities, _, groups, task, draws = case(3, 2)
    found = ranking_by_group(labels, probabilities, groups, task, draws)
    frame = fairness.MetricFrame(
        metrics=metrics.roc_auc_score, y_true=labels, y_pred=probabilities[:, 1], sensitive_features=groups.codes[:, 1]
    )
    close(value(found, "area_under_roc_difference", "origin"), frame.difference())
    for code, name in enumerate(COLUMNS[1].categories):
        close(value(found, "group_area_under_roc", f"origin={name}"), frame.by_group[code])


def test_mean_predictions_by_group_equal_a_metric_frame():
    rng = np.random.default_rng(9)
    predictions, codes = rng.normal(size=300), rng.integers(3, size=(300, 1))
    draws = make_draws(b"key", "split", [codes[:, 0]], num_draws=50)
    found = prediction_gap(predictions, Groups(codes, COLUMNS[1:]), draws)
    frame = fairness.MetricFrame(
        metrics=fairness.mean_prediction, y_true=predictions, y_pred=predictions, sensitive_features=codes[:, 0]
    )
    close(value(found, "mean_prediction_difference", "origin"), frame.difference())
