"""How a system was trained, as a value: what reference models and replicates are made with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from assay.models import Architecture, FitsEncoding, build, resolve
from assay.models.adapters.module import ModuleModel, OutputsAre
from assay.train.checkpoints import Checkpoints
from assay.train.loop import Hooks, Loss, fit
from assay.train.settings import TrainSettings
from assay.train.traces import FACT, LossTrace
from assay.train.workers import Alone, Workers
from assay.values import Column, Data, Fitted, Progress, Split, Task, digest_of, plain, quiet


@dataclass(frozen=True)
class TrainRecipe:
    """Build the architecture, fit its encoding on the split, train it by `assay.train.fit`.

    A treatment wraps it: a frozen class with its own `digest` and `fit` that calls `make_module` and its own loop.
    """

    architecture: Architecture
    task: Task
    settings: TrainSettings = field(default_factory=TrainSettings)
    progress: Progress = field(default=quiet, compare=False, repr=False)
    checkpoints: Checkpoints | None = field(default=None, compare=False, repr=False)
    workers: Workers | None = field(default=None, compare=False, repr=False)  # the processes that train together
    is_watched: bool = field(default=False, compare=False, repr=False)  # whether the curve shows the validation split
    is_traced: bool = field(default=False, compare=False, repr=False)  # whether the facts keep each row's losses

    @cached_property
    def digest(self) -> str:
        """Of architecture, task and settings; not of the data."""
        drawn = ["augmentation has a stream of its own"] if self.settings.augment else []  # other weights than before
        return digest_of(["TrainRecipe", self.architecture, self.task.digest, self.settings, *drawn])

    def to_json(self) -> dict[str, Any]:
        """Name and parameters as plain data; the task comes from the data again."""
        architecture = {"name": self.architecture.name, "params": plain(self.architecture.params)}
        return {"name": "train", "architecture": architecture, "settings": plain(self.settings)}

    def make_module(self, split: Split, data: Data, seed: int) -> nn.Module:
        """An untrained module, initialised by `seed`, its encoding fitted on `split` if it has one to fit."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            architecture = self.architecture
            module = build(
                architecture.name,
                columns=data.columns,
                num_outputs=self.task.num_outputs,
                params=architecture.params,
            )
        if isinstance(module, FitsEncoding):
            module.fit_encoding(split)
        return module

    def resolved(self, columns: Sequence[Column]) -> TrainRecipe:
        """The same recipe with every parameter of the architecture written out; see `assay.models.resolve`."""
        return replace(self, architecture=resolve(self.architecture, columns))

    def wrap(self, module: nn.Module, columns: Sequence[Column]) -> ModuleModel:
        """A trained module as a model of this recipe's task and of its architecture, every parameter written out."""
        outputs_are: OutputsAre = "values" if self.task.name == "regression" else "logits"
        return ModuleModel(module, outputs_are=outputs_are, architecture=resolve(self.architecture, columns))

    def fit_by(self, loss: Loss, split: Split, data: Data, seed: int) -> Fitted:
        """Train from scratch on `split` by another loss, in this process; the rest is as in `fit`."""
        module = self.make_module(split, data, seed)
        validation = data.splits.get("validation") if self.settings.patience or self.is_watched else None
        hooks = Hooks(progress=self.progress, validation=validation, loss=loss, columns=data.columns)
        facts = fit(module, split, task=self.task, settings=self.settings, seed=seed, hooks=hooks)
        return Fitted(self.wrap(module, data.columns), facts)

    def fit(self, split: Split, data: Data, seed: int) -> Fitted:
        """Train from scratch on `split`; with `patience`, the validation split of `data` says when to stop."""
        module = self.make_module(split, data, seed)
        trace = LossTrace(len(split)) if self.is_traced else None
        hooks = Hooks(
            progress=self.progress,
            validation=data.splits.get("validation") if self.settings.patience or self.is_watched else None,
            columns=data.columns,
            checkpoints=self.checkpoints,
            workers=self.workers or Alone(),
            trace=trace,
        )
        facts: Mapping[str, Any] = fit(module, split, task=self.task, settings=self.settings, seed=seed, hooks=hooks)
        if trace is not None:
            facts = {**facts, FACT: trace.losses()}
        if hooks.workers.is_sharded:
            state = {name: hooks.workers.whole(tensor).cpu() for name, tensor in module.state_dict().items()}
            module = self.make_module(split, data, seed).eval()
            module.load_state_dict(state)
        return Fitted(self.wrap(module, data.columns), facts)
