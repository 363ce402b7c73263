"""Raw text to token ids, and a classifier around any body that reads embedded tokens; encoding is inside."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from assay.errors import MissingExtraError, ModelError, Problem
from assay.models import filled
from assay.models.attention import AdditiveAttention
from assay.models.grams import GramBag
from assay.models.kernels import Switched
from assay.values import Array, Column, Split

Kind = Literal["word", "bpe", "wordpiece", "char"]
KINDS = ("word", "bpe", "wordpiece", "char")
POOLS = ("mean_max", "attention", "last")
PADDING, UNKNOWN = 0, 1
SPECIAL = ("[PAD]", "[UNK]")
# A word is letters and digits with inner apostrophes; any other mark is a token of its own.
WORDS = r"[\p{L}\p{N}\p{M}]+(?:['’][\p{L}\p{N}\p{M}]+)*|[^\s\p{L}\p{N}\p{M}]"
CHARACTERS = r"\S"
START = 0.02  # standard deviation of embeddings before training
GRAM_DIM = 8  # numbers that stand for a run of tokens


class TextEncoder(nn.Module):
    """Raw texts `(N,)` to token ids `(N, L)` int64: 0 is padding, 1 unknown; fitted on training texts only.

    `kind`: "word" and "char" are tables of the most frequent; "bpe" and "wordpiece" merge frequent pairs (Sennrich et
    al. 2016, section 3.2; Schuster and Nakajima 2012). Text is brought to Unicode form NFKC and, with `lowercase`, to
    lower case; tokens after the first `max_length` are dropped; a text without any token is one unknown token.
    The fitted table is JSON in the uint8 buffer `table`: data, never a regular expression or code, so that a file
    brings no behaviour. Limits: white space is lost; "char" sees no word boundary.
    Raises ModelError when used unfitted or with a damaged table; MissingExtraError without the `tokenizers` package.
    """

    table: Tensor

    def __init__(
        self, *, kind: Kind = "word", vocab_size: int = 8000, max_length: int = 128, lowercase: bool = True
    ) -> None:
        super().__init__()
        wrong = [
            Problem(f"{name} is {value!r}", allowed)
            for name, value, fine, allowed in (
                ("kind", kind, kind in KINDS, ", ".join(KINDS)),
                ("vocab_size", vocab_size, vocab_size > len(SPECIAL), f"{len(SPECIAL) + 1} or more"),
                ("max_length", max_length, max_length >= 1, "1 or more"),
            )
            if not fine
        ]
        if wrong:
            raise ModelError(wrong)
        self.kind, self.vocab_size, self.max_length, self.lowercase = kind, vocab_size, max_length, lowercase
        self.register_buffer("table", torch.zeros(0, dtype=torch.uint8))
        self._ready: Any = None  # the tokenizer, built from the table at first use; forgotten when it is loaded anew

    def fit(self, texts: Array) -> None:
        """Learn the table from training texts `(N,)`. Raises ModelError when they hold no token at all."""
        tokenizer = self._tokenizer({"tokens": list(SPECIAL), "merges": []})
        cleaned = [_clean(text) for text in texts.tolist()]
        tokenizer.train_from_iterator(cleaned, self._trainer(tokenizer, cleaned))
        found = json.loads(tokenizer.to_str())["model"]
        tokens = sorted(found["vocab"], key=found["vocab"].__getitem__)
        if len(tokens) <= len(SPECIAL):
            raise ModelError(Problem("the training texts hold no token", "at least one text that is not blank"))
        content = json.dumps({"tokens": tokens, "merges": found.get("merges", [])}, ensure_ascii=False)
        self.table = torch.from_numpy(np.frombuffer(content.encode(), dtype=np.uint8).copy()).to(self.table.device)
        self._ready = None

    def spans(self, texts: Array) -> list[list[tuple[int, int]]]:
        """Where each token of texts `(N,)` stands: its first character and the one after its last."""
        found = self._tool().encode_batch([_clean(text) for text in texts.tolist()])
        return [[(int(start), int(end)) for start, end in one.offsets] or [(0, 0)] for one in found]

    def forward(self, texts: Array) -> Tensor:
        """Texts `(N,)` to ids `(N, L)` on the CPU; L is the longest of them, at least 1."""
        found = [
            one.ids or [UNKNOWN] for one in self._tool().encode_batch_fast([_clean(text) for text in texts.tolist()])
        ]
        lengths = np.array([len(ids) for ids in found], dtype=np.int64)
        tokens = np.zeros((len(found), int(lengths.max(initial=1))), dtype=np.int64)
        if found:
            tokens[np.arange(tokens.shape[1]) < lengths[:, None]] = np.concatenate(found)
        return torch.from_numpy(tokens)

    def tokens(self) -> list[str]:
        """What each id stands for, by id."""
        return list(self._content()["tokens"])

    def _tool(self) -> Any:
        if self._ready is None:
            self._ready = self._tokenizer(self._content())
        return self._ready

    def _trainer(self, tokenizer: Any, texts: list[str]) -> Any:
        trainers = _library().trainers
        common: dict[str, Any] = {"vocab_size": self.vocab_size, "show_progress": False}
        if self.kind in ("word", "char"):
            return trainers.WordLevelTrainer(**common, special_tokens=list(SPECIAL))
        counts: Counter[str] = Counter()
        for text in texts:
            pieces = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
            counts.update(letter for piece, _ in pieces for letter in piece)
        # The library numbers letters in the order of a random hash where they are equally frequent, or inside a word;
        # merges of equal count then come out in another order each time. So all of them are numbered here.
        most = sorted(counts, key=lambda letter: (-counts[letter], letter))[: max(1, self.vocab_size // 3)]
        common |= {"initial_alphabet": sorted(most), "limit_alphabet": len(most)}
        if self.kind == "bpe":
            return trainers.BpeTrainer(**common, special_tokens=list(SPECIAL))
        return trainers.WordPieceTrainer(
            **common, special_tokens=[*SPECIAL, *(f"##{letter}" for letter in sorted(most))]
        )

    def _content(self) -> dict[str, Any]:
        if not len(self.table):
            raise ModelError(Problem("the text encoder is not fitted", next="Call fit_encoding, or load its weights"))
        try:
            content = json.loads(bytes(self.table.cpu().numpy()))
            tokens, merges = content["tokens"], content["merges"]
            fine = all(type(token) is str for token in tokens) and all(
                len(pair) == 2 and type(pair[0]) is str and type(pair[1]) is str for pair in merges
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(Problem(f"the text encoder's table is damaged: {error}")) from error
        if not fine or not len(SPECIAL) < len(set(tokens)) == len(tokens) <= self.vocab_size:
            allowed = f"up to {self.vocab_size} different tokens, and pairs of them"
            raise ModelError(Problem("the text encoder's table is damaged", allowed))
        return {"tokens": tokens, "merges": merges}

    def _tokenizer(self, content: dict[str, Any]) -> Any:
        library = _library()
        vocabulary = {token: code for code, token in enumerate(content["tokens"])}
        unknown = SPECIAL[UNKNOWN]
        if self.kind == "bpe":
            merges = [tuple(pair) for pair in content["merges"]]
            model = library.models.BPE(vocabulary, merges, unk_token=unknown)
        elif self.kind == "wordpiece":
            model = library.models.WordPiece(vocabulary, unk_token=unknown)
        else:
            model = library.models.WordLevel(vocabulary, unk_token=unknown)
        tokenizer = library.Tokenizer(model)
        steps = [library.normalizers.NFKC(), *([library.normalizers.Lowercase()] if self.lowercase else [])]
        tokenizer.normalizer = library.normalizers.Sequence(steps)
        pattern = library.Regex(CHARACTERS if self.kind == "char" else WORDS)
        tokenizer.pre_tokenizer = library.pre_tokenizers.Split(pattern, "removed", invert=True)
        tokenizer.enable_truncation(self.max_length)
        return tokenizer

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        stored = state_dict.get(prefix + "table")
        if isinstance(stored, Tensor) and stored.dtype == torch.uint8 and stored.ndim == 1:
            self.table = torch.zeros_like(stored, device=self.table.device)  # tables have any length
        self._ready = None
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_ready": None}  # copies build their own tokenizer


@dataclass(frozen=True)
class TextOptions:
    """How a text model reads: tokens, embedding width, and the dropout of embeddings and of what the head reads.

    The defaults of a language are in `text_options`. What lies between, the body, has a `layer_dropout` of its own.
    """

    kind: Kind = "word"
    vocab_size: int = 16_000
    max_length: int = 128
    lowercase: bool = True
    num_grams: int = 0  # runs of tokens that a bag beside the body knows (see `GramBag`); 0 = no bag
    longest: int = 2  # tokens of the longest run
    body_length: int = 0  # tokens that the body reads, the first; 0 = all that there are
    dim: int = 32
    dropout: float = 0.5

    def __post_init__(self) -> None:
        wrong = [
            Problem(f"{name} is {value}", allowed)
            for name, value, fine, allowed in (
                ("dim", self.dim, self.dim >= 1, "1 or more"),
                ("num_grams", self.num_grams, self.num_grams >= 0, "0 or more"),
                ("body_length", self.body_length, self.body_length >= 0, "0 or more"),
                ("dropout", self.dropout, 0 <= self.dropout < 1, "0 to below 1"),
            )
            if not fine
        ]
        if wrong:
            raise ModelError(wrong)


# Characters say little one by one and texts have many: runs of three carry what words do, and the body reads the start.
LANGUAGES: dict[str, dict[str, Any]] = {
    "zh": {
        "kind": "char",
        "vocab_size": 8000,
        "max_length": 256,
        "body_length": 64,
        "num_grams": 131_072,
        "longest": 3,
    },
}


def language_of(columns: Sequence[Column]) -> str:
    """The language of a text column. Raises ModelError unless it is the only column."""
    if len(columns) != 1 or columns[0].kind != "text":
        found = ", ".join(f"{column.name} ({column.kind})" for column in columns)
        raise ModelError(Problem(f"a text model was given the columns {found or 'none'}", "one column of kind text"))
    return columns[0].language


def text_options(columns: Sequence[Column], params: dict[str, Any]) -> TextOptions:
    """Take what belongs to reading out of `params`, and fill in the defaults of the column's language.

    Raises ModelError unless the only column is a text.
    """
    language = language_of(columns)
    given = {name: params.pop(name) for name in TextOptions.__dataclass_fields__ if name in params}
    return TextOptions(**{**LANGUAGES.get(language, {}), **given})


def resolve_text(columns: Sequence[Column], params: Mapping[str, Any], *, rest: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter of a text model: how it reads by its column's language, and `rest`, defaults of all others.

    Raises ModelError unless the only column is a text, and for names that are neither.
    """
    given = dict(params)
    options = asdict(text_options(columns, given))
    return filled(params, {**options, **rest})


class Body(Protocol):
    """What reads embedded tokens: a module with the width of its states, and the state that stands for the text."""

    num_outputs: int

    def __call__(self, embedded: Tensor, seen: Tensor) -> Tensor:
        """Embedded tokens `(N, L, D)` and the mask `(N, L)` to states `(N, L, num_outputs)`."""
        ...

    def last(self, states: Tensor, seen: Tensor) -> Tensor:
        """One state a text, `(N, num_outputs)`."""
        ...


class TextClassifier(Switched):
    r"""Token ids `(N, L)` to outputs `(N, K)`: embedding, `body`, pooling over tokens, one linear `head`.

    `body` maps embedded tokens `(N, L, D)` and the mask `(N, L)` to states $h_t$. `pool` "last" is the state at the
    last token (and, in both directions, at the first); "mean_max" the mean and the largest value of $h_t$ over tokens,
    and "attention" the additive attention of the last state over all of them, both beside the bag
    $\sum_t e_t / \sqrt{L}$ of embeddings, which is what a linear model of words sees. With `num_grams` the head reads
    the bag of runs of tokens too (`GramBag`; wide and deep: Cheng et al. 2016, section 3), without dropout.
    Call `fit_encoding` before training. Limits: a row's answer depends on neither its padding nor other rows, up to
    rounding. Raises ModelError for sizes that make no network.
    """

    def __init__(self, body: Body, *, num_outputs: int, options: TextOptions, pool: str = "mean_max") -> None:
        super().__init__()
        if pool not in POOLS:
            raise ModelError(Problem(f"pool is {pool!r}", ", ".join(POOLS)))
        self.encoder = TextEncoder(
            kind=options.kind,
            vocab_size=options.vocab_size,
            max_length=options.max_length,
            lowercase=options.lowercase,
        )
        self.pool, self.body_length, dim = pool, options.body_length, options.dim
        self.embedding = nn.Embedding(options.vocab_size, dim, padding_idx=PADDING)
        nn.init.normal_(self.embedding.weight, std=START)  # a rare word adds little until it was trained on
        nn.init.zeros_(self.embedding.weight[PADDING])
        self.grams = None
        if options.num_grams:
            self.grams = GramBag(options.vocab_size, longest=options.longest, num_grams=options.num_grams, dim=GRAM_DIM)
        self.drop = nn.Dropout(options.dropout)
        self.body, width = body, body.num_outputs
        self.attention = AdditiveAttention(width, width, num_hidden=width) if pool == "attention" else None
        pooled = width if pool == "last" else 2 * width + dim
        self.head = nn.Linear(pooled + (GRAM_DIM if self.grams else 0), num_outputs)

    def fit_encoding(self, split: Split) -> None:
        """Fit the tables of tokens, and of runs, on the texts of this split only."""
        self.encoder.fit(split.inputs)
        if self.grams is not None:
            self.grams.fit(self.encoder(split.inputs))

    def encode(self, inputs: Array) -> Tensor:
        """Texts `(N,)` to token ids `(N, L)`; with a bag `(N, L, 1 + S)`, and of the runs of S sizes that begin."""
        tokens = self.token_ids(inputs)
        return tokens if self.grams is None else torch.cat([tokens[:, :, None], self.grams.placed(tokens)], dim=2)

    def embed(self, encoded: Tensor) -> Tensor:
        """What `encode` gave to embeddings `(N, L, D)`: of the token and, beside it, of the runs that it begins."""
        if self.grams is None:
            vectors: Tensor = self.embedding(encoded)
            return vectors
        runs = encoded[:, :, 1:]
        bag = self.grams.embed(runs.flatten(1)).view(*runs.shape, GRAM_DIM).sum(dim=2)
        return torch.cat([self.embedding(encoded[:, :, 0]), bag], dim=2)

    def from_embeddings(self, embedded: Tensor, encoded: Tensor) -> Tensor:
        """Embeddings `(N, L, D)` of what `encode` gave to outputs `(N, K)`."""
        return self.from_vectors(embedded, encoded if self.grams is None else encoded[:, :, 0])

    def token_ids(self, inputs: Array) -> Tensor:
        """Texts `(N,)` to token ids `(N, L)`."""
        tokens: Tensor = self.encoder(inputs)
        return tokens

    def token_vectors(self, tokens: Tensor) -> Tensor:
        """Token ids `(N, L)` to embeddings `(N, L, D)`; here a run is shared by its tokens."""
        vectors: Tensor = self.embedding(tokens)
        return vectors if self.grams is None else torch.cat([vectors, self.grams.by_token(tokens)], dim=2)

    def from_vectors(self, vectors: Tensor, tokens: Tensor) -> Tensor:
        """Embeddings `(N, L, D)` of tokens `(N, L)` to outputs `(N, K)`."""
        read, dim = self.body_length or vectors.shape[1], self.embedding.embedding_dim
        seen, embedded = seen_of(tokens[:, :read]), vectors[:, :read, :dim]
        pooled = self.drop(self._pool(self.body(self.drop(embedded), seen), embedded, seen))
        bag = vectors[:, :, dim:].sum(dim=1)  # no numbers without runs
        outputs: Tensor = self.head(torch.cat([pooled, bag], dim=1))
        return outputs

    def token_spans(self, inputs: Array) -> list[list[tuple[int, int]]]:
        """Where each token stands in its text; see `ByToken`."""
        return self.encoder.spans(inputs)

    def forward(self, encoded: Tensor) -> Tensor:
        """What `encode` gave to outputs `(N, K)`."""
        if self.kernel == "fused":
            tokens = encoded if self.grams is None else encoded[:, :, 0]
            encoded = encoded[:, : max(1, int(seen_of(tokens).sum(dim=1).amax())) if len(tokens) else 1]
        return self.from_embeddings(self.embed(encoded), encoded)

    def _pool(self, states: Tensor, embedded: Tensor, seen: Tensor) -> Tensor:
        if self.pool == "last":
            return self.body.last(states, seen)
        mask, num_tokens = seen[:, :, None], seen.sum(dim=1, keepdim=True).clamp_min(1)
        # A bag of tokens beside the states: over the root of the length, as tf-idf has it, not over the length.
        bag = (embedded * mask).sum(dim=1) / num_tokens.sqrt()
        if self.attention is not None:
            last = self.body.last(states, seen)
            context, _ = self.attention(last[:, None], states, seen)
            return torch.cat([context[:, 0], last, bag], dim=1)
        mean = (states * mask).sum(dim=1) / num_tokens
        largest = states.masked_fill(~mask, torch.finfo(states.dtype).min).amax(dim=1)
        return torch.cat([mean, torch.where(seen.any(dim=1, keepdim=True), largest, 0.0), bag], dim=1)


def seen_of(tokens: Tensor) -> Tensor:
    """The mask `(N, L)` of token ids `(N, L)`: True up to the last one that is not padding.

    >>> seen_of(torch.tensor([[5, 0, 7, 0], [0, 0, 0, 0]])).int().tolist()
    [[1, 1, 1, 0], [0, 0, 0, 0]]
    """
    # The last such place and a comparison, not a cumulative maximum, which ONNX does not have.
    places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    last = (tokens.ne(PADDING) * places).amax(dim=1, keepdim=True)
    return places <= last


def _library() -> Any:
    # Set before the first use: its threads and a forked worker do not go together, and short texts need none.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtraError("tokenizers", "text") from error
    return tokenizers


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate is no character
