"""Whether where a model attends is what moves its answer."""

from __future__ import annotations

import numpy as np

from assay.access.handles import Query
from assay.models.vectors import NO_ATTENTION, rollout
from assay.probes.transparency import _curves, _gradients, _masked
from assay.registry import Sizes, probe
from assay.stats import Draws, Estimate, measured
from assay.values import Array, Measurement, Task


def _cost(sizes: Sizes) -> dict[str, int]:
    num_rows = _masked.explained_rows(sizes)
    curves = num_rows * (1 + _curves.NUM_RANDOM) * 2 * (sizes.num_units - 1)
    return {"masked": _masked.pass_rows(sizes), "attention": num_rows, "deletion and insertion by attention": curves}


@probe("transparency", tasks=("classification", "regression"), cost=_cost, modalities=("text",), deep=True)
def attention_rollout(gradient: Query, task: Task, draws: Draws) -> list[Measurement]:
    """Attention rollout of texts, put to the same test as explanations: does its order move the answer.

    Definition: rollout = product over layers of (A_l + I) / 2, A_l the mean of the heads' weights; a run of words has
    the sum of the column means of its tokens. rollout_faithfulness_gain as faithfulness_gain in that order;
    rollout_agreement = mean over rows of Spearman's correlation with the sizes of the Shapley values.
    Shapes: 64 texts of 16 runs of words; attention (N, layers, L, L).
    Direction: higher, in probability (or the target's unit), and -1 to 1.
    Limits: attention has no sign and is not about one class; undefined where the model has no attention. Attention that
    is not faithful may still be of use to the model.
    Source: Abnar and Zuidema 2020, section 3; Jain and Wallace 2019, section 4.1 (agreement).

    >>> from assay.registry import PROBES
    >>> PROBES["attention_rollout"].modalities
    ('text',)
    """
    rows = _masked.sample(gradient)
    if not gradient.attends:
        missing = Estimate(None, None, None, "none", None, NO_ATTENTION)
        return [measured(missing, "rollout_faithfulness_gain", unit=_masked.unit(task), better="higher")]
    inputs, is_unused = gradient.inputs[rows], _masked.unused(gradient)
    values = _masked.attributions(_masked.passes(gradient, task), is_unused).values
    looked = looked_at(gradient, inputs)
    ranks = _curves.orders([looked], gradient.rng("rollout faithfulness"))
    areas = _curves.areas(gradient, inputs, gradient.background, ranks=ranks, target=_masked.targets(gradient, task))
    gains, names = _curves.gains(areas, ("rollout_",))
    gain = gains[:, names.index(("rollout_faithfulness_gain", ""))]
    is_usable = _masked.finite(values, gain, looked)
    sample, errored = draws.of(rows), int((~is_usable).sum())
    bounds = _masked.bounds(task)
    alike = _masked.rank_correlation(looked, np.abs(values), is_unused)
    return [
        measured(
            _masked.row_means(sample, gain[:, None], is_usable, bounds=bounds)[0], "rollout_faithfulness_gain",
            unit=_masked.unit(task), better="higher", attempted=len(rows), errored=errored,
        ),
        measured(
            _masked.agreement(sample, alike, is_usable, bounds=(-1, 1), undefined="all attributions are equal"),
            "rollout_agreement", unit="rank correlation", better="higher", attempted=len(rows), errored=errored,
        ),
    ]  # fmt: skip


def looked_at(gradient: Query, inputs: Array) -> Array:
    """How much of the states comes from each run of words, `(R, U)`."""
    member = _gradients.runs_of(gradient, inputs)
    found = np.zeros((len(inputs), member.shape[2]))
    start = 0
    for maps in gradient.attention(inputs):
        mixed = rollout(maps)
        part = slice(start, start + len(mixed))
        is_token = np.asarray(member[part, : mixed.shape[1]].sum(axis=2) > 0)
        is_token[:, 0] |= ~is_token.any(axis=1)
        mean = (mixed * is_token[:, :, None]).sum(axis=1) / is_token.sum(axis=1, keepdims=True)
        found[part] = np.einsum("rl,rlu->ru", mean, member[part, : mixed.shape[1]])
        start += len(mixed)
    return found
