"""The error tree as a figure: every leaf in words, the worst first, and nothing where no tree was grown."""

from types import SimpleNamespace

import numpy as np
import pytest

from assay.probes.utility.error_tree import error_tree
from assay.report.phrases import Phrases
from assay.report.sections import tree_figure
from assay.stats import make_draws
from assay.values import Column, Groups


def dossier(share):
    rng = np.random.default_rng(0)
    inputs = np.column_stack([rng.uniform(17, 90, 4000), rng.integers(2, size=4000)])
    wrong = rng.random(4000) < np.where((inputs[:, 0] > 60) & (inputs[:, 1] == 0), share, 0.1)
    labels, predictions = np.zeros(4000, dtype=int), wrong.astype(int)
    columns = (Column("age", "numeric"), Column("job", "categorical", ("<b>", "c")))
    draws = make_draws(b"key", "split", [labels, predictions], num_draws=20)
    nobody = Groups(np.zeros((4000, 0)), ())
    return SimpleNamespace(measurements=error_tree(inputs, labels, predictions, nobody, columns, draws))


@pytest.mark.slow
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_leaves_are_drawn_in_words(lang):
    say, made = Phrases(lang), dossier(0.6)
    drawn = tree_figure(made, say)
    leaves = [one for one in made.measurements if one.metric == "leaf_error_rate"]
    assert drawn.title == say.metric("leaf_error_rate")
    assert leaves[0].slice in drawn.description
    assert "<b>" not in str(drawn.svg)


def test_no_tree_is_no_figure():
    assert tree_figure(dossier(0.1), Phrases("en")) is None
