"""Your own PyTorch module on your own table: measured, judged, filed, and read by people who run no Python."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

import assay
from assay.data import load_adult

PROBES = ["accuracy", "calibration_error", "equalized_odds_difference", "group_error_rates", "input_noise"]


class Net(nn.Module):
    """Raw columns in, logits out; encoding is the module's own business."""

    def __init__(self, num_columns: int) -> None:
        super().__init__()
        self.scale = nn.BatchNorm1d(num_columns)
        self.layers = nn.Sequential(nn.Linear(num_columns, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(N, F) to (N, 2)."""
        return self.layers(self.scale(inputs))


def main(folder: Path) -> None:
    """Train as you always do; assay takes over where answering for the model starts."""
    torch.manual_seed(0)
    data = load_adult()
    train = data.splits["train"]
    inputs, labels = torch.from_numpy(train.inputs), torch.from_numpy(train.labels)
    net = Net(inputs.shape[1])
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for start in range(0, 3 * len(inputs), 512):
        rows = torch.arange(start, start + 512) % len(inputs)
        loss = nn.functional.cross_entropy(net(inputs[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    system = assay.system_of(assay.ModuleModel(net.eval()), data, name="my net")
    scaled = assay.treat(system, "temperature_scaling")  # the module and rows are enough; docs/training.md has the rest
    print(f"temperature: {scaled.lineage[-1].outcome['temperature']:.2f}")
    judged = assay.audit(system, probes=PROBES)
    dossier = assay.file(judged, folder / "dossier")
    print(f"verdict: {judged.verdict}; report: {assay.write_report(Path(dossier.path), out=folder / 'report.html')}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo/module"))
