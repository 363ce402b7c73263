"""Every benchmark in turn, or those named, into docs/benchmarks.md: `python -m benchmarks [NAME ...]`, 40 minutes."""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.charts import svg, table
from benchmarks.figures import figures

ROOT = Path(__file__).resolve().parents[1]
RUNS = {
    "group_metrics": ["--peer-rounds", "1"],
    "published_fairness": [],
    "shapley": ["--wide"],
    "explain_media": ["--num", "8"],
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
    "whole_matrix": [
        "--only",
        "mlp",
        "--systems",
        "10",
        "--train",
        "3000",
        "--test",
        "1500",
        "--boot",
        "30",
        "--explained",
        "4",
    ],
}  # fmt: skip
HEAD = """# Benchmarks

Ours, a peer and the limit, interleaved in one run, equality of results first. Made by `python -m benchmarks`; each part
says when it ran, on {machine}, {cores} cores, Python {python}. CPU seconds, one thread, unless a line says otherwise.
Tables and charts are read from what the scripts print, below them: ours in blue, peers in grey, the limit striped.
What takes too long for one run, or was taken beside other work: [measurements.md](measurements.md).
"""
PAGE = ROOT / "docs" / "benchmarks.md"
CHARTS = PAGE.parent / "charts"


def sections(page: str) -> dict[str, str]:
    """The parts of the page by name."""
    return {part.split("\n", 1)[0].replace(" ", "_"): part for part in page.split("\n## ")[1:]}


def section(name: str) -> str:
    """One script run now, and what it printed."""
    command = ["python", f"benchmarks/{name}.py", *RUNS[name]]
    done = subprocess.run(
        [sys.executable, *command[1:]],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=ROOT,
    )
    text = done.stdout.strip("\n").rstrip() or done.stderr.strip()[-2000:]
    failed = "" if done.returncode == 0 else f"(exit {done.returncode})\n"
    day = time.strftime("%Y-%m-%d")
    return f"{name.replace('_', ' ')}\n\n`{' '.join(command)}`, {day}\n\n```text\n{text}\n```\n{failed}"


def shown(name: str, part: str) -> str:
    """A part of the page with its table and its chart, which is written beside the page, above what was printed."""
    head, text = re.split(r"\n(?=```text\n)", part.rstrip("\n"), maxsplit=1)
    title, command = head.strip().split("\n\n")[:2]
    found = figures(name, text)
    if not found:
        return f"{title}\n\n{command}\n\n{text}"
    CHARTS.mkdir(exist_ok=True)
    (CHARTS / f"{name}.svg").write_text(svg(name, found), "utf-8")
    picture = f"![{title}: the table above as bars](charts/{name}.svg)"
    return f"{title}\n\n{command}\n\n{table(found)}\n\n{picture}\n\n{text}"


def main() -> None:
    """Run the scripts that are named, or all, and put what each prints in its place on the page as soon as it ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(RUNS))
    parser.add_argument("--draw", action="store_true", help="run nothing: tables and charts of what the page has")
    given = parser.parse_args()
    names = given.names or ([] if given.draw else list(RUNS))
    if unknown := sorted(set(names) - set(RUNS)):
        parser.error(f"{', '.join(unknown)}: not known; there are {', '.join(RUNS)}")
    head = HEAD.format(machine=platform.machine(), cores=os.cpu_count(), python=platform.python_version())
    found = sections(PAGE.read_text("utf-8")) if PAGE.exists() else {}
    for name in names or [""]:
        if name:
            print(f"{name} ...", flush=True)
            found[name] = section(name)
        parts = [shown(one, found[one]) for one in RUNS if one in found]
        PAGE.write_text("\n\n## ".join([head.rstrip("\n"), *parts]) + "\n", "utf-8")


if __name__ == "__main__":
    main()
