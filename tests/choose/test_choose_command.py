"""`assay choose` as a person and a program meet it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from assay.cli import main
from assay.models.store import read_manifest


def table(path: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 2))
    lines = [f"{a:.4f},{b:.4f},{'yes' if a > b else 'no'}" for a, b in rows]
    path.write_text("\n".join(["a,b,label", *lines]) + "\n")
    return path


@pytest.mark.parametrize("form", [("--json",), pytest.param((), marks=pytest.mark.slow)])
def test_the_chosen_system_is_saved_and_every_candidate_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, form: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "choose",
        str(table(tmp_path / "t.csv")),
        "--label",
        "label",
        "--max-parameters",
        "60",
        "--out",
        "s",
        *form,
    ]
    with pytest.raises(SystemExit) as stopped:
        main(words)
    told = capsys.readouterr()
    assert stopped.value.code == 0, told.err
    if form:
        found = json.loads(told.out)
        assert found["chosen"] == "mlp hidden=[]"
        assert all(row["fate"] for row in found["rows"])
        assert sum(row["fate"].startswith("over the budget") for row in found["rows"]) >= 5
    else:
        assert "chosen: mlp hidden=[]" in told.out
        assert "next:" in told.out
    assert read_manifest(tmp_path / "s")["model"]["architecture"]["name"] == "mlp"


def test_a_wrong_metric_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["choose", str(table(tmp_path / "t.csv")), "--label", "label", "--metric", "f1"])
    assert stopped.value.code == 2
    assert "metric 'f1' is not known" in capsys.readouterr().err
