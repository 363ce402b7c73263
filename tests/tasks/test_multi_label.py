"""Several labels a row: the task, reading, training, storing, and the whole way on the command line."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from assay.data import from_arrays, from_frame, read_table
from assay.data._card import card
from assay.data.declare import Declaration
from assay.data.quality.check import check_data
from assay.errors import DataError, ModelError, UsageError
from assay.models import Architecture
from assay.models.store import load_system, save_system
from assay.tasks import LabelThresholds, MultiLabel, decision_of, task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.train.objectives import TaskLoss, check_split, row_weights
from cli_kit import runner
from support import several, small_images, small_texts

TASK = MultiLabel(("a", "b", "c"))


def test_probabilities_and_losses_are_torchs():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 5, (50, 3)).astype(np.float32), rng.integers(0, 2, (50, 3))
    told = torch.from_numpy(logits)
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        told, torch.from_numpy(labels).float(), reduction="none"
    )
    assert np.allclose(TASK.probabilities(logits), torch.sigmoid(told).numpy(), atol=1e-6)
    assert np.allclose(TASK.losses(labels, logits), each.mean(dim=1).numpy(), atol=1e-5)
    back = TASK.logits(TASK.probabilities(logits), "probabilities")
    assert np.allclose(back, logits, atol=1e-2, rtol=1e-2)
    logits[7, 1] = np.nan
    assert np.isnan(TASK.probabilities(logits)[7]).all()
    assert np.isnan(TASK.losses(labels, logits)).nonzero()[0].tolist() == [7]
    answers = LabelThresholds((0.5, 0.9, 0.1)).decide(TASK.probabilities(logits), logits, None)
    assert answers[7].tolist() == [-1, -1, -1]
    assert (answers[0] == (torch.sigmoid(told[0]).numpy() > [0.5, 0.9, 0.1])).all()


def test_outputs_that_cannot_be_an_answer_are_refused_all_at_once():
    with pytest.raises(ModelError) as caught:
        TASK.logits(np.zeros((4, 2)), "values")
    assert [one.what for one in caught.value.problems] == [
        "the model returned shape (4, 2)",
        "the model returns plain values",
    ]
    with pytest.raises(ModelError, match=r"run from 0 to 2"):
        TASK.logits(np.full((4, 3), 2.0), "probabilities")
    with pytest.raises(ModelError, match="2 thresholds for 3 labels"):
        LabelThresholds((0.5, 0.5)).decide(np.zeros((1, 3)), np.zeros((1, 1)), None)
    with pytest.raises(ModelError, match="0 to 1"):
        LabelThresholds((0.5, 1.5))


def frame(num: int = 400) -> pl.DataFrame:
    rng = np.random.default_rng(3)
    age, sex = rng.integers(18, 80, num), rng.choice(["f", "m"], num)
    rare = rng.random(num) < 0.03
    old = rng.random(num) < 1 / (1 + np.exp(-(age - 50) / 8))
    return pl.DataFrame({"age": age, "sex": sex, "old": old, "rare": rare.astype(int), "x": rng.normal(size=num)})


def test_label_columns_are_read_kept_apart_and_split_by_the_rarest():
    data = from_frame(frame(), Declaration(["old", "rare"], groups=["sex"]))
    assert data.label_names == ("old", "rare")
    assert data.label == "old, rare"
    assert [column.name for column in data.columns] == ["age", "sex", "x"]
    assert data.classes == ()
    assert task_of(data) == MultiLabel(("old", "rare"))
    total = sum(split.labels[:, 1].sum() for split in data.splits.values())
    assert [int(split.labels[:, 1].sum()) for split in data.splits.values()] == [
        round(0.72 * total), total - round(0.72 * total) - round(0.2 * total), round(0.2 * total)
    ]  # fmt: skip
    test = data.splits["test"]
    assert test.take(np.array([3, 1])).labels.tolist() == test.labels[[3, 1]].tolist()
    other = replace(test, labels=1 - test.labels)
    assert other.digest != test.digest
    assert replace(data, label_names=("rare", "old")).digest != data.digest
    told = card(data)
    assert "any number of 2 labels" in told
    assert check_data(data).of("label leak")


def test_files_and_arrays_give_the_same_rows(tmp_path):
    table, names = frame(), ["old", "rare"]
    table.with_columns(pl.col("old").cast(pl.Int64)).write_csv(tmp_path / "rows.csv")
    table.write_parquet(tmp_path / "rows.parquet")
    csv, parquet = (read_table(tmp_path / f"rows.{kind}", label=names, groups=["sex"]) for kind in ("csv", "parquet"))
    assert csv.splits["test"].digest == parquet.splits["test"].digest
    arrays = from_arrays({"age": table["age"].to_numpy()}, table.select(pl.col("old", "rare").cast(int)).to_numpy())
    assert arrays.label_names == ("label_1", "label_2")
    assert (arrays.splits["train"].labels == csv.splits["train"].labels).all()


def test_everything_wrong_with_labels_is_said_at_once():
    table = frame().with_columns(twice=pl.lit(2), never=pl.lit(0), age=pl.col("old").cast(pl.Int64) * 3)
    with pytest.raises(DataError) as caught:
        from_frame(table, Declaration(["old", "twice", "never"]))
    told = str(caught.value)
    assert "label 'twice' is neither 0 nor 1" in told
    assert "label 'never' is 0 in every training row" in told
    assert "feature 'age' says the label exactly" in told
    with pytest.raises(DataError, match="list of 1"):
        Declaration(["old"])
    with pytest.raises(DataError, match="more than once"):
        Declaration(["old", "old"])
    with pytest.raises(DataError, match="for several labels"):
        Declaration(["old", "rare"], task="classification")
    with pytest.raises(DataError, match="no label column 'lost'"):
        from_frame(frame(), Declaration(["old", "lost"]))


ARCHITECTURES = {
    "mlp": ({"hidden": [16]}, lambda: from_frame(frame(), Declaration(["old", "rare"], groups=["sex"]))),
    "cnn_lenet": ({"widths": [2, 3], "hidden": [8]}, lambda: several(small_images(200))),
    "gru": ({"dim": 8, "num_hidden": 8, "vocab_size": 40}, lambda: several(small_texts(200))),
    "lstm": ({"dim": 8, "num_hidden": 8, "vocab_size": 40}, lambda: several(small_texts(200))),
    "rnn": ({"dim": 8, "num_hidden": 8, "vocab_size": 40}, lambda: several(small_texts(200))),
    "transformer": ({"dim": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 40}, lambda: several(small_texts(200))),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_learns_in_the_one_loop_and_is_stored(name, tmp_path):
    params, make = ARCHITECTURES[name]
    data = make()
    settings = TrainSettings(epochs=6, batch_size=32)
    system = train_system(data, recipe=TrainRecipe(Architecture(name, params), task_of(data), settings), seed=1)
    curve = system.facts["curve"]
    assert curve[-1]["train_loss"] < curve[0]["train_loss"]
    assert system.facts["curve_metric"] == "share of labels right"
    assert system.decision == decision_of(system.task) == LabelThresholds()
    test = data.splits["test"]
    answers = system.decision.decide(system.task.probabilities(system.model.outputs(test.inputs)), test.inputs, None)
    assert 0 <= curve[-1]["validation_metric"] <= 1
    assert answers.shape == test.labels.shape
    loaded = load_system(save_system(system, tmp_path / "system"), data)
    assert loaded.digest == system.digest
    assert np.array_equal(loaded.model.outputs(test.inputs), system.model.outputs(test.inputs))


def test_training_refuses_what_it_cannot_minimise():
    data = several(small_texts(60))
    split, task = data.splits["train"], task_of(data)
    with pytest.raises(ModelError, match="0 or 1"):
        check_split(replace(split, labels=split.labels * 2), task)
    with pytest.raises(UsageError, match="multi_label task has no classes"):
        row_weights(split, task, "balanced")
    smooth = TaskLoss(split, task, label_smoothing=0.2)
    wanted = torch.from_numpy(split.labels[:2]).float() * 0.8 + 0.1
    logits, rows = torch.randn(2, 3), torch.arange(2)
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    assert torch.allclose(smooth(logits, rows), each.mean(dim=1))
    assert torch.allclose(smooth.mean(logits, rows), each.mean())


@pytest.mark.slow
def test_from_a_file_to_evidence_on_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    frame(300).with_columns(pl.col("old").cast(pl.Int64)).write_csv("rows.csv")
    run = runner(capsys)
    assert run("train", "rows.csv", "--label", "old,rare", "--groups", "sex", "--out", "made").code == 0
    asked = "multi_label_accuracy,precision_recall_f1,multi_label_gaps"
    ran = run("audit", "made", "--probes", asked, "--out", "dossier", "--json")
    assert json.loads(ran.out)["verdict"] == "inconclusive"  # the default policy asks for what was not measured
    about = json.loads((tmp_path / "dossier/open/dossier.json").read_text())
    assert about["data"]["label_names"] == about["system"]["task"]["label_names"] == ["old", "rare"]
    assert {one["metric"] for one in about["measurements"]} >= {"subset_accuracy", "hamming_loss", "micro_f1"}
    assert run("verify", "dossier").code == 0
    assert run("report", "dossier", "--out", "page.html").code == 0
    page = (tmp_path / "page.html").read_text()
    assert "wrong labels" in page
    assert run("data", "check", "rows.csv", "--label", "old,rare").code in (0, 1)
