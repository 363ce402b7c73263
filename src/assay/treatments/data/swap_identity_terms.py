"""Training texts that name a person are there twice: as written, and of a person of another group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from assay.errors import Problem
from assay.registry import treatment
from assay.treatments import _common, _counts
from assay.treatments.data import _rows
from assay.units.people import AXES, swapped_texts, terms
from assay.units.told import FEWEST_ROWS
from assay.values import Data, Groups, Split, System


@treatment("data", moves=("lower:swap_flip_rate", "lower:swap_mean_change"))
def swap_identity_terms(
    system: System, *, axes: Sequence[str] = AXES, groups_of_the_named: Sequence[str] = ()
) -> System:
    r"""Add to the training rows, for each axis, every text with the words of the axis swapped; train again.

    Axes: gender, origin, belief; words and first names in English and Chinese as the probe `identity_swap` swaps them
    (`assay.units.people`). A copy keeps its text's label, weight and groups, so that word and label become
    independent: $\#\{w, y\} = \#\{w', y\}$ for words with one counterpart, but for texts that have both. Groups in
    `groups_of_the_named` say who a text names, and are swapped too, by the lists of both languages. A text without
    such a word is not copied. Limits: two values an axis and a few lists; what is said without these words (a job, a
    hobby) keeps its effect; a swapped text may be wrong ("her", a queen of history) or never written; texts that name
    people count more than before; training takes longer by the share of copies. Validation and test stay as they are.
    Raises TreatmentError without recipe, for inputs that are not texts, a language without lists, unknown axes or
    groups, or when no training text has such a word.

    Source: Lu et al. 2020, Gender bias in neural natural language processing, section 4 (counterfactual data
    augmentation); Garg et al. 2019, Counterfactual fairness in text classification, section 4.2.
    """
    names, wanted = tuple(groups_of_the_named), tuple(axes)
    _common.refuse("swap_identity_terms", system, [*_rows.needs(system), *_unfit(system.data, wanted, names)])
    train, language = system.data.splits["train"], system.data.columns[0].language
    copies = {axis: _copied(train, language, axis, names) for axis in wanted if terms(language, axis)}
    added = sum(len(one.split) for one in copies.values())
    none = Problem(f"none of its training texts has a word of {', '.join(wanted)}", next="Nothing could be swapped")
    _common.refuse("swap_identity_terms", system, [None if added else none])
    by_axis = _counts.told({axis: len(one.split) for axis, one in copies.items()})
    outcome = {
        "language": language,
        "num_train_before": len(train),
        "num_added": added,
        "added": {axis: {"copies": by_axis[axis], **_by_class(system.data, one)} for axis, one in copies.items()},
    }
    splits = {**system.data.splits, "train": train.joined(*(one.split for one in copies.values()))}
    parameters = {"axes": list(wanted), "groups_of_the_named": list(names)}
    return _rows.again(system, splits, treatment="swap_identity_terms", parameters=parameters, outcome=outcome)


@dataclass(frozen=True)
class _Copies:
    """Copies of the texts that have a word of an axis, and how many of their groups were swapped."""

    split: Split
    num_groups: int


def _unfit(data: Data, axes: Sequence[str], names: Sequence[str]) -> list[Problem | None]:
    kind = data.modality
    if kind != "text":
        return [Problem(f"its inputs are {kind}s", "texts")]
    language, declared = data.columns[0].language, [column.name for column in data.group_columns]
    unknown = [axis for axis in axes if axis not in AXES]
    other = [name for name in names if name not in declared]
    is_listed = any(terms(language, axis) for axis in AXES)
    return [
        _common.unless(is_listed, f"its texts are in {language or 'an undeclared language'}", "en, zh"),
        _common.unless(not unknown and bool(axes), f"axes {list(axes)}", "some of " + ", ".join(AXES)),
        _common.unless(not other, f"group columns {other}", ", ".join(declared) or "none is declared"),
    ]


def _copied(train: Split, language: str, axis: str, names: Sequence[str]) -> _Copies:
    changed = swapped_texts(train.inputs, language, axis)
    rows = np.flatnonzero(changed != train.inputs)
    copies = replace(train.take(rows), inputs=changed[rows])
    groups = _swapped_groups(copies.groups, axis, names)
    return _Copies(replace(copies, groups=groups), int((groups.codes != copies.groups.codes).sum()))


def _swapped_groups(groups: Groups, axis: str, names: Sequence[str]) -> Groups:
    """The same groups, but in the named columns each value for its counterpart on the axis, where that is a value."""
    known, codes = {**terms("en", axis), **terms("zh", axis)}, np.array(groups.codes)
    for place, column in enumerate(groups.columns):
        if column.name not in names:
            continue
        told = [value.lower() for value in column.categories]
        other = [told.index(known[value]) if known.get(value) in told else code for code, value in enumerate(told)]
        codes[:, place] = np.array([*other, -1])[groups.codes[:, place].astype(np.int64)]
    return Groups(codes, groups.columns)


def _by_class(data: Data, copies: _Copies) -> dict[str, int | str]:
    """Copies of an axis by class, and about how many group values were swapped; few are not told."""
    labels = copies.split.labels
    found = {"groups_swapped": _counts.FEW if 0 < copies.num_groups < FEWEST_ROWS else copies.num_groups}
    return found | _counts.told(
        {f"label {name}": int((labels == code).sum()) for code, name in enumerate(data.classes)}
    )
