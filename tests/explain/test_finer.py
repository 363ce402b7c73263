"""The second level of explanations: words inside runs and parts inside patches, where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from assay.errors import UsageError
from assay.explain import masked_passes, shapley
from assay.explain.finer import finer
from assay.units import Columns, Ground, Patches, Words
from assay.values import Array, texts

LONG = " ".join(f"w{place}" for place in range(48))  # three words a run


def has(text: str, *names: str) -> float:
    return float(set(names) <= set(text.split()))


def score(inputs: Array) -> Array:
    """w4 adds 2; w3 and w5, of the same run, add 1 together; w4 and w40, of two runs, add 0.5 together."""
    return np.array([[2 * has(t, "w4") + has(t, "w3", "w5") + 0.5 * has(t, "w4", "w40")] for t in inputs.tolist()])


def test_words_of_a_run_have_their_owen_values() -> None:
    inputs, ground, target = texts([LONG]), Ground(texts([""]), Words()), np.array([0])
    masked = masked_passes(score, inputs, ground, num_coalitions=600, rng=np.random.default_rng(0), target=target)
    values = shapley(masked).values
    (parts,) = finer(score, inputs, values, ground, target=target, rng=np.random.default_rng(1))
    found = {part.name: part.value for part in parts}
    assert found["w4"] == pytest.approx(2.25, abs=1e-6)
    assert found["w3"] == pytest.approx(0.5, abs=1e-6)
    assert found["w5"] == pytest.approx(0.5, abs=1e-6)
    assert found["w40"] == pytest.approx(0.25, abs=1e-6)
    for unit in {part.unit for part in parts}:
        assert sum(part.value for part in parts if part.unit == unit) == pytest.approx(values[0, unit])


def test_the_quarter_of_a_patch_that_is_looked_at_is_found() -> None:
    rng = np.random.default_rng(0)
    inputs, background = rng.uniform(0, 255, (2, 1, 16, 16)), rng.uniform(0, 255, (20, 1, 16, 16))
    units = Patches((1, 16, 16))
    ground, target = Ground(background, units), np.array([0, 0])

    def corner(given: Array) -> Array:
        return given[:, 0, 6:8, 8:10].mean(axis=(1, 2))[:, None] / 255

    masked = masked_passes(corner, inputs, ground, num_coalitions=900, rng=rng, target=target)
    for parts in finer(corner, inputs, shapley(masked).values, ground, target=target, rng=rng):
        largest = max(parts, key=lambda part: abs(part.value))
        assert largest.name == "patch=2,3 part=2,1"
        own = [abs(part.value) for part in parts if part.unit == largest.unit]
        assert sum(own) > 0
    with pytest.raises(UsageError, match="have no parts"):
        finer(
            corner,
            np.ones((1, 2)),
            np.ones((1, 2)),
            Ground(np.ones((1, 2)), Columns(("a", "b"))),
            target=target,
            rng=rng,
        )


def test_chinese_is_taken_apart_by_characters() -> None:
    told = texts(["这部电影真的很好看我们都喜欢它的故事和音乐还有演员们的表演"])
    ground, target = Ground(texts([""]), Words("zh")), np.array([0])

    def likes(inputs: Array) -> Array:
        return np.array([[float("喜" in text)] for text in inputs.tolist()])

    masked = masked_passes(likes, told, ground, num_coalitions=600, rng=np.random.default_rng(0), target=target)
    (parts,) = finer(likes, told, shapley(masked).values, ground, target=target, rng=np.random.default_rng(0))
    assert max(parts, key=lambda part: part.value).name == "喜"
