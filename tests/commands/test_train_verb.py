"""`assay train` on texts and pictures: what is trained is what was asked for, and a run goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assay.commands.sources import open_system
from cli_kit import Run, runner

TEXTS = ("reviews.csv", "--text", "said", "--label", "mood", "--groups", "topic")
TINY = "dim=4,num_hidden=4,vocab_size=40"


@pytest.fixture
def assay(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(files)
    return runner(capsys)


def test_texts_become_a_system_that_opens_again(assay: Run, tmp_path: Path) -> None:
    told = assay("train", *TEXTS, "--model", "lstm", "--set", f"{TINY},epochs=1", "--out", tmp_path / "s", "--json")
    found = json.loads(told.out)
    assert (told.code, told.err) == (0, "")
    system, how = open_system(str(tmp_path / "s"), ("", "", ""))
    assert (system.digest, how["text"]) == (found["digest"], "said")
    assert (system.data.modality, system.data.classes, system.data.group_columns[0].name) == (
        "text",
        ("bad", "good"),
        "topic",
    )
    module = system.model.module  # type: ignore[attr-defined]
    assert found["size"]["num_parameters"] == sum(one.numel() for one in module.parameters())
    assert system.model.architecture.name == "lstm"  # type: ignore[attr-defined]


def test_pictures_become_a_system_that_opens_again(assay: Run, tmp_path: Path) -> None:
    words = ("--set", "width=4,depths=[1],epochs=2,batch_size=16", "--out", tmp_path / "s")
    told = assay("train", "bars.safetensors", *words)
    assert (told.code, told.err) == (0, "")
    assert "model:  cnn_residual (width=4, depths=[1]) for images of bars" in told.out
    assert "2 epochs of batches of 16" in told.out
    system, _ = open_system(str(tmp_path / "s"), ("", "", ""))
    steps = 2 * -(-len(system.data.splits["train"]) // 16)
    assert (system.data.columns[0].shape, system.facts["steps"]) == ((1, 12, 12), steps)
    assert f"{steps} steps" in told.out


def test_a_run_goes_on_from_its_checkpoints_to_the_same_weights(assay: Run, tmp_path: Path) -> None:
    words = ("train", *TEXTS, "--set", f"{TINY},epochs=2", "--checkpoints", tmp_path / "c")
    first, again = (assay(*words, "--out", tmp_path / out) for out in ("a", "b"))
    assert (first.code, again.code) == (0, 0)
    assert "taken up again" not in first.out
    assert "taken up again from its checkpoints" in again.out
    name = "weights.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    told = assay("train", *TEXTS, "--set", f"{TINY},epochs=3", "--checkpoints", tmp_path / "c", "--out", tmp_path / "d")
    assert (told.code, len(told.err.splitlines())) == (2, 1)
    assert "is of another run: it differs in settings" in told.err
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*TEXTS, "--model", "cnnn"), ["'cnnn'", "cnn_lenet, cnn_mirrored, cnn_residual", "lstm, lstm_attention, mlp"]),
        ((*TEXTS, "--model", "cnn_lenet"), ["the columns are text", "one image column", "Leave the model out"]),
        (("bars.safetensors", "--model", "gru"), ["image", "one column of kind text"]),
        ((*TEXTS, "--set", "widht=3"), ["'widht'", "num_hidden, num_layers"]),
        (("bars.safetensors", "--set", "dim=3"), ["'dim'", "depths, grid, norm, width"]),
        ((*TEXTS, "--set", "epochs=0"), ["epochs is 0", "1 or more"]),
        ((*TEXTS, "--set", "epochs=two"), ["epochs is 'two'", "a whole number"]),
        ((*TEXTS, "--set", "nesterov=1"), ["nesterov is 1", "true or false"]),
        ((*TEXTS, "--set", "optimizer=lion"), ["'lion'", "adamw, adam, sgd"]),
        (("bars.safetensors", "--set", "augment=spin"), ["'spin'", "flip, crop:PIXELS"]),
        ((*TEXTS, "--checkpoints", "reviews.csv"), ["--checkpoints reviews.csv is not a folder"]),
        ((*TEXTS, "--distribute", "split"), ["'split'", "replicas, shards"]),
        ((*TEXTS, "--distribute", "replicas"), ["RANK", "torchrun --nproc-per-node 2 ..."]),
        (("reviews.csv", "--text", "sad", "--label", "mood"), ["'sad'", "said, mood, topic", "spelling"]),
        (("bars.safetensors", "--label", "x"), ["bars.safetensors", "only with a table"]),
        (("wine", "--text", "x"), ["wine has its own label", "only with a file"]),
    ],
    ids=lambda one: " ".join(one[-2:]) if isinstance(one, tuple) else "",
)
def test_a_mistake_is_one_sentence_with_what_is_allowed(
    assay: Run, tmp_path: Path, words: tuple[str, ...], said: list[str]
) -> None:
    told = assay("train", *words, "--out", tmp_path / "s", "--json")
    assert (told.code, len(told.err.strip().splitlines()), len(json.loads(told.out)["error"])) == (2, 1, 1), told.err
    assert told.err.startswith("assay: ")
    assert "defect" not in told.err
    assert all(part in told.err for part in said), told.err
    assert not (tmp_path / "s").exists()


def test_all_wrong_settings_are_told_at_once(assay: Run, tmp_path: Path) -> None:
    told = assay("train", *TEXTS, "--set", "epochs=0,batch_size=-1,warmup=2", "--out", tmp_path / "s")
    assert [line.split(".")[0] for line in told.err.splitlines()] == [
        "assay: epochs is 0",
        "assay: batch_size is -1",
        "assay: warmup is 2",
    ]


# ------------------------------------------------------------------ where results go


OUT = {
    "train": ("train", "wine"),
    "audit": ("audit", "nowhere"),
    "treat": ("treat", "nowhere", "--with", "distill"),
    "compare": ("compare", "nowhere"),
    "choose": ("choose", "wine"),
    "slim": ("slim", "nowhere"),
    "demo": ("demo",),
}


@pytest.mark.parametrize("verb", OUT)
@pytest.mark.parametrize("where", ["a file", "below a file", "a link"])
def test_no_verb_starts_work_for_a_result_that_has_no_place(
    assay: Run, files: Path, tmp_path: Path, verb: str, where: str
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    out = {"a file": files / "reviews.csv", "below a file": files / "reviews.csv" / "x", "a link": tmp_path / "link"}
    told = assay(*OUT[verb], "--out", out[where])
    assert (told.code, told.out, len(told.err.strip().splitlines())) == (2, "", 1)
    assert f"--out {out[where]}" in told.err
    assert "Allowed: a folder, or a name not in use" in told.err
    assert not list((tmp_path / "real").iterdir())


@pytest.mark.parametrize("verb", OUT)
def test_a_folder_with_something_else_is_never_replaced(assay: Run, tmp_path: Path, verb: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    told = assay(*OUT[verb], "--out", tmp_path / "mine")
    assert (told.code, told.out) == (2, "")
    assert "holds something else, which would be replaced. Allowed: a new or empty folder" in told.err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_report_is_a_file(assay: Run, tmp_path: Path) -> None:
    told = assay("report", "nowhere", "--out", tmp_path)
    assert (told.code, told.out) == (2, "")
    assert f"--out {tmp_path} is a folder. Allowed: the name of a file. Write {tmp_path}/report.html." in told.err
