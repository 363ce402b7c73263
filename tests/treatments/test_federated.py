"""Federated training: each algorithm against its definition and against theory, and what is told of whom."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from assay import engine
from assay.errors import ModelError, TreatmentError
from assay.evidence.openpart import per_person_arrays
from assay.models import Architecture
from assay.models.store import load_system, save_system
from assay.observe import Workspace
from assay.tasks import Regression, task_of
from assay.train import TrainRecipe, TrainSettings, task_loss, train_system
from assay.train.federation.clients import parse_skew, split_clients
from assay.train.federation.local_work import FlatWeights, LocalSettings, LocalWork, received, seed_of
from assay.train.federation.rounds import FederatedSettings, Federation, run_federation
from assay.treatments.data.resample_groups import resample_groups
from assay.treatments.train import federate
from assay.treatments.train._accountant import epsilon_of
from assay.treatments.train.federate import FederatedRecipe, federated_averaging
from assay.values import Data, Groups, Split, System
from support import COLUMNS, GROUP_COLUMNS, make_split, small_images

WHOLE = 10**6  # a batch of all rows


@pytest.fixture(scope="module")
def trained(small_data) -> System:
    recipe = TrainRecipe(
        Architecture("mlp", {"hidden": [12]}), task_of(small_data), TrainSettings(epochs=2, batch_size=64)
    )
    return train_system(small_data, name="small", recipe=recipe, seed=5)


def work_of(system, clients, *, settings=None, seed=5):
    split = system.data.splits["train"]
    module = system.recipe.make_module(split, system.data, seed)
    local = settings or LocalSettings()
    return LocalWork(module, split, clients, recipe=system.recipe, settings=local, seed=seed)


def federation_of(work, settings):
    rows = [len(one) for one in work.clients]
    noise = federate.noise_of(settings)
    return Federation(work, work.flat.values, rows, settings=settings, seed=1, noise_multiplier=noise)


def test_one_pass_over_whole_clients_is_one_step_over_all_rows(trained):
    """FedSGD (McMahan et al. 2017, section 2): the mean of updates by rows is the gradient of the mean loss."""
    split = trained.data.splits["train"]
    clients = split_clients(split, trained.data, num_clients=3, skew="dirichlet:0.5", seed=1)
    work = work_of(trained, clients, settings=LocalSettings(batch_size=WHOLE, learning_rate=0.3))
    plain = copy.deepcopy(work.module)
    settings = FederatedSettings(num_clients=3, num_rounds=4, local=work.settings)
    run_federation(work, settings, seed=5)
    loss, inputs, rows = task_loss(split, trained.task), torch.from_numpy(split.inputs), torch.arange(len(split))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.3)
    for _ in range(4):
        optimizer.zero_grad(set_to_none=True)
        loss(plain(inputs), rows).mean().backward()
        optimizer.step()
    for one, other in zip(work.module.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one, other, atol=2e-6)


def by_hand(system, clients, settings, *, seed):
    """FedAvg and FedProx with copies of the module and torch's own SGD, batches drawn as the work draws them."""
    split, local = system.data.splits["train"], settings.local
    module = system.recipe.make_module(split, system.data, seed)
    loss, inputs = task_loss(split, system.task), torch.from_numpy(split.inputs)
    for number in range(settings.num_rounds):
        sums, weight = [torch.zeros_like(one) for one in module.parameters()], 0
        for client, rows in enumerate(clients):
            own = copy.deepcopy(module)
            optimizer = torch.optim.SGD(own.parameters(), lr=local.rate(number))
            order = torch.Generator().manual_seed(seed_of(seed, "client", number, client))
            for _ in range(local.epochs):
                shuffled = torch.from_numpy(rows)[torch.randperm(len(rows), generator=order)]
                for batch in torch.split(shuffled, local.batch_size):
                    optimizer.zero_grad(set_to_none=True)
                    pairs = zip(own.parameters(), module.parameters(), strict=True)
                    far = sum((a - b.detach()).square().sum() for a, b in pairs)
                    (loss(own(inputs[batch]), batch).mean() + local.proximal / 2 * far).backward()
                    optimizer.step()
            for total, a, b in zip(sums, own.parameters(), module.parameters(), strict=True):
                total.add_((a - b).detach(), alpha=len(rows))
            weight += len(rows)
        with torch.no_grad():
            for one, total in zip(module.parameters(), sums, strict=True):
                one.add_(total / weight)
    return module


@pytest.mark.parametrize(
    ("algorithm", "proximal", "secure"), [("fedavg", 0.0, False), ("fedavg", 0.0, True), ("fedprox", 2.0, False)]
)
def test_rounds_are_the_definition(trained, algorithm, proximal, secure):
    clients = split_clients(trained.data.splits["train"], trained.data, num_clients=4, skew="dirichlet:0.5", seed=2)
    local = LocalSettings(epochs=2, batch_size=40, learning_rate=0.2, decay=0.5, proximal=proximal)
    settings = FederatedSettings(algorithm=algorithm, num_rounds=2, local=local, secure_sum=secure)
    work = work_of(trained, clients, settings=local)
    run_federation(work, settings, seed=5)
    expected = by_hand(trained, clients, settings, seed=5)
    for one, other in zip(work.module.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(one, other, atol=3e-6)


CURVES, BEST = np.array([1.0, 2.0, 3.0]), np.array([-1.0, 2.0, 0.5])  # sqrt of curvature, and minimum, of each client


def quadratic(algorithm, *, steps, proximal=0.0, fraction=1.0, num_rounds=45):
    """Where clients with losses a_k (w - b_k)^2 / 2, one weight and whole batches, end; and the a_k, and the rate."""
    inputs = CURVES.astype(np.float32)[:, None]
    labels = (CURVES * BEST).astype(np.float32)
    split = Split(inputs, labels, Groups(np.zeros((3, 0)), ()), np.arange(3))
    module = nn.Linear(1, 1, bias=False)
    recipe = TrainRecipe(Architecture("mlp"), Regression(), TrainSettings(max_grad_norm=1e9))
    curvature = 2 * CURVES**2 / labels.var()
    rate = 0.3 / curvature.max()
    local = LocalSettings(epochs=steps, batch_size=WHOLE, learning_rate=rate, proximal=proximal)
    work = LocalWork(module, split, [np.array([k]) for k in range(3)], recipe=recipe, settings=local, seed=0)
    settings = FederatedSettings(algorithm=algorithm, num_rounds=num_rounds, local=local, fraction=fraction)
    run_federation(work, settings, seed=0)
    return float(module.weight.detach()), curvature, rate


@pytest.mark.parametrize(("algorithm", "proximal"), [("fedavg", 0.0), ("fedprox", 3.0)])
def test_where_local_steps_pull_clients_apart_the_end_is_where_theory_says(algorithm, proximal):
    """Steps of client k lead to w + s_k (b_k - w), s_k by the linear recursion; the end is the s-mean of b."""
    steps = 5
    found, curvature, rate = quadratic(algorithm, steps=steps, proximal=proximal)
    kept = 1 - rate * (curvature + proximal)
    pull = curvature / (curvature + proximal) * (1 - kept**steps)
    assert found == pytest.approx((pull * BEST).sum() / pull.sum(), abs=1e-4)
    assert abs(found - (curvature * BEST).sum() / curvature.sum()) > 0.02  # not the minimum of the mean loss


@pytest.mark.parametrize("fraction", [1.0, 0.67])
def test_control_variates_end_at_the_minimum_of_all_rows(fraction):
    found, curvature, _ = quadratic("scaffold", steps=5, fraction=fraction)
    assert found == pytest.approx((curvature * BEST).sum() / curvature.sum(), abs=1e-3)


def test_the_mean_of_controls_is_kept_with_drop_outs_and_secure_sums(trained):
    clients = split_clients(trained.data.splits["train"], trained.data, num_clients=6, skew="labels:1", seed=2)
    work = work_of(trained, clients)
    settings = FederatedSettings(algorithm="scaffold", num_rounds=6, drop_rate=0.2, secure_sum=True)
    federation, facts = run_federation(work, settings, seed=3)
    assert facts["clients_lost"] > 0
    expected = sum(len(clients[k]) * one for k, one in federation.controls.items()) / sum(map(len, clients))
    assert torch.allclose(federation.control, expected, atol=1e-5)


def test_an_update_depends_on_seed_round_and_client_alone(trained):
    clients = split_clients(trained.data.splits["train"], trained.data, num_clients=4, skew="iid", seed=2)
    work = work_of(trained, clients)
    start = work.flat.values.clone()

    def changes(order, number):
        return {one.client: one.change.clone() for one in work.updates(start, order, number, lambda client: None)}

    first, other = changes([0, 1, 2, 3], 0), changes([3, 1], 0)
    assert all(torch.equal(first[client], other[client]) for client in other)
    assert not torch.equal(changes([1], 1)[1], first[1])


def test_running_statistics_are_averaged_and_tensors_are_their_own_afterwards(tmp_path):
    data = small_images(160, num_classes=2)
    recipe = TrainRecipe(Architecture("cnn_residual", {"width": 8}), task_of(data), TrainSettings(epochs=1))
    system = replace(train_system(data, recipe=recipe, seed=1), name="bars")
    before = recipe.make_module(data.splits["train"], data, 1)
    flat = FlatWeights(before)
    weight, dense = before.body[0].weight, next(one for one in before.modules() if isinstance(one, nn.BatchNorm2d))
    assert weight.is_contiguous(memory_format=torch.channels_last)
    flat.values.fill_(3.0)
    assert (weight == 3).all()
    assert (dense.running_mean == 3).all()
    treated = federated_averaging(system, num_clients=2, training={"num_rounds": 1})
    module = treated.model.module
    norm = next(one for one in module.modules() if isinstance(one, nn.BatchNorm2d))
    assert float(norm.running_mean.abs().max()) > 0
    storages = [one.untyped_storage().data_ptr() for one in module.parameters()]
    assert len(set(storages)) == len(storages)
    assert all(one.is_contiguous() and one.grad is None for one in module.parameters())
    loaded = load_system(save_system(treated, tmp_path / "system"), data)
    assert loaded.digest == treated.digest
    assert loaded.recipe == treated.recipe


# ------------------------------------------------------------------ who holds what


@pytest.mark.parametrize("skew", ["iid", "labels:2", "dirichlet:0.1", "dirichlet:50", "column:light"])
def test_every_row_is_with_one_client_and_every_client_has_one(skew):
    data = small_images(400, num_classes=4)
    split = data.splits["train"]
    parts = split_clients(split, data, num_clients=None if ":l" in skew else 12, skew=skew, seed=3)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(split)))
    assert min(map(len, parts)) >= 1
    shares = [np.bincount(split.labels[part], minlength=4) for part in parts]
    if skew == "iid":
        assert {len(part) for part in parts} == {20}
    if skew == "labels:2":
        assert {int((one > 0).sum()) for one in shares} == {2}
    if skew.startswith("dirichlet"):
        spread = np.mean([one.max() / one.sum() for one in shares if one.sum() > 4])
        assert (spread > 0.6) == (skew == "dirichlet:0.1")
    if skew == "column:light":
        assert [len(part) for part in parts] == sorted((len(part) for part in parts), reverse=True)
        assert all(len(set(split.groups.codes[part, 0].tolist())) == 1 for part in parts)
    again = split_clients(split, data, num_clients=None if ":l" in skew else 12, skew=skew, seed=3)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


def test_shares_are_drawn_from_the_dirichlet_law(small_data):
    """Variance of one client's share of a label: (1/K)(1 - 1/K) / (K alpha + 1)."""
    shares = []
    split = make_split(4000, 1, 1)
    for seed in range(60):
        parts = split_clients(split, small_data, num_clients=4, skew="dirichlet:1", seed=seed)
        shares += [
            (split.labels[part] == label).sum() / (split.labels == label).sum()
            for part in parts[:1]
            for label in (0, 1)
        ]
    assert np.mean(shares) == pytest.approx(0.25, abs=0.06)
    assert np.var(shares) == pytest.approx(0.25 * 0.75 / 5, rel=0.35)


@pytest.mark.parametrize("skew", ["labels", "labels:0", "dirichlet:-1", "dirichlet:x", "iid:2", "column:", "sites"])
def test_a_skew_that_is_none_is_refused(skew):
    with pytest.raises(ModelError, match="skew is"):
        parse_skew(skew)


# ------------------------------------------------------------------ private clients


def private(system, **options):
    chosen = {"num_clients": 60, "training": {"num_rounds": 3, "fraction": 0.2}, "protection": {"epsilon": 4.0}}
    return federated_averaging(system, **{**chosen, **options})


def test_one_client_more_moves_the_sum_by_the_clip_norm_at_most(trained):
    clients = split_clients(trained.data.splits["train"], trained.data, num_clients=20, skew="labels:1", seed=2)
    work = work_of(trained, clients, settings=LocalSettings(learning_rate=5.0))
    settings = FederatedSettings(epsilon=4.0, fraction=0.2, clip_norm=0.01, num_rounds=3, local=work.settings)
    federation = federation_of(work, settings)
    everyone = list(range(20))

    def total(present):
        updates = work.updates(federation.weights, present, 0, federation.correction)
        return federation._sum(present, ((one.client, *federation._message(one, 0, {})) for one in updates))

    whole, weight = total(everyone)
    assert weight == 20
    for client in (0, 7):
        moved = (whole - total([one for one in everyone if one != client])[0]).norm().item()
        assert moved == pytest.approx(0.01, rel=1e-3)


def test_noise_and_coins_are_those_that_were_accounted_for(trained):
    clients = split_clients(trained.data.splits["train"], trained.data, num_clients=40, skew="iid", seed=2)
    work = work_of(trained, clients, settings=LocalSettings(learning_rate=1e-9))  # nothing is learnt: noise alone
    settings = FederatedSettings(epsilon=4.0, fraction=0.2, clip_norm=0.7, num_rounds=3, local=work.settings)
    federation = federation_of(work, settings)
    moved, before = [], federation.weights.clone()

    def look(number):
        moved.append(federation.weights - before)
        before.copy_(federation.weights)
        return False

    federation.run(look)
    expected = federation.noise_multiplier * 0.7 / (0.2 * 40)
    assert torch.cat(moved).std().item() == pytest.approx(expected, rel=0.1)
    counts = [len(federation._who()[0]) for _ in range(300)]
    assert np.mean(counts) == pytest.approx(8, abs=0.6)
    assert np.var(counts) == pytest.approx(40 * 0.2 * 0.8, rel=0.3)  # own coins, not a fixed number
    assert epsilon_of(federation.noise_multiplier, 0.2, 3, delta=1e-5) <= 4.0


@pytest.mark.parametrize("secure", [False, True])
def test_what_is_claimed_is_for_a_client_and_nothing_else_is_told(trained, secure):
    treated = private(trained, protection={"epsilon": 4.0, "secure_sum": secure})
    told = treated.lineage[-1].outcome
    assert (told["privacy_unit"], told["accountant"], told["sample_rate"]) == ("client", "PLD", 0.2)
    assert 3.9 < told["epsilon"] <= 4.0
    assert treated.facts["epsilon"] == told["epsilon"]
    assert told["by_client"] == []
    assert not {"updates", "examples", "steps", "rows_by_client", "curve", "clients_lost"} & {*told, *treated.facts}
    assert ("sums" in told["aggregator"]) == secure
    assert any("seed" in one for one in told["not_covered"])
    assert treated.recipe.fit(trained.data.splits["train"], trained.data, 9).facts["epsilon"] == told["epsilon"]


def test_secure_noise_does_not_follow_from_the_seed(trained):
    protection = {"epsilon": 4.0, "secure_noise": True}
    first, second = (private(trained, protection=protection) for _ in range(2))
    assert first.model.digest != second.model.digest
    assert "seed" not in " ".join(first.lineage[-1].outcome["not_covered"])
    with pytest.raises(TreatmentError, match="secure_noise is set without an epsilon"):
        federated_averaging(trained, protection={"secure_noise": True})


def test_what_clients_share_before_any_noise_is_said(trained):
    balanced = replace(trained.recipe, settings=replace(trained.recipe.settings, class_weights="balanced"))
    copied = resample_groups(replace(trained, recipe=balanced))
    for told, expected in ((private(copied).lineage[-1].outcome, True), (private(trained).lineage[-1].outcome, False)):
        text = " ".join(told["not_covered"])
        assert ("class weights" in text) == expected
        assert ("what resample_groups copied" in text) == expected


def test_what_a_client_elsewhere_sends_is_an_update_or_nothing():
    like, good = torch.zeros(2), {"loss": 0.5, "num_steps": 3, "num_rows": 9}
    found = received(1, [1.0, 2.0], json.dumps(good), like=like)
    assert (found.client, found.loss, found.num_steps, found.num_rows) == (1, 0.5, 3, 9)
    assert found.change.tolist() == [1, 2]
    for change in ([1.0], [1.0, math.nan], None, "x", [[1.0, 2.0]]):
        assert received(1, change, json.dumps(good), like=like) is None
    wrong = [{"num_rows": -9}, {"num_rows": 1e300}, {"num_rows": True}, {"loss": math.nan}, {"num_steps": None}]
    for told in (*(json.dumps({**good, **one}) for one in wrong), None, "", "[]", "{}", json.dumps(3)):
        assert received(1, [1.0, 2.0], told, like=like) is None


def test_batch_norm_gives_way_to_noise():
    data = small_images(160, num_classes=2)
    recipe = TrainRecipe(Architecture("cnn_residual", {"width": 8}), task_of(data), TrainSettings(epochs=1))
    treated = private(train_system(data, recipe=recipe), num_clients=30)
    assert "GroupNorm" in treated.lineage[-1].outcome["replaced"]
    assert treated.recipe.base.architecture.params["norm"] == "group"
    vgg = TrainRecipe(Architecture("cnn_vgg", {"widths": [4], "hidden": 8}), task_of(data), TrainSettings(epochs=1))
    assert private(train_system(data, recipe=vgg), num_clients=30)


# ------------------------------------------------------------------ what is told, and what is refused


def test_the_dossier_tells_of_each_client_by_number(trained, tmp_path):
    treated = federated_averaging(trained, skew="column:race", training={"num_rounds": 2, "drop_rate": 0.4})
    told = treated.lineage[-1].outcome
    train = trained.data.splits["train"]
    sizes = sorted(np.bincount(train.groups.codes[:, 1]).tolist(), reverse=True)
    assert [one["client"] for one in told["by_client"]] == [0, 1, 2]
    assert [one["rows"] for one in told["by_client"]] == sizes
    assert all(sum(one["labels"]) == one["rows"] for one in told["by_client"])
    assert all(0 <= one["accuracy"] <= 1 and 0 <= one["update_auc"] <= 1 for one in told["by_client"])
    assert all(math.isfinite(one["loss_gap"]) for one in told["by_client"])
    assert told["clients"] == 3
    assert told["clients_lost"] >= 1
    names = {"x", "y", "z"}
    assert not names & {str(value) for one in told["by_client"] for value in one.values()}
    assert per_person_arrays({"outcome": told}, 20) == []
    losses = trained.task.losses(train.labels, treated.model.outputs(train.inputs))
    rows = train.groups.codes[:, 1] == train.groups.codes[:, 1][np.argmax(train.groups.codes[:, 1] == 2)]
    smallest = told["by_client"][2]
    assert rows.sum() == smallest["rows"]
    assert smallest["loss"] == pytest.approx(float(losses[rows].mean()), abs=1e-5)


def test_labels_of_few_are_not_told(trained):
    """Nor that nobody of a category has a label: who knows the category of somebody would know their label."""
    train = trained.data.splits["train"]
    labels, codes = np.array(train.labels), train.groups.codes[:, 1]
    labels[codes == 0], labels[np.flatnonzero(codes == 1)[:4]], labels[np.flatnonzero(codes == 1)[4:]] = 0, 1, 0
    labels[codes == 2] = np.arange((codes == 2).sum()) % 2
    data = replace(trained.data, splits={**trained.data.splits, "train": replace(train, labels=labels)})
    training = {"num_rounds": 1}
    told = federated_averaging(replace(trained, data=data), skew="column:race", training=training).lineage[-1].outcome
    by_rows = {one["rows"]: one for one in told["by_client"]}
    sizes = np.bincount(codes)
    assert [("labels" in by_rows[size], "labels_left_out" in by_rows[size]) for size in sizes] == [
        (False, True),
        (False, True),
        (True, False),
    ]


def test_small_and_many_clients_are_left_out(trained):
    told = federated_averaging(trained, num_clients=150, training={"num_rounds": 1}).lineage[-1].outcome
    assert told["by_client"] == []
    assert "150 clients" in told["by_client_left_out"]
    skewed = federated_averaging(trained, num_clients=40, skew="dirichlet:0.2", training={"num_rounds": 1})
    told = skewed.lineage[-1].outcome["by_client"]
    small = [one for one in told if set(one) == {"client", "left_out"}]
    assert len(told) == 40
    assert 0 < len(small) < 40
    assert skewed.lineage[-1].outcome["rows_by_client"]["least"] < 10


def test_a_leak_of_a_client_is_seen(trained):
    """A client that learns its few rows by heart: the weights it sends have less loss on them than on others."""
    training = {"num_rounds": 2, "epochs": 100, "learning_rate": 1.0, "batch_size": 20}
    recipe = replace(trained.recipe, architecture=Architecture("mlp", {"hidden": [64], "num_bins": 32}))
    few = trained.data.splits["train"].take(np.arange(60))
    data = replace(trained.data, splits={**trained.data.splits, "train": few})
    treated = federated_averaging(replace(trained, recipe=recipe, data=data), num_clients=3, training=training)
    told = treated.lineage[-1].outcome["by_client"]
    assert min(one["update_auc"] for one in told) > 0.6
    assert np.mean([one["loss_gap"] for one in told]) > 0.1


REFUSALS = {
    "algorithm": ({"algorithm": "fedsgd"}, "algorithm is 'fedsgd'"),
    "words": ({"training": {"rate": 1}, "protection": {"mask": True}}, "training sets rate"),
    "a text": ({"training": "{epochs = 2}"}, "training is '{epochs = 2}'"),
    "numbers": ({"training": {"num_rounds": 0, "fraction": 0, "epochs": 1.5}}, "fraction is 0"),
    "proximal": ({"training": {"proximal": 1.0}}, "proximal is set"),
    "scaffold": ({"algorithm": "scaffold", "protection": {"epsilon": 1.0}}, "scaffold is to keep an epsilon"),
    "lost with noise": ({"training": {"drop_rate": 0.1}, "protection": {"epsilon": 1.0}}, "drop_rate is 0.1"),
    "delta": ({"protection": {"epsilon": 1.0, "delta": 0.2}}, "delta is 0.2"),
    "sum of two": ({"num_clients": 2, "protection": {"secure_sum": True}}, "only the sum may be seen"),
    "too many": ({"num_clients": 10_000}, "10000 clients have"),
    "column": ({"skew": "column:age"}, "skew names column 'age'"),
    "both": ({"skew": "column:sex", "num_clients": 3}, "clients are categories"),
    "labels": ({"skew": "labels:3"}, "clients of 3 labels share 2 labels"),
    "skew": ({"skew": "sorted"}, "skew is 'sorted'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSALS)
def test_what_does_not_fit_is_said_before_any_work(trained, kind):
    options, said = REFUSALS[kind]
    with pytest.raises(TreatmentError, match="federated_averaging does not fit small: ") as caught:
        federated_averaging(trained, **options)
    assert said in str(caught.value)
    assert all(problem.allowed or problem.next for problem in caught.value.problems)


def test_all_problems_at_once(trained):
    with pytest.raises(TreatmentError) as caught:
        federated_averaging(
            trained,
            algorithm="x",
            training={"num_rounds": 0, "decay": 2},
            protection={"epsilon": -1.0, "secure_sum": 1},
        )
    assert len(caught.value.problems) == 5


def test_a_rate_that_diverges_is_stopped_in_its_round(trained):
    recipe = replace(trained.recipe, settings=replace(trained.recipe.settings, max_grad_norm=1e30))
    with pytest.raises(ModelError, match="the update of client 0 stopped being finite in round"):
        federated_averaging(replace(trained, recipe=recipe), training={"learning_rate": 1e30})


def test_the_recipe_tells_settings_apart(trained):
    base = trained.recipe
    kinds = [
        FederatedSettings(),
        FederatedSettings(num_rounds=11),
        FederatedSettings(local=LocalSettings(decay=0.9)),
        FederatedSettings(secure_sum=True),
    ]
    assert len({FederatedRecipe(base, one).digest for one in kinds}) == len(kinds)
    one = FederatedRecipe(base, kinds[2])
    assert federate._from_json(one.to_json(), trained.data).digest == one.digest


@pytest.mark.slow
def test_averages_remember_single_rows_less():
    """What is declared to move: as many passes as the baseline, which has learnt its rows by heart."""
    splits = {"train": make_split(600, 1, 1), "validation": make_split(300, 2, 901), "test": make_split(600, 3, 1301)}
    data = Data("small", COLUMNS, "label", GROUP_COLUMNS, splits, ("no", "yes"), "yes")
    settings = TrainSettings(epochs=60, batch_size=32, weight_decay=0.0)
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [64], "num_bins": 32}), task_of(data), settings)
    system = train_system(data, recipe=recipe, seed=3)
    treated = federated_averaging(system, training={"num_rounds": 60})
    found = []
    for one in (system, treated):
        audited = engine.audit(one, probes=["membership_inference"], workspace=Workspace(num_references=2))
        found.append(audited.find("membership_auc").value)
    assert found[0] - found[1] > 0.02
    assert treated.facts["epochs"] == 60
