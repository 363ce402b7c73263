"""Adult (Census Income): 48,842 rows of the 1994 survey, shipped with assay."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
from functools import cache
from importlib import resources
from typing import Any

import polars as pl

from assay.data._problems import Problems
from assay.data.declare import Declaration, Splits
from assay.data.frame import build
from assay.errors import DataError, Problem
from assay.values import Data

NAME = "adult"


def load_adult(*, validation: float = 0.1, seed: int = 0) -> Data:
    """Adult with its published split: 32,561 training rows, of which a share goes to validation, and 16,281 test rows.

    Label: yearly income, "<=50K" or ">50K" (positive). Groups: sex, race; both are features too. 13 features: all raw
    columns but fnlwgt, a survey weight. "?" is missing, coded -1. The card is in `source["card"]`.
    Limits: the United States of 1994; 15.0 % of test rows equal a training row in all features and the label.
    Source: Becker and Kohavi 1996, UCI, https://doi.org/10.24432/C5XW20, CC BY 4.0.
    Raises DataError when the file is damaged, checked before it is parsed.

    >>> data = load_adult()
    >>> {name: len(split) for name, split in data.splits.items()}
    {'train': 29305, 'validation': 3256, 'test': 16281}
    """
    facts = _card()
    frame = _frame(facts["sha256"])
    features = [name for name, column in facts["columns"].items() if column["used_as"] == "feature"]
    declaration = Declaration(
        label="income",
        groups=("sex", "race"),
        features=features,
        task="classification",
        splits=Splits(validation=validation, seed=seed, column="split"),
        classes=("<=50K", ">50K"),
        positive=">50K",
        name=NAME,
    )
    about = ("address", "doi", "licence", "sha256", "origin")
    source = {"kind": "built in", **{name: facts[name] for name in about}, "card": facts}
    return build(frame, declaration, Problems(), source)


def _card() -> dict[str, Any]:
    card: dict[str, Any] = json.loads(resources.files("assay.data").joinpath("files/adult.json").read_text("utf-8"))
    return card


def _read() -> bytes:
    return resources.files("assay.data").joinpath("files/adult.parquet").read_bytes()


@cache  # frames cannot be changed in place, so one copy serves every caller
def _frame(sha256: str) -> pl.DataFrame:
    raw = _read()
    found = hashlib.sha256(raw).hexdigest()
    if not hmac.compare_digest(found, sha256):
        what = f"the Adult file has {len(raw)} bytes and SHA-256 {found}"
        raise DataError(Problem(what, f"SHA-256 {sha256}", "It is damaged or was changed: install assay again"))
    return pl.read_parquet(io.BytesIO(raw))
