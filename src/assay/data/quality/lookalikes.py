"""Which columns of a table tell people apart from outside, and how many rows look alike on them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from assay.values import Array, Data, Split

# What a neighbour, a register or a profile also knows: parts of column names, as words.
WORDS = frozenset(
    {"age", "birth", "birthday", "birthdate", "dob", "born", "sex", "gender", "race", "ethnicity", "ethnic", "marital"}
    | {"nationality", "country", "state", "region", "county", "district", "city", "town", "address"}
    | {"zip", "zipcode", "postcode", "postal"}
)
PIECES = (
    "年龄",
    "出生",
    "生日",
    "邮编",
    "邮政",
    "性别",
    "民族",
    "国籍",
    "籍贯",
    "城市",
    "地区",
    "省份",
    "地址",
    "婚姻",
)


def quasi_identifiers(data: Data) -> tuple[str, ...]:
    """Names of the columns by which a person could be looked up: `Data.source["quasi_identifiers"]`, where declared.

    Else all group columns, and every feature whose name has a word for age, birth, place, origin or marital status.

    >>> from assay.data import load_adult
    >>> quasi_identifiers(load_adult())
    ('sex', 'race', 'age', 'marital-status', 'native-country')
    """
    declared = data.source.get("quasi_identifiers")
    if declared:
        declared = [declared] if isinstance(declared, str) else declared
        return tuple(str(name) for name in declared)
    groups = [column.name for column in data.group_columns]
    named = [column.name for column in data.columns if is_telling(column.name) and column.name not in groups]
    return (*groups, *named)


def is_telling(name: str) -> bool:
    """Whether a column's name says that others know its values too.

    >>> [is_telling(name) for name in ("age", "Native.Country", "wage", "患者年龄")]
    [True, True, False, True]
    """
    words = re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    return not WORDS.isdisjoint(words) or any(piece in name for piece in PIECES)


def known_outside(data: Data, split: Split, names: Sequence[str]) -> Array:
    """The named columns of a split as features and as group columns, `(N, Q)` float32; -1 and NaN are missing."""
    features = [place for place, column in enumerate(data.columns) if column.name in names]
    groups = [place for place, column in enumerate(data.group_columns) if column.name in names]
    parts = [split.inputs[:, features], np.asarray(split.groups.codes)[:, groups].astype(np.float32)]
    found: Array = np.concatenate(parts, axis=1)
    return found


def classes(rows: Array) -> Array:
    """One whole number for each row `(N,)` of `(N, Q)`: equal if and only if the rows are; missing equals missing.

    Column by column, so that ten million rows need a few numbers each and no more.

    >>> classes(np.array([[1.0, np.nan], [2.0, 0.0], [1.0, np.nan]])).tolist()
    [0, 1, 0]
    """
    found: Array = np.zeros(len(rows), dtype=np.int64)
    for column in rows.T:
        values = np.unique(column)
        found *= len(values)
        found += np.searchsorted(values, column)
        found = np.searchsorted(np.unique(found), found)  # a sort and a search take half of sorting with places
    return found


def num_alike(rows: Array) -> Array:
    """For each row `(N,)` how many rows of `(N, Q)` are equal to it, itself included.

    >>> num_alike(np.array([[1.0], [2.0], [1.0]])).tolist()
    [2, 1, 2]
    """
    codes = classes(rows)
    alike: Array = np.bincount(codes)[codes] if len(codes) else codes
    return alike
