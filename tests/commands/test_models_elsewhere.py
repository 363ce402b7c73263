"""`assay audit`, `compare` and `treat` on a Hugging Face folder and on a language model in a GGUF file."""

from __future__ import annotations

import csv
import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from assay.commands.sources import open_data, open_system
from assay.dossier import load_dossier
from assay.models.adapters.gguf import load_gguf
from assay.models.adapters.hugging_face import load_hugging_face
from assay.tasks import task_of
from cli_kit import Run, runner, write_policy
from support import small_texts

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
import test_gguf

DATA = ("--data", "reviews.csv", "--label", "mood", "--text", "review", "--groups", "topic")
SPEC = ("reviews.csv", "mood", "topic", "review")
ASKED = 'prompt="review: {text} verdict:",answers=[" bad", " good"],max_tokens=64'
FEW = ("--policy", "own.toml", "--probes", "accuracy,gradient_attack")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    made = small_texts(400)
    split = {
        name: np.concatenate([getattr(one, name) for one in made.splits.values()]) for name in ("inputs", "labels")
    }
    topics = np.concatenate([one.groups.codes[:, 0] for one in made.splits.values()])
    with open("reviews.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["review", "topic", "mood"])
        writer.writerows(zip(split["inputs"], topics, np.array(["bad", "good"])[split["labels"]], strict=True))
    write_policy(tmp_path / "own.toml", accuracy=0.01)
    return tmp_path


@pytest.fixture
def assay(place: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(capsys)


def write_gguf(place: Path) -> None:
    pytest.importorskip("tokenizers")
    (place / "tiny.gguf").write_bytes(test_gguf.file_bytes(*test_gguf.parts()))


def test_a_language_model_is_opened_with_what_it_is_asked(place: Path) -> None:
    write_gguf(place)
    system, how = open_system("tiny.gguf", (*SPEC, ASKED))
    rows = system.data.splits["test"].inputs[:5]
    asked = {"prompt": "review: {text} verdict:", "answers": [" bad", " good"], "max_tokens": 64}
    assert np.array_equal(system.model.outputs(rows), load_gguf(place / "tiny.gguf", **asked).outputs(rows))
    assert (system.name, system.offers, how["text"]) == ("tiny", {"query", "meter"}, "review")


@pytest.mark.slow
def test_a_language_model_is_audited(assay: Run, place: Path) -> None:
    write_gguf(place)
    told = assay("audit", "tiny.gguf", *DATA, "--set", ASKED, *FEW, "--out", "d")
    assert told.code in (0, 3), told.err
    dossier = load_dossier(place / "d")
    system, _ = open_system("tiny.gguf", (*SPEC, ASKED))
    test = system.data.splits["test"]
    right = (system.model.outputs(test.inputs).argmax(axis=1) == test.labels).mean()
    found = [one.value for one in dossier.measurements if one.metric == "accuracy" and not one.slice]
    assert found == [pytest.approx(right)]
    assert "gradient_attack" in {one.probe for one in dossier.not_applicable}
    told = assay("verify", "d", "--json")
    assert (told.code, json.loads(told.out)["parts"]["numbers"]) == (0, "verified, 1 of 1 measured again"), told.out


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("tiny.gguf", *DATA), ("what to ask it is not said", "{text}")),
        (("tiny.gguf", *DATA, "--set", 'prompt="{text}",answers=[" a"]'), ("1 answers for 2 classes", "bad, good")),
        (("tiny.gguf", *DATA, "--set", "prompt=3,answer=[]"), ("no option 'answer'", "answers", "prompt is 3")),
        (("tiny.gguf", "--data", "adult", "--set", ASKED), ("cannot be put to a language model", "texts")),
        (("tiny.gguf", *DATA, "--set", 'prompt="no slot",answers=[" a"," b"]'), ("one {text}",)),
        (("folder", *DATA, "--set", 'label=["a=b"]'), ("no option 'label'", "labels, max_length")),
        (("folder", *DATA, "--set", 'labels=["ab"],max_length=0'), ("max_length is 0",)),
        (("folder", *DATA, "--set", "labels=a"), ("labels is 'a'", "a list of texts")),
        (("folder", *DATA), ("no tokenizer.json",)),
        (("missing.gguf", *DATA), ("cannot be read",)),
        (("nothing", *DATA), ("is no system", "Hugging Face folder", ".gguf")),
        (("http://localhost:1", *DATA, "--set", "a=1"), ("takes no --set a",)),
    ],
)
def test_what_is_missing_or_odd_is_said_with_what_is_allowed(
    assay: Run, place: Path, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    write_gguf(place)
    (place / "folder").mkdir()
    (place / "folder" / "config.json").write_text("{}")
    (place / "folder" / "model.safetensors").write_bytes(b"")
    told = assay("audit", *words, "--out", "d")
    assert (told.code, told.out) == (2, ""), told.out
    assert all(part in told.err for part in parts), told.err
    assert "defect" not in told.err
    assert not (place / "d").exists()


def save_folder(place: Path) -> Path:
    """A tiny BERT with labels NEGATIVE and POSITIVE, the second first, and a tokenizer of whole words."""
    transformers = import_module("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = place / "bert"
    words = ["[PAD]", "[UNK]", "good", "great", "bad", "awful", "film", "book"]
    sizes = {"vocab_size": len(words), "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 8, "max_position_embeddings": 16, "id2label": {0: "POSITIVE", 1: "NEGATIVE"}}
    torch.manual_seed(0)
    level, shows = transformers.utils.logging.get_verbosity(), transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    transformers.BertForSequenceClassification(transformers.BertConfig(**sizes)).save_pretrained(folder)
    made = Tokenizer(models.WordLevel({word: code for code, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    transformers.utils.logging.set_verbosity(level)
    if shows:
        transformers.utils.logging.enable_progress_bar()
    return folder


@pytest.mark.slow
def test_a_hugging_face_folder_is_audited_treated_and_compared(assay: Run, place: Path) -> None:
    pytest.importorskip("transformers")
    folder = save_folder(place)
    named = ("--set", 'labels=["NEGATIVE=bad", "POSITIVE=good"],max_length=12')
    told = assay("audit", "bert", *DATA, *named, *FEW, "--out", "d")
    assert told.code in (0, 3), told.err
    dossier = load_dossier(place / "d")
    data, _ = open_data(SPEC)
    labels = {"NEGATIVE": "bad", "POSITIVE": "good"}
    model = load_hugging_face(folder, data.columns, task=task_of(data), labels=labels, max_length=12)
    test = data.splits["test"]
    right = (model.outputs(test.inputs).argmax(axis=1) == test.labels).mean()
    found = [one.value for one in dossier.measurements if one.metric == "accuracy" and not one.slice]
    assert found == [pytest.approx(right)]
    told = assay("audit", "bert", *DATA, *FEW, "--out", "other")
    assert (told.code, "labels={label: class}" in told.err) == (2, True), told.err

    told = assay("compare", "bert", *DATA, *named, *FEW, "--treatments", "prune_magnitude", "--out", "c")
    assert told.code in (0, 3), told.err
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "id2label": {0: "good", 1: "bad"}}))
    told = assay("treat", "bert", *DATA, "--with", "prune_magnitude", "--set", "sparsity=0.5", "--out", "pruned")
    assert told.code == 0, told.err
    again, _ = open_system("pruned", ("", "", "", ""))
    assert again.model.outputs(test.inputs).shape == (len(test), 2)
    assert again.lineage[-1].treatment == "prune_magnitude"
