"""A stop at any moment, a full disk or a kill leaves the previous dossier whole, and what was measured is not lost."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from assay import dossier, engine, story
from assay.cli import main
from assay.dossier import load_dossier, verify_dossier
from assay.errors import StorageError
from assay.models.adapters.endpoint import CallableModel
from assay.observe import Workspace
from assay.values import Data
from cli_kit import Run, runner, start, write_policy, write_table

PROBES = "accuracy,balanced_accuracy,group_shares,probability_loss,input_noise"


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too, with its digest."""
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def hidden(folder: Path) -> list[str]:
    """Leftovers of writers: temporary files and folders."""
    return [path.name for path in folder.rglob(".*") if ".tmp-" in path.name]


# ------------------------------------------------------------------ Ctrl-C


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    write_table(folder / "loans.csv")
    write_policy(folder / "easy.toml", accuracy=0.01)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSAY_HOME", str(folder / "home"))
        patch.chdir(folder)
        for words in (
            "train loans.csv --label paid --groups sex --out system",
            "audit system --probes accuracy --policy easy.toml --out dossier --cache other",
        ):
            with pytest.raises(SystemExit) as stopped:
                main(words.split())
            assert stopped.value.code == 0
    return folder


@pytest.fixture(autouse=True)
def heeds_interrupts() -> Iterator[None]:
    """A shell starts background jobs with interrupts ignored; here they must count all the same."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def assay(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("ASSAY_HOME", str(place / "home"))
    monkeypatch.chdir(place)
    return runner(capsys)


def stop_at(call: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, interrupted by a real signal to this process at its call-th call."""
    calls = iter(range(call + 1))

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if next(calls, None) == call:
            os.kill(os.getpid(), signal.SIGINT)
        return function(*arguments, **options)

    return interrupted


@pytest.mark.parametrize("call", range(5))
def test_stopped_at_a_probe_the_rest_is_remembered(
    assay: Run, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    before = tree(place / "dossier")
    words = ("audit", "system", "--probes", PROBES, "--policy", "easy.toml", "--cache", tmp_path, "--out", "dossier")
    with monkeypatch.context() as patch:
        patch.setattr(engine, "measure", stop_at(call, engine.measure))
        told = assay(*words)
    assert told.code == 130
    assert told.out == ""
    assert told.err.strip() == "assay: interrupted; nothing is half-written, and what was measured is remembered."
    assert tree(place / "dossier") == before
    assert hidden(place) == []
    plan = json.loads(assay(*words, "--plan", "--json").out)["plan"]
    assert sum(len(one["probes"]) for one in plan["passes"] if one["cached"]) == call


@pytest.mark.parametrize(("owner", "name"), [(Path, "mkdir"), (dossier, "_write"), (Path, "chmod")])
def test_stopped_while_filing_the_previous_dossier_stays(
    assay: Run, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    before = tree(place / "dossier")
    assert before
    probes = ("--probes", "accuracy,balanced_accuracy", "--policy", "easy.toml", "--cache", tmp_path)
    assert assay("audit", "system", *probes, "--out", tmp_path / "d").code == 0  # everything is measured
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stop_at(1, getattr(owner, name)))
        assert assay("audit", "system", *probes, "--out", "dossier").code == 130
    assert tree(place / "dossier") == before
    assert hidden(place) == []


@pytest.mark.slow
def test_a_real_interrupt_at_any_moment_exits_130_and_shows_no_traceback(place: Path, tmp_path: Path) -> None:
    words = ("audit", "system", "--policy", "easy.toml", "--cache", tmp_path / "c", "--out", tmp_path / "d")
    began = time.perf_counter()
    process = start(*words, cwd=place, home=place / "home")
    process.communicate()
    assert process.returncode == 0
    whole, rng, codes = time.perf_counter() - began, random.Random(3), []
    before = tree(tmp_path / "d")
    for number in range(8):
        again = (
            "audit",
            "system",
            "--policy",
            "easy.toml",
            "--cache",
            tmp_path / f"c{number}",
            "--out",
            tmp_path / "d",
        )
        process, began = start(*again, cwd=place, home=place / "home"), time.perf_counter()
        try:  # the first half is Python starting
            out, err = process.communicate(timeout=whole * rng.uniform(0.5, 0.95))
            whole = time.perf_counter() - began  # the machine was busier before: the next stop has to come sooner
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=120)
        codes.append(process.returncode)
        assert process.returncode in (0, 130, -signal.SIGINT), (out, err)  # a shell shows the last two as 130
        assert "Traceback" not in err
        if process.returncode < 0:
            # Ended by the signal: Python's own way out after its work; or from inside an `exec` (a dataclass that was
            # being made), after which it ends so however the interrupt was handled; or before it took signals over.
            said = err.startswith("assay: interrupted")
            assert "next: assay report" in out or said or (out, err) == ("", ""), (out, err)
        if process.returncode == 130:
            assert err.startswith("assay: interrupted")
        # The earlier dossier stands, or the new one whole: a stop can come after it is filed and before that is told. A
        # mix of the two would fail the check of its signed digests.
        after = tree(tmp_path / "d")
        filed = after["statement.dsse.json"] != before["statement.dsse.json"]
        assert filed or after == before
        assert filed or "next: assay report" not in out
        before = after
        assert verify_dossier(tmp_path / "d").ok
        assert hidden(tmp_path / "d") == []
    assert {130, -signal.SIGINT} & {*codes}


# ------------------------------------------------------------------ a full disk


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """Any write beyond so many bytes of a file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def a_system(data: Data, slope: float) -> Any:
    import numpy as np

    def odds(inputs: Any) -> Any:
        score = slope * (inputs[:, 0] - 50)
        return np.stack([np.zeros_like(score), score], axis=1)

    return story.system_of(CallableModel(odds, name=f"slope {slope}", outputs_are="logits"), data)


def test_a_full_disk_while_filing_keeps_the_previous_dossier(tiny_data: Data, tmp_path: Path) -> None:
    workspace = Workspace(key=b"k", num_draws=50)
    names = ["accuracy", "group_error_rates"]
    old = story.audit(a_system(tiny_data, 0.05), probes=names, workspace=workspace)
    new = story.audit(a_system(tiny_data, 0.01), probes=names, workspace=workspace)
    story.file(old, tmp_path / "d")
    before, failed = tree(tmp_path), 0
    for limit in (0, 1, 100, 1000, 3000, 10_000):
        with files_of_at_most(limit), pytest.raises(StorageError) as caught:
            story.file(new, tmp_path / "d")
        failed += 1
        assert len(caught.value.problems) == 1
        assert "ulimit" in str(caught.value)
        assert tree(tmp_path) == before, limit
    assert failed == 6
    dossier = story.file(new, tmp_path / "d")
    assert dossier.system_digest == new.audit.system.digest
    assert verify_dossier(tmp_path / "d").ok


@pytest.mark.parametrize("limit", [0, 100, 2000, 20_000])
def test_a_full_disk_while_auditing_is_one_error_and_the_cache_stays_sound(
    tiny_data: Data, tmp_path: Path, limit: int
) -> None:
    names = ["accuracy", "input_noise", "group_error_rates"]
    workspace = Workspace(tmp_path / "cache", key=b"k", num_draws=50)
    system = a_system(tiny_data, 0.05)
    found = None
    with files_of_at_most(limit), suppress(StorageError):
        found = engine.audit(system, probes=names, workspace=workspace)
    if found is not None:
        assert all(one.value is not None or one.reason for one in found.measurements)
    assert hidden(tmp_path) == []
    after = engine.audit(system, probes=names, workspace=workspace)
    expected = engine.audit(system, probes=names, workspace=Workspace(key=b"k", num_draws=50))
    assert [one.digest for one in after.measurements] == [one.digest for one in expected.measurements]


# ------------------------------------------------------------------ kill -9

SCRIPT = '''
"""Run a comparison in a child again and again, kill the child at random moments, look at what is left each time."""
import json, os, random, shutil, signal, sys, time
from pathlib import Path

import torch  # noqa: F401  (loaded once, before any fork)

from assay import registry, story
from assay.dossier import verify_dossier
from assay.models import Architecture
from assay.observe import Workspace
from assay.policy import parse_policy
from assay.sealed_module import recompute
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.values import Data
from support import COLUMNS, GROUP_COLUMNS, make_split

folder, wanted = Path(sys.argv[1]), int(sys.argv[2])
registry.load()
TREATMENTS = ["prune_magnitude", "reweigh_groups", "quantize_int8"]
TIMED = {name for name, one in registry.PROBES.items() if "meter" in one.access}


def work(place):
    splits = {"train": make_split(400, 1, 1), "validation": make_split(60, 2, 501), "test": make_split(240, 3, 601)}
    data = Data("tiny", COLUMNS, "label", GROUP_COLUMNS, splits, ("no", "yes"), "yes")
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [8]}), task_of(data), TrainSettings(epochs=3))
    workspace = Workspace(place / "cache", key=b"owner", num_draws=100, num_references=2)
    compared = story.compare_treatments(train_system(data, recipe=recipe), TREATMENTS, workspace=workspace)
    tables = {"matrix": story.matrix_facts(compared)}
    for one in compared.judged:
        story.file(one, place / "out" / one.audit.system.name, tables=tables)
    numbers = {one.audit.system.name: [m.digest for m in one.audit.measurements if m.probe not in TIMED]
               for one in compared.judged}
    (place / "numbers.json").write_text(json.dumps(numbers))


def child(place):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work(place)
            code = 0
        finally:
            os._exit(code)
    return pid


def look(place):
    """Every dossier that can be seen is whole: the previous one or the next, nothing between."""
    for one in sorted((place / "out").iterdir()):
        if not one.name.startswith("."):
            found = verify_dossier(one)
            assert found.intact and found.ok, (one, found.problems)
    return {one.name for one in (place / "out").iterdir() if not one.name.startswith(".")}


unbroken = folder / "unbroken"
started = time.monotonic()
_, status = os.waitpid(child(unbroken), 0)
assert status == 0
whole = time.monotonic() - started
names = look(unbroken)
rng, kills, sequence, moments = random.Random(7), 0, 0, []
while kills < wanted:
    place = folder / str(sequence)
    place.mkdir()
    shutil.copytree(unbroken / "out", place / "out")  # the previous dossiers, which must survive every kill
    sequence += 1
    for _ in range(8):
        pid = child(place)
        time.sleep(rng.uniform(0, 0.7 * whole))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        kills += os.WIFSIGNALED(status)
        assert look(place) == names, "a dossier was lost"
    moments.append(len(list((place / "cache").rglob("*"))))
    _, status = os.waitpid(child(place), 0)
    assert status == 0, "it does not resume"
    assert json.loads((place / "numbers.json").read_text()) == json.loads((unbroken / "numbers.json").read_text())
    assert look(place) == names
    left = [one.name for one in place.rglob("*") if ".tmp-" in one.name and "cache" not in one.parts]
    assert not left, left
    for name in names:
        assert verify_dossier(place / "out" / name, recompute=recompute).ok
print(json.dumps({"kills": kills, "sequences": sequence, "entries": moments, "seconds": whole}))
'''


@pytest.mark.slow
def test_killed_at_random_moments_it_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    script = tmp_path / "killer.py"
    script.write_text(SCRIPT.replace("assay.sealed_module", story.sealed_files.__module__))
    environment = {
        **os.environ,
        "ASSAY_HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    command = [sys.executable, str(script), str(tmp_path / "places"), "20"]
    (tmp_path / "places").mkdir()
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=540, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    told = json.loads(ran.stdout)
    assert told["kills"] >= 20
    assert load_dossier(tmp_path / "places" / "0" / "out" / "baseline").verdict
