"""Every architecture goes the whole way on a small set of real data: train, audit, treat, compare, judge, file, verify.

The sets are fetched from public registries; where these cannot be reached, made-up data take their place, and the tests
say so by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from assay import registry, story
from assay.data import load_adult, load_fashion_mnist, load_sentiment
from assay.dossier import load_dossier, verify_dossier
from assay.errors import DataError
from assay.evidence.sealed import recompute
from assay.models import Architecture
from assay.models.store import load_system
from assay.observe import Workspace
from assay.report import write_report
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.units.text import words
from assay.values import Data, Dossier, System
from support import small_images, small_texts

pytestmark = pytest.mark.slow

TEXT = TrainSettings(epochs=6, batch_size=64, learning_rate=3e-3)
READS = {"vocab_size": 2000, "max_length": 40, "dim": 32}


@dataclass(frozen=True)
class Kind:
    """An architecture, the data it reads, how it is trained, and what is done to it."""

    architecture: Architecture
    modality: str
    settings: TrainSettings
    treatment: str


KINDS = {
    "CNN": Kind(Architecture("cnn_lenet"), "image", TrainSettings(epochs=4, batch_size=64), "quantize_int8"),
    "RNN": Kind(Architecture("rnn", {**READS, "num_hidden": 32}), "text", TEXT, "prune_magnitude"),
    "LSTM": Kind(Architecture("lstm", {**READS, "num_hidden": 32}), "text", TEXT, "distill"),
    "GRU": Kind(Architecture("gru", {**READS, "num_hidden": 32}), "text", TEXT, "quantize_int8"),
    "Transformer": Kind(Architecture("transformer", READS), "text", TEXT, "prune_magnitude"),
    "MLP": Kind(Architecture("mlp", {"hidden": [32]}), "table", TrainSettings(epochs=4), "prune_magnitude"),
}


@dataclass(frozen=True)
class Told:
    """One whole story."""

    kind: Kind
    system: System
    comparison: story.Comparison
    dossiers: tuple[Dossier, ...]


def part_of(data: Data, *sizes: int) -> Data:
    """The first rows of each split in a keyed order."""
    rng = np.random.default_rng(0)
    parts = {}
    for (name, split), size in zip(data.splits.items(), sizes, strict=True):
        parts[name] = split.take(np.sort(rng.permutation(len(split))[:size]))
    return replace(data, splits=parts)


def data_of(modality: str) -> Data:
    """A part of a real set that an architecture of this modality learns in seconds."""
    if modality == "table":
        return part_of(load_adult(), 2000, 300, 600)
    try:
        whole = load_fashion_mnist(fetch=True) if modality == "image" else load_sentiment(domain="all", fetch=True)
    except DataError:  # no registry can be reached from here
        return small_images(1600, size=16) if modality == "image" else small_texts(1600)
    return part_of(whole, 1500, 200, 400)


@pytest.fixture(scope="module", params=KINDS)
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Told:
    kind, folder = KINDS[request.param], tmp_path_factory.mktemp("architecture")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSAY_HOME", str(folder / "home"))
        data = data_of(kind.modality)
        recipe = TrainRecipe(kind.architecture, task_of(data), kind.settings)
        system = train_system(data, name=request.param, recipe=recipe)
        workspace = Workspace(folder / "cache", key=b"owner", num_draws=100, num_references=2)
        comparison = story.compare_treatments(system, [kind.treatment], workspace=workspace)
        tables = {"matrix": story.matrix_facts(comparison)}
        dossiers = tuple(
            story.file(one, folder / "dossiers" / str(number), tables=tables)
            for number, one in enumerate(comparison.judged)
        )
    return Told(kind, system, comparison, dossiers)


def test_it_learned(told: Told) -> None:
    labels = told.system.data.splits["test"].labels
    found = told.comparison.judged[0].audit.find("accuracy")
    assert found.low is not None
    assert found.low > np.bincount(labels).max() / len(labels) - (0.05 if told.kind.modality == "table" else 0)


def test_every_probe_is_measured_or_says_why_not_and_none_stopped(told: Told) -> None:
    for one in told.comparison.judged:
        measured = {m.probe for m in one.audit.measurements}
        skipped = {n.probe: n.reason for n in one.audit.not_applicable}
        assert measured | skipped.keys() == registry.PROBES.keys()
        assert not measured & skipped.keys()
        assert all(skipped.values())
        assert [(m.probe, m.reason) for m in one.audit.measurements if m.reason.startswith("the probe stopped")] == []
        for m in one.audit.measurements:
            assert m.attempted == m.scored + m.errored
            assert m.value is not None or m.reason


def test_what_makes_sense_for_a_modality_is_measured(told: Told) -> None:
    audit = told.comparison.judged[0].audit
    defined = {m.metric for m in audit.measurements if m.value is not None}
    assert {
        "accuracy", "flip_rate", "membership_auc", "attribution_error", "explanation_stability", "faithfulness_gain",
        "lime_shapley_agreement", "worst_slice_deficit", "latency_p50", "model_bytes",
    } <= defined  # fmt: skip
    slices = {m.slice for m in audit.measurements if m.metric == "attribution"}
    skipped = {n.probe: n.reason for n in audit.not_applicable}
    if told.kind.modality == "text":
        assert skipped["gradient_attack"] == "it is defined for tables and images, and the inputs are texts"
        assert slices
        assert all(one.startswith("word=") for one in slices)
    else:
        assert "robust_accuracy" in {m.metric for m in audit.measurements}
    if told.kind.modality == "image":
        assert slices == {f"patch={i},{j}" for i in range(1, 5) for j in range(1, 5)}


def test_no_word_is_told_that_few_training_texts_hold(told: Told) -> None:
    if told.kind.modality != "text":
        pytest.skip("only texts have words")
    texts = dict.fromkeys(told.system.data.splits["train"].inputs.tolist())
    held = [{re.sub(r"^\W+|\W+$", "", one).lower() for one in words(text)} for text in texts]
    named = {m.slice[5:] for m in told.comparison.judged[0].audit.measurements if m.slice.startswith("word=")}
    assert named
    for word in named:
        assert sum(any(word in one for one in text) for text in held) >= 10, word


def test_the_treatment_is_compared_with_what_was_before(told: Told) -> None:
    matrix = told.comparison.matrix
    assert matrix.errored == {}
    name = f"{told.system.name}+{told.kind.treatment}"
    assert matrix.systems == (told.system.name, name)
    cells = matrix.cells[name]
    assert cells.keys() == set(matrix.keys)
    assert all(cell.effect is not None or cell.reason for cell in cells.values())
    assert any(cell.effect is not None and cell.effect.value is not None for cell in cells.values())


def test_dossiers_verify_and_hold_the_system_that_was_audited(told: Told) -> None:
    for one, dossier in zip(told.comparison.judged, told.dossiers, strict=True):
        found = verify_dossier(Path(dossier.path), recompute=recompute)
        assert found.ok, found.problems
        own = one.audit.system
        again = load_system(Path(dossier.path) / "system", own.data)
        assert again.digest == own.digest
        inputs = own.data.splits["test"].inputs[:64]
        np.testing.assert_array_equal(again.model.outputs(inputs), own.model.outputs(inputs))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_report_is_written_in_both_languages(told: Told, language: str, tmp_path: Path) -> None:
    dossier = load_dossier(Path(told.dossiers[1].path))
    page = write_report(Path(dossier.path), out=tmp_path / "report.html", lang=language).read_text()
    assert dossier.evidence_id in page
    told = re.sub(r"<script.*?</script>", "", page, flags=re.S)  # the script that sorts knows NaN
    assert not re.search(r"\bNaN\b|the probe stopped", told)
