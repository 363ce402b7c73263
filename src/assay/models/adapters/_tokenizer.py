"""Words to numbers as a `tokenizer.json` says, kept as bytes in a module's state."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assay.errors import MissingExtraError, ModelError, Problem
from assay.values import Array


@lru_cache(maxsize=4)
def tokenizer(content: bytes, max_length: int) -> Any:
    """The tokenizer of a `tokenizer.json`, cutting at `max_length`. Raises ModelError if damaged, MissingExtraError."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads would only get in the way of torch's
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtraError("tokenizers", "text") from error
    try:
        made = Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises bare Exception
        raise ModelError(Problem(f"the tokenizer cannot be read: {' '.join(str(error).split())[:200]}")) from error
    made.no_padding()
    made.enable_truncation(max_length)
    return made


def token_ids(vocabulary: Tensor, inputs: Array, max_length: int, *, shift: int = 0) -> Tensor:
    """Texts `(N,)` to token ids plus `shift`, `(N, L)` int64, padded with 0. Raises ModelError without a vocabulary."""
    if not len(vocabulary):
        raise ModelError(Problem("the encoder has no vocabulary yet", next="Call fit_encoding, or load weights"))
    found = tokenizer(vocabulary.cpu().numpy().tobytes(), max_length).encode_batch([str(text) for text in inputs])
    ids = np.zeros((len(found), max((len(one.ids) for one in found), default=1)), dtype=np.int64)
    for row, one in zip(ids, found, strict=True):
        row[: len(one.ids)] = one.ids
        row[: len(one.ids)] += shift
    return torch.from_numpy(ids)


def token_spans(vocabulary: Tensor, inputs: Array, max_length: int) -> list[list[tuple[int, int]]]:
    """First character of each token and the one after its last, for each of texts `(N,)`; (0, 0) for added tokens."""
    found = tokenizer(vocabulary.cpu().numpy().tobytes(), max_length).encode_batch([str(text) for text in inputs])
    return [[(int(start), int(end)) for start, end in one.offsets] for one in found]


def longest(tokens: Tensor) -> int:
    """Positions up to the last token of any row, at least 1."""
    used = (tokens != 0).any(dim=0).nonzero()
    return int(used[-1]) + 1 if len(used) else 1


def as_buffer(content: bytes) -> Tensor:
    """Bytes as a tensor `(B,)` uint8: how a vocabulary lies in a file of weights."""
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.zeros(0, dtype=torch.uint8)
