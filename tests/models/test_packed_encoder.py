"""A Transformer over the tokens that are there, in ONNX Runtime's kernels, against the same module in torch."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from assay.models.adapters.module import evaluation
from assay.models.adapters.onnx import exported, session_of
from assay.models.by_onnxruntime import lean
from assay.models.exportable import exportable
from assay.models.kernels import written_out
from assay.models.text import TextClassifier, TextOptions
from assay.models.transformer import Encoder

pytest.importorskip("onnxruntime")


def tokens(*lengths: int, size: int) -> torch.Tensor:
    """Rows of ids with so many tokens, padding after them, and one padding token within the longest."""
    found = torch.zeros(len(lengths), size, dtype=torch.int64)
    for row, length in enumerate(lengths):
        found[row, :length] = torch.randint(2, 50, (length,))
    found[0, 1] = 0
    return found


@pytest.mark.slow  # torch's exporter takes seconds to load
@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_packed_rows_answer_as_padded_ones(positions):
    torch.manual_seed(0)
    body = Encoder(16, num_heads=2, num_layers=2, positions=positions, max_length=12)
    module = TextClassifier(body, num_outputs=3, options=TextOptions(vocab_size=50, dim=16, max_length=12))
    for norm in (one for one in module.modules() if isinstance(one, nn.LayerNorm)):
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    nn.init.normal_(module.embedding.weight)
    made = exportable(copy.deepcopy(module)).requires_grad_(False)
    with evaluation(made), written_out(made), torch.no_grad():
        proto = exported(made, tokens(5, 3, 4, size=6))
    lean(proto)
    kinds = [node.op_type for node in proto.graph.node]
    assert "LayerNormalization" not in kinds
    assert [kinds.count(one) for one in ("SkipLayerNormalization", "MultiHeadAttention")] == [5, 2]
    session = session_of(proto, "the graph")
    odd = [tokens(9, 0, 1, 12, 4, size=12), tokens(3, size=3), tokens(2, 0, size=2), torch.zeros(2, 4).long()]
    for rows in odd:
        with evaluation(module), torch.inference_mode():
            expected = module(rows).numpy()
        answers = session.run(["outputs"], {"inputs": rows.numpy()})[0]
        np.testing.assert_allclose(answers, expected, atol=2e-5)
        alone = [session.run(["outputs"], {"inputs": one[None].numpy()})[0] for one in rows]
        np.testing.assert_allclose(np.concatenate(alone), answers, atol=2e-5)
