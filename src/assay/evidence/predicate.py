"""What the signature of a dossier says in words of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from assay.policy import Policy, outcome, overall
from assay.values import Audit, Finding, Measurement


def predicate(audit: Audit, findings: Sequence[Finding], *, policy: Policy, filed: str) -> dict[str, Any]:
    """Names and digests, the verdict, and each judged number with interval, denominator, bound and outcome."""
    made = {one.digest: one for one in audit.measurements}
    return {
        "filed": filed,
        "system": {"name": audit.system.name, "digest": audit.system.digest},
        "data": {"name": audit.system.data.name, "digest": audit.system.data.digest},
        "policy": {"name": policy.name, "version": policy.version, "digest": policy.digest, "level": policy.level},
        "verdict": overall(policy, findings),
        "evidence": [_evidence(one, made.get(one.measurement)) for one in findings],
    }


def _evidence(finding: Finding, one: Measurement | None) -> dict[str, Any]:
    counts = (0, 0, 0) if one is None else (one.attempted, one.scored, one.errored)
    return {
        "metric": finding.metric,
        "slice": finding.slice,
        "value": finding.value,
        "low": finding.low,
        "high": finding.high,
        "level": finding.level,
        "unit": "" if one is None else one.unit,
        "method": "" if one is None else one.method,
        "attempted": counts[0],
        "scored": counts[1],
        "errored": counts[2],
        "rule": finding.rule,
        "bound": finding.bound,
        "outcome": outcome(finding),
        "clause": finding.clause,
        "measurement": finding.measurement,
    }
