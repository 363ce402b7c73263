"""A sentence encoder made elsewhere (BERT) under a head of one's own: frozen, or with its top layers tuned."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.errors import ModelError, Problem
from assay.models import from_signature, register_architecture
from assay.models.adapters._tokenizer import as_buffer, longest, token_ids, token_spans
from assay.models.attention import masked_softmax
from assay.values import Array, Column, Split

BATCH_SIZE = 64
DROPOUT = 0.1  # while tuning; what the encoder was trained with
ENCODERS: dict[str, Pretrained] = {}


@dataclass(frozen=True)
class BertSizes:
    """Sizes of a BERT encoder, as its `config.json` has them."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    hidden: int
    positions: int


@dataclass(frozen=True)
class Pretrained:
    """An encoder by name: sizes, and how to get `tokenizer.json` and the tensors under the names BERT gives them."""

    sizes: BertSizes
    open: Callable[[], tuple[bytes, Mapping[str, Tensor]]]


def register_encoder(name: str, encoder: Pretrained) -> None:
    """Make an encoder known to `sentence_encoder` as `params={"encoder": name}`."""
    ENCODERS[name] = encoder


class BertLayer(nn.Module):
    """Self-attention and a feed-forward step, each added to its input and then normalised: tokens `(T, D)` to the same.

    Products are of tokens alone; padding exists only inside attention. (Half of a batch of texts is padding.)
    """

    def __init__(self, sizes: BertSizes, dropout: float) -> None:
        super().__init__()
        self.num_heads = sizes.heads
        self.query, self.key, self.value, self.out = (nn.Linear(sizes.width, sizes.width) for _ in range(4))
        self.attention_norm = nn.LayerNorm(sizes.width, eps=1e-12)
        self.up, self.down = nn.Linear(sizes.width, sizes.hidden), nn.Linear(sizes.hidden, sizes.width)
        self.norm = nn.LayerNorm(sizes.width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, is_token: Tensor) -> Tensor:
        """`tokens (T, D)`, the true places of `is_token (N, L)` bool in order: padding is not attended to."""
        split = (*is_token.shape, self.num_heads, -1)
        parts = (_padded(part(tokens), is_token) for part in (self.query, self.key, self.value))
        query, key, value = (part.view(split).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=is_token[:, None, None, :])
        mixed = self.out(mixed.transpose(1, 2).flatten(2)[is_token])
        tokens = self.attention_norm(tokens + self.dropout(mixed))
        normed: Tensor = self.norm(tokens + self.dropout(self.down(functional.gelu(self.up(tokens)))))
        return normed

    def attention_weights(self, tokens: Tensor, is_token: Tensor) -> Tensor:
        """Of the same arguments as `forward`: how places attend to each other, `(N, heads, L, L)`."""
        split = (*is_token.shape, self.num_heads, -1)
        query, key = (_padded(part(tokens), is_token).view(split).transpose(1, 2) for part in (self.query, self.key))
        return masked_softmax(query @ key.transpose(2, 3) / math.sqrt(key.shape[-1]), is_token[:, None, None, :])


def _padded(tokens: Tensor, is_token: Tensor) -> Tensor:
    """Tokens `(T, D)` at the true places of `is_token (N, L)`, zero elsewhere: `(N, L, D)`."""
    places = is_token.flatten().nonzero()[:, 0]
    found = tokens.new_zeros(is_token.numel(), tokens.shape[1]).index_copy(0, places, tokens)
    return found.view(*is_token.shape, -1)


class SentenceEncoder(nn.Module):
    r"""Texts to outputs `(N, K)`: tokens, BERT, means over tokens, one linear head.

    With $\bar h_l$ the mean state of a text's tokens after layer l, the head reads $\sqrt{D}\,\bar h_l / |\bar h_l|$ of
    the top `joined_layers` layers side by side (Devlin et al. 2019, section 5.3, without training; the mean: Reimers
    and Gurevych 2019, section 3). `tuned_layers` counts the layers, from the top, that training may change. What is
    below them is frozen, and is `encode`'s work, so a training loop runs it once: `encode` gives `(N, P D)` float32
    when all is frozen, else the states under the tuned layers `(N, L, D)` float32, zero where there is no token; they
    are also where gradients are taken. Then layers under the frozen states are not joined. Call `fit_encoding` before
    training: it loads the registered encoder's vocabulary and weights. Limits: only the first `max_length` tokens are
    read; words' vectors and positions are never changed; tuning holds 4 N L D bytes of states.
    Raises ModelError for an unknown encoder or sizes that make no network; MissingExtraError without `tokenizers`.
    """

    vocabulary: Tensor

    def __init__(
        self, num_outputs: int, *, encoder: str, tuned_layers: int = 0, joined_layers: int = 4, max_length: int = 64
    ) -> None:
        super().__init__()
        if encoder not in ENCODERS:
            allowed = ", ".join(sorted(ENCODERS))
            raise ModelError(Problem(f"encoder {encoder!r} is not known", allowed, "Register it: register_encoder"))
        sizes = ENCODERS[encoder].sizes
        layers = sizes.layers
        fine = 0 <= tuned_layers <= layers and 1 <= joined_layers <= layers and 3 <= max_length <= sizes.positions
        if not fine or num_outputs < 1:
            what = f"tuned_layers {tuned_layers}, joined_layers {joined_layers}, max_length {max_length}"
            raise ModelError(Problem(what, f"0 to {layers}, 1 to {layers}, 3 to {sizes.positions}"))
        self.encoder, self.max_length, self.num_frozen = encoder, max_length, layers - tuned_layers
        self.num_joined = min(joined_layers, tuned_layers + 1) if tuned_layers else joined_layers
        self.words = nn.Embedding(sizes.vocabulary, sizes.width)
        self.positions = nn.Parameter(torch.zeros(sizes.positions, sizes.width), requires_grad=False)
        self.norm = nn.LayerNorm(sizes.width, eps=1e-12)
        self.layers = nn.ModuleList(BertLayer(sizes, DROPOUT * (i >= self.num_frozen)) for i in range(layers))
        self.head = nn.Linear(sizes.width * self.num_joined, num_outputs)
        self.register_buffer("vocabulary", as_buffer(b""))  # tokenizer.json, as bytes
        for part in (self.words, self.norm, *self.layers[: self.num_frozen]):
            part.requires_grad_(False)

    @torch.no_grad()
    def fit_encoding(self, split: Split) -> None:
        """Load the encoder's vocabulary and weights; nothing is learned from `split`."""
        vocabulary, tensors = ENCODERS[self.encoder].open()
        self.vocabulary = as_buffer(vocabulary)
        try:
            missing = self.load_state_dict(_renamed(tensors, len(self.layers)), strict=False).missing_keys
        except RuntimeError as error:
            text = " ".join(str(error).split())[:200]
            raise ModelError(Problem(f"the weights of {self.encoder} do not fit: {text}")) from error
        lacking = set(missing) - {"head.weight", "head.bias", "vocabulary"}
        if lacking:
            raise ModelError(Problem(f"the weights of {self.encoder} lack {', '.join(sorted(lacking))}"))

    @torch.no_grad()
    def encode(self, inputs: Array) -> Tensor:
        """Texts `(N,)` to what the frozen layers make of them, `(N, P D)` or `(N, L, D)`; see the class.

        Rows of like length are run together. Raises ModelError before `fit_encoding`.
        """
        tokens = token_ids(self.vocabulary, inputs, self.max_length)
        order = (tokens != 0).sum(dim=1).argsort(stable=True)
        width = self.words.embedding_dim
        is_frozen = self.num_frozen == len(self.layers)
        found = torch.zeros(len(tokens), self.num_joined * width if is_frozen else tokens.shape[1] * width)
        for rows in torch.split(order, BATCH_SIZE):
            kept = tokens[rows][:, : longest(tokens[rows])]
            is_token = kept != 0
            states = self.token_vectors(kept)
            after = self._after(states, is_token, self.layers[: self.num_frozen])
            made = self._means(after, is_token) if is_frozen else (after[-1] * is_token[:, :, None]).flatten(1)
            found[rows, : made.shape[1]] = made
        return found if is_frozen else found.view(len(tokens), -1, width)

    def embed(self, encoded: Tensor) -> Tensor:
        """What `encode` gave as `(N, L, D)`, L the longest row; `(N, 1, P D)` where all is frozen."""
        if encoded.ndim == 2:
            return encoded[:, None]
        return encoded[:, : longest((encoded != 0).any(dim=2))]

    def from_embeddings(self, embedded: Tensor, encoded: Tensor) -> Tensor:
        """What `embed` gave, to outputs `(N, K)`."""
        if encoded.ndim == 2:
            means = embedded[:, 0]
        else:
            is_token = (encoded[:, : embedded.shape[1]] != 0).any(dim=2)
            means = self._means(self._after(embedded, is_token, self.layers[self.num_frozen :]), is_token)
        outputs: Tensor = self.head(means)
        return outputs

    def token_ids(self, inputs: Array) -> Tensor:
        """Texts `(N,)` to token ids `(N, L)`."""
        return token_ids(self.vocabulary, inputs, self.max_length)

    def token_vectors(self, tokens: Tensor) -> Tensor:
        """Token ids `(N, L)` to what the first layer reads, `(N, L, D)`."""
        vectors: Tensor = self.norm(self.words(tokens) + self.positions[: tokens.shape[1]])
        return vectors

    def from_vectors(self, vectors: Tensor, tokens: Tensor) -> Tensor:
        """What the first layer reads to outputs `(N, K)`, through frozen layers too."""
        is_token = tokens != 0
        outputs: Tensor = self.head(self._means(self._after(vectors, is_token, self.layers), is_token))
        return outputs

    def token_spans(self, inputs: Array) -> list[list[tuple[int, int]]]:
        """Where each token stands in its text; see `ByToken`."""
        return token_spans(self.vocabulary, inputs, self.max_length)

    def forward(self, encoded: Tensor) -> Tensor:
        """What `encode` gave, to outputs `(N, K)`."""
        return self.from_embeddings(self.embed(encoded), encoded)

    def _after(self, states: Tensor, is_token: Tensor, layers: Iterable[nn.Module]) -> list[Tensor]:
        """The states, and those after each layer, `(N, L, D)` each."""
        found, tokens = [states], states[is_token]
        for layer in layers:
            tokens = layer(tokens, is_token)
            found.append(_padded(tokens, is_token))
        return found

    def _means(self, states: Sequence[Tensor], is_token: Tensor) -> Tensor:
        """The last of the states, averaged over tokens and scaled, `(N, P D)`."""
        weight = is_token[:, :, None].to(self.head.weight.dtype)  # not the narrower one that training may compute in
        count = weight.sum(dim=1).clamp_min(1)
        means = [(one.to(weight.dtype) * weight).sum(dim=1) / count for one in states[-self.num_joined :]]
        return torch.cat([functional.normalize(mean, dim=1) * math.sqrt(mean.shape[1]) for mean in means], dim=1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        stored = state_dict.get(prefix + "vocabulary")
        if isinstance(stored, Tensor):  # its length is the file's, not the builder's
            self.vocabulary = torch.zeros(stored.shape, dtype=torch.uint8)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _renamed(tensors: Mapping[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """BERT's names to ours; the one token type there is is added to the positions. Raises ModelError if some lack."""
    names = {"embeddings.word_embeddings.weight": "words.weight"}
    names |= {f"embeddings.LayerNorm.{kind}": f"norm.{kind}" for kind in ("weight", "bias")}
    parts = {
        **{f"attention.self.{name}": name for name in ("query", "key", "value")},
        **{"attention.output.dense": "out", "attention.output.LayerNorm": "attention_norm"},
        **{"intermediate.dense": "up", "output.dense": "down", "output.LayerNorm": "norm"},
    }
    for layer in range(num_layers):
        for theirs, ours in parts.items():
            for kind in ("weight", "bias"):
                names[f"encoder.layer.{layer}.{theirs}.{kind}"] = f"layers.{layer}.{ours}.{kind}"
    try:
        found = {ours: tensors[theirs].float() for theirs, ours in names.items()}
        kind_zero = tensors["embeddings.token_type_embeddings.weight"][0]
        found["positions"] = (tensors["embeddings.position_embeddings.weight"] + kind_zero).float()
    except KeyError as error:
        raise ModelError(Problem(f"the weights lack {error}", "those of a BERT encoder")) from error
    return found


def _build(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    return SentenceEncoder(num_outputs, **params)


register_architecture("sentence_encoder", _build, resolver=from_signature(SentenceEncoder.__init__))
