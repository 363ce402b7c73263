import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.data.quality.near_text import RUN, level, shingles
from assay.data.sources import near
from assay.data.sources.near import assign_clusters, joined, keep_published, near_duplicates

WORDS = tuple("the hotel was clean and quiet but far from the station staff were kind breakfast poor".split())  # noqa: SIM905


def brute_force(texts, language):
    """Clusters by every pair of texts, over full sets."""
    run = RUN.get(language, 5)
    sets = [shingles(level(text), run) for text in texts]
    cluster = list(range(len(texts)))
    for i in range(len(texts)):
        for j in range(i):
            if len(sets[i] & sets[j]) >= 0.8 * len(sets[i] | sets[j]):
                old, new = max(cluster[i], cluster[j]), min(cluster[i], cluster[j])
                cluster = [new if one == old else one for one in cluster]
    return cluster


def corpus(num, seed, language="en"):
    """Random texts, a third of them copies of an earlier one with some words changed."""
    rng = np.random.default_rng(seed)
    letters = (
        WORDS if language == "en" else list("这家酒店的房间很干净但是早餐不好服务员态度也差下次不会再来了价格便宜")
    )
    found = []
    for _ in range(num):
        if found and rng.random() < 0.34:
            text = found[rng.integers(len(found))].split(" ")
            for _ in range(rng.integers(0, 4)):
                text[rng.integers(len(text))] = str(rng.choice(letters))
        else:
            text = [str(one) + str(rng.integers(40)) for one in rng.choice(letters, rng.integers(8, 40))]
        found.append(" ".join(text))
    return found


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("language", ["en", "zh"])
def test_clusters_are_those_of_every_pair(seed, language):
    texts = corpus(110, seed, language)
    expected = brute_force(texts, language)
    assert near_duplicates(texts, language=language).tolist() == expected
    assert len(set(expected)) < len(texts) - 10  # there was something to find


def test_long_texts_are_compared_by_samples_of_their_letter_runs():
    rng = np.random.default_rng(0)
    long = [" ".join(f"{word}{rng.integers(400)}" for word in rng.choice(WORDS, 3000)) for _ in range(3)]
    texts = [*long, long[1].replace("hotel", "Hotel!", 50), long[2][: len(long[2]) // 2]]
    assert near_duplicates(texts, language="en").tolist() == [0, 1, 2, 1, 4] == brute_force(texts, "en")


def test_chunks_do_not_change_anything(monkeypatch):
    texts = corpus(80, 9)
    whole = near_duplicates(texts, language="en")
    monkeypatch.setattr(near, "CHUNK", 200)
    assert near_duplicates(texts, language="en").tolist() == whole.tolist()


def test_case_width_and_punctuation_do_not_count_and_words_do():
    texts = ["Good value, would come again", "good VALUE - would come again!", "Ｇood value would come again", "Bad"]
    assert near_duplicates(texts, language="en").tolist() == [0, 0, 0, 3]
    assert near_duplicates(["!!!", "???", "!!!"], language="en").tolist() == [0, 1, 0]


@given(st.lists(st.text(max_size=30), max_size=12))
@settings(max_examples=15, deadline=None)
def test_any_text_is_allowed(texts):
    clusters = near_duplicates(texts, language="zh")
    assert len(clusters) == len(texts)
    assert (clusters <= np.arange(len(texts))).all()


def test_keys_join_clusters():
    clusters = np.array([0, 1, 1, 3, 4])
    assert joined(clusters, ["a", "b", "c", "a", ""]).tolist() == [0, 1, 1, 0, 4]
    assert joined(clusters, ["a", "b", "c", "c", ""]).tolist() == [0, 1, 1, 1, 4]


@pytest.mark.parametrize("seed", [0, 1])
def test_no_cluster_is_in_two_splits_and_classes_keep_their_shares(seed):
    rng = np.random.default_rng(seed)
    clusters = np.sort(rng.integers(0, 900, 1500))
    labels = (clusters % 3 == 0).astype(np.int64)
    assigned = assign_clusters(clusters, labels, test=0.2, validation=0.1, seed=seed)
    for cluster in np.unique(clusters):
        assert len(np.unique(assigned[clusters == cluster])) == 1
    for split, share in ((0, 0.72), (1, 0.08), (2, 0.2)):
        assert (assigned == split).mean() == pytest.approx(share, abs=0.02)
        assert labels[assigned == split].mean() == pytest.approx(labels.mean(), abs=0.05)


def test_a_published_test_split_stays_and_training_rows_like_it_go():
    clusters = np.array([0, 1, 2, 2, 4, 5, 1, 7, 8, 9, 10, 11])
    published = np.array([0, 0, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0])
    labels = np.zeros(12, dtype=np.int64)
    result = keep_published(clusters, labels, published, validation=0.3, seed=0)
    assert result[[6, 7]].tolist() == [2, 2]
    assert result[1] == -1
    assert (np.delete(result, [1, 6, 7]) >= 0).all()
    assert result[2] == result[3]
    assert (result == 1).sum() in (2, 3, 4)  # 0.3 of 8 clusters is 2, one of which may be the pair
