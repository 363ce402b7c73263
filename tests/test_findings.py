"""The arithmetic of the findings: intervals over rows and seeds, verdicts, and data sets as plain files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks import finding_cases
from benchmarks.finding_cases import CASES, CLAIMS, Share, resampled, right, twins
from benchmarks.findings import combined, verdict
from benchmarks.packed import fewer, pack, unpack, with_ink
from scipy import stats

from assay.models import Architecture
from assay.tasks import Argmax, task_of
from assay.train import TrainRecipe, TrainSettings
from assay.treatments.train.distill import DistillRecipe
from assay.values import Fitted, System
from support import KnownModel, small_images, small_texts


def test_without_noise_of_rows_the_interval_is_students() -> None:
    points = [0.02, 0.05, 0.03, 0.01]
    mean, low, high = combined(points, np.zeros((4, 20)))
    theirs = stats.t.interval(0.95, 3, loc=np.mean(points), scale=stats.sem(points))
    assert (mean, low, high) == pytest.approx((np.mean(points), *theirs))


def test_without_noise_of_seeds_the_interval_is_that_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    draws = np.repeat(rng.normal(0.1, 0.02, (1, 4000)), 3, axis=0)  # shared rows do not average out over seeds
    _, low, high = combined([0.1, 0.1, 0.1], draws)
    assert (low, high) == pytest.approx((0.1 - 1.96 * 0.02, 0.1 + 1.96 * 0.02), abs=2e-3)


def test_the_interval_covers_a_planted_effect() -> None:
    rng, hits = np.random.default_rng(1), 0
    for _ in range(400):
        rows = rng.normal(0, 0.02)  # of the test rows, the same for all seeds
        points = 0.05 + rows + rng.normal(0, 0.03, 5)
        _, low, high = combined(points.tolist(), np.repeat(rng.normal(0, 0.02, (1, 300)), 5, axis=0))
        hits += low <= 0.05 <= high
    assert 0.93 <= hits / 400 <= 1.0


def test_twins_that_never_differ_on_few_rows_are_not_known_to_be_the_same() -> None:
    few, many = (combined([0.0] * 3, np.zeros((3, 20)), floor=2**0.5 / num) for num in (100, 5000))
    assert few == pytest.approx((0.0, -1.96 * 2**0.5 / 100, 1.96 * 2**0.5 / 100), abs=1e-5)
    assert verdict(*few[1:], CLAIMS["int8"]) == "not settled"
    assert verdict(*many[1:], CLAIMS["int8"]) == "reproduced"


def test_a_gap_is_as_coarse_as_its_smaller_side(known_system: System) -> None:
    labels = known_system.data.splits["test"].labels
    gap = Share(labels == 0, labels == 1)
    (found,) = twins(known_system, known_system, {"gap": gap}).values()
    assert not found.draws.any()
    assert found.floor == 2**0.5 / min(np.bincount(labels))
    hits = right(known_system)
    assert found.before == pytest.approx(hits[labels == 0].mean() - hits[labels == 1].mean())


def test_a_student_is_compared_with_the_same_student(monkeypatch: pytest.MonkeyPatch) -> None:
    """The case names all it asks of the student: the defaults of `distill` may change, and the twin is as it is."""
    asked: list[Any] = []
    data = small_images(60)

    def system_of(_: object, seed: int, name: str, params: dict[str, Any], **settings: Any) -> System:
        recipe = TrainRecipe(Architecture(name, params), task_of(data), TrainSettings(epochs=settings["epochs"]))
        return System(name, KnownModel(), data, task_of(data), Argmax(), recipe)

    def fit_student(recipe: DistillRecipe, *_: object, **__: object) -> Fitted:
        asked.append(recipe)
        return Fitted(KnownModel(), {})

    monkeypatch.setattr(finding_cases, "load", lambda *_: data)
    monkeypatch.setattr(finding_cases, "trained", system_of)
    monkeypatch.setattr(DistillRecipe, "fit_student", fit_student)
    monkeypatch.setattr(finding_cases, "twins", lambda *_: {})
    CASES["distilled"].run(0, None)
    (recipe,) = asked
    assert (recipe.student.params, recipe.temperature) == ({"hidden": [16]}, 2.0)
    assert (recipe.passes, recipe.matched) == (1, False)


@pytest.mark.parametrize(
    ("claim", "ends", "said"),
    [
        ("dp", (0.01, 0.03), "reproduced"),
        ("dp", (-0.03, -0.01), "not so here"),
        ("dp", (-0.01, 0.03), "not settled"),
        ("sparsity", (-0.03, -0.01), "reproduced"),
        ("sparsity", (0.01, 0.03), "not so here"),
        ("int8", (-0.004, 0.002), "reproduced"),
        ("int8", (-0.004, 0.02), "not settled"),
        ("int8", (-0.04, -0.02), "not so here"),
    ],
)
def test_verdicts(claim: str, ends: tuple[float, float], said: str) -> None:
    assert verdict(*ends, CLAIMS[claim]) == said


def test_every_claim_has_a_case_and_resamples_keep_the_number_of_rows() -> None:
    assert {case.claim for case in CASES.values()} == set(CLAIMS)
    assert (resampled(50).sum(axis=1) == 50).all()


def test_plain_files_give_the_same_data(tmp_path: Path) -> None:
    pictures = fewer(with_ink(small_images(120)), 40, 20)
    assert {len(split) for name, split in pictures.splits.items() if name != "validation"} == {40, 20}
    assert set(np.unique(pictures.splits["train"].groups.codes)) == {0, 1, 2}
    for data in (pictures, small_texts(60)):
        pack(data, tmp_path / data.name)
        assert unpack(tmp_path / data.name).digest == replace(data, source={}).digest
