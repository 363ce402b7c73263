"""`assay treat --suggest` and `assay slim` as a person meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli_kit import Run, runner, write_policy, write_table


@pytest.fixture
def assay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return runner(capsys)


@pytest.fixture
def trained(assay: Run, tmp_path: Path) -> Path:
    table = write_table(tmp_path / "loans.csv")
    assert assay("train", table, "--label", "paid", "--groups", "sex", "--out", tmp_path / "system", "-q").code == 0
    return tmp_path / "system"


@pytest.mark.slow
def test_slim_saves_what_passes_with_its_dossier(assay: Run, trained: Path, tmp_path: Path) -> None:
    easy = write_policy(tmp_path / "easy.toml", accuracy=0.01)
    words = ("slim", trained, "--policy", easy, "--treatments", "quantize_int8", "--out", tmp_path / "small")
    told = assay(*words, "--json")
    assert told.code == 0
    found = json.loads(told.out)
    assert found["chain"] == "quantize_int8"
    assert found["verdict"] == "pass"
    assert assay("verify", tmp_path / "small" / "dossier").code == 0
    hard = write_policy(tmp_path / "hard.toml", accuracy=0.999)
    none = assay("slim", trained, "--policy", hard, "--treatments", "quantize_int8", "--out", tmp_path / "none")
    assert none.code == 1
    assert "one pass shows that it fails accuracy" in " ".join(none.out.split())
    assert "nothing was accepted" in none.out


@pytest.mark.slow
def test_suggest_shows_what_was_tried(assay: Run, trained: Path, tmp_path: Path) -> None:
    hard = write_policy(tmp_path / "hard.toml", accuracy=0.999)
    told = assay("treat", trained, "--suggest", "--with", "quantize_int8", "--policy", hard)
    assert told.code == 1
    assert "quantize_int8" in told.out
    assert "no detectable change" in " ".join(told.out.split())


def test_mistakes_are_answered(assay: Run, tmp_path: Path) -> None:
    assert "--with NAME, or --suggest" in assay("treat", tmp_path / "nowhere").err
    told = assay("slim", tmp_path / "nowhere", "--accept", "fail")
    assert told.code == 2
    assert "pass, inconclusive" in told.err
