import numpy as np
import pytest

from assay.data.sources import cache, census_kdd, compas, credit_default, german_credit
from source_kit import with_files


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.FOLDER_NAME, str(tmp_path))


def column(data, name):
    """All rows of a feature in source order: numbers, or category names."""
    rows = np.concatenate([split.rows for split in data.splits.values()])
    place = [one.name for one in data.columns].index(name)
    values = np.concatenate([split.inputs[:, place] for split in data.splits.values()])[np.argsort(rows)]
    categories = data.columns[place].categories
    return [categories[int(code)] if code >= 0 else None for code in values] if categories else values.tolist()


def outcome(data):
    rows = np.concatenate([split.rows for split in data.splits.values()])
    labels = np.concatenate([split.labels for split in data.splits.values()])[np.argsort(rows)]
    return [data.classes[label] for label in labels]


def group(data, name):
    rows = np.concatenate([split.rows for split in data.splits.values()])
    place = [one.name for one in data.group_columns].index(name)
    codes = np.concatenate([split.groups.codes[:, place] for split in data.splits.values()])[np.argsort(rows)]
    return [data.group_columns[place].categories[code] for code in codes]


def test_compas_keeps_what_propublica_kept_and_no_names(monkeypatch):
    head = "id,name,dob,sex,age,race,juv_fel_count,juv_misd_count,juv_other_count,priors_count,decile_score"
    head += ",days_b_screening_arrest,is_recid,c_charge_degree,score_text,two_year_recid"
    lines = [
        f"{i},Jane,1980-01-01,{'Male' if i % 3 else 'Female'},{20 + i},{'Other' if i % 7 else 'Asian'},0,0,0,{i},5,"
        f"{-30 + i},{i % 2},{'F' if i % 4 else 'M'},Low,{i % 2}"
        for i in range(40)
    ]
    bad = [",31,1,F,Low,1", ",-31,1,F,Low,1", ",,1,F,Low,1", ",0,-1,F,Low,0", ",0,1,O,Low,1", ",0,1,F,N/A,1"]
    lines += [f"90,Jane,1980-01-01,Male,99,Asian,0,0,0,1,5{end}" for end in bad]
    files = {compas._FILE: "\n".join([head, *lines, ""]).encode()}
    monkeypatch.setattr(compas, "SOURCE", with_files(compas.SOURCE, files))
    data = compas.load_compas()
    assert list(data.source["dropped"].values()) == [3, 1, 1, 1]
    assert (data.source["num_rows"], data.source["num_source_rows"]) == (40, 46)
    assert column(data, "age") == [20 + i for i in range(40)]
    assert outcome(data) == ["yes" if i % 2 else "no" for i in range(40)]
    assert group(data, "sex") == ["Male" if i % 3 else "Female" for i in range(40)]
    assert not {"name", "dob", "id", "decile_score"} & {one.name for one in data.columns}
    assert data.positive == "yes"


def test_german_codes_become_words(monkeypatch):
    rows = [
        f"A11 {6 + i} A30 A4{'10' if i % 4 == 0 else i % 4} {1000 + i} A65 A75 4 A9{1 + i % 5} A101 4 "
        f"A124 {20 + i % 10} A143 A153 2 A174 1 A192 A202 {1 + i % 2}"
        for i in range(60)
    ]
    files = {german_credit._FILE: "\n".join([*rows, ""]).encode()}
    monkeypatch.setattr(german_credit, "SOURCE", with_files(german_credit.SOURCE, files))
    data = german_credit.load_german_credit()
    assert len(data.columns) == 20
    assert column(data, "purpose")[:4] == ["other", "used car", "furniture", "radio or television"]
    assert column(data, "credit_history")[0] == "no credits"
    assert column(data, "personal_status")[:5] == list(german_credit._CODED["personal_status"])
    assert group(data, "sex")[:5] == ["male", "female", "male", "male", "female"]
    assert group(data, "age_group") == ["young" if i % 10 <= 5 else "older" for i in range(60)]
    assert outcome(data)[:2] == ["good", "bad"]
    assert column(data, "foreign_worker")[0] == "no"
    assert (data.positive, data.source["num_rows"]) == ("good", 60)


def test_credit_default_joins_its_indicator_columns(monkeypatch):
    money = [f"PAY_{i}" for i in (0, 2, 3, 4, 5, 6)] + [f"BILL_AMT{i}" for i in range(1, 7)]
    money += [f"PAY_AMT{i}" for i in range(1, 7)]
    indicators = [f"EDUCATION_{i}" for i in range(7)] + [f"MARRIAGE_{i}" for i in range(4)]
    head = ["ID", "LIMIT_BAL", "SEX", "AGE", *money, "default-payment-next-month", *indicators]
    lines = []
    for i in range(70):
        shown = [int(i % 7 == code) for code in range(7)] + [int(i % 4 == code) for code in range(4)]
        lines.append([i, 1000.0 + i, i % 2, 25 + i % 30, *[i + j for j in range(18)], int(i % 5 == 0), *shown])
    files = {credit_default._FILE: "\n".join(",".join(map(str, line)) for line in [head, *lines]).encode()}
    monkeypatch.setattr(credit_default, "SOURCE", with_files(credit_default.SOURCE, files))
    data = credit_default.load_credit_default()
    assert len(data.columns) == 23
    assert column(data, "education") == [credit_default.EDUCATION[i % 7] for i in range(70)]
    assert group(data, "marriage") == [credit_default.MARRIAGE[i % 4] for i in range(70)]
    assert group(data, "sex")[:2] == ["male", "female"]
    bands = [("under 30", 30), ("30-39", 40), ("40-49", 50), ("50 and over", 99)]
    ages = [25 + i % 30 for i in range(70)]
    assert group(data, "age_group") == [next(name for name, top in bands if age < top) for age in ages]
    assert outcome(data) == ["no" if i % 5 else "yes" for i in range(70)]
    assert column(data, "pay_amt6") == [i + 17 for i in range(70)]


def test_census_keeps_its_split_its_codes_as_codes_and_no_weight(monkeypatch):
    def lines(num, start):
        found = []
        for i in range(start, start + num):
            cells = [f"v{i % 3}"] * 42
            for place, name in enumerate(census_kdd.COLUMNS):
                if name in census_kdd.NUMBERS or name in ("industry_code", "year", "instance_weight"):
                    cells[place] = str(i % 50)
            cells[12], cells[32] = ("Male" if i % 2 else "Female"), "?" if i % 10 == 0 else "Cuba"
            cells[41] = "50000+." if i % 9 == 0 else "- 50000."
            found.append(", ".join(cells))
        return ("\n".join(found) + "\n").encode()

    names = [one.name for one in census_kdd.SOURCE.kept]
    files = dict(zip(names, (lines(180, 0), lines(90, 180)), strict=True))
    monkeypatch.setattr(census_kdd, "SOURCE", with_files(census_kdd.SOURCE, files))
    data = census_kdd.load_census_kdd()
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 162, "validation": 18, "test": 90}
    assert data.splits["test"].rows.tolist() == list(range(181, 271))
    kinds = {one.name: one.kind for one in data.columns}
    assert len(kinds) == 40
    assert "instance_weight" not in kinds
    assert (kinds["industry_code"], kinds["year"], kinds["age"]) == ("categorical", "categorical", "numeric")
    assert outcome(data) == [">50K" if i % 9 == 0 else "<=50K" for i in range(270)]
    assert column(data, "father_birth_country") == [None if i % 10 == 0 else "Cuba" for i in range(270)]
    assert group(data, "sex")[:2] == ["Female", "Male"]
