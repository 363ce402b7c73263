"""The bag of runs: counted by hand, equal to scikit-learn's TF-IDF, and a text model like the others."""

from __future__ import annotations

import itertools
import math
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.errors import ModelError
from assay.models import build, grams, tensors
from assay.models.grams import LAST, GramBag
from assay.models.kernels import written_out
from assay.models.vectors import ByToken
from assay.parts import texts
from assay.train.texts import text_recipe
from assay.values import Array, Column, Groups, Split
from support import small_texts

pytest.importorskip("tokenizers")
ENGLISH, CHINESE = (Column("text", "text", language=language) for language in ("en", "zh"))
CORPUS = ["the cat sat on the mat", "the dog sat", "the cat ran", "don't sit on the cat", "a mat a cat a dog"]


def split_of(inputs: Array) -> Split:
    groups = Groups(np.zeros((len(inputs), 0), dtype=np.int16), ())
    return Split(inputs, np.arange(len(inputs)) % 2, groups, np.arange(1, len(inputs) + 1))


def classifier(**params: object) -> nn.Module:
    torch.manual_seed(0)
    given = {"vocab_size": 60, "num_grams": 40, "longest": 3, **params}
    model = build("ngrams", columns=(ENGLISH,), num_outputs=3, params=given)
    model.fit_encoding(split_of(texts(CORPUS)))  # type: ignore[operator]
    nn.init.normal_(model.bag.embedding.weight)  # type: ignore[union-attr, arg-type]
    return model.eval()


def runs_of(text: str, longest: int = 3) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[at : at + size]) for size in range(1, longest + 1) for at in range(len(words) - size + 1)}


def test_runs_and_their_weights_are_those_counted_by_hand() -> None:
    model = classifier()
    names = model.bag.names(model.encoder.tokens())  # type: ignore[union-attr, operator]
    counts = Counter(run for text in CORPUS for run in runs_of(text))
    assert set(names) == {run for run, count in counts.items() if count >= 2}
    assert ("the", "cat") in names
    for run, weight in zip(names, model.bag.weights[2:], strict=False):  # type: ignore[union-attr, index, arg-type]
        assert weight.item() == pytest.approx(math.log(6 / (1 + counts[run])) + 1)
    found = tensors(model, texts(["the cat and the cat", "zebra"]))
    known = [{names[code - 2] for code in row if code >= 2} for row in found.tolist()]
    assert known == [{("the",), ("cat",), ("the", "cat")}, set()]
    assert found[0].tolist() == sorted(found[0].tolist())
    assert found[1].tolist() == [1, 0, 0]


@pytest.mark.parametrize("rows", [1, 2, 4096])
def test_texts_may_come_in_parts(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = classifier()
    monkeypatch.setattr(grams, "ROWS", rows)
    parts = classifier()
    assert torch.equal(whole.bag.codes, parts.bag.codes)  # type: ignore[union-attr, arg-type]
    assert torch.equal(whole.bag.weights, parts.bag.weights)  # type: ignore[union-attr, arg-type]
    assert torch.equal(tensors(whole, texts(CORPUS)), tensors(parts, texts(CORPUS)))


def test_the_most_frequent_are_kept_where_the_table_is_small() -> None:
    model = classifier(num_grams=3)
    names = set(model.bag.names(model.encoder.tokens()))  # type: ignore[union-attr, operator]
    assert {("cat",), ("the",)} < names
    assert len(names) == 3


@pytest.mark.parametrize("kind", ["word", "char"])
def test_the_bag_is_the_tf_idf_vector_of_scikit_learn(kind: str) -> None:
    """With one-hot embeddings the bag is scikit-learn's vector, entry by entry, whatever the numbering."""
    vectorizers = pytest.importorskip("sklearn.feature_extraction.text")
    drawn = np.random.default_rng(0).choice(list("abcdefgh"), size=(60, 9))
    lines = [("" if kind == "char" else " ").join(row) for row in drawn.tolist()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = vectorizers.TfidfVectorizer(
            analyzer=kind, ngram_range=(1, 3), binary=True, min_df=2, token_pattern=r"\S+", smooth_idf=True
        )
        expected = peer.fit_transform(lines).toarray()
    model = classifier(kind=kind, vocab_size=12, num_grams=expected.shape[1], dim=expected.shape[1])
    model.fit_encoding(split_of(texts(lines)))  # type: ignore[operator]
    model.bag.embedding.weight.data = torch.eye(expected.shape[1] + 2)[:, 2:]  # type: ignore[union-attr]
    found = model.embed(tensors(model, texts(lines))).sum(dim=1)  # type: ignore[operator]
    joined = ("" if kind == "char" else " ").join
    places = [peer.vocabulary_[joined(run)] for run in model.bag.names(model.encoder.tokens())]  # type: ignore[union-attr, operator]
    assert sorted(places) == list(range(expected.shape[1]))
    np.testing.assert_allclose(found.detach().numpy(), expected[:, places], atol=1e-6)


def test_a_hidden_run_weighs_nothing_and_the_rest_keeps_length_one() -> None:
    model = classifier()
    found = tensors(model, texts(["the cat sat"]))
    hidden = found.masked_fill(found == found[0, 0], 1)
    with torch.no_grad():
        bag = model.embed(hidden)  # type: ignore[operator]
        assert not bag[0, 0].any()
        weights = model.bag.weights[hidden]  # type: ignore[union-attr, index]
        kept = model.bag.embedding.weight[hidden] * (weights / weights.norm())[:, :, None]  # type: ignore[union-attr, index, operator]
        torch.testing.assert_close(bag, kept)
        assert torch.isfinite(model(torch.zeros(2, 5, dtype=torch.int64))).all()


def test_it_answers_by_row_whatever_the_padding() -> None:
    model = classifier()
    inputs = texts(["the cat sat on the mat", "", "dog", "龘 zebra", "a, a, a!"])
    found = tensors(model, inputs)
    with torch.no_grad():
        together = model(found)
        wide = nn.functional.pad(found, (0, 9))
        for same in (model(wide), model.from_embeddings(model.embed(wide), wide)):  # type: ignore[operator]
            torch.testing.assert_close(same, together, rtol=0, atol=1e-6)
        for row in range(5):
            alone = model(tensors(model, inputs[row : row + 1]))[0]
            torch.testing.assert_close(alone, together[row], rtol=0, atol=1e-6)
        with written_out(model):
            torch.testing.assert_close(model(found), together, rtol=0, atol=1e-6)
        assert model(found[:0]).shape == (0, 3)
    assert tensors(model, texts([])).shape == (0, 1)
    assert (together[0] - together[2]).abs().max() > 1e-2


def test_it_can_be_entered_at_its_tokens() -> None:
    model = classifier()
    inputs = texts(["the cat sat on the mat the cat", "", "zebra", "dog the cat"])
    assert isinstance(model, ByToken)
    tokens = model.token_ids(inputs)
    vectors = model.token_vectors(tokens)
    with torch.no_grad():
        torch.testing.assert_close(model.from_vectors(vectors, tokens), model(tensors(model, inputs)))
    names, table = model.bag.names(model.encoder.tokens()), model.bag.embedding.weight  # type: ignore[union-attr, operator]
    known = [run for run in runs_of("dog the cat") if run in names]
    weights = {run: model.bag.weights[2 + names.index(run)] for run in known}  # type: ignore[union-attr, index]
    length = torch.stack(list(weights.values())).norm()
    holding = [run for run in known if "cat" in run]
    assert {len(run) for run in holding} == {1, 2}
    shares = [weights[run] / length / len(run) * table[2 + names.index(run)] for run in holding]  # type: ignore[index, operator]
    torch.testing.assert_close(vectors[3, 2], torch.stack(shares).sum(dim=0))
    assert [len(spans) for spans in model.token_spans(inputs)] == [8, 1, 1, 3]


def test_gradients_of_single_rows_are_those_of_each_row_alone() -> None:
    model = classifier()
    found, labels = tensors(model, texts(["the cat sat", "dog", "a mat on a mat"])), torch.tensor([0, 1, 2])
    parameters = dict(model.named_parameters())

    def loss(parameters: dict[str, Tensor], row: Tensor, label: Tensor) -> Tensor:
        outputs = torch.func.functional_call(model, parameters, (row[None],))
        return nn.functional.cross_entropy(outputs, label[None])

    with written_out(model):
        each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, found, labels)
    for row in range(3):
        alone = torch.autograd.grad(loss(parameters, found[row], labels[row]), list(parameters.values()))
        for parameter, gradient in zip(parameters, alone, strict=True):
            torch.testing.assert_close(each[parameter][row], gradient, rtol=1e-4, atol=1e-6)


def test_tables_load_into_a_fresh_module() -> None:
    model = classifier()
    fresh = build("ngrams", columns=(ENGLISH,), num_outputs=3, params={"vocab_size": 60, "num_grams": 40, "longest": 3})
    fresh.load_state_dict(model.state_dict())
    inputs = texts(CORPUS)
    assert torch.equal(fresh.eval()(tensors(fresh, inputs)), model(tensors(model, inputs)))


def test_languages_have_defaults_and_sizes_that_make_no_table_are_refused() -> None:
    chinese = build("ngrams", columns=(CHINESE,), num_outputs=2)
    assert (chinese.encoder.kind, chinese.bag.longest) == ("char", 3)  # type: ignore[union-attr]
    assert (chinese.bag.codes == LAST).all()  # type: ignore[union-attr]
    with pytest.raises(ModelError, match="one column of kind text"):
        build("ngrams", columns=(Column("age", "numeric"),), num_outputs=2)
    with pytest.raises(ModelError, match="runs of at most 4"):
        build("ngrams", columns=(ENGLISH,), num_outputs=2, params={"longest": 5})
    with pytest.raises(ModelError) as caught:
        GramBag(60, longest=0, num_grams=0, dim=0)
    assert len(caught.value.problems) == 3
    with pytest.raises(ModelError, match="dropout is 1"):
        build("ngrams", columns=(ENGLISH,), num_outputs=2, params={"dropout": 1})


def test_long_runs_have_exact_codes() -> None:
    """Three tokens of a large vocabulary: the largest code still has a number of its own."""
    bag = GramBag(60_000, longest=3, num_grams=400, dim=1)
    tokens = torch.tensor([list(each) for each in itertools.product([2, 59_998, 59_999], repeat=3)] * 2)
    bag.fit(tokens)
    names = bag.names([str(code) for code in range(60_000)])
    assert ("59999", "59999", "59999") in names
    assert len(set(names)) == len(names) == 3 + 9 + 27


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "zh"])
def test_it_learns(language: str) -> None:
    """One word in ten tells the wrong class, so 0.9 is what can be reached; a guess gives 0.5."""
    data = small_texts(600, language=language)
    model = text_recipe(data, model="ngrams").fit(data.splits["train"], data, 0).model
    test = data.splits["test"]
    assert (model.outputs(test.inputs).argmax(axis=1) == test.labels).mean() > 0.8
