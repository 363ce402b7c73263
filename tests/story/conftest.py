"""An owner of its own for every test: no key, plan or cache is shared with the person who runs the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from assay.values import Data
from support import COLUMNS, GROUP_COLUMNS, make_split


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("ASSAY_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def tiny_data() -> Data:
    splits = {"train": make_split(400, 1, 1), "validation": make_split(60, 2, 501), "test": make_split(240, 3, 601)}
    return Data("tiny", COLUMNS, "label", GROUP_COLUMNS, splits, ("no", "yes"), "yes")
