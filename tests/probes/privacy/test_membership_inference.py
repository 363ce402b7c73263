"""The attack is an instrument: silent where nothing leaks, loud where rows were learnt by heart, exact in between."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from assay.errors import UsageError
from assay.probes.privacy._ratio import out_masks, ratio_score, true_probability
from assay.probes.privacy._roc import Scored, area, found_at, ranked, resampled
from assay.probes.privacy.membership_inference import attack_scores, membership_inference
from assay.stats import make_draws
from assay.values import Column, Groups

SEX = Column("sex", "categorical", categories=("f", "m"))


@dataclass
class FakeRetrain:
    references: tuple
    target_train_logits: np.ndarray
    target_test_logits: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray
    train_groups: Groups
    test_groups: Groups
    copied: int = 0  # the last training rows are copies of the first ones

    @property
    def train_rows(self) -> np.ndarray:
        num = len(self.train_labels)
        return np.concatenate([np.arange(num - self.copied), np.arange(self.copied)])

    def rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng([sum(map(ord, name)), len(self.test_labels)])


def halves(num: int, rng) -> list[np.ndarray]:
    masks = []
    for _ in range(2):
        mask = np.zeros(num, dtype=bool)
        mask[rng.permutation(num)[: num // 2]] = True
        masks += [mask, ~mask]
    return masks


def simulated(num_train: int, num_test: int, *, leak: float = 0.0, seed: int = 0) -> FakeRetrain:
    """Rows differ in difficulty, models in noise; a model is `leak` surer (in logits) of rows it was trained on."""
    rng = np.random.default_rng(seed)
    total = num_train + num_test
    difficulty = rng.normal(1, 2, total)
    labels = rng.integers(0, 2, total)

    def logits(members: np.ndarray) -> np.ndarray:
        margin = difficulty + rng.normal(0, 0.5, total) + leak * members
        return np.stack([np.where(labels == 0, margin, 0), np.where(labels == 1, margin, 0)], axis=1)

    target = logits(np.arange(total) < num_train)
    references = []
    for mask in halves(num_train, rng):
        found = logits(np.concatenate([mask, np.zeros(num_test, dtype=bool)]))
        references.append(SimpleNamespace(members=mask, train_logits=found[:num_train], test_logits=found[num_train:]))
    groups = Groups(rng.integers(0, 2, (total, 1)), (SEX,))
    return FakeRetrain(
        tuple(references),
        target[:num_train],
        target[num_train:],
        labels[:num_train],
        labels[num_train:],
        groups.take(np.arange(num_train)),
        groups.take(np.arange(num_train, total)),
    )


def measure(retrain: FakeRetrain, *, num_draws: int = 200):
    draws = make_draws(b"key", "split", [retrain.test_labels], num_draws=num_draws)
    return {(one.metric, one.slice): one for one in membership_inference(retrain, draws)}


def test_null_nothing_leaks_and_nothing_is_found():
    found = measure(simulated(6000, 6000))
    assert found["membership_auc", ""].value == pytest.approx(0.5, abs=0.015)
    assert found["membership_auc", ""].low < 0.5 < found["membership_auc", ""].high
    assert found["members_found_at_1_percent", ""].value == pytest.approx(0.01, abs=0.005)
    assert found["members_found_at_0.1_percent", ""].low <= 0.001 <= found["members_found_at_0.1_percent", ""].high


@pytest.mark.parametrize("num_test", [300, 4000])
def test_null_false_alarms_are_rare(num_test):
    # An alarm is an interval that lies above what a coin finds; the level allows 2.5 % on that side.
    alarms = {0.01: 0, 0.001: 0}
    misses = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        scored = ranked(rng.normal(size=num_test), rng.normal(size=num_test), rng)
        for fpr in alarms:
            estimate = found_at(scored, fpr, 0.95)
            alarms[fpr] += estimate.low > fpr
            misses += estimate.high < fpr
    assert max(alarms.values()) <= 10
    assert misses <= 20


def test_bounds_cover_the_true_rate_when_there_is_a_leak():
    # Members N(1, 1), non-members N(0, 1): the true rate at 1 % is 1 - Phi(2.3263 - 1) = 0.0924.
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        estimate = found_at(ranked(rng.normal(1, 1, 1000), rng.normal(size=1000), rng), 0.01, 0.95)
        assert estimate.low <= estimate.value <= estimate.high
        covered += estimate.low <= 0.0924 <= estimate.high
    assert covered >= 190


def test_the_asymmetric_average_that_is_avoided_would_give_a_false_alarm():
    # Four OUT references for non-members and two for members: less noise in the mean, so other tails.
    retrain = simulated(8000, 8000)
    for one in retrain.references:  # noisier references make the difference plain
        noise = np.random.default_rng(int(one.members[:50].sum())).normal(0, 3, (16000, 2))
        one.train_logits += noise[:8000]
        one.test_logits += noise[8000:]
    scores, _ = attack_scores(retrain)
    fair = found_at(ranked(*scores["ratio"], np.random.default_rng(0)), 0.01, 0.95)
    probabilities = np.stack([true_probability(one.test_logits, retrain.test_labels) for one in retrain.references])
    target = true_probability(retrain.target_test_logits, retrain.test_labels)
    steadier = ratio_score(target, probabilities, np.ones_like(probabilities, dtype=bool))
    unfair = found_at(ranked(scores["ratio"][0], steadier, np.random.default_rng(0)), 0.01, 0.95)
    assert fair.low <= 0.01 <= fair.high
    assert unfair.low > 0.01


def test_a_row_is_one_member_whatever_its_copies_look_like():
    retrain = simulated(4000, 4000)
    retrain.copied = 2000
    retrain.target_train_logits[2000:] += [50.0, 0.0]  # changed copies, told by their form
    _, sample = attack_scores(retrain)
    assert sample.rows.tolist() == list(range(2000))
    assert measure(retrain)["membership_auc", "attack=loss"].low < 0.5


def test_planted_leak_is_found_by_ratio_and_less_by_loss():
    found = measure(simulated(4000, 4000, leak=2.0))
    ratio, loss = found["members_found_at_1_percent", ""], found["members_found_at_1_percent", "attack=loss"]
    assert ratio.low > 0.05
    assert ratio.low > loss.high
    assert found["membership_auc", ""].low > found["membership_auc", "attack=loss"].high
    curve = [found["members_found", f"fpr={fpr:g}"].value for fpr in (0.001, 0.01, 0.1, 0.5)]
    assert curve == sorted(curve)
    assert curve[1] == ratio.value


def test_a_network_that_learnt_by_heart_is_caught_and_one_that_never_saw_the_rows_is_not():
    rng = np.random.default_rng(0)
    num = 300
    inputs = torch.from_numpy(rng.normal(size=(4 * num, 20)).astype(np.float32))
    labels = (inputs[:, 0].numpy() + rng.normal(0, 1.5, 4 * num) > 0).astype(np.int64)  # noisy: to fit is to remember

    def trained(rows: np.ndarray, seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        net = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        target = torch.from_numpy(labels[rows])
        for _ in range(120):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(inputs[rows]), target).backward()
            optimizer.step()
        with torch.no_grad():
            return net(inputs).numpy()

    train, test, other = np.split(np.arange(4 * num), [num, 3 * num])
    masks = halves(num, rng)
    outputs = [trained(train[mask], 10 + index) for index, mask in enumerate(masks)]
    references = tuple(
        SimpleNamespace(members=mask, train_logits=found[train], test_logits=found[test])
        for mask, found in zip(masks, outputs, strict=True)
    )
    groups = Groups(rng.integers(0, 2, (4 * num, 1)), (SEX,))
    found = {}
    for name, seen in (("heart", train), ("unseen", other)):
        target = trained(seen, 1)
        fake = FakeRetrain(
            references, target[train], target[test], labels[train], labels[test], groups.take(train), groups.take(test)
        )
        found[name] = measure(fake)
    assert found["heart"]["membership_auc", ""].low > 0.75
    assert found["heart"]["members_found_at_1_percent", ""].low > 0.01
    assert found["unseen"]["membership_auc", ""].low < 0.5 < found["unseen"]["membership_auc", ""].high
    assert found["unseen"]["members_found_at_1_percent", ""].low <= 0.01


def test_area_is_the_mann_whitney_statistic_and_replicates_follow_it():
    rng = np.random.default_rng(1)
    members, others = rng.normal(0.7, 1, 900), rng.normal(size=1100)
    scored = ranked(members, others, rng)
    expected = mannwhitneyu(members, others).statistic / (900 * 1100)
    assert area(scored) == pytest.approx(expected)
    draws = make_draws(b"key", "split", [np.zeros(1100, dtype=np.int64)], num_draws=400)
    cells = resampled(scored, draws, (0.01, 0.001))
    areas = cells.areas()
    assert areas[0] == pytest.approx(expected, abs=1e-3)
    # Hanley and McNeil's variance is close for normal scores.
    q1, q2 = expected / (2 - expected), 2 * expected**2 / (1 + expected)
    variance = (expected * (1 - expected) + 899 * (q1 - expected**2) + 1099 * (q2 - expected**2)) / (900 * 1100)
    assert areas[1:].std() == pytest.approx(np.sqrt(variance), rel=0.15)


def test_resampled_rates_start_at_the_observed_one_and_spread_like_a_plain_bootstrap():
    rng = np.random.default_rng(2)
    scored = ranked(rng.normal(1, 1, 1500), rng.normal(size=1500), rng)
    draws = make_draws(b"key", "split", [np.zeros(1500, dtype=np.int64)], num_draws=500)
    shares = resampled(scored, draws, (0.01, 0.001)).found(0.01)
    assert shares[0] == found_at(scored, 0.01, 0.95).value
    plain = []
    for _ in range(500):
        mine, theirs = rng.choice(scored.members, 1500), np.sort(rng.choice(scored.others, 1500))[::-1]
        plain.append((mine > theirs[15]).mean())
    assert shares[1:].mean() == pytest.approx(np.mean(plain), rel=0.1)
    assert shares[1:].std() == pytest.approx(np.std(plain), rel=0.2)


def test_every_row_is_judged_by_half_of_the_references_and_never_by_one_that_saw_it():
    rng = np.random.default_rng(0)
    masks = halves(500, rng)
    mine, theirs = out_masks(masks, 300, rng)
    assert (mine.sum(axis=0) == 2).all()
    assert (theirs.sum(axis=0) == 2).all()
    assert not (mine & np.stack(masks)).any()
    assert 100 < theirs[0].sum() < 200
    with pytest.raises(UsageError, match="complementary"):
        out_masks([masks[0], masks[2]], 300, rng)


def test_few_non_members_say_what_cannot_be_resolved():
    found = measure(simulated(400, 200, leak=4.0))
    rare = found["members_found_at_0.1_percent", ""]
    assert rare.low == 0
    assert "200 non-members" in rare.reason
    assert ("members_found", "fpr=0.001") not in found
    assert ("members_found", "fpr=0.005") in found


def test_equal_scores_find_what_a_coin_finds():
    rng = np.random.default_rng(0)
    scored = ranked(np.zeros(5000), np.zeros(5000), rng)
    estimate = found_at(scored, 0.01, 0.95)
    assert estimate.low <= 0.01 <= estimate.high
    assert area(scored) == pytest.approx(0.5, abs=0.02)


def test_one_non_member_bounds_nothing():
    estimate = found_at(Scored(np.array([1, 2]), np.array([0])), 0.5, 0.95)
    assert (estimate.low, estimate.high) == (0.0, 1.0)


def test_no_members_in_a_group_is_undefined():
    assert found_at(Scored(np.array([], dtype=int), np.array([1])), 0.01, 0.95).reason


def test_groups_have_their_own_threshold_and_count():
    retrain = simulated(3000, 3000)
    margin = np.where(retrain.train_groups.codes[:, 0] == 1, 3.0, 0.0)  # the system leaks only one group
    retrain.target_train_logits[np.arange(3000), retrain.train_labels] += margin
    found = measure(retrain)
    kept, leaked = (found["members_found_at_1_percent", f"sex={name}"] for name in "fm")
    assert leaked.low > kept.high
    assert kept.low <= 0.01 <= kept.high
    assert kept.attempted + leaked.attempted == 6000


def test_errored_rows_stay_in_the_denominator_as_not_recognised():
    retrain = simulated(1000, 1000, leak=3.0)
    whole = measure(retrain)["members_found_at_1_percent", ""]
    retrain.target_train_logits[:500] = np.nan
    found = measure(retrain)["members_found_at_1_percent", ""]
    assert (found.attempted, found.errored, found.scored) == (2000, 500, 1500)
    assert found.value < 0.8 * whole.value


def test_probability_of_many_classes_is_the_softmax():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 5)) * 30, rng.integers(0, 5, 50)
    expected = torch.softmax(torch.from_numpy(logits), dim=1).numpy()[np.arange(50), labels]
    assert true_probability(logits, labels) == pytest.approx(expected)
    assert true_probability(logits + 1e4, labels) == pytest.approx(expected, abs=1e-9)


def test_headlines_are_two_and_paired():
    found = measure(simulated(500, 500))
    heads = [one for one in found.values() if one.headline]
    assert sorted(one.metric for one in heads) == ["members_found_at_1_percent", "membership_auc"]
    assert all(len(one.replicates) == 200 for one in heads)
