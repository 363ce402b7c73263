"""Never a higher robust accuracy than AutoAttack's published code found on the same network and rows."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from assay import registry
from assay.data.sources import mnist
from assay.data.sources.cache import is_cached

ROOT = Path(__file__).resolve().parents[2]
(RECORD,) = json.loads((Path(__file__).parent / "autoattack.json").read_text("utf-8"))
pytestmark = pytest.mark.slow


def test_the_adversarially_trained_network_is_not_called_more_robust_than_autoattack_does(monkeypatch, capsys):
    if not is_cached(mnist.SOURCE):
        pytest.skip("MNIST was not fetched: assay data fetch mnist")
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    from benchmarks.robust_accuracy import NUM_TRAIN, networks, ours

    registry.load()
    data = mnist.load_mnist()
    train = data.splits["train"].take(np.arange(NUM_TRAIN))
    system = networks(None, replace(data, splits={**data.splits, "train": train}))["adversarial"]
    if system.model.digest != RECORD["digest"]:
        pytest.skip("this machine's arithmetic gives another network than the one that was attacked")
    found = ours(system, RECORD["num"], norm=RECORD["norm"], radius=RECORD["radius"])
    mine, theirs = set(found.holds), set(RECORD["holds"])
    assert len(mine) <= len(theirs)  # measured: 192 and 193
    assert len(theirs - mine) <= 4
    assert len(mine - theirs) <= 1
    assert found.forward + found.both < (RECORD["forward"] + RECORD["both"]) / 5
