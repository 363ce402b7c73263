"""The whole story of texts and of pictures, verb by verb, as a person would type it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assay.dossier import load_dossier
from assay.models.store import read_manifest
from cli_kit import Run, runner, write_pictures, write_policy, write_reviews
from support import small_images, small_texts

pytestmark = pytest.mark.slow
PROBES = "accuracy,group_error_rates,selection_rate_gap,input_noise,shapley_attributions,model_bytes"
DATA = {
    "texts": ("reviews.csv", "--text", "said", "--label", "mood", "--groups", "topic"),
    "pictures": ("bars.safetensors",),
}
RUN = "epochs=8,batch_size=32,learning_rate=0.01"
SMALL = {"texts": "dim=8,num_hidden=8,vocab_size=60", "pictures": "widths=[4, 6],hidden=[8]"}
MODEL = {"texts": "gru", "pictures": "cnn_lenet"}


@pytest.fixture
def assay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    return runner(capsys)


@pytest.mark.parametrize("kind", DATA)
def test_every_verb_takes_it(assay: Run, tmp_path: Path, kind: str) -> None:
    write_reviews(tmp_path / "reviews.csv", small_texts(700))
    write_pictures(tmp_path / "bars.safetensors", small_images(500))
    policy = write_policy(tmp_path / "own.toml", accuracy=0.6)
    told = assay("train", *DATA[kind], "--model", MODEL[kind], "--set", f"{SMALL[kind]},{RUN}", "--out", "system")
    assert told.code == 0, told.err
    told = assay("audit", "system", "--probes", PROBES, "--policy", policy, "--out", "dossier", "--json")
    found = json.loads(told.out)
    assert (told.code, found["verdict"]) == (0, "pass"), "what it learns is easy"
    assert {one["probe"] for one in found["measurements"]} | {one["probe"] for one in found["not_applicable"]} == {
        *PROBES.split(",")
    }
    assert not [one["reason"] for one in found["measurements"] if one["reason"].startswith("the probe stopped")]
    assert assay("treat", "system", "--with", "prune_magnitude", "--set", "sparsity=0.3", "--out", "treated").code == 0
    assert read_manifest(tmp_path / "treated")["lineage"][-1]["treatment"] == "prune_magnitude"
    assert assay("audit", "treated", "--probes", PROBES, "--policy", policy, "--out", "second").code in (0, 1, 3)
    before, after = (load_dossier(tmp_path / one) for one in ("dossier", "second"))
    assert before.system_digest != after.system_digest
    words = ("--treatments", "reweigh_groups,quantize_int8,fill_missing", "--probes", PROBES, "--policy", policy)
    told = assay("compare", "system", *words, "--out", "compared", "--json")
    matrix = json.loads(told.out)["matrix"]
    assert (told.code, len(matrix["systems"])) == (0, 3), told.err
    assert matrix["errored"].keys() == {"fill_missing"}
    assert "Allowed: tables" in matrix["errored"]["fill_missing"]
    for lang in ("en", "zh"):
        assert assay("report", "dossier", "--lang", lang, "--out", f"page.{lang}.html").code == 0
        assert (tmp_path / f"page.{lang}.html").stat().st_size > 10_000
    for name in ("dossier", "second", *json.loads(told.out)["dossiers"]):
        verified = assay("verify", name)
        assert verified.code == 0, verified.out
