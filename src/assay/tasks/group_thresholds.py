"""A decision rule with its own thresholds in each group, mixed at random but fixed for each person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from assay.digests import Array, digest_of
from assay.errors import ModelError, Problem
from assay.parts import Groups
from assay.tasks.lottery import drawn_numbers

ALWAYS = 0.0  # a threshold every probability reaches
NEVER = 2.0  # a threshold no probability reaches


@dataclass(frozen=True)
class Mixture:
    """For one group: threshold `thresholds[k]` is used with probability `weights[k]`."""

    group: tuple[str, ...]  # one category per column; empty = everyone without a mixture of their own
    thresholds: tuple[float, ...]
    weights: tuple[float, ...]

    def chance(self, probabilities: Array) -> Array:
        """P(selected) `(N,)` = sum_k weights[k] [probability >= thresholds[k]]: never falls as probability rises."""
        reached = probabilities[:, None].astype(np.float64) >= np.asarray(self.thresholds)
        # A person who reaches every threshold is selected for certain, whatever the weights' last digit.
        return np.where(reached.all(axis=1), 1.0, reached @ np.asarray(self.weights, dtype=np.float64))


@dataclass(frozen=True)
class GroupThresholds:
    """Binary: selected when a fixed number u in [0, 1) of the person is below the group's chance at this probability.

    `chance_g(p) = sum_k w_gk [p >= t_gk]`, `u = BLAKE2b(key, input row) / 2^64`. The same row always gets the same
    answer, and within a group nobody is less likely to be selected than someone with a lower probability.

    Limits: needs the sensitive columns when it is used. Between the lowest and highest threshold of a group the
    answer is a lottery; a change of any input draws a new number. People whose inputs are equal share one draw.

    >>> rule = GroupThresholds(("sex",), 1, (Mixture(("Female",), (0.3,), (1.0,)),), Mixture((), (0.5,), (1.0,)), "k")
    >>> from assay.parts import Column
    >>> people = Groups(np.array([[0], [1]]), (Column("sex", "categorical", ("Female", "Male")),))
    >>> rule.decide(np.array([[0.6, 0.4], [0.6, 0.4]]), np.zeros((2, 1), np.float32), people)
    array([1, 0])
    """

    columns: tuple[str, ...]
    positive: int
    mixtures: tuple[Mixture, ...]
    fallback: Mixture
    key: str

    name: ClassVar[str] = "group_thresholds"
    needs_groups: ClassVar[bool] = True

    @cached_property
    def digest(self) -> str:
        """Over the thresholds, their weights, the columns read and the key of the lottery."""
        return digest_of(self.to_json())

    def decide(self, probabilities: Array, inputs: Array, groups: Groups) -> Array:
        """`(N, 2)` to class indices `(N,)` int64; -1 for an errored example. ModelError when a column is missing."""
        chance = self.chances(probabilities, groups)
        selected = chance >= 1
        lottery = np.flatnonzero((chance > 0) & (chance < 1))
        selected[lottery] = drawn_numbers(inputs[lottery], self.key) < chance[lottery]
        answer = np.where(selected, self.positive, 1 - self.positive).astype(np.int64)
        return np.where(np.isnan(chance), -1, answer)

    def chances(self, probabilities: Array, groups: Groups) -> Array:
        """P(selected) of each person over the lottery, `(N,)`; NaN for an errored example."""
        if probabilities.ndim != 2 or probabilities.shape[1] != 2:
            raise ModelError(
                Problem(f"group thresholds were given probabilities of shape {probabilities.shape}", "(N, 2)")
            )
        positive = probabilities[:, self.positive]
        chance = self.fallback.chance(positive)
        names = self._names(groups)
        for mixture in self.mixtures:
            member = np.ones(len(positive), dtype=bool)
            for column, category in zip(names, mixture.group, strict=True):
                member &= column == category
            chance[member] = mixture.chance(positive[member])
        chance[np.isnan(probabilities).any(axis=1)] = np.nan
        return chance

    def _names(self, groups: Groups) -> list[Array]:
        known = [column.name for column in groups.columns]
        missing = [name for name in self.columns if name not in known]
        if missing:
            following = "Send them with each request: this rule treats groups differently"
            raise ModelError(
                Problem(f"no group column {', '.join(missing)}", ", ".join(known) or "none sent", following)
            )
        result = []
        for name in self.columns:
            at = known.index(name)
            categories = np.array(
                [*groups.columns[at].categories, ""], dtype=object
            )  # code -1 reads the last: no group
            result.append(categories[np.asarray(groups.codes[:, at], dtype=np.int64)])
        return result

    def to_json(self) -> dict[str, Any]:
        """Name and parameters as plain data; `group_thresholds_from_json` reads it back."""
        return {
            "name": self.name,
            "columns": list(self.columns),
            "positive": self.positive,
            "mixtures": [_mixture_to_json(mixture) for mixture in self.mixtures],
            "fallback": _mixture_to_json(self.fallback),
            "key": self.key,
        }


def _mixture_to_json(mixture: Mixture) -> dict[str, Any]:
    return {
        "group": list(mixture.group),
        "thresholds": list(mixture.thresholds),
        "weights": list(mixture.weights),
    }


def _mixture_from_json(value: Mapping[str, Any], num_columns: int) -> Mixture:
    thresholds = tuple(float(item) for item in value["thresholds"])
    weights = tuple(float(item) for item in value["weights"])
    group = tuple(str(item) for item in value["group"])
    good = len(thresholds) == len(weights) > 0 and all(weight >= 0 for weight in weights)
    if not good or abs(sum(weights) - 1) > 1e-9 or not np.isfinite(thresholds).all() or len(group) != num_columns:
        raise ModelError(
            Problem(
                f"the thresholds of group {' & '.join(group) or 'everyone else'} cannot be used",
                "as many weights as thresholds, none negative, sum 1; one category per column",
            )
        )
    return Mixture(group, thresholds, weights)


def group_thresholds_from_json(value: Mapping[str, Any]) -> GroupThresholds:
    """The rule that `GroupThresholds.to_json` wrote. Raises ModelError when a part is missing or makes no sense."""
    try:
        columns = tuple(str(item) for item in value["columns"])
        mixtures = tuple(_mixture_from_json(item, len(columns)) for item in value["mixtures"])
        fallback = _mixture_from_json(value["fallback"], 0)
        positive, key = int(value["positive"]), str(value["key"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        allowed = "columns, positive, mixtures, fallback, key"
        raise ModelError(Problem(f"a group_thresholds rule cannot be read ({error})", allowed)) from error
    if positive not in {0, 1}:
        raise ModelError(Problem(f"positive is {positive}", "0 or 1"))
    return GroupThresholds(columns, positive, mixtures, fallback, key)
