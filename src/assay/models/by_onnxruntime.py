"""A module computed by ONNX Runtime: a registered architecture whose one weight is the ONNX graph, as bytes.

What reads raw inputs stays the module's own code (words to tokens), so that texts work too; the file is safetensors.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from assay.errors import ModelError, Problem
from assay.models import Architecture, Encodes, register_architecture, tensors
from assay.models.adapters.module import ModuleModel, evaluation
from assay.models.adapters.onnx import all_inside, exported, parsed, session_of
from assay.models.exportable import exportable
from assay.models.kernels import written_out
from assay.models.own import architecture_of, is_all_ours
from assay.models.quantised_graph import unpacked
from assay.models.wrapped import build_base, named_base, resolve_base, swap
from assay.values import Array, Column

NAME = "onnxruntime"
OUTPUTS = ["outputs"]
PASSED_ON = ("token_ids", "token_spans")  # what a text module offers beside its forward pass and needs no weights for
KEPT = 4  # graphs of modules exported last: exporting takes a second, and several treatments start from one
LARGEST_KEPT = 64 << 20  # bytes
AS_GOOD_AS_EQUAL = 1e-4  # of the largest output
_graphs: OrderedDict[str, bytes] = OrderedDict()


class ByOnnxRuntime(nn.Module):
    """What `reader.encode` gives (or numbers as they are) to outputs `(N, K)`, by the graph in the buffer `graph`.

    Limits: no gradients. Float sums may be taken in another order for other batch sizes, as in torch.
    Raises ModelError for a damaged graph, for operators that ONNX Runtime has not built in, and when it stops.
    """

    graph: Tensor

    def __init__(self, reader: nn.Module, *, num_bytes: int) -> None:
        super().__init__()
        self.reader = without_weights(reader)
        self.register_buffer("graph", torch.zeros(num_bytes, dtype=torch.uint8))
        if isinstance(self.reader, Encodes):
            self.encode = self._encode
        for name in PASSED_ON:
            if hasattr(self.reader, name):
                setattr(self, name, getattr(self.reader, name))
        self._ready: Any = None  # the session, made from the graph at first use; forgotten when it is loaded anew
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    def forward(self, inputs: Tensor) -> Tensor:
        """Encoded inputs `(N, ...)` to `(N, K)` float32."""
        if self._ready is None:
            self._ready = self._session()
        if not len(inputs):
            return self.forward(inputs.new_zeros(1, *inputs.shape[1:]))[:0]
        rows = (inputs.float() if inputs.dtype == torch.uint8 else inputs).numpy()
        try:
            (answer,) = self._ready.run(OUTPUTS, {"inputs": rows})
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise ModelError(Problem(f"ONNX Runtime stopped: {str(error).splitlines()[0][:200]}")) from error
        return torch.from_numpy(answer)

    def _session(self) -> Any:
        proto = all_inside(parsed(self.content(), "the graph"), "the graph")
        try:
            proto = unpacked(proto)
        except (KeyError, IndexError, TypeError, ValueError) as error:  # codes, scales or sizes that do not fit
            what = f"the graph is damaged: its codes cannot be read ({error!r:.200})"
            raise ModelError(Problem(what, next="Restore it from a copy")) from error
        return session_of(proto, "the graph")

    def content(self) -> bytes:
        """The graph as a file holds it."""
        return self.graph.numpy().tobytes()

    def _encode(self, inputs: Array) -> Tensor:
        reader: Any = self.reader
        encoded: Tensor = reader.encode(inputs)
        return encoded

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_ready": None}  # copies make their own session


def _forget(layer: nn.Module, incompatible: Any) -> None:
    if isinstance(layer, ByOnnxRuntime):
        layer._ready = None


def without_weights(module: nn.Module) -> nn.Module:
    """The module with every layer that has parameters of its own taken out: enough to read raw inputs with.

    It is changed in place. A module without `encode` needs nothing, and leaves an empty one.
    """
    if not isinstance(module, Encodes):
        return nn.Identity()
    swap(module, {name: nn.Identity() for name, part in module.named_modules() if name and part._parameters})
    return module


def graph_of(model: ModuleModel, rows: Array) -> bytes:
    """A module as an ONNX graph, from raw example rows on (their values do not matter), without names of files in it.

    It is run on the rows and compared. Raises ModelError when it cannot be exported or answers differently; and
    MissingExtraError without onnx, onnxscript and onnxruntime.
    """
    is_known = is_all_ours(architecture_of(model))  # else the same digest may be of another `forward`
    if is_known and model.digest in _graphs:
        _graphs.move_to_end(model.digest)
        return _graphs[model.digest]
    module = exportable(copy.deepcopy(model.module))
    module.requires_grad_(False)
    given = tensors(module, rows)
    given = given.float() if given.dtype == torch.uint8 else given
    if len(given) < 3 or (given.ndim < 4 and not given.is_floating_point() and given.shape[1] < 3):
        given = _larger(given)
    with evaluation(module), written_out(module), torch.no_grad():
        proto = exported(module, given[:3])
    lean(proto)
    answers = session_of(proto, "the graph").run(["outputs"], {"inputs": given.numpy()})[0]
    with evaluation(model.module), torch.inference_mode():
        expected = model.module(given).float().numpy()
    gap = float(np.abs(answers - expected).max() / max(1.0, np.abs(expected).max()))
    if not gap <= AS_GOOD_AS_EQUAL:
        raise ModelError(Problem(f"its ONNX graph answers differently from the module, by {gap:.2g}"))
    content: bytes = proto.SerializeToString(deterministic=True)
    if is_known and len(content) <= LARGEST_KEPT:
        _graphs[model.digest] = content
        while len(_graphs) > KEPT:
            _graphs.popitem(last=False)
    return content


def _larger(given: Tensor) -> Tensor:
    """Three rows and three tokens at least: an exporter takes an axis of one for fixed."""
    if not given.is_floating_point() and given.ndim < 4:
        missing = max(0, 3 - given.shape[1])
        given = torch.cat([given, given.new_zeros(len(given), missing, *given.shape[2:])], dim=1)
    return given.repeat(3, *[1] * (given.ndim - 1)) if len(given) < 3 else given


def lean(proto: Any) -> None:
    """Take out of a graph what nothing reads: notes on source lines and files, and shapes in between."""
    del proto.graph.value_info[:], proto.metadata_props[:], proto.graph.metadata_props[:]
    proto.doc_string = proto.graph.doc_string = proto.producer_name = proto.producer_version = ""
    for one in [*proto.graph.node, *proto.graph.initializer, *proto.graph.input, *proto.graph.output]:
        one.doc_string = ""
        del one.metadata_props[:]
    for node in proto.graph.node:
        node.name = ""


def onnxruntime_model(before: ModuleModel, content: bytes) -> ModuleModel:
    """A model that answers by this graph and reads inputs as `before` does."""
    module = ByOnnxRuntime(copy.deepcopy(before.module), num_bytes=len(content))
    module.graph = torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())
    architecture = Architecture(NAME, {"base": named_base(architecture_of(before)), "num_bytes": len(content)})
    return ModuleModel(
        module.eval(),
        outputs_are=before.outputs_are,
        architecture=architecture,
        differentiable=False,
        batch_size=before.batch_size,
    )


def _onnxruntime(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    parts = ("base", "num_bytes")
    base = build_base(NAME, params, parts=parts, columns=columns, num_outputs=num_outputs)
    return ByOnnxRuntime(base, num_bytes=int(params["num_bytes"]))


register_architecture(NAME, _onnxruntime, resolver=resolve_base)
