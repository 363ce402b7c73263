"""English snippets rated for sentiment by twenty people each, in four domains."""

from __future__ import annotations

import html
from types import MappingProxyType

import numpy as np

from assay.data.sources.cache import load_files
from assay.data.sources.source import Kept, Mirror, Package, Source
from assay.data.sources.texts import Texts, text_data
from assay.errors import Problem, UsageError
from assay.values import Column, Data, Progress, quiet

DOMAINS = ("movie", "tweets", "products", "editorials")
ALL = "all"
NEUTRAL = 0.5  # mean ratings (of -4 to 4) between minus and plus this are left out
_FILES = MappingProxyType(
    {
        "movie": "movieReviewSnippets_GroundTruth.txt",
        "tweets": "tweets_GroundTruth.txt",
        "products": "amazonReviewSnippets_GroundTruth.txt",
        "editorials": "nytEditorialSnippets_GroundTruth.txt",
    }
)
_INNER = "additional_resources/hutto_ICWSM_2014.tar.gz"
_PUBLIC = "https://raw.githubusercontent.com/cjhutto/vaderSentiment/44fc044cd877310ee8278a0eadf34bcd50d41d06"


def _kept(domain: str, sha256: str, num_bytes: int) -> Kept:
    path = f"!vaderSentiment-3.3.2/{_INNER}!hutto_ICWSM_2014/{_FILES[domain]}"
    return Kept(_FILES[domain], path, sha256, num_bytes)


SOURCE = Source(
    "sentiment",
    Package(
        "pypi",
        "vaderSentiment",
        "3.3.2",
        "vaderSentiment-3.3.2.tar.gz",
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        2_466_783,
    ),
    (
        _kept("movie", "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350", 1_383_098),
        _kept("tweets", "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f", 389_886),
        _kept("products", "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2", 373_157),
        _kept("editorials", "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e", 607_629),
    ),
    address="https://github.com/cjhutto/vaderSentiment",
    licence="MIT",
    citation="Hutto, Gilbert 2014: VADER, a rule-based model for sentiment analysis of social media text, ICWSM-14",
    mirrors=(
        Mirror(
            f"{_PUBLIC}/{_INNER}",
            "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa",
            2_338_514,
            tuple((name, f"!hutto_ICWSM_2014/{name}") for name in _FILES.values()),
        ),
    ),
)
LIMITS = (
    "single sentences out of context: the raters saw no more",
    "texts rated near neutral are left out, so accuracy here is higher than on all texts",
    "raters were paid online workers who read English",
)


def load_sentiment(
    *,
    domain: str = ALL,
    validation: float = 0.1,
    seed: int = 0,
    fetch: bool = False,
    progress: Progress = quiet,
) -> Data:
    """Snippets as negative or positive (the positive class), by the mean of twenty human ratings from -4 to 4.

    positive: mean ≥ 0.5; negative: mean ≤ -0.5; between them a text is neutral and left out (counted in
    `source["dropped"]`). `domain`: movie, tweets, products or editorials; "all" joins them, with the domain as group.
    Split by seed, stratified by class; sentences of one review or editorial, and nearly equal ones, on one side.
    Limits: out of context, and without the hard middle. HTML entities (&amp;) are written out.
    Source: Hutto, Gilbert 2014, section 3.2, MIT. Raises UsageError for another domain, DataError when not fetched.
    """
    if domain not in (*DOMAINS, ALL):
        raise UsageError(Problem(f"sentiment has no domain {domain!r}", ", ".join((*DOMAINS, ALL))))
    chosen = DOMAINS if domain == ALL else (domain,)
    files = load_files(SOURCE, fetch=fetch, progress=progress)
    rows = [(of, *line) for of in chosen for line in _lines(files[_FILES[of]])]
    ratings = np.array([rating for _, _, rating, _ in rows])
    clear = np.flatnonzero(np.abs(ratings) >= NEUTRAL)
    domains = np.array([chosen.index(of) for of, *_ in rows])
    card = {"title": f"Sentiment of English snippets ({domain})", "limits": list(LIMITS)}
    texts = Texts(
        [rows[row][3] for row in clear],
        (ratings[clear] > 0).astype(np.int64),
        "en",
        keys=[f"{rows[row][0]} {rows[row][1]}" for row in clear],
        codes=domains[clear][:, None] if domain == ALL else None,
        group_columns=(Column("domain", "categorical", DOMAINS),) if domain == ALL else (),
        numbers=clear + 1,
        dropped={f"neutral: mean rating between -{NEUTRAL} and {NEUTRAL}": len(rows) - len(clear)},
    )
    return text_data(
        "sentiment" if domain == ALL else f"sentiment_{domain}",
        texts,
        classes=("negative", "positive"),
        positive="positive",
        by=(validation, seed),
        source=SOURCE.facts() | {"card": card},
    )


def _lines(raw: bytes) -> list[tuple[str, float, str]]:
    """(document, mean rating, text); sentences of one document are numbered document_sentence."""
    found = []
    for line in raw.decode("utf-8").split("\n"):
        if not line.strip():
            continue
        name, rating, text = line.split("\t", 2)
        found.append((name.partition("_")[0], float(rating), html.unescape(text.strip())))
    return found
