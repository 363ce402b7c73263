"""Ten million rows must fit: what a million more cost is a bound on what ten million take."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# MiB above the interpreter, at ten million rows. A whole audit of ten million rows has been run to its end and stayed
# below 1,536 but for one probe at 1,544, which has since been cut; what follows from two small runs is rougher.
LIMITS = {"load": 1536, "train": 1536, "audit": 1700, "file": 1536}


def steps_of(rows: int) -> dict[str, dict]:
    command = [sys.executable, "-m", "benchmarks.scale", "--rows", str(rows), "--brief", "--json"]
    # Of ten million rows every column is handed back when it is freed; of one million the allocator would keep them.
    # Polars' own allocator would hand pages back when time has passed: peaks then differ by 12 MiB from run to run, 100
    # at ten million rows. Handed back at once they differ by 1.
    own = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "_RJEM_MALLOC_CONF": "dirty_decay_ms:0,muzzy_decay_ms:0"}
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, env=os.environ | own)
    steps = json.loads(done.stdout)
    assert steps[-1]["rows"] == rows
    return {step["step"]: step for step in steps if not step["depth"]}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory of a step is read from Linux's /proc")
def test_ten_million_rows_would_fit_and_time_is_linear():
    """From one and two million rows: load, train, audit with four reference models, file."""
    one, two = steps_of(1_000_000), steps_of(2_000_000)
    assert list(one) == ["load", "train", "audit", "file"]
    for name in one:
        peaks = [steps[name]["peak_mib"] for steps in (one, two)]
        at_ten = peaks[1] + 8 * (peaks[1] - peaks[0])
        assert at_ten <= LIMITS[name], (
            f"{name}: {peaks[0]:.0f} and {peaks[1]:.0f} MiB make {at_ten:.0f} at ten million rows"
        )
    seconds = [sum(step["seconds"] for step in steps.values()) for steps in (one, two)]
    assert seconds[1] <= 3 * seconds[0], f"{seconds[0]:.0f} and {seconds[1]:.0f} CPU seconds"
