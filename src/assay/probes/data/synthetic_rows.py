"""Rows that a generator added to training, against real rows it never saw."""

from __future__ import annotations

from typing import Any

from assay import stats
from assay.access.handles import Query, keyed_rng
from assay.data.quality.drift import NUM_PERMUTATIONS as OF_DIFFERENCE
from assay.data.quality.generated import NUM_PERMUTATIONS as OF_NEAREST
from assay.data.quality.generated import Compared, Sample, compare
from assay.registry import Sizes, probe
from assay.stats import Draws, Estimate
from assay.train.generated import AugmentRecipe, Cells
from assay.values import Groups, Measurement, Split


def _of_the_recipe(sizes: Sizes) -> dict[str, int]:
    """It asks the model nothing; but what is generated is the recipe's, so it is not of the data alone."""
    return {"generated rows": 0}


@probe("data", cost=_of_the_recipe, modalities=("table", "image"))
def synthetic_rows(query: Query, draws: Draws) -> list[Measurement]:
    r"""How many generated rows the system was trained on, and whether they are real, varied and not copies.

    Definition: generated_rows = how many its recipe added to the training rows. Within cells of label and group, T =
        training, H = test, G = generated rows, B(h) = ball of h in H to its 5th nearest in H:
        generated_fidelity_gap = P(T in some B) - P(G in some B); generated_diversity_gap = P(B holds a row of T) - P(B
        holds one of G), as many rows of T as of G; generated_nearest_train_share = a / (a + b), the rates per row at
        which a row of T, or of H, is the nearest real one of a row of G: 1/2 where nothing is remembered, 1 where rows
        are repeated; memorisation_p_value permutes T and H (exact, one-sided, 999 times); generated_copies = share of G
        equal or nearly equal to a row of T; generated_difference_p_value = MMD permutation test of G against H. No
        example can be errored.
    Shapes: raw inputs of train, test and generated rows (N, ...), through the query handle; runs no row.
    Direction: p-values higher, all others lower is better; units count, share and p.
    Limits: what is generated is made again where this process has not just trained (as long as training the generator
        takes). Distances of pixels are not distances of meaning. Cells with fewer than 10 test rows are left out.
        Coarse tables hold equal people: compare generated_copies with train_test_overlap. No memory found is no proof
        of privacy. Rows that another recipe than that of `augment_by_gan` made are not known.
    Source: Kynkaanniemi et al. 2019, Improved precision and recall metric, section 2; Naeem et al. 2020, Reliable
        fidelity and diversity metrics, section 3; Gretton et al. 2012; the share, here with a permutation test: Platzer
        and Reutterer 2021, Holdout-based empirical assessment of mixed-type synthetic data (privacy).

    >>> import numpy as np
    >>> from assay.data.quality.generated import distances
    >>> distances(np.array([[0.0]]), np.array([[2.0], [3.0]])).tolist()
    [[2.0, 3.0]]
    """
    made = _made(query)
    num = 0 if made is None else len(made)
    count = Estimate(float(num), float(num), float(num), "exact count", None, "", draws.level)
    about: dict[str, Any] = {"attempted": num}
    measured = [stats.measured(count, "generated_rows", unit="count", better="lower", **about)]
    if made is None or not num:
        return measured
    return [*measured, *_told(_compared(query, made, draws.level), draws.level, num)]


def _made(query: Query) -> Split | None:
    """The rows training added, from the workspace's cache where they are known."""
    system = query.system
    recipe, train = system.recipe, system.data.splits["train"]
    if not isinstance(recipe, AugmentRecipe):
        return None
    key = ["generated rows", 1, recipe.digest, train.digest, system.data.columns, system.seed]
    stored = query.workspace.cache.get(key)
    if stored is None:
        made = recipe.generated(train, system.data, system.seed)
        arrays = {"inputs": made.inputs, "labels": made.labels, "codes": made.groups.codes, "rows": made.rows}
        query.workspace.cache.put(key, arrays, {})
        return made
    found = stored[0]
    return Split(found["inputs"], found["labels"], Groups(found["codes"], train.groups.columns), found["rows"])


def _compared(query: Query, made: Split, level: float) -> Compared:
    splits, recipe = query.system.data.splits, query.system.recipe
    cells = Cells.of(splits["train"], recipe.columns if isinstance(recipe, AugmentRecipe) else ())
    samples = [Sample(part.inputs, cells.among(part)) for part in (splits["train"], splits["test"], made)]
    rng = keyed_rng("generated rows", splits["train"].digest, splits["test"].digest)
    return compare(*samples, columns=query.columns, rng=rng, level=level)


def _told(found: Compared, level: float, num: int) -> list[Measurement]:
    shares = {
        "generated_fidelity_gap": found.fidelity_gap,
        "generated_diversity_gap": found.diversity_gap,
        "generated_nearest_train_share": found.nearest_train_share,
        "generated_copies": found.copied_rows,
    }
    measured = [stats.measured(one, name, unit="share", better="lower", attempted=num) for name, one in shares.items()]
    p_values = (
        ("memorisation_p_value", found.memorisation_p_value, OF_NEAREST),
        ("generated_difference_p_value", found.difference_p_value, OF_DIFFERENCE),
    )
    for name, p_value, permutations in p_values:
        one = stats.exact_rate(0, 0, level=level)
        if p_value is not None:
            one = stats.exact_rate(round(p_value * (permutations + 1)), permutations + 1, level=level)
        measured.append(stats.measured(one, name, unit="p", better="higher", attempted=num))
    return measured
