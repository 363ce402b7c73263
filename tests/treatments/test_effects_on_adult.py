"""Does each treatment move on Adult what it declares, by how much, and at what price? Slow: it trains and audits."""

from __future__ import annotations

import inspect

import pytest

from assay import engine, registry
from assay.data import load_adult
from assay.observe import Workspace
from assay.train import train_system

pytestmark = pytest.mark.slow
registry.load()
TREATMENTS = sorted(registry.TREATMENTS.values(), key=lambda one: one.name)
OF_TEXTS = {"redact_personal_data", "swap_identity_terms"}
ELSEWHERE = {"exponentiated_gradient"}  # trains a dozen times: its own test has Adult and a small model
TREATMENTS = [one for one in TREATMENTS if one.name not in OF_TEXTS | ELSEWHERE]
# No labels of Adult were made wrong, and a missing cell is a category of its own to the baseline: what these two can
# do is shown on planted faults (test_data_cleaning). Here they may only cost little: measured 0.870 before, 0.864 and
# 0.869 after. The baseline is not too sure of itself, so smoothing makes it too unsure: 0.007 to 0.039.
# Correlation with the group is gone, and this network finds the group all the same: a gap of 0.168 before, 0.170 after;
# of a linear model it is 0.174 and 0.061 (test_remove_correlation).
# Shards are of 64 MiB, and this network has 90 kB: one file, as before (test_weight_files has small shards).
NOTHING_TO_MEND = {"drop_suspected_labels", "fill_missing", "smooth_labels", "remove_correlation", "shard_weights"}
# What half the units cost this network is less than timings one after the other differ by. In turns: one row takes 182
# and 181 microseconds, 64 rows 228 and 217, 1,024 rows 942 and 771 (test_prune_channels times a wider one).
TOO_SMALL_TO_TELL = {("prune_channels", "latency_p50")}
# The last three buy the rare class with the common one, three quarters of all rows: 0.829, 0.808 and 0.824 of 0.870.
LEAST_ACCURACY = {
    "adversarial_training": 0.79,
    "dp_sgd": 0.83,  # at epsilon 3
    "group_dro": 0.82,
    "refuse_unfamiliar": 0.80,  # 5 % of the rows are refused, and count as wrong: 0.822
    "retrain_last_layer": 0.80,
    "weigh_classes": 0.81,
}
USUAL_ACCURACY = 0.85
SLICES = dict.fromkeys(("demographic_parity_difference", "equalized_odds_difference", "worst_cell_accuracy"), "sex")
SLICES |= {"flip_rate": "noise=0.3", "latency_p50": "batch=1", "extraction_area": "answers=probabilities"}
SLICES |= {"true_positive_rate": "sex=Female"}


@pytest.fixture(scope="module")
def adult():
    return train_system(load_adult())


@pytest.fixture(scope="module")
def workspace():
    return Workspace(key=b"adult", num_draws=200)


def probe_of(metric):
    """The probe that measures a metric, found by its name in the probe's own file."""
    for one in registry.PROBES.values():
        if "classification" in one.tasks and f'"{metric}"' in inspect.getsource(inspect.getmodule(one.function)):
            return one.name
    raise LookupError(metric)


@pytest.mark.parametrize("treatment", TREATMENTS, ids=lambda one: one.name)
def test_moves_what_it_declares(treatment, adult, workspace, record_property):
    treated = treatment.function(adult)
    metrics = [move.split(":") for move in treatment.moves]
    probes = ["accuracy", *(probe_of(metric) for _, metric in metrics)]
    before, after = (engine.audit(system, probes=probes, workspace=workspace) for system in (adult, treated))
    for direction, metric in metrics:
        place = SLICES.get(metric, "")
        first, second = before.find(metric, place).value, after.find(metric, place).value
        record_property(metric, (first, second))
        moved = (second < first) if direction == "lower" else (second > first)
        told = treatment.name not in NOTHING_TO_MEND and (treatment.name, metric) not in TOO_SMALL_TO_TELL
        assert moved or not told
    accuracy = after.find("accuracy").value
    record_property("accuracy", (before.find("accuracy").value, accuracy))
    assert accuracy >= LEAST_ACCURACY.get(treatment.name, USUAL_ACCURACY)


@pytest.mark.parametrize(("name", "gain"), [("group_dro", 0.15), ("retrain_last_layer", 0.08)])
def test_the_worst_cell_of_sex_and_label_gains(name, gain, adult, workspace):
    """Measured: 0.605 (women who earn more) before, 0.798 and 0.703 (men who earn less) after."""
    worst = []
    for system in (adult, registry.TREATMENTS[name].function(adult)):
        found = engine.audit(system, probes=["group_error_rates"], workspace=workspace)
        worst.append(found.find("worst_cell_accuracy", "sex").value)
        cells = [found.find("true_positive_rate", f"sex={sex}").value for sex in ("Female", "Male")]
        cells += [1 - found.find("false_positive_rate", f"sex={sex}").value for sex in ("Female", "Male")]
        assert worst[-1] == pytest.approx(min(cells))
    assert worst[1] > worst[0] + gain
