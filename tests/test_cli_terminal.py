"""On a terminal: progress with a rate and the time left, colours unless NO_COLOR is set; and neither in a pipe."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli_kit import start, write_policy, write_table

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")


def on_a_terminal(*arguments: object, cwd: Path, **variables: str) -> tuple[int, str]:
    """Run the command line with a terminal of 120 columns for all three streams; what it printed, and its code."""
    parent, child = pty.openpty()
    environment = {**os.environ, "ASSAY_HOME": str(cwd / "home"), "OMP_NUM_THREADS": "1", "TERM": "xterm-256color"}
    for name in ("NO_COLOR", "FORCE_COLOR", "CI"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "assay.cli", *map(str, arguments)]
    process = subprocess.Popen(
        command, cwd=cwd, env={**environment, "COLUMNS": "120", **variables}, stdin=child, stdout=child, stderr=child
    )
    os.close(child)
    said, began = b"", time.monotonic()
    while time.monotonic() - began < 120:
        if select.select([parent], [], [], 0.1)[0]:
            try:
                chunk = os.read(parent, 1 << 16)
            except OSError:  # the other end is closed
                break
            said += chunk
        elif process.poll() is not None:
            break
    os.close(parent)
    return process.wait(timeout=10), said.decode(errors="replace")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terminal")
    write_table(folder / "loans.csv")
    write_policy(folder / "easy.toml", accuracy=0.01)
    process = start(
        *["train", "loans.csv", "--label", "paid", "--groups", "sex", "--out", "system"],
        cwd=folder,
        home=folder / "home",
    )
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, ""), err
    assert "\x1b" not in out
    return folder


@pytest.mark.slow
def test_progress_and_colour_on_a_terminal(place: Path) -> None:
    code, said = on_a_terminal("audit", "system", "--policy", "easy.toml", "--cache", "one", "--out", "d1", cwd=place)
    assert code == 0, said
    assert COLOUR.search(said)
    assert "baseline: " in said  # the probe that is running
    assert re.search(r"\d+/\d+", said)
    assert re.search(r"\d/s", said)
    assert re.search(r"\d:\d\d:\d\d", said)


@pytest.mark.slow
def test_no_color_is_honoured(place: Path) -> None:
    words = ("audit", "system", "--policy", "easy.toml", "--cache", "two", "--out", "d2")
    code, said = on_a_terminal(*words, cwd=place, NO_COLOR="1")
    assert code == 0, said
    assert not COLOUR.search(said)
    assert "verdict: pass" in said


@pytest.mark.slow
@pytest.mark.parametrize("word", ["--quiet", "--json"])
def test_quiet_and_json_draw_nothing_even_on_a_terminal(place: Path, word: str) -> None:
    words = ("audit", "system", "--policy", "easy.toml", "--probes", "accuracy", "--out", "d3", word)
    code, said = on_a_terminal(*words, cwd=place)
    assert code == 0, said
    assert "\x1b[?25l" not in said, "a bar hides the cursor"
    assert not re.search(r"\d:\d\d:\d\d", said)


@pytest.mark.slow
def test_help_needs_neither_torch_nor_numpy(place: Path) -> None:
    code = "import sys; from assay.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print('HEAVY', sorted({'torch', 'numpy', 'scipy', 'polars'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=place, check=True)
    assert "HEAVY []" in ran.stdout


@pytest.mark.slow
def test_a_list_of_data_needs_no_torch(place: Path) -> None:
    code = "import sys; from assay.cli import main\ntry: main(['data', 'list'])\nexcept SystemExit: pass\n"
    code += "print('HEAVY', sorted({'torch', 'sklearn', 'assay.engine'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=place, check=True)
    assert "HEAVY []" in ran.stdout
    assert "chinese_reviews" in ran.stdout
