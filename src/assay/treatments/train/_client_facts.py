"""What is told of each client: its rows and labels, how well the model serves it, and what gives it away."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from assay.access.handles import keyed_rng
from assay.models import tensors
from assay.models.adapters.module import evaluation, rows_a_batch
from assay.train import task_loss
from assay.train.federation import Federation, LocalWork
from assay.units.told import FEWEST_ROWS
from assay.values import Array, Data, Split, Task

MOST_CLIENTS = 100
ALWAYS = 15  # so many entries are never taken for one per person
MOST_ROWS = 500  # of a client that are looked at
MOST_ATTACKED = 10  # clients whose update is looked at: it costs one more round of theirs


def client_facts(federation: Federation, work: LocalWork, split: Split, data: Data) -> dict[str, Any]:
    r"""By client, numbered from 0: rows, labels, and the final model on its rows, as `by_client`; what was left out.

    loss_gap: mean loss of validation rows, which no client has, minus that of the client's rows; with classes,
    validation rows are drawn to have the labels of its rows, so that a skew is not taken for a leak. update_auc: how
    well the loss under the weights that this client would send in one more round, which whoever is sent them can
    compute, tells its rows from those; 0.5 = not at all. It is told of the first ten, and where the aggregator sees
    updates. Nothing is told with epsilon, which would not cover it, of clients of fewer than ten rows, and of more than
    100 clients or as many as a split has rows; labels not where one has fewer than ten rows (see `told_labels`).
    """
    settings, rows = federation.settings, federation.rows
    if settings.epsilon is not None:
        return {"by_client": [], "by_client_left_out": "counts and losses of a client are not covered by epsilon"}
    sizes = {"least": min(rows), "median": float(statistics.median(rows)), "most": max(rows)}
    smallest = min(len(one) for one in data.splits.values() if len(one))
    if len(rows) > min(MOST_CLIENTS, max(ALWAYS, smallest - 1)):
        why = f"{len(rows)} clients: more than {MOST_CLIENTS}, or as many as a split has rows"
        return {"rows_by_client": sizes, "by_client": [], "by_client_left_out": why}
    look = _Look(federation, work, split, data.splits.get("validation"))
    return {"rows_by_client": sizes, "by_client": [look.at(client) for client in range(len(rows))]}


def told_labels(labels: Array, num_classes: int, *, skew: str) -> dict[str, Any]:
    """How many rows of a client `(N,)` have each label, unless some label has fewer than ten.

    A label without rows is told only where chance dealt the rows out: of a column's categories everybody can work out
    which client they are, and "none of them" would tell of each.

    >>> told_labels(np.zeros(30, dtype=int), 2, skew="labels:1")
    {'labels': [30, 0]}
    >>> told_labels(np.zeros(30, dtype=int), 2, skew="column:origin")
    {'labels_left_out': 'fewer than 10 rows of a label'}
    """
    counts = np.bincount(labels, minlength=num_classes)
    few = counts[(counts > 0) | skew.startswith("column:")] < FEWEST_ROWS
    if few.any():
        return {"labels_left_out": f"fewer than {FEWEST_ROWS} rows of a label"}
    return {"labels": counts.tolist()}


class _Look:
    """The final model's losses, and a place to put other weights for a moment."""

    def __init__(self, federation: Federation, work: LocalWork, split: Split, validation: Split | None) -> None:
        self.federation, self.work, self.split, self.task = federation, work, split, work.task
        self.others = validation if validation is not None and len(validation) else None
        self.by_label = {} if self.others is None else _by_label(self.others, self.task)

    def at(self, client: int) -> dict[str, Any]:
        """The facts of one client."""
        federation = self.federation
        rows = self.work.clients[client].numpy()
        if len(rows) < FEWEST_ROWS:
            return {"client": client, "left_out": f"fewer than {FEWEST_ROWS} rows"}
        rng = keyed_rng("client facts", str(federation.seed), str(client))
        seen = np.sort(rng.permutation(rows)[:MOST_ROWS])
        found: dict[str, Any] = {"client": client, "rows": len(rows)}
        labels = np.asarray(self.split.labels)
        if self.task.classes and labels.ndim == 1:
            found |= told_labels(labels[rows], len(self.task.classes), skew=federation.settings.skew)
        own, right = self._losses(self.split, seen)
        found |= {"loss": float(own.mean())} | ({} if right is None else {"accuracy": float(right.mean())})
        members, matched = self._matched(seen, rng)
        if self.others is None or not len(matched):
            return found
        others, _ = self._losses(self.others, matched)
        found["loss_gap"] = float(others.mean() - own[members].mean())
        if client < MOST_ATTACKED and not federation.settings.secure_sum:
            after = self._after_update(client, seen, matched)
            found["update_auc"] = _auc(-after[0][members], -after[1])
        return found

    def _after_update(self, client: int, seen: Array, matched: Array) -> tuple[Array, Array]:
        """Losses of its rows and of the others with the weights that the client would send in one more round."""
        federation, flat = self.federation, self.work.flat
        number = federation.settings.num_rounds
        self.work.module.train()
        with torch.random.fork_rng(devices=[]):
            for _ in self.work.updates(federation.weights, [client], number, federation.correction):
                flat.values.add_(federation.weights)  # an update is what changed
        own, _ = self._losses(self.split, seen)
        others, _ = self._losses(self.others or self.split, matched)
        flat.values.copy_(federation.weights)
        return own, others

    def _matched(self, rows: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Which of `rows` have a validation row of the same label, and one such row for each, drawn at random."""
        if self.others is None:
            return np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int64)
        labels = _codes(self.split, self.task)[rows]
        members = np.isin(labels, list(self.by_label))
        return members, np.array([rng.choice(self.by_label[label]) for label in labels[members]], dtype=np.int64)

    def _losses(self, split: Split, rows: Array) -> tuple[Array, Array | None]:
        """Losses `(n,)` of some rows, and whether the largest output is the label; None without classes."""
        module, part = self.work.module, split.take(rows)
        loss, inputs = task_loss(part, self.task), tensors(module, part.inputs, is_shared=True)
        losses: list[Tensor] = []
        right: list[Tensor] = []
        labels = torch.from_numpy(np.asarray(part.labels))
        with evaluation(module), torch.no_grad():
            for at in torch.split(torch.arange(len(part)), rows_a_batch(part.inputs)):
                outputs = module(inputs[at]).float()
                losses.append(loss(outputs, at))
                if self.task.classes and labels.ndim == 1:
                    right.append(outputs.argmax(dim=1) == labels[at])
        return torch.cat(losses).numpy(), torch.cat(right).numpy() if right else None


def _codes(split: Split, task: Task) -> Array:
    labels = np.asarray(split.labels)
    return labels if task.classes and labels.ndim == 1 else np.zeros(len(split), dtype=np.int64)


def _by_label(split: Split, task: Task) -> dict[int, Array]:
    codes = _codes(split, task)
    return {int(label): np.flatnonzero(codes == label) for label in np.unique(codes)}


def _auc(members: Array, others: Array) -> float:
    """P(a member's score > another's) + half of ties."""
    ranks = rankdata(np.concatenate([members, others]))[: len(members)]
    return float((ranks.sum() - len(members) * (len(members) + 1) / 2) / (len(members) * len(others)))
