"""Copies of texts of another person: what is added, that word and label part, and that answers stop following words."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from assay import engine, registry
from assay.errors import TreatmentError
from assay.models import Architecture
from assay.observe import Workspace
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.treatments._counts import FEW
from assay.treatments.data.swap_identity_terms import swap_identity_terms
from assay.units.people import AXES, terms
from assay.values import Column, Groups, texts
from support import remembering, small_texts

registry.load()
SEX = Column("named", "categorical", ("female", "male"))


def planted(num=400, *, language="en", share=0.9, seed=0):
    """Reviews in which the person who speaks gives the label away, `share` of the time; the group is who is named."""
    data, rng, splits = small_texts(num, language=language, seed=seed), np.random.default_rng(seed), {}
    people, gap = ((("she", "woman", "sister"), ("he", "man", "brother")), " ") if language == "en" else (
        (("她", "女人", "姐姐"), ("他", "男人", "哥哥")), "",
    )  # fmt: skip
    for name, split in data.splits.items():
        is_man = np.where(rng.random(len(split)) < (share if name != "test" else 0.5), split.labels, 1 - split.labels)
        told = [
            people[int(man)][rng.integers(3)] + gap + text
            for man, text in zip(is_man, split.inputs.tolist(), strict=True)
        ]
        splits[name] = replace(split, inputs=texts(told), groups=Groups(is_man[:, None].astype(np.int16), (SEX,)))
    return replace(data, splits=splits, group_columns=(SEX,))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_word_and_its_counterpart_have_the_same_labels(language):
    data = planted(language=language)
    train, system = data.splits["train"], remembering(data)
    treated = swap_identity_terms(system, groups_of_the_named=["named"])
    (seen,) = system.recipe.seen
    for word in ("she", "woman", "sister") if language == "en" else ("她", "女人", "姐姐"):
        counts = []
        for one in (word, terms(language, "gender")[word]):
            pattern = rf"\b{one}\b" if language == "en" else one
            has = np.array([bool(re.search(pattern, text)) for text in seen.inputs.tolist()])
            counts.append(np.bincount(seen.labels[has], minlength=2).tolist())
        assert counts[0] == counts[1]  # by brute force; before, nine in ten were of one label
    outcome = treated.lineage[-1].outcome
    assert outcome["num_added"] == len(train) == outcome["added"]["gender"]["groups_swapped"]
    assert outcome["added"]["gender"]["copies"] == pytest.approx(len(train), abs=5)  # to the nearest ten
    added = seen.take(np.arange(len(train), len(seen)))
    assert np.array_equal(added.labels, train.labels)
    assert np.array_equal(added.rows, train.rows)
    assert np.array_equal(added.groups.codes, 1 - train.groups.codes)
    assert seen.inputs.tolist()[: len(train)] == train.inputs.tolist()
    assert treated.data.splits["test"] is data.splits["test"]
    assert outcome["added"]["gender"]["label good"] == pytest.approx((train.labels == 1).sum(), abs=5)


def test_groups_stay_unless_they_say_who_is_named_and_texts_without_a_word_are_not_copied():
    data = planted()
    train = data.splits["train"]
    told = train.inputs.tolist()
    told[:100] = ["so dull"] * 100
    told[100] = "She and a Muslim met Jamal"
    weights = np.linspace(0.5, 1.5, len(train)).astype(np.float32)
    data = replace(data, splits={**data.splits, "train": replace(train, inputs=texts(told), weights=weights)})
    system = remembering(data)
    outcome = swap_identity_terms(system).lineage[-1].outcome
    (seen,) = system.recipe.seen
    num = len(train) - 100
    assert outcome["num_added"] == num + 2
    few = {axis: one["copies"] for axis, one in outcome["added"].items()}
    assert few == {"gender": num // 10 * 10, "origin": FEW, "belief": FEW}, "one text that names a belief is not told"
    extra = seen.inputs.tolist()[len(train) :]
    assert extra[0] == "He and a Muslim met Jamal"
    assert extra[num:] == ["She and a Muslim met Greg", "She and a Christian met Jamal"]
    assert np.array_equal(seen.weights[len(train) : len(train) + num], weights[100:])
    assert np.array_equal(seen.groups.codes[len(train) : len(train) + num], train.groups.codes[100:])
    system = remembering(data)
    swap_identity_terms(system, axes=["belief"])
    assert len(system.recipe.seen[0]) == len(train) + 1


def test_what_does_not_fit_is_said(small_data):
    for data, options, words in (
        (small_data, {}, "its inputs are tables"),
        (planted(60), {"axes": ["height"]}, "gender, origin, belief"),
        (planted(60), {"axes": []}, "gender, origin, belief"),
        (planted(60), {"groups_of_the_named": ["age"]}, "named"),
        (small_texts(60), {}, "none of its training texts has a word"),
        (replace(planted(60), columns=(Column("text", "text", language="fr"),)), {}, "its texts are in fr"),
    ):
        system = remembering(data)
        with pytest.raises(TreatmentError, match=words):
            swap_identity_terms(system, **options)
        assert system.recipe.seen == []
    assert AXES == ("gender", "origin", "belief")


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "zh"])
def test_answers_stop_following_the_person_who_is_named(language):
    data = planted(1500, language=language)
    settings = TrainSettings(epochs=6, batch_size=32, learning_rate=5e-3)
    recipe = TrainRecipe(
        Architecture("ngrams", {"dim": 8, "vocab_size": 200, "num_grams": 200}), task_of(data), settings
    )
    system = train_system(data, recipe=recipe)
    treated = swap_identity_terms(system)
    found = []
    for one in (system, treated):
        audit = engine.audit(one, probes=["identity_swap", "accuracy"], workspace=Workspace(key=b"owner", num_draws=50))
        found.append({(m.metric, m.slice): m for m in audit.measurements})
    place = "swap=gender & source=texts"
    for metric in ("swap_flip_rate", "swap_mean_change"):
        before, after = (one[metric, place] for one in found)
        assert after.high < before.low, (metric, before, after)
    assert found[1]["accuracy", ""].value > found[0]["accuracy", ""].value  # in test the person says nothing
