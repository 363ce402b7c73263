"""Mistakes with data sets, searches, texts and pictures: one sentence with value, allowed and next step."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cli_kit import Run, runner

MISTAKES = {
    "a data set nobody knows": ("data fetch cifar10", "'cifar10'", "adult, diabetes, wine, yeast, fashion_mnist"),
    "a choice nobody knows": ("data card sentiment:books", "sentiment has no 'books'", "tweets"),
    "not fetched": ("train mnist", "mnist", "assay data fetch mnist"),
    "a verb of data": ("data ftech mnist", "'ftech'", "card, check, fetch, list"),
    "texts unnamed": ("data check reviews.csv --text said", "reviews.csv", "--label COLUMN"),
    "no such texts": ("data check reviews.csv --text sayd --label mood", "'sayd'", "said, mood, topic", "spelling"),
    "a wrong metric": ("choose reviews.csv --label mood --metric f1", "'f1'", "accuracy, balanced_accuracy, log_loss"),
    "a metric of targets": ("choose wine --metric squared_error", "squared_error", "accuracy, balanced_accuracy"),
    "a margin below 0": ("choose wine --margin -1", "margin is -1.0", "0 or more"),
    "no time": ("choose wine --minutes 0", "minutes is 0.0", "above 0, or left out"),
    "nothing is small enough": (
        "choose reviews.csv --text said --label mood --max-parameters 1",
        "budget",
        "parameters",
    ),
    "no model of weights only": ("audit bars.safetensors --data wine", "weights only", ".onnx"),
    "a language model on numbers": ("audit model.gguf --data wine", "wine", "texts with classes"),
    "pictures of floats": ("train floats.safetensors", "float32 (5, 4, 4)", "uint8 (N, H, W)", "Round to 0..255"),
    "pictures without labels": ("data check bare.safetensors", "no tensor 'labels'", "images, labels, split"),
    "pictures and labels of other lengths": ("choose short.safetensors", "labels (4,)", "(N,) beside the images"),
    "no pictures": ("train no.safetensors", "no.safetensors", "a safetensors file"),
}


@pytest.fixture
def assay(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ASSAY_DATA", str(tmp_path / "nothing fetched"))
    monkeypatch.chdir(tmp_path)
    for name in ("reviews.csv", "bars.safetensors"):
        shutil.copy(files / name, tmp_path)
    small, labels = np.zeros((5, 4, 4), np.uint8), np.arange(5) % 2
    save_file({"images": small.astype(np.float32), "labels": labels}, "floats.safetensors")
    save_file({"images": small}, "bare.safetensors")
    save_file({"images": small, "labels": labels[:4]}, "short.safetensors")
    Path("model.gguf").write_bytes(b"GGUF\x03\0\0\0" + bytes(16))
    return runner(capsys)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_with_what_is_allowed(assay: Run, tmp_path: Path, name: str) -> None:
    command, *needed = MISTAKES[name]
    before = sorted(tmp_path.rglob("*"))
    told = assay(*command.split())
    assert (told.code, told.out, len(told.err.strip().splitlines())) == (2, "", 1), told
    assert "Traceback" not in told.err
    assert "defect" not in told.err
    assert all(part in told.err for part in needed), told.err
    assert sorted(tmp_path.rglob("*")) == before
