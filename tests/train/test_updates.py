from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from assay.errors import UsageError
from assay.models.adapters.module import digest_state
from assay.tasks import Classification, Regression
from assay.train import Hooks, TrainSettings, describe_costs, fit
from assay.train.objectives import TaskLoss, row_weights, task_loss
from assay.train.schedules import learning_rate
from assay.train.updates import Average, clip_gradients
from assay.values import Column, Groups, Split, plain
from support import make_split
from train_kit import Pictures, Sentences, task_of

TASK = Classification(("no", "yes"), "yes")
TRAIN = make_split(200, 1, 1)


def test_the_mean_loss_in_one_operation_has_the_gradient_of_the_mean_over_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    soft = np.random.default_rng(0).dirichlet([1, 1, 1], 200)
    three = Classification(("a", "b", "c"))
    kinds = [
        (replace(TRAIN, labels=np.arange(200) % 3), three, 0.0),
        (replace(TRAIN, labels=np.arange(200) % 3), three, 0.1),
        (replace(TRAIN, labels=soft), three, 0.1),
        (replace(TRAIN, labels=soft), Regression(), 0.0),
    ]
    for split, task, smoothing in kinds:
        loss = task_loss(split, task, label_smoothing=smoothing)
        assert isinstance(loss, TaskLoss)
        for count in (64, 37):
            rows = torch.randperm(200, generator=generator)[:count]
            outputs = torch.randn(count, 3, generator=generator)
            found = []
            for is_whole in (True, False):
                leaf = outputs.clone().requires_grad_()
                value = loss.mean(leaf, rows) if is_whole else loss(leaf, rows).mean()
                value.backward()
                found.append((value.detach(), leaf.grad))
            torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-9)
            if not smoothing:
                assert found[0][1].equal(found[1][1]), "to the bit"


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    # No bias before BatchNorm: its gradient is rounding noise, which Adam turns into whole steps.
    return nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))


def by_hand(settings: TrainSettings, optimizer_of: object, *, clip: bool = True) -> nn.Module:
    """Plain PyTorch: the same batches, the library's own optimizer, schedule factor and clipping."""
    made = network()
    optimizer = optimizer_of(made)  # type: ignore[operator]
    order, step = torch.Generator().manual_seed(0), 0
    inputs, labels = torch.from_numpy(TRAIN.inputs), torch.from_numpy(TRAIN.labels)
    num_steps = settings.epochs * math.ceil(len(TRAIN) / settings.batch_size)
    made.train()
    for _ in range(settings.epochs):
        for rows in torch.randperm(len(TRAIN), generator=order).split(settings.batch_size):
            step += 1
            optimizer.zero_grad()
            nn.functional.cross_entropy(made(inputs[rows]), labels[rows]).backward()
            if clip:
                nn.utils.clip_grad_norm_(made.parameters(), settings.max_grad_norm)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, num_steps, settings)
            optimizer.step()
    return made.eval()


def matrices_and_rest(made: nn.Module, decay: float) -> list[dict[str, object]]:
    parts = [p for p in made.parameters() if p.ndim > 1], [p for p in made.parameters() if p.ndim < 2]
    return [{"params": parts[0], "weight_decay": decay}, {"params": parts[1], "weight_decay": 0.0}]


@pytest.mark.parametrize(
    ("change", "optimizer"),
    [
        ({"optimizer": "adam"}, lambda m: torch.optim.Adam(m.parameters(), weight_decay=0.1)),
        ({"optimizer": "adamw"}, lambda m: torch.optim.AdamW(m.parameters(), weight_decay=0.1)),
        ({"optimizer": "adamw", "decay": "matrices"}, lambda m: torch.optim.AdamW(matrices_and_rest(m, 0.1))),
        ({"optimizer": "sgd"}, lambda m: torch.optim.SGD(m.parameters(), lr=1.0, weight_decay=0.1, momentum=0.9)),
        (
            {"optimizer": "sgd", "nesterov": True, "momentum": 0.8},
            lambda m: torch.optim.SGD(m.parameters(), lr=1.0, weight_decay=0.1, momentum=0.8, nesterov=True),
        ),
    ],
)
def test_every_optimizer_is_the_library_one(change: dict[str, object], optimizer: object) -> None:
    settings = TrainSettings(epochs=3, batch_size=32, weight_decay=0.1, learning_rate=0.01, max_grad_norm=0.5)
    settings = replace(settings, **change)  # type: ignore[arg-type]
    made = network()
    fit(made, TRAIN, task=TASK, settings=settings)
    expected = by_hand(settings, optimizer)
    for one, two in zip(made.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_clipping_is_the_library_one() -> None:
    made, other = network(), network()
    for network_ in (made, other):
        network_(torch.ones(4, 4) * torch.arange(4.0)[:, None]).square().sum().backward()
    for limit in (1e9, 0.1):
        norm = clip_gradients(list(made.parameters()), limit)
        expected = nn.utils.clip_grad_norm_(other.parameters(), limit)
        assert norm == expected.item()
        for one, two in zip(made.parameters(), other.parameters(), strict=True):
            assert one.grad is not None
            assert two.grad is not None
            assert torch.equal(one.grad, two.grad)
    made[0].weight.grad.fill_(math.nan)
    assert math.isnan(clip_gradients(list(made.parameters()), 1.0))


@pytest.mark.parametrize(("warmup", "num_steps"), [(0.3, 50), (0.1, 200), (0.5, 10)])
def test_one_cycle_is_the_library_one(warmup: float, num_steps: int) -> None:
    settings = TrainSettings(learning_rate=0.7, warmup=warmup, curve="one_cycle")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.7, total_steps=num_steps, pct_start=warmup, cycle_momentum=False
    )
    for step in range(1, num_steps + 1):
        assert learning_rate(step, num_steps, settings) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        if step < num_steps:
            schedule.step()


def test_step_curve_divides_by_ten_twice() -> None:
    settings = TrainSettings(learning_rate=1.0, warmup=0.1, curve="step")
    rates = [learning_rate(step, 100, settings) for step in range(1, 101)]
    assert rates[9:50] == [1.0] * 41
    assert rates[50:75] == pytest.approx([0.1] * 25)
    assert rates[75:] == pytest.approx([0.01] * 25)


def test_the_average_is_its_recursion_and_covers_batch_norm() -> None:
    """Against torch's AveragedModel with the same decay, running statistics included."""
    settings = TrainSettings(epochs=3, batch_size=32, average=0.9)
    plain_run, seen = network(), []
    reference = network()
    step = 0

    def follow(made: nn.Module) -> None:
        nonlocal step
        step += 1
        share = min(0.9, (1 + step) / (10 + step))
        now = {name: t.detach().clone() for name, t in made.state_dict().items()}
        seen[:] = [
            {n: share * seen[0][n] + (1 - share) * t if t.is_floating_point() else t for n, t in now.items()}
            if seen
            else {n: share * s + (1 - share) * now[n] if s.is_floating_point() else s for n, s in first.items()}
        ]

    first = {name: t.detach().clone() for name, t in reference.state_dict().items()}
    fit(plain_run, TRAIN, task=TASK, settings=replace(settings, average=0.0), hooks=Hooks(after_step=follow))
    fit(reference, TRAIN, task=TASK, settings=settings)
    for name, tensor in reference.state_dict().items():
        torch.testing.assert_close(tensor, seen[0][name], rtol=1e-5, atol=1e-6)
    assert not torch.equal(reference[1].running_mean, plain_run[1].running_mean)


def test_averages_leave_fitted_buffers_and_the_weights_in_use_alone() -> None:
    made = network()
    made.register_buffer("edges", torch.tensor([0.1, 1e36]))
    average = Average(made, 0.9)
    assert not any("edges" in name for name in average.means)
    before = digest_state(made, None, "")
    with torch.no_grad():
        made[0].weight += 1
    average.update(1)
    changed = digest_state(made, None, "")
    with average.in_place():
        assert digest_state(made, None, "") != changed
    assert digest_state(made, None, "") == changed
    assert changed != before


def test_balanced_classes_weigh_the_same() -> None:
    """scikit-learn's formula N / (K * N_c), and equal totals with row weights."""
    labels = np.r_[np.zeros(150), np.ones(50)].astype(np.int64)
    weights = row_weights(replace(TRAIN, labels=labels), TASK, "balanced")
    assert weights is not None
    np.testing.assert_allclose(weights[:150], 200 / (2 * 150), rtol=1e-6)
    np.testing.assert_allclose(weights[150:], 200 / (2 * 50), rtol=1e-6)
    own = np.random.default_rng(0).uniform(0.5, 2, 200).astype(np.float32)
    both = row_weights(replace(TRAIN, labels=labels, weights=own), TASK, "balanced")
    assert both is not None
    assert both[:150].sum().item() == pytest.approx(both[150:].sum().item(), rel=1e-5)
    soft = np.eye(2, dtype=np.float32)[labels]
    mixed = row_weights(replace(TRAIN, labels=soft), TASK, "balanced")
    assert mixed is not None
    np.testing.assert_allclose(mixed, weights, rtol=1e-6)
    assert row_weights(TRAIN, TASK) is None
    with pytest.raises(UsageError, match="no classes"):
        row_weights(TRAIN, Regression(), "balanced")


def test_bfloat16_trains_in_float32_weights_to_nearly_the_same() -> None:
    settings = TrainSettings(epochs=4, batch_size=32)
    exact, rounded = network(), network()
    one = fit(exact, TRAIN, task=TASK, settings=settings)["train_loss"]
    two = fit(rounded, TRAIN, task=TASK, settings=replace(settings, precision="bfloat16"))["train_loss"]
    assert {p.dtype for p in rounded.parameters()} == {torch.float32}
    assert two == pytest.approx(one, rel=0.05)
    assert not torch.equal(exact[0].weight, rounded[0].weight)


def test_it_stops_at_a_loss_and_after_steps() -> None:
    settings = TrainSettings(epochs=9, batch_size=50)
    full = fit(network(), TRAIN, task=TASK, settings=settings)
    limit = full["curve"][3]["train_loss"]
    early = fit(network(), TRAIN, task=TASK, settings=replace(settings, stop_at_loss=limit))
    assert early["epochs"] == 4
    short = fit(network(), TRAIN, task=TASK, settings=replace(settings, max_steps=6))
    assert short["steps"] == 6
    assert short["epochs"] == 2
    assert short["examples"] == 300
    assert [point["examples"] for point in short["curve"]] == [200, 100]


def test_the_curve_is_what_was_measured() -> None:
    validation = make_split(100, 2, 201)
    made = network()
    facts = fit(made, TRAIN, task=TASK, settings=TrainSettings(epochs=3), hooks=Hooks(validation=validation))
    assert facts["curve_metric"] == "accuracy"
    assert [point["epoch"] for point in facts["curve"]] == [1, 2, 3]
    with torch.no_grad():
        outputs = made(torch.from_numpy(validation.inputs))
    loss = nn.functional.cross_entropy(outputs, torch.from_numpy(validation.labels)).item()
    assert facts["curve"][-1]["validation_loss"] == pytest.approx(loss, rel=1e-5)
    right = (outputs.argmax(dim=1).numpy() == validation.labels).mean()
    assert facts["curve"][-1]["validation_metric"] == pytest.approx(right)
    assert plain(facts) == facts, "plain data only"
    seconds = [point["seconds"] for point in facts["curve"]]
    assert 0 < seconds[0] <= seconds[1] <= seconds[2] <= facts["seconds"]


def test_a_line_tells_loss_metric_pace_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.train.progress.EVERY", 0.0)  # a line after every step
    told: list[tuple[str, int, int]] = []
    hooks = Hooks(validation=make_split(100, 2, 201), progress=lambda *given: told.append(given))
    settings = TrainSettings(epochs=2, batch_size=100)
    facts = fit(network(), TRAIN, task=TASK, settings=settings, hooks=hooks)
    lines = told[1:]  # the first tells what it costs
    assert [(done, total) for _, done, total in lines] == [(1, 4), (2, 4), (2, 4), (3, 4), (4, 4), (4, 4)]
    metrics = [f"accuracy {point['validation_metric']:.4g}" for point in facts["curve"]]
    seen = [[metric in text for metric in metrics] for text, _, _ in lines]
    assert not any(map(any, seen[:2])), "nothing was measured yet"
    assert all(one for one, _ in seen[2:5]), "the last whole epoch's"
    assert seen[5][1]
    assert f"loss {facts['curve'][1]['train_loss']:.4g}" in lines[5][0]
    assert all("examples/s" in text for text, _, _ in lines)
    assert [text.endswith("s left") for text, _, _ in lines] == [True] * 4 + [False] * 2


@pytest.mark.parametrize("name", ["image", "text", "regression"])
def test_every_modality_learns_by_the_same_loop(name: str) -> None:
    module, split, task, settings, columns = task_of(name)
    facts = fit(module, split, task=task, settings=replace(settings, patience=0), hooks=Hooks(columns=columns))
    assert facts["curve"][-1]["train_loss"] < facts["curve"][0]["train_loss"]
    assert all(p.is_contiguous() for p in module.parameters()), "the layout of training is not left behind"
    assert facts["flops_per_example"] > 0


def test_augmentation_is_drawn_from_the_seed() -> None:
    def trained(seed: int, names: tuple[str, ...]) -> str:
        module, split, task, settings, columns = task_of("image")
        settings = replace(settings, augment=names)
        fit(module, split, task=task, settings=settings, seed=seed, hooks=Hooks(columns=columns))
        return digest_state(module, None, "")[0]

    assert trained(1, ("flip",)) == trained(1, ("flip",))
    assert trained(1, ("flip",)) != trained(1, ())
    assert TrainSettings(augment="flip+crop:2").augment == ("flip", "crop:2")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="turnaround"):
        trained(1, ("turnaround",))


def test_costs_are_counted_by_hand() -> None:
    table = (Column("a", "numeric"), Column("b", "numeric"), Column("c", "numeric"), Column("d", "numeric"))
    assert describe_costs(network(), table) == {
        "num_parameters": 24 + 12 + 14,
        "num_bytes": (50 + 12) * 4 + 8,
        "flops_per_example": 2 * (4 * 6 + 6 * 2),
    }
    picture = (Column("image", "image", low=0, high=255, shape=(1, 8, 8)),)
    assert describe_costs(Pictures(), picture)["flops_per_example"] == 2 * (64 * 9 * 4 + 64 * 2)
    split = task_of("text")[1]
    words = (Column("text", "text", language="en"),)
    lstm = describe_costs(Sentences(nn.LSTM), words, inputs=split.inputs[:7])
    assert lstm["flops_per_example"] == 2 * (5 * 4 * 8 * (6 + 8) + 8 * 2)


def test_no_compiler_is_said_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UsageError, match=r"no C\+\+ compiler.*g\+\+"):
        fit(network(), TRAIN, task=TASK, settings=TrainSettings(compile=True))


@pytest.mark.slow
def test_compiled_training_is_the_same_training(tmp_path: Path) -> None:
    """In a process of its own: torch's compiler reloads setuptools, which depends on what others had imported."""
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}  # compiled here, not found in a cache
    child = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("compiled_child.py"))]
    done = subprocess.run(child, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["equal", "8"]  # parameters and running means


def test_wrong_words_are_told_with_what_is_allowed() -> None:
    with pytest.raises(UsageError) as caught:
        TrainSettings(optimizer="lion", curve="zigzag", precision="float8", nesterov=True)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "adamw, adam, sgd" in text
    assert "cosine, linear, constant, one_cycle, step" in text
    assert "float32, bfloat16" in text
    assert len(caught.value.problems) == 4


def test_a_regression_split_keeps_its_unit() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(100, 4)).astype(np.float32)
    split = Split(inputs, inputs[:, 0] * 7, Groups(np.zeros((100, 0), dtype=np.int16), ()), np.arange(1, 101))
    made = nn.Linear(4, 1)
    facts = fit(made, split, task=Regression(), settings=TrainSettings(epochs=2), hooks=Hooks(validation=split))
    with torch.no_grad():
        error = (made(torch.from_numpy(inputs))[:, 0] - torch.from_numpy(split.labels)).square().mean().sqrt()
    assert facts["curve_metric"] == "root_mean_squared_error"
    assert facts["curve"][-1]["validation_metric"] == pytest.approx(error.item(), rel=1e-5)
