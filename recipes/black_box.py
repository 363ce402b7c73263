"""A function you cannot look into: everything that needs only answers is measured, the rest says why it is not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import assay
from assay.data import load_adult
from assay.values import Array


def score(inputs: Array) -> Array:
    """Somebody else's rule: years of schooling, hours worked, and whether there were capital gains."""
    names = [column.name for column in load_adult().columns]
    schooling = inputs[:, names.index("education-num")]
    hours = inputs[:, names.index("hours-per-week")]
    gains = inputs[:, names.index("capital-gain")] > 5000
    logit = 0.35 * (schooling - 12) + 0.04 * (hours - 45) + 4.0 * gains - 1.0
    positive = 1 / (1 + np.exp(-logit))
    return np.stack([1 - positive, positive], axis=1).astype(np.float32)


def main(folder: Path) -> None:
    """Audit it like any other system."""
    model = assay.CallableModel(score, name="their rule", outputs_are="probabilities")
    judged = assay.audit(assay.system_of(model, load_adult(), name="their rule"))
    for one in judged.audit.not_applicable:
        print(f"not applicable: {one.probe}, because {one.reason}")
    dossier = assay.file(judged, folder / "dossier")
    print(f"verdict: {judged.verdict}; evidence {dossier.evidence_id[:16]} in {dossier.path}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo/black_box"))
