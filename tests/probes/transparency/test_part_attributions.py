"""Parts of units, where the truth is planted: one corner of pictures, one word of long texts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from assay import CallableModel, engine
from assay.observe import Workspace
from assay.tasks import Argmax, task_of
from assay.values import Array, Data, System, texts
from support import small_images, small_texts


def audited(data: Data, score: object, **settings: int) -> dict[tuple[str, str], object]:
    model = CallableModel(score, name="planted", outputs_are="probabilities")
    system = System("planted", model, data, task_of(data), Argmax())
    workspace = Workspace(key=b"parts", num_draws=200)
    found = engine.audit(system, probes=["part_attributions"], workspace=workspace).measurements
    return {(one.metric, one.slice): one for one in found}


def both(positive: Array) -> Array:
    return np.stack([1 - positive, positive], axis=1).astype(np.float32)


def test_the_quarter_of_a_patch_that_decides_is_found() -> None:
    data = small_images(240, num_classes=2)
    side = data.columns[0].shape[1] // 8  # a part: half the side of one of 4 x 4 patches

    def corner(inputs: Array) -> Array:
        return both(np.asarray(inputs, dtype=np.float64)[:, 0, :side, :side].mean(axis=(1, 2)) / 255)

    found = audited(data, corner)
    sizes = {where: one.value for (metric, where), one in found.items() if metric == "part_attribution"}
    assert max(sizes, key=sizes.get) == "patch=1,1 & part=1,1"
    assert sorted(sizes.values())[-2] < 0.1 * max(sizes.values())
    assert found["part_concentration", ""].value > 0.75


def test_the_word_of_a_run_that_decides_is_named_and_its_neighbours_are_not() -> None:
    data = small_texts(400)
    rng = np.random.default_rng(0)
    filler = ["warm", "plain", "quiet", "early", "round", "small", "long", "light"]

    def lengthened(split: object) -> object:
        told = []
        for place in range(len(split)):
            own = rng.choice(filler, 40).tolist()
            own[int(rng.integers(40))] = "superb" if place % 2 else "awful"
            told.append(" ".join(own))
        return replace(split, inputs=texts(told))

    data = replace(data, splits={name: lengthened(split) for name, split in data.splits.items()})

    def superb(inputs: Array) -> Array:
        return both(np.array([0.1 + 0.8 * ("superb" in text.split()) for text in inputs.tolist()]))

    found = audited(data, superb)
    sizes = {where: one.value for (metric, where), one in found.items() if metric == "part_attribution"}
    assert max(sizes, key=sizes.get) == "word=superb"
    assert sizes["word=superb"] == pytest.approx(0.8, abs=0.05)
    assert max(value for where, value in sizes.items() if where != "word=superb") < 0.05
    assert found["part_concentration", ""].value > 0.9


def test_a_model_that_looks_everywhere_alike_is_not_concentrated() -> None:
    data = small_images(240, num_classes=2)

    def mean(inputs: Array) -> Array:
        return both(np.asarray(inputs, dtype=np.float64).mean(axis=(1, 2, 3)) / 255)

    assert audited(data, mean)["part_concentration", ""].value < 0.6


def test_one_answer_for_everything_has_no_parts_to_tell_apart() -> None:
    found = audited(small_images(240, num_classes=2), lambda inputs: both(np.full(len(inputs), 0.5)))
    assert found["part_concentration", ""].value is None
    assert found["part_concentration", ""].reason == "no unit that moves an answer has more than one part"
