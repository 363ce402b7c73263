"""Gradient explanations and the checks of explanations, on models whose answers are known and on planted defects."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from assay.access.handles import Query
from assay.explain.gradients import input_times_gradient, of_output
from assay.models import Architecture
from assay.models.adapters.module import ModuleModel
from assay.observe import Ledger, Workspace, module_of
from assay.probes.transparency import _gradients, _masked
from assay.probes.transparency._jitter import jittered
from assay.probes.transparency.attention_rollout import attention_rollout
from assay.probes.transparency.explanation_infidelity import explanation_infidelity
from assay.probes.transparency.explanation_randomisation import explanation_randomisation, measure, redrawn
from assay.probes.transparency.explanation_sensitivity import explanation_sensitivity
from assay.probes.transparency.gradient_attributions import gradient_attributions
from assay.probes.transparency.gradient_methods import METHODS, gradient_methods
from assay.probes.transparency.gradient_sensitivity import gradient_sensitivity
from assay.stats import Draws, make_draws
from assay.tasks import Argmax, Classification, Identity, Regression, task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.values import Array, Column, Data, Groups, Measurement, Split, System
from support import small_images, small_texts

COLUMNS = tuple(Column(name, "numeric", low=-4, high=4) for name in ("strong", "weak", "nothing", "square"))


class Formula(nn.Module):
    """A module that is one line of torch; `masked` rounds its score to steps, so that it has no gradient."""

    def __init__(self, *, masked: bool = False, binary: bool = True) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([2.0, 0.5, 0.0]))
        self.masked, self.binary = masked, binary

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        score = inputs[:, :3] @ self.weights + 0.3 * inputs[:, 3] ** 2
        if self.masked:
            score = score.round()
        return torch.stack([-score / 2, score / 2], dim=1) if self.binary else score[:, None]


def table(num_rows: int, seed: int) -> Split:
    inputs = np.random.default_rng(seed).normal(size=(num_rows, 4)).astype(np.float32)
    groups = Groups(np.zeros((num_rows, 0), np.int16), ())
    return Split(inputs, np.zeros(num_rows, np.int64), groups, np.arange(num_rows))


def setting(module: nn.Module, *, binary: bool = True) -> tuple[Query, Draws]:
    classes = ("no", "yes") if binary else ()
    splits = {"train": table(300, 1), "validation": table(10, 2), "test": table(150, 3)}
    data = Data("planted", COLUMNS, "label", (), splits, classes, "yes" if binary else None)
    task = Classification(classes, "yes") if binary else Regression()
    model = ModuleModel(module, outputs_are="logits" if binary else "values")
    system = System("planted", model, data, task, Argmax() if binary else Identity())
    return Query(system, Workspace(), Ledger(10**8), "test"), make_draws(
        b"k", data.digest, [splits["test"].labels], num_draws=200
    )


def named(found: list[Measurement]) -> dict[tuple[str, str], Measurement]:
    return {(one.metric, one.slice): one for one in found}


def test_what_moves_the_answer_is_found_and_the_sum_fits() -> None:
    query, draws = setting(Formula())
    found = named(gradient_attributions(query, query.system.task, draws))
    strong, weak, nothing = (
        found["gradient_attribution", f"feature={name}"].value for name in ("strong", "weak", "nothing")
    )
    assert strong > 2 * weak > 0.02
    assert nothing < 1e-6
    assert found["completeness_gap", ""].value < 1e-4
    assert found["gradient_shapley_agreement", ""].value > 0.6
    for slice_ in ("", "baseline=mean", "baseline=background"):
        assert found["gradient_faithfulness_gain", slice_].low > 0.02
    assert found["gradient_infidelity", ""].high < 0.8


def test_a_masked_gradient_is_caught_by_sum_and_by_what_it_does_not_foresee() -> None:
    query, draws = setting(Formula(masked=True))
    found = named(gradient_attributions(query, query.system.task, draws))
    assert found["completeness_gap", ""].value == pytest.approx(1)
    assert found["gradient_infidelity", ""].value == pytest.approx(1, abs=1e-6)
    assert found["gradient_faithfulness_gain", ""].low <= 0.02
    shapley = named(explanation_infidelity(query, query.system.task, draws))
    assert shapley["infidelity", ""].high < 0.9  # what needs no gradient is not fooled


def test_an_additive_regression_is_explained_exactly() -> None:
    query, _ = setting(Formula(binary=False), binary=False)
    task = query.system.task
    found = _gradients.explained(query, task)
    rows, start = query.inputs[_gradients.sample(query)], query.background.mean(axis=0)
    truth = np.column_stack([(rows - start)[:, :3] * [2, 0.5, 0], 0.3 * (rows[:, 3] ** 2 - start[3] ** 2)])
    np.testing.assert_allclose(found.values, truth, atol=1e-4)
    np.testing.assert_allclose(found.change, truth.sum(axis=1), atol=1e-4)


def test_infidelity_is_what_it_says_one_coalition_at_a_time() -> None:
    query, _ = setting(Formula())
    masked = _masked.passes(query, query.system.task)
    values = _masked.attributions(masked, _masked.unused(query)).values
    missed, moved = _masked.infidelity(masked, values[[3, 5]], np.array([3, 5]))
    for place, row in enumerate((3, 5)):
        own = masked.coalitions(slice(row, row + 1))[0]
        errors, changes = [], []
        for block in range(own.shape[0]):
            for which in range(own.shape[1]):
                change = masked.full[row] - masked.outputs[row, block, which]
                errors.append(
                    (sum(values[row, unit] for unit in range(4) if not own[block, which, unit]) - change) ** 2
                )
                changes.append(change**2)
        assert missed[place] == pytest.approx(np.mean(errors))
        assert moved[place] == pytest.approx(np.mean(changes))


def test_noise_foresees_less_than_nothing_and_shapley_values_most() -> None:
    query, _ = setting(Formula())
    masked, again = (_masked.passes(query, query.system.task, name=name) for name in ("masked", "masked again"))
    values, places = _masked.attributions(masked, _masked.unused(query)).values, np.arange(64)
    noise = np.random.default_rng(0).permuted(values, axis=1)

    def infidelity(one: Array) -> float:
        missed, moved = _masked.infidelity(again, one, places)
        return float(missed.sum() / moved.sum())

    assert infidelity(values) < 0.7 < infidelity(noise)
    assert infidelity(0 * values) == pytest.approx(1)


def test_sensitivity_is_the_largest_of_the_moves_and_rough_models_have_more() -> None:
    query, draws = setting(Formula())
    task = query.system.task
    (found,) = gradient_sensitivity(query, task, draws)
    rows = _gradients.sample(query)
    first = _gradients.explained(query, task).values
    largest = np.zeros(len(rows))
    for move in range(10):
        moved = _gradients.attributions(query, task, jittered(query, rows, f"jitter {move}"))
        largest = np.maximum(largest, np.linalg.norm(moved - first, axis=1) / np.linalg.norm(first, axis=1))
    assert found.value == pytest.approx(largest.mean())

    class Rough(Formula):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return super().forward(inputs + 3 * torch.sin(40 * inputs))

    rough, _ = setting(Rough())
    assert gradient_sensitivity(rough, task, draws)[0].low > found.high
    by_masking = [
        named(explanation_sensitivity(one, task, draws))["max_sensitivity", ""].value for one in (query, rough)
    ]
    assert by_masking[1] > 2 * by_masking[0] > 0


# ------------------------------------------------------------------ trained networks


@pytest.fixture(scope="module")
def pictures() -> tuple[Query, Draws]:
    data = small_images(300)
    recipe = TrainRecipe(
        Architecture("cnn_lenet", {"widths": [4, 4], "hidden": [12]}), task_of(data), TrainSettings(epochs=6)
    )
    system = train_system(data, name="bars", recipe=recipe)
    query = Query(system, Workspace(), Ledger(10**8), "test")
    return query, make_draws(b"k", "s", [data.splits["test"].labels], num_draws=200)


def edges(entry: _gradients.Entry, objective) -> Array:
    """Not an explanation: where neighbouring pixels differ, whatever the model."""
    return np.abs(np.diff(entry.rows, axis=3, append=0)) + np.abs(np.diff(entry.rows, axis=2, append=0))


def test_an_edge_detector_is_caught_by_randomisation_and_gradients_are_not(pictures) -> None:
    query, draws = pictures
    task, sample = query.system.task, draws.of(_gradients.sample(query))
    planted = named(measure(query, task, sample, explainer=edges))
    assert min(one.value for one in planted.values()) == pytest.approx(1)
    honest = named(explanation_randomisation(query, task, draws))
    assert honest["randomisation_similarity", ""].high < 0.9
    assert {slice_ for _, slice_ in honest} == {"", "redrawn=1/3", "redrawn=2/3"}


def test_rows_meet_random_models_of_their_own_and_large_networks_say_that_they_do_not(pictures, monkeypatch) -> None:
    query, draws = pictures
    task, sample, met = query.system.task, draws.of(_gradients.sample(query)), []

    def seen(entry: _gradients.Entry, objective) -> Array:
        met.append(len(entry.rows))
        return edges(entry, objective)

    assert not any(one.reason for one in measure(query, task, sample, explainer=seen))
    assert met[1:] == [1] * 3 * 16  # the system itself comes first
    weights = sum(one.numel() for one in module_of(query.system).parameters())
    monkeypatch.setattr("assay.probes.transparency.explanation_randomisation.MOST_NUMBERS", 3 * weights)
    query, met = replace(query, workspace=Workspace()), []
    found = measure(query, task, sample, explainer=seen)
    assert met[1:] == [6, 5, 5] * 3
    assert {one.reason for one in found} == {"3 random models for 16 rows: the interval does not cover which"}


def test_noise_in_place_of_an_explanation_gains_nothing(pictures) -> None:
    query, _ = pictures
    task = query.system.task

    def noise(entry: _gradients.Entry, objective) -> Array:
        return np.random.default_rng(0).normal(size=entry.rows.shape)

    found = _gradients.explained(query, task, explainer=noise)
    gap = np.abs(found.total - found.change).sum() / np.abs(found.change).sum()
    honest = _gradients.explained(query, task)
    assert np.abs(honest.total - honest.change).sum() / np.abs(honest.change).sum() < 0.2 < gap


def test_redrawing_changes_a_copy_and_only_its_last_layers(pictures) -> None:
    query, _ = pictures
    module = module_of(query.system)
    before = {name: one.clone() for name, one in module.named_parameters()}
    other = module_of(redrawn(query.system, 0.4, np.random.default_rng(0), into=copy.deepcopy(module)))
    changed = [name for name, one in other.named_parameters() if not torch.equal(one, before[name])]
    assert changed
    assert all(name.startswith(("body", "head")) for name in changed)
    assert "body.0.weight" not in changed
    assert all(torch.equal(one, before[name]) for name, one in module.named_parameters())
    for name, one in other.named_parameters():
        assert torch.equal(one.flatten().sort().values, before[name].flatten().sort().values)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "transformer"])
def test_the_word_that_tells_the_class_is_found_by_gradients(name: str) -> None:
    data = small_texts(600)
    small = {"dim": 8, "vocab_size": 40} | ({"num_heads": 2} if name == "transformer" else {"num_hidden": 8})
    recipe = TrainRecipe(Architecture(name, small), task_of(data), TrainSettings(epochs=25, batch_size=32))
    system = train_system(data, name=name, recipe=recipe)
    query, task = Query(system, Workspace(), Ledger(10**8), "test"), task_of(data)
    found = _gradients.explained(query, task)
    rows = query.inputs[_gradients.sample(query)].tolist()
    last = [len(text.split()) - 1 for text in rows]  # the word of mood comes last
    hits = np.mean(np.abs(found.values).argmax(axis=1) == np.minimum(last, 15))
    assert hits > 0.7
    np.testing.assert_allclose(found.values.sum(axis=1), found.total, atol=1e-6)
    # Before a norm of layers, a vector of almost no length turns as fast as it likes: 50 points miss some of it.
    assert np.abs(found.total - found.change).max() < (0.15 if name == "transformer" else 0.01)
    draws = make_draws(b"k", "s", [data.splits["test"].labels], num_draws=100)
    rolled = named(attention_rollout(query, task, draws))
    gain = rolled["rollout_faithfulness_gain", ""]
    assert (gain.value is None) == (name != "transformer")
    assert name == "transformer" or gain.reason == "the model has no attention"


def test_other_gradient_methods_are_measured_and_input_times_gradient_is_blind_where_the_answer_is_flat() -> None:
    class Flat(Formula):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            score = 4 * torch.tanh(8 * inputs[:, 0]) + inputs[:, 1]
            return torch.stack([-score / 2, score / 2], dim=1) if self.binary else score[:, None]

    query, draws = setting(Flat(binary=False), binary=False)
    found = named(gradient_methods(query, query.system.task, draws))
    sizes = {
        (method, name): found[f"{method}_attribution", f"feature={name}"].value
        for method in ("gradient_shap", "input_times_gradient")
        for name in ("strong", "weak", "nothing")
    }
    assert sizes["gradient_shap", "strong"] > 3 * sizes["gradient_shap", "weak"]
    assert sizes["input_times_gradient", "strong"] < sizes["gradient_shap", "strong"] / 3
    assert max(size for (_, name), size in sizes.items() if name == "nothing") == 0
    rows = query.inputs[_gradients.sample(query)]
    weak = np.abs(rows[:, 1] - query.background[:, 1].mean()).mean()
    assert sizes["input_times_gradient", "weak"] == pytest.approx(weak, rel=1e-5)
    drawn, at_once = (found["gradient_faithfulness_gain", f"method={one}"] for one in ("gradient_shap", METHODS[1]))
    assert drawn.replicates is not None
    assert at_once.replicates is not None
    assert np.quantile(drawn.replicates - at_once.replicates, 0.025) > 0, "paired, row by row"
    agreements = [found["gradient_shapley_agreement", f"method={one}"].value for one in METHODS]
    assert agreements[0] > agreements[1]
    assert ("gradient_deletion_gain", "method=gradient_shap & baseline=mean") in found


def test_a_hidden_category_has_no_way_and_gets_nothing_from_any_method() -> None:
    query, draws = setting(Formula())
    columns = (*COLUMNS[:3], Column("square", "categorical", tuple("abcdefgh")))
    splits = {
        name: replace(split, inputs=np.abs(np.round(split.inputs)).astype(np.float32))
        for name, split in query.system.data.splits.items()
    }
    data = replace(query.system.data, columns=columns, splits=splits)
    query = Query(replace(query.system, data=data), Workspace(), Ledger(10**8), "test")
    found = named(gradient_methods(query, query.system.task, draws))
    for method in METHODS:
        assert found[f"{method}_attribution", "feature=square"].value == 0
        assert found[f"{method}_attribution", "feature=strong"].value > 0.01


def test_an_own_objective_can_be_explained(pictures) -> None:
    query, _ = pictures
    entry = _gradients.enter(query, query.inputs[:3])
    values = input_times_gradient(
        entry.pull, entry.rows, entry.starts, of_output(query.system.task, np.array([0, 1, 2]))
    )
    assert entry.by_unit(values).shape == (3, 16)


def test_a_model_that_hides_its_encoding_is_explained_in_its_numbers() -> None:
    query, draws = setting(Formula())
    columns = (*COLUMNS[:3], Column("square", "categorical", tuple("abcdefgh")))
    data = replace(query.system.data, columns=columns)
    splits = {
        name: replace(split, inputs=np.abs(np.round(split.inputs)).astype(np.float32))
        for name, split in data.splits.items()
    }
    query = Query(replace(query.system, data=replace(data, splits=splits)), Workspace(), Ledger(10**8), "test")
    found = named(gradient_attributions(query, query.system.task, draws))
    assert found["gradient_attribution", "feature=square"].value == 0
    assert found["completeness_gap", ""].value < 1e-3  # the start has the row's own category
