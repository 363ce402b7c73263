"""How well a stranger can copy the model by asking it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from assay import stats
from assay.estimation.estimate import undefined
from assay.models.query_limit import limit_of
from assay.probes.security._student import Coordinates, answers_of, imitate
from assay.registry import Sizes, probe
from assay.stats import Draws
from assay.units.text import words
from assay.values import Array, Measurement, Split, Task, modality, texts

if TYPE_CHECKING:
    from assay.access.handles import Query

QUERIES = (100, 1000, 5000)


def all_questions(sizes: Sizes) -> dict[str, int]:
    """The largest number of questions; smaller numbers ask the first of them."""
    return {"model_extraction": max(QUERIES)}


@probe("security", cost=all_questions, deep=True)
def model_extraction(query: Query, predictions: Array, task: Task, draws: Draws) -> list[Measurement]:
    """Agreement with the system of a student trained on its answers to 100, 1,000 and 5,000 made-up questions.

    Definition: agreement = mean[student(x) = system(x)] over test rows; the student has one hidden layer of 64 units
        and learns from the answers alone (`answers=labels`) or from probabilities (`answers=probabilities`). Questions
        are drawn from the training split's marginals: each column of a table, each quarter of a picture, or each word
        of a text from a random row. `answers=public`: the same student on as many real training rows with their true
        labels, without asking: what extraction must beat. extraction_area = area under agreement over log Q, from 100
        to 5,000, divided by its width. Of a system with a limit of rows a key (`limit_queries`), only the first so many
        are asked and answered, however many are wanted. A row that errors counts as no agreement; a question without an
        answer is spent, and nothing is learnt from it.
    Shapes: predictions (N,), the system's answers to the test rows, and up to 5,000 made-up rows through the query
        handle.
    Direction: lower is better (a copy is worth less); unit fraction.
    Limits: one kind of student, and questions that ask nothing cleverly: an attacker with a better architecture, or who
        chooses questions by what was answered, gets more, and so does one with several keys, or who comes again the
        next day where the limit is of a day. Agreement is high by itself where one class is most of the rows.
        Replicates are of the rows, with the student as it was trained. Undefined where no question is answered.
    Source: Tramer et al. 2016, section 4; Jagielski et al. 2020, section 3 (fidelity); interval: Wilson (1927).

    >>> import numpy as np
    >>> round(float(area(np.array([[0.6, 0.8, 0.9]]))[0]), 3)
    0.762
    """
    errored = int((predictions < 0).sum())
    about: dict[str, Any] = {"unit": "fraction", "better": "lower", "attempted": len(predictions), "errored": errored}
    found: list[Measurement] = []
    for way, lesson in _lessons(query, task).items():
        agree = _agreements(query, lesson, predictions)
        whole = none = undefined("student", "no question was answered, so nothing can be learnt", draws.level)
        taught = {num: rows for num, rows in agree.items() if rows is not None}
        sums = draws.sums(np.stack([*taught.values()], axis=1).astype(np.float64)) if taught else np.empty((1, 0))
        totals = np.full(len(sums), float(len(predictions)))
        rates = {num: stats.rate(sums[:, place], totals, level=draws.level) for place, num in enumerate(taught)}
        for num in QUERIES:
            where = f"answers={way} & queries={num}"
            found.append(stats.measured(rates.get(num, none), "extraction_agreement", slice=where, **about))
        if len(taught) == len(QUERIES):
            shares = area(sums / totals[:, None])
            whole = stats.statistic(shares, level=draws.level, bounds=(0.0, 1.0), num=len(predictions))
        found.append(stats.measured(whole, "extraction_area", slice=f"answers={way}", **about))
    return found


class Lesson(NamedTuple):
    """Rows `(Q, ...)`, what each teaches `(Q, K)`, and which of them teach at all `(Q,)` bool."""

    inputs: Array
    targets: Array
    known: Array


def _lessons(query: Query, task: Task) -> dict[str, Lesson]:
    """What can be learnt in each way; of the system itself no more than its limit lets anyone ask."""
    train = query.system.data.splits["train"]
    made, places, order = _drawn(query, train)
    limit = limit_of(query.system.lineage)
    asked = made if limit is None else made[: limit.rows]
    one_hot = np.eye(task.num_outputs)
    shares = query.probabilities(asked) if len(asked) else np.empty((0, task.num_outputs), dtype=np.float32)
    given = np.zeros(0, dtype=np.int64)
    if len(asked):
        given = query.system.decision.decide(shares, asked, query.groups.take(places[: len(asked)]))
    known = np.isfinite(shares).all(axis=1) & (given >= 0)
    return {
        "labels": Lesson(asked, one_hot[np.maximum(given, 0)], known),
        "probabilities": Lesson(asked, shares, known),
        "public": Lesson(train.inputs[order], one_hot[np.maximum(train.labels[order], 0)], np.ones(len(order), bool)),
    }


def _drawn(query: Query, train: Split) -> tuple[Array, Array, Array]:
    """Questions, the test rows whose groups they borrow, and the order of training rows: of the data alone."""
    cache = query.workspace.cache.in_memory()
    key = ["questions", 1, query.columns, train.digest, query.system.data.splits["test"].digest]
    stored = cache.get(key)
    if stored is None:
        rng = query.rng("extraction")
        made = questions(query, max(QUERIES), rng)
        places = rng.integers(0, len(query.groups), len(made))
        stored = ({"made": made, "places": places, "order": rng.permutation(len(train))[: max(QUERIES)]}, {})
        cache.put(key, *stored)
    return stored[0]["made"], stored[0]["places"], stored[0]["order"]


def _agreements(query: Query, lesson: Lesson, predictions: Array) -> dict[int, Array | None]:
    """By number of questions wanted, `(N,)` bool: the student gives the system's answer. None: nothing to learn from.

    Where there are fewer questions than wanted, the student is that of all there are, trained once.
    """
    by_size: dict[int, Array | None] = {}
    for size in sorted({min(num, len(lesson.inputs)) for num in QUERIES}):
        told = np.flatnonzero(lesson.known[:size])
        by_size[size] = _agreement(query, lesson.inputs[told], lesson.targets[told], predictions) if len(told) else None
    return {num: by_size[min(num, len(lesson.inputs))] for num in QUERIES}


def area(agreement: Array) -> Array:
    """Mean height `(B,)` of agreement `(B, 3)` over the logarithm of the number of questions, by trapezia."""
    steps = np.diff(np.log(QUERIES))
    heights = (agreement[:, 1:] + agreement[:, :-1]) / 2
    found: Array = heights @ steps / steps.sum()
    return found


def _agreement(query: Query, inputs: Array, targets: Array, predictions: Array) -> Array:
    """`(N,)` bool: the student trained on these answers gives the system's answer."""
    agreed: Array = _answers(query, inputs, targets) == predictions
    return agreed


def _answers(query: Query, inputs: Array, targets: Array) -> Array:
    """`(N,)` answers of the student of these lessons to the test rows.

    Remembered for the run: what is public teaches every system's copy the same, and so do answers that are equal.
    """
    seed = int(query.rng("student").integers(1 << 31))
    cache = query.workspace.cache.in_memory()
    key = ["student", 1, query.columns, inputs, targets, query.system.data.splits["test"].digest, seed]
    stored = cache.get(key)
    if stored is None:
        coder = Coordinates(query.columns, inputs)
        student = imitate(coder.of(inputs), targets, seed=seed)
        stored = ({"answers": answers_of(student, coder.of(query.inputs))}, {})
        cache.put(key, *stored)
    return stored[0]["answers"]


def questions(query: Query, num: int, rng: np.random.Generator) -> Array:
    """Made-up rows `(num, ...)`: parts of random training rows put together, whole rows only by chance."""
    rows = query.system.data.splits["train"].inputs
    kind = modality(query.columns)
    if kind == "table":
        places = rng.integers(0, len(rows), (num, rows.shape[1]))
        return np.take_along_axis(rows, places, axis=0).astype(np.float32)
    if kind == "text":
        column = query.columns[0]
        told = rows.tolist()
        bags = [words(told[place], column.language) or [""] for place in rng.integers(0, len(told), num * 4)]
        lengths = rng.integers(0, len(bags), num)
        made = []
        for length in lengths:
            picked = [bags[place] for place in rng.integers(0, len(bags), max(1, len(bags[length])))]
            made.append("".join(bag[rng.integers(len(bag))] for bag in picked).strip())
        return texts(made)
    half = [size // 2 for size in rows.shape[2:]]
    found = rows[rng.integers(0, len(rows), num)].copy()
    for down in (slice(0, half[0]), slice(half[0], None)):
        for across in (slice(0, half[1]), slice(half[1], None)):
            found[:, :, down, across] = rows[rng.integers(0, len(rows), num)][:, :, down, across]
    return found
