"""A small residual network on Fashion-MNIST: trained, audited, pruned, compared with itself, filed, read as a page.

`python recipes/train_images.py FOLDER 10` trains for ten passes over the data; without a number it makes one. The
settings of the benchmark's figures are in `benchmarks/accuracy_images.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import assay
from assay.data.sources.fashion_mnist import load_fashion_mnist
from assay.story import owner_workspace
from assay.train.images import image_recipe

PROBES = ["accuracy", "calibration_error", "input_noise", "latency", "model_bytes"]


def main(folder: Path, epochs: int) -> None:
    """Fetch the pictures once (31 MB, pinned and verified), train, and answer for what came out."""
    data = load_fashion_mnist(fetch=True)
    recipe = image_recipe(data, epochs=epochs, augment=["flip"])
    system = assay.train_system(data, recipe=recipe, name="small residual network")
    print(f"trained on {system.facts['examples']:,} pictures in {system.facts['cpu_seconds']:.0f} CPU seconds")

    workspace = owner_workspace(folder / "cache")
    comparison = assay.compare_treatments(system, ["prune_magnitude"], probes=PROBES, workspace=workspace)
    for sentence in comparison.matrix.sentences.values():
        print("·", sentence)
    for judged in comparison.judged:
        name = judged.audit.system.name
        right = judged.audit.find("accuracy")
        print(f"{name}: {judged.verdict}; right {right.value:.4f}, 95 % interval {right.low:.4f} to {right.high:.4f}")
        dossier = assay.file(judged, folder / name)
        print(f"  report: {assay.write_report(Path(dossier.path), out=folder / f'{name}.html')}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo/images"), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
