"""What the text sets share: duplicates out, near-duplicates on one side, and building `Data`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from assay.data.sources.assemble import Rows, assemble
from assay.data.sources.cache import remembered
from assay.data.sources.near import assign_clusters, joined, keep_published, near_duplicates
from assay.values import Array, Column, Data, digest_of
from assay.values import texts as text_array

VERSION = "near-duplicates 2"  # of the rule that is remembered
TEST = 0.2  # share of rows, where no split is published


@dataclass(frozen=True)
class Texts:
    """Texts with a class each; `published (N,)` 0 train, 2 test, or None; `keys`: rows of one document share one."""

    texts: Sequence[str]
    labels: Array
    language: str
    published: Array | None = None
    keys: Sequence[str] | None = None
    codes: Array | None = None
    group_columns: tuple[Column, ...] = ()
    numbers: Array | None = None  # (N,) row numbers in the source, from 1
    dropped: Mapping[str, int] = field(default_factory=dict)  # rows of the source left out before, by reason


def text_data(
    name: str,
    texts: Texts,
    *,
    classes: tuple[str, ...],
    positive: str | None = None,
    by: tuple[float, int],
    source: Mapping[str, Any],
) -> Data:
    """`Data` of texts. Equal texts: the first stays where all have one class, none where classes differ.

    `by` is (validation share, seed). What was left out and why is in `source["dropped"]`; row numbers are kept.
    """
    validation, seed = by
    kept, repeats = _distinct(texts)
    dropped = {**texts.dropped, **repeats}
    labels = texts.labels[kept]
    some = [texts.texts[row] for row in kept]
    inputs = text_array(some)
    key = digest_of([VERSION, texts.language, inputs])
    clusters = remembered(key, lambda: near_duplicates(some, language=texts.language))
    num_near = len(clusters) - len(np.unique(clusters))
    if texts.keys is not None:
        clusters = joined(clusters, [texts.keys[row] for row in kept])
    if texts.published is None:
        assigned = assign_clusters(clusters, labels, test=TEST, validation=validation, seed=seed)
    else:
        published = texts.published[kept]
        assigned = keep_published(clusters, labels, published, validation=validation, seed=seed)
        dropped["training texts nearly equal to a test text"] = int((assigned == -1).sum())
    split = {"by": "seed" if texts.published is None else "published", "validation": validation, "seed": seed}
    facts = {
        **source,
        "num_source_rows": len(texts.texts) + sum(texts.dropped.values()),
        "dropped": dropped,
        "near_duplicates": {"rows": num_near, "rule": "Jaccard of letter runs ≥ 0.8; never in two splits"},
        "splits": split if texts.published is not None else {**split, "test": TEST},
    }
    codes = None if texts.codes is None else texts.codes[kept]
    numbers = kept + 1 if texts.numbers is None else texts.numbers[kept]
    rows = Rows(inputs, labels, assigned, codes, texts.group_columns, numbers)
    column = Column("text", "text", language=texts.language)
    return assemble(name, column, rows, classes=classes, positive=positive, source=facts)


def _distinct(texts: Texts) -> tuple[Array, dict[str, int]]:
    """Rows to keep `(M,)`, and how many were left out by reason. Of equal texts, one in test is kept before others."""
    places: dict[str, list[int]] = {}
    for row, text in enumerate(texts.texts):
        places.setdefault(text.strip(), []).append(row)
    empty = len(places.pop("", []))
    kept, repeated, contradicted = [], 0, 0
    for rows in places.values():
        if len(set(texts.labels[rows].tolist())) > 1:
            contradicted += len(rows)
            continue
        in_test = [row for row in rows if texts.published is not None and texts.published[row] == 2]
        kept.append((in_test or rows)[0])
        repeated += len(rows) - 1
    reasons = {"empty": empty, "repeated": repeated, "the same text with different classes": contradicted}
    return np.array(sorted(kept), dtype=np.int64), reasons
