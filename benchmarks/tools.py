"""What separate tools take, in CPU seconds, for the kinds of numbers that one row of the matrix holds.

Each tool at its defaults, on the same model and as many rows as ours explains or attacks. Explaining one row costs a
tool what explaining another does, so where fewer are explained here, the time is multiplied. A tool that is not
installed here, or that does not know such inputs, is left out: the sum is then too small, which favours the tools.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from assay.observe import module_of
from assay.values import Array, System, texts

EXPLAINED = {"table": 64, "image": 48, "text": 64}  # rows that ours explains
BY_ROW = ("shap Partition", "shap Kernel", "lime", "captum gradients")
ATTACKED = {"table": 500, "image": 200}
STEPS = {"table": (10, 6, 0.05), "image": (20, 2, 0.1)}  # of ours: steps, starts, radius
CALLS = {1: 370, 64: 40}  # timed calls a batch size, as many as ours
Work = Callable[[], Any]


@dataclass(frozen=True)
class Amount:
    """How much the tools do."""

    boot: int = 100  # resamples of fairlearn's frame
    explained: int = 10**9  # rows explained, at most
    trainings: int = 16  # of a likelihood-ratio attack, for each system


def cpu(work: Work) -> float:
    """CPU seconds of one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def answers(system: System) -> Callable[[Array], Array]:
    """Raw inputs to probabilities `(N, K)` in float64, as tools ask for them."""

    def function(inputs: Array) -> Array:
        logits = system.task.logits(system.model.outputs(inputs), system.model.outputs_are)
        return np.asarray(system.task.probabilities(logits), dtype=np.float64)

    return function


def works(system: System, amount: Amount) -> Mapping[str, tuple[str, Work]]:
    """Tool to (package it needs, what it does)."""
    kind = system.data.modality
    rows = system.data.splits["test"].inputs[: min(EXPLAINED[kind], amount.explained)]
    found: dict[str, tuple[str, Work]] = {
        f"fairlearn frame, {amount.boot} resamples": ("fairlearn", lambda: frame(system, amount.boot)),
        "timed calls": ("torch", lambda: timed_calls(system)),
    }
    if kind == "text":
        found["shap Partition"] = ("shap", lambda: shap_texts(system, rows))
        found["lime"] = ("lime", lambda: lime_texts(system, rows))
        return found
    found["shap Kernel"] = ("shap", lambda: shap_table(system, rows) if kind == "table" else shap_patches(system, rows))
    found["lime"] = ("lime", lambda: lime_table(system, rows) if kind == "table" else lime_images(system, rows))
    if "gradient" in system.offers:
        found["captum gradients"] = ("captum", lambda: captum_gradients(system, rows))
        found["captum PGD"] = ("captum", lambda: captum_attack(system))
    return found


def costs(system: System, amount: Amount) -> dict[str, float | str]:
    """CPU seconds by tool; or why there are none: its package is not installed, or it stopped."""
    found: dict[str, float | str] = {}
    full = EXPLAINED[system.data.modality]
    for name, (package, work) in works(system, amount).items():
        if importlib.util.find_spec(package) is None:
            found[name] = f"{package} is not installed"
            continue
        try:
            times = full / min(full, amount.explained) if name in BY_ROW else 1.0
            found[name] = times * cpu(work)
        except Exception as error:  # whatever a tool does, the others are still measured
            found[name] = f"it stopped: {type(error).__name__}: {str(error)[:200]}"
    return found


# ------------------------------------------------------------------ groups and times


def frame(system: System, num_boot: int) -> Any:
    """MetricFrame with percentile intervals: five rates of two classes, or three means over several classes."""
    import sklearn.metrics as known
    from fairlearn.metrics import MetricFrame, false_positive_rate, selection_rate, true_positive_rate

    test = system.data.splits["test"]
    predictions = system.decision.decide(answers(system)(test.inputs), test.inputs, test.groups)
    measures: dict[str, Any] = {"accuracy": known.accuracy_score}
    if len(system.data.classes) == 2:
        measures |= {"selection_rate": selection_rate, "true_positive_rate": true_positive_rate}
        measures |= {"false_positive_rate": false_positive_rate, "precision": precision}
    else:
        measures |= {"balanced_accuracy": macro(known.recall_score), "precision": macro(known.precision_score)}
    return MetricFrame(
        metrics=measures,
        y_true=test.labels.astype(np.int64),
        y_pred=np.asarray(predictions, dtype=np.int64),
        sensitive_features=group_codes(system),
        n_boot=num_boot,
        ci_quantiles=[0.025, 0.975],
        random_state=0,
    )


def precision(labels: Array, predictions: Array) -> float:
    """0 where nothing was selected, as scikit-learn's with zero_division, whose check of every call is slower."""
    chosen = np.asarray(predictions) == 1
    return float((np.asarray(labels)[chosen] == 1).mean()) if chosen.any() else 0.0


def macro(measure: Any) -> Callable[[Array, Array], float]:
    """Mean over classes; not a partial, which fairlearn has no name for."""

    def mean(labels: Array, predictions: Array) -> float:
        return float(measure(labels, predictions, average="macro", zero_division=0))

    return mean


def group_codes(system: System) -> Array:
    """One code for each test row: the first two group columns crossed."""
    codes = system.data.splits["test"].groups.codes.astype(np.int64)
    if codes.shape[1] < 2:
        return codes[:, 0]
    found: Array = codes[:, 0] * (codes[:, 1].max() + 1) + codes[:, 1]
    return found


def timed_calls(system: System) -> None:
    """The forward pass alone, as often as a median of latencies needs it."""
    inputs = system.data.splits["test"].inputs
    for size, calls in CALLS.items():
        for _ in range(calls):
            system.model.outputs(inputs[:size])


# ------------------------------------------------------------------ explanations


def shap_table(system: System, rows: Array) -> None:
    """KernelExplainer at its defaults, 100 background rows."""
    import shap

    function = answers(system)
    background = system.data.splits["train"].inputs[:100].astype(np.float64)
    explainer = shap.KernelExplainer(lambda inputs: function(np.asarray(inputs, np.float32))[:, 1], background)
    explainer.shap_values(rows.astype(np.float64), silent=True)


def shap_patches(system: System, rows: Array) -> None:
    """KernelExplainer over sixteen patches that turn to the mean picture: one background, at its default budget."""
    import shap

    function, mean = answers(system), system.data.splits["train"].inputs.mean(axis=0)
    height, width = rows.shape[-2:]
    down, across = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    patch = down[:, None] * 4 + across[None, :]
    for row in rows:
        target = int(function(row[None])[0].argmax())

        def masked(masks: Array, row: Array = row, target: int = target) -> Array:
            kept = masks[:, patch][:, None] > 0.5
            return function(np.where(kept, row, mean).astype(np.uint8))[:, target]

        shap.KernelExplainer(masked, np.zeros((1, 16))).shap_values(np.ones((1, 16)), silent=True)


def shap_texts(system: System, rows: Array) -> None:
    """The partition explainer at its defaults (500 evaluations a text), words as tokens."""
    import shap

    function = answers(system)
    explainer = shap.Explainer(
        lambda told: function(texts(str(one) for one in told)), shap.maskers.Text(r"\s+"), algorithm="partition"
    )
    for row in rows.tolist():
        explainer([row], silent=True)


def lime_table(system: System, rows: Array) -> None:
    """The tabular explainer at its defaults: 5,000 samples a row."""
    from lime.lime_tabular import LimeTabularExplainer

    function = answers(system)
    train = system.data.splits["train"].inputs.astype(np.float64)
    explainer = LimeTabularExplainer(train, mode="classification", random_state=0)
    for row in rows:
        explainer.explain_instance(row.astype(np.float64), lambda inputs: function(np.asarray(inputs, np.float32)))


def lime_images(system: System, rows: Array) -> None:
    """The image explainer at its defaults: 1,000 samples a picture, its own segments."""
    from lime.lime_image import LimeImageExplainer

    function, channels = answers(system), rows.shape[1]

    def asked(pictures: Array) -> Array:
        return function(np.moveaxis(np.asarray(pictures), -1, 1)[:, :channels].astype(np.uint8))

    explainer = LimeImageExplainer(random_state=0)
    for row in rows:
        picture = np.repeat(np.moveaxis(row, 0, -1), 3 // channels, axis=2)
        explainer.explain_instance(picture.astype(np.float64), asked, top_labels=1)


def lime_texts(system: System, rows: Array) -> None:
    """The text explainer at its defaults: 5,000 samples a text."""
    from lime.lime_text import LimeTextExplainer

    function, explainer = answers(system), LimeTextExplainer(random_state=0)
    for row in rows.tolist():
        explainer.explain_instance(row, lambda told: function(texts(str(one) for one in told)))


def captum_gradients(system: System, rows: Array) -> None:
    """Integrated gradients, infidelity (ten samples) and max-sensitivity, at their defaults."""
    from captum.attr import IntegratedGradients
    from captum.metrics import infidelity, sensitivity_max

    module, batch, target = module_of(system), tensor(rows), likely(system, rows)
    method = IntegratedGradients(module)
    found = method.attribute(batch, target=target)

    def moved(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        noise = 0.1 * torch.randn_like(inputs)
        return noise, inputs - noise

    infidelity(module, moved, batch, found, target=target, n_perturb_samples=10)
    sensitivity_max(method.attribute, batch, target=target)


def captum_attack(system: System) -> None:
    """Projected gradient descent with the steps and starts of ours; a start that breaks a row does not stop it."""
    from captum.robust import PGD

    kind = system.data.modality
    (steps, starts, radius), test = STEPS[kind], system.data.splits["test"]
    rows, module = test.inputs[: ATTACKED[kind]], module_of(system)
    labels = torch.from_numpy(test.labels[: ATTACKED[kind]].astype(np.int64))
    size = 255.0 * radius if kind == "image" else radius * float(np.nanstd(rows))
    attack = PGD(module, torch.nn.CrossEntropyLoss(reduction="none"))
    for _ in range(starts):
        moved = attack.perturb(
            tensor(rows), radius=size, step_size=size / 4, step_num=steps, target=labels, random_start=True
        )
        with torch.no_grad():
            module(moved)


def tensor(rows: Array) -> torch.Tensor:
    """Rows as float32 without missing cells."""
    return torch.nan_to_num(torch.from_numpy(np.asarray(rows, dtype=np.float32)))


def likely(system: System, rows: Array) -> torch.Tensor:
    """The most probable class of each row."""
    return torch.from_numpy(answers(system)(rows).argmax(axis=1))
