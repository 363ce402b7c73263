"""A small trained system, and policies made for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from assay.models import Architecture
from assay.observe import Workspace
from assay.policy import Policy, parse_policy
from assay.tasks import Classification
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.values import Data, System
from support import COLUMNS, GROUP_COLUMNS, make_split


@pytest.fixture(scope="package")
def system() -> System:
    splits = {"train": make_split(900, 1, 1), "validation": make_split(400, 2, 901), "test": make_split(900, 3, 1301)}
    data = Data("small", COLUMNS, "label", GROUP_COLUMNS, splits, ("no", "yes"), "yes")
    settings = TrainSettings(epochs=8, batch_size=128)
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [48, 48]}), Classification(("no", "yes"), "yes"), settings)
    return train_system(data, name="small", recipe=recipe, seed=3)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    return Workspace(folder=tmp_path / "cache", key=b"owner", num_draws=200)


@pytest.fixture
def policy() -> Callable[..., Policy]:
    """Rules as (metric, kind, bound), or (metric, kind, bound, slice)."""

    def make(*rules: tuple[object, ...]) -> Policy:
        text = 'name = "own"\nversion = "1"\nlevel = 0.95\n'
        for metric, kind, bound, *where in rules:
            text += f'[[rule]]\nid = "{metric}"\nmetric = "{metric}"\n{kind} = {bound}\n'
            text += "".join(f'slice = "{one}"\n' for one in where)
        return parse_policy(text.encode())

    return make
