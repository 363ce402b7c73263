"""Dossiers of systems that read pictures and texts: sealed whole, measured again, and telling nothing of one person."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load, save

from assay import story
from assay.digests import digest_of
from assay.dossier import file_dossier, verify_dossier
from assay.errors import DossierError
from assay.evidence.sealed import SPLIT_FILE, recompute
from assay.observe import Workspace
from assay.tasks import Argmax, task_of
from assay.units.told import columns_of
from assay.values import System
from support import small_images, small_texts

PASSIVE = ["accuracy", "group_error_rates", "probability_loss", "calibration_error"]


class Reader:
    """Knows good words from bad ones, or where a picture is bright."""

    offers = frozenset({"query", "meter"})
    outputs_are = "logits"
    num_bytes = 0
    digest = digest_of("reader")

    def outputs(self, inputs):
        if inputs.dtype.kind == "T":
            good = np.array([any(word in one for word in ("good", "great", "好", "棒")) for one in inputs.tolist()])
            return np.stack([~good, good], axis=1).astype(np.float32)
        thirds = inputs.reshape(len(inputs), inputs.shape[2], 3, -1)
        return thirds.mean(axis=(1, 3), dtype=np.float32) / 50


MADE = {"image": small_images, "en": small_texts, "zh": lambda: small_texts(language="zh")}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSAY_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def every(home):
    found = {}
    for name, make in MADE.items():
        data = make()
        system = System("reader", Reader(), data, task_of(data), Argmax())
        found[name] = story.audit(system, probes=PASSIVE, workspace=Workspace(key=b"k", num_draws=50))
    return found


@pytest.fixture(params=MADE)
def judged(request, every):
    return every[request.param]


@pytest.fixture(params=["en", "zh"])
def of_texts(request, every):
    return every[request.param]


@pytest.fixture
def folder(judged, tmp_path):
    story.file(judged, tmp_path / "d")
    return tmp_path / "d"


def test_every_passive_number_is_measured_again_from_the_sealed_rows(judged, folder):
    found = verify_dossier(folder, recompute=recompute)
    assert found.ok, found.problems
    assert found.parts["numbers"].endswith("measured again")
    again = {one.key: one.value for one in recompute(folder)}
    assert len(again) > 10
    assert again == {one.key: one.value for one in judged.audit.measurements}


def test_the_open_part_says_what_the_inputs_are(judged, folder):
    about = json.loads((folder / "open" / "dossier.json").read_bytes())["data"]
    (column,) = about["columns"]
    own = judged.audit.system.data.columns[0]
    assert (column["kind"], tuple(column["shape"]), column["language"]) == (own.kind, own.shape, own.language)
    assert columns_of(about["columns"]) == judged.audit.system.data.columns
    older = [{name: fact for name, fact in column.items() if name not in ("shape", "language")}]
    assert columns_of(older) == (replace(own, shape=(), language=""),)


def test_one_letter_or_pixel_changed_in_the_sealed_rows_is_found(judged, folder):
    path = folder / SPLIT_FILE
    arrays = load(path.read_bytes())
    name = "inputs" if "inputs" in arrays else "inputs.utf8"
    assert arrays[name].dtype == np.uint8
    changed = arrays[name].copy()
    changed.flat[0] ^= 1
    path.write_bytes(save(arrays | {name: changed}))
    found = verify_dossier(folder, recompute=recompute)
    assert not found.intact
    assert any("sealed/split-test.safetensors was changed" in one.what for one in found.problems)


def test_rows_that_were_not_observed_are_refused_although_they_are_signed(judged, tmp_path):
    """The signer's own change is found too: the recorded pass names the digest of its rows."""
    audited = judged.audit
    split = audited.system.data.splits["test"]
    data = replace(
        audited.system.data, splits={**audited.system.data.splits, "test": split.take(np.arange(len(split))[::-1])}
    )
    files = story.sealed_files(replace(audited.system, data=data), judged.workspace)
    signer, _ = story.load_signer()
    extras = story.Extras(receipt=judged.receipt, files=files)
    parts = {"findings": judged.findings, "policy": judged.policy, "folder": tmp_path / "d", "signer": signer}
    file_dossier(audited, extras=extras, **parts)
    with pytest.raises(DossierError, match="not the rows that were observed"):
        recompute(tmp_path / "d")


def told(judged, folder, *, facts=None, **more):
    system = judged.audit.system
    audited = replace(judged.audit, system=replace(system, facts=facts or {}))
    signer, _ = story.load_signer()
    extras = story.Extras(receipt=judged.receipt, **more)
    return file_dossier(
        audited, findings=judged.findings, policy=judged.policy, folder=folder, signer=signer, extras=extras
    )


def test_a_passage_of_a_text_cannot_be_published(of_texts, tmp_path):
    data = of_texts.audit.system.data
    longest = max(data.splits["train"].inputs.tolist(), key=len)
    assert len(longest) >= 12
    note = {"note": f"it failed on <{longest}>"}
    with pytest.raises(DossierError, match=r"open/dossier.json quotes a text of the data at /system/facts/note"):
        told(of_texts, tmp_path / "d", facts=note)
    with pytest.raises(DossierError, match=r"open/notes.json quotes a text of the data at /rows/0/note") as caught:
        told(of_texts, tmp_path / "d", tables={"notes": {"rows": [note]}})
    assert longest not in str(caught.value)
    told(of_texts, tmp_path / "d", facts={"note": f"it failed on <{longest[:8]}>"})


def test_a_word_of_few_people_cannot_be_a_slice(of_texts, tmp_path):
    data = of_texts.audit.system.data
    common = "好" if data.columns[0].language == "zh" else "Good"
    told(of_texts, tmp_path / "d", tables={"words": [{"slice": f"word={common}", "attempted": 30}]})
    with pytest.raises(DossierError, match=r"open/words.json names a word of few texts at /1/slice"):
        told(of_texts, tmp_path / "e", tables={"words": [{"slice": f"word={common}"}, {"slice": "word=Anna"}]})
    assert not (tmp_path / "e").exists()


def test_a_curve_over_epochs_may_be_as_long_as_a_split_and_nothing_else(judged, tmp_path):
    num = min(len(split) for split in judged.audit.system.data.splits.values())
    curve = [{"step": epoch, "epoch": epoch, "train_loss": 1 / epoch} for epoch in range(1, num + 1)]
    told(judged, tmp_path / "d", facts={"curve": curve})
    with pytest.raises(DossierError, match="one entry per person at /system/facts/losses"):
        told(judged, tmp_path / "d", facts={"losses": curve})
    with pytest.raises(DossierError, match="one entry per person at /system/facts/curve/0/all"):
        told(judged, tmp_path / "d", facts={"curve": [{"all": [1.0] * num}]})
