"""Agreement, average precision, log loss by class, and errors of numbers: equal to scikit-learn; intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from assay.probes.utility.absolute_error_quantiles import absolute_error_quantiles
from assay.probes.utility.average_precision import average_precision
from assay.probes.utility.class_agreement import class_agreement
from assay.probes.utility.probability_loss import probability_loss
from assay.probes.utility.regression_error import regression_error
from assay.stats import make_draws
from assay.tasks import Classification

NAMES = ("a", "b", "c", "d", "e", "f", "g")


def rows(seed, num, num_classes, digits=9):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num, num_classes)) * 1.5
    chance = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (rng.random((num, 1)) > chance.cumsum(axis=1)).sum(axis=1).clip(max=num_classes - 1)
    return labels, np.round(chance, digits)


def by_key(found):
    return {(one.metric, one.slice): one for one in found}


def agreement(labels, chance, num_draws=50, seed="s"):
    answers = np.where(np.isnan(chance).any(axis=1), -1, np.nan_to_num(chance).argmax(axis=1))
    draws = make_draws(b"key", seed, [labels, answers], num_draws=num_draws)
    task = Classification(NAMES[: chance.shape[1]])
    return by_key(class_agreement(labels, answers, chance, task, draws))


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_agreement_equals_scikit_learn(num_classes):
    labels, chance = rows(num_classes, 400, num_classes)
    answers, found = chance.argmax(axis=1), agreement(labels, chance)
    expected = {
        "matthews_correlation": metrics.matthews_corrcoef(labels, answers),
        "cohens_kappa": metrics.cohen_kappa_score(labels, answers),
        "weighted_f1": metrics.f1_score(labels, answers, average="weighted"),
        "weighted_precision": metrics.precision_score(labels, answers, average="weighted"),
    }
    for metric, value in expected.items():
        one = found[metric, ""]
        assert one.value == pytest.approx(value, abs=1e-12)
        assert one.low < one.value < one.high
    for k in (k for k in (2, 3, 5) if k < num_classes):
        expected = metrics.top_k_accuracy_score(labels, chance, k=k, labels=np.arange(num_classes))
        assert found["top_k_accuracy", f"k={k}"].value == pytest.approx(expected)
    assert ("top_k_accuracy", f"k={num_classes}") not in found
    assert metrics.recall_score(labels, answers, average="weighted") == pytest.approx((labels == answers).mean())


def test_agreement_of_errored_rows_and_of_one_class():
    labels, chance = rows(5, 300, 3)
    chance[:60] = np.nan
    answers = np.where(np.isnan(chance).any(axis=1), 3, np.nan_to_num(chance).argmax(axis=1))
    found = agreement(labels, chance)
    assert found["matthews_correlation", ""].value == pytest.approx(metrics.matthews_corrcoef(labels, answers))
    assert found["cohens_kappa", ""].value == pytest.approx(metrics.cohen_kappa_score(labels, answers))
    assert found["top_k_accuracy", "k=2"].value <= 0.8
    alone = agreement(labels * 0, chance)["matthews_correlation", ""]
    assert (alone.value, alone.reason) == (None, "all labels, or all answers, are one class")
    ties = np.full((30, 4), 0.25)
    assert agreement(np.arange(30) % 4, ties)["top_k_accuracy", "k=2"].value == pytest.approx(16 / 30)


@pytest.mark.parametrize("digits", [9, 1])
def test_average_precision_equals_scikit_learn_with_and_without_ties(digits):
    labels, chance = rows(1, 300, 3, digits)
    draws = make_draws(b"key", "s", [labels], num_draws=50)
    found = by_key(average_precision(labels, chance, Classification(NAMES[:3]), draws))
    expected = [metrics.average_precision_score(labels == k, chance[:, k]) for k in range(3)]
    assert [found["average_precision", f"class={NAMES[k]}"].value for k in range(3)] == pytest.approx(expected)
    assert found["macro_average_precision", ""].value == pytest.approx(np.mean(expected))


def test_influence_of_a_row_is_what_one_more_of_it_changes():
    from assay.probes.utility.average_precision import _areas

    rng = np.random.default_rng(0)
    own, values = rng.random(4000) < 0.3, np.round(rng.random(4000), 2)
    values += 0.3 * own
    area, influence = _areas(own[:, None], values[:, None])
    for row in range(12):
        more = np.append(own, own[row]), np.append(values, values[row])
        changed = metrics.average_precision_score(*more)
        assert changed - area[0] == pytest.approx(influence[row, 0], abs=1e-6)


def test_average_precision_at_the_ends():
    labels = np.array([0] * 40 + [1] * 20)
    draws = make_draws(b"key", "s", [labels], num_draws=20)
    task = Classification(("no", "yes"), "yes")
    chance = labels * 0.5 + 0.2
    perfect = average_precision(labels, np.column_stack([1 - chance, chance]), task, draws)[0]
    assert (perfect.value, perfect.high) == (1, 1)
    assert 0.7 < perfect.low < 1
    nobody = average_precision(labels * 0, np.column_stack([1 - chance, chance]), task, draws)[0]
    assert nobody.reason == "the class or the rest has no rows"


def test_log_loss_of_each_class():
    labels, chance = rows(3, 500, 3, digits=12)
    draws = make_draws(b"key", "s", [labels], num_draws=50)
    found = by_key(probability_loss(labels, chance, Classification(NAMES[:3]), draws))
    total = 0.0
    for k in range(3):
        one = found["log_loss", f"class={NAMES[k]}"]
        assert one.value == pytest.approx(-np.log(chance[labels == k, k]).mean())
        assert one.attempted == (labels == k).sum()
        total += one.value * one.attempted
    assert found["log_loss", ""].value == pytest.approx(total / 500)
    assert found["log_loss", ""].value == pytest.approx(metrics.log_loss(labels, chance, labels=range(3)), rel=1e-9)


def test_errors_of_numbers_equal_scikit_learn():
    rng = np.random.default_rng(0)
    labels, codes = rng.normal(size=401), rng.integers(2, size=(401, 1))
    predictions = labels + rng.normal(size=401) * (1 + codes[:, 0])
    draws = make_draws(b"key", "s", [codes[:, 0]], num_draws=200)
    found = by_key(regression_error(labels, predictions, draws))
    assert found["mean_absolute_error", ""].value == pytest.approx(metrics.mean_absolute_error(labels, predictions))
    assert found["r_squared", ""].value == pytest.approx(metrics.r2_score(labels, predictions))
    quantiles = by_key(absolute_error_quantiles(labels, predictions, draws))
    middle = quantiles["absolute_error_quantile", "q=0.50"]
    assert middle.value == pytest.approx(metrics.median_absolute_error(labels, predictions))
    assert quantiles["absolute_error_quantile", "q=0.90"].value == pytest.approx(
        np.quantile(np.abs(labels - predictions), 0.9)
    )
    assert 0.5 < middle.replicates.std() / ((middle.high - middle.low) / 3.92) < 1.6
    predictions[:60] = np.nan
    spoilt = by_key(absolute_error_quantiles(labels, predictions, draws))
    assert spoilt["absolute_error_quantile", "q=0.90"].value is None
    assert spoilt["absolute_error_quantile", "q=0.50"].value > middle.value


@pytest.mark.slow
def test_intervals_cover():
    """Truth from a million rows; quantiles of normal errors are known."""
    labels, chance = rows(99, 400_000, 3)
    answers = chance.argmax(axis=1)
    truth = {
        "matthews_correlation": metrics.matthews_corrcoef(labels, answers),
        "cohens_kappa": metrics.cohen_kappa_score(labels, answers),
        "weighted_f1": metrics.f1_score(labels, answers, average="weighted"),
        "average_precision": metrics.average_precision_score(labels == 0, chance[:, 0]),
        "q=0.50": 0.6744897501960817,
        "q=0.90": 1.6448536269514722,
    }
    covered = {name: [] for name in truth}
    for seed in range(150):
        labels, chance = rows(seed, 300, 3)
        found = agreement(labels, chance, num_draws=300, seed=str(seed))
        draws = make_draws(b"key", str(seed), [labels], num_draws=300)
        found |= by_key(average_precision(labels, chance, Classification(NAMES[:3]), draws))
        found["average_precision", ""] = found["average_precision", "class=a"]
        noise = np.random.default_rng(seed).normal(size=300)
        for one in absolute_error_quantiles(np.zeros(300), noise, draws):
            found[one.slice, ""] = one
        for name, value in truth.items():
            covered[name].append(found[name, ""].low <= value <= found[name, ""].high)
    rates = {name: float(np.mean(one)) for name, one in covered.items()}
    assert all(0.91 <= rate <= 0.99 for rate in rates.values()), rates
