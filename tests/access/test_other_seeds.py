"""Reference models and canary trainings never have the seed of the system that they are compared with."""

from __future__ import annotations

import pytest

from assay.access import references
from assay.access.canaries import canary_training
from assay.access.references import reference_models
from assay.observe import Ledger, Workspace
from assay.train.streams import seeds_apart
from assay.values import Data
from support import remembering


@pytest.mark.parametrize(
    ("own", "seeds"), [(7, [1000, 1001]), (1001, [1002, 1003]), ((1 << 32) + 1000, [1002, 1003]), (1002, [1000, 1001])]
)
def test_no_reference_model_has_the_seed_of_the_system(
    small_data: Data, monkeypatch: pytest.MonkeyPatch, own: int, seeds: list[int]
) -> None:
    monkeypatch.setattr(references, "_TRAINED", {})
    system = remembering(small_data, seed=own)
    found = reference_models(system, Workspace(num_references=2), Ledger(10**7))
    assert system.recipe.seeds == seeds == [one.seed for one in found]


@pytest.mark.parametrize(("own", "seed"), [(0, 3000), (3000, 3001), (3001, 3000)])
def test_no_canary_training_has_the_seed_of_the_system(small_data: Data, own: int, seed: int) -> None:
    system = remembering(small_data, seed=own)
    canary_training(system, Workspace(), Ledger(10**7))
    assert system.recipe.seeds == [seed]


def test_seeds_are_as_many_as_asked_and_without_the_own() -> None:
    for own in range(990, 1020):
        found = seeds_apart(1000, 4, own=own)
        assert len(set(found)) == 4
        assert own not in found
