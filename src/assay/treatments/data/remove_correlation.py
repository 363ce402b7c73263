"""The model reads features without what group columns say of them linearly, and not the group columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from assay.errors import Problem
from assay.models import FitsEncoding
from assay.models.mlp import TableEncoder
from assay.models.uncorrelated import UncorrelatedEncoder, uncorrelated_architecture
from assay.registry import treatment
from assay.treatments import _common
from assay.units import group_features
from assay.values import Array, System

MOST_ROWS = 100_000  # training rows over which correlations are told


@treatment("data", moves=("lower:demographic_parity_difference",))
def remove_correlation(system: System, *, columns: Sequence[str] | None = None, alpha: float = 1.0) -> System:
    r"""Take out of each encoded feature its linear part in the group columns, hide those, and train again.

    $E' = E - \alpha (S - \bar S) B$ with $B = \arg\min |E - \bar E - (S - \bar S) B|^2$ over training rows; E are all
    features as the model encodes them (numbers scaled, an indicator for each category), S the indicators of `columns`
    (None: the first declared one), which the network no longer sees. With $\alpha = 1$ no feature of the training rows
    is correlated with a group; below, a share is left. What is fitted is part of the model, which takes raw rows as
    before and needs each row's group at prediction time, as the input that it had already. Limits: made for linear
    models, whose selection rates come closer (Adult, sex: 0.174 to 0.061); a network finds the group in combinations of
    features (0.169 to 0.170, hidden layers 64 and 64); errors often move apart; swapping the group of a row now moves
    its other features, so more answers flip; small groups are shifted by noisy means.
    Raises TreatmentError without a TrainRecipe, for pictures or texts, for a module without one `TableEncoder` that it
    fits by `fit_encoding`, for alpha outside 0 to 1, or when a group column is no feature of the model.

    Source: fairlearn 0.15, preprocessing.CorrelationRemover (on the encoded table, equal to it).
    """
    names, wrong = _common.chosen_columns(system, columns)
    kind = system.data.modality
    problems = [
        *_common.trains_again(system),
        _common.unless(0 < alpha <= 1, f"alpha is {alpha}", "more than 0, at most 1"),
        wrong,
        _unread(system, names) if kind == "table" else Problem(f"its inputs are {kind}s", "tables"),
        _no_encoder(system),
    ]
    _common.refuse("remove_correlation", system, problems)
    before = _common.train_recipe(system)
    recipe = replace(before, architecture=uncorrelated_architecture(before.architecture, hidden=names, alpha=alpha))
    train = system.data.splits["train"]
    fitted = recipe.fit(train, system.data, system.seed)
    module = _common.known(_common.module_of(fitted.model))
    named = _common.grown(
        system,
        treatment="remove_correlation",
        stage="data",
        parameters={"columns": None if columns is None else list(columns), "alpha": float(alpha)},
        outcome={
            "columns": list(names),
            "largest_correlation": largest_correlation(module, _common.spread_rows(train, MOST_ROWS)),
        },
    )
    return replace(named, model=fitted.model, facts=fitted.facts, recipe=recipe)


def _unread(system: System, names: Sequence[str]) -> Problem | None:
    data = system.data
    read = {data.group_columns[place].name for place in group_features(data.columns, data.group_columns)}
    hidden = [name for name in names if name not in read]
    what = f"the model does not read {', '.join(hidden)}, so it could not be corrected at prediction time"
    allowed = "group columns that are features too: " + (", ".join(sorted(read)) or "there is none")
    return _common.unless(not hidden, what, allowed, "Declare it as a feature and train again, or use reweigh_groups")


def _no_encoder(system: System) -> Problem | None:
    """A network of one's own may read rows by itself: then nothing is known to be a feature."""
    module = _common.module_of(system.model)
    if system.data.modality != "table" or module is None:
        return None
    has_one = sum(isinstance(part, TableEncoder) for part in module.modules()) == 1 and isinstance(module, FitsEncoding)
    what = f"its module ({type(module).__name__}) encodes rows in a way of its own"
    following = "Begin it with assay.models.mlp.TableEncoder, fitted by its fit_encoding, or use reweigh_groups"
    return _common.unless(has_one, what, "modules that hold and fit one TableEncoder", following)


@torch.no_grad()
def largest_correlation(module: nn.Module, inputs: Array) -> dict[str, float]:
    """Largest absolute correlation of an encoded feature with a hidden indicator over these rows, before and after."""
    encoder = next(one for one in module.modules() if isinstance(one, UncorrelatedEncoder))
    rows = torch.from_numpy(np.array(inputs, dtype=np.float32))
    before, after = (one(rows).double().numpy() for one in (encoder.inner, encoder))
    kept, own = encoder.kept.numpy() > 0, before[:, encoder.slots.numpy()]
    found = {}
    for name, encoded in (("before", before[:, kept]), ("after", after[:, kept])):
        # A category that these rows have once or twice is noise, and a slot that never varies has no correlation.
        parts = [one - one.mean(axis=0) for one in (encoded, own)]
        sizes = [np.linalg.norm(one, axis=0) for one in parts]
        scaled = [part / np.where(size > 1e-3, size, np.inf) for part, size in zip(parts, sizes, strict=True)]
        found[name] = round(float(np.abs(scaled[0].T @ scaled[1]).max(initial=0.0)), 4)
    return found
