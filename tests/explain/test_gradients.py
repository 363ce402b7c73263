"""Explanations from gradients: their axioms on every kind of network, and equality with captum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from assay.access.gradients import Embedded, embed, pull_back, pull_back_embedded
from assay.explain.gradients import (
    Points,
    along,
    gradient_shap,
    input_times_gradient,
    integrated_gradients,
    occlusion,
    of_logit,
    of_output,
    rule_of,
)
from assay.models import build
from assay.models.vectors import attention_maps, is_attending, rollout
from assay.tasks import Classification, Regression
from assay.units import Ground, Patches
from assay.values import Array, Column, Groups, Split, texts

TABLE = (Column("a", "numeric"), Column("b", "numeric"), Column("job", "categorical", ("x", "y", "z")))
PICTURE = (Column("image", "image", low=0, high=255, shape=(1, 12, 12)),)
TEXT = (Column("text", "text", language="en"),)
WORDS = ["the", "film", "was", "good", "but", "the", "end", "bad", "and", "long", "so", "we", "left", "early"]
TOLD = texts([" ".join(np.random.default_rng(seed).choice(WORDS, 3 + 2 * seed)) for seed in range(5)])
SMALL = {"dim": 6, "vocab_size": 30}
NETWORKS = {
    "mlp": (TABLE, {"hidden": [16, 8]}),
    "cnn_lenet": (PICTURE, {"widths": [3, 4], "hidden": [12]}),
    "rnn": (TEXT, {**SMALL, "num_hidden": 5}),
    "lstm": (TEXT, {**SMALL, "num_hidden": 5}),
    "gru": (TEXT, {**SMALL, "num_hidden": 5}),
    "transformer": (TEXT, {**SMALL, "num_heads": 3, "num_layers": 2}),
}
TARGET = np.array([0, 2, 1, 1, 0])


def network(name: str) -> nn.Module:
    torch.manual_seed(1)
    columns, params = NETWORKS[name]
    module = build(name, columns=columns, num_outputs=3, params=params).eval()
    if columns is TEXT:
        groups = Groups(np.zeros((5, 0), np.int16), ())
        module.fit_encoding(Split(TOLD, np.zeros(5, np.int64), groups, np.arange(5)))
        with torch.no_grad():
            module.embedding.weight.mul_(30)
    return module


class Entered:
    """A module of any kind where gradients are taken: rows, starts, a pull for us and a function for captum."""

    def __init__(self, name: str) -> None:
        self.module, columns = network(name), NETWORKS[name][0]
        rng = np.random.default_rng(2)
        self.tokens = None
        if columns is TEXT:
            found = embed(self.module, TOLD)
            self.rows, self.tokens = found.vectors, found.tokens
            self.starts = np.zeros_like(self.rows[:1])
        elif columns is PICTURE:
            self.rows = rng.uniform(0, 255, (5, 1, 12, 12)).astype(np.float32)
            self.starts = np.full((1, 1, 12, 12), 90, np.float32)
        else:
            self.rows = np.column_stack([rng.normal(size=(5, 2)), rng.integers(0, 3, 5)]).astype(np.float32)
            self.starts = np.array([[0, 0, 1]], np.float32)

    def pull(self, points: Array, owner: Array, objective) -> tuple[Array, Array]:
        def cotangent(logits: Array, positions: Array) -> Array:
            return objective(logits, owner[positions])

        if self.tokens is None:
            return pull_back(self.module, points, cotangent, batch_size=61)
        return pull_back_embedded(self.module, Embedded(points, self.tokens[owner]), cotangent, batch_size=61)

    def arguments(self) -> dict:
        extra = {} if self.tokens is None else {"additional_forward_args": (torch.from_numpy(self.tokens),)}
        return {"target": torch.from_numpy(TARGET), **extra}

    def forward(self, *arguments: torch.Tensor) -> torch.Tensor:
        return self.module.from_embeddings(*arguments) if len(arguments) == 2 else self.module(*arguments)


def answers(one: Entered, rows: Array) -> Array:
    return one.pull(rows, np.arange(len(rows)), of_logit(TARGET))[0][np.arange(5), TARGET]


@pytest.mark.parametrize("name", NETWORKS)
def test_attributions_sum_to_the_change_of_the_output(name: str) -> None:
    one = Entered(name)
    rows, starts = one.rows, np.broadcast_to(one.starts, one.rows.shape).copy()
    if NETWORKS[name][0] is TABLE:
        starts[:, 2] = rows[:, 2]  # a category has no way from one to another
    values = integrated_gradients(one.pull, rows, starts, of_logit(TARGET), num_steps=200)
    change = answers(one, rows) - answers(one, starts)
    np.testing.assert_allclose(values.reshape(5, -1).sum(axis=1), change, atol=0.01 * np.abs(change).max())
    if one.tokens is not None:
        assert (values[one.tokens == 0] == 0).all()  # padding has nothing to do with it


@pytest.mark.peer
@pytest.mark.parametrize("name", NETWORKS)
def test_equal_to_captum(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from captum.attr import GradientShap, InputXGradient, IntegratedGradients

    one = Entered(name)
    rows, objective = torch.from_numpy(one.rows), of_logit(TARGET)
    starts = torch.from_numpy(np.broadcast_to(one.starts, one.rows.shape).copy())
    scale = 0.0
    for theirs, ours in (("gausslegendre", "gauss"), ("riemann_middle", "middle"), ("riemann_right", "right")):
        truth = IntegratedGradients(one.forward).attribute(rows, starts, method=theirs, **one.arguments()).numpy()
        scale = np.abs(truth).max()
        found = integrated_gradients(one.pull, one.rows, one.starts, objective, rule=ours)
        np.testing.assert_allclose(found, truth, atol=1e-5 * scale)
    truth = InputXGradient(one.forward).attribute(rows.requires_grad_(), **one.arguments()).detach().numpy()
    found = input_times_gradient(one.pull, one.rows, np.zeros_like(one.rows), objective)
    np.testing.assert_allclose(found, truth, atol=1e-5 * np.abs(truth).max())
    places = np.random.default_rng(0).random((5, 6))
    monkeypatch.setattr(np.random, "uniform", lambda *_: places.ravel())
    truth = GradientShap(one.forward).attribute(rows.detach(), starts[:1], n_samples=6, **one.arguments())
    drawn = Points(one.starts[:, None], places, np.full(6, 1 / 6))
    found = along(one.pull, one.rows, drawn, objective)
    np.testing.assert_allclose(found, truth.detach().numpy(), atol=1e-5 * scale)


@pytest.mark.peer
def test_occlusion_is_captums_on_patches_and_columns() -> None:
    from captum.attr import Occlusion

    one = Entered("cnn_lenet")

    def answer(inputs: Array) -> Array:
        return one.module(torch.from_numpy(inputs)).detach().numpy()

    truth = Occlusion(one.module).attribute(
        torch.from_numpy(one.rows), (1, 3, 3), strides=(1, 3, 3), baselines=90.0, target=torch.from_numpy(TARGET)
    )
    ground = Ground(one.starts, Patches((1, 12, 12)))
    found = occlusion(answer, one.rows, ground, one.starts[0], target=TARGET)
    np.testing.assert_allclose(found[:, Patches((1, 12, 12)).owner], truth[:, 0].detach().numpy(), atol=1e-5)


def test_gradient_shap_estimates_the_mean_of_integrated_gradients_over_starts() -> None:
    one = Entered("mlp")
    starts = np.column_stack([np.random.default_rng(5).normal(size=(4, 2)), np.full(4, one.rows[0, 2])])
    row = np.repeat(one.rows[:1], 5, axis=0)
    exact = [integrated_gradients(one.pull, row, start[None], of_logit(TARGET))[0] for start in starts]
    drawn = gradient_shap(one.pull, row, starts, of_logit(TARGET), num_points=2000, rng=np.random.default_rng(0))
    np.testing.assert_allclose(drawn[0], np.mean(exact, axis=0), atol=0.08 * np.abs(exact).max())
    own = np.broadcast_to(starts, (5, *starts.shape))
    again = gradient_shap(one.pull, row, own, of_logit(TARGET), num_points=2000, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(again, drawn)


def test_rules_integrate_what_they_promise() -> None:
    places, weights = rule_of(4)
    assert weights @ places**7 == pytest.approx(1 / 8)
    assert rule_of(4, "middle")[0].tolist() == [0.125, 0.375, 0.625, 0.875]
    assert rule_of(4, "right")[0].tolist() == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("task", [Classification(("a", "b", "c")), Regression()])
def test_the_objective_is_the_derivative_of_what_is_explained(task) -> None:
    rng = np.random.default_rng(0)
    width = 3 if task.classes else 1
    logits, target = rng.normal(size=(5, width)), TARGET if task.classes else np.zeros(5, int)
    rows = np.arange(5)
    found = of_output(task, target)(logits, rows)
    for place in range(width):
        moved = logits.copy()
        moved[:, place] += 1e-4
        change = (task.probabilities(moved) - task.probabilities(logits))[rows, target] / 1e-4
        np.testing.assert_allclose(found[:, place], change, atol=1e-3)


def test_a_missing_number_is_given_nothing() -> None:
    def pull(points: Array, owner: Array, objective) -> tuple[Array, Array]:
        return points[:, :1], np.ones_like(points)

    values = input_times_gradient(pull, np.array([[np.nan, 3.0]]), np.array([[1.0, 1.0]]), of_logit(np.array([0])))
    assert values.tolist() == [[0.0, 2.0]]


def test_rollout_of_a_transformer_is_one_product_and_rows_sum_to_one() -> None:
    module = network("transformer")
    (maps,) = attention_maps(module, TOLD)
    assert maps.shape[:2] == (5, 2)
    np.testing.assert_allclose(maps.sum(axis=3), 1, atol=1e-5)
    mixed = 0.5 * (maps + np.eye(maps.shape[2]))
    np.testing.assert_allclose(rollout(maps)[0], mixed[0, 1] @ mixed[0, 0], atol=1e-6)
    assert is_attending(module)
    assert not is_attending(network("gru"))


def test_recorded_weights_are_those_that_the_layer_mixes_with() -> None:
    module = network("transformer")
    layer = module.body.blocks[0].attention
    states = torch.randn(2, 4, layer.num_heads * layer.width)
    keys, values = layer.project(states)
    weights = layer.attention_weights(states, keys, values, None, module.body.positions.rotary)
    by_hand = layer.join((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(by_hand, layer(states, keys, values, None, module.body.positions.rotary))


def test_tokens_know_where_they_stand() -> None:
    module = network("lstm")
    (spans,) = module.token_spans(texts(["good  film"]))
    assert spans == [(0, 4), (6, 10)]
