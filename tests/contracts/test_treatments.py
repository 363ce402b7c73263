"""What every registered treatment must do; a new treatment gets these tests by being registered."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from assay import registry
from assay.digests import canonical
from assay.errors import TreatmentError
from assay.models import Architecture
from assay.models.store import load_system, save_system
from assay.tasks import Argmax, Classification, Identity, LabelThresholds, Regression, task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.values import Data, Fitted, Groups, Step, System
from support import COLUMNS, GROUP_COLUMNS, KnownModel, make_split, several, small_texts

registry.load()
TREATMENTS = tuple(sorted(registry.TREATMENTS.values(), key=lambda one: (one.stage, one.name)))
RETRAINS = {"data", "train"}
every = pytest.mark.parametrize("treatment", TREATMENTS, ids=lambda one: one.name)
# What each treatment cannot be applied to, beside what its stage forbids; add a line with a new treatment.
UNFIT = {
    "federated_averaging": set(),
    "reweigh_groups": {"regression", "no groups"},
    "remove_correlation": {"texts", "no groups"},
    "generalise_to_k": {"texts"},
    "resample_groups": {"regression", "no groups"},
    "group_thresholds": {"regression", "no groups", "three classes", "no validation"},
    "quantize_int8": {"no module", "no validation"},
    "encrypt_weights": {"no module"},
    "shard_weights": {"no module"},
    "prune_by_activation": {"no module", "no validation"},
    "prune_channels": {"no module", "no validation"},
    "quantize_static": {"no module", "no validation"},
    "run_by_onnxruntime": {"no module"},
    "quantize_int4": {"no module", "no validation"},
    "train_for_int8": set(),
    "prune_and_retrain": {"no module"},
    "prune_magnitude": {"no module", "no validation"},
    "temperature_scaling": {"no module", "no validation", "regression"},
    "distill": {"regression"},
    "adversarial_training": {"regression", "texts"},
    "dp_sgd": set(),
    "drop_duplicates": set(),
    "drop_suspected_labels": {"regression"},
    "fill_missing": {"texts"},
    "augment_by_gan": {"regression", "texts"},
    "redact_personal_data": {"table"},
    "swap_identity_terms": {"table"},
    "factor_low_rank": {"no module", "no validation"},
    "round_outputs": {"regression", "no module"},
    "limit_queries": set(),
    "refuse_unfamiliar": {"regression", "no module", "no validation"},
    "answer_by_vote": {"regression", "no module", "texts"},
    "weigh_classes": {"regression"},
    "group_dro": {"regression", "no groups"},
    "smooth_labels": {"regression"},
    "reverse_gradient": {"regression", "no groups"},
    "exponentiated_gradient": {"regression", "no groups", "three classes"},
    "retrain_last_layer": {"regression", "no groups", "no module", "no validation"},
}
# Seconds each: in the slow tier they are made again, saved and loaded as the others are here.
DEAR = {"augment_by_gan", "federated_averaging", "train_for_int8"}
DEAR |= {"quantize_static", "quantize_int4", "run_by_onnxruntime"}  # exporting a graph
on_tables = pytest.mark.parametrize(
    "treatment",
    [
        pytest.param(one, id=one.name, marks=pytest.mark.slow if one.name in DEAR else ())
        for one in TREATMENTS
        if "table" not in UNFIT[one.name]
    ],
)


@cache
def trained() -> System:
    splits = {"train": make_split(900, 1, 1), "validation": make_split(400, 2, 901), "test": make_split(500, 3, 1301)}
    data = Data("small", COLUMNS, "label", GROUP_COLUMNS, splits, ("no", "yes"), "yes")
    settings = TrainSettings(epochs=6, batch_size=128)
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [24, 24]}), Classification(("no", "yes"), "yes"), settings)
    return train_system(data, name="small", recipe=recipe, seed=3)


@cache
def treated_by(name: str) -> System:
    """The trained system under a treatment as it comes: made once, looked at by several tests."""
    return registry.TREATMENTS[name].function(trained())


class NeverTrained:
    """A recipe that must not be used: a treatment that does not fit says so before any work."""

    digest = "never"

    def fit(self, split: object, data: object, seed: int) -> Fitted:
        raise AssertionError("trained although the treatment does not fit")


def unfit(kind: str, known: System) -> System:
    """`known` (a counting model, a recipe that must not run), changed in one way."""
    data = known.data
    plain = {name: replace(split, groups=Groups(np.zeros((len(split), 0)), ())) for name, split in data.splits.items()}
    numbers = {name: replace(split, labels=split.inputs[:, 0]) for name, split in data.splits.items()}
    step = Step("prune_magnitude", "model", {}, "x")
    without = {name: split for name, split in data.splits.items() if name != "validation"}
    three = replace(data, classes=("a", "b", "c"), positive=None)
    return {
        "no module": known,
        "no recipe": replace(known, recipe=None),
        "no groups": replace(known, data=replace(data, splits=plain, group_columns=())),
        "regression": replace(
            known, data=replace(data, splits=numbers, classes=()), task=Regression(), decision=Identity()
        ),
        "several labels": replace(known, data=several(data), task=task_of(several(data)), decision=LabelThresholds()),
        "three classes": replace(known, data=three, task=task_of(three)),
        "no validation": replace(known, data=replace(data, splits=without)),
        "after model stage": replace(known, lineage=(step,)),
        "table": known,
        "texts": replace(known, data=small_texts(60)),
    }[kind]


@every
def test_is_declared_in_full(treatment):
    parameters = list(inspect.signature(treatment.function).parameters.values())
    assert len(parameters) <= 6
    assert all(one.kind is one.KEYWORD_ONLY and one.default is not one.empty for one in parameters[1:])
    assert treatment.moves
    assert all(one.split(":")[0] in ("lower", "higher") and one.split(":")[1] for one in treatment.moves)
    text = inspect.getdoc(treatment.function)
    assert all(word in text for word in ("Limits:", "Source:", "Raises TreatmentError"))
    assert treatment.name in UNFIT


def test_what_is_declared_to_move_is_measured():
    """Every metric named in `moves` is written by some probe, so that the effect can be seen."""
    sources = "".join(inspect.getsource(inspect.getmodule(one.function)) for one in registry.PROBES.values())
    named = {move.split(":")[1] for one in TREATMENTS for move in one.moves}
    assert {name for name in named if f'"{name}"' not in sources} == set()


@on_tables
def test_makes_a_new_system_and_leaves_the_old_one(treatment, tmp_path):
    old, system = trained(), replace(trained())
    weights = {name: tensor.clone() for name, tensor in old.model.module.state_dict().items()}
    before = (old.digest, old.data.digest, old.data.splits["train"].digest)
    treated = treated_by(treatment.name)

    assert system.digest == before[0]
    assert replace(system.data).digest == before[1]
    assert all(bool((tensor == weights[name]).all()) for name, tensor in old.model.module.state_dict().items())

    assert treated.name == f"small+{treatment.name}"
    assert treated.digest != old.digest
    assert treated.lineage[:-1] == old.lineage
    step = treated.lineage[-1]
    assert (step.treatment, step.stage, step.input_digest) == (treatment.name, treatment.stage, old.digest)
    assert set(step.parameters) == set(treatment.options)
    assert canonical(step)  # plain data
    assert not {"seconds", "cpu_seconds", "joules"} & set(step.outcome)

    test = old.data.splits["test"]
    assert treated.data.splits["test"].digest == test.digest
    outputs = treated.model.outputs(test.inputs)
    assert outputs.shape == (len(test), 2)
    assert outputs.dtype == np.float32
    assert np.isfinite(outputs).all()
    probabilities = treated.task.probabilities(treated.task.logits(outputs, treated.model.outputs_are))
    answers = treated.decision.decide(probabilities, test.inputs, test.groups)
    assert answers.shape == (len(test),)
    assert set(answers.tolist()) <= {0, 1} | ({-2} if treatment.name == "refuse_unfamiliar" else set())

    again = treatment.function(system, **step.parameters)  # what the lineage says gives the same system again
    assert again.digest == treated.digest
    assert all(bool((tensor == weights[name]).all()) for name, tensor in old.model.module.state_dict().items())
    loaded = load_system(save_system(treated, tmp_path / "system"), treated.data)
    assert loaded.digest == treated.digest
    assert np.array_equal(loaded.model.outputs(test.inputs), outputs)
    assert loaded.recipe.digest == treated.recipe.digest


@on_tables
def test_answers_of_a_row_do_not_depend_on_the_rows_beside_it(treatment):
    treated = treated_by(treatment.name)
    inputs = trained().data.splits["test"].inputs[:40]
    one_by_one = np.concatenate([treated.model.outputs(inputs[i : i + 1]) for i in range(len(inputs))])
    assert np.allclose(one_by_one, treated.model.outputs(inputs), atol=2e-5)


@on_tables
def test_an_errored_row_stays_errored(treatment):
    treated = treated_by(treatment.name)
    inputs = trained().data.splits["test"].inputs[:8].copy()
    inputs[3, 0] = np.nan
    outputs = treated.model.outputs(inputs)
    assert np.isnan(outputs).any(axis=1).tolist() == [False] * 3 + [True] + [False] * 4
    groups = trained().data.splits["test"].groups.take(np.arange(8))
    probabilities = treated.task.probabilities(outputs)
    assert treated.decision.decide(probabilities, inputs, groups)[3] == -1


@every
def test_says_before_any_work_that_it_does_not_fit(treatment, small_data):
    kinds = UNFIT[treatment.name] | ({"no recipe", "after model stage"} if treatment.stage in RETRAINS else set())
    kinds = kinds if "multi_label" in treatment.tasks else kinds | {"several labels"}
    for kind in sorted(kinds):
        model = KnownModel()
        known = System("known", model, small_data, task_of(small_data), Argmax(), recipe=NeverTrained())
        with pytest.raises(TreatmentError) as caught:
            treatment.function(unfit(kind, known))
        assert model.num_rows == 0, kind
        for problem in caught.value.problems:
            assert problem.what.startswith(f"{treatment.name} does not fit known: "), kind
            assert problem.allowed or problem.next, kind


@cache
def trained_on_several() -> System:
    data = several(trained().data)
    settings = TrainSettings(epochs=2, batch_size=128)
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [24, 24]}), task_of(data), settings)
    return train_system(data, name="several", recipe=recipe, seed=3)


FITS_SEVERAL = [one for one in TREATMENTS if "multi_label" in one.tasks and "table" not in UNFIT[one.name]]


@pytest.mark.parametrize("treatment", FITS_SEVERAL, ids=lambda one: one.name)
def test_what_takes_several_labels_keeps_them(treatment, tmp_path):
    system = trained_on_several()
    test = system.data.splits["test"]
    treated = treatment.function(system)
    outputs = treated.model.outputs(test.inputs)
    answers = treated.decision.decide(treated.task.probabilities(outputs), test.inputs, test.groups)
    assert answers.shape == test.labels.shape == (len(test), 3)
    loaded = load_system(save_system(treated, tmp_path / "system"), treated.data)
    assert loaded.digest == treated.digest
    assert np.array_equal(loaded.model.outputs(test.inputs), outputs)
