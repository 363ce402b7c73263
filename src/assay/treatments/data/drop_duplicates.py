"""Training rows that repeat one another, or that are also test rows, are left out."""

from __future__ import annotations

import numpy as np

from assay.data.quality.identity import contents, identities, labelled, repeats
from assay.data.quality.near import near_copies
from assay.registry import EVERY_TASK, treatment
from assay.treatments import _common
from assay.treatments.data import _rows
from assay.values import NON_MEMBERS, Array, Data, System


@treatment("data", moves=("lower:train_test_overlap",), tasks=EVERY_TASK)
def drop_duplicates(system: System, *, repeated: bool = True, held_out: bool = True, near: bool = False) -> System:
    """Leave out training rows that are there twice, and those that validation or test also hold; train again.

    `repeated`: rows whose inputs and label an earlier training row has. `held_out`: rows whose inputs a validation or
    test row has, whatever their labels. `near`: near copies of those too, as `check_data` finds them. Validation and
    test stay as they are, so results can be compared row by row. Limits: equal rows of a coarse table may be different
    people (on Adult most are), and dropping them makes common people rarer in training; with `held_out` the training
    rows depend on which inputs, never on which labels, the test split has. Raises TreatmentError without recipe, or
    when a class would lose its last training row.

    Source: Lee et al. 2022, Deduplicating training data makes language models better, ACL, section 4; Barz and Denzler
    2020, Do we train on test data?, Journal of Imaging 6(6), section 3.
    """
    _common.refuse("drop_duplicates", system, _rows.needs(system))
    masks = {
        "repeated": _repeated(system.data) if repeated else _none(system.data),
        "held_out": _held_out(system.data) if held_out else _none(system.data),
        "near": _near(system.data) if near else _none(system.data),
    }
    drop = np.any(list(masks.values()), axis=0)
    _common.refuse("drop_duplicates", system, [_rows.empties_a_class(system, drop)])
    outcome = {f"num_{name}": int(mask.sum()) for name, mask in masks.items()}
    parameters = {"repeated": repeated, "held_out": held_out, "near": near}
    return _rows.without(system, drop, treatment="drop_duplicates", parameters=parameters, outcome=outcome)


def _none(data: Data) -> Array:
    return np.zeros(len(data.splits["train"]), dtype=bool)


def _repeated(data: Data) -> Array:
    train = data.splits["train"]
    return repeats(identities(labelled(train.inputs, train.labels))[0])


def _held_out(data: Data) -> Array:
    train, *others = _parts(data)
    codes, *known = identities(contents(train), *(contents(inputs) for inputs in others))
    mask: Array = np.isin(codes, np.concatenate(known)) if known else np.zeros(len(codes), dtype=bool)
    return mask


def _near(data: Data) -> Array:
    train, *others = _parts(data)
    mask = np.zeros(len(train), dtype=bool)
    for inputs in others:
        mask |= near_copies(train, inputs, data.columns) >= 0
    return mask


def _parts(data: Data) -> list[Array]:
    """Training rows first, then those that are held out; `NON_MEMBERS` are test rows once more, made alike to them."""
    held_out = [part.inputs for name, part in data.splits.items() if name not in ("train", NON_MEMBERS)]
    return [data.splits["train"].inputs, *held_out]
