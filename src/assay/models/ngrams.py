"""A linear model of which runs of tokens a text holds: the cheapest classifier of texts, and often the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from assay.errors import ModelError, Problem
from assay.models import defaults_of, filled, register_architecture
from assay.models.grams import PADDING, GramBag
from assay.models.kernels import Switched
from assay.models.text import Kind, TextEncoder, language_of
from assay.values import Array, Column, Split

# Characters make words of one to three: vocabularies are small and runs many.
LANGUAGES: dict[str, dict[str, Any]] = {
    "zh": {"kind": "char", "vocab_size": 8000, "longest": 3, "num_grams": 131_072},
}


@dataclass(frozen=True, kw_only=True)
class NgramOptions:
    """How it reads (see `TextEncoder`), which runs it knows and how wide their embeddings are (see `GramBag`)."""

    kind: Kind = "word"
    vocab_size: int = 32_000
    max_length: int = 256
    lowercase: bool = True
    longest: int = 2
    num_grams: int = 65_536
    dim: int = 8
    dropout: float = 0.0


class NgramClassifier(Switched):
    """Texts to outputs `(N, K)`: the bag of their runs of one to `longest` tokens (see `GramBag`), one linear `head`.

    `encode` gives the ids of a text's runs `(N, M)`, each once. With an embedding of one number a class it is the
    linear model of TF-IDF; a wider one lets classes share what runs mean. Call `fit_encoding` before training.
    Limits: order beyond a run is lost; tokens after `max_length` are not read. Raises ModelError for sizes that make
    no network.
    """

    def __init__(self, num_outputs: int, options: NgramOptions) -> None:
        super().__init__()
        if not 0 <= options.dropout < 1:
            raise ModelError(Problem(f"dropout is {options.dropout}", "0 to below 1"))
        self.encoder = TextEncoder(
            kind=options.kind,
            vocab_size=options.vocab_size,
            max_length=options.max_length,
            lowercase=options.lowercase,
        )
        self.bag = GramBag(options.vocab_size, longest=options.longest, num_grams=options.num_grams, dim=options.dim)
        self.drop = nn.Dropout(options.dropout)
        self.head = nn.Linear(options.dim, num_outputs)

    def fit_encoding(self, split: Split) -> None:
        """Fit the table of tokens, then that of runs, on the texts of this split only."""
        self.encoder.fit(split.inputs)
        self.bag.fit(self.encoder(split.inputs))

    def encode(self, inputs: Array) -> Tensor:
        """Texts `(N,)` to ids of runs `(N, M)`."""
        return self.bag.encode(self.encoder(inputs))

    def embed(self, grams: Tensor) -> Tensor:
        """Ids of runs `(N, M)` to weighted embeddings `(N, M, D)`."""
        return self.bag.embed(grams)

    def from_embeddings(self, embedded: Tensor, grams: Tensor) -> Tensor:
        """Embeddings `(N, M, D)` of runs `(N, M)` to outputs `(N, K)`: their sum, and the head."""
        outputs: Tensor = self.head(self.drop(embedded.sum(dim=1)))
        return outputs

    def token_ids(self, inputs: Array) -> Tensor:
        """Texts `(N,)` to token ids `(N, L)`, of which runs are made."""
        tokens: Tensor = self.encoder(inputs)
        return tokens

    def token_vectors(self, tokens: Tensor) -> Tensor:
        """Token ids `(N, L)` to vectors `(N, L, D)`: the runs that a token is in, shared by their tokens."""
        return self.bag.by_token(tokens)

    def from_vectors(self, vectors: Tensor, tokens: Tensor) -> Tensor:
        """Vectors `(N, L, D)` of tokens to outputs `(N, K)`."""
        return self.from_embeddings(vectors, tokens)

    def token_spans(self, inputs: Array) -> list[list[tuple[int, int]]]:
        """Where each token stands in its text; see `ByToken`."""
        return self.encoder.spans(inputs)

    def forward(self, grams: Tensor) -> Tensor:
        """Ids of runs `(N, M)` to outputs `(N, K)`."""
        if self.kernel == "fused" and len(grams):
            grams = grams[:, : max(1, int(grams.ne(PADDING).sum(dim=1).amax()))]
        return self.from_embeddings(self.embed(grams), grams)


def _build(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    language_of(columns)
    return NgramClassifier(num_outputs, NgramOptions(**params))


def _resolved(columns: Sequence[Column], params: Mapping[str, Any]) -> Mapping[str, Any]:
    own = LANGUAGES.get(language_of(columns), {})
    return filled({**own, **params}, defaults_of(NgramOptions.__init__))


register_architecture("ngrams", _build, resolver=_resolved)
