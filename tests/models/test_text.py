from __future__ import annotations

import copy
import itertools
import re
import unicodedata
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from assay.errors import ModelError
from assay.models import Encodes, FitsEncoding, build, tensors
from assay.models.adapters.module import digest_state
from assay.models.kernels import written_out
from assay.models.text import KINDS, POOLS, TextEncoder, seen_of
from assay.parts import texts
from assay.train.texts import text_recipe
from assay.values import Array, Column, Groups, Split
from support import small_images, small_texts

pytest.importorskip("tokenizers")
ENGLISH, CHINESE = (Column("text", "text", language=language) for language in ("en", "zh"))
CORPUS = ["The cat sat on the mat.", "the dog sat; the cat ran!", "Don't sit on the cat", "a mat, a cat, a dog"] * 3
REVIEWS = ["质量很好，物流很快", "质量太差，不要买", "很好很好很好", "不好，退货"] * 3
ARCHITECTURES = ["rnn", "lstm", "gru", "lstm_attention", "transformer"]


def split_of(inputs: Array) -> Split:
    groups = Groups(np.zeros((len(inputs), 0), dtype=np.int16), ())
    return Split(inputs, np.arange(len(inputs)) % 2, groups, np.arange(1, len(inputs) + 1))


def fitted(kind: str = "word", corpus: list[str] = CORPUS, vocab_size: int = 60, max_length: int = 128) -> TextEncoder:
    encoder = TextEncoder(kind=kind, vocab_size=vocab_size, max_length=max_length)  # type: ignore[arg-type]
    encoder.fit(texts(corpus))
    return encoder


def classifier(name: str, seed: int = 0, **params: object) -> nn.Module:
    torch.manual_seed(seed)
    model = build(name, columns=(ENGLISH,), num_outputs=3, params={"dim": 8, "vocab_size": 60, **params})
    model.fit_encoding(split_of(texts(CORPUS)))
    for table in (model.embedding, model.grams and model.grams.embedding):
        if table is not None:
            nn.init.normal_(table.weight)  # the first embeddings are small; differences must show
    return model.eval()


def test_words_are_the_most_frequent_by_count() -> None:
    encoder = fitted(vocab_size=8)
    pieces: Counter[str] = Counter()
    for text in CORPUS:
        pieces.update(re.sub(r"([.;!,])", r" \1 ", text.lower()).split())
    expected = sorted(pieces, key=lambda word: (-pieces[word], word))[:6]
    assert encoder.tokens() == ["[PAD]", "[UNK]", *expected]
    codes = {word: code for code, word in enumerate(encoder.tokens())}
    found = encoder(texts(["The CAT flew"])).tolist()
    assert found == [[codes["the"], codes["cat"], 1]]


def test_apostrophes_stay_in_words_and_marks_are_tokens() -> None:
    encoder = fitted(vocab_size=100)
    names = encoder.tokens()
    assert [names[code] for code in encoder(texts(["don't, a cat!"]))[0]] == ["don't", ",", "a", "cat", "!"]


def test_characters_of_chinese() -> None:
    encoder = fitted("char", REVIEWS)
    names = encoder.tokens()
    assert [names[code] for code in encoder(texts(["质量 不好", "物流差龘"]))[1]] == ["物", "流", "差", "[UNK]"]
    assert encoder(texts(["质量 不好"])).shape == (1, 4)


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_pieces_join_to_the_words_and_first_merge_is_the_most_frequent_pair(kind: str) -> None:
    encoder = fitted(kind, vocab_size=70)
    names = encoder.tokens()
    for text in ("the cat sat", "a dog ran on the mat"):
        pieces = [names[code].removeprefix("##") for code in encoder(texts([text]))[0]]
        assert "".join(pieces) == text.replace(" ", "")
        assert len(pieces) < len(text.replace(" ", "")), "pairs must have been merged"
    if kind == "bpe":
        words = [word for text in CORPUS for word in re.findall(r"[a-z']+", text.lower())]
        pairs = Counter(left + right for word in words for left, right in itertools.pairwise(word))
        first = next(name for name in names[2:] if len(name) == 2)
        assert pairs[first] == max(pairs.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("corpus", [CORPUS, REVIEWS], ids=["en", "zh"])
def test_any_text_has_an_answer(kind: str, corpus: list[str]) -> None:
    encoder = fitted(kind, corpus, max_length=16)
    odd = [
        "",
        "   \n\t",
        "😀👩‍👩‍👧🏳️‍🌈",
        "龘靐",
        "\ud800 lone",
        "\x00",
        "x" * 20_000,
        "cat " * 5_000,
        "ﬁ Ａ１",
        "a\u0301",
        "مرحبا",
    ]
    tokens = encoder(np.array(odd, dtype=object))
    assert tokens.dtype == torch.int64
    assert tokens.shape == (len(odd), 16)
    assert int(tokens.max()) < encoder.vocab_size
    assert (tokens[:, 0] > 0).all(), "no text is without a token"
    assert tokens[0].tolist() == tokens[1].tolist() == [1] + [0] * 15
    assert encoder(texts([])).shape == (0, 1)


def test_forms_of_the_same_text_are_one() -> None:
    encoder = fitted("char", ["é ﬁ Ａ 1"], vocab_size=20)
    for form in ("NFC", "NFD", "NFKC"):
        same = unicodedata.normalize(form, "É FI a １")
        assert torch.equal(encoder(texts([same])), encoder(texts(["é ﬁ Ａ 1"]))), form
    cased = TextEncoder(kind="word", lowercase=False)
    cased.fit(texts(["Cat cat"]))
    assert cased(texts(["Cat cat CAT"]))[0].unique().tolist() == [1, 2, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_tables_are_the_same_every_time_and_load_at_any_length(kind: str) -> None:
    digests = {digest_state(fitted(kind), None, "logits") for _ in range(4)}
    assert len(digests) == 1
    first, other = fitted(kind), fitted(kind, REVIEWS)
    probe = texts(["the cat", "dog 质量"])
    assert not torch.equal(first(probe), other(probe))
    other.load_state_dict(first.state_dict())
    assert torch.equal(first(probe), other(probe))
    fresh = TextEncoder(kind=kind, vocab_size=60)  # type: ignore[arg-type]
    fresh.load_state_dict(first.state_dict())
    for same in (fresh, copy.deepcopy(first), first.double().half()):
        assert torch.equal(first(probe), same(probe))


def test_only_training_texts_set_the_table() -> None:
    encoder = fitted()
    before = encoder.table.clone()
    encoder(texts(["entirely new words"] * 9))
    assert torch.equal(before, encoder.table)


def test_damaged_and_missing_tables_are_refused() -> None:
    with pytest.raises(ModelError, match="not fitted"):
        TextEncoder()(texts(["a"]))
    with pytest.raises(ModelError, match="no token"):
        TextEncoder().fit(texts(["", "  "]))
    with pytest.raises(ModelError) as caught:
        TextEncoder(kind="words", vocab_size=2, max_length=0)  # type: ignore[arg-type]
    assert len(caught.value.problems) == 3
    for content in (b"{", b"[]", b'{"tokens": ["a", "a", "b"], "merges": []}', b'{"tokens": [1, 2, 3], "merges": []}'):
        encoder = fitted()
        encoder.load_state_dict({"table": torch.frombuffer(bytearray(content), dtype=torch.uint8)})
        with pytest.raises(ModelError, match="damaged"):
            encoder(texts(["a"]))
    small = TextEncoder(vocab_size=5)
    small.load_state_dict(fitted().state_dict())
    with pytest.raises(ModelError, match="up to 5"):
        small(texts(["a"]))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(
    "params", [{}, {"num_grams": 50}, {"num_grams": 50, "body_length": 3}], ids=["", "grams", "start"]
)
def test_classifiers_answer_by_row_whatever_the_padding(name: str, params: dict[str, object]) -> None:
    model = classifier(name, **params)
    inputs = texts(["the cat sat on the mat", "", "dog", "the unseen zebra ran on", "a, a, a!"])
    tokens = tensors(model, inputs)
    assert isinstance(model, FitsEncoding)
    assert isinstance(model, Encodes)
    with torch.no_grad():
        together = model(tokens)
        assert together.shape == (5, 3)
        wide = nn.functional.pad(tokens, (0, 9) if tokens.ndim == 2 else (0, 0, 0, 9))
        torch.testing.assert_close(model(wide), together, rtol=0, atol=1e-5)
        torch.testing.assert_close(model.from_embeddings(model.embed(wide), wide), together, rtol=0, atol=1e-5)
        for row in range(5):
            alone = model(tensors(model, inputs[row : row + 1]))[0]
            torch.testing.assert_close(alone, together[row], rtol=0, atol=1e-5)
        with written_out(model):
            torch.testing.assert_close(model(tokens), together, rtol=0, atol=1e-5)
        assert torch.isfinite(model(torch.zeros_like(tokens))).all(), "a row masked to nothing"
        assert model(tokens[:0]).shape == (0, 3)
    assert (together[0] - together[2]).abs().max() > 1e-2


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_per_example_gradients_work_written_out(name: str) -> None:
    """What clipped-gradient training needs: vmap over rows gives the gradient of each row alone."""
    model = classifier(name)
    tokens, labels = tensors(model, texts(["the cat sat", "dog", "a mat on a mat"])), torch.tensor([0, 1, 2])
    parameters = dict(model.named_parameters())

    def loss(parameters: dict[str, torch.Tensor], row: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        outputs = torch.func.functional_call(model, parameters, (row[None],))
        return nn.functional.cross_entropy(outputs, label[None])

    with written_out(model):
        each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, tokens, labels)
    for row in range(3):
        alone = torch.autograd.grad(loss(parameters, tokens[row], labels[row]), list(parameters.values()))
        for parameter, gradient in zip(parameters, alone, strict=True):
            torch.testing.assert_close(each[parameter][row], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parameters_are_in_plain_layers_and_the_head_is_last(name: str) -> None:
    model = classifier(name, num_grams=50)
    plain = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.RNN, nn.LSTM, nn.GRU)
    held = {id(p) for layer in model.modules() if isinstance(layer, plain) for p in layer.parameters(recurse=False)}
    assert held == {id(parameter) for parameter in model.parameters()}
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    seen: list[torch.Tensor] = []
    linear[-1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    outputs = model(tensors(model, texts(["the cat"])))
    assert linear[-1] is model.head
    assert torch.equal(model.head(seen[0]), outputs)  # type: ignore[operator]


@pytest.mark.parametrize("pool", POOLS)
def test_pools(pool: str) -> None:
    model = classifier("gru", pool=pool)
    tokens = tensors(model, texts(["the cat sat", "dog"]))
    embedded = model.embed(tokens)  # type: ignore[operator]
    seen = seen_of(tokens)
    states = model.body(embedded, seen)  # type: ignore[operator]
    pooled: list[torch.Tensor] = []
    model.head.register_forward_pre_hook(lambda _, args: pooled.append(args[0]))  # type: ignore[union-attr]
    model(tokens)
    for row, length in enumerate(seen.sum(dim=1).tolist()):
        own = states[row, :length]
        last = torch.cat([own[-1, :32], own[0, 32:]])
        bag = embedded[row, :length].sum(dim=0) / length**0.5
        if pool == "attention":
            weights = model.attention(last[None, None], own[None], seen[row : row + 1, :length])[1]  # type: ignore[operator]
            expected = torch.cat([weights[0, 0] @ own, last, bag])
        else:
            expected = last if pool == "last" else torch.cat([own.mean(dim=0), own.amax(dim=0), bag])
        torch.testing.assert_close(pooled[0][row], expected, rtol=0, atol=1e-6)


def test_a_bag_of_runs_stands_beside_the_body_and_reads_further() -> None:
    model = classifier("lstm", num_grams=1000, body_length=3)
    inputs = texts(["the cat sat on the mat", "the cat sat", "dog on the mat"])
    pooled: list[torch.Tensor] = []
    model.head.register_forward_pre_hook(lambda _, args: pooled.append(args[0]))  # type: ignore[union-attr]
    encoded = tensors(model, inputs)
    assert encoded.shape == (3, 6, 3)
    whole = model(encoded)
    bag = model.grams.embed(model.grams.encode(model.token_ids(inputs))).sum(dim=1)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(pooled[0][:, -8:], bag, rtol=0, atol=1e-6)
    torch.testing.assert_close(pooled[0][0, :-8], pooled[0][1, :-8], rtol=0, atol=1e-6, msg="the same start")
    assert not torch.allclose(bag[0], bag[1])
    tokens = model.token_ids(inputs)  # type: ignore[operator]
    vectors = model.token_vectors(tokens)  # type: ignore[operator]
    torch.testing.assert_close(model.from_vectors(vectors, tokens), whole, rtol=0, atol=1e-6)  # type: ignore[operator]
    hidden = encoded.clone()
    hidden[:, :, 1:] = hidden[:, :, 1:].clamp_max(1)
    model(hidden)
    assert not pooled[-1][:, -8:].any(), "runs that are hidden weigh nothing"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_weights_and_vocabulary_load_into_a_fresh_module(name: str) -> None:
    model = classifier(name)
    fresh = build(name, columns=(ENGLISH,), num_outputs=3, params={"dim": 8, "vocab_size": 60})
    fresh.load_state_dict(model.state_dict())
    inputs = texts(["the cat", "dog!"])
    assert torch.equal(fresh.eval()(tensors(fresh, inputs)), model(tensors(model, inputs)))


def test_defaults_follow_the_language_and_wrong_columns_are_refused() -> None:
    assert build("gru", columns=(CHINESE,), num_outputs=2).encoder.kind == "char"  # type: ignore[union-attr]
    assert build("gru", columns=(ENGLISH,), num_outputs=2).encoder.kind == "word"  # type: ignore[union-attr]
    with pytest.raises(ModelError, match="age \\(numeric\\)"):
        build("gru", columns=(Column("age", "numeric"),), num_outputs=2)
    with pytest.raises(ModelError, match="widht"):
        build("lstm", columns=(ENGLISH,), num_outputs=2, params={"widht": 3})
    with pytest.raises(ModelError) as caught:
        build("lstm", columns=(ENGLISH,), num_outputs=2, params={"dim": 0, "num_grams": -1, "dropout": 1.0})
    assert len(caught.value.problems) == 3
    with pytest.raises(ModelError, match="pool is 'sum'"):
        build("transformer", columns=(ENGLISH,), num_outputs=2, params={"pool": "sum"})


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_classifier_learns(name: str) -> None:
    """One word in ten tells the wrong class, so 0.9 is what can be reached; a guess gives 0.5."""
    data = small_texts(600, language="zh" if name == "gru" else "en")
    recipe = text_recipe(data, model=name, params={"dim": 16, "vocab_size": 100, "num_grams": 0})
    model = recipe.fit(data.splits["train"], data, 0).model
    test = data.splits["test"]
    assert (model.outputs(test.inputs).argmax(axis=1) == test.labels).mean() > 0.8


def test_tables_are_no_texts() -> None:
    with pytest.raises(ModelError, match="holds images"):
        text_recipe(small_images(40))
