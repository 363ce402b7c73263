"""The command line as a person and a script meet it: help, exit codes, one JSON document, and errors that help."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from assay.dossier import load_dossier
from cli_kit import Ran, Run, runner, write_policy, write_table

VERBS = ("train", "audit", "treat", "compare", "report", "verify", "serve", "list", "demo", "choose", "slim", "data")
PROBES = "accuracy,group_error_rates,model_bytes"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table, a system trained on it and a dossier of it, all made by the command line."""
    folder = tmp_path_factory.mktemp("place")
    table = write_table(folder / "loans.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSAY_HOME", str(folder / "home"))
        patch.chdir(folder)
        from assay.cli import main

        for words in (
            ["train", str(table), "--label", "paid", "--groups", "sex", "--out", "system"],
            ["audit", "system", "--probes", PROBES, "--out", "dossier", "--policy", str(easy(folder))],
        ):
            with pytest.raises(SystemExit) as stopped:
                main(words)
            assert stopped.value.code == 0
    return folder


def easy(folder: Path) -> Path:
    return write_policy(folder / "easy.toml", accuracy=0.01)


@pytest.fixture
def assay(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("ASSAY_HOME", str(place / "home"))
    monkeypatch.chdir(place)
    return runner(capsys)


# ------------------------------------------------------------------ help


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_what_it_does_and_takes(assay: Run, verb: str) -> None:
    told = assay(verb, "--help")
    assert told.code == 0
    assert told.err == ""
    assert f"assay {verb}" in told.out
    assert "-h, --help" in re.sub(r"\s+", " ", told.out)


def test_help_lists_every_verb_and_every_exit_code(assay: Run) -> None:
    told = assay("--help").out
    assert all(f"\n  {verb} " in told for verb in VERBS)
    assert "0 pass, 1 fail, 2 usage or error, 3 inconclusive" in told


def test_without_a_word_the_help_is_shown_as_it_is(assay: Run) -> None:
    told = assay()
    assert told.code == 2
    assert told.err.startswith("Usage: assay [OPTIONS] COMMAND [ARGS]...")


# ------------------------------------------------------------------ exit codes


def bounds_of(dossier: Path) -> tuple[float, float]:
    one = next(m for m in load_dossier(dossier).measurements if m.metric == "accuracy")
    assert one.low is not None
    assert one.high is not None
    return one.low, one.high


@pytest.mark.parametrize(("verdict", "code"), [("pass", 0), ("fail", 1), ("inconclusive", 3)])
def test_the_exit_code_is_the_verdict(assay: Run, place: Path, tmp_path: Path, verdict: str, code: int) -> None:
    low, high = bounds_of(place / "dossier")
    bound = {"pass": low / 2, "fail": min(1.0, high + 0.01), "inconclusive": (low + high) / 2}[verdict]
    policy = write_policy(tmp_path / "own.toml", accuracy=bound)
    told = assay("audit", "system", "--probes", PROBES, "--policy", policy, "--out", tmp_path / "d", "--json")
    assert (told.code, json.loads(told.out)["verdict"]) == (code, verdict)
    assert load_dossier(tmp_path / "d").verdict == verdict


def test_what_was_not_measured_is_inconclusive(assay: Run, tmp_path: Path) -> None:
    policy = write_policy(tmp_path / "own.toml", accuracy=0.01, balanced_accuracy=0.01)
    told = assay("audit", "system", "--probes", "accuracy", "--policy", policy, "--out", tmp_path / "d")
    assert told.code == 3
    assert "not tested: balanced_accuracy was not measured" in re.sub(r"\s+", " ", told.out)


def test_a_damaged_dossier_fails_and_its_part_is_named(assay: Run, place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    shutil.copytree(place / "dossier", folder)
    assert assay("verify", folder).code == 0
    raw = bytearray((folder / "open" / "dossier.json").read_bytes())
    raw[len(raw) // 2] ^= 4
    (folder / "open" / "dossier.json").write_bytes(bytes(raw))
    told = assay("verify", folder)
    assert told.code == 1
    assert re.search(r"^open: +damaged$", told.out, re.M)
    assert "open/dossier.json was changed" in told.out
    assert assay("report", folder).code == 2


def test_verify_with_a_key_pins_the_signer(assay: Run, place: Path, tmp_path: Path) -> None:
    told = assay("verify", "dossier", "--key", place / "dossier" / "signer.pub")
    assert (told.code, "signer is key" in told.out, "the key you named" in told.out) == (0, True, True)


# ------------------------------------------------------------------ JSON


def all_verbs(place: Path, out: Path) -> list[tuple[object, ...]]:
    small = ("--probes", PROBES, "--policy", easy(place))
    return [
        ("train", "loans.csv", "--label", "paid", "--groups", "sex", "--out", out / "s"),
        ("audit", "system", *small, "--out", out / "d"),
        ("audit", "system", "--plan"),
        ("treat", "system", "--with", "quantize_int8", "--out", out / "t"),
        ("verify", "dossier"),
        *(("list", what) for what in ("probes", "treatments", "policies", "data", "all")),
    ]


def test_json_is_one_document_and_nothing_else(assay: Run, place: Path, tmp_path: Path) -> None:
    for words in all_verbs(place, tmp_path):
        told = assay(*words, "--json")
        assert told.code == 0, (words, told.err)
        assert isinstance(json.loads(told.out), dict), words
        assert told.err == "", words


@pytest.mark.slow
def test_json_of_reports_and_comparisons(assay: Run, place: Path, tmp_path: Path) -> None:
    words = ("--probes", PROBES, "--policy", easy(place), "--out", tmp_path / "c", "--json")
    told = assay("compare", "system", "--treatments", "quantize_int8,reweigh_groups+prune_magnitude", *words)
    found = json.loads(told.out)
    assert (told.code, told.err) == (0, "")
    assert len(found["matrix"]["systems"]) == 3
    assert all(Path(one).is_file() for one in found["reports"])
    assert all(Path(one).is_dir() for one in found["dossiers"])
    for dossier in found["dossiers"]:
        assert assay("verify", dossier).code == 0
    told = assay("report", found["dossiers"][0], "--lang", "zh", "--out", tmp_path / "r.html", "--json")
    assert json.loads(told.out) == {"report": str(tmp_path / "r.html")}
    assert 'lang="zh' in (tmp_path / "r.html").read_text()


def test_json_holds_the_numbers_that_were_filed(assay: Run, place: Path, tmp_path: Path) -> None:
    words = ("--probes", PROBES, "--policy", easy(place), "--out", tmp_path / "d", "--json")
    found = json.loads(assay("audit", "system", *words).out)
    filed = load_dossier(tmp_path / "d")
    assert found["evidence_id"] == filed.evidence_id
    shown = {(m["probe"], m["metric"], m["slice"]): m["value"] for m in found["measurements"]}
    assert shown == {m.key: m.value for m in filed.measurements}


def test_no_progress_and_no_colour_without_a_terminal(assay: Run, place: Path, tmp_path: Path) -> None:
    for words in all_verbs(place, tmp_path):
        told = assay(*words)
        assert told.err == "", words
        assert "\x1b" not in told.out, words


# ------------------------------------------------------------------ mistakes


# A command with one mistake, and what the answer must hold: the value, what is allowed or the next step.
MISTAKES = {
    "unknown verb": ("adit", "'adit'", "audit, choose, compare", "assay --help"),
    "unknown probe": ("audit system --probes acuracy", "'acuracy'", "accuracy, area_under_roc"),
    "unknown treatment": ("treat system --with quantise", "'quantise'", "quantize_int8"),
    "unknown pair": ("compare system --treatments distill+nope", "'nope'", "dp_sgd"),
    "unknown option": ("audit system --polciy x", "--polciy", "--policy", "assay audit --help"),
    "unknown setting": ("treat system --with prune_magnitude --set share=1 --out spoilt", "'share'", "sparsity"),
    "setting without value": ("treat system --with prune_magnitude --set sparsity --out spoilt", "name=value"),
    "setting out of range": (
        "treat system --with prune_magnitude --set sparsity=2 --out spoilt",
        "sparsity is 2",
        "0 to below 1",
    ),
    "missing argument": ("audit", "system", "assay audit --help"),
    "missing label": ("train loans.csv --out spoilt", "loans.csv", "--label COLUMN"),
    "wrong label": ("train loans.csv --label pay --out spoilt", "'pay'", "paid"),
    "wrong group": ("train loans.csv --label paid --groups gender --out spoilt", "'gender'", "sex"),
    "missing file": ("train none.csv --label a --out spoilt", "none.csv", "does not exist", "Check the path"),
    "pickle": ("audit model.pkl --data loans.csv --label paid", "model.pkl", "safetensors, ONNX or GGUF", "to_onnx"),
    "torch file": (
        "audit model.pt --data loans.csv --label paid",
        "model.pt",
        "safetensors, ONNX or GGUF",
        "save_file",
    ),
    "joblib file": ("audit model.joblib --data loans.csv --label paid", "model.joblib", "ONNX", "to_onnx"),
    "bad policy": ("audit system --policy bad.toml", "'requird'", "required, note"),
    "unknown policy": ("audit system --policy lenient", "'lenient'", "default, strict"),
    "wrong folder": ("verify empty", "empty", "the folder of a dossier", "assay audit SYSTEM"),
    "no folder": ("report nowhere", "nowhere", "a dossier's folder"),
    "no system": ("audit sistem", "'sistem'", "a system folder", "assay train adult --out system"),
    "language": ("report dossier --lang fr", "'fr'", "en, zh"),
    "kind of list": ("list models", "'models'", "probes, treatments"),
    "word for a number": ("train adult --seed one", "--seed", "integer", "assay train --help"),
    "file for a folder": (f"audit system --out loans.csv --probes {PROBES}", "loans.csv", "a folder"),
    "file for the cache": (f"audit system --cache loans.csv --probes {PROBES}", "loans.csv", "cannot be made"),
    "treated in place": ("treat system --with distill --out system", "another folder"),
    "no such module": ("audit nomodule:make", "nomodule", "Run it from the folder"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_with_what_is_allowed(assay: Run, place: Path, name: str) -> None:
    spoil(place)
    before = sorted(place.rglob("*"))
    command, *needed = MISTAKES[name]
    told = assay(*command.split())
    assert told.code == 2
    assert told.out == ""
    assert told.err.startswith("assay: ")
    assert len(told.err.strip().splitlines()) == 1, "one sentence for one mistake"
    assert "Traceback" not in told.err
    assert "defect" not in told.err
    for part in needed:
        assert part in told.err, told.err
    after = [path for path in sorted(place.rglob("*")) if ".assay" not in path.parts and "plans" not in path.parts]
    assert after == [path for path in before if ".assay" not in path.parts and "plans" not in path.parts]


def spoil(place: Path) -> None:
    """Files to make mistakes with. The pickles are harmless, and are never opened."""
    (place / "model.pkl").write_bytes(b"\x80\x04K\x01.")
    (place / "model.joblib").write_bytes(b"\x80\x04K\x01.")
    with zipfile.ZipFile(place / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x04K\x01.")
    rule = '[[rule]]\nid = "a"\nmetric = "accuracy"\nat_least = 1\nrequird = true\n'
    (place / "bad.toml").write_text(f'name = "x"\nversion = "1"\n{rule}')
    (place / "empty").mkdir(exist_ok=True)


def test_every_problem_of_a_file_is_told_at_once(assay: Run, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("age,paid\n1,yes\nold,no\n3,\n" + "4,yes\n5,no\n" * 10)
    told = assay("train", tmp_path / "rows.csv", "--label", "pay", "--groups", "sex,race", "--out", tmp_path / "s")
    assert told.code == 2
    assert all(f"'{name}'" in told.err for name in ("pay", "sex", "race"))


def test_a_defect_of_our_own_leaves_a_log_and_no_traceback(assay: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Ran:
        raise ZeroDivisionError("made for this test")

    monkeypatch.setattr("assay.commands.listing.run", broken)
    told = assay("list")
    assert told.code == 2
    assert "ZeroDivisionError: made for this test" in told.err
    assert "Traceback" not in told.err
    log = Path(re.findall(r"in (\S+\.log)\.", told.err)[0])
    assert "Traceback" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0
    log.unlink()
