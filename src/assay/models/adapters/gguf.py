"""A language model in a GGUF file as a classifier without training: which answer would it write next?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from assay.errors import MissingExtraError, ModelError, Problem
from assay.models.adapters._gguf_file import GgufFile, parse_gguf
from assay.models.adapters._llama import Llama, LlamaSizes, Past
from assay.models.adapters.module import OutputsAre
from assay.storage import read_regular, read_verified
from assay.values import Array, digest_of

__all__ = ["GgufModel", "LanguageModel", "load_gguf", "load_language_model"]

SLOT = "{text}"
ROWS = 16  # a batch
PRE_TOKENIZERS = ("smollm", "gpt-2", "default", "qwen2", "llama-bpe")
WORDS = (  # how Llama 3 and Qwen 2 cut text before merging; the longest run of digits is their only difference
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NAMES = {  # ours: theirs
    **{"attention_norm": "attn_norm", "query": "attn_q", "key": "attn_k", "value": "attn_v", "out": "attn_output"},
    **{"norm": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"},
}


@dataclass(frozen=True)
class LanguageModel:
    """A decoder with its tokenizers. `plain` reads text only: what looks like a control word in it is just text."""

    llama: Llama
    tokenizer: Any
    plain: Any
    start: tuple[int, ...]  # the token that every text begins with, if the model has one
    context: int
    sha256: str
    num_bytes: int

    def losses(self, text: str) -> Array:
        """The loss of each token after the first, `(T - 1,)` in nats; perplexity is the exponential of their mean."""
        ids = torch.tensor([[*self.start, *self.plain.encode(text).ids]])
        if ids.shape[1] < 2:
            raise ModelError(Problem("a text of one token has no losses", "two tokens or more"))
        with torch.inference_mode():
            states, _ = self.llama(ids, torch.ones_like(ids, dtype=torch.bool))
            logits = self.llama.head(states[0, :-1])
            return torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").numpy()

    def next_words(self, text: str, num: int = 1) -> str:
        """The likeliest `num` tokens after a text, one after the other."""
        past, found = None, []
        ids = torch.tensor([[*self.start, *self.tokenizer.encode(text).ids]])
        with torch.inference_mode():
            for _ in range(num):
                states, past = self.llama(ids, torch.ones_like(ids, dtype=torch.bool), past)
                ids = self.llama.head(states[:, -1]).argmax(dim=1, keepdim=True)
                found.append(int(ids))
        return str(self.tokenizer.decode(found))


class GgufModel:
    r"""A language model as a classifier: texts `(N,)` to $z_{ik} = \log p(\text{answer}_k \mid \text{prompt}(x_i))$.

    The log-probability of an answer is the sum over its tokens. With `neutral`, $z_{ik} - \log p(\text{answer}_k \mid
    \text{prompt}(\text{neutral}))$: an answer that is likely after any text gains nothing by that (Zhao et al. 2021,
    "Calibrate Before Use", section 5, in its additive form). The prompt before the text is read once. Offers query
    and meter. Limits: answers depend on the wording; texts are cut after `max_tokens`; the prompt's parts and the
    text are cut into tokens apart, so that no word joins across their border.
    """

    def __init__(
        self,
        language: LanguageModel,
        *,
        prompt: str,
        answers: Sequence[str],
        neutral: str | None = None,
        max_tokens: int = 256,
    ) -> None:
        if prompt.count(SLOT) != 1:
            raise ModelError(Problem(f"the prompt {prompt!r}", f"one {SLOT}, where the text goes"))
        before, after = prompt.split(SLOT)
        self.space = before[len(before.rstrip(" ")) :]  # belongs to the text's first word
        self.language, self.max_tokens = language, max_tokens
        self.answers = [language.plain.encode(answer).ids for answer in answers]
        if len(set(map(tuple, self.answers))) < len(answers) or not all(self.answers) or len(answers) < 2:
            raise ModelError(Problem(f"the answers {list(answers)}", "two or more, none empty, no two the same"))
        head = [*language.start, *language.tokenizer.encode(before.rstrip(" ")).ids]
        self.after = language.tokenizer.encode(after).ids
        longest = len(head) + max_tokens + len(self.after) + max(map(len, self.answers))
        if max_tokens < 1 or longest > language.context:
            raise ModelError(Problem(f"prompt, text and answer take {longest} tokens", f"up to {language.context}"))
        self.offers = frozenset({"query", "meter"})
        self.outputs_are: OutputsAre = "logits"
        self.num_bytes: int | None = language.num_bytes
        self.digest = digest_of(["gguf", language.sha256, prompt, list(answers), neutral, max_tokens])
        self.past: Past | None = None
        with torch.inference_mode():
            if head:
                ids = torch.tensor([head])
                _, self.past = language.llama(ids, torch.ones_like(ids, dtype=torch.bool))
            self.shift = torch.zeros(len(answers)) if neutral is None else self._answers([self._ids(neutral)])[0]

    def outputs(self, inputs: Array) -> Array:
        """Texts `(N,)` to one number per answer `(N, K)` float32. Raises ModelError for inputs that are not texts."""
        if inputs.ndim != 1 or inputs.dtype.kind not in "TU":
            raise ModelError(Problem(f"inputs of type {inputs.dtype}, shape {inputs.shape}", "texts (N,)"))
        rows = [self._ids(str(text)) for text in inputs.tolist()]
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))  # rows of like length together: less padding
        found = torch.zeros(len(rows), len(self.answers))
        with torch.inference_mode():
            for start in range(0, len(rows), ROWS):
                chosen = order[start : start + ROWS]
                found[chosen] = self._answers([rows[row] for row in chosen]) - self.shift
        return found.numpy()

    def _ids(self, text: str) -> list[int]:
        return [*self.language.plain.encode(self.space + text).ids[: self.max_tokens], *self.after]

    def _answers(self, rows: list[list[int]]) -> Tensor:
        """Log-probabilities of the answers `(N, K)` after the prompt's beginning and these tokens."""
        llama = self.language.llama
        rows = [row or [0] for row in rows]
        num, length = len(rows), max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        last = torch.tensor([len(row) for row in rows]) - 1
        is_token = torch.arange(length) <= last[:, None]
        states, past = llama(ids, is_token, None if self.past is None else self.past.repeat(num))
        first = llama.head(states[torch.arange(num), last]).log_softmax(dim=1)
        found = []
        for answer in self.answers:
            total = first[:, answer[0]]
            if len(answer) > 1:
                shown = torch.tensor([answer[:-1]]).expand(num, -1)
                states, _ = llama(shown, torch.ones_like(shown, dtype=torch.bool), past)
                after = llama.head(states).log_softmax(dim=2)
                total = total + after[:, torch.arange(len(answer) - 1), answer[1:]].sum(dim=1)
            found.append(total)
        return torch.stack(found, dim=1)


def load_gguf(
    path: str | Path,
    *,
    prompt: str,
    answers: Sequence[str],
    neutral: str | None = None,
    max_tokens: int = 256,
    sha256: str | None = None,
) -> GgufModel:
    """A GGUF file as a classifier of texts: `answers` are the words it may write, one per class in the data's order.

    `prompt` holds `{text}` once, and control words of the model's chat format where it wants them. See
    `load_language_model` for what is read, verified and refused, and `GgufModel` for what is computed.
    """
    language = load_language_model(path, sha256=sha256)
    return GgufModel(language, prompt=prompt, answers=answers, neutral=neutral, max_tokens=max_tokens)


def load_language_model(path: str | Path, *, sha256: str | None = None) -> LanguageModel:
    """A decoder of the Llama type from a GGUF file, its weights opened to float32; `sha256` is verified first.

    Limits: only byte-level tokenizers (gpt2 type) and the pre-tokenizers of SmolLM, GPT-2, Llama 3 and Qwen 2; no
    stretched rotary positions. Raises ModelError for a damaged file and for what is not read; MissingExtraError
    without `tokenizers`.
    """
    path = Path(path)
    content = read_regular(path) if sha256 is None else read_verified(path, sha256)
    file = parse_gguf(content, name=str(path))
    tokenizer, plain = (_tokenizer(file.metadata, is_plain=is_plain) for is_plain in (False, True))
    begins = bool(file.metadata.get("tokenizer.ggml.add_bos_token", False))
    start = (int(_needed(file.metadata, "tokenizer.ggml.bos_token_id", int)),) if begins else ()
    context = int(_needed(file.metadata, "llama.context_length", int))
    digest = hashlib.sha256(content).hexdigest()
    return LanguageModel(_llama(file), tokenizer, plain, start, context, digest, len(content))


def _needed(metadata: Mapping[str, Any], key: str, kind: type) -> Any:
    value = metadata.get(key)
    is_size = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 32
    if not isinstance(value, kind) or (kind is int and not is_size):
        raise ModelError(Problem(f"the GGUF file says {key} is {str(value)[:40]}", f"a value of type {kind.__name__}"))
    return value


def _llama(file: GgufFile) -> Llama:
    """The decoder with its weights. Raises ModelError for another architecture, and for tensors it would not use."""
    about = file.metadata
    architecture = str(about.get("general.architecture"))
    stretched = about.get("llama.rope.scaling.type", "none")
    if architecture != "llama" or stretched != "none" or "rope_freqs.weight" in file.tensors:
        what = f"the GGUF file holds a {architecture} model" + (" with stretched positions" * (architecture == "llama"))
        raise ModelError(Problem(what, "the llama architecture with plain rotary positions"))
    names = ("block_count", "embedding_length", "feed_forward_length", "attention.head_count")
    layers, width, hidden, heads = (_needed(about, f"llama.{name}", int) for name in names)
    key_heads = int(about.get("llama.attention.head_count_kv", heads))
    head_width = int(about.get("llama.rope.dimension_count", width // max(1, heads)))
    words = file.tensors.get("token_embd.weight")
    fine = words is not None and heads and key_heads and not heads % key_heads and head_width * heads == width
    if words is None or not fine or head_width % 2 or words.shape[-1] != width:
        what = f"the sizes of the model: width {width}, {heads} heads of {head_width}, {key_heads} shared"
        raise ModelError(Problem(what, "heads times their even width is the width, and shared ones divide them"))
    epsilon = float(_needed(about, "llama.attention.layer_norm_rms_epsilon", float))
    base = float(about.get("llama.rope.freq_base", 10_000.0))
    sizes = LlamaSizes(words.shape[0], width, layers, heads, key_heads, hidden, head_width, epsilon, base)
    with torch.device("meta"):  # nothing is allocated before the file has been compared
        llama = Llama(sizes, is_tied="output.weight" not in file.tensors)
    named = {"words.weight": "token_embd.weight", "norm.weight": "output_norm.weight", "output.weight": "output.weight"}
    named |= {f"blocks.{i}.{a}.weight": f"blk.{i}.{b}.weight" for i in range(layers) for a, b in NAMES.items()}
    wanted = {name: tuple(entry.shape) for name, entry in llama.state_dict().items()}
    unused = sorted(set(file.tensors) - {named[name] for name in wanted})
    odd = [named[name] for name, shape in wanted.items() if _shape(file, named[name]) != shape]
    if unused or odd:
        raise ModelError(Problem(f"the GGUF file's tensors do not fit: {', '.join([*odd, *unused][:4])}"))
    state = {name: torch.from_numpy(file.tensor(named[name])) for name in wanted}
    llama.load_state_dict(state, assign=True)
    return llama.eval().requires_grad_(False)


def _shape(file: GgufFile, name: str) -> tuple[int, ...] | None:
    return file.tensors[name].shape if name in file.tensors else None


def _tokenizer(about: Mapping[str, Any], *, is_plain: bool) -> Any:
    """The tokenizer that the metadata describe; `is_plain` knows no control words."""
    try:
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers
    except ImportError as error:
        raise MissingExtraError("tokenizers", "text") from error
    kind, cut = about.get("tokenizer.ggml.model"), about.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or cut not in PRE_TOKENIZERS:
        raise ModelError(Problem(f"the tokenizer is {kind!r} with {cut!r}", f"gpt2 with {', '.join(PRE_TOKENIZERS)}"))
    words = _needed(about, "tokenizer.ggml.tokens", list)
    pairs = [str(merge).partition(" ")[::2] for merge in _needed(about, "tokenizer.ggml.merges", list)]
    vocabulary = {word: number for number, word in enumerate(words)}
    try:
        made = tokenizers.Tokenizer(models.BPE(vocabulary, pairs))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(Problem(f"the tokenizer cannot be built: {str(error)[:200]}")) from error
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut in ("smollm", "gpt-2", "default"))
    if cut == "smollm":
        made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level])
    elif cut in ("qwen2", "llama-bpe"):
        pattern = tokenizers.Regex(WORDS.format(digits="" if cut == "qwen2" else "{1,3}"))
        made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), level])
    else:
        made.pre_tokenizer = level
    made.decoder = decoders.ByteLevel()
    control = [word for word, kind in zip(words, about.get("tokenizer.ggml.token_type", []), strict=False) if kind == 3]
    if not is_plain:
        made.add_special_tokens([tokenizers.AddedToken(word, normalized=False, special=True) for word in control])
    return made
