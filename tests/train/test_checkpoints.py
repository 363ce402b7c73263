from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from assay.errors import ModelError, StorageError, UsageError
from assay.models import MLP, Architecture
from assay.models.adapters.module import digest_state
from assay.tasks import Classification, task_of
from assay.train import Checkpoints, Hooks, TrainSettings, fit, task_loss, train_system
from assay.train.checkpoints import load_newest
from assay.train.recipe import TrainRecipe
from assay.values import Data, Split
from support import COLUMNS, make_split

TASK = Classification(("no", "yes"), "yes")
TRAIN = make_split(300, 1, 1)
SETTINGS = TrainSettings(epochs=3, batch_size=50, average=0.9)


class Stop(Exception):
    """The test's own end of a run."""


def module() -> MLP:
    torch.manual_seed(0)
    made = MLP(COLUMNS, hidden=(8,), dropout=0.2)
    made.fit_encoding(TRAIN)
    return made


def run(
    folder: Path,
    *,
    split: Split = TRAIN,
    settings: TrainSettings = SETTINGS,
    seed: int = 0,
    loss: Callable[..., torch.Tensor] | None = None,
    stop_at: int = 0,
    accept_tainted: bool = False,
) -> tuple[str, dict[str, object]]:
    made, steps = module(), 0

    def count(_: torch.nn.Module) -> None:
        nonlocal steps
        steps += 1
        if steps == stop_at:
            raise Stop

    saved = Checkpoints(folder, every_steps=4, accept_tainted=accept_tainted)
    hooks = Hooks(checkpoints=saved, after_step=count, loss=loss)
    facts = fit(made, split, task=TASK, settings=settings, seed=seed, hooks=hooks)
    return digest_state(made, None, "")[0], facts


def test_a_run_that_stopped_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole, facts = run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "broken", stop_at=10)
    again, resumed = run(tmp_path / "broken")
    assert again == whole
    assert resumed["resumed"] == 1
    assert facts["resumed"] == 0
    for one, two in zip(facts["curve"], resumed["curve"], strict=True):
        assert one | {"seconds": 0} == two | {"seconds": 0}
    assert resumed["examples"] == 900
    assert resumed["curve"][-1]["seconds"] <= resumed["seconds"]
    finished, _ = run(tmp_path / "broken", stop_at=1)
    assert finished == whole, "a finished run is not trained again"


def test_the_last_two_are_kept_and_nothing_else(tmp_path: Path) -> None:
    run(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000016", "step-000000018"]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "broken", stop_at=10)
    newest = tmp_path / "broken" / "step-000000008"
    (newest / "state.safetensors").write_bytes(b"\0" * 100)
    assert run(tmp_path / "broken")[0] == whole
    for path in (tmp_path / "broken").iterdir():
        (path / "state.json").write_text("{}")
    with pytest.raises(StorageError, match=r"no checkpoint in .* is whole"):
        run(tmp_path / "broken")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seed": 1}, "seed"),
        ({"settings": replace(SETTINGS, learning_rate=1e-3)}, "settings"),
        ({"split": make_split(300, 2, 1)}, "training data"),
        ({"loss": task_loss(TRAIN, TASK)}, "hooks"),
    ],
)
def test_checkpoints_of_another_run_are_refused(tmp_path: Path, change: dict[str, object], what: str) -> None:
    with pytest.raises(Stop):
        run(tmp_path, stop_at=10)
    with pytest.raises(ModelError, match=f"of another run: it differs in {what}"):
        run(tmp_path, **change)  # type: ignore[arg-type]


def test_a_tainted_run_stops_at_once_and_never_goes_on_silently(tmp_path: Path) -> None:
    broken, steps = True, 0

    def loss(outputs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += 1
        return task_loss(TRAIN, TASK)(outputs, rows) * (float("inf") if broken and steps == 9 else 1.0)

    with pytest.raises(ModelError, match=r"loss became inf at step 9.*last good checkpoint is .*step-000000008"):
        run(tmp_path, loss=loss)
    assert (tmp_path / "step-000000008").is_dir()
    assert not (tmp_path / "step-000000009").exists()
    with pytest.raises(ModelError, match=r"tainted: the loss became inf at step 9.*step-000000008"):
        run(tmp_path, loss=loss)
    broken = False
    _, facts = run(tmp_path, loss=loss, accept_tainted=True)
    assert facts["tainted"] == {"what": "the loss became inf", "step": 9, "checkpoint": "step-000000008"}


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    settings = replace(SETTINGS, learning_rate=1e38, max_grad_norm=1e9, warmup=0, average=0.0)
    with pytest.raises(ModelError, match=r"finite|became"):
        run(tmp_path, settings=settings)
    found = load_newest(tmp_path, {}) if any(tmp_path.glob("step-*")) else None
    assert found is None or all(np.isfinite(tensor.float()).all() for tensor in found[0].values())


def test_settings_of_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="every_seconds"):
        Checkpoints(tmp_path, every_seconds=0)
    with pytest.raises(UsageError, match="every_steps"):
        Checkpoints(tmp_path, every_steps=-1)


def test_a_system_from_checkpoints(tmp_path: Path, small_data: Data) -> None:
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [8]}), task_of(small_data), TrainSettings(epochs=2))
    plain = train_system(small_data, recipe=recipe)
    saved = train_system(small_data, recipe=recipe, checkpoints=Checkpoints(tmp_path, every_steps=2))
    assert saved.digest == plain.digest
    assert saved.recipe is not None
    assert isinstance(saved.recipe, TrainRecipe)
    assert saved.recipe.checkpoints is None, "reference models are not saved into the folder of the first"
    assert saved.facts["curve"][0]["validation_loss"] > 0
    assert train_system(small_data, recipe=recipe, checkpoints=Checkpoints(tmp_path)).facts["resumed"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table", "image", "text", "regression"])
def test_kills_at_any_moment_change_no_bit(name: str, tmp_path: Path) -> None:
    """SIGKILL at random moments, at random storage calls, and (table) at every storage call of one save."""
    child = Path(__file__).parents[1] / "train_kit.py"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(child), name, str(tmp_path), "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["killed"]["between"] >= 7
    assert found["killed"]["inside"] >= 7 + found["positions"]
    assert [run["result"] for run in found["ended"]] == [found["whole"]["result"]] * len(found["ended"])
    assert sum(run["resumed"] for run in found["ended"]) >= 3
    assert found["same"] == found["positions"]
    assert (found["positions"] > 30) == (name == "table")
