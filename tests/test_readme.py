"""Every command and example of the README files runs as written, and every recipe is short and runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from assay import registry
from assay.data.sources.catalogue import CATALOGUE

ROOT = Path(__file__).resolve().parents[1]
NOT_RUN = "<!-- not run -->"
BLOCK = re.compile(r"^(?P<before>[^\n]*)\n```(?P<kind>python|bash)\n(?P<text>.*?)^```$", re.M | re.S)
READMES = ("README.md", "README.zh.md")
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
MAX_LINES = 80


@dataclass(frozen=True)
class Block:
    readme: str
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.readme}:{self.line}"


def blocks(name: str) -> list[Block]:
    """The fenced blocks that are to run; "not run" stands in a block, or on the line or empty line before it."""
    text = "\n" + (ROOT / name).read_text()
    found = []
    for match in BLOCK.finditer(text):
        before = text[: match.start("kind")].splitlines()[-3:]
        if NOT_RUN not in match["text"] and not any(NOT_RUN in line for line in before):
            line = text.count("\n", 0, match.start("kind"))
            found.append(Block(name, line, match["kind"], match["text"]))
    return found


ALL = [block for name in READMES for block in blocks(name)]


def run(block: Block, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run one block as a newcomer would: in an empty folder, with this Python's programs first on the path."""
    environment = {
        **os.environ,
        "ASSAY_HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = (
        [sys.executable, "-c", block.text] if block.kind == "python" else ["bash", "-euo", "pipefail", "-c", block.text]
    )
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("name", READMES)
def test_a_readme_shows_python_and_the_command_line(name: str) -> None:
    assert {block.kind for block in blocks(name)} == {"python", "bash"}


def test_both_languages_show_the_same_code() -> None:
    def code(name: str) -> list[str]:
        """Without comments and the choice of a language, which are the reader's."""
        return [re.sub(r"\s*#.*$|, lang=\"\w+\"| --lang \w+", "", block.text, flags=re.M) for block in blocks(name)]

    assert code(READMES[0]) == code(READMES[1])


def test_as_many_data_sets_as_the_readmes_say() -> None:
    assert len(CATALOGUE) == 17
    assert "seventeen data sets" in (ROOT / "README.md").read_text()
    assert "十七个数据集" in (ROOT / "README.zh.md").read_text()


@pytest.mark.slow  # each block trains and audits on Adult, and each command starts a process of its own
@pytest.mark.parametrize("block", [block for block in ALL if block.readme == READMES[0]], ids=str)
def test_the_readme_runs(block: Block, tmp_path: Path) -> None:
    ran = run(block, tmp_path)
    assert ran.returncode == 0, ran.stdout[-1000:] + ran.stderr[-3000:]
    assert "Traceback" not in ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in ALL if block.readme != READMES[0]], ids=str)
def test_the_other_language_runs(block: Block, tmp_path: Path) -> None:
    ran = run(block, tmp_path)
    assert ran.returncode == 0, ran.stdout[-1000:] + ran.stderr[-3000:]


@pytest.mark.parametrize("name", READMES)
def test_links_to_files_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", (ROOT / name).read_text()):
        assert (ROOT / target).exists(), target


def test_a_marked_block_is_not_run_and_an_unmarked_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fence = "```"
    marked = f"{NOT_RUN}\n{fence}bash\nexit 1\n{fence}\n\n{fence}bash\n# {NOT_RUN}\nexit 2\n{fence}\n\n"
    text = f"{marked}{fence}bash\nexit 3\n{fence}\n"
    (tmp_path / "README.md").write_text(text)
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (only,) = blocks("README.md")
    assert (only.text, only.line) == ("exit 3\n", 11)
    assert run(only, tmp_path).returncode == 3


# ------------------------------------------------------------------ recipes


def test_there_are_recipes() -> None:
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_short_and_told_in_the_list(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES
    assert path.name in (ROOT / "recipes" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("path", [one for one in RECIPES if one.stem != "federate"], ids=lambda path: path.stem)
def test_a_recipe_runs(path: Path, tmp_path: Path) -> None:
    """All but `federate`, which tests/train/test_flare.py runs: it takes FLARE a while to start."""
    environment = {**os.environ, "ASSAY_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(path), str(tmp_path / "out")]
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    dossiers = sorted((tmp_path / "out").rglob("statement.dsse.json"))
    assert dossiers
    for statement in dossiers:
        checked = [sys.executable, "-m", "assay.cli", "verify", str(statement.parent)]
        told = subprocess.run(checked, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert told.returncode == 0, told.stdout


NUMBERS = {"README.md": "Fifteen of these cost far more", "README.zh.md": "其中十五个探针的代价远高于"}


@pytest.mark.parametrize("name", NUMBERS)
def test_how_many_probes_run_on_request_is_as_the_readme_says(name: str) -> None:
    registry.load()
    assert sum(one.deep for one in registry.PROBES.values()) == 15
    assert NUMBERS[name] in (ROOT / name).read_text("utf-8")
