"""With --json an error is one document too, and the sentences on stderr are those of the same problems."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from assay import cli
from assay.commands.console import Console
from assay.errors import Problem
from cli_kit import Ran, Run, runner

NOWHERE = {  # code, and a call of every verb that cannot be
    ("train", "nowhere.csv", "--label", "paid"): "data",
    ("audit", "nowhere"): "usage",
    ("treat", "nowhere", "--with", "distill"): "usage",
    ("treat", "nowhere", "--suggest"): "usage",
    ("compare", "nowhere", "--treatments", "distill"): "usage",
    ("report", "nowhere"): "dossier",
    ("verify", "nowhere"): "usage",
    ("serve", "nowhere"): "usage",
    ("list", "nothing"): "usage",
    ("demo", "--out", "a file"): "usage",
    ("choose", "nowhere.csv", "--label", "paid"): "data",
    ("slim", "nowhere"): "usage",
    ("data", "fetch", "nothing"): "usage",
    ("data", "card", "nothing"): "usage",
    ("data", "check", "nowhere.csv", "--label", "paid"): "data",
    ("data", "list", "--nothing"): "usage",
    ("data",): "usage",
    ("nothing",): "usage",
    (): "usage",
}


@pytest.fixture
def assay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    Path("a file").write_text("no folder")
    return runner(capsys)


def told_of(ran: Ran) -> list[dict[str, str]]:
    """The problems in the one document on stdout."""
    document = json.loads(ran.out)
    assert document.keys() == {"error"}
    assert document["error"]
    assert all(one.keys() == {"code", "what", "allowed", "next"} for one in document["error"])
    return list(document["error"])


def sentences(told: list[dict[str, str]]) -> str:
    return "".join(f"assay: {Problem(one['what'], one['allowed'], one['next'])}\n" for one in told)


@pytest.mark.parametrize("words", NOWHERE, ids=" ".join)
def test_an_error_of_every_verb_is_one_document(assay: Run, words: tuple[str, ...]) -> None:
    ran = assay(*words, "--json")
    told = told_of(ran)
    assert ran.code == 2
    assert {one["code"] for one in told} == {NOWHERE[words]}
    assert ran.err == sentences(told)
    assert any(one["allowed"] or one["next"] for one in told)
    without = assay(*words)
    assert (without.code, without.out) == (2, "")


def test_every_verb_is_among_them() -> None:
    verbs = {words[0] for words in NOWHERE if words}
    assert verbs - {"nothing"} == set(typer.main.get_command(cli.app).commands)


def test_every_problem_is_in_the_one_document(assay: Run, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text('name = "odd"\n[[rule]]\nid = "a"\nat_most = "much"\n')
    ran = assay("audit", "nowhere", "--policy", "policy.toml", "--json")
    told = told_of(ran)
    assert ran.err == sentences(told)
    policy = assay("list", "policies", "probes", "--json")
    assert told_of(policy)[0]["next"] == "Read: assay list --help"


def test_an_interrupt_and_a_defect_are_documents_too(assay: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    def broken(*_: object) -> None:
        raise ZeroDivisionError("no 行")

    monkeypatch.setattr("assay.commands.listing.run", stopped)
    ran = assay("list", "--json")
    told = told_of(ran)
    assert (ran.code, ran.err) == (130, sentences(told))
    assert told == [{"code": "interrupted", "what": told[0]["what"], "allowed": "", "next": ""}]
    assert told[0]["what"] == "interrupted; nothing is half-written, and what was measured is remembered"
    silent = assay("list")
    assert (silent.code, silent.out, silent.err) == (130, "", ran.err)
    monkeypatch.setattr("assay.commands.listing.run", broken)
    ran = assay("list", "--json")
    (one,) = told_of(ran)
    assert (ran.code, one["code"]) == (2, "defect")
    assert one["what"] == "a defect stopped this: ZeroDivisionError: no 行"
    assert Path(one["next"].removeprefix("Details are in ")).read_text().endswith("ZeroDivisionError: no 行\n")
    assert ran.err == sentences([one])


def test_a_verdict_is_told_by_its_verb_alone(assay: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fail is no error: its document is the verb's own, and nothing follows it."""

    def failing(what: str, console: Console) -> None:
        console.finish({"verdict": "fail"}, code=1)

    monkeypatch.setattr("assay.commands.listing.run", failing)
    ran = assay("list", "--json")
    assert (ran.code, json.loads(ran.out), ran.err) == (1, {"verdict": "fail"}, "")
