"""Federated rounds: who takes part, what becomes of their updates, and what the aggregator keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from assay.errors import Problem, UsageError
from assay.meter import measure_energy
from assay.train.draws import Draws
from assay.train.federation.local_work import LocalSettings, LocalWork, Update, Work, seed_of
from assay.train.loop import threads
from assay.values import Progress, plain, quiet

Algorithm = Literal["fedavg", "fedprox", "scaffold"]


@dataclass(frozen=True)
class FederatedSettings:
    """The numbers of a federated run; `epsilon` None is without noise, `num_clients` None is ten, or the column's."""

    algorithm: Algorithm = "fedavg"
    num_clients: int | None = None
    num_rounds: int = 10
    skew: str = "iid"
    fraction: float = 1.0
    drop_rate: float = 0.0
    local: LocalSettings = field(default_factory=LocalSettings)
    secure_sum: bool = False
    epsilon: float | None = None
    delta: float = 1e-5
    clip_norm: float = 1.0
    secure_noise: bool = False


@dataclass
class Tally:
    """What a run came to, as plain numbers."""

    rounds: int = 0
    steps: int = 0
    examples: int = 0
    updates: int = 0
    clients_lost: int = 0  # chosen, and gone before they answered
    rounds_lost: int = 0  # nobody answered, or too few for a secure sum
    curve: list[dict[str, Any]] = field(default_factory=list)


class Federation:
    r"""Rounds of $w \leftarrow w + \sum_k n_k \Delta_k / \sum_k n_k$ over the clients that answer, $n_k$ their rows.

    Each round draws max(1, round(C K)) of K clients. SCAFFOLD: a client's gradients are corrected by $c - c_k$, after
    its work $c_k \leftarrow c_k - c - \Delta_k / (\eta\,\mathrm{steps})$ (option II), and c is the mean of all c_k by
    rows. With epsilon: every client takes part by a coin of its own of probability C, and
    $w \leftarrow w + (\sum_k \mathrm{clip}_S(\Delta_k) + \sigma S \xi)/(C K)$, divided by the *expected* number.

    Source: McMahan et al. 2017, algorithm 1; Karimireddy et al. 2020, algorithm 1; McMahan et al. 2018, "Learning
    Differentially Private Recurrent Language Models", algorithm 1 (flat clipping, all clients of equal weight).
    """

    def __init__(
        self,
        by: Work,
        start: Tensor,
        rows: Sequence[int],
        *,
        settings: FederatedSettings,
        seed: int,
        noise_multiplier: float | None = None,
    ) -> None:
        if settings.epsilon is not None and noise_multiplier is None:
            raise UsageError(Problem("there is an epsilon and no noise", "the noise_multiplier that keeps it"))
        self.by, self.settings, self.seed, self.rows = by, settings, seed, list(rows)
        self.weights = start.clone()  # (D,) what the aggregator has
        self.tally = Tally()
        self.control = torch.zeros(by.num_parameters if settings.algorithm == "scaffold" else 0)
        self.controls: dict[int, Tensor] = {}  # of clients that have taken part
        self.draws = torch.Generator().manual_seed(seed_of(seed, "rounds"))
        self.private = Draws(seed_of(seed, "noise and coins"), secure=settings.secure_noise)  # what epsilon rests on
        self.noise_multiplier = noise_multiplier or 0.0

    def run(self, after_round: Callable[[int], bool] | None = None) -> Tally:
        """All rounds, or until `after_round(number)` says True; `weights` are then the result."""
        for number in range(self.settings.num_rounds):
            self._round(number)
            self.tally.rounds += 1
            if after_round is not None and after_round(number):
                break
        return self.tally

    def _round(self, number: int) -> None:
        chosen, present = self._who()
        moved: dict[int, Tensor] = {}
        updates = self._counted(self.by.updates(self.weights, present, number, self.correction))
        messages = ((update.client, *self._message(update, number, moved)) for update in updates)
        before = self.tally.updates
        total, weight = self._sum(chosen, messages)
        self.tally.clients_lost += len(chosen) - (self.tally.updates - before)
        if self.settings.epsilon is not None:
            scale = self.noise_multiplier * self.settings.clip_norm
            total.add_(self.private.normal(total.shape), alpha=scale)
            weight = self.settings.fraction * len(self.rows)
        if weight == 0:
            self.tally.rounds_lost += 1
            return
        self.weights.add_(total[: len(self.weights)], alpha=1 / weight)
        if len(self.control):
            self.control.add_(total[len(self.weights) :], alpha=1 / sum(self.rows))
        self.controls |= {client: one + self.controls.get(client, 0.0) for client, one in moved.items()}

    def correction(self, client: int) -> Tensor | None:
        """What is added to a client's gradients `(P,)`: c - c_k of SCAFFOLD."""
        return self.control - self.controls.get(client, 0.0) if len(self.control) else None

    def _who(self) -> tuple[list[int], list[int]]:
        """Clients chosen for a round, and those of them that will answer."""
        settings, num = self.settings, len(self.rows)
        if settings.epsilon is not None:
            chosen = torch.nonzero(self.private.uniform(num) < settings.fraction).reshape(-1).tolist()
        else:
            take = max(1, round(settings.fraction * num))
            chosen = torch.randperm(num, generator=self.draws)[:take].sort().values.tolist()
        coins = torch.rand(len(chosen), generator=self.draws)
        return chosen, [one for one, coin in zip(chosen, coins.tolist(), strict=True) if coin >= settings.drop_rate]

    def _counted(self, updates: Iterator[Update]) -> Iterator[Update]:
        """The same updates; a point of the curve after the last."""
        losses, rows, tally = 0.0, 0, self.tally
        for update in updates:
            own = update.num_rows
            losses, rows = losses + update.loss * own, rows + own
            tally.steps, tally.updates = tally.steps + update.num_steps, tally.updates + 1
            tally.examples += own * self.settings.local.epochs
            yield update
        if rows:
            place = {"epoch": tally.rounds + 1, "step": tally.steps, "examples": tally.examples}
            tally.curve.append({**place, "train_loss": losses / rows})

    def _message(self, update: Update, number: int, moved: dict[int, Tensor]) -> tuple[Tensor, float]:
        """What a client sends, and its weight in the sum; `moved` gets the change of its control variate."""
        change, settings = update.change, self.settings
        if settings.epsilon is not None:
            norm = change.norm().item()
            return (change.mul_(settings.clip_norm / norm) if norm > settings.clip_norm else change), 1.0
        if not len(self.control):
            return change, float(update.num_rows)
        part = change[: len(self.control)]
        own = moved[update.client] = -self.control - part / (settings.local.rate(number) * update.num_steps)
        return torch.cat([change, own]), float(update.num_rows)

    def _sum(self, chosen: Sequence[int], messages: Iterable[tuple[int, Tensor, float]]) -> tuple[Tensor, float]:
        """Weighted sum of the messages and the sum of weights; 0 where it could not be formed."""
        length = len(self.weights) + len(self.control)
        if self.settings.secure_sum:
            from assay.train.federation.secure_sum import secure_sum

            place = {client: number for number, client in enumerate(chosen)}
            vectors = (
                (place[client], torch.cat([message.double() * weight, torch.tensor([weight]).double()]).numpy())
                for client, message, weight in messages
            )
            found = secure_sum(len(chosen), vectors, length + 1)
            if found is None:
                return torch.zeros(length), 0.0
            return torch.from_numpy(found[:-1]).float(), float(found[-1])
        total, weights = torch.zeros(length), 0.0
        for _, message, weight in messages:
            total.add_(message, alpha=weight)
            weights += weight
        return total, weights


def run_federation(
    work: LocalWork,
    settings: FederatedSettings,
    *,
    seed: int,
    progress: Progress = quiet,
    noise_multiplier: float | None = None,
) -> tuple[Federation, dict[str, Any]]:
    """All rounds in this process, the module left with the result in evaluation mode; the facts of the run."""
    rows = [len(one) for one in work.clients]
    start = work.flat.values.clone()
    federation = Federation(work, start, rows, settings=settings, seed=seed, noise_multiplier=noise_multiplier)

    def told(number: int) -> bool:
        progress("federated rounds", number + 1, settings.num_rounds)
        return False

    work.module.train()
    with torch.random.fork_rng(devices=[]), threads(work.base.num_threads), measure_energy() as meter:
        tally = federation.run(told)
    work.flat.values.copy_(federation.weights)
    work.module.eval()
    energy = meter.read() if meter.energy is None else meter.energy
    clock = {"seconds": energy.seconds, "cpu_seconds": energy.cpu_seconds, "energy": plain(energy)}
    return federation, {**clock, **_counts(tally, settings, sum(rows))}


def _counts(tally: Tally, settings: FederatedSettings, num_rows: int) -> dict[str, Any]:
    """Counts of a run; with epsilon those only that do not tell who took part."""
    rounds = {"rounds": tally.rounds, "num_train": num_rows}
    if settings.epsilon is not None:
        return rounds
    passes = {"epochs": tally.examples / num_rows, "steps": tally.steps, "examples": tally.examples}
    lost = {"updates": tally.updates, "clients_lost": tally.clients_lost, "rounds_lost": tally.rounds_lost}
    return {**rounds, **passes, **lost, "curve": tally.curve}
