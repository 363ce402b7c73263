"""Tables, pictures and texts as `Data`: declared label, features and groups, split once. One file per source.

Nothing heavy is imported until a name is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assay.data._card import card
    from assay.data.adult import load_adult
    from assay.data.declare import Declaration, Splits
    from assay.data.frame import from_arrays, from_frame
    from assay.data.rows import decode_rows, encode_groups, encode_rows
    from assay.data.sklearn_sets import load_diabetes, load_wine
    from assay.data.sources.census_kdd import load_census_kdd
    from assay.data.sources.chinese_reviews import load_chinese_reviews
    from assay.data.sources.coloured_fashion_mnist import load_coloured_fashion_mnist
    from assay.data.sources.compas import load_compas
    from assay.data.sources.credit_default import load_credit_default
    from assay.data.sources.emoji import counterfactual_pairs, load_emoji
    from assay.data.sources.fashion_mnist import load_fashion_mnist
    from assay.data.sources.german_credit import load_german_credit
    from assay.data.sources.mnist import load_mnist
    from assay.data.sources.newsgroups import load_newsgroups
    from assay.data.sources.reuters_r8 import load_reuters_r8
    from assay.data.sources.sentiment import load_sentiment
    from assay.data.sources.spam import load_spam
    from assay.data.table import read_declared, read_table

_HOME = {
    "Declaration": "declare",
    "Splits": "declare",
    "card": "_card",
    "counterfactual_pairs": "sources.emoji",
    "decode_rows": "rows",
    "encode_groups": "rows",
    "encode_rows": "rows",
    "from_arrays": "frame",
    "from_frame": "frame",
    "load_adult": "adult",
    "load_census_kdd": "sources.census_kdd",
    "load_chinese_reviews": "sources.chinese_reviews",
    "load_coloured_fashion_mnist": "sources.coloured_fashion_mnist",
    "load_compas": "sources.compas",
    "load_credit_default": "sources.credit_default",
    "load_diabetes": "sklearn_sets",
    "load_emoji": "sources.emoji",
    "load_fashion_mnist": "sources.fashion_mnist",
    "load_german_credit": "sources.german_credit",
    "load_mnist": "sources.mnist",
    "load_newsgroups": "sources.newsgroups",
    "load_reuters_r8": "sources.reuters_r8",
    "load_sentiment": "sources.sentiment",
    "load_spam": "sources.spam",
    "load_wine": "sklearn_sets",
    "read_declared": "table",
    "read_table": "table",
}

__all__ = [
    "Declaration",
    "Splits",
    "card",
    "counterfactual_pairs",
    "decode_rows",
    "encode_groups",
    "encode_rows",
    "from_arrays",
    "from_frame",
    "load_adult",
    "load_census_kdd",
    "load_chinese_reviews",
    "load_coloured_fashion_mnist",
    "load_compas",
    "load_credit_default",
    "load_diabetes",
    "load_emoji",
    "load_fashion_mnist",
    "load_german_credit",
    "load_mnist",
    "load_newsgroups",
    "load_reuters_r8",
    "load_sentiment",
    "load_spam",
    "load_wine",
    "read_declared",
    "read_table",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
