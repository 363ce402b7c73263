"""Reading policies: what is accepted, and every problem told at once."""

from __future__ import annotations

import tomllib
from dataclasses import FrozenInstanceError
from importlib import resources
from pathlib import Path

import pytest

from assay.errors import PolicyError
from assay.policy import load_policy, parse_policy, shipped_policies

HEAD = 'name = "p"\nversion = "1"\n'
RULE = '[[rule]]\nid = "r"\nmetric = "accuracy"\nat_least = 0.8\n'


def _problems(text: str, **kwargs: object) -> str:
    with pytest.raises(PolicyError) as caught:
        parse_policy(text.encode(), **kwargs)
    return str(caught.value)


def test_a_small_policy_is_read():
    policy = parse_policy((HEAD + "level = 0.9\n[clause.c]\ncite = 'C'\napplies_from = 2027-12-02\n" + RULE).encode())
    rule = policy.rules[0]
    assert (rule.kind, rule.bound, rule.slice, rule.required) == ("at_least", 0.8, "", True)
    assert policy.clauses[0].applies_from == "2027-12-02"
    assert str(policy.clauses[0]) == "C (applies from 2027-12-02)"
    with pytest.raises(FrozenInstanceError):
        policy.name = "q"


def test_digest_is_of_content_not_of_layout():
    base = parse_policy((HEAD + RULE).encode())
    same = parse_policy(("# a comment\n" + 'version = "1"\n\nname = "p"\n' + RULE).encode())
    assert base.digest == same.digest
    changes = [("0.8", "0.80001"), ('"accuracy"', '"f1"'), ('"r"', '"s"'), ("at_least", "at_most"), ('"1"', '"2"')]
    others = {parse_policy((HEAD + RULE).replace(*change).encode()).digest for change in changes}
    others |= {parse_policy((HEAD + RULE + extra).encode()).digest for extra in ("required = false", 'slice = "*"')}
    others.add(parse_policy((HEAD + "level = 0.9\n" + RULE).encode()).digest)
    assert len(others | {base.digest}) == len(changes) + 4


def test_every_problem_is_told_at_once():
    text = """
    name = ""
    level = 1.5
    colour = "red"
    [clause.c]
    applies_from = "soon"
    [[rule]]
    id = "a"
    metric = "accuracy"
    at_most = 1
    at_least = 0
    [[rule]]
    id = "a"
    metric = "acuracy"
    at_most = true
    required = "yes"
    clauses = ["d"]
    threshold = 3
    [[rule]]
    slice = 7
    at_most = inf
    """
    told = _problems(text, metrics=["accuracy"])
    expected = [
        "name is empty", "'version' is missing", "level is 1.5", "'colour' is not known", "'cite' is missing",
        "applies_from is 'soon'", "has at_most and at_least", "given twice", "'acuracy' is not known",
        "at_most is True", "required is 'yes'", "clauses is ['d']", "'threshold' is not known", "'id' is missing",
        "'metric' is missing", "slice is 7", "at_most is inf",
    ]  # fmt: skip
    assert [one for one in expected if one not in told] == []
    assert "Allowed: accuracy." in told
    assert "Allowed: id, metric, slice, at_most, at_least" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (HEAD, "has no rule"),
        (HEAD + '[[rule]]\nid = "r"\nmetric = "m"\n', "no bound"),
        (HEAD + "rule = 3\n", "rule is 3"),
        (HEAD + "rule = [3]\n", "rule 1 is 3"),
        (HEAD + "clause = {c = 3}\n" + RULE, "clause 'c' is 3"),
        (HEAD + RULE + 'clauses = "c"\n', "clauses is 'c'"),
        (HEAD + RULE.replace("0.8", "nan"), "at_least is nan"),
        (HEAD + RULE.replace("0.8", '"0.8"'), "at_least is '0.8'"),
        (HEAD + "level = 0.79\n" + RULE, "level is 0.79"),
        ("name = [", "is not TOML"),
        ("x = " + "[" * 100_000, "is not TOML"),
        ("#" * 1_000_001, "bytes"),
    ],
)
def test_a_wrong_policy_is_refused(text, told):
    assert told in _problems(text)


def test_bytes_that_are_not_text_are_refused():
    with pytest.raises(PolicyError, match="not TOML"):
        parse_policy(b"\xff\xfe")


def test_metrics_may_be_qualified():
    rule = RULE.replace('"accuracy"', '"performance.accuracy"')
    assert parse_policy((HEAD + rule).encode(), metrics=["performance.accuracy"]).rules[0].metric.endswith("accuracy")


def test_policy_from_a_file_and_by_name(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(HEAD + RULE)
    assert load_policy(path).name == load_policy(str(path)).name == "p"
    assert load_policy(path).text == HEAD + RULE
    assert shipped_policies() == ("default", "strict")
    with pytest.raises(PolicyError, match="default, strict"):
        load_policy("stricct")
    with pytest.raises(PolicyError):
        load_policy(tmp_path)


@pytest.mark.parametrize("name", ["default", "strict"])
def test_shipped_policies_say_what_they_are(name):
    policy = load_policy(name)
    assert policy.name == name
    assert "no law sets them" in policy.about
    assert "complian" not in policy.text.lower()
    assert all(rule.clauses for rule in policy.rules)
    used = {clause for rule in policy.rules for clause in rule.clauses}
    assert used == {clause.id for clause in policy.clauses}
    for clause in policy.clauses:
        assert (clause.applies_from == "2027-12-02") == clause.cite.startswith("EU AI Act")


def test_strict_is_nowhere_laxer_than_default():
    default, strict = load_policy("default"), load_policy("strict")
    rules = {rule.id: rule for rule in strict.rules}
    for rule in default.rules:
        other = rules[rule.id]
        assert (other.metric, other.kind) == (rule.metric, rule.kind)
        assert other.required >= rule.required
        assert other.bound <= rule.bound if rule.kind == "at_most" else other.bound >= rule.bound
    assert any(rules[rule.id].bound != rule.bound for rule in default.rules)


def test_there_is_one_copy_of_each_policy():
    shipped = resources.files("assay") / "policies"
    root = Path(__file__).resolve().parents[1]
    copies = [path for path in (root / "policies").rglob("*.toml") if path.is_file()]
    assert copies == []
    assert "src/assay/policies" in (root / "policies" / "README.md").read_text()
    for name in shipped_policies():
        tomllib.loads((shipped / f"{name}.toml").read_text())


@pytest.mark.parametrize("name", ["default", "strict"])
def test_shipped_rules_name_metrics_that_some_probe_gives(name):
    """A renamed metric would turn its rule into "not tested" without a word."""
    probes = resources.files("assay") / "probes"
    source = "".join(path.read_text() for path in Path(str(probes)).rglob("*.py"))
    unknown = [rule.metric for rule in load_policy(name).rules if f'"{rule.metric}"' not in source]
    assert unknown == []
