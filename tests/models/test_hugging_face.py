from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assay.errors import ModelError, UnsafeFileError
from assay.models import build, tensors
from assay.models.adapters.hugging_face import load_hugging_face
from assay.models.store import load_system, read_manifest, save_system
from assay.parts import texts
from assay.tasks import Argmax, Classification, Regression, task_of
from assay.values import Column, Data, Groups, Model, Split, System

missing = [name for name in ("transformers", "tokenizers", "PIL") if find_spec(name) is None]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing), reason=f"{missing} not installed")]
os.environ["HF_HUB_OFFLINE"] = "1"
transformers: Any = None  # importing it takes seconds, which only the slow tests should pay

CLASSES = ("bad", "good", "so-so")
TASK = Classification(CLASSES)
TEXT = (Column("text", "text", language="en"),)
IMAGE = (Column("image", "image", low=0, high=255, shape=(1, 8, 8)),)
REVIEWS = texts(["good film", "bad", "", "a film so good , unseen words too", "film film film"])
LABELS = {0: "good", 1: "so-so", 2: "bad"}


@pytest.fixture(autouse=True)
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(autouse=True, scope="module")
def _transformers() -> Iterator[None]:
    global transformers  # noqa: PLW0603
    transformers = import_module("transformers")
    transformers.utils.logging.set_verbosity(50)
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


def save_tokenizer(folder: Path, padding: int = 0) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[CLS]", "[SEP]", "[UNK]", "good", "bad", "film", "a", "so"]
    words.insert(padding, "[PAD]")
    vocabulary = {word: code for code, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(folder)


def bert(folder: Path, **changes: Any) -> Path:
    sizes = {"vocab_size": 9, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 24, "max_position_embeddings": 12, "num_labels": 3, "id2label": LABELS}
    torch.manual_seed(0)
    transformers.BertForSequenceClassification(transformers.BertConfig(**sizes | changes)).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    sizes = {"image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": 16, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "intermediate_size": 24, "num_labels": 3, "id2label": LABELS}
    torch.manual_seed(1)
    transformers.ViTForImageClassification(transformers.ViTConfig(**sizes)).save_pretrained(folder)
    scaling = {"do_resize": True, "size": {"height": 8, "width": 8}, "rescale_factor": 1 / 255, "resample": 2}
    scaling |= {"image_mean": [0.4], "image_std": [0.3], "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(scaling))
    return folder


@pytest.fixture
def copied(bert_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert_folder, tmp_path / "copy"))


def peer(folder: Path, reviews: Any) -> np.ndarray:
    """What transformers itself answers, in the order of its own labels."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    batch = tokenizer(list(reviews), padding=True, truncation=True, max_length=12, return_tensors="pt")
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.numpy()


def test_text_logits_are_those_of_transformers(bert_folder: Path) -> None:
    model = load_hugging_face(bert_folder, TEXT, task=TASK, max_length=64)
    assert isinstance(model, Model)
    assert model.offers == {"query", "gradient", "meter"}
    assert model.architecture is not None
    assert model.architecture.params["max_length"] == 12  # the positions there are
    expected = peer(bert_folder, REVIEWS.tolist())[:, [2, 0, 1]]  # bad, good, so-so
    np.testing.assert_allclose(model.outputs(REVIEWS), expected, atol=1e-5)
    np.testing.assert_allclose(model.outputs(REVIEWS[1:2]), expected[1:2], atol=1e-5)  # nothing of other rows
    long = texts(["film " * 50])
    np.testing.assert_allclose(model.outputs(long), peer(bert_folder, long.tolist())[:, [2, 0, 1]], atol=1e-5)


def test_another_padding_number_and_positions_from_two(tmp_path: Path) -> None:
    """RoBERTa: padding is 1, 0 is a word, and positions start after the padding's own."""
    sizes = {"vocab_size": 9, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "pad_token_id": 1}
    sizes |= {"intermediate_size": 24, "max_position_embeddings": 14, "num_labels": 3, "id2label": LABELS}
    torch.manual_seed(2)
    transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**sizes)).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, padding=1)
    model = load_hugging_face(tmp_path, TEXT, task=TASK)
    assert "gradient" in model.offers
    np.testing.assert_allclose(model.outputs(REVIEWS), peer(tmp_path, REVIEWS.tolist())[:, [2, 0, 1]], atol=1e-5)


def test_a_model_that_needs_ids_offers_no_gradient(tmp_path: Path) -> None:
    """GPT-2 finds the last word by its id: from word vectors alone it would read the padding."""
    sizes = {"vocab_size": 9, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 12, "pad_token_id": 0}
    sizes |= {"num_labels": 3, "id2label": LABELS, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(3)
    transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**sizes)).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    model = load_hugging_face(tmp_path, TEXT, task=TASK)
    assert model.offers == {"query", "meter"}
    np.testing.assert_allclose(model.outputs(REVIEWS), peer(tmp_path, REVIEWS.tolist())[:, [2, 0, 1]], atol=1e-5)


def test_gradients_at_the_embeddings(bert_folder: Path) -> None:
    """Against differences: the same number from a step along one coordinate of one word."""
    module: Any = load_hugging_face(bert_folder, TEXT, task=TASK).module
    tokens = tensors(module, REVIEWS[:1])
    embedded = module.embed(tokens).detach().double().requires_grad_(True)
    module = module.double()
    (gradient,) = torch.autograd.grad(module.from_embeddings(embedded, tokens)[0, 1], embedded)
    step = torch.zeros_like(embedded)
    step[0, 1, 3] = 1e-5
    rise = module.from_embeddings(embedded + step, tokens) - module.from_embeddings(embedded - step, tokens)
    assert gradient[0, 1, 3].item() == pytest.approx(rise[0, 1].item() / 2e-5, rel=1e-5)
    assert gradient.abs().sum() > 0


def test_image_logits_are_those_of_transformers(vit_folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8)).astype(np.uint8)
    model = load_hugging_face(vit_folder, IMAGE, task=TASK)
    assert model.offers == {"query", "gradient", "meter"}
    theirs = transformers.AutoModelForImageClassification.from_pretrained(vit_folder).eval()
    scaled = torch.from_numpy((pixels.astype(np.float32) / 255 - 0.4) / 0.3)
    with torch.no_grad():
        expected = theirs(pixel_values=scaled).logits.numpy()[:, [2, 0, 1]]
    np.testing.assert_allclose(model.outputs(pixels), expected, atol=1e-5)
    np.testing.assert_allclose(model.outputs(pixels.astype(np.float32)), expected, atol=1e-5)
    raw = torch.from_numpy(pixels.astype(np.float32)).requires_grad_(True)
    (gradient,) = torch.autograd.grad(model.module(raw)[:, 0].sum(), raw)
    assert gradient.shape == raw.shape
    assert gradient.abs().sum() > 0


def test_pictures_of_another_size_are_resized(vit_folder: Path) -> None:
    """A picture of one colour is that colour in any size; transformers' own resizing agrees to a grey value."""
    from PIL import Image

    model = load_hugging_face(vit_folder, (Column("image", "image", shape=(1, 20, 12)),), task=TASK)
    flat = np.full((1, 1, 20, 12), 130, dtype=np.uint8)
    np.testing.assert_allclose(model.outputs(flat), model.outputs(np.full((1, 1, 8, 8), 130, np.uint8)), atol=1e-5)
    slope = np.arange(240, dtype=np.uint8).reshape(1, 1, 20, 12)
    by_pillow = np.asarray(Image.fromarray(slope[0, 0]).resize((8, 8), 2))[None, None]
    np.testing.assert_allclose(model.outputs(slope), model.outputs(by_pillow), atol=0.02)


def test_a_saved_system_is_built_again(bert_folder: Path, vit_folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 1, 8, 8)).astype(np.uint8)
    for folder, columns, inputs in ((bert_folder, TEXT, REVIEWS), (vit_folder, IMAGE, pixels)):
        model = load_hugging_face(folder, columns, task=TASK)
        about = model.architecture
        assert about is not None
        params = json.loads(json.dumps(about.params))
        again = build(about.name, columns=columns, num_outputs=3, params=params)
        again.load_state_dict(model.module.state_dict(), assign=True)
        answers = again.eval()(tensors(again, inputs)).detach().numpy()
        np.testing.assert_allclose(answers, model.outputs(inputs), atol=1e-6)
        with pytest.raises(ModelError, match="answers 3 classes"):
            build(about.name, columns=columns, num_outputs=2, params=params)


def test_a_saved_system_comes_back_and_names_transformers_own_defaults(
    copied: Path, vit_folder: Path, tmp_path: Path
) -> None:
    """A config.json may leave out what was a default when it was written; the folder of a system does not."""
    config = json.loads((copied / "config.json").read_text())
    assert config.pop("hidden_act") == "gelu"
    (copied / "config.json").write_text(json.dumps(config))
    pixels = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8)).astype(np.uint8)
    reviews = REVIEWS[[0, 1, 2, 3, 4, 0]]
    nobody = Groups(np.zeros((6, 0), np.int16), ())
    for folder, columns, inputs in ((copied, TEXT, reviews), (vit_folder, IMAGE, pixels)):
        rows = Split(inputs, np.arange(6) % 3, nobody, np.arange(1, 7))
        data = Data("few", columns, "mood", (), dict.fromkeys(("train", "validation", "test"), rows), CLASSES)
        task = task_of(data)
        system = System("theirs", load_hugging_face(folder, columns, task=task), data, task, Argmax())
        saved = save_system(system, tmp_path / columns[0].kind)
        about = read_manifest(saved)["model"]
        if folder == copied:
            assert "hidden_act" not in about["architecture"]["params"]["config"]
            assert about["resolved"]["config"]["hidden_act"] == "gelu"
        assert "transformers_version" not in about["resolved"]["config"]
        loaded = load_system(saved, data)
        assert loaded.digest == system.digest
        assert loaded.offers == system.offers
        assert np.array_equal(loaded.model.outputs(inputs), system.model.outputs(inputs))


def test_labels_are_matched_or_listed(bert_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"labels are good, so-so, bad, the data's classes no, yes"):
        load_hugging_face(bert_folder, TEXT, task=Classification(("no", "yes")))
    german = Classification(("gut", "schlecht", "so-so"))
    named = load_hugging_face(bert_folder, TEXT, task=german, labels={"good": "gut", "bad": "schlecht"})
    plain = load_hugging_face(bert_folder, TEXT, task=TASK)
    np.testing.assert_array_equal(named.outputs(REVIEWS), plain.outputs(REVIEWS)[:, [1, 0, 2]])
    assert named.digest != plain.digest
    capitals = load_hugging_face(bert_folder, TEXT, task=Classification(("Bad", "Good", "So-So")))
    np.testing.assert_array_equal(capitals.outputs(REVIEWS), plain.outputs(REVIEWS))
    unnamed = bert(tmp_path, id2label={i: f"LABEL_{i}" for i in range(3)})
    by_place = load_hugging_face(unnamed, TEXT, task=TASK).outputs(REVIEWS)
    np.testing.assert_allclose(by_place, peer(unnamed, REVIEWS.tolist()), atol=1e-5)


def test_one_number_is_a_regression(tmp_path: Path) -> None:
    folder = bert(tmp_path, num_labels=1, id2label={0: "LABEL_0"})
    model = load_hugging_face(folder, TEXT, task=Regression())
    assert model.outputs_are == "values"
    np.testing.assert_allclose(model.outputs(REVIEWS), peer(folder, REVIEWS.tolist()), atol=1e-5)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_code_in_a_folder_is_refused(copied: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        before = (copied / name).read_text()
        edit(copied / name, auto_map={"AutoModel": "modeling_mine.Mine"})
        (copied / "modeling_mine.py").write_text("raise SystemExit('was run')")
        with pytest.raises(UnsafeFileError, match="code of its own") as caught:
            load_hugging_face(copied, TEXT, task=TASK)
        assert len(str(caught.value).splitlines()) == 1
        (copied / name).write_text(before)
    load_hugging_face(copied, TEXT, task=TASK)  # code that nothing asks for is not run


def test_pickled_weights_are_refused_unopened(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(UnsafeFileError, match=r"pytorch_model.bin was not opened.*safe_serialization"):
        load_hugging_face(copied, TEXT, task=TASK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer cannot be read"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
        (lambda folder: edit(folder / "config.json", model_type="bert2"), "'bert2' is not one of transformers"),
        (lambda folder: edit(folder / "config.json", architectures=["BertModel"]), "holds BertModel"),
        (lambda folder: edit(folder / "config.json", hidden_size=32), "fitting weights"),
        (lambda folder: edit(folder / "config.json", num_hidden_layers=3), "no fitting weights for bert.encoder"),
    ],
)
def test_every_fault_is_one_sentence(copied: Path, change: Any, message: str) -> None:
    change(copied)
    with pytest.raises(ModelError, match=message) as caught:
        load_hugging_face(copied, TEXT, task=TASK).outputs(REVIEWS)
    assert len(str(caught.value).splitlines()) == 1


def test_other_inputs_are_refused(bert_folder: Path, vit_folder: Path) -> None:
    with pytest.raises(ModelError, match="cannot read a table"):
        load_hugging_face(bert_folder, (Column("age", "numeric"),), task=TASK)
    with pytest.raises(ModelError, match=r"preprocessor_config.json"):
        load_hugging_face(bert_folder, IMAGE, task=TASK)
    with pytest.raises(ModelError, match="images have 3 channels"):
        load_hugging_face(vit_folder, (Column("image", "image", shape=(3, 8, 8)),), task=TASK)
    with pytest.raises(ModelError, match="not a folder on this machine"):
        load_hugging_face("bert-base-uncased", TEXT, task=TASK)


def test_digests_are_verified_before_anything_is_parsed(copied: Path) -> None:
    known = {name: sha256((copied / name).read_bytes()).hexdigest() for name in ("config.json", "model.safetensors")}
    load_hugging_face(copied, TEXT, task=TASK, sha256=known)
    raw = bytearray((copied / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (copied / "model.safetensors").write_bytes(raw)
    with pytest.raises(ModelError, match="not the file whose digest is known"):
        load_hugging_face(copied, TEXT, task=TASK, sha256=known)


def test_shards_outside_the_folder_are_refused(copied: Path) -> None:
    index = copied / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    with pytest.raises(ModelError, match="names"):
        load_hugging_face(copied, TEXT, task=TASK)
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
    load_hugging_face(copied, TEXT, task=TASK)
