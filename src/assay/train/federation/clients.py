"""Who holds which training rows: at random, skewed by label, or by a column of the data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from assay.errors import ModelError, Problem
from assay.train.federation.local_work import seed_of
from assay.values import Array, Column, Data, Split

DEFAULT_CLIENTS = 10
SKEWS = "iid, labels:N (N labels a client), dirichlet:ALPHA, column:NAME (a client for each of its categories)"
MAX_DRAWS = 50  # of shares that leave nobody without rows; after them the largest client gives some away


def parse_skew(skew: str) -> tuple[str, str]:
    """The kind of skew, and its number or name. Raises ModelError for anything else.

    >>> parse_skew("labels:2"), parse_skew("iid")
    (('labels', '2'), ('iid', ''))
    """
    kind, _, told = skew.partition(":")
    wrong = ModelError(Problem(f"skew is {skew!r}", SKEWS))
    if kind == "iid" and not told:
        return kind, ""
    if kind == "column" and told:
        return kind, told
    try:
        fine = (kind == "labels" and int(told) >= 1) or (kind == "dirichlet" and 0 < float(told) < np.inf)
    except ValueError as error:
        raise wrong from error
    if not fine:
        raise wrong
    return kind, told


def split_clients(split: Split, data: Data, *, num_clients: int | None, skew: str, seed: int) -> list[Array]:
    r"""Positions in the split of each client's rows: every row with one client, every client with a row, each sorted.

    iid: a random order cut into equal parts. labels:N: each client gets N labels, the rarest given so far first, and a
    label's rows are dealt evenly to those who have it. dirichlet:ALPHA: of the rows of each label client k gets the
    share $p_k$, $p \sim \mathrm{Dir}(\alpha)$. column:NAME: a client for each category that occurs, missing ones
    together, from the largest to the smallest: a client's number does not tell its category. Limits: with a small alpha
    a client that drew nothing is given a row of the largest. Raises ModelError when there are too few rows or labels.

    Source: equal parts: McMahan et al. 2017, section 3; the others: Li et al. 2022, "Federated Learning on Non-IID Data
    Silos", section 4.1 (quantity- and distribution-based label imbalance).
    """
    kind, told = parse_skew(skew)
    if kind == "column":
        return _by_column(split, data, told)
    num = DEFAULT_CLIENTS if num_clients is None else num_clients
    if len(split) < num:
        raise ModelError(Problem(f"{num} clients have {len(split)} training rows", "a row for each", "Take fewer"))
    rng = np.random.default_rng(seed_of(seed, "clients", skew, num))
    if kind == "iid":
        return [np.sort(part) for part in np.array_split(rng.permutation(len(split)), num)]
    labels = np.unique(np.asarray(split.labels), return_inverse=True)[1]
    by_label = [rng.permutation(np.flatnonzero(labels == label)) for label in range(int(labels.max()) + 1)]
    parts = _dealt(by_label, num, int(told), rng) if kind == "labels" else _drawn(by_label, num, float(told), rng)
    return [np.sort(part) for part in _nobody_empty(parts)]


def _dealt(by_label: Sequence[Array], num: int, each: int, rng: np.random.Generator) -> list[Array]:
    if each > len(by_label) or num * each < len(by_label):
        what = f"{num} clients of {each} labels share {len(by_label)} labels"
        raise ModelError(Problem(what, "at most all labels a client, and together at least all of them"))
    owners: list[list[int]] = [[] for _ in by_label]
    for client in range(num):
        counts = np.array([len(one) for one in owners]) + rng.random(len(owners))  # ties are broken at random
        for label in np.argsort(counts)[:each]:
            owners[label].append(client)
    parts: list[list[Array]] = [[] for _ in range(num)]
    for rows, clients in zip(by_label, owners, strict=True):
        for client, part in zip(clients, np.array_split(rows, len(clients)), strict=True):
            parts[client].append(part)
    return [np.concatenate(one) for one in parts]


def _drawn(by_label: Sequence[Array], num: int, alpha: float, rng: np.random.Generator) -> list[Array]:
    for _ in range(MAX_DRAWS):
        pieces = []
        for rows in by_label:
            ends = (np.cumsum(rng.dirichlet(np.full(num, alpha))) * len(rows)).round().astype(np.int64)
            pieces.append(np.split(rows, ends[:-1]))
        parts = [np.concatenate(one) for one in zip(*pieces, strict=True)]
        if min(map(len, parts)):
            break
    return parts


def _nobody_empty(parts: list[Array]) -> list[Array]:
    for place, part in enumerate(parts):
        if not len(part):
            largest = max(range(len(parts)), key=lambda one: len(parts[one]))
            parts[place], parts[largest] = parts[largest][:1], parts[largest][1:]
    return parts


def columns_for_clients(data: Data) -> list[str]:
    """Names of columns whose categories may be the clients."""
    named = [*data.group_columns, *(one for one in data.columns if one.kind == "categorical")]
    return list(dict.fromkeys(one.name for one in named))


def _by_column(split: Split, data: Data, name: str) -> list[Array]:
    codes = _codes(split, data.columns, name)
    parts = [np.flatnonzero(codes == code) for code in np.unique(codes)]
    return sorted(parts, key=lambda part: (-len(part), int(part[0])))


def _codes(split: Split, columns: Sequence[Column], name: str) -> Array:
    groups = [column.name for column in split.groups.columns]
    if name in groups:
        codes: Array = np.asarray(split.groups.codes)[:, groups.index(name)].astype(np.int64)
        return codes
    for place, column in enumerate(columns):
        if column.name == name and column.kind == "categorical":
            codes = np.nan_to_num(np.asarray(split.inputs)[:, place], nan=-1).astype(np.int64)
            return codes
    raise ModelError(Problem(f"there is no column of categories {name!r}"))
