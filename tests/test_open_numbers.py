"""The open part and the reports tell no number of the one row that is furthest out; the owner's parts keep them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from assay import story
from assay.data.coding import numeric_column
from assay.dossier import verify_dossier
from assay.evidence.sealed import recompute
from assay.models.store import load_system
from assay.observe import Workspace
from assay.policy import judge
from assay.report import write_report
from assay.serve.admission import admit
from assay.units.told import FEWEST_ROWS, columns_told, is_told, range_told
from assay.values import Data, Measurement
from support import untrained

FURTHEST = {"train": (7391846.0, -3862957.0), "test": (6428173.0, -5197428.0)}  # the highest and the lowest hours
PROBES = ["accuracy", "worst_slice", "error_tree", "feature_effects", "group_error_rates"]


def planted(data: Data) -> Data:
    """One row with the most hours of all and one with the fewest, in training and test; columns as they are read."""
    splits = dict(data.splits)
    for name, (most, least) in FURTHEST.items():
        inputs = splits[name].inputs.copy()
        inputs[5, 1], inputs[6, 1] = most, least
        splits[name] = replace(splits[name], inputs=inputs)
    columns = [numeric_column(one.name, splits["train"].inputs[:, at]) if one.kind == "numeric" else one
               for at, one in enumerate(data.columns)]  # fmt: skip
    return replace(data, columns=tuple(columns), splits=splits)


def said(path: Path) -> list[float]:
    """Which of the planted numbers a file says, in any of the usual ways to write a number."""
    text = path.read_text("utf-8")
    found = []
    for number in [abs(one) for ends in FURTHEST.values() for one in ends]:
        whole = f"{number:.0f}"
        ways = {whole, f"{whole[0]},{whole[1:4]},{whole[4:]}", f"{number:.5e}", f"{number:.3e}"[:5], f"{number:.6g}"}
        found += [number] if any(re.search(rf"(?<!\d){re.escape(way)}", text) for way in ways) else []
    return found


@pytest.fixture(scope="module")
def filed(small_data: Data, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[story.Judged, Path]]:
    """A dossier whose worst slices lie at both ends of the planted column."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSAY_HOME", str(tmp_path_factory.mktemp("home")))
        data = planted(small_data)
        system = untrained(data, "mlp", {"hidden": [4]})
        test = data.splits["test"]
        answers = system.model.outputs(test.inputs).argmax(axis=1)
        outside = (test.inputs[:, 1] < 20) | (test.inputs[:, 1] > 80)
        labels = np.where(outside, 1 - answers, answers).astype(np.int64)
        splits = {**data.splits, "test": replace(test, labels=labels)}
        system = replace(system, data=replace(data, splits=splits))
        judged = story.audit(system, probes=PROBES, workspace=Workspace(key=b"k", num_draws=50))
        folder = tmp_path_factory.mktemp("filed") / "d"
        story.file(judged, folder)
        yield judged, folder


@pytest.mark.slow
def test_no_open_file_and_no_page_says_the_number_of_one_row(filed: tuple[story.Judged, Path], tmp_path: Path) -> None:
    _, folder = filed
    named = [one["slice"] for one in json.loads((folder / "open/dossier.json").read_bytes())["measurements"]]
    assert any(re.search(r"hours=(\.\.\d|\d[^.]*\.\.$)", one) for one in named), "a slice at the end is shown"
    assert any(one.startswith("feature=hours & value=") for one in named)
    pages = [write_report(folder, out=tmp_path / f"{lang}.html", lang=lang) for lang in ("en", "zh")]
    assert {path.name: said(path) for path in (*sorted((folder / "open").iterdir()), *pages)} == {
        name: [] for name in ("dossier.json", "policy.toml", "reference.json", "en.html", "zh.html")
    }


@pytest.mark.slow
def test_the_owners_parts_keep_exact_ranges_and_verify_measures_every_slice_again(
    filed: tuple[story.Judged, Path],
) -> None:
    folder, system = filed[1], filed[0].audit.system
    found = verify_dossier(folder, recompute=recompute)
    assert found.ok, found.problems
    served = admit(folder, allow_failed=True)
    assert served.data.columns == system.data.columns
    assert (served.data.columns[1].high, served.data.columns[1].low) == FURTHEST["train"]
    assert load_system(folder / "system", system.data).data.columns == system.data.columns
    told = json.loads((folder / "open/dossier.json").read_bytes())["data"]["columns"]
    assert [(one["low"], one["high"]) for one in told[1:]] == [(1.0, 99.0), (None, None), (None, None)]


@pytest.mark.slow
def test_an_older_dossier_that_names_the_ends_is_verified_and_served(
    filed: tuple[story.Judged, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filed before: exact ranges among the columns, and slices named by the smallest and the largest number."""
    judged, _ = filed
    hours = judged.audit.system.data.splits["test"].inputs[:, 1]

    def named_before(one: Measurement) -> Measurement:
        lowest = re.sub(r"(hours=)(?=\.\.)", rf"\g<1>{hours.min():.6g}", one.slice)
        return replace(one, slice=re.sub(r"(hours=[^ ]*\.\.)(?= |$)", rf"\g<1>{hours.max():.6g}", lowest))

    measurements = tuple(map(named_before, judged.audit.measurements))
    assert measurements != judged.audit.measurements
    findings = judge(judged.policy, measurements, judged.audit.not_applicable, num_systems=1)
    older = replace(judged, audit=replace(judged.audit, measurements=measurements), findings=findings)
    monkeypatch.setattr("assay.evidence.openpart.columns_told", lambda data: data.columns)
    story.file(older, tmp_path / "old")
    assert set(said(tmp_path / "old" / "open" / "dossier.json")) == {
        abs(one) for ends in FURTHEST.values() for one in ends
    }
    found = verify_dossier(tmp_path / "old", recompute=recompute)
    assert found.ok, found.problems
    assert admit(tmp_path / "old", allow_failed=True).data.columns == judged.audit.system.data.columns
    moved = [replace(one, value=one.value + 0.1) if one.slice.startswith("hours=") else one for one in measurements]
    older = replace(older, audit=replace(older.audit, measurements=tuple(moved)))
    story.file(older, tmp_path / "wrong")
    assert "accuracy_deficit.hours=" in str(verify_dossier(tmp_path / "wrong", recompute=recompute).problems[0])


def test_what_is_told_of_a_range_depends_on_no_row_beyond_the_tenth() -> None:
    rng = np.random.default_rng(4)
    for num in (20, 57, 400):
        values = np.sort(rng.lognormal(8, 2, num))
        low, high = range_told(values)
        assert low is not None
        assert high is not None
        assert low <= values[FEWEST_ROWS - 1] <= values[-FEWEST_ROWS] <= high
        apart = values[-FEWEST_ROWS] - values[FEWEST_ROWS - 1]
        assert max(values[FEWEST_ROWS - 1] - low, high - values[-FEWEST_ROWS]) <= 0.1 * apart, "two digits"
        other = values.copy()
        other[: FEWEST_ROWS - 1] -= rng.uniform(0, 1e6, FEWEST_ROWS - 1)
        other[-FEWEST_ROWS + 1 :] += rng.uniform(0, 1e6, FEWEST_ROWS - 1)
        assert range_told(rng.permutation(other)) == (low, high)
    assert range_told(np.array([3.0] * 15 + [np.nan] * 9 + [7.0] * 12)) == (3.0, 7.0)
    assert range_told(np.arange(20.0)[:19]) == (None, None)
    assert not is_told(np.array([np.nan, 1.0]), np.array([1.0])).any()


def test_a_row_that_is_there_many_times_counts_once(small_data: Data) -> None:
    train = planted(small_data).splits["train"]
    often = train.take(np.concatenate([np.arange(len(train)), np.full(50, 5)]))
    told = [columns_told(replace(small_data, splits={"train": one})) for one in (train, often)]
    assert told[0] == told[1]
    assert told[0][1].high == 99
    assert all(one.low is None for one in columns_told(replace(small_data, splits={})))
