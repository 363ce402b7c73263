"""What each process of a team runs in the tests: one training, whose weights and losses rank 0 writes down."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from assay.models import Architecture
from assay.models.attention import MultiHeadAttention
from assay.tasks import task_of
from assay.train.checkpoints import Checkpoints
from assay.train.distributed import Team, team
from assay.train.recipe import TrainRecipe
from assay.train.settings import TrainSettings
from assay.values import Column, Data, Fitted, Groups, Split
from support import small_images, small_texts

ARCHITECTURES = {
    "table": Architecture("mlp", {"hidden": [15, 8], "num_bins": 4}),
    "image": Architecture("cnn_residual", {"width": 8, "norm": "group"}),
    "text": Architecture("transformer", {"dim": 16}),
    "gru": Architecture("gru", {"dim": 8, "num_hidden": 8}),
}


class Still(TrainRecipe):
    """A recipe without dropout: each process draws its own, so that with it two are not one."""

    def make_module(self, split: Split, data: Data, seed: int) -> nn.Module:
        module = super().make_module(split, data, seed)
        for layer in module.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
            elif isinstance(layer, MultiHeadAttention):
                layer.dropout = 0.0
        return module


def small_table() -> Data:
    rng = np.random.default_rng(0)
    columns = tuple(Column(f"x{place}", "numeric", low=-3, high=3) for place in range(5))
    inputs = rng.normal(size=(300, 5)).astype(np.float32)
    labels = (inputs[:, 0] * inputs[:, 1] > 0).astype(np.int64)
    whole = Split(inputs, labels, Groups(np.zeros((300, 0), np.int16), ()), np.arange(1, 301))
    parts = {"train": (0, 201), "validation": (201, 250), "test": (250, 300)}
    splits = {name: whole.take(np.arange(*ends)) for name, ends in parts.items()}
    return Data("table", columns, "label", (), splits, ("no", "yes"), "yes")


def data_of(kind: str) -> Data:
    if kind == "table":
        return small_table()
    return small_images(300) if kind == "image" else small_texts(300)


def recipe_of(kind: str) -> TrainRecipe:
    # 201 training rows in batches of 40: the last batch has one row, fewer than there are processes.
    chosen = TrainSettings(epochs=2, batch_size=40, learning_rate=5e-3, average=0.9, patience=2)
    return Still(ARCHITECTURES[kind], task_of(data_of(kind)), chosen)


class Mortal(Team):
    """A team of which rank 1 is killed at its call-th batch."""

    def rows(self, batch: torch.Tensor) -> tuple[torch.Tensor, float]:
        calls.append(1)
        if self.rank == 1 and len(calls) == int(os.environ["KILL_AT"]):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().rows(batch)


calls: list[int] = []


def main(kind: str, mode: str, folder: Path) -> None:
    torch.set_num_threads(1)
    data = data_of(kind)
    with team(mode) as found:  # type: ignore[arg-type]
        kind_of_team = Mortal if "KILL_AT" in os.environ else Team
        workers = kind_of_team(found.mode, found.rank, found.size, found.device)
        checkpoints = Checkpoints(folder / "checkpoints", every_steps=3)
        fitted = replace(recipe_of(kind), workers=workers, checkpoints=checkpoints).fit(data.splits["train"], data, 7)
        if workers.leads:
            write(fitted, folder)


def write(fitted: Fitted, folder: Path) -> None:
    """Weights and losses, for the test to compare."""
    state = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in fitted.model.module.state_dict().items()}  # type: ignore[attr-defined]
    save_file(state, folder / "weights.safetensors")
    curve = [[point["train_loss"], point["validation_loss"]] for point in fitted.facts["curve"]]
    told = {"curve": curve, "workers": fitted.facts.get("workers", 1), "resumed": fitted.facts["resumed"]}
    (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
