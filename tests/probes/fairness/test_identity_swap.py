import re

import numpy as np
import pytest

from assay import engine
from assay.digests import digest_of
from assay.observe import Workspace
from assay.probes.fairness._frames import LANGUAGES, num_sentences, versions
from assay.tasks import Argmax, task_of
from assay.units.people import AXES, swapped_text, terms
from assay.values import System
from support import small_texts


class Reader:
    """A model of texts that counts words: `plus` raise the second class, `minus` lower it."""

    offers, outputs_are, num_bytes = frozenset({"query"}), "logits", 1

    def __init__(self, plus, minus=()):
        self.plus, self.minus, self.digest = plus, minus, digest_of([list(plus), list(minus)])

    def outputs(self, inputs):
        count = [
            sum(len(re.findall(word, text)) for word in self.plus)
            - sum(len(re.findall(word, text)) for word in self.minus)
            for text in inputs.tolist()
        ]
        score = np.array(count, dtype=np.float32) * 0.8 - 0.2
        return np.stack([-score, score], axis=1)


def measured(model, language="en"):
    data = small_texts(120, language=language)
    system = System("reader", model, data, task_of(data), Argmax())
    found = engine.audit(system, probes=["identity_swap"], workspace=Workspace(key=b"owner", num_draws=100))
    return {(one.metric, one.slice): one for one in found.measurements}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_frames_are_as_many_in_both_languages_and_differ_in_the_person_alone(language):
    known = LANGUAGES[language]
    assert tuple(known.pairs) == AXES
    assert {len(pairs) for pairs in known.pairs.values()} == {12}
    assert num_sentences(known) == 120
    for axis in AXES:
        told = versions(known, axis)
        assert {len(one) for one in told} == {120}
        assert len(set(told[0])) == 120
        people = {person for pair in known.pairs[axis] for person in pair}
        for sentences in zip(*told, strict=True):
            assert len(set(sentences)) == 3
            frames = set()
            for sentence in sentences:
                person = max((p for p in people if p.lower() in sentence.lower()), key=len)
                frames.add(re.sub(re.escape(person), "{p}", sentence, flags=re.IGNORECASE).lower())
            assert len(frames) == 1


@pytest.mark.parametrize(
    ("text", "language", "axis", "other"),
    [
        ("She saw Her mother, himself.", "en", "gender", "He saw His father, herself."),
        ("MARY and the theme of shelter", "en", "gender", "JAMES and the theme of shelter"),
        ("Jamal met Emily", "en", "origin", "Greg met Lakisha"),
        ("a Muslim and a church", "en", "belief", "a Christian and a mosque"),
        ("其他人说他爸爸弹吉他", "zh", "gender", "其他人说她妈妈弹吉他"),
        ("城里人去乡下", "zh", "origin", "乡下人去城里"),
        ("she", "fr", "gender", "she"),
    ],
)
def test_words_are_swapped_both_ways_at_once(text, language, axis, other):
    assert swapped_text(text, language, axis) == other


def test_swapping_twice_gives_the_text_again_for_words_with_one_counterpart():
    for language, axis in (("en", "origin"), ("en", "belief"), ("zh", "gender"), ("zh", "origin")):
        for word in terms(language, axis):
            assert swapped_text(swapped_text(word, language, axis), language, axis) == word


def test_a_model_that_reads_no_person_never_flips():
    for language, words in (("en", ["happy", "good"]), ("zh", ["高兴", "好"])):
        found = measured(Reader(words), language)
        for axis in AXES:
            one = found["swap_flip_rate", f"swap={axis} & source=templates"]
            assert (one.value, one.attempted) == (0.0, 120)
            assert one.high < 0.031
            assert found["swap_shift", f"swap={axis} & source=templates"].value == 0
            assert found["swap_flip_excess", f"swap={axis} & source=templates"].value == 0


def test_a_model_that_reads_the_group_is_found_and_its_direction_told():
    found = measured(Reader(["brother|his man|y son|he boy|uncle|father|Jacob|Ethan|Daniel|Peter|Thomas|Martin"]))
    where = "swap=gender & source=templates"
    assert found["swap_flip_rate", where].value == 1.0
    assert found["swap_shift", where].low > 0.1
    assert found["swap_flip_excess", where].low > 0.8
    assert found["swap_flip_rate", "swap=origin & source=templates"].value == 0


def test_a_model_that_reads_any_name_flips_but_not_more_between_groups():
    """Every second name counts, whoever bears it: the null that swaps within a group has as many flips."""
    found = measured(
        Reader(["Emma|Jacob|Sarah|Daniel|Anna|Thomas|my sister|my brother|my daughter|my son|my aunt|my uncle"])
    )
    assert found["swap_flip_excess", "swap=gender & source=templates"].high < 0


def test_own_texts_are_compared_with_themselves_swapped():
    data = small_texts(120)
    model = Reader(["film"], ["book"])
    where = "swap=gender & source=texts"
    assert measured(model)["swap_flip_rate", where].value is None  # these reviews name nobody
    assert "none of" in measured(model)["swap_flip_rate", where].reason
    from dataclasses import replace

    from assay.values import texts

    test = data.splits["test"]
    told = texts(f"he likes {text}" if row % 2 else text for row, text in enumerate(test.inputs.tolist()))
    splits = {**data.splits, "test": replace(test, inputs=told)}
    system = System("reader", Reader(["she "]), replace(data, splits=splits), task_of(data), Argmax())
    audit = engine.audit(system, probes=["identity_swap"], workspace=Workspace(key=b"owner", num_draws=50))
    one = next(m for m in audit.measurements if (m.metric, m.slice) == ("swap_flip_rate", where))
    assert (one.value, one.attempted) == (1.0, len(test) // 2)
