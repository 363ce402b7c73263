"""The cheapest that passes is found, what fell out says why, and trying many makes no false pass likelier."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from assay import engine
from assay.advise import slim
from assay.advise.slim import chains_of
from assay.errors import UsageError
from assay.observe import Workspace
from assay.policy import Policy, judge, overall
from assay.story import treat
from assay.values import System

Make = Callable[..., Policy]
TRIED = ["quantize_int8", "prune_magnitude"]


@pytest.mark.slow
def test_it_finds_what_auditing_everything_finds(system: System, workspace: Workspace, policy: Make) -> None:
    rules = policy(("accuracy", "at_least", 0.7), ("model_bytes", "at_most", 10**6))
    found = slim(system, policy=rules, treatments=TRIED, workspace=workspace)
    assert found.chosen is not None
    everything = {"": system}
    for chain in chains_of(TRIED):
        treated = system
        for name, options in chain:
            treated = treat(treated, name, options=options)
        everything[" + ".join(" ".join([n, *(f"{k}={v}" for k, v in o.items())]) for n, o in chain)] = treated
    passing = {}
    for told, one in everything.items():
        audited = engine.audit(one, workspace=workspace)
        findings = judge(rules, audited.measurements, audited.not_applicable, num_systems=len(everything))
        if overall(rules, findings) == "pass":
            passing[told] = one.model.num_bytes
    assert found.chain == min(passing, key=lambda told: passing[told] or 0)
    assert found.chosen.num_systems == len(everything)  # the level is shared by all that was tried
    assert [one.fate for one in found.attempts].count("chosen") == 1
    assert {one.chain for one in found.attempts} == set(everything)
    assert found.num_audits < len(everything)


@pytest.mark.slow
def test_one_pass_is_enough_to_drop_what_fails_on_it(
    system: System, workspace: Workspace, policy: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = []
    audit = engine.audit
    monkeypatch.setattr(
        engine, "audit", lambda *args, **kept: whole.append(kept["probes"] is None) or audit(*args, **kept)
    )
    rules = policy(("accuracy", "at_least", 0.999))
    found = slim(system, policy=rules, treatments=TRIED, workspace=workspace)
    assert found.chosen is None
    assert not any(whole)
    assert found.num_audits == 0
    assert all(one.fate.startswith("one pass shows that it fails accuracy") for one in found.attempts)


@pytest.mark.slow
def test_what_cannot_be_made_is_told_and_the_others_go_on(system: System, workspace: Workspace, policy: Make) -> None:
    treated = treat(system, "quantize_int8")  # neither a second time, nor by training again
    found = slim(treated, policy=policy(("accuracy", "at_least", 0.6)), treatments=TRIED, workspace=workspace)
    fates = {one.chain: one.fate for one in found.attempts}
    assert fates["quantize_int8"].startswith("errored: quantize_int8 does not fit")
    assert fates[""] in ("chosen", "not audited: a cheaper one is accepted")
    assert found.chosen is not None


@pytest.mark.slow
@pytest.mark.parametrize("target", ["latency", "joules"])
def test_other_costs_are_measured_in_turns(system: System, workspace: Workspace, policy: Make, target: str) -> None:
    rules = policy(("accuracy", "at_least", 0.6))
    found = slim(system, policy=rules, target=target, treatments=["quantize_int8"], workspace=workspace)  # type: ignore[arg-type]
    assert found.chosen is not None
    assert all(one.cost is not None and one.cost > 0 for one in found.attempts)
    assert found.unit == ("seconds" if target == "latency" else "joules")


def test_wrong_words_are_told(system: System, policy: Make) -> None:
    with pytest.raises(UsageError, match="bytes, latency, joules"):
        slim(system, target="speed")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="'shrink' is not known"):
        slim(system, treatments=["shrink"], policy=policy(("accuracy", "at_least", 0.6)))


def test_chains_are_single_treatments_and_pairs_with_rounding_last() -> None:
    told = [[name for name, _ in chain] for chain in chains_of(None)]
    assert ["quantize_int8"] in told
    assert ["prune_magnitude", "quantize_int8"] in told
    assert ["quantize_int8", "prune_magnitude"] not in told
    assert all(len(set(chain)) == len(chain) for chain in told)
