"""Everything that can be known about a data set before any model of it is audited."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from assay.data.quality.columns import check_columns
from assay.data.quality.confident import suspected
from assay.data.quality.duplicates import check_duplicates
from assay.data.quality.leaks import check_leaks
from assay.data.quality.missing import check_missing
from assay.data.quality.personal import KINDS as PERSONAL
from assay.data.quality.personal import find
from assay.data.quality.report import KINDS, QualityReport, QualityRow, share_row
from assay.data.quality.shares import check_shares
from assay.data.quality.simple_model import out_of_fold
from assay.errors import DataError, Problem
from assay.parts import modality
from assay.values import Data

MIN_ROWS = 40  # training rows below which no model is worth asking about labels


def check_data(data: Data, *, level: float = 0.95, near: bool = True, labels: bool = True) -> QualityReport:
    """Look at every split for what spoils training or measuring, without any trained system.

    Missing values; repeats, conflicting labels, exact and near copies across splits; constant, identifier-like and
    leaking columns (tables); labels that look wrong (confident learning over a logistic regression, out of fold);
    shares of groups, and of groups by label; personal data (texts, and category names of tables). `near` and `labels`
    leave out the two slow parts. Shares have intervals at `level`; counts that grow with the number of rows have none.
    Limits: rows are held to be independent; what only an expert can see is not seen. Raises DataError without a
    training split with rows.

    >>> from assay.data import load_wine
    >>> report = check_data(load_wine())
    >>> [(row.count, row.of) for row in report.of("duplicate rows")][0]
    (0, 127)
    """
    if not len(data.splits.get("train", ())):
        raise DataError(Problem(f"{data.name} has no training rows to look at", next="Split off some rows as train"))
    table = modality(data.columns) == "table"
    rows = [*check_missing(data, level=level), *check_duplicates(data, level=level, near=near)]
    skipped = [] if near else [("near copies across splits", "not asked for")]
    if table:
        rows += [*check_columns(data), *check_leaks(data, level=level)]
    else:
        why = f"the inputs are {modality(data.columns)}s, which have no columns to look at one by one"
        skipped += [(kind, why) for kind in ("constant column", "identifier-like column", "label leak")]
    reason = _why_no_suspects(data, asked=labels)
    if reason:
        skipped.append(("suspected labels", reason))
    else:
        rows += check_labels(data, level=level)
    rows += check_shares(data, level=level)
    if modality(data.columns) == "image":
        skipped.append(("personal data", "the inputs are images: faces and written names are not looked for"))
    else:
        rows += check_personal(data, level=level)
    rows.sort(key=lambda row: KINDS.index(row.kind))
    return QualityReport(data.name, data.digest, level, tuple(rows), tuple(skipped))


def _why_no_suspects(data: Data, *, asked: bool) -> str:
    if not asked:
        return "not asked for"
    if not data.classes:
        what = "several labels may apply to a row" if data.label_names else "the label is a number"
        return f"confident learning is defined for classes, and {what}"
    if len(data.splits["train"]) < MIN_ROWS:
        return f"fewer than {MIN_ROWS} training rows"
    return ""


def check_labels(data: Data, *, level: float) -> Iterator[QualityRow]:
    """Rows of each split whose label looks wrong: out of fold on train, and to models of train elsewhere."""
    names = list(data.splits)
    names.sort(key=lambda name: name != "train")
    splits = [data.splits[name] for name in names]
    train = splits[0]
    extra = np.concatenate([split.inputs for split in splits[1:]]) if len(splits) > 1 else train.inputs[:0]
    found = out_of_fold(train.inputs, train.labels, data.columns, num_classes=len(data.classes), extra=extra)
    start = 0
    for name, split in zip(names, splits, strict=True):
        mask = suspected(split.labels, found[start : start + len(split)])
        start += len(split)
        advice = "Have them labelled again; where classes overlap they may be right (drop_suspected_labels)"
        yield share_row("suspected labels", name, mask, numbers=split.rows, level=level, advice=advice)


def check_personal(data: Data, *, level: float) -> Iterator[QualityRow]:
    """Rows of each split with personal data, by kind: in the text, or in the name of a category of the row."""
    advice = "Redact them (redact_personal_data), or have a legal ground and say which"
    for name, split in data.splits.items():
        masks = {kind: np.zeros(len(split), dtype=bool) for kind in PERSONAL}
        if modality(data.columns) == "text":
            for row, text in enumerate(split.inputs.tolist()):
                for kind, _, _ in find(text):
                    masks[kind][row] = True
        for place, column in enumerate(data.columns):
            named = [{kind for kind, _, _ in find(category)} for category in column.categories]
            for kind in PERSONAL:
                codes = [code for code, kinds in enumerate(named) if kind in kinds]
                if codes:
                    masks[kind] |= np.isin(split.inputs[:, place], codes)
        for kind, mask in masks.items():
            if mask.any():
                where = f"{name}: {kind}"
                yield share_row("personal data", where, mask, numbers=split.rows, level=level, advice=advice)
        anything = np.any(list(masks.values()), axis=0)
        yield share_row("personal data", f"{name}: any kind", anything, numbers=split.rows, level=level)
