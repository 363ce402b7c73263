"""What is suggested was tried here, and stands in the order of what it did."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from assay import registry
from assay.advise import suggest
from assay.errors import UsageError
from assay.matrix import Matrix
from assay.observe import Workspace
from assay.policy import Policy
from assay.story import Comparison, audit, compare_treatments, treat
from assay.values import System

Make = Callable[..., Policy]


@pytest.mark.slow
def test_treatments_of_what_fails_are_tried_and_ranked_by_what_they_did(
    system: System, workspace: Workspace, policy: Make
) -> None:
    smallest = treat(system, "distill").model.num_bytes
    assert system.model.num_bytes is not None
    assert smallest is not None
    rules = policy(("model_bytes", "at_most", smallest + 1), ("accuracy", "at_least", 0.6))
    found = suggest(system, policy=rules, workspace=workspace)
    assert [one.rule for one in found.findings] == ["model_bytes"]  # accuracy passes: nothing is tried for it
    tried = [one.treatment for one in found.suggestions]
    assert {"distill", "prune_magnitude", "quantize_int8"} <= set(tried)
    assert not {"reweigh_groups", "group_thresholds"} & set(tried)  # they do not declare to move bytes
    values = [one.effect.value for one in found.suggestions if one.effect and one.standing == "better"]
    assert values == sorted(values, key=lambda value: -abs(value))
    by_name = {one.treatment: one for one in found.suggestions}
    assert by_name["distill"].verdict == "pass"
    assert by_name["distill"].effect is not None
    assert by_name["distill"].effect.value == smallest - system.model.num_bytes
    assert by_name["prune_magnitude"].verdict == "fail"
    assert "model bytes" in by_name["distill"].side_effects
    assert found.without == ()


@pytest.mark.slow
def test_what_no_treatment_declares_is_said_and_others_can_be_named(
    system: System, workspace: Workspace, policy: Make
) -> None:
    rules = policy(("worst_group_accuracy", "at_least", 0.99, "sex"))
    found = suggest(system, policy=rules, workspace=workspace)
    assert found.suggestions == ()
    assert [one.metric for one in found.without] == ["worst_group_accuracy"]
    named = suggest(system, policy=rules, treatments=["quantize_int8"], workspace=workspace)
    assert [(one.treatment, one.standing) for one in named.suggestions] == [("quantize_int8", "no detectable change")]
    with pytest.raises(UsageError, match="'make_it_fair' is not known"):
        suggest(system, policy=rules, treatments=["make_it_fair"], workspace=workspace)


@pytest.mark.slow
def test_nothing_is_tried_where_all_passes(system: System, workspace: Workspace, policy: Make) -> None:
    found = suggest(system, policy=policy(("accuracy", "at_least", 0.5)), workspace=workspace)
    assert (found.findings, found.suggestions, found.comparison) == ((), (), None)


@pytest.mark.slow
def test_a_treatment_that_does_not_fit_is_shown_with_the_reason(
    system: System, workspace: Workspace, policy: Make
) -> None:
    treated = treat(system, "quantize_int8")
    rules = policy(("model_bytes", "at_most", 10))
    found = suggest(treated, policy=rules, treatments=["distill", "quantize_int8"], workspace=workspace)
    named = [one for one in found.suggestions if one.treatment in ("distill", "quantize_int8")]
    assert [one.standing for one in named] == ["errored", "errored"]
    assert all("does not fit" in one.reason for one in found.suggestions if one.standing == "errored")


def test_named_treatments_are_all_that_is_tried_cheap_ones_first_and_no_more_than_asked(
    system: System, workspace: Workspace, policy: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search itself, with everything that costs left out: which are tried, and in which order."""
    asked: list[list[str]] = []

    def compared(system: System, names: list[str], **options: object) -> Comparison:
        asked.append(list(names))
        return Comparison((judged,), Matrix((), (), {}, (), {}, 0.95, errored=dict.fromkeys(names, "left out")))

    rules = policy(("model_bytes", "at_most", 10))
    judged = audit(system, policy=rules, probes=["model_bytes"], workspace=workspace)
    module = importlib.import_module("assay.advise.suggest")
    monkeypatch.setattr(module, "audit", lambda *args, **options: judged)
    monkeypatch.setattr(module, "compare_treatments", compared)
    named = ["exponentiated_gradient", "distill", "quantize_int8", "distill+quantize_int8", "prune_magnitude"]
    found = suggest(system, policy=rules, treatments=named, workspace=workspace)
    cheap = ["prune_magnitude", "quantize_int8", "distill", "distill+quantize_int8", "exponentiated_gradient"]
    assert asked.pop() == cheap
    assert found.not_tried == ()
    found = suggest(system, policy=rules, treatments=named, most=3, workspace=workspace)
    assert asked.pop() == cheap[:3]
    assert found.not_tried == tuple(cheap[3:])
    assert {one.treatment for one in found.suggestions} == set(cheap[:3])
    suggest(system, policy=rules, most=1, workspace=workspace)
    (first,) = asked.pop()
    assert registry.TREATMENTS[first].trainings == 0
    with pytest.raises(UsageError, match="1 or more"):
        suggest(system, policy=rules, most=0, workspace=workspace)


def test_the_bar_is_that_of_all_systems(system: System, workspace: Workspace, policy: Make) -> None:
    """It went back to zero for each probe of each system, and the time left was that of the probe."""
    seen: list[tuple[str, int, int]] = []
    told = replace(workspace, progress=lambda *one: seen.append(one))
    compare_treatments(system, ["round_outputs", "quantize_int8"], policy=policy(("accuracy", "at_least", 0.5)),
                       probes=["accuracy", "model_bytes"], workspace=told)  # fmt: skip
    after = seen[seen.index(("treating: round_outputs", 0, 2)) :]
    after = after[: next(place for place, one in enumerate(after) if one[0].startswith("pairing"))]
    assert {total for _, _, total in after} == {2}
    assert [done for _, done, _ in after] == sorted(done for _, done, _ in after)
    assert any("model_bytes (1/2)" in what for what, _, _ in after)
