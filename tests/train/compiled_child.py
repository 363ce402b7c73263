"""Train one network eagerly and compiled, in a process of its own, and say whether they became the same network."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
from test_updates import TASK, TRAIN, network

from assay.train import TrainSettings, fit

if __name__ == "__main__":
    settings = TrainSettings(epochs=2, batch_size=50)
    eager, compiled = network(), network()
    fit(eager, TRAIN, task=TASK, settings=settings)
    fit(compiled, TRAIN, task=TASK, settings=replace(settings, compile=True))
    states = eager.state_dict(), compiled.state_dict()
    for one, two in zip(*(state.values() for state in states), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    sys.stdout.write(f"equal {len(states[0])}\n")
