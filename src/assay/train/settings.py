"""Every number of a training run, as plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from assay.errors import Problem, UsageError

Optimizer = Literal["adamw", "adam", "sgd"]
Curve = Literal["cosine", "linear", "constant", "one_cycle", "step"]
ClassWeights = Literal["none", "balanced"]
Precision = Literal["float32", "bfloat16"]
Decay = Literal["all", "matrices"]


@dataclass(frozen=True)
class TrainSettings:
    """Every number of a training run; all of it is in the recipe's digest, and older files lack the later fields.

    `warmup` is the share of the steps during which the rate rises; the curves are in `assay.train.schedules`.
    `momentum` and `nesterov` are of sgd; adamw takes the decay off the weights, the others add it to the gradient.
    `decay` "matrices" leaves biases and norm parameters (one dimension) without weight decay. `class_weights`
    "balanced" gives every class the same total weight. `precision` "bfloat16" runs matrix products and convolutions
    in bfloat16 and keeps weights, sums and the loss in float32. `average` d keeps a running mean of the weights,
    d * mean + (1 - d) * weights after each step, and ends with it. `augment` names transforms of
    `assay.train.augment`, in order. `patience` counts epochs without a better validation loss; 0 = never stop.
    Training also stops after the epoch whose loss is at or below `stop_at_loss`, and after `max_steps` (0 = no end).
    Raises UsageError with every wrong number at once.

    >>> TrainSettings(epochs=3, curve="one_cycle").batch_size
    512
    """

    epochs: int = 8
    batch_size: int = 512
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    warmup: float = 0.15
    curve: Curve = "cosine"
    max_grad_norm: float = 5.0
    label_smoothing: float = 0.0
    patience: int = 0
    num_threads: int = 1  # small models are fastest with 1, and the weights then do not depend on the machine's cores
    optimizer: Optimizer = "adamw"
    momentum: float = 0.9
    nesterov: bool = False
    decay: Decay = "all"
    class_weights: ClassWeights = "none"
    precision: Precision = "float32"
    compile: bool = False
    average: float = 0.0
    augment: tuple[str, ...] = ()
    stop_at_loss: float | None = None
    max_steps: int = 0

    def __post_init__(self) -> None:
        given: object = self.augment  # JSON has lists, and a command line flip+crop:2
        named = given.split("+") if isinstance(given, str) else self.augment
        object.__setattr__(self, "augment", tuple(name for name in named if name))
        wrong = [
            Problem(f"{name} is {getattr(self, name)!r}", allowed)
            for name, (fine, allowed) in (self._numbers() | self._words()).items()
            if not fine
        ]
        if wrong:
            raise UsageError(wrong)

    def _numbers(self) -> dict[str, tuple[bool, str]]:
        """Name to (is it fine, what is allowed)."""
        return {
            "epochs": (self.epochs >= 1, "1 or more"),
            "batch_size": (self.batch_size >= 1, "1 or more"),
            "learning_rate": (0 < self.learning_rate < math.inf, "a positive number"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "0 or more"),
            "warmup": (0 <= self.warmup < 1, "0 to below 1"),
            "max_grad_norm": (self.max_grad_norm > 0, "a positive number"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "0 to below 1"),
            "num_threads": (self.num_threads >= 1, "1 or more"),
            "patience": (self.patience >= 0, "0 or more"),
            "momentum": (0 <= self.momentum < 1, "0 to below 1"),
            "nesterov": (
                not self.nesterov or (self.optimizer == "sgd" and self.momentum > 0),
                "only with sgd and a momentum above 0",
            ),
            "average": (0 <= self.average < 1, "0 to below 1"),
            "stop_at_loss": (self.stop_at_loss is None or math.isfinite(self.stop_at_loss), "a finite number"),
            "max_steps": (self.max_steps >= 0, "0 or more"),
        }

    def _words(self) -> dict[str, tuple[bool, str]]:
        choices = {
            "optimizer": Optimizer,
            "curve": Curve,
            "decay": Decay,
            "class_weights": ClassWeights,
            "precision": Precision,
        }
        return {
            name: (getattr(self, name) in get_args(kind), ", ".join(get_args(kind))) for name, kind in choices.items()
        }
