"""Training on rows that stay with clients: rounds of local work, and averages of what came out of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, get_args

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from assay.errors import ModelError, Problem
from assay.models.store import recipe_from_json, register_recipe
from assay.registry import treatment
from assay.train import TrainRecipe
from assay.train.federation import (
    SKEWS,
    Algorithm,
    FederatedSettings,
    LocalSettings,
    LocalWork,
    columns_for_clients,
    parse_skew,
    run_federation,
    split_clients,
)
from assay.train.loop import check_split
from assay.treatments import _common
from assay.treatments.train._accountant import epsilon_of, noise_for
from assay.treatments.train._client_facts import client_facts
from assay.treatments.train._norms import without_batch_norm
from assay.values import Data, Fitted, Recipe, Split, System, digest_of, plain

PROXIMAL = 0.01  # the default weight of FedProx's term
FEWEST_FOR_SUM = 3  # of fewer vectors, a sum and one's own vector tell another's
TRAINING = ("num_rounds", "fraction", "drop_rate", *(one.name for one in fields(LocalSettings)))
PROTECTION = ("secure_sum", "epsilon", "delta", "clip_norm", "secure_noise")
NOT_TOLD = {"seconds", "cpu_seconds", "energy", "curve"}  # of the facts, in the outcome
TRUSTED = "it sees every client's update"
SUMS_ONLY = "it sees sums of updates only, if it keeps to the protocol"


@dataclass(frozen=True)
class FederatedRecipe:
    """The base recipe's architecture and loss, trained by rounds of clients' updates."""

    base: TrainRecipe
    settings: FederatedSettings

    @cached_property
    def digest(self) -> str:
        """Over the base recipe and the settings."""
        return digest_of(["FederatedRecipe", self.base.digest, self.settings])

    def to_json(self) -> dict[str, Any]:
        """Name and parameters as plain data."""
        return {"name": "federated_averaging", "base": self.base.to_json(), "settings": plain(self.settings)}

    def fit(self, split: Split, data: Data, seed: int) -> Fitted:
        """Deal `split` out to clients and train from scratch; the noise is what epsilon asks for."""
        return self.fit_clients(split, data, seed, is_told=False)

    def fit_clients(self, split: Split, data: Data, seed: int, *, is_told: bool) -> Fitted:
        """`fit`; with `is_told` the facts also tell of each client, at the cost of one more round of ten of them."""
        check_split(split, self.base.task)
        settings = self.settings
        clients = split_clients(split, data, num_clients=settings.num_clients, skew=settings.skew, seed=seed)
        module = self.base.make_module(split, data, seed)
        work = LocalWork(module, split, clients, recipe=self.base, settings=settings.local, seed=seed)
        work.columns = data.columns
        federation, facts = run_federation(
            work, settings, seed=seed, progress=self.base.progress, noise_multiplier=noise_of(settings)
        )
        told = privacy_facts(
            settings, len(clients), split.weights is not None, is_balanced=self.base.settings.class_weights != "none"
        )
        facts |= {"clients": len(clients), **told}
        if is_told:
            facts |= client_facts(federation, work, split, data)
        work.flat.release()
        return Fitted(self.base.wrap(module, data.columns), facts)


def _from_json(about: Mapping[str, Any], data: Data) -> Recipe:
    base = recipe_from_json(about["base"], data)
    if not isinstance(base, TrainRecipe):
        raise ModelError(Problem(f"the recipe under a federated one is a {type(base).__name__}", "TrainRecipe"))
    told = dict(about["settings"])
    return FederatedRecipe(base, FederatedSettings(**{**told, "local": LocalSettings(**told["local"])}))


register_recipe("federated_averaging", _from_json)


def noise_of(settings: FederatedSettings) -> float | None:
    """The noise multiplier that keeps epsilon over all rounds."""
    if settings.epsilon is None:
        return None
    return noise_for(settings.epsilon, settings.fraction, settings.num_rounds, delta=settings.delta)


def privacy_facts(
    settings: FederatedSettings, num_clients: int, has_weights: bool = False, *, is_balanced: bool = False
) -> dict[str, Any]:
    """Epsilon for one client as accounted, and what neither it nor the rounds cover."""
    common = {"aggregator": SUMS_ONLY if settings.secure_sum else TRUSTED}
    noise = noise_of(settings)
    if noise is None:
        return common
    seen = "sums, and in a round of one client with its update" if settings.secure_sum else "updates"
    not_covered = [
        "the number of clients, and the column names and category lists, are taken as public",
        "choices made by looking at the data: architecture, settings, treatments applied later",
        "the encoding (means, quantiles, channels, tokens) and the variance of numeric labels: all rows together",
        "the aggregator: it adds the noise, so it is trusted with " + seen,
    ]
    if not settings.secure_noise:
        what = "noise and choice of clients follow from the seed"
        not_covered.append(f"{what}: who knows the seed can take the noise away again")
    if has_weights:
        not_covered.append("training weights of rows were taken as public")
    if is_balanced:
        not_covered.append("class weights: how many rows of each class all clients have together")
    return {
        **common,
        "epsilon": epsilon_of(noise, settings.fraction, settings.num_rounds, delta=settings.delta),
        "delta": settings.delta,
        "privacy_unit": "client",
        "neighbours": "one client added or removed, the rows of the others staying where they are",
        "noise_multiplier": noise,
        "clip_norm": settings.clip_norm,
        "sample_rate": settings.fraction,
        "noise_of_mean": noise * settings.clip_norm / (settings.fraction * num_clients),
        "accountant": "PLD",
        "not_covered": not_covered,
    }


@treatment("train", moves=("lower:membership_auc",), trainings=3)
def federated_averaging(
    system: System,
    *,
    algorithm: str = "fedavg",
    num_clients: int | None = None,
    skew: str = "iid",
    training: Mapping[str, Any] | None = None,
    protection: Mapping[str, Any] | None = None,
) -> System:
    r"""Train again on rows dealt out to clients: $w \leftarrow w + \sum_k n_k \Delta_k / \sum_k n_k$ in each round.

    $\Delta_k$ is what the passes of client k over its own n_k rows change. `algorithm`: fedavg; fedprox, whose clients
    minimise $\ell + \mu |w - w_0|^2 / 2$; scaffold, whose gradients are corrected for how clients differ. `skew` says
    who holds what: iid, labels:N, dirichlet:ALPHA, or column:NAME, a client for each category; `num_clients` is 10
    without it. `training` sets num_rounds, fraction (of the clients, each round), epochs, batch_size, learning_rate,
    decay (of the rate, each round), proximal and drop_rate (of the chosen, those that are gone before they answer).
    `protection`: secure_sum (the aggregator sees sums only), and epsilon, delta, clip_norm: clients are drawn by coins,
    each update is clipped and the sum noised, so that $P(w\in S) \le e^\varepsilon P'(w\in S) + \delta$ when one
    *client* comes or goes; with secure_noise coins and noise are the operating system's: do that for a model that is
    published; then the seed no longer gives the same model again.
    The outcome tells of each client, by number, its rows, labels, accuracy and what gives it away; with epsilon
    nothing, for that would not be covered. Limits: a simulation in one process. Clients do plain gradient descent with
    the recipe's loss, class weights, smoothing, augmentation, precision and gradient norm; its optimizer, decay,
    averages and early stopping are not used, and the encoding is fitted on all rows together. Skewed labels cost
    accuracy; ten clients are too few for a useful epsilon. Raises TreatmentError without a plain recipe, after
    model-stage treatments, for clients that cannot be made of the rows, and for numbers out of range.

    Source: McMahan et al. 2017, algorithm 1; Li et al. 2020 (FedProx), algorithm 2; Karimireddy et al. 2020, algorithm
    1; McMahan et al. 2018, algorithm 1; Bonawitz et al. 2017, figure 4.
    """
    given = {"training": training or {}, "protection": protection or {}}
    settings, wrong = _settings(algorithm, num_clients, skew, given)
    problems = [
        _common.needs_recipe(system),
        _common.needs_train_recipe(system),
        _common.needs_no_later_stage(system),
        _common.needs_split(system, "train"),
        *wrong,
    ]
    _common.refuse("federated_averaging", system, problems)
    recipe, replaced = _recipe(system, settings)
    fitted = recipe.fit_clients(system.data.splits["train"], system.data, system.seed, is_told=True)
    parameters: dict[str, Any] = {"algorithm": algorithm, "num_clients": num_clients, "skew": skew}
    parameters |= {"training": training and dict(training), "protection": protection and dict(protection)}
    facts = _common.told_of_rows(fitted.facts, system.lineage)
    outcome = {name: fact for name, fact in facts.items() if name not in NOT_TOLD} | replaced
    step = {"treatment": "federated_averaging", "stage": "train"}
    named = _common.grown(system, **step, parameters=parameters, outcome=outcome)
    return replace(named, model=fitted.model, recipe=recipe, facts=facts)


def _recipe(system: System, settings: FederatedSettings) -> tuple[FederatedRecipe, dict[str, str]]:
    """The recipe, without BatchNorm where there is noise; and what was said of that. Raises TreatmentError."""
    base = _common.train_recipe(system)
    replaced: dict[str, str] = {}
    if settings.epsilon is not None:
        why = "noise would make its running variances negative"
        base, replaced = without_batch_norm(base, system.data, why=why)
    _common.refuse("federated_averaging", system, _unfit(system, settings, base))
    return FederatedRecipe(base, settings), replaced


def _settings(
    algorithm: str, num_clients: int | None, skew: str, given: Mapping[str, Any]
) -> tuple[FederatedSettings, list[Problem | None]]:
    """The settings, and what is wrong with what was asked for; the defaults stand in for what cannot be read."""
    usual, wrong = FederatedSettings(), []
    asked: dict[str, dict[str, Any]] = {
        name: dict(one) if isinstance(one, Mapping) else {} for name, one in given.items()
    }
    for name, one in given.items():
        wrong.append(_common.unless(isinstance(one, Mapping), f"{name} is {one!r}", "a mapping of names to numbers"))
    training, protection = asked["training"], asked["protection"]
    for name, known in (("training", TRAINING), ("protection", PROTECTION)):
        odd = sorted(set(asked[name]) - set(known))
        wrong.append(_common.unless(not odd, f"{name} sets {', '.join(odd)}", ", ".join(known)))
    local: dict[str, Any] = {one.name: training[one.name] for one in fields(LocalSettings) if one.name in training}
    if algorithm == "fedprox":
        local.setdefault("proximal", PROXIMAL)
    elif local.get("proximal"):
        wrong.append(Problem(f"proximal is set, and the algorithm is {algorithm}", "fedprox"))
    rest: dict[str, Any] = {
        name: training[name] for name in ("num_rounds", "fraction", "drop_rate") if name in training
    }
    rest |= {name: protection[name] for name in PROTECTION if name in protection}
    whole, real = (
        {"num_rounds", "epochs", "batch_size"},
        {"learning_rate", "decay", "proximal", "fraction", "drop_rate"},
    )
    real |= {"epsilon", "delta", "clip_norm"}
    for told in (local, rest):
        for name, value in list(told.items()):
            kinds: tuple[type, ...] = (int,) if name in whole else (int, float) if name in real else (bool,)
            fine = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
            if not fine and not (name == "epsilon" and value is None):
                wrong.append(Problem(f"{name} is {value!r}", "true or false" if bool in kinds else "a number"))
                del told[name]
            elif name in real and value is not None:
                told[name] = float(value)
    is_known = algorithm in get_args(Algorithm)
    wrong.append(_common.unless(is_known, f"algorithm is {algorithm!r}", ", ".join(get_args(Algorithm))))
    chosen: Any = algorithm if is_known else usual.algorithm
    settings = replace(usual, algorithm=chosen, num_clients=num_clients, skew=skew, **rest)
    settings = replace(settings, local=replace(usual.local, **local))
    return settings, [*wrong, *_out_of_range(settings)]


def _out_of_range(settings: FederatedSettings) -> list[Problem | None]:
    local, num = settings.local, settings.num_clients
    private = settings.epsilon is not None
    fine = {
        "num_clients": (num is None or num >= 2, num, "2 or more"),
        "num_rounds": (settings.num_rounds >= 1, settings.num_rounds, "1 or more"),
        "epochs": (local.epochs >= 1, local.epochs, "1 or more"),
        "batch_size": (local.batch_size >= 1, local.batch_size, "1 or more"),
        "learning_rate": (0 < local.learning_rate < math.inf, local.learning_rate, "a positive number"),
        "decay": (0 < local.decay <= 1, local.decay, "above 0, at most 1"),
        "proximal": (0 <= local.proximal < math.inf, local.proximal, "0 or more"),
        "fraction": (0 < settings.fraction <= 1, settings.fraction, "above 0, at most 1"),
        "drop_rate": (0 <= settings.drop_rate < 1, settings.drop_rate, "0 to below 1"),
        "epsilon": (not private or 0 < (settings.epsilon or 0) < math.inf, settings.epsilon, "a positive number"),
        "clip_norm": (0 < settings.clip_norm < math.inf, settings.clip_norm, "a positive number"),
    }
    found = [_common.unless(good, f"{name} is {value}", allowed) for name, (good, value, allowed) in fine.items()]
    found.append(
        _common.unless(
            not private or settings.algorithm != "scaffold",
            "scaffold is to keep an epsilon",
            "fedavg, fedprox",
            "Its control variates are a second message of each client, which no noise covers",
        )
    )
    found.append(
        _common.unless(private or not settings.secure_noise, "secure_noise is set without an epsilon", "false")
    )
    found.append(
        _common.unless(
            not private or settings.drop_rate == 0,
            f"drop_rate is {settings.drop_rate}, and there is an epsilon",
            "0",
            "How many clients answer would be told without noise",
        )
    )
    return found


def _unfit(system: System, settings: FederatedSettings, base: TrainRecipe) -> list[Problem | None]:
    """What stops these clients on this data, once the numbers are in range."""
    train = system.data.splits["train"]
    found: list[Problem | None] = []
    try:
        kind, told = parse_skew(settings.skew)
    except ModelError:
        return [Problem(f"skew is {settings.skew!r}", SKEWS)]
    if kind in ("labels", "dirichlet") and not system.task.classes:
        found.append(Problem(f"skew is {settings.skew!r}, and the task is {system.task.name}", "iid, column:NAME"))
    known = columns_for_clients(system.data)
    if kind == "column" and told not in known:
        found.append(Problem(f"skew names column {told!r}", ", ".join(known) or "iid, labels:N, dirichlet:ALPHA"))
    if kind == "column" and settings.num_clients is not None:
        found.append(Problem(f"num_clients is {settings.num_clients}, and clients are categories", "None"))
    if found:
        return found
    try:
        clients = split_clients(
            train, system.data, num_clients=settings.num_clients, skew=settings.skew, seed=system.seed
        )
    except ModelError as error:
        return list(error.problems)
    each = round(settings.fraction * len(clients))
    if len(clients) < 2:
        found.append(Problem(f"column {told!r} makes {len(clients)} client", "2 or more"))
    if settings.secure_sum and each < FEWEST_FOR_SUM:
        what = f"{each} clients take part in a round, of whom only the sum may be seen"
        found.append(Problem(what, f"{FEWEST_FOR_SUM} or more", "Raise fraction or num_clients"))
    if settings.epsilon is not None and not 0 < settings.delta < 1 / len(clients):
        what = f"delta is {settings.delta}"
        found.append(Problem(what, f"above 0 and below 1 / {len(clients)}, the number of clients"))
    return [*found, _cannot_noise(base.make_module(train, system.data, system.seed), settings)]


def _cannot_noise(module: nn.Module, settings: FederatedSettings) -> Problem | None:
    mixing = [name for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)]
    what = f"layers {', '.join(mixing)} are BatchNorm, and noise would make their running variances negative"
    return _common.unless(settings.epsilon is None or not mixing, what, "GroupNorm, LayerNorm or no normalisation")
