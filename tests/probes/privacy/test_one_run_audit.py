"""The audit refutes a trainer that is broken, hardly ever one that is not, and its bound is the published one."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binom

from assay.access import canaries as module
from assay.access.canaries import canary_training
from assay.access.handles import Canaries
from assay.models import Architecture
from assay.observe import Ledger, Workspace
from assay.policy import judge, parse_policy
from assay.probes.privacy._one_run import best_bound, epsilon_bound, p_value, two_run_bound
from assay.probes.privacy.one_run_audit import one_run_audit
from assay.stats import make_draws
from assay.tasks import Argmax, task_of
from assay.train import TrainRecipe
from assay.treatments.train.dp_sgd import DpRecipe, DpSettings
from assay.values import Column, Data, Groups, Split, System
from private_kit import clipped_by_batch, no_noise
from support import small_images, small_texts

GROUP = (Column("g", "categorical", ("a", "b")),)
DRAWS = make_draws(b"key", "split", [np.arange(50) % 2])


def from_paper(m, r, v, epsilon, delta):
    """Appendix D of the paper, sum by sum."""
    share = 1 / (1 + math.exp(-epsilon))
    tail, alpha, total = sum(binom.pmf(k, r, share) for k in range(v, r + 1)), 0.0, 0.0
    for i in range(1, v + 1):
        total += binom.pmf(v - i, r, share)
        alpha = max(alpha, total / i)
    return min(tail + alpha * delta * 2 * m, 1.0)


@pytest.mark.parametrize(("m", "r", "v"), [(10, 10, 10), (40, 20, 15), (200, 60, 55), (200, 200, 90)])
@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-2])
def test_p_value_is_the_paper_s(m, r, v, delta):
    for epsilon in (0.0, 0.3, 2.0):
        assert p_value(m, r, v, epsilon, delta) == pytest.approx(from_paper(m, r, v, epsilon, delta), abs=1e-12)


def test_bounds_are_those_of_jax_privacy():
    # jax_privacy 8967688, auditing._epsilon_one_run(0, m, r, v, error, delta); 768 settings agreed within 5e-7.
    for m, r, v, delta, error, expected in [
        (1000, 600, 600, 1e-5, 0.05, 5.2704),
        (1000, 200, 180, 1e-5, 0.05, 1.7963),
        (5000, 500, 400, 1e-3, 0.01, 0.0),
        (100, 100, 70, 0.0, 0.05, 0.4717),
    ]:
        assert epsilon_bound(m, r, v, delta=delta, error=error) == pytest.approx(expected, abs=1e-4)
    # Clopper-Pearson of two runs: 180 settings agreed within 1e-15.
    assert two_run_bound(90, 100, 5, 100) == pytest.approx(math.log(0.82378 / 0.11284), abs=1e-3)
    assert two_run_bound(0, 100, 5, 100) == two_run_bound(50, 100, 60, 100) == 0.0
    assert epsilon_bound(10, 0, 0) == epsilon_bound(100, 100, 50) == 0.0


@pytest.mark.slow
def test_randomised_response_is_rarely_refuted_and_nearly_found():
    # Each answer is right with probability e^1 / (1 + e^1): the tight case of epsilon 1.
    rng = np.random.default_rng(0)
    bounds = []
    for _ in range(200):
        included = rng.random(1000) < 0.5
        right = rng.random(1000) < 1 / (1 + math.exp(-1))
        scores = np.where(included == right, 1.0, 0.0) + rng.random(1000) / 2
        bounds.append(best_bound(scores, included, delta=0.0)[0])
    assert np.mean(np.array(bounds) > 1) <= 0.05
    assert np.median(bounds) > 0.6


def test_one_sided_looks_help_where_many_of_the_included_look_like_the_others():
    included = np.arange(400) % 2 == 0
    scores = np.where(included & (np.arange(400) % 5 > 0), 1.0, 0.0)  # a fifth of the included were never drawn
    both, alone = best_bound(scores, included, delta=0.0), best_bound(scores, included, delta=0.0, one_sided=True)
    assert (alone[1], alone[2]) == (100, 100)
    assert alone[0] == epsilon_bound(400, 100, 100, error=0.05 / 16) > both[0]
    assert best_bound(np.zeros(1), np.ones(1, dtype=bool), delta=0.0, one_sided=True) == (0.0, 0, 0)


def fake(scores, included, **facts):
    logits = np.stack([np.zeros(len(scores)), scores], axis=1)
    return SimpleNamespace(canaries=Canaries(np.ones(len(scores), dtype=np.int64), included, logits, facts))


def measure(retrain, facts=None):
    return {one.metric: one for one in one_run_audit(retrain, facts or {}, DRAWS)}


def test_a_model_that_knows_its_canaries_refutes_the_claim_and_one_that_does_not_leaves_it():
    rng = np.random.default_rng(1)
    included, noise = rng.random(1000) < 0.5, rng.normal(size=1000)
    leaky = measure(fake(noise + 6 * included, included, epsilon=2.0, delta=1e-5))
    assert leaky["audited_epsilon"].value > 3
    assert leaky["epsilon_excess"].low > 1
    assert leaky["canary_guess_rate"].low > 0.95
    quiet = measure(fake(noise, included, epsilon=2.0, delta=1e-5))
    assert quiet["epsilon_excess"].value == quiet["epsilon_excess"].high == 0.0
    assert quiet["claimed_epsilon"].value == 2.0
    none = measure(fake(noise, included))
    assert none["claimed_epsilon"].value is none["epsilon_excess"].value is None
    assert measure(fake(noise, included), {"epsilon": 1.5})["claimed_epsilon"].value == 1.5
    clients = measure(fake(noise + 6 * included, included, epsilon=0.5, delta=1e-5, privacy_unit="client"))
    assert clients["claimed_epsilon"].value == 0.5
    assert clients["epsilon_excess"].value is None  # one canary changes a client: not what was claimed
    assert "one client" in clients["claimed_epsilon"].reason


@pytest.mark.parametrize(("leak", "verdict"), [(6.0, "fail"), (0.0, "pass")])
def test_a_policy_fails_a_refuted_claim(leak, verdict):
    rng = np.random.default_rng(1)
    included = rng.random(1000) < 0.5
    found = measure(fake(rng.normal(size=1000) + leak * included, included, epsilon=2.0))
    rules = b'name = "p"\nversion = "1"\nlevel = 0.95\n[clause.c]\ncite = "Clause"\napplies_from = 2027-12-02\n'
    rules += b'[[rule]]\nid = "claim"\nmetric = "epsilon_excess"\nat_most = 0.0\nclauses = ["c"]\n'
    (finding,) = judge(parse_policy(rules), list(found.values()), ())
    assert finding.verdict == verdict


def test_errored_canaries_stay_and_count_as_unlikely():
    rng = np.random.default_rng(1)
    included = rng.random(400) < 0.5
    scores = np.where(included, 9.0, rng.normal(size=400))
    scores[included] = np.where(np.arange(included.sum()) < 40, np.nan, scores[included])
    found = measure(fake(scores, included))["canary_guess_rate"]
    assert (found.attempted, found.errored) == (400, 40)
    assert found.value < 0.95


def wide(num_rows=1600, num_columns=2000):
    """Many columns, so that out-of-range canaries are nearly orthogonal and one training can keep them apart."""
    rng = np.random.default_rng(0)
    columns = tuple(Column(f"c{place}", "numeric", low=-3, high=3) for place in range(num_columns))

    def split(num, first):
        inputs = rng.normal(size=(num, num_columns)).astype(np.float32)
        groups = Groups(np.zeros((num, 1), dtype=np.int16), GROUP)
        return Split(inputs, (inputs[:, 0] > 0).astype(np.int64), groups, np.arange(first, first + num))

    splits = {"train": split(num_rows, 1), "validation": split(8, 9001), "test": split(50, 9101)}
    return Data("wide", columns, "label", GROUP, splits, ("no", "yes"), "yes")


def audited(monkeypatch, data, seed, epsilon=0.8):
    monkeypatch.setattr(module, "SEED", 3000 + seed)
    rng = module.keyed_rng
    monkeypatch.setattr(module, "keyed_rng", lambda *words: rng(*words, str(seed)))
    task = task_of(data)
    base = TrainRecipe(Architecture("mlp", {"hidden": [16]}), task)
    recipe = DpRecipe(base, DpSettings(epsilon=epsilon, batch_size=200, epochs=20, learning_rate=1e-2))
    system = System("wide", None, data, task, Argmax(), recipe)
    canaries = canary_training(system, Workspace(), Ledger(10**9))
    monkeypatch.undo()
    return measure(SimpleNamespace(canaries=canaries))


@pytest.mark.slow
@pytest.mark.parametrize("bug", [no_noise, clipped_by_batch])
def test_a_seeded_bug_is_refuted_by_one_training(monkeypatch, bug):
    data = wide()
    for seed in range(3):
        bug(monkeypatch)
        found = audited(monkeypatch, data, seed)
        assert found["claimed_epsilon"].value == pytest.approx(0.8, rel=0.01)
        assert found["epsilon_excess"].low > 0, (seed, found["audited_epsilon"])


@pytest.mark.slow
def test_the_correct_trainer_is_refuted_in_at_most_five_percent(monkeypatch):
    data = wide(num_rows=800)
    excess = [audited(monkeypatch, data, seed)["epsilon_excess"].value for seed in range(20)]
    assert sum(one > 0 for one in excess) <= 1


def test_canaries_are_made_for_each_kind_of_input_and_remembered(small_data):
    for data in (small_data, small_images(60), small_texts(60), small_texts(60, language="zh")):
        system = System("s", None, data, task_of(data), Argmax())
        split = module.made_up(system, 12, np.random.default_rng(0))
        assert len(split) == 12
        assert split.inputs.dtype == data.splits["train"].inputs.dtype
        assert split.inputs.shape[1:] == data.splits["train"].inputs.shape[1:]
        assert set(split.rows.tolist()).isdisjoint(data.splits["train"].rows.tolist())
        assert len({str(row) for row in split.inputs}) == 12
