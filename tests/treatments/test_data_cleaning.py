"""Cleaning treatments: what goes, what stays, that it is written down, and that nothing is fitted on test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from assay import engine, registry
from assay.errors import TreatmentError
from assay.models import Architecture
from assay.observe import Workspace
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.treatments._counts import FEW, MEDIAN, NOT_TOLD
from assay.treatments.data.drop_duplicates import drop_duplicates
from assay.treatments.data.drop_suspected_labels import drop_suspected_labels, keep_floor
from assay.treatments.data.fill_missing import fill_missing
from assay.treatments.data.redact_personal_data import redact_personal_data
from assay.values import Column, Data, Groups, Split, texts
from support import remembering, small_images, small_texts

registry.load()


def with_split(data, name, **values):
    return replace(data, splits={**data.splits, name: replace(data.splits[name], **values)})


def copied(data):
    """Train rows 1 and 2 repeat row 0, row 3 conflicts with it; rows 5 and 6 are also test rows 0 and 1."""
    train, test = data.splits["train"], data.splits["test"]
    inputs, labels = train.inputs.copy(), train.labels.copy()
    inputs[1:4] = inputs[0]
    labels[:4] = [1, 1, 1, 0]
    known = test.inputs.copy()
    known[:2] = inputs[5:7]
    return with_split(with_split(data, "train", inputs=inputs, labels=labels), "test", inputs=known)


@pytest.mark.parametrize("kind", ["table", "image", "text"])
def test_copies_go_and_the_rest_stays(kind, small_data):
    data = {"table": small_data, "image": small_images(120), "text": distinct_texts()}[kind]
    data = copied(data)
    train = data.splits["train"]
    system = remembering(data)
    treated = drop_duplicates(system)
    (seen,) = system.recipe.seen
    assert set(train.rows) - set(seen.rows) == set(train.rows[[1, 2, 5, 6]])
    assert treated.data.splits["test"] is data.splits["test"]
    outcome = treated.lineage[-1].outcome
    assert (outcome["num_repeated"], outcome["num_held_out"], outcome["num_dropped"]) == (2, 2, 4)
    assert {one["dropped"] for one in outcome["dropped_by_group"].values()} <= {FEW, NOT_TOLD}
    kept = drop_duplicates(system, held_out=False).data.splits["train"]
    assert len(kept) == len(train) - 2


def distinct_texts():
    data = small_texts(120)
    numbered = {
        name: replace(
            split,
            inputs=texts(f"{text} row {row}" for text, row in zip(split.inputs.tolist(), split.rows, strict=True)),
        )
        for name, split in data.splits.items()
    }
    return replace(data, splits=numbered)


def test_near_copies_go_when_asked(small_data):
    train = small_data.splits["train"]
    known = small_data.splits["test"].inputs.copy()
    known[:3] = train.inputs[7:10] + np.array([0.01, 0.01, 0, 0], dtype=np.float32)
    system = remembering(with_split(small_data, "test", inputs=known))
    assert drop_duplicates(system).lineage[-1].outcome["num_dropped"] == 0
    treated = drop_duplicates(system, near=True)
    assert set(train.rows) - set(treated.data.splits["train"].rows) == set(train.rows[7:10])


def test_the_last_row_of_a_class_is_not_dropped(small_data):
    train = small_data.splits["train"]
    labels = np.zeros_like(train.labels)
    labels[0] = 1
    data = with_split(small_data, "train", labels=labels)
    known = data.splits["test"].inputs.copy()
    known[0] = train.inputs[0]
    system = remembering(with_split(data, "test", inputs=known))
    with pytest.raises(TreatmentError, match="no training row of yes"):
        drop_duplicates(system)
    assert system.recipe.seen == []


def noisy(num=900, rate=0.15, seed=0):
    """Separable classes; wrong labels only in group m."""
    rng = np.random.default_rng(seed)
    truth, sex = rng.integers(0, 2, num), rng.integers(0, 2, num)
    inputs = (rng.normal(size=(num, 4)) + 2.5 * (2 * truth[:, None] - 1)).astype(np.float32)
    wrong = (rng.random(num) < rate) & (sex == 1)
    labels = np.where(wrong, 1 - truth, truth)
    group = (Column("sex", "categorical", ("f", "m")),)
    groups = sex[:, None].astype(np.int16)
    parts = {"train": slice(0, 600), "validation": slice(600, 700), "test": slice(700, num)}
    splits = {
        name: Split(
            inputs[part],
            (truth if name == "test" else labels)[part],
            Groups(groups[part], group),
            np.arange(num)[part] + 1,
        )
        for name, part in parts.items()
    }
    columns = tuple(Column(f"x{i}", "numeric") for i in range(4))
    return Data("noisy", columns, "label", group, splits, ("no", "yes"), "yes"), wrong[:600]


def test_wrong_labels_go_and_groups_are_counted():
    data, wrong = noisy()
    treated = drop_suspected_labels(remembering(data), floor=0.5)
    kept = treated.data.splits["train"].rows - 1
    assert wrong[kept].mean() < 0.1 * wrong.mean()
    assert (~wrong).sum() - (~wrong[kept]).sum() <= 6
    by_group = treated.lineage[-1].outcome["dropped_by_group"]
    assert by_group["sex=f"]["dropped"] == FEW
    assert by_group["sex=m"]["dropped"] >= 0.8 * wrong.sum()


def test_the_floor_holds_in_every_cell_and_keeps_the_least_doubtful():
    data, _ = noisy(rate=0.3)
    train = data.splits["train"]
    treated = drop_suspected_labels(remembering(data), floor=0.9)
    kept = treated.data.splits["train"]
    for sex in (0, 1):
        for label in (0, 1):
            before = ((train.groups.codes[:, 0] == sex) & (train.labels == label)).sum()
            after = ((kept.groups.codes[:, 0] == sex) & (kept.labels == label)).sum()
            assert after >= 0.9 * before
    assert treated.lineage[-1].outcome["num_kept_by_floor"] > 0
    cells = np.array([0] * 10 + [1] * 5)
    marked = np.ones(15, dtype=bool)
    drop = keep_floor(marked, np.arange(15.0), cells=cells, floor=0.7)
    assert np.flatnonzero(drop).tolist() == [7, 8, 9, 14]
    assert not keep_floor(marked, np.arange(15.0), cells=cells, floor=1.0).any()


def test_suspects_do_not_depend_on_test_rows():
    data, _ = noisy()
    other = with_split(data, "test", inputs=data.splits["test"].inputs * 0 - 3)
    first, second = (drop_suspected_labels(remembering(one)).data.splits["train"].digest for one in (data, other))
    assert first == second


def test_cleaning_wrong_labels_helps_a_trained_system():
    """A memory of wrong labels costs accuracy on right ones; without them it is regained."""
    data, _ = noisy(rate=0.7)
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [16]}), task_of(data), TrainSettings(epochs=12, batch_size=64))
    system = train_system(data, recipe=recipe)
    treated = drop_suspected_labels(system, floor=0.2)
    test = data.splits["test"]
    before, after = ((one.model.outputs(test.inputs).argmax(axis=1) == test.labels).mean() for one in (system, treated))
    assert after >= before
    assert treated.facts["num_train"] == len(treated.data.splits["train"]) < 600


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "most_right_lost"), [("image", 0.02), ("text", 0.1)])
def test_wrong_labels_of_pictures_and_texts_go_too(kind, most_right_lost):
    """Measured: of 129 wrong labels in 900 rows 35 and 41 stay; of 771 right ones 1 picture and 54 texts go.

    One text in ten speaks against its label before anything is planted, and those are dropped as well.
    """
    data = small_images(1500, num_classes=2) if kind == "image" else small_texts(1500)
    train = data.splits["train"]
    wrong = np.random.default_rng(0).random(len(train)) < 0.3 * (train.groups.codes[:, 0] == 1)
    data = with_split(data, "train", labels=np.where(wrong, 1 - train.labels, train.labels))
    treated = drop_suspected_labels(remembering(data), floor=0.5)
    kept = treated.data.splits["train"].rows - 1
    assert wrong[kept].mean() < 0.45 * wrong.mean()
    assert (~wrong[kept]).sum() > (1 - most_right_lost) * (~wrong).sum()
    gone = ~np.isin(data.splits["train"].rows, treated.data.splits["train"].rows)
    one, other = np.bincount(data.splits["train"].groups.codes[gone, 0])
    assert other > 2 * one  # they go from the group that has them


def test_missing_cells_are_filled_from_train_alone(small_data):
    splits = {}
    for name, split in small_data.splits.items():
        inputs = split.inputs.copy()
        inputs[:10, 0], inputs[5:20, 2] = np.nan, -1
        splits[name] = replace(split, inputs=inputs)
    data = replace(small_data, splits=splits)
    treated = fill_missing(remembering(data))
    train = splits["train"].inputs
    median = np.float32(np.median(train[10:, 0]))
    common = np.bincount(train[train[:, 2] >= 0, 2].astype(int)).argmax()
    for split in treated.data.splits.values():
        assert (split.inputs[:10, 0] == median).all()
        assert (split.inputs[5:20, 2] == common).all()
        assert not np.isnan(split.inputs).any()
    outcome = treated.lineage[-1].outcome
    assert outcome["filled"]["test"] == {"age": 10, "job": 20}, "to the nearest ten"
    assert outcome["values"] == {"age": MEDIAN, "job": ("a", "b", "c")[common]}
    assert np.isnan(data.splits["train"].inputs).any()  # the old system is as it was
    train = replace(splits["train"], inputs=np.full_like(train, np.nan))
    with pytest.raises(TreatmentError, match="age"):
        fill_missing(remembering(replace(data, splits={**splits, "train": train})))


def test_personal_data_is_redacted_in_every_split_and_never_recorded():
    data = small_texts(90)
    for name in data.splits:
        told = data.splits[name].inputs.tolist()
        told[0] = f"{told[0]} ann@example.org 4111 1111 1111 1111"
        data = with_split(data, name, inputs=texts(told))
    treated = redact_personal_data(remembering(data))
    for name, split in treated.data.splits.items():
        assert split.inputs[0].endswith("<EMAIL> <CARD>")
        assert split.inputs.tolist()[1:] == data.splits[name].inputs.tolist()[1:]
    step = treated.lineage[-1]
    assert step.outcome == {"redacted": {name: {"card": FEW, "email": FEW} for name in data.splits}}
    clean = redact_personal_data(treated)
    assert clean.data.digest == treated.data.digest  # nothing left to redact


def holed(data):
    """Cells are missing where the system is asked, and never were where it learned."""
    rng = np.random.default_rng(0)
    for name in ("validation", "test"):
        inputs = data.splits[name].inputs.copy()
        inputs[:, :2][rng.random((len(inputs), 2)) < 0.1] = np.nan
        data = with_split(data, name, inputs=inputs)
    return data


def with_addresses():
    data = small_texts(300)
    for name, split in data.splits.items():
        told = [f"{text} ann{i}@example.org" if i % 3 == 0 else text for i, text in enumerate(split.inputs.tolist())]
        data = with_split(data, name, inputs=texts(told))
    return data


@pytest.mark.slow
def test_each_moves_what_it_declares_where_there_is_something_to_mend(small_data):
    mlp, gru = (
        Architecture("mlp", {"hidden": [128]}),
        Architecture("gru", {"dim": 8, "num_hidden": 8, "vocab_size": 60}),
    )
    for treatment, data, architecture, probe in (
        (drop_suspected_labels, noisy(rate=0.7)[0], mlp, "accuracy"),
        (fill_missing, holed(small_data), mlp, "accuracy"),
        (redact_personal_data, with_addresses(), gru, "personal_data"),
    ):
        declared = registry.TREATMENTS[treatment.__name__].moves
        direction, metric = declared[0].split(":")
        settings = TrainSettings(epochs=12, batch_size=64)
        if treatment is drop_suspected_labels:  # long enough to learn the wrong labels by heart
            settings = TrainSettings(epochs=60, batch_size=32, learning_rate=1e-2)
        before = train_system(data, recipe=TrainRecipe(architecture, task_of(data), settings))
        options = {"floor": 0.2} if treatment is drop_suspected_labels else {}
        workspace = Workspace(key=b"owner", num_draws=50)
        audits = [
            engine.audit(one, probes=[probe], workspace=workspace) for one in (before, treatment(before, **options))
        ]
        first, second = (audit.find(metric) for audit in audits)
        clear = (second.high < first.low) if direction == "lower" else (second.low > first.high)
        assert len(declared) == 1
        assert clear, (treatment.__name__, first, second)


def test_what_does_not_fit_is_said(small_data):
    for treatment, data, word in (
        (redact_personal_data, small_data, "tables"),
        (redact_personal_data, small_images(60), "images"),
        (fill_missing, small_texts(60), "texts"),
        (fill_missing, small_images(60), "images"),
    ):
        system = remembering(data)
        with pytest.raises(TreatmentError, match=f"its inputs are {word}"):
            treatment(system)
        assert system.recipe.seen == []
    with pytest.raises(TreatmentError, match="floor is 2"):
        drop_suspected_labels(remembering(small_data), floor=2)
