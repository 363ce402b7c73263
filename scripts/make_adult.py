"""Convert the raw UCI Adult text files into the one columnar file and the data card that ship with assay.

Run: python scripts/make_adult.py adult.data adult.test [FOLDER]

The result is the same bytes for the same input and the same polars release; the digest in the card is what the loader
trusts, so a rebuild shows up as a change of `adult.json`.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import polars as pl

RAW_SHA256 = {
    "train": "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
    "test": "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
}
NUM_ROWS = {"train": 32_561, "test": 16_281}
MEANINGS = {
    "age": "age in years",
    "workclass": "kind of employer",
    "fnlwgt": "survey weight: how many people the Census Bureau took this row to stand for; not a property of a person",
    "education": "highest level of education",
    "education-num": "the same level as a number from 1 (preschool) to 16 (doctorate)",
    "marital-status": "marital status",
    "occupation": "kind of work",
    "relationship": "relation to the head of the household",
    "race": "race as the 1994 survey coded it, in five values",
    "sex": "sex as the 1994 survey coded it, in two values",
    "capital-gain": "capital gains of the year, US dollars",
    "capital-loss": "capital losses of the year, US dollars",
    "hours-per-week": "usual hours of work a week",
    "native-country": "country of birth",
    "income": "label: yearly income above 50,000 US dollars or not",
    "split": "the published split of the row",
}
LIMITS = [
    "The United States of 1994: prices, jobs, families and laws have changed. Nothing measured here holds for today.",
    "The line at 50,000 dollars is arbitrary and high: 24.1 % of training rows are above it. Group gaps change with the"
    " line (Ding et al. 2021, Retiring Adult).",
    "Rows were filtered by the creators (age over 16, income over 100, weight over 1, hours over 0): most people"
    " without paid work are missing.",
    "Rows are a weighted survey sample; the weight (fnlwgt) is not used, so shares are of rows, not of the population.",
    "race and sex are coarse codes of that survey. Amer-Indian-Eskimo and Other have a few hundred rows: intervals"
    " are wide.",
    "education-num is a recoding of education: attributions are shared between the two.",
    "relationship (Husband, Wife) reveals sex and marital status: leaving sex out does not hide it.",
    "capital-gain is capped at 99,999 and age at 90.",
    "Some rows are repeated, within and across the published splits; they are kept, because the published split is"
    " the point of comparison.",
]
NUMERIC = ("age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week")
RAW_COLUMNS = tuple(name for name in MEANINGS if name != "split")
FEATURES = tuple(name for name in RAW_COLUMNS if name not in {"fnlwgt", "income"})


def read_raw(path: Path, split: str) -> pl.DataFrame:
    """One raw file as a frame; "?" becomes missing, the full stop after test labels goes."""
    raw = path.read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != RAW_SHA256[split]:
        sys.exit(f"{path}: SHA-256 is {found}, expected {RAW_SHA256[split]}")
    lines = [line for line in raw.decode("ascii").splitlines() if line.strip() and not line.startswith("|")]
    if len(lines) != NUM_ROWS[split]:
        sys.exit(f"{path}: {len(lines)} rows, expected {NUM_ROWS[split]}")
    cells = [[cell.strip() for cell in line.split(",")] for line in lines]
    if any(len(row) != len(RAW_COLUMNS) for row in cells):
        sys.exit(f"{path}: a row does not have {len(RAW_COLUMNS)} cells")
    frame = pl.DataFrame(cells, schema=dict.fromkeys(RAW_COLUMNS, pl.String), orient="row")
    text = [name for name in RAW_COLUMNS if name not in NUMERIC]
    return frame.with_columns(
        *(pl.col(name).cast(pl.Int32, strict=True) for name in NUMERIC),
        *(pl.col(name).replace({"?": None}) for name in text if name != "income"),
        pl.col("income").str.strip_chars_end("."),
        pl.lit(split).alias("split"),
    )


def shares(frame: pl.DataFrame, name: str) -> dict[str, Any]:
    """Rows and share of positive labels for each value of a column, by split."""
    table: dict[str, Any] = {}
    for split in ("train", "test"):
        part = frame.filter(pl.col("split") == split)
        counts = part.group_by(name).agg(pl.len(), positive=(pl.col("income") == ">50K").sum()).sort(name)
        table[split] = {
            str(value): {"rows": rows, "share": round(rows / len(part), 4), "positive_share": round(positive / rows, 4)}
            for value, rows, positive in counts.iter_rows()
        }
    return table


def duplicates(frame: pl.DataFrame, columns: tuple[str, ...]) -> dict[str, int]:
    """Test rows with an identical row in train, and rows that repeat an earlier one of the same split."""
    train = frame.filter(pl.col("split") == "train").select(columns)
    test = frame.filter(pl.col("split") == "test").select(columns)
    shared = test.join(train.unique(), on=columns, how="semi", nulls_equal=True)
    return {
        "test_rows_also_in_train": len(shared),
        "repeats_within_train": len(train) - train.n_unique(),
        "repeats_within_test": len(test) - test.n_unique(),
    }


def card(frame: pl.DataFrame, parquet: bytes) -> dict[str, Any]:
    """Everything a reader of an audit must know about the file."""
    return {
        "name": "adult",
        "title": "Adult (Census Income)",
        "sha256": hashlib.sha256(parquet).hexdigest(),
        "num_bytes": len(parquet),
        "raw_sha256": RAW_SHA256,
        "creators": "Barry Becker, Ronny Kohavi (1996)",
        "origin": "UCI Machine Learning Repository; from the 1994 Current Population Survey of the United States",
        "address": "https://doi.org/10.24432/C5XW20",
        "doi": "10.24432/C5XW20",
        "licence": "CC-BY-4.0",
        "changes": [
            "spaces around cells, the comment line of the test file and the full stop after its labels are removed",
            '"?" is stored as missing',
            "a column telling the published split is added",
        ],
        "num_rows": {**NUM_ROWS, "total": len(frame)},
        "columns": {
            name: {
                "kind": "numeric" if name in NUMERIC else "categorical",
                "meaning": meaning,
                "used_as": "label" if name == "income" else "feature" if name in FEATURES else "not used",
                "num_values": frame[name].drop_nulls().n_unique(),
                "num_missing": frame[name].null_count(),
            }
            for name, meaning in MEANINGS.items()
        },
        "classes": {name: shares(frame, "income")[name] for name in ("train", "test")},
        "groups": {"sex": shares(frame, "sex"), "race": shares(frame, "race")},
        "duplicates": {
            "all_15_columns": duplicates(frame, RAW_COLUMNS),
            "features_and_label": duplicates(frame, (*FEATURES, "income")),
        },
        "limits": LIMITS,
        "recommended_uses": [
            "comparing methods and tools on a table that everyone knows; teaching; testing an audit from end to end",
        ],
        "not_recommended_uses": ["deciding about people", "claims about income, sex or race today"],
    }


def main(arguments: list[str]) -> None:
    if len(arguments) not in (2, 3):
        sys.exit(__doc__)
    default = Path(__file__).parents[1] / "src" / "assay" / "data" / "files"
    folder = Path(arguments[2]) if len(arguments) == 3 else default
    frame = pl.concat([read_raw(Path(arguments[0]), "train"), read_raw(Path(arguments[1]), "test")])
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", compression_level=19, row_group_size=len(frame))
    parquet = buffer.getvalue()
    if len(parquet) > 700_000:
        sys.exit(f"the file has {len(parquet)} bytes, at most 700,000 are allowed")
    (folder / "adult.parquet").write_bytes(parquet)
    text = json.dumps(card(frame, parquet), indent=1, ensure_ascii=False) + "\n"
    (folder / "adult.json").write_text(text, encoding="utf-8")
    print(f"{len(frame)} rows, {len(parquet)} bytes, SHA-256 {hashlib.sha256(parquet).hexdigest()}")


if __name__ == "__main__":
    main(sys.argv[1:])
