import numpy as np
import pytest

from assay.data.sources import cache, chinese_reviews, newsgroups, orange_text, reuters_r8, sentiment, spam
from assay.data.sources.archives import pack
from assay.data.sources.spam import read_message
from assay.errors import DataError, UsageError
from source_kit import with_files


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.FOLDER_NAME, str(tmp_path))


def everything(data):
    """(split, row number, text, label) of all rows."""
    return [
        (name, *row)
        for name, split in data.splits.items()
        for row in zip(split.rows.tolist(), split.inputs.tolist(), split.labels.tolist(), strict=True)
    ]


def unlike(number):
    """Texts no two of which are alike."""
    rng = np.random.default_rng(number)
    return " ".join("".join(rng.choice(list("abcdefghijklmnop"), 7)) for _ in range(8))


def sentiment_files():
    ratings = {"clear": [1.2, -2.0, 0.5, -0.5], "neutral": [0.49, 0.0, -0.49]}
    files = {}
    for place, name in enumerate(sentiment._FILES.values()):
        lines = []
        for i in range(40):
            rating = (ratings["neutral"] if i % 8 == 7 else ratings["clear"])[i % 3]
            lines.append(f"{1 + i // 4}_{1 + i % 4}\t{rating}\t{unlike(1000 * place + i)} &amp; more\r\n")
        files[name] = "".join(lines).encode()
    return files


def test_ratings_become_classes_and_neutral_texts_are_left_out(monkeypatch):
    monkeypatch.setattr(sentiment, "SOURCE", with_files(sentiment.SOURCE, sentiment_files()))
    data = sentiment.load_sentiment(domain="products")
    rows = everything(data)
    assert len(rows) == 35
    assert data.source["dropped"]["neutral: mean rating between -0.5 and 0.5"] == 5
    assert data.source["num_source_rows"] == 40
    for _, number, text, label in rows:
        assert number % 8 != 0  # the eighth line of eight is neutral
        assert label == (0 if (number - 1) % 3 == 1 else 1)
        assert text.endswith(" & more")
    assert (data.classes, data.positive, data.group_columns) == (("negative", "positive"), "positive", ())
    assert data.columns[0].language == "en"


def test_sentences_of_one_document_are_on_one_side(monkeypatch):
    monkeypatch.setattr(sentiment, "SOURCE", with_files(sentiment.SOURCE, sentiment_files()))
    sides = {}
    for split, number, *_ in everything(sentiment.load_sentiment(domain="editorials")):
        sides.setdefault((number - 1) // 4, set()).add(split)
    assert len(sides) == 10
    assert all(len(one) == 1 for one in sides.values())


def test_all_domains_together_have_the_domain_as_group(monkeypatch):
    monkeypatch.setattr(sentiment, "SOURCE", with_files(sentiment.SOURCE, sentiment_files()))
    data = sentiment.load_sentiment()
    assert data.group_columns[0].categories == sentiment.DOMAINS
    for split in data.splits.values():
        assert np.array_equal(split.groups.codes[:, 0], (split.rows - 1) // 40)
    with pytest.raises(UsageError, match="movie, tweets, products, editorials, all"):
        sentiment.load_sentiment(domain="books")


def test_chinese_reviews_lose_repeats_and_contradictions(monkeypatch):
    negative = [unlike(i) for i in range(30)] + [unlike(0), "both", " ", unlike(1) + " "]
    positive = [unlike(100 + i) for i in range(30)] + ["both", unlike(102)]
    files = {"neg.txt": "\n".join(negative).encode(), "pos.txt": "\n".join(positive).encode()}
    monkeypatch.setattr(chinese_reviews, "SOURCE", with_files(chinese_reviews.SOURCE, files))
    data = chinese_reviews.load_chinese_reviews()
    rows = everything(data)
    assert len(rows) == len({text for *_, text, _ in rows}) == 60
    assert "both" not in {text for *_, text, _ in rows}
    assert data.source["dropped"] == {"empty": 0, "repeated": 3, "the same text with different classes": 2}
    assert data.columns[0].language == "zh"
    for _, _, text, label in rows:
        assert label == (text in positive)


@pytest.mark.parametrize("module", [reuters_r8, newsgroups])
def test_news_keeps_its_test_split_and_drops_training_texts_like_it(module, monkeypatch):
    head = "Category\tText\nd\tstring\nclass\t\n"
    train = [("ab"[i % 2], unlike(i)) for i in range(40)]
    test = [("ab"[i % 2], unlike(100 + i)) for i in range(10)]
    train += [("a", unlike(100)), ("b", unlike(101) + " zz"), ("a", unlike(5))]  # repeats test; like test; contradicts
    files = {
        one.name: (head + "\n" + "".join(f"{label}\t{text}\n" for label, text in part) + "\n").encode()
        for one, part in zip(module.SOURCE.kept, (train, test), strict=True)
    }
    monkeypatch.setattr(module, "SOURCE", with_files(module.SOURCE, files))
    data = getattr(module, f"load_{module.__name__.rsplit('.', 1)[-1]}")()
    assert data.splits["test"].inputs.tolist() == [text for _, text in test]
    kept = {text for split, _, text, _ in everything(data) if split != "test"}
    assert kept == {unlike(i) for i in range(40) if i != 5}
    assert data.source["dropped"] == {
        "empty": 0, "repeated": 1, "the same text with different classes": 2,
        "training texts nearly equal to a test text": 1,
    }  # fmt: skip
    assert data.source["num_rows"] == len(everything(data)) == 49


def test_a_news_line_without_a_tab_is_an_error():
    with pytest.raises(DataError, match="line 4 has no tab"):
        orange_text._rows(b"h\nh\nh\nno tab here\n")


HTML_MAIL = (
    b"Subject: =?utf-8?q?Caf=C3=A9?=\nContent-Type: multipart/mixed; boundary=B\n\n--B\n"
    b"Content-Type: text/html; charset=nonsense\nContent-Transfer-Encoding: base64\n\n"
    b"PGh0bWw+PHN0eWxlPnAge308L3N0eWxlPjxwPkJ1eSA8Yj5ub3c8L2I+JmFtcDs8L3A+\n--B\n"
    b"Content-Disposition: attachment; filename=x.txt\nContent-Type: text/plain\n\nsecret\n--B--\n"
)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"Subject: Hi\n\nplain   text\n", ("Hi plain text", "plain")),
        (HTML_MAIL, ("Café Buy now&", "html")),
        (b"Subject: =?nonsense?q?x?=\n\nbody", ("=?nonsense?q?x?= body", "plain")),
        (b"Content-Type: text/html\n\n<script>var a='<p>'</script>shown", ("shown", "html")),
        (b"Subject: only\nContent-Type: image/png\n\nxx", ("only", "plain")),
        (b"\xff\xfe\x00", None),
        (b"", ("", "plain")),
        (b"Subject: long\n\n" + b"word " * 9000, None),
    ],
)
def test_messages_of_every_kind_are_read(raw, expected):
    text, form = read_message(raw)
    assert len(text) <= spam.MAX_LETTERS
    assert form in spam.FORMS
    if expected is not None:
        assert (text, form) == expected


def test_mail_has_its_class_from_its_folder_and_no_headers(monkeypatch):
    folders = ("easy-ham-1", "hard-ham-1", "spam-1", "spam-2")
    messages = {
        f"{folder}/{i:05}.txt": f"From: {folder}@x\nX-Spam: {folder}\nSubject: {unlike(i)}\n"
        f"Content-Type: text/{'html' if i % 2 else 'plain'}\n\n<b>{unlike(1000 + i + 50 * place)}</b>".encode()
        for place, folder in enumerate(folders)
        for i in range(20)
    }
    monkeypatch.setattr(spam, "SOURCE", with_files(spam.SOURCE, {"messages": pack(messages)}))
    data = spam.load_spam()
    rows = everything(data)
    assert len(rows) == 80
    for _, number, text, label in rows:
        assert label == (number > 40)  # by name: ham first
        assert not any(folder in text for folder in folders)
    for split in data.splits.values():
        assert np.array_equal(split.groups.codes[:, 0], (split.rows - 1) % 2)
