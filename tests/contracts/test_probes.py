"""What every registered probe must do; a new probe gets these tests by being registered.

A probe's docstring has one line that says what it measures and then, in this order, each at the start of a line::

    Definition:  the formula, and what an errored example counts as
    Shapes:      every array it reads, with dimension letters, such as labels (N,)
    Direction:   higher, lower or neither is better, and the unit
    Limits:      what the number does not show, and when it is undefined
    Source:      paper or manual, with its section

and after a blank line a runnable example (``>>>``).

Passive probes are called directly on made-up data. Active ones run through the engine on `active_systems`, which names
the systems to try: add one there when a new kind of model or task comes in.
"""

from __future__ import annotations

import doctest
import importlib
import re
from functools import cache

import numpy as np
import pytest

from assay import engine, registry
from assay.models import Architecture
from assay.observe import Workspace
from assay.stats import make_draws
from assay.tasks import Argmax, Classification, MultiLabel, Regression, decision_of, task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.values import Column, Groups, System
from support import KnownModel, several, small_images, small_texts

registry.load()
PROBES = tuple(sorted(registry.PROBES.values(), key=lambda one: one.name))
PASSIVE = tuple(one for one in PROBES if not one.access)
ACTIVE = tuple(one for one in PROBES if one.access)
SECTIONS = ("Definition", "Shapes", "Direction", "Limits", "Source")
KINDS = {
    "classification": ("two classes", "three classes"),
    "regression": ("regression",),
    "multi_label": ("several labels",),
}
CASES = [
    pytest.param(one, kind, id=f"{one.name}-{kind}") for one in PASSIVE for task in one.tasks for kind in KINDS[task]
]
COLUMNS = (Column("age", "numeric", low=17, high=90), Column("job", "categorical", ("a", "b", "c")))
SEX = Column("sex", "categorical", ("Female", "Male"))
RACE = Column("race", "categorical", ("x", "y", "z"))

# ------------------------------------------------------------------ made-up data


def arrays_of(kind, num, seed=0, gap=0.0):
    """Every array a passive probe may name; `gap` makes the second group worse."""
    rng = np.random.default_rng(seed)
    codes = np.column_stack([rng.integers(2, size=num), rng.choice(3, size=num, p=[0.6, 0.3, 0.1])])
    inputs = np.column_stack([rng.uniform(17, 90, num), rng.integers(3, size=num)]).astype(np.float32)
    width = {"two classes": 2, "three classes": 3, "regression": 1, "several labels": 3}[kind]
    hidden = rng.normal(size=(num, width))
    if kind == "regression":
        labels = (hidden[:, 0] + rng.normal(size=num) * (0.5 + gap * codes[:, 0])).astype(np.float32)
    elif kind == "several labels":
        labels = (2 * hidden + rng.logistic(size=(num, width)) * (1 + gap * codes[:, :1]) > 0).astype(np.int64)
    else:
        noise = rng.gumbel(size=(num, width)) * (1 + gap * codes[:, :1])
        labels = (2 * hidden + noise).argmax(axis=1)
    logits = (hidden if kind == "regression" else 2 * hidden).astype(np.float32)
    return {
        "inputs": inputs,
        "labels": labels,
        "codes": codes.astype(np.int16),
        "logits": logits,
        "embeddings": rng.normal(size=(num, 4)).astype(np.float32),
        "input_gradients": rng.normal(size=(num, 2)).astype(np.float32),
    }


def needs_of(kind, arrays, columns=(SEX, RACE), num_draws=200):
    """What the engine would give a probe for these arrays."""
    names = {"two classes": ("no", "yes"), "three classes": ("a", "b", "c")}
    tasks = {"regression": Regression(), "several labels": MultiLabel(("a", "b", "c"))}
    task = tasks.get(kind) or Classification(names[kind])
    codes, labels, logits = arrays["codes"], arrays["labels"], arrays["logits"]
    probabilities = task.probabilities(logits)
    predictions = decision_of(task).decide(probabilities, None, None)
    told = [] if kind == "regression" else [*np.atleast_2d(labels.T), *np.atleast_2d(predictions.T)]
    discrete = [*codes.T.astype(np.int64), *told]
    discrete = discrete or [np.zeros(len(labels), dtype=np.int64)]
    return {
        "inputs": arrays["inputs"],
        "labels": labels,
        "groups": Groups(codes, columns),
        "logits": logits,
        "probabilities": probabilities,
        "predictions": predictions,
        "losses": task.losses(labels, logits),
        "embeddings": arrays["embeddings"],
        "input_gradients": arrays["input_gradients"],
        "draws": make_draws(b"key", "split", discrete, num_draws=num_draws),
        "task": task,
        "columns": COLUMNS,
        "facts": {},
    }


@cache
def ready(kind, num, *, seed=0, hard="", num_draws=200):
    """What probes are given, made once for all of them as an audit does, and read-only: none can change another's."""
    needs = needs_of(kind, HARD.get(hard, dict)(arrays_of(kind, num, seed=seed)), num_draws=num_draws)
    for array in (*needs.values(), needs["groups"].codes):
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    return needs


def run(probe, needs):
    found = probe.function(*(needs[name] for name in probe.needs))
    assert isinstance(found, list)
    assert found
    assert sum(one.headline for one in found) <= 2
    keys = [(one.metric, one.slice) for one in found]
    assert len(set(keys)) == len(keys), "a metric and slice is measured twice"
    for one in found:
        assert one.attempted == one.scored + one.errored
        assert min(one.attempted, one.scored, one.errored) >= 0
        if one.value is None:
            assert one.reason
        elif one.low is None or one.high is None:
            assert one.reason, f"{one.metric} {one.slice}: no interval and no reason"
        else:
            assert one.low - 1e-12 <= one.value <= one.high + 1e-12, one
    return {(one.metric, one.slice): one for one in found}


# ------------------------------------------------------------------ what is written


@pytest.mark.parametrize("probe", PROBES, ids=lambda one: one.name)
def test_docstring_says_what_where_which_way_and_what_not(probe):
    text = probe.function.__doc__ or ""
    first = text.splitlines()[0].strip() if text else ""
    assert first.endswith("."), "the first line is a sentence"
    found = re.findall(rf"^\s*({'|'.join(SECTIONS)}): ", text, flags=re.MULTILINE)
    assert tuple(found) == SECTIONS, f"sections are {found}"
    parts = re.split(rf"^\s*(?:{'|'.join(SECTIONS)}): ", text.split(">>>")[0], flags=re.MULTILINE)[1:]
    sections = dict(zip(SECTIONS, parts, strict=True))
    assert all(len(part.split()) >= 3 for part in parts)
    assert all(name in sections["Shapes"] for name in probe.observables), "Shapes names every array that is read"
    assert re.search(r"higher|lower|neither|nearest", sections["Direction"])


@pytest.mark.parametrize("probe", PROBES, ids=lambda one: one.name)
def test_docstring_example_runs(probe):
    module = importlib.import_module(probe.function.__module__)
    examples = doctest.DocTestFinder(recurse=False).find(probe.function, probe.name, globs=dict(vars(module)))
    assert any(one.examples for one in examples), "there is no example"
    for one in examples:
        assert doctest.DocTestRunner(verbose=False).run(one).failed == 0


# ------------------------------------------------------------------ what passive probes do


@pytest.mark.parametrize(("probe", "kind"), CASES)
def test_same_inputs_give_the_same_digests_and_stay_as_they_were(probe, kind):
    arrays = arrays_of(kind, 300)
    for array in arrays.values():
        array.flags.writeable = False
    needs = needs_of(kind, arrays)
    for value in needs.values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    first, second = run(probe, needs), run(probe, needs_of(kind, arrays))
    assert [one.digest for one in first.values()] == [one.digest for one in second.values()]
    for key, one in first.items():
        if one.replicates is not None:
            np.testing.assert_array_equal(one.replicates, second[key].replicates)
            assert one.replicates.shape == (200,)


@pytest.mark.parametrize(("probe", "kind"), CASES)
def test_order_of_examples_does_not_matter(probe, kind):
    arrays = arrays_of(kind, 300, gap=1.0)
    order = np.random.default_rng(1).permutation(300)
    first = run(probe, needs_of(kind, arrays))
    second = run(probe, needs_of(kind, {name: array[order] for name, array in arrays.items()}))
    assert first.keys() == second.keys()
    for key, one in first.items():
        assert second[key].value == (None if one.value is None else pytest.approx(one.value, abs=1e-9)), key


@pytest.mark.parametrize(("probe", "kind"), CASES)
def test_interval_is_wider_with_fewer_examples(probe, kind):
    widths = {}
    for num in (250, 4000):
        found = [run(probe, ready(kind, num, seed=seed)) for seed in range(2)]
        for one in (one for run_ in found for one in run_.values() if one.headline and one.low is not None):
            widths.setdefault((one.metric, one.slice), {}).setdefault(num, []).append(one.high - one.low)
    for key, by_num in widths.items():
        if len(by_num) == 2:
            assert np.mean(by_num[250]) > 1.3 * np.mean(by_num[4000]), key


def changed(**values):
    """A change of some arrays, each given as a function of the old array."""
    return lambda arrays: arrays | {name: make(arrays[name].copy()) for name, make in values.items()}


def errored(share):
    def spoil(logits):
        logits[: int(np.ceil(share * len(logits)))] = np.nan
        return logits

    return changed(logits=spoil)


HARD = {
    "one group only": changed(codes=lambda codes: codes * 0),
    "every group value missing": changed(codes=lambda codes: codes * 0 - 1),
    "some group values missing": changed(codes=lambda codes: np.where(np.arange(len(codes))[:, None] % 3, codes, -1)),
    "an empty group": changed(codes=lambda codes: np.minimum(codes, 1)),
    "a group of one": changed(codes=lambda codes: (np.arange(len(codes)) == 0)[:, None] * np.array([1, 2])),
    "all one label": changed(labels=lambda labels: labels * 0),
    "all outputs equal": changed(logits=lambda logits: logits * 0),
    "every answer certain": changed(logits=lambda logits: logits * 1000),
    "some errored": errored(0.1),
    "a quarter errored": errored(0.25),
    "all errored": errored(1.0),
    "one row": lambda arrays: {name: array[:1] for name, array in arrays.items()},
    "two rows": lambda arrays: {name: array[:2] for name, array in arrays.items()},
    "no row": lambda arrays: {name: array[:0] for name, array in arrays.items()},
}


@pytest.mark.parametrize(("probe", "kind"), CASES)
def test_hard_cases_are_undefined_with_a_reason_and_never_an_exception(probe, kind):
    for hard in HARD:
        try:
            found = run(probe, ready(kind, 120, hard=hard, num_draws=50))
        except Exception as error:
            raise AssertionError(hard) from error
        for one in found.values():
            assert one.reason if one.value is None else np.isfinite(one.value), (hard, one.metric, one.slice)


@pytest.mark.parametrize(("probe", "kind"), CASES)
def test_no_sensitive_column(probe, kind):
    if "groups" in probe.needs and probe.family in ("fairness", "data"):
        pytest.skip("the engine reports it as not applicable")
    arrays = arrays_of(kind, 120)
    found = run(probe, needs_of(kind, arrays | {"codes": arrays["codes"][:, :0]}, columns=(), num_draws=50))
    assert all(one.reason if one.value is None else np.isfinite(one.value) for one in found.values())


@pytest.mark.parametrize(("probe", "kind"), CASES)
def test_errored_examples_stay_in_the_denominator(probe, kind):
    clean, spoilt = run(probe, ready(kind, 200)), run(probe, ready(kind, 200, hard="a quarter errored"))
    for key, one in spoilt.items():
        if one.slice == "" and key in clean:
            assert one.attempted == clean[key].attempted
            if {"predictions", "probabilities", "logits", "losses"} & set(probe.needs):
                assert one.errored == 50
    if "higher" in {one.better for one in clean.values()}:
        for key, one in clean.items():  # failing a quarter of the rows never makes a whole-split share better
            after = spoilt.get(key)
            if one.better == "higher" and one.slice == "" and after is not None and after.value is not None:
                assert after.value < one.value or one.value is None, key


GAP = re.compile("(difference|gap|deficit)$")


def false_alarms(probe, kind, repetitions):
    """How often a gap is called larger than 0 when all groups are alike, by metric and slice."""
    alarms = {}
    for seed in range(repetitions):
        found = run(probe, needs_of(kind, arrays_of(kind, 300, seed=seed), num_draws=200))
        for key, one in found.items():
            if GAP.search(one.metric) and one.low is not None:
                alarms.setdefault(key, []).append(one.low > 0)
        if seed == 11 and not alarms:  # none of its metrics is a gap between groups
            break
    return {key: (sum(hits), len(hits)) for key, hits in alarms.items()}


GAP_CASES = [one for one in CASES if one.values[0].family in ("fairness", "utility")]


@pytest.mark.slow
@pytest.mark.parametrize(("probe", "kind"), GAP_CASES)
def test_null_data_fails_in_at_most_five_percent(probe, kind):
    alarms = false_alarms(probe, kind, 300)
    if not alarms:
        pytest.skip("none of its metrics is a gap")
    for key, (hits, total) in alarms.items():
        assert hits / total <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / total), f"{key}: {hits} of {total}"


# ------------------------------------------------------------------ what active probes do


def active_systems(data):
    """The systems that active probes are tried on, by name: each probe runs on the first that offers all it needs."""
    if data.modality != "table":
        return {"trained here": trained_on(data)}
    black_box = System("black box", KnownModel(), data, task_of(data), Argmax())
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [8]}), task_of(data), TrainSettings(epochs=2))
    return {"black box": black_box, "trained here": train_system(data, name="trained here", recipe=recipe)}


def trained_on(data):
    """A tiny network for pictures or texts."""
    name, params = {
        "image": ("cnn_lenet", {"widths": [2, 3], "hidden": [8]}),
        "text": ("gru", {"dim": 8, "num_hidden": 8, "vocab_size": 40}),
    }[data.modality]
    settings = TrainSettings(epochs=3, batch_size=32)
    return train_system(data, name=name, recipe=TrainRecipe(Architecture(name, params), task_of(data), settings))


MODALITIES = {
    "table": lambda: None,
    "image": lambda: small_images(300),
    "text": lambda: small_texts(300),
    "Chinese text": lambda: small_texts(300, language="zh"),
}


@pytest.fixture(scope="module")
def systems(small_data):
    """By modality, made when asked for."""

    @cache
    def of(kind):
        return active_systems(MODALITIES[kind]() or small_data)

    return of


def audited(probe, systems, folder):
    """One fresh audit by this probe alone: nothing is remembered from another."""
    chosen = next((one for one in systems.values() if not engine.why_not(probe, one)), None)
    if chosen is None:
        pytest.skip(f"no system here offers {', '.join(sorted(probe.access))}")
    workspace = Workspace(folder=folder, key=b"owner", num_draws=100, num_references=2)
    return chosen, engine.audit(chosen, probes=[probe.name], workspace=workspace)


# Run fewer rows when examples are broken before the last step, a language has no cases, a black box no threads to set,
# a model no attention, a row the other answer after one change.
STOPS_EARLY = {
    "gradient_attack",
    "adversarial_accuracy",
    "certified_radius",
    "corruption_accuracy",
    "corruption_accuracy_of_all_rows",
    "numeric_noise",
    "roofline",
    "attention_rollout",
    "recourse",
    "identity_swap",  # test texts that name nobody are not run
}
STOPS_EARLY |= {"gradient_reconstruction"}  # one pass is enough to see that no linear layer comes first
STOPS_EARLY |= {"part_attributions"}  # units that move nothing, or have one part, are not taken apart
STOPS_EARLY |= {"refusals"}  # a rule that never refuses is not asked
STOPS_EARLY |= {"attribute_inference"}  # asks about each value of the sensitive columns there are, of 16 at most


FAST = {("image", "input_noise"), ("text", "input_noise"), ("image", "model_bytes"), ("text", "shapley_attributions")}
# Hundreds of passes in a row, or nine trainings: two audits take seconds.
DEAR = {"adversarial_accuracy", "certified_radius", "model_extraction", "suspected_poison"}
ACTIVE_CASES = [
    pytest.param(
        probe, kind, id=f"{probe.name}-{kind}",
        marks=() if (kind == "table" and probe.name not in DEAR) or (kind, probe.name) in FAST else pytest.mark.slow,
    )
    for probe in ACTIVE
    for kind in MODALITIES
    if kind.split()[-1] in probe.modalities
]  # fmt: skip


@pytest.mark.parametrize("kind", ["image", "text", pytest.param("Chinese text", marks=pytest.mark.slow)])
def test_every_passive_probe_reads_pictures_and_texts(kind, systems):
    """What it reads is of the shape that its modality has, and its numbers are whole and explained."""
    (system,) = systems(kind).values()
    found = engine.audit(system, probes=[one.name for one in PASSIVE], workspace=Workspace(key=b"owner", num_draws=50))
    skipped = {one.probe for one in found.not_applicable}
    assert {one.probe for one in found.measurements} | skipped == {one.name for one in PASSIVE}
    assert skipped == {one.name for one in PASSIVE if engine.why_not(one, system)}
    for one in found.measurements:
        assert not one.reason.startswith("the probe stopped"), (one.probe, one.reason)
        assert one.attempted == one.scored + one.errored
        assert one.reason or (one.value is not None and one.low is not None)


@pytest.mark.parametrize(("probe", "kind"), ACTIVE_CASES)
def test_active_probe_keeps_its_promises(probe, kind, systems, tmp_path):
    systems = systems(kind)
    chosen, first = audited(probe, systems, tmp_path / "one")
    assert not [one.reason for one in first.measurements if one.reason.startswith("the probe stopped")]
    assert first.measurements
    assert sum(one.headline for one in first.measurements) <= 2
    for one in first.measurements:
        assert one.attempted == one.scored + one.errored
        assert one.low is None or one.high is None or one.low - 1e-12 <= one.value <= one.high + 1e-12
        assert one.reason or (one.value is not None and one.low is not None)
    if "retrain" not in probe.access:
        declared = sum(probe.cost(engine.sizes_of(chosen)).values())
        run_now = sum(rows for kind, rows in first.ledger.items() if kind != "test pass")
        assert run_now <= declared
        assert run_now == declared or probe.name in STOPS_EARLY
    if "meter" not in probe.access:
        inputs = chosen.data.splits["test"].inputs.copy()
        _, second = audited(probe, systems, tmp_path / "two")
        assert [one.digest for one in first.measurements] == [one.digest for one in second.measurements]
        np.testing.assert_array_equal(inputs, chosen.data.splits["test"].inputs)


# ------------------------------------------------------------------ several labels a row


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODALITIES)
def test_every_probe_on_several_labels_measures_or_says_why_not(kind, small_data):
    data = several(MODALITIES[kind]() or small_data)
    name = {"table": "mlp", "image": "cnn_lenet"}.get(data.modality, "gru")
    params = {"mlp": {"hidden": [8]}, "cnn_lenet": {"widths": [2, 3], "hidden": [8]}}
    architecture = Architecture(name, params.get(name, {"dim": 8, "num_hidden": 8, "vocab_size": 40}))
    recipe = TrainRecipe(architecture, task_of(data), TrainSettings(epochs=2, batch_size=32))
    system = train_system(data, name="several", recipe=recipe)
    found = engine.audit(system, probes=["all"], workspace=Workspace(key=b"owner", num_draws=50, num_references=2))
    skipped = {one.probe: one.reason for one in found.not_applicable}
    assert {one.probe for one in found.measurements} | set(skipped) == {one.name for one in PROBES}
    assert {name for name, reason in skipped.items() if "the task is multi_label" in reason} == {
        one.name for one in PROBES if "multi_label" not in one.tasks
    }
    for one in found.measurements:
        assert not one.reason.startswith("the probe stopped"), (one.probe, one.reason)
        assert one.attempted == one.scored + one.errored
        assert one.reason or (one.value is not None and one.low is not None)
