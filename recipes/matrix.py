"""Six treatments and a pair of them on Adult: what each one costs on every other dimension."""

from __future__ import annotations

import sys
from pathlib import Path

import assay
from assay.story import owner_workspace

TREATMENTS = ["reweigh_groups", "group_thresholds", "quantize_int8", "prune_magnitude", "distill", "dp_sgd"]
PAIRS = ["reweigh_groups+quantize_int8"]


def main(folder: Path) -> None:
    """Compare, print the side effects in words, and file one dossier a system."""
    system = assay.train_system(assay.load_adult())
    comparison = assay.compare_treatments(system, TREATMENTS + PAIRS, workspace=owner_workspace(folder / "cache"))
    for sentence in comparison.matrix.sentences.values():
        print("·", sentence)
    print("Pareto set:", ", ".join(comparison.matrix.pareto))
    for judged in comparison.judged:
        dossier = assay.file(judged, folder / judged.audit.system.name)
        print(f"{judged.audit.system.name}: {judged.verdict}, evidence {dossier.evidence_id[:16]}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo/matrix"))
