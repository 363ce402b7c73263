"""What a lineage tells of small groups: by brute force over all that a reader could think of; in every treatment."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from assay.treatments._counts import FEW, LEAST_DOUBT, NOT_TOLD, about, told
from assay.treatments.data.drop_duplicates import drop_duplicates
from assay.treatments.data.drop_suspected_labels import drop_suspected_labels
from assay.treatments.data.resample_groups import resample_groups
from assay.treatments.data.reweigh_groups import reweigh_groups
from support import remembering


@pytest.mark.parametrize(("parts", "largest"), [(1, 60), (2, 80), (3, 45)])
def test_a_small_count_could_be_five_numbers_for_whoever_knows_the_total(parts, largest):
    seen = defaultdict(list)
    for counts in product(range(largest + 1), repeat=parts):
        if sum(counts) <= largest:
            words = told({str(place): count for place, count in enumerate(counts)})
            seen[sum(counts), tuple(words.values())].append(counts)
    for (total, words), tables in seen.items():
        for place, word in enumerate(words):
            possible = {one[place] for one in tables}
            if word == FEW:
                assert len(possible) >= LEAST_DOUBT, (total, words, tables)
            elif word != NOT_TOLD:
                assert max(possible) <= word + 5
                assert min(possible) >= word - 5
    assert any(FEW in words for _, words in seen) or parts == 1


def test_one_count_of_a_known_whole_is_told_as_its_parts_are():
    for whole in range(60):
        counts = defaultdict(list)
        for count in range(whole + 1):
            counts[about(count, of=whole)].append(count)
        assert whole == 0 or len(counts.pop(FEW, range(LEAST_DOUBT))) >= LEAST_DOUBT
        counts.pop(NOT_TOLD, None)
        assert all(abs(word - count) <= 5 for word, possible in counts.items() for count in possible)
    assert [about(count) for count in (0, 9, 10, 14, 15)] == [FEW, FEW, 10, 10, 20]


def with_a_small_cell(data):
    """Three rows of race z, one of them with the label yes, and 60 copies of other rows."""
    train = data.splits["train"]
    codes, labels = np.array(train.groups.codes), train.labels.copy()
    codes[codes[:, 1] == 2, 1] = 0
    codes[:3, 1], labels[:3] = 2, [1, 0, 0]
    train = replace(train, labels=labels, groups=replace(train.groups, codes=codes))
    train = train.joined(train.take(np.r_[:1, 100:160]))
    return replace(data, splits={**data.splits, "train": train})


@pytest.mark.parametrize(
    ("treatment", "options"),
    [
        (drop_duplicates, {}),
        (drop_suspected_labels, {}),
        (resample_groups, {"columns": ["race"]}),
        (reweigh_groups, {"columns": ["race"]}),
    ],
)
def test_no_outcome_has_the_size_of_a_group_of_three(small_data, treatment, options):
    data = with_a_small_cell(small_data)
    outcome = treatment(remembering(data), **options).lineage[-1].outcome

    def numbers(value, path=()):
        if isinstance(value, dict):
            return [one for key, part in value.items() for one in numbers(part, (*path, key))]
        return [(path, value)]

    of_the_few = [(path, value) for path, value in numbers(outcome) if "race=z" in " ".join(path)]
    assert all(isinstance(value, str) for _, value in of_the_few), of_the_few
    assert of_the_few or "weights_left_out" in outcome
    # With group and label totals, n^2 / sum of squared weights is one equation for the one unknown cell.
    assert not {"smallest_weight", "largest_weight", "effective_num_train"} & set(outcome)
    counts = [value for path, value in numbers(outcome) if "race=" in " ".join(path) and isinstance(value, int)]
    assert all(value % 10 == 0 for value in counts)
