"""A comparison that is stopped, that meets a broken treatment, or that holds one model under two decision rules."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay import registry, story
from assay.errors import RegistryError, StorageError, TreatmentError, UsageError
from assay.models.adapters.endpoint import CallableModel
from assay.observe import Workspace
from assay.values import Array, Data, System

PROBES = ["accuracy", "selection_rate_gap", "input_noise"]
CHAINS = ["group_thresholds"]


class Counting:
    """Odds by age and income; counts the rows it is asked."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, inputs: Array) -> Array:
        self.rows += len(inputs)
        odds = 0.05 * (inputs[:, 0] - 40) + 0.01 * (inputs[:, 1] - 50)
        return np.stack([-odds, odds], axis=1).astype(np.float32)


@pytest.fixture
def counting(small_data: Data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[System, Counting]:
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    function = Counting()
    return story.system_of(CallableModel(function, name="counting", outputs_are="logits"), small_data), function


def compared(system: System, folder: Path | None, chains: list[str]) -> story.Comparison:
    workspace = Workspace(folder=folder, key=b"k", num_draws=60)
    return story.compare_treatments(system, chains, probes=PROBES, workspace=workspace)


def test_a_broken_treatment_leaves_the_others(
    counting: tuple[System, Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.load()

    def broken(system: System, **options: Any) -> System:
        raise RuntimeError("no\nmemory of that shape")

    entry = replace(registry.TREATMENTS["round_outputs"], function=broken)
    monkeypatch.setitem(registry.TREATMENTS, "round_outputs", entry)
    found = compared(counting[0], None, ["round_outputs", "group_thresholds"]).matrix
    assert found.systems == ("system", "system+group_thresholds")
    assert found.errored == {"round_outputs": "it stopped: RuntimeError: no memory of that shape"}


def test_one_model_under_two_rules_is_asked_the_same_once(counting: tuple[System, Counting]) -> None:
    system, function = counting
    found = compared(system, None, ["group_thresholds"])
    first, second = (one.audit for one in found.judged)
    num_test, num_validation = (len(system.data.splits[name]) for name in ("test", "validation"))
    assert first.ledger == {"test pass": num_test, "input_noise": 2 * num_test}
    assert second.ledger == {"test pass": num_test}, "noisy rows were asked of this model before"
    assert function.rows == 4 * num_test + num_validation  # the treatment fits its thresholds on the validation rows
    assert first.find("accuracy_under_noise", "noise=0.1").value is not None
    assert first.measurements != second.measurements


def test_a_comparison_that_was_stopped_goes_on_where_it_stood(
    counting: tuple[System, Counting], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, _ = counting
    whole, measure, calls = compared(system, tmp_path / "other", CHAINS), story._measure, iter(range(9))

    def stopped(*given: Any) -> Any:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return measure(*given)

    with monkeypatch.context() as patch:
        patch.setattr(story, "_measure", stopped)
        with pytest.raises(KeyboardInterrupt):
            compared(system, tmp_path / "cache", CHAINS)
    resumed = compared(system, tmp_path / "cache", CHAINS)
    assert resumed.judged[0].audit.ledger == {}
    assert resumed.judged[1].audit.ledger["test pass"] == len(system.data.splits["test"])
    for mine, theirs in zip(resumed.judged, whole.judged, strict=True):
        assert [one.digest for one in mine.audit.measurements] == [one.digest for one in theirs.audit.measurements]
    assert resumed.matrix.sentences == whole.matrix.sentences


def test_a_name_given_twice_is_told_before_any_work(counting: tuple[System, Counting]) -> None:
    system, function = counting
    with pytest.raises(UsageError, match="quantize_int8 is named more than once"):
        compared(system, None, ["quantize_int8", "round_outputs", " quantize_int8"])
    assert not function.rows


def test_an_error_of_no_known_base_leaves_the_others_and_a_full_disk_stops(
    counting: tuple[System, Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.load()
    errors = [OSError("the socket closed"), StorageError("no space left")]

    def broken(system: System, **options: Any) -> System:
        raise errors.pop(0)

    entry = replace(registry.TREATMENTS["round_outputs"], function=broken)
    monkeypatch.setitem(registry.TREATMENTS, "round_outputs", entry)
    found = compared(counting[0], None, ["round_outputs", "group_thresholds"]).matrix
    assert found.errored == {"round_outputs": "it stopped: OSError: the socket closed"}
    with pytest.raises(StorageError):  # what a disk does is not told as what a treatment does
        compared(counting[0], None, ["round_outputs", "group_thresholds"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sparsity": "abc"}, "sparsity is 'abc'. Allowed: a number"),
        ({"sparsity": True}, "sparsity is True. Allowed: a number"),
        ({"structured": 1.5, "sparsty": 1}, "structured is 1.5. Allowed: true or false"),
    ],
)
def test_an_option_of_another_kind_is_a_sentence(counting: tuple[System, Counting], options: Any, said: str) -> None:
    with pytest.raises(TreatmentError, match=re.escape(said)) as caught:
        story.treat(counting[0], "prune_magnitude", options=options)
    assert len(caught.value.problems) == len(options)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
def test_a_number_of_numpys_is_a_number(counting: tuple[System, Counting], kind: type) -> None:
    """As a sweep over np.linspace gives them; what is refused here is the model, which has no weights."""
    with pytest.raises(TreatmentError) as caught:
        story.treat(counting[0], "prune_magnitude", options={"sparsity": kind(0)})
    assert "a number" not in str(caught.value)


def test_an_unknown_name_is_answered_with_the_nearest(counting: tuple[System, Counting]) -> None:
    for name, near in (("prune_magnitud", "prune_magnitude"), ("quantise_int8", "quantize_int8")):
        with pytest.raises(RegistryError, match=rf"Did you mean {near}\?$"):
            story.treat(counting[0], name)
    with pytest.raises(RegistryError, match=r"weigh_classes\.$"):  # nothing is near
        story.treat(counting[0], "xyz")
