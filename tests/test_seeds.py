"""Seed noise: where a training seed lies between two systems, no difference counts by the test rows alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from assay import engine, registry
from assay.estimation.seeds import is_retrained, moved_in, seed_differences
from assay.matrix import compare
from assay.observe import Ledger, Workspace
from assay.values import Data, Fitted, Measurement, Split, Step, System
from support import KnownModel

PROBES = ["accuracy", "input_noise", "explanation_stability"]


@dataclass(frozen=True)
class Moody:
    """A recipe whose model depends on the seed: each seed tilts it by up to a third."""

    name: str = "moody"
    lift: float = 0.0

    @property
    def digest(self) -> str:
        return self.name

    def fit(self, split: Split, data: Data, seed: int) -> Fitted:
        return Fitted(KnownModel(slope=0.05 * (1 + (seed * 37 % 11 - 5) / 15) + self.lift), {"seconds": 0.0})


def trained(system: System, seed: int, recipe: Moody) -> System:
    fitted = recipe.fit(system.data.splits["train"], system.data, seed)
    return replace(system, name=f"seed {seed}", model=fitted.model, recipe=recipe, seed=seed)


def test_who_is_retrained(known_system: System) -> None:
    first, second = (trained(known_system, seed, Moody()) for seed in (1, 2))
    assert is_retrained(first, second)
    assert not is_retrained(first, replace(first, name="again"))
    step = Step("prune_magnitude", "model", {}, first.digest)
    assert not is_retrained(first, replace(second, lineage=(step,)))
    assert is_retrained(first, replace(second, lineage=(replace(step, stage="train"),)))
    assert is_retrained(first, replace(second, lineage=(replace(step, input_digest="of another system"),)))


def test_one_recipe_with_two_seeds_has_a_spread(known_system: System, workspace: Workspace) -> None:
    first, second = (trained(known_system, seed, Moody()) for seed in (1, 2))
    found = seed_differences(first, second, workspace=workspace, ledger=Ledger(10**9))
    assert found is not None
    differences = found["accuracy", "accuracy", ""]
    assert len(differences) == 4
    assert any(differences), "a reference model compared with itself would be 0 four times"
    assert sum(differences) == pytest.approx(0)


@pytest.mark.slow
def test_another_recipe_is_compared_half_by_half(known_system: System, workspace: Workspace) -> None:
    recipes = Moody(), Moody("lifted", lift=0.02)
    found = seed_differences(
        *(trained(known_system, 1, recipe) for recipe in recipes), workspace=workspace, ledger=Ledger(10**9)
    )
    assert found is not None
    test = known_system.data.splits["test"]

    def accuracy(recipe: Moody, seed: int) -> float:
        outputs = recipe.fit(test, known_system.data, seed).model.outputs(test.inputs)
        return float((outputs.argmax(axis=1) == test.labels).mean())

    expected = [accuracy(recipes[1], seed) - accuracy(recipes[0], seed) for seed in range(1000, 1004)]
    assert found["accuracy", "accuracy", ""] == pytest.approx(expected)


@pytest.mark.slow
def test_cheap_query_probes_are_measured_on_reference_models_and_dear_ones_are_not(
    known_system: System, workspace: Workspace
) -> None:
    first, second = (trained(known_system, seed, Moody()) for seed in (1, 2))
    found = seed_differences(first, second, workspace=workspace, ledger=Ledger(10**9))
    assert found is not None
    assert ("input_noise", "flip_rate", "noise=0.1") in found
    assert not [key for key in found if key[0] == "explanation_stability"]


def test_no_recipe_no_seed(known_system: System, workspace: Workspace) -> None:
    other = replace(known_system, name="other", model=KnownModel(0.01))
    assert seed_differences(known_system, other, workspace=workspace, ledger=Ledger(10**9)) is None


def test_a_verdict_needs_the_seed_noise(known_system: System, workspace: Workspace) -> None:
    first = trained(known_system, 1, Moody())
    flat = replace(trained(known_system, 1, Moody("flat")), name="flat", model=KnownModel(0.0))
    audits = [engine.audit(system, probes=PROBES, workspace=workspace) for system in (first, flat)]
    cells = compare(audits, workspace=workspace).cells["flat"]
    for key, cell in cells.items():
        effect = cell.effect
        assert effect is not None
        if key[0] == "explanation_stability":
            assert effect.verdict == "no detectable change"
            if effect.reason:
                assert "one training run" in effect.reason
        else:
            assert effect.covers == "test rows and training seeds"
    accuracy = cells["accuracy", "accuracy", ""].effect
    assert accuracy is not None
    assert accuracy.verdict == "worse"


def test_what_is_the_same_number_in_both_needs_no_reference_models(known_system: System, workspace: Workspace) -> None:
    def numbers(flips: float, change: float, noise: float) -> dict[tuple[str, str, str], Measurement]:
        told = (
            ("numeric", "flips", flips, 0.0),
            ("numeric", "largest", change, None),
            ("noise", "x", noise, 0.1),
        )
        made = [Measurement(p, m, value, low, low, 0.95, "m", "fraction", "lower") for p, m, value, low in told]
        return {one.key: one for one in made}

    assert moved_in(numbers(0.0, 1.0, 0.1), numbers(0.0, 2.0, 0.3)) == {"noise"}, "the largest has no interval"
    assert moved_in(numbers(0.0, 1.0, 0.1), numbers(0.1, 1.0, 0.1)) == {"numeric"}
    first, second = (trained(known_system, seed, Moody()) for seed in (1, 2))
    ledger = Ledger(10**9)
    few = seed_differences(first, second, workspace=workspace, ledger=ledger, moved=frozenset())
    assert "input_noise" not in ledger.rows
    all_of_them = seed_differences(first, second, workspace=workspace, ledger=ledger)
    assert ledger.rows["input_noise"] > 0
    assert few is not None
    assert all_of_them is not None
    assert {key: all_of_them[key] for key in few} == few
    assert "input_noise" in {key[0] for key in all_of_them.keys() - few.keys()}


def test_what_nobody_asked_is_not_asked_of_reference_models(known_system: System, workspace: Workspace) -> None:
    audits = [
        engine.audit(trained(known_system, seed, Moody()), probes=["accuracy"], workspace=workspace) for seed in (1, 2)
    ]
    matrix = compare(audits, workspace=workspace)
    assert set(matrix.ledger) == {"train pass", "test pass"}
    (effect,) = [cell.effect for cell in matrix.cells["seed 2"].values()]
    assert effect is not None
    assert effect.covers == "test rows and training seeds"


@dataclass(frozen=True)
class Failing(Moody):
    """A recipe that cannot be trained on half of the rows."""

    def fit(self, split: Split, data: Data, seed: int) -> Fitted:
        if len(split) < len(data.splits["train"]):
            raise ZeroDivisionError("no row of a rare class")
        return super().fit(split, data, seed)


def test_a_recipe_that_fails_on_half_of_the_rows_leaves_audit_and_comparison(
    known_system: System, workspace: Workspace
) -> None:
    systems = [trained(known_system, seed, Failing("failing")) for seed in (1, 2)]
    audits = [engine.audit(one, probes=["accuracy", "membership_inference"], workspace=workspace) for one in systems]
    reasons = {one.probe: one.reason for one in audits[0].measurements}
    assert reasons["membership_inference"] == "the probe stopped: ZeroDivisionError: no row of a rare class"
    assert reasons["accuracy"] == ""
    assert compare(audits, workspace=workspace).systems == ("seed 1", "seed 2")
    assert seed_differences(*systems, workspace=workspace, ledger=Ledger(10**9)) == {}


def test_what_stopped_on_a_reference_model_is_measured_next_time(
    known_system: System, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems = [trained(known_system, seed, Moody()) for seed in (1, 2)]
    entry, is_away = registry.PROBES["accuracy"], [True]

    def unlucky(*needs: object) -> list[Measurement]:
        if is_away[0]:
            raise OSError("no route to the host")
        return entry.function(*needs)

    monkeypatch.setitem(registry.PROBES, "accuracy", replace(entry, function=unlucky))
    first = seed_differences(*systems, workspace=workspace, ledger=Ledger(10**9))
    is_away[0] = False
    second = seed_differences(*systems, workspace=workspace, ledger=Ledger(10**9))
    assert ("accuracy", "accuracy", "") not in (first or {})
    assert ("accuracy", "accuracy", "") in (second or {})
