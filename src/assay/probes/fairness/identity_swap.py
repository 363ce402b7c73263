"""Does the answer to a text change when only the person in it is changed?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from assay.probes.fairness._frames import ENGLISH, LANGUAGES, Language, num_sentences, versions
from assay.probes.fairness._swaps import Answers, Swap, flipped, nothing, swap_measurements
from assay.registry import Sizes, probe
from assay.stats import Draws, make_draws, mean, measured
from assay.units.people import AXES, swapped_texts
from assay.values import Array, Groups, Measurement, Task, texts

if TYPE_CHECKING:
    from assay.access.handles import Query

MOST = 500  # test texts looked at


def swapped_sentences(sizes: Sizes) -> dict[str, int]:
    """Three versions of each sentence, and two of each test text that names somebody: at most so many."""
    return {"identity_swap": len(AXES) * (3 * num_sentences(ENGLISH) + 2 * min(MOST, sizes.num_test))}


@probe("fairness", tasks=("classification", "regression"), cost=swapped_sentences, modalities=("text",))
def identity_swap(query: Query, task: Task, draws: Draws) -> list[Measurement]:
    """How often the answer flips, and how far the output moves, when a text is about a person of another group.

    Definition: axes: gender, origin (English: first names; Chinese: city or country), belief. Templates: 60 sentences
        (7 frames x 8 feelings or events, 4 neutral) x 2 of 12 pairs of people, each with the first person, with the
        second, and with another of the first one's kind. swap_flip_rate = mean[answer(second) != answer(first)];
        swap_mean_change = mean of half the summed |p(second) - p(first)|; swap_shift = mean[p(positive | second) -
        p(positive | first)]; swap_flip_excess = flips from first to second minus flips from first to another of its
        kind, the same sentence: what any name does is no group's. Texts: the user's own test texts (500 keyed rows) in
        which a word of the axis stands, against the same with all such words swapped.
    Shapes: none of the shared pass; M sentences, M = 120 for each axis, and those of 500 test texts that name somebody.
        Slices "swap=gender & source=templates", "swap=gender & source=texts".
    Direction: flips, change and excess lower; a shift neither (nearest to 0); unit share, or that of the target.
    Limits: binary pairs of a few lists; sentences were made for feelings, and say little of a system for something
        else. Swapped words can break a text ("her" and "his", a queen of history): a flip there is a lead to be read,
        not a verdict. Intervals take sentence pairs as independent, though they share frames and people. An errored
        answer counts as flipped. Languages other than English and Chinese are not measured.
    Source: Kiritchenko & Mohammad (2018), Equity Evaluation Corpus, section 3 (design; sentences and lists our own);
        Bertrand & Mullainathan (2004), table 8 (first names of origin); Garg et al. (2019), counterfactual token
        fairness; interval of flips: Clopper & Pearson (1934).

    >>> [num_sentences(one) for one in LANGUAGES.values()]
    [120, 120]
    """
    column = query.columns[0]
    language = LANGUAGES.get(column.language)
    if language is None:
        reason = f"there are no sentences in {column.language or 'an undeclared language'}"
        return nothing("", reason, draws.level, is_classes=bool(task.classes))
    found: list[Measurement] = []
    for axis in AXES:
        found += query.unsampled(_templates(query, language, axis, task, draws))
        found += _own_texts(query, column.language, axis, task, draws)
    return found


def _templates(query: Query, language: Language, axis: str, task: Task, draws: Draws) -> list[Measurement]:
    told = versions(language, axis)
    num, where = len(told[0]), f"swap={axis} & source=templates"
    # The sentences are nobody's rows, so their draws need no secret, and every system meets the same.
    about = [np.zeros(num, dtype=np.int64)]
    sample = make_draws(b"sentences", where, about, num_draws=draws.num_draws, level=draws.level)
    groups = Groups(np.full((3 * num, query.groups.codes.shape[1]), -1), query.groups.columns)
    answers = _asked(query, texts([*told[0], *told[1], *told[2]]), groups)
    first, second, third = (answers.take(np.arange(num) + place * num) for place in range(3))
    swap = Swap(first, second, where, {where: np.ones(num, dtype=bool)})
    found = swap_measurements(swap, task, sample, headline=axis == AXES[0])
    if task.classes:
        across, within = flipped(first, second, task), flipped(first, third, task)
        sums = sample.sums(np.stack([across.astype(np.float64) - within, np.ones(num)], axis=1))
        excess = mean(sums[:, 0], sums[:, 1], level=draws.level, bounds=(-1.0, 1.0))
        found.append(measured(excess, "swap_flip_excess", unit="share", better="lower", slice=where, attempted=num))
    return found


def _own_texts(query: Query, language: str, axis: str, task: Task, draws: Draws) -> list[Measurement]:
    rows, where = query.rows(MOST), f"swap={axis} & source=texts"
    written = query.inputs[rows]
    changed = swapped_texts(written, language, axis)
    named = np.flatnonzero(changed != written)
    if not len(named):
        reason = f"none of {len(rows)} test texts has a word of this axis"
        return nothing(where, reason, draws.level, is_classes=bool(task.classes))
    both, groups = texts([*written[named].tolist(), *changed[named].tolist()]), query.groups.take(rows[named])
    groups = Groups(np.concatenate([groups.codes, groups.codes]), groups.columns)
    answers, sample = _asked(query, both, groups), draws.of(rows[named])
    before, after = answers.take(np.arange(len(named))), answers.take(np.arange(len(named)) + len(named))
    return swap_measurements(Swap(before, after, where), task, sample)


def _asked(query: Query, sentences: Array, groups: Groups) -> Answers:
    outputs = query.probabilities(sentences)
    return Answers(query.system.decision.decide(outputs, sentences, groups), outputs)
