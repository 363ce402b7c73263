"""Does the answer hold when the input is a little wrong?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from assay import stats
from assay.registry import EVERY_TASK, Sizes, probe
from assay.stats import Draws, Estimate
from assay.units import pixels, typos
from assay.units.ranges import ranges
from assay.values import Array, Column, Measurement, Task, modality

if TYPE_CHECKING:
    from assay.access.handles import Query

LEVELS = (0.1, 0.3)
SWAP_RATE = 0.02
BLOCK = 1 << 16  # rows of a table worked on in one go
MOST = 1000  # rows of pictures and texts, which cost a hundred times what table rows cost
IMAGE_CHANGES = {"brightness": 0.2, "contrast": 0.5, "blur": 1.0, "occlusion": 0.3}
TEXT_CHANGES = {"dropped": 0.1, "homoglyph": 0.1}
NUM_COPIES = {"table": 2, "image": 2 + len(IMAGE_CHANGES), "text": 2 + len(TEXT_CHANGES)}


def perturbed_rows(sizes: Sizes) -> dict[str, int]:
    """Every copy of every row."""
    num = sizes.num_test if sizes.modality == "table" else min(MOST, sizes.num_test)
    return {"input_noise": NUM_COPIES[sizes.modality] * num}


@probe("robustness", tasks=EVERY_TASK, cost=perturbed_rows)
def input_noise(query: Query, predictions: Array, labels: Array, task: Task, draws: Draws) -> list[Measurement]:
    """How often the answer changes, and how much is lost, when inputs are a little wrong, as they come in practice.

    Definition: tables: x'_f = clip(x_f + s sd_f z, plausible range), z ~ N(0, 1), for numeric columns (whole numbers
    rounded), and with chance 0.02 a category is that of a random row; s is 0.1 and 0.3. Pictures: noise of s times the
    range on every pixel; brightness + 0.2 of the range; contrast x 0.5; Gaussian blur of 1 pixel; a rectangle of 0.3 of
    each side covered. Texts: a share s of the words of four letters or more mistyped (in Chinese s/2 of the characters
    dropped or swapped); 0.1 of the words left out; 0.1 of those that can with a letter that looks the same.
    flip_rate = mean[answer(x') != answer(x)]; accuracy_drop = accuracy(x) - accuracy(x'). Several labels a row: a row
    flips when any label does, and accuracy is the mean share of its labels that are right. Regression: mean_change =
    mean |answer(x') - answer(x)|, in target units, and the rise of the mean absolute error.
    Shapes: predictions and labels (N,) or (N, L), one copy of each row for each change; of pictures and texts at most
    1,000 keyed rows. Slices `noise=<s>` and the name of the change.
    Direction: lower is better. An example that errors, clean or noisy, counts as flipped and as not correct;
    one refused both times as not correct.
    Limits: independent noise of one scale is not the worst case (see gradient_attack) and not a real shift; one copy
    a row, so the interval covers the rows and the noise together; a constant system never flips. A text whose label
    lay in a word that was left out has another right answer.
    Source: Hendrycks and Dietterich 2019, section 4 (corruption error); kinds of change as in `assay.units.pixels` and
    `assay.units.typos`.

    >>> rows = np.array([[20.0, 0.0], [31.0, 2.0]], dtype=np.float32)
    >>> told = [Column("age", "numeric", low=17, high=90), Column("job", "categorical", ("a", "b", "c"))]
    >>> noisy(rows, told, 0.0, swap_rate=0.0, rng=np.random.default_rng(0)).tolist() == rows.tolist()
    True
    """
    kind = modality(query.columns)
    rows = np.arange(len(labels)) if kind == "table" else query.rows(MOST)
    sample = draws if kind == "table" else draws.of(rows)
    inputs = query.inputs if kind == "table" else query.inputs[rows]  # all rows: not a copy
    groups = query.groups.take(rows)
    measure = _changes if task.name == "regression" else _label_flips if task.label_names else _flips
    found: list[Measurement] = []
    for where, shaken in changed(inputs, query):
        answers = query.predictions(shaken, groups)
        found += measure(predictions[rows], answers, labels[rows], sample, where)
    return found


def changed(inputs: Array, query: Query) -> Iterator[tuple[str, Array]]:
    """Each change of the rows, by its slice.

    One stream of random numbers a change: every system on this data meets the same rows, so effects are paired.
    """
    column, kind = query.columns[0], modality(query.columns)
    for level in LEVELS:
        rng = query.rng(f"input noise {level}")
        if kind == "table":
            shaken = noisy(inputs, query.columns, level, swap_rate=SWAP_RATE, rng=rng)
        elif kind == "image":
            shaken = pixels.noisy(inputs, level, _range(column), rng)
        else:
            shaken = typos.mistyped(inputs, level, language=column.language, rng=rng)
        yield f"noise={level}", shaken
    if kind == "image":
        known, rng = _range(column), query.rng("occlusion")
        yield f"brightness={IMAGE_CHANGES['brightness']}", pixels.brighter(inputs, IMAGE_CHANGES["brightness"], known)
        yield f"contrast={IMAGE_CHANGES['contrast']}", pixels.flatter(inputs, IMAGE_CHANGES["contrast"], known)
        yield f"blur={IMAGE_CHANGES['blur']}", pixels.blurred(inputs, IMAGE_CHANGES["blur"], known)
        yield f"occlusion={IMAGE_CHANGES['occlusion']}", pixels.occluded(inputs, IMAGE_CHANGES["occlusion"], known, rng)
    if kind == "text":
        share, rng = TEXT_CHANGES["dropped"], query.rng("dropped")
        yield f"dropped={share}", typos.shortened(inputs, share, language=column.language, rng=rng)
        share, rng = TEXT_CHANGES["homoglyph"], query.rng("homoglyph")
        yield f"homoglyph={share}", typos.look_alike(inputs, share, language=column.language, rng=rng)


def _range(column: Column) -> pixels.Range:
    return (0.0 if column.low is None else column.low, 255.0 if column.high is None else column.high)


def noisy(
    inputs: Array, columns: Sequence[Column], level: float, *, swap_rate: float, rng: np.random.Generator
) -> Array:
    """A noisy copy of rows `(N, F)`; missing values stay missing. The noise does not depend on any answer.

    Rows are worked on in blocks, as a table may be most of the memory there is; the stream gives the same numbers.
    """
    known, result = ranges(columns, inputs), np.array(inputs, dtype=np.float32)
    spread = np.where(known.numeric, _spread(inputs), 0.0)
    parts = [slice(begin, begin + BLOCK) for begin in range(0, len(inputs), BLOCK)]
    for part in parts:
        values = inputs[part].astype(np.float64)
        moved = values + level * spread * rng.standard_normal(values.shape)
        moved = np.where(known.whole, np.round(moved), moved)
        # A row already outside the plausible range is not pulled in: that would be a change of its own.
        moved = np.clip(moved, np.minimum(known.low, values), np.maximum(known.high, values))
        np.copyto(result[part], moved, where=known.numeric, casting="same_kind")
    places = np.arange(inputs.shape[1])
    for part in parts:
        donors = inputs[rng.integers(0, len(inputs), result[part].shape), places]
        np.copyto(result[part], donors, where=~known.numeric, casting="same_kind")
    for part in parts:
        kept = rng.random(result[part].shape) >= swap_rate
        np.copyto(result[part], inputs[part], where=kept & ~known.numeric, casting="same_kind")
    return result


def _spread(inputs: Array) -> Array:
    """Standard deviation `(F,)` of the finite entries, in float64; 0 for a column without any."""
    parts = [inputs[begin : begin + BLOCK] for begin in range(0, max(len(inputs), 1), BLOCK)]
    total, counts, squares = (np.zeros(inputs.shape[1]) for _ in range(3))
    for part in parts:
        finite = np.isfinite(part)
        counts += finite.sum(axis=0)
        total = _add(total, np.where(finite, part, 0.0))
    counts = np.maximum(counts, 1)
    for part in parts:
        centred = np.where(np.isfinite(part), part - total / counts, 0.0)
        squares = _add(squares, centred**2)
    spread: Array = np.sqrt(squares / counts)
    return spread


def _add(total: Array, values: Array) -> Array:
    """`total (F,)` and rows `(n, F)`, added row after row: in blocks as in one go."""
    added: Array = np.add.reduce(np.concatenate([total[None], values], dtype=np.float64), axis=0)
    return added


def _flips(clean: Array, noise: Array, labels: Array, draws: Draws, where: str) -> list[Measurement]:
    errored = (clean < 0) | (noise < 0)
    flipped = (clean != noise) | (clean == -1) | (noise == -1)  # refused twice (-2) is the same answer
    right = [(answers == labels) & (answers >= 0) for answers in (clean, noise)]
    cells = (flipped * 4 + right[0] * 2 + right[1]).astype(np.int64)
    counts = draws.counts(cells, 8)
    totals = counts.sum(axis=1)
    hits_clean, hits_noisy = counts[:, [2, 3, 6, 7]].sum(axis=1), counts[:, 1::2].sum(axis=1)
    about: dict[str, Any] = {"slice": where, "attempted": len(clean), "errored": int(errored.sum())}
    flips = stats.rate(counts[:, 4:].sum(axis=1), totals, level=draws.level)
    kept = stats.rate(hits_noisy, totals, level=draws.level)
    with np.errstate(invalid="ignore", divide="ignore"):
        drop = stats.statistic((hits_clean - hits_noisy) / totals, level=draws.level, bounds=(-1.0, 1.0))
    return _noise_measured((flips, kept, drop), where, about)


def _label_flips(clean: Array, noise: Array, labels: Array, draws: Draws, where: str) -> list[Measurement]:
    """The same of several labels a row `(N, L)`."""
    errored = ((clean < 0) | (noise < 0)).any(axis=1)
    right = [(answers == labels).mean(axis=1) for answers in (clean, noise)]
    sums = draws.sums(np.stack([(clean != noise).any(axis=1) | errored, *right], axis=1).astype(np.float64))
    totals = np.full(len(sums), float(len(clean)))
    about: dict[str, Any] = {"slice": where, "attempted": len(clean), "errored": int(errored.sum())}
    flips = stats.rate(sums[:, 0], totals, level=draws.level)
    kept = stats.mean(sums[:, 2], totals, level=draws.level, bounds=(0.0, 1.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        drop = stats.statistic((sums[:, 1] - sums[:, 2]) / totals, level=draws.level, bounds=(-1.0, 1.0))
    return _noise_measured((flips, kept, drop), where, about)


def _noise_measured(found: tuple[Estimate, Estimate, Estimate], where: str, about: dict[str, Any]) -> list[Measurement]:
    flips, kept, drop = found
    headline = where == f"noise={LEVELS[0]}"
    return [
        stats.measured(flips, "flip_rate", unit="fraction", better="lower", headline=headline, **about),
        stats.measured(kept, "accuracy_under_noise", unit="fraction", better="higher", **about),
        stats.measured(drop, "accuracy_drop_under_noise", unit="fraction", better="lower", **about),
    ]


def _changes(clean: Array, noise: Array, labels: Array, draws: Draws, where: str) -> list[Measurement]:
    valid = np.isfinite(clean) & np.isfinite(noise)
    change = np.where(valid, np.abs(noise - clean), 0.0)
    rise = np.where(valid, np.abs(noise - labels) - np.abs(clean - labels), 0.0)
    sums = draws.sums(np.stack([change, rise, valid], axis=1).astype(np.float64))
    errored = int(len(valid) - valid.sum())
    about: dict[str, Any] = {"slice": where, "attempted": len(clean), "errored": errored}
    moved = stats.mean(sums[:, 0], sums[:, 2], level=draws.level)
    lost = stats.mean(sums[:, 1], sums[:, 2], level=draws.level)
    if errored:
        note = f"{errored} errored examples have no change that could be averaged"
        moved, lost = replace(moved, reason=moved.reason or note), replace(lost, reason=lost.reason or note)
    headline = where == f"noise={LEVELS[0]}"
    return [
        stats.measured(moved, "mean_change", unit="target", better="lower", headline=headline, **about),
        stats.measured(lost, "absolute_error_rise_under_noise", unit="target", better="lower", **about),
    ]
