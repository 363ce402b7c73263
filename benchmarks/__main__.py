"""Every benchmark, one after the other, into docs/benchmarks.md: `python -m benchmarks` (about ten idle minutes)."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNS = {
    "group_metrics": ["--peer-rounds", "1"],
    "published_fairness": [],
    "shapley": ["--wide"],
    "gradient_suite": [],
    "slices": [],
    "thresholds": [],
    "robust_accuracy": ["--points", "100"],
    "membership": [],
    "published_privacy": [],
    "serving": [],
    "train_speed": ["--lightning"],
    "dp_step": [],
    "federated": [],
    "pruning": [],
    "int8": [],
    "whole_audit": [],
}
HEAD = """# Benchmarks

Ours, a peer and the limit, interleaved in one run, equality of results first. Made by `python -m benchmarks`; the
numbers below are one run on {machine}, {cores} cores, Python {python}, {day}. CPU seconds, one thread, unless a line
says otherwise. What takes too long for one run, or was taken beside other work: [measurements.md](measurements.md).
"""


def main() -> None:
    """Run the scripts and write what they print."""
    import os

    parts = [
        HEAD.format(
            machine=platform.machine(),
            cores=os.cpu_count(),
            python=platform.python_version(),
            day=time.strftime("%Y-%m-%d"),
        )
    ]
    for name, options in RUNS.items():
        script = ROOT / "benchmarks" / f"{name}.py"
        print(f"{name} ...", flush=True)
        command = [sys.executable, str(script), *options]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
        text = done.stdout.strip() or done.stderr.strip()[-2000:]
        parts.append(f"## {name.replace('_', ' ')}\n\n`{' '.join(['python', f'benchmarks/{name}.py', *options])}`\n")
        parts.append(f"```text\n{text}\n```\n" + ("" if done.returncode == 0 else f"(exit {done.returncode})\n"))
    (ROOT / "docs" / "benchmarks.md").write_text("\n".join(parts), "utf-8")


if __name__ == "__main__":
    main()
