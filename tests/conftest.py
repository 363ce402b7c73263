"""Fixtures that every test may use.

What is heavy is imported inside them: the process that only hands tests to the workers reads this file too.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from assay.observe import Workspace
    from assay.values import Data, System

os.environ.setdefault("ASSAY_KEY", "0f" * 32)  # no test makes a key in the home of whoever runs it
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes on two cores: threads would only get in the way


def pytest_collection() -> None:
    """While a million objects are imported, none of which dies, looking for dead ones is waste: most of a second."""
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def small_data() -> Data:
    from assay.values import Data
    from support import COLUMNS, GROUP_COLUMNS, make_split

    splits = {"train": make_split(1200, 1, 1), "validation": make_split(300, 2, 1201), "test": make_split(800, 3, 1501)}
    return Data("small", COLUMNS, "label", GROUP_COLUMNS, splits, ("no", "yes"), "yes")


@pytest.fixture
def known_system(small_data: Data) -> System:
    from assay.tasks import Argmax, task_of
    from assay.values import System
    from support import KnownModel

    return System("known", KnownModel(), small_data, task_of(small_data), Argmax())


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    from assay.observe import Workspace

    return Workspace(folder=tmp_path / "cache", key=b"owner", num_draws=200)


@pytest.fixture
def logged() -> Iterator[list[logging.LogRecord]]:
    """What is logged from INFO on. pytest's own way of catching it costs every test a millisecond, so it is off."""
    records: list[logging.LogRecord] = []
    handler, root = logging.Handler(), logging.getLogger()
    handler.emit = records.append  # type: ignore[method-assign]
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield records
    root.setLevel(level)
    root.removeHandler(handler)
