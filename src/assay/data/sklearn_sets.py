"""Two small real sets that scikit-learn ships: a numeric target, and three classes. Read as files, not imported."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import importlib.util
import io
import zlib
from pathlib import Path
from types import MappingProxyType

import numpy as np
import polars as pl

from assay.data._problems import Problems
from assay.data.declare import Declaration, Splits
from assay.data.frame import build
from assay.errors import DataError, MissingExtraError, Problem
from assay.values import Array, Data

# Of the text inside: a new release may compress the same numbers differently.
SHA256 = MappingProxyType(
    {
        "diabetes_data_raw.csv.gz": "86badf50b4f9436ddd1e497dc0ae1b93166f8120221ee7dca4634fe849f3be7c",
        "diabetes_target.csv.gz": "244713a551f62a291a354212d8a048adec6cb1244b2bc44e66a0698f5006d26d",
        "wine_data.csv": "10e8a802908b34f86e5da8ce962f3c806694bc98450a18f61851af59f324bede",
    }
)
DIABETES_COLUMNS = MappingProxyType(
    {
        "age": "age in years",
        "sex": "sex, coded 1 and 2; the source does not say which is which",
        "bmi": "body mass index, kg/m²",
        "bp": "average blood pressure, mmHg",
        "s1": "total serum cholesterol",
        "s2": "low-density lipoproteins",
        "s3": "high-density lipoproteins",
        "s4": "total cholesterol / HDL",
        "s5": "possibly the logarithm of serum triglycerides",
        "s6": "blood sugar",
    }
)
WINE_COLUMNS = (
    "alcohol",
    "malic_acid",
    "ash",
    "alcalinity_of_ash",
    "magnesium",
    "total_phenols",
    "flavanoids",
    "nonflavanoid_phenols",
    "proanthocyanins",
    "color_intensity",
    "hue",
    "od280/od315_of_diluted_wines",
    "proline",
)


def load_diabetes(*, splits: Splits | None = None) -> Data:
    """442 patients; the target is a measure of disease progression one year later (25 to 346). Group: sex.

    10 features in their raw units, sex among them. Split by seed; there is no published split.
    Limits: small (about 88 test rows, so wide intervals); the codes 1 and 2 of sex are not explained by the source.
    Source: Efron, Hastie, Johnstone, Tibshirani 2004, section 1, as shipped by scikit-learn.
    Raises MissingExtraError without scikit-learn, DataError when its files are others.

    >>> load_diabetes().splits["train"].inputs.shape
    (319, 10)
    """
    matrix = _numbers("diabetes_data_raw.csv.gz", separator=None, skip=0)
    target = _numbers("diabetes_target.csv.gz", separator=None, skip=0)[:, 0]
    frame = pl.DataFrame({name: matrix[:, i] for i, name in enumerate(DIABETES_COLUMNS)})
    frame = frame.with_columns(pl.Series("progression", target))
    declaration = Declaration(
        "progression", groups=("sex",), task="regression", splits=splits or Splits(), name="diabetes"
    )
    source = {
        "kind": "scikit-learn",
        "address": "https://www4.stat.ncsu.edu/~boos/var.select/diabetes.html",
        "licence": "not stated by the source; distributed by scikit-learn under BSD-3-Clause",
        "sha256": SHA256["diabetes_data_raw.csv.gz"],
        "sha256_target": SHA256["diabetes_target.csv.gz"],
        "card": {
            "title": "Diabetes progression",
            "columns": dict(DIABETES_COLUMNS),
            "limits": ["442 patients: intervals are wide", "the codes of sex are not explained by the source"],
        },
    }
    return build(frame, declaration, Problems(), source)


def load_wine(*, splits: Splits | None = None) -> Data:
    """178 wines of three growers: 13 chemical measurements, three classes, no groups (bottles are not people).

    Limits: small and nearly separable, so differences between good models cannot be seen on it.
    Source: Forina et al., PARVUS; UCI, https://doi.org/10.24432/C5PC7J, CC BY 4.0, as shipped by scikit-learn.
    Raises MissingExtraError without scikit-learn, DataError when its file is another.

    >>> data = load_wine()
    >>> data.classes, data.positive, data.group_columns
    (('class_0', 'class_1', 'class_2'), None, ())
    """
    matrix = _numbers("wine_data.csv", separator=",", skip=1)
    classes = ("class_0", "class_1", "class_2")
    frame = pl.DataFrame({name: matrix[:, i] for i, name in enumerate(WINE_COLUMNS)})
    names = np.array(classes)[matrix[:, -1].astype(np.int64)]
    frame = frame.with_columns(pl.Series("grower", names.tolist()))
    declaration = Declaration("grower", classes=classes, splits=splits or Splits(), name="wine")
    source = {
        "kind": "scikit-learn",
        "address": "https://doi.org/10.24432/C5PC7J",
        "licence": "CC-BY-4.0",
        "sha256": SHA256["wine_data.csv"],
        "card": {"title": "Wine recognition", "limits": ["178 rows, nearly separable"]},
    }
    return build(frame, declaration, Problems(), source)


def _numbers(name: str, *, separator: str | None, skip: int) -> Array:
    """The numbers in one of scikit-learn's data files `(N, F)`; its digest is checked before it is parsed."""
    spec = importlib.util.find_spec("sklearn")  # finds the folder without running the package
    if spec is None or spec.origin is None:
        raise MissingExtraError("scikit-learn", "sklearn")
    path = Path(spec.origin).parent / "datasets" / "data" / name
    try:
        raw = path.read_bytes()
        text = gzip.decompress(raw) if name.endswith(".gz") else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(Problem(f"{path} cannot be read: {error}", next="Install scikit-learn again")) from error
    found = hashlib.sha256(text).hexdigest()
    if not hmac.compare_digest(found, SHA256[name]):
        what = f"{path} is damaged or of another release: SHA-256 {found}"
        raise DataError(Problem(what, SHA256[name], "Install scikit-learn 1.9"))
    numbers: Array = np.loadtxt(io.BytesIO(text), delimiter=separator, skiprows=skip, ndmin=2)
    return numbers
