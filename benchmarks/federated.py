"""What simulating clients costs over the bare training of the same examples, and how many rounds MNIST takes to 99 %.

Cost: each of ten clients passes over its rows in batches of ten, three rounds. The limit is one process that takes the
same batches in the same order with torch's fused SGD, and knows nothing of clients. The peer is a simulation as
tutorials write it: a copy of the module, a DataLoader and an optimizer for each client, and averages of state dicts.
Equality first: with one client the limit's weights are ours, and with ten the peer's are. Interleaved; CPU time.
Limit, set before anything was measured: ours at most 1.2 times the bare training.
Rounds: 100 clients, a tenth of them a round, E = 5, B = 10 (McMahan et al. 2017, table 2: 20 rounds for a network of
1,663,370 parameters, `--model mcmahan` here; `small`, a LeNet of 57,190, is for a laptop). The test rows are read after
every round: a race to a figure, as in the paper, not an estimate of accuracy.
Run: python -m benchmarks.federated [--rounds 7], or
python -m benchmarks.federated --to 0.99 [--skew labels:2] [--model mcmahan] [--algorithm scaffold] [--workers 10]
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from assay.data.sources.mnist import load_mnist
from assay.models import Architecture, describe, register_architecture, tensors
from assay.models.image import ImageEncoder, ImageNetwork
from assay.tasks import Classification
from assay.train import TrainRecipe, TrainSettings
from assay.train.federation.clients import split_clients
from assay.train.federation.local_work import Correction, LocalSettings, LocalWork, Update, seed_of
from assay.train.federation.rounds import FederatedSettings, Federation
from assay.train.loop import threads
from assay.train.objectives import TaskLoss
from assay.values import Array, Column, Data, Groups, Split, texts

BATCH, CLIENTS, ROUNDS = 10, 10, 3
LIMIT = 1.2
PAPER = {"iid": "20", "labels:2": "350"}  # rounds to 99 % of E = 5, B = 10, C = 0.1 (tables 2 and 4)
UNCLIPPED = TrainSettings(max_grad_norm=1e9)


def mcmahan_cnn(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> ImageNetwork:
    """Two padded 5x5 convolutions of 32 and 64 channels, each with ReLU and pooling, 512 units, the head."""
    layers = [nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    layers += [nn.Linear(7 * 7 * 64, 512), nn.ReLU()]
    return ImageNetwork(ImageEncoder(columns[0].shape), nn.Sequential(*layers), nn.Linear(512, num_outputs))


register_architecture("mcmahan_cnn", mcmahan_cnn)
MODELS = {
    "small": Architecture("cnn_lenet", {"widths": [16, 32], "hidden": [84]}),
    "mcmahan": Architecture("mcmahan_cnn"),
}

# ------------------------------------------------------------------ cost


def cases() -> dict[str, tuple[Split, tuple[Column, ...], Architecture, int]]:
    """By name: made rows, their columns, what is trained on them, and outputs."""
    rng = np.random.default_rng(0)
    num = 1200
    nobody = Groups(np.zeros((num, 0), dtype=np.int16), ())
    labels = rng.integers(0, 10, num)
    table = tuple(Column(f"number {place}", "numeric", low=-3, high=3) for place in range(20))
    numbers = rng.normal(size=(num, 20)).astype(np.float32)
    picture = (Column("image", "image", low=0, high=255, shape=(1, 28, 28)),)
    pixels = rng.integers(0, 256, (num, 1, 28, 28)).astype(np.uint8)
    words = np.array([f"w{place}" for place in range(500)])
    said = texts(" ".join(rng.choice(words, 20)) for _ in range(num))
    rows = np.arange(num)
    return {
        "MLP, table": (Split(numbers, labels, nobody, rows), table, Architecture("mlp", {"hidden": [64, 64]}), 10),
        "LeNet, 28 x 28": (Split(pixels, labels, nobody, rows), picture, MODELS["small"], 10),
        "GRU, 20 words": (
            Split(said, labels, nobody, rows),
            (Column("text", "text", language="en"),),
            Architecture("gru", {"dim": 32, "num_hidden": 32, "vocab_size": 500, "dropout": 0.0}),
            10,
        ),
    }


class Case:
    """One module and its rows, to be trained three ways from the same start on the same batches."""

    def __init__(self, name: str, num_clients: int) -> None:
        self.split, self.columns, architecture, num_outputs = cases()[name]
        classes = tuple(map(str, range(num_outputs)))
        self.data = Data("made", self.columns, "label", (), {"train": self.split}, classes)
        self.recipe = TrainRecipe(architecture, Classification(classes, None), UNCLIPPED)
        self.start = self.recipe.make_module(self.split, self.data, 0)
        self.clients = split_clients(self.split, self.data, num_clients=num_clients, skew="iid", seed=0)
        self.local = LocalSettings(batch_size=BATCH, learning_rate=0.05)
        self.loss = TaskLoss(self.split, self.recipe.task)

    def batches(self, number: int, client: int) -> tuple[Tensor, ...]:
        """The batches that a client of ours takes in a round."""
        order = torch.Generator().manual_seed(seed_of(0, "client", number, client))
        rows = torch.from_numpy(self.clients[client])
        return torch.split(rows[torch.randperm(len(rows), generator=order)], BATCH)

    def ours(self) -> tuple[nn.Module, float]:
        """Federation in this process."""
        module = copy.deepcopy(self.start)
        work = LocalWork(module, self.split, self.clients, recipe=self.recipe, settings=self.local, seed=0)
        settings = FederatedSettings(num_clients=len(self.clients), num_rounds=ROUNDS, local=self.local)
        module.train()
        began = time.process_time()
        rows = [len(one) for one in self.clients]
        federation = Federation(work, work.flat.values, rows, settings=settings, seed=0)
        federation.run()
        work.flat.values.copy_(federation.weights)
        return module, time.process_time() - began

    def bare(self) -> tuple[nn.Module, float]:
        """The same batches in the same order, one model throughout: what no simulation can go below with this step."""
        module = copy.deepcopy(self.start).train()
        if self.columns[0].kind == "image":
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        inputs = tensors(module, self.split.inputs, is_shared=True)
        optimizer = torch.optim.SGD(module.parameters(), lr=self.local.learning_rate, fused=True)
        began = time.process_time()
        for number in range(ROUNDS):
            for client in range(len(self.clients)):
                for rows in self.batches(number, client):
                    optimizer.zero_grad()
                    self.loss.mean(module(inputs.index_select(0, rows)), rows).backward()
                    optimizer.step()
        return module, time.process_time() - began

    def textbook(self) -> tuple[nn.Module, float]:
        """A copy of the module, a DataLoader and an optimizer a client, and averages of state dicts."""
        module = copy.deepcopy(self.start)
        inputs = tensors(module, self.split.inputs, is_shared=True)
        labels = torch.from_numpy(self.split.labels)
        began = time.process_time()
        for number in range(ROUNDS):
            states, weights = [], []
            for client, rows in enumerate(self.clients):
                own = copy.deepcopy(module).train()
                optimizer = torch.optim.SGD(own.parameters(), lr=self.local.learning_rate)
                order = torch.cat(self.batches(number, client)).tolist()
                for batch, target in DataLoader(_Rows(inputs, labels), batch_size=BATCH, sampler=order):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(own(batch), target).backward()
                    optimizer.step()
                states.append(own.state_dict())
                weights.append(len(rows))
            mean = {
                name: sum(state[name] * (weight / sum(weights)) for state, weight in zip(states, weights, strict=True))
                for name, entry in states[0].items()
                if entry.is_floating_point()
            }
            module.load_state_dict(states[0] | mean)
        return module, time.process_time() - began


class _Rows(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return self.inputs[row], self.labels[row]


def apart(one: nn.Module, other: nn.Module) -> float:
    """Largest difference of a weight."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def cost(rounds: int) -> None:
    """Measure and print the table of costs."""
    print(f"{'':22}{'equal to':>20}{'CPU time over the bare training, median (least to most)':>62}")
    print(f"{'model':16}{'steps':>6}{'limit':>10}{'peer':>10}{'bare ms/step':>14}{'ours':>24}{'textbook':>24}")
    for name in cases():
        alone, case = Case(name, 1), Case(name, CLIENTS)
        to_limit, to_peer = apart(alone.ours()[0], alone.bare()[0]), apart(case.ours()[0], case.textbook()[0])
        ways: dict[str, Callable[[], tuple[nn.Module, float]]] = {
            "bare": case.bare,
            "ours": case.ours,
            "textbook": case.textbook,
        }
        found: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(rounds + 1):
            for way, run in ways.items():
                seconds = run()[1]
                if number:
                    found[way].append(seconds)
        steps = ROUNDS * sum(-(-len(rows) // BATCH) for rows in case.clients)
        told = ""
        for way in ("ours", "textbook"):
            ratios = sorted(a / b for a, b in zip(found[way], found["bare"], strict=True))
            told += f"{statistics.median(ratios):10.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})".rjust(24)
        bare = 1000 * statistics.median(found["bare"]) / steps
        print(f"{name:16}{steps:6}{to_limit:10.0e}{to_peer:10.0e}{bare:14.2f}{told}", flush=True)
    print(f"limit for ours: {LIMIT}")


# ------------------------------------------------------------------ rounds

_here: dict[str, Any] = {}  # of a worker: its own module and rows


def mnist_work(model: str, skew: str, rate: float, num_clients: int) -> tuple[LocalWork, Split]:
    """All 60,000 training rows with 100 clients, and the test rows."""
    data = load_mnist(validation=0.0, fetch=True)
    split = data.splits["train"]
    recipe = TrainRecipe(MODELS[model], Classification(data.classes, None), UNCLIPPED)
    clients = split_clients(split, data, num_clients=num_clients, skew=skew, seed=0)
    module = recipe.make_module(split, data, 0).train()
    local = LocalSettings(epochs=5, batch_size=10, learning_rate=rate)
    return LocalWork(module, split, clients, recipe=recipe, settings=local, seed=0), data.splits["test"]


def _begin(*told: Any) -> None:
    torch.set_num_threads(1)
    _here["work"] = mnist_work(*told)[0]


def _one(start: Array, client: int, number: int, correction: Array | None) -> tuple[Array, float, int, int]:
    held = None if correction is None else torch.from_numpy(correction)
    update = next(_here["work"].updates(torch.from_numpy(start), [client], number, lambda one: held))
    return update.change.numpy().copy(), update.loss, update.num_steps, update.num_rows


class Workers:
    """Clients of a round trained side by side in processes; the updates are those of one process, to the bit."""

    def __init__(self, num: int, told: Sequence[Any], num_parameters: int) -> None:
        self.num_parameters = num_parameters
        spawn = get_context("spawn")
        self.pool = ProcessPoolExecutor(num, mp_context=spawn, initializer=_begin, initargs=tuple(told))

    def updates(self, start: Tensor, clients: Sequence[int], number: int, correction: Correction) -> Iterator[Update]:
        """In the order of `clients`, whoever is done first."""
        held = [correction(client) for client in clients]
        send = [None if one is None else one.numpy() for one in held]
        jobs = [
            self.pool.submit(_one, start.numpy(), client, number, one)
            for client, one in zip(clients, send, strict=True)
        ]
        for client, job in zip(clients, jobs, strict=True):
            change, loss, num_steps, num_rows = job.result()
            yield Update(client, torch.from_numpy(change), loss, num_steps, num_rows)


def race(options: argparse.Namespace) -> None:
    """Rounds until the test rows are answered well enough; prints each."""
    told = (options.model, options.skew, options.rate, options.clients)
    work, test = mnist_work(*told)
    local = work.settings
    settings = FederatedSettings(
        algorithm=options.algorithm,
        num_clients=options.clients,
        num_rounds=options.most,
        skew=options.skew,
        fraction=options.fraction,
        local=local,
    )
    size = describe(work.module)["num_parameters"]
    print(f"{options.model}: {size:,} parameters, {options.algorithm}, {options.skew}, rate {options.rate}", flush=True)
    inputs, labels = tensors(work.module, test.inputs), torch.from_numpy(test.labels)
    by = Workers(options.workers, told, work.num_parameters) if options.workers > 1 else None
    began, best = time.perf_counter(), 0.0

    def after(number: int) -> bool:
        nonlocal best
        work.flat.values.copy_(federation.weights)
        work.module.eval()
        with torch.no_grad(), threads(options.workers):  # the workers wait meanwhile
            answers = torch.cat([work.module(part).argmax(dim=1) for part in torch.split(inputs, 500)])
        work.module.train()
        right = float((answers == labels).double().mean())
        best = max(best, right)
        print(f"round {number + 1:4}: {right:.4f}   {time.perf_counter() - began:7.1f} s", flush=True)
        return right >= options.to

    rows = [len(one) for one in work.clients]
    federation = Federation(by or work, work.flat.values, rows, settings=settings, seed=options.seed)
    tally = federation.run(after)
    paper = PAPER.get(options.skew, "none") if options.algorithm == "fedavg" else "none"
    reached = f"{tally.rounds} rounds" if best >= options.to else f"not in {tally.rounds} rounds (best {best:.4f})"
    print(f"{options.to:.0%} of the test rows: {reached}; the paper's figure: {paper}; goal for iid: 26")
    if by is not None:
        by.pool.shutdown()


def main() -> None:
    """Costs, or with `--to` the race."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    number: Callable[..., Any] = partial(parser.add_argument, type=int)
    number("--rounds", default=7, help="of timing")
    parser.add_argument("--to", type=float, default=None)
    parser.add_argument("--skew", default="iid")
    parser.add_argument("--model", default="small", choices=MODELS)
    parser.add_argument("--algorithm", default="fedavg", choices=("fedavg", "scaffold"))
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--fraction", type=float, default=0.1)
    number("--clients", default=100)
    number("--most", default=60, help="rounds after which the race is over")
    number("--workers", default=1)
    number("--seed", default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.to is None:
        cost(options.rounds)
    else:
        race(options)


if __name__ == "__main__":
    main()
