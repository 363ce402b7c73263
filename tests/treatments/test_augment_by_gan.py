"""Filling scarce cells with generated rows: which cells, how many, whose rows they are, and that it is all said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from assay import engine, registry
from assay.access.references import reference_models
from assay.errors import TreatmentError
from assay.models import Architecture, gan
from assay.models.store import load_system, save_system
from assay.observe import Ledger, Workspace
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, generated, train_system
from assay.train.generated import AugmentRecipe, Cells, settled
from assay.train.traces import FACT
from assay.treatments.data.augment_by_gan import augment_by_gan
from assay.treatments.train.dp_sgd import dp_sgd
from assay.values import Column, Data, Groups, Split
from support import COLUMNS, GROUP_COLUMNS, make_split, small_images

registry.load()
SMALL = {"widths": [2, 3], "hidden": [8]}
QUICK = {"num_steps": 20, "width": 4}


def scarce_data(num=60, rows=700):
    """Women with label "yes" are cut to `num` training rows, about a third of the other cells."""
    train = make_split(rows, 1, 1)
    rare = np.flatnonzero((train.labels == 1) & (train.groups.codes[:, 0] == 0))[num:]
    train = train.take(np.setdiff1d(np.arange(rows), rare))
    splits = {"train": train, "validation": make_split(300, 2, rows + 1), "test": make_split(600, 3, rows + 301)}
    return Data("small", COLUMNS, "label", GROUP_COLUMNS, splits, ("no", "yes"), "yes")


def recipe_of(data, **settings):
    chosen = {"epochs": 4, "batch_size": 64, **settings}
    return TrainRecipe(Architecture("mlp", {"hidden": [8]}), task_of(data), TrainSettings(**chosen))


@pytest.fixture(scope="module")
def trained():
    data = scarce_data()
    return train_system(data, name="small", recipe=recipe_of(data), seed=3)


@pytest.fixture(scope="module")
def treated(trained):
    return augment_by_gan(trained, **QUICK)


def test_scarce_cells_are_filled_and_data_stay_real(trained, treated):
    train, outcome = trained.data.splits["train"], treated.lineage[-1].outcome
    assert treated.data is trained.data
    cells = Cells.of(train, ["sex"])
    target = int(np.median(cells.counts))
    assert outcome["columns"] == ["sex"]
    assert outcome["cells"]["sex=Female & class=yes"] == {"real": 60, "generated": target - 60}
    assert outcome["num_generated"] == sum(one["generated"] for one in outcome["cells"].values())
    assert treated.facts["num_generated"] == outcome["num_generated"]
    assert outcome["checks"]["num_generated"] == outcome["num_generated"]
    assert outcome["checks"]["num_held_out"] > 50
    made = treated.recipe.generated(train, trained.data, 3)
    counts = Cells.of(train.joined(made), ["sex"]).counts
    np.testing.assert_array_equal(counts, np.maximum(cells.counts, target))
    assert treated.recipe.digest != trained.recipe.digest
    assert treated.model.digest != trained.model.digest


def test_a_generated_row_is_of_its_group_in_every_place_and_of_nobody_in_the_source(trained, treated):
    made = treated.recipe.generated(trained.data.splits["train"], trained.data, 3)
    assert (made.rows < 0).all()
    assert len(set(made.rows.tolist())) == len(made)
    np.testing.assert_array_equal(made.inputs[:, 3], made.groups.codes[:, 0])  # the model's own column of sex
    assert (made.groups.codes[:, 1] == -1).all()  # race is in no input: it is not known
    assert (made.inputs[:, 2] == np.rint(made.inputs[:, 2])).all()


def test_crossed_columns_weights_and_other_groups():
    codes = np.array([[0, 0]] * 30 + [[1, 1]] * 12 + [[-1, 0]] * 4, dtype=np.int16)
    inputs = make_split(46, 1, 1).inputs
    weights = np.linspace(1, 2, 46).astype(np.float32)
    split = Split(inputs, np.zeros(46, dtype=np.int64), Groups(codes, GROUP_COLUMNS), np.arange(1, 47), weights)
    cells = Cells.of(split, ["sex", "race"])
    assert cells.missing(1.0).tolist() == [0, 0, 9]  # a missing category is not filled
    made = cells.rows(split, np.array([2, 2]), inputs[:2].copy(), columns=COLUMNS)
    assert made.groups.codes.tolist() == [[1, 1], [1, 1]]
    assert made.inputs[:, 3].tolist() == [1, 1]
    np.testing.assert_allclose(made.weights, weights[30:42].mean(), rtol=1e-6)
    alone = Cells.of(split, ["race"]).rows(split, np.array([0]), np.array([[20, 3, 1, 1]]), columns=COLUMNS)
    assert alone.groups.codes.tolist() == [[1, 0]]  # sex is told by an input
    even = cells.even(split, 60, 0)
    assert np.bincount(even.labels).tolist() == [4, 20, 20]
    assert np.bincount(even.rows)[1:].max() <= 5


def test_whole_numbers_stay_whole():
    real = np.array([[1, 0.5], [4, np.nan]], dtype=np.float32)
    made = settled(np.array([[2.4, 0.7], [np.nan, 1]], dtype=np.float32), real, (Column("a", "numeric"),) * 2)
    np.testing.assert_array_equal(made, np.array([[2, 0.7], [np.nan, 1]], dtype=np.float32))


def test_it_is_the_same_again_and_from_a_folder(trained, treated, tmp_path):
    generated._MADE.clear()
    again = augment_by_gan(trained, **treated.lineage[-1].parameters)
    assert again.digest == treated.digest
    loaded = load_system(save_system(treated, tmp_path / "system"), treated.data)
    assert loaded.digest == treated.digest
    assert isinstance(loaded.recipe, AugmentRecipe)
    assert loaded.recipe.digest == treated.recipe.digest
    others = ({"ratio": 0.5}, {"num_steps": 5}, {"width": 9}, {"columns": ("race",)}, {"base": recipe_of(treated.data)})
    assert len({replace(treated.recipe, **one).digest for one in others} | {treated.recipe.digest}) == 6


def test_the_noise_of_generated_rows_has_a_stream_that_is_not_that_of_training_the_generator(treated, monkeypatch):
    randn, states = torch.randn, []

    def record(*shape, generator=None):
        states.extend([] if generator is None else [generator.get_state().clone()])  # None: noise of training
        return randn(*shape, generator=generator)

    monkeypatch.setattr(gan.torch, "randn", record)
    monkeypatch.setattr(generated, "_MADE", {})
    treated.recipe.generated(treated.data.splits["train"], treated.data, treated.seed)
    assert len(states) == 1
    assert not states[0].equal(torch.Generator().manual_seed(treated.seed).get_state())


def test_reference_models_learn_from_a_gan_of_their_own_half(treated):
    workspace = Workspace(key=b"owner", num_draws=20, num_references=2)
    half = len(treated.data.splits["train"]) // 2
    for one in reference_models(treated, workspace, Ledger(budget=10**6)):
        assert len(one.members) == len(treated.data.splits["train"])  # real rows alone can be members
        assert 0 < one.system.facts["num_generated"] < half
    few = treated.data.splits["train"].take(np.arange(30))
    assert len(treated.recipe.generated(few, treated.data, 0)) < 30  # cells of fewer than ten rows are left alone


def test_losses_that_are_kept_are_those_of_real_rows(treated):
    traced = replace(treated.recipe, base=replace(treated.recipe.base, is_traced=True))
    train = treated.data.splits["train"]
    assert traced.fit(train, treated.data, 3).facts[FACT].shape[1] == len(train)


def test_the_probe_finds_the_rows_again_and_measures_them(trained, treated, tmp_path):
    def told(system):
        generated._MADE.clear()
        workspace = Workspace(folder=tmp_path, key=b"owner", num_draws=50)
        return engine.audit(system, probes=["synthetic_rows"], workspace=workspace)

    assert [(one.metric, one.value) for one in told(trained).measurements] == [("generated_rows", 0.0)]
    found = told(treated)
    num = treated.lineage[-1].outcome["num_generated"]
    assert found.find("generated_rows").value == num
    assert found.find("generated_fidelity_gap").low > 0  # twenty steps make no good generator
    assert found.find("generated_difference_p_value").value < 0.01
    for one in found.measurements:
        assert one.low <= one.value <= one.high
        assert one.attempted == num
    again = told(treated)
    assert generated._MADE == {}  # known from the workspace: nothing is trained again
    assert [one.digest for one in again.measurements] == [one.digest for one in found.measurements]


def test_pictures_without_groups_are_filled_by_class():
    data = small_images(500, size=8, num_classes=2)
    train = data.splits["train"]
    rare = np.flatnonzero(train.labels == 1)[60:]
    bare = {
        name: replace(one, groups=Groups(np.zeros((len(one), 0), dtype=np.int16), ()))
        for name, one in {**data.splits, "train": train.take(np.setdiff1d(np.arange(len(train)), rare))}.items()
    }
    data = replace(data, splits={name: bare[name] for name in ("train", "test")}, group_columns=())
    recipe = TrainRecipe(Architecture("cnn_lenet", SMALL), task_of(data), TrainSettings(epochs=1))
    treated = augment_by_gan(train_system(data, recipe=recipe), **QUICK)
    outcome = treated.lineage[-1].outcome
    assert outcome["cells"]["class=bar 1"]["real"] == 60
    assert outcome["checks"] == {"reason": "there are no validation rows to compare with"}
    made = treated.recipe.generated(data.splits["train"], data, 0)
    assert made.inputs.shape[1:] == (1, 8, 8)
    assert made.inputs.dtype == np.uint8


def test_what_does_not_fit_is_refused_with_numbers(trained):
    with pytest.raises(TreatmentError, match=r"sex=Female & race=z & class=no has \d+") as caught:
        augment_by_gan(trained, columns=["sex", "race"])
    assert "50 or more training rows" in caught.value.problems[0].allowed
    with pytest.raises(TreatmentError, match=r"no cell has fewer than 0\.01 of the median"):
        augment_by_gan(trained, ratio=0.01)
    with pytest.raises(TreatmentError, match=r"(?s)ratio is 0.*num_steps is 0, width 2.*group columns \['age'\]"):
        augment_by_gan(trained, ratio=0, num_steps=0, width=2, columns=["age"])
    with pytest.raises(TreatmentError, match="10 x 10"):
        augment_by_gan(replace(trained, data=small_images(60, size=10)))


def test_private_training_and_generated_rows_do_not_go_together(trained, treated):
    """The GAN sees every row without noise: an epsilon of the training after it would be false."""
    with pytest.raises(TreatmentError, match="AugmentRecipe"):
        dp_sgd(treated)
    private = dp_sgd(trained, training={"epochs": 1})
    with pytest.raises(TreatmentError, match="its recipe is a"):
        augment_by_gan(private, **QUICK)


@pytest.mark.slow
def test_more_of_a_scarce_class_is_found():
    data = scarce_data()
    before = train_system(data, recipe=recipe_of(data, epochs=20), seed=0)
    after = augment_by_gan(before, num_steps=500)
    rates = [engine.audit(one, probes=["group_error_rates"]) for one in (before, after)]
    where = "sex=Female"
    first, second = (one.find("true_positive_rate", where).value for one in rates)
    assert second > first + 0.05
