import polars as pl

from assay.data import Declaration, card, from_frame, load_adult, load_diabetes, load_wine


def test_adult_card_says_what_matters():
    text = card(load_adult())
    for part in (
        "10.24432/C5XW20", "CC-BY-4.0", "| train | 29305 | 22248 (75.9 %) | 7057 (24.1 %) |", "## Group sex",
        "| Female | 9668 (33.0 %), 11.0 % |", "## Limits", "15.0% of the test rows", "**age**: number, 17 to 90",
    ):  # fmt: skip
        assert part in text


def test_target_and_many_classes():
    assert "| test | 88 | 157.4 | 39 | 341 |" in card(load_diabetes())
    wine = card(load_wine())
    assert "class_0, class_1, class_2" in wine
    assert "## Group" not in wine


def test_missing_groups_have_a_line_and_names_cannot_break_the_table():
    frame = pl.DataFrame({"x": range(20), "g|\n# h": ["a|b", None] * 10, "y": ["no", "no", "yes", "yes"] * 5})
    text = card(from_frame(frame, Declaration("y", groups=["g|\n# h"])))
    assert "| a\\|b | " in text
    assert "| missing | " in text
    assert "\n# h" not in text
