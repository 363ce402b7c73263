"""Rows of scarce cells of label and group, made by a generative adversarial network, and training again with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from assay.access.handles import keyed_rng
from assay.data.quality.generated import Sample, compare
from assay.errors import Problem
from assay.models.image import image_shape
from assay.registry import treatment
from assay.train.generated import AugmentRecipe, Cells
from assay.treatments import _common
from assay.treatments.data import _rows
from assay.values import Array, Split, System

LEAST_ROWS = 50  # real rows of a cell that is added to
LEVEL = 0.95


@treatment("data", moves=("higher:true_positive_rate",), trainings=50)
def augment_by_gan(
    system: System,
    *,
    columns: Sequence[str] | None = None,
    ratio: float = 1.0,
    num_steps: int = 2000,
    width: int = 32,
) -> System:
    r"""Fill every cell of label y and group g up to `ratio` times the median cell with generated rows; train again.

    A cell gets $\max(0, \lfloor r \cdot \mathrm{median}_{c} N_c \rfloor - N_{gy})$ rows of a conditional GAN
    (`assay.models.gan.fit_gan`: at most `num_steps` steps on 64 training rows each, every cell as often as the others;
    `width` is its size). `columns` are crossed with the label; None is the first declared one, or the label alone. A
    generated row holds its cell's label and group in every place, and -1 for other groups its inputs do not tell.
    The rows live in the recipe: `data` keeps real rows only, so that nobody who does not exist is counted, and a
    reference model learns from a GAN trained on its own half of them. The outcome says how many rows each cell got
    and how they compare with validation rows (`assay.data.quality.generated.compare`); the probe `synthetic_rows`
    compares them with test rows.
    Limits: not better than copying the few real rows. Adult, women earning more (1,068 rows; three seeds): right
    answers 0.605 before, 0.775 after; 0.802 with plain copies, 0.781 with SMOTE. All cost accuracy (0.870 before,
    0.851, 0.851, 0.855), and women are ranked worse than with copies (area under ROC 0.930, 0.940). Pictures, 50 rows
    of a class, 600 of the others: shirts of Fashion-MNIST (one seed) 0.002 before, 0.147 after, 0.262 with copies,
    0.295 with SMOTE; fives of MNIST (two seeds, too few to tell) 0.832, 0.899, 0.874, 0.861. What it has on Adult: its
    rows lie no nearer to training than to test rows, and those of SMOTE do. Of 50 fives it remembered some (p = 0.01
    on one seed). It misses rare values and gives no privacy. Pictures take 30 to 60 CPU ms a step.
    Raises TreatmentError without a plain recipe (a private one would lose its epsilon, for the GAN sees every row), for
    regression, texts, and pictures whose sides are no multiples of 4; where a scarce cell has fewer than 50 rows to
    learn from, and where no cell is scarce.

    Source: Mariani et al. 2018, BAGAN: Data augmentation with balancing GAN (arXiv 1803.09655): one GAN learns from all
    classes, and fills the rare ones.
    """
    names, problems = _problems(system, columns, (ratio, num_steps, width))
    _common.refuse("augment_by_gan", system, problems)
    train = system.data.splits["train"]
    cells = Cells.of(train, names)
    _common.refuse("augment_by_gan", system, _wrong_cells(system, names, cells, ratio))
    recipe = AugmentRecipe(_common.train_recipe(system), names, float(ratio), int(num_steps), int(width))
    fitted = recipe.fit(train, system.data, system.seed)
    made = recipe.generated(train, system.data, system.seed)
    parameters = {"ratio": float(ratio), "num_steps": int(num_steps), "width": int(width)}
    outcome = {"num_train": len(train), "num_generated": len(made), "checks": _checks(system, made, names)}
    named = _common.grown(
        system,
        treatment="augment_by_gan",
        stage="data",
        parameters={"columns": None if columns is None else list(columns), **parameters},
        outcome={"columns": list(names), **outcome, "cells": _counts(system, cells, cells.among(made), names)},
    )
    return replace(named, model=fitted.model, recipe=recipe, facts=fitted.facts)


def _problems(
    system: System, columns: Sequence[str] | None, numbers: tuple[float, int, int]
) -> tuple[tuple[str, ...], list[Problem | None]]:
    """The group columns that are crossed, and what does not fit before any row is looked at."""
    ratio, num_steps, width = numbers
    given = columns is not None or bool(system.data.group_columns)
    names, wrong = _common.chosen_columns(system, columns) if given else ((), None)
    return names, [
        *_rows.needs(system),
        _common.needs_train_recipe(system),
        _common.unless(bool(system.task.classes), f"its task is {system.task.name}", "classification"),
        _common.unless(0 < ratio < np.inf, f"ratio is {ratio}", "a positive number"),
        _common.unless(num_steps >= 1 and width >= 1, f"num_steps is {num_steps}, width {width}", "1 or more"),
        wrong,
        _wrong_inputs(system),
    ]


def _wrong_inputs(system: System) -> Problem | None:
    kind = system.data.modality
    if kind == "text":
        return Problem("its inputs are texts", "tables and pictures", "Change their words instead")
    sides = image_shape(system.data.columns)[1:] if kind == "image" else ()
    shown = " x ".join(str(side) for side in sides)
    return _common.unless(not any(side % 4 for side in sides), f"pictures of {shown}", "sides that are multiples of 4")


def _wrong_cells(system: System, names: Sequence[str], cells: Cells, ratio: float) -> list[Problem | None]:
    """What is wrong with the cells that would be filled: nothing to fill, or too little to learn from."""
    missing = cells.missing(ratio)
    scarce = [
        f"{_named(system, names, key)} has {count}"
        for key, count, more in zip(cells.keys, cells.counts, missing, strict=True)
        if more and count < LEAST_ROWS
    ]
    target = f"{ratio:g} of the median cell"
    allowed = f"{LEAST_ROWS} or more training rows in every cell below {target}"
    following = "Cross fewer columns, ask for a smaller ratio, or collect more rows"
    return [
        _common.unless(bool(missing.any()), f"no cell has fewer than {target}", following="Ask for a larger ratio"),
        _common.unless(not scarce, f"too few rows to learn from: {'; '.join(scarce)}", allowed, following),
    ]


def _counts(system: System, cells: Cells, made: Array, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Real and generated rows of every cell that was added to."""
    added = np.bincount(made, minlength=len(cells.counts))
    return {
        _named(system, names, cells.keys[cell]): {"real": int(cells.counts[cell]), "generated": int(added[cell])}
        for cell in np.flatnonzero(added)
    }


def _named(system: System, names: Sequence[str], key: Any) -> str:
    """A cell in words: `sex=Female & class=>50K`."""
    known = {column.name: (*column.categories, "missing") for column in system.data.group_columns}
    parts = [f"{name}={known[name][int(code)]}" for name, code in zip(names, key[1:], strict=True)]
    return " & ".join([*parts, f"class={system.data.classes[int(key[0])]}"])


def _checks(system: System, made: Split, names: Sequence[str]) -> dict[str, Any]:
    """How generated rows compare with validation rows of their cells."""
    train, held_out = (system.data.splits.get(name) for name in ("train", "validation"))
    if held_out is None or not len(held_out):
        return {"reason": "there are no validation rows to compare with"}
    train = _common.known(train)
    cells = Cells.of(train, names)
    samples = [Sample(part.inputs, cells.among(part)) for part in (train, held_out, made)]
    rng = keyed_rng("generated rows", train.digest, held_out.digest)
    found = compare(*samples, columns=system.data.columns, rng=rng, level=LEVEL)
    return found.to_json()
