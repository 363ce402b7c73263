"""ONNX files as models (query and meter), and modules as ONNX files."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from assay.errors import MissingExtraError, ModelError, Problem
from assay.models import Encodes
from assay.models.adapters.module import OutputsAre, evaluation
from assay.models.adapters.refuse import check_format
from assay.storage import read_regular, read_verified, write_atomic
from assay.values import Array, digest_of

__all__ = ["OnnxModel", "export_onnx", "load_onnx"]

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})  # what ONNX Runtime has built in
BATCH_SIZE = 8192
FLOATS = {"tensor(float)": np.float32, "tensor(double)": np.float64}


class OnnxModel:
    """An ONNX Runtime session that answers rows `(N, F)` or pictures `(N, C, H, W)` with `(N, K)`; made by `load_onnx`.

    Offers query and meter. `outputs_are_because` says how logits and probabilities were told apart.
    """

    def __init__(self, session: Any, *, digest: str, num_bytes: int, output: str, batch_size: int | None) -> None:
        self.session = session
        self.digest = digest
        self.num_bytes: int | None = num_bytes
        self.offers = frozenset({"query", "meter"})
        self.outputs_are: OutputsAre = "logits"
        self.outputs_are_because = ""
        self.output = output
        self.batch_size = batch_size
        self.content: bytes | None = None  # the file itself, when it is all in one

    @property
    def num_features(self) -> int | None:
        """F, where the file takes rows and fixes it."""
        return self.shape[0] if len(self.shape) == 1 else None

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Of one input, `(F,)` or `(C, H, W)`; None where the file leaves a size free."""
        return tuple(size if isinstance(size, int) else None for size in self.session.get_inputs()[0].shape[1:])

    def outputs(self, inputs: Array) -> Array:
        """Raw inputs `(N, ...)` to outputs `(N, K)` float32. Raises ModelError for inputs of another shape or kind."""
        fits = inputs.ndim == len(self.shape) + 1 and inputs.dtype.kind in "biuf"
        if not fits or any(size not in (None, found) for size, found in zip(self.shape, inputs.shape[1:], strict=True)):
            names = "F" if len(self.shape) == 1 else "CHW"
            sizes = ", ".join(str(size or name) for size, name in zip(self.shape, names, strict=True))
            raise ModelError(Problem(f"inputs have shape {inputs.shape} and type {inputs.dtype}", f"(N, {sizes})"))
        wanted = FLOATS[self.session.get_inputs()[0].type]
        rows = np.ascontiguousarray(inputs, dtype=wanted)
        size = self.batch_size or (BATCH_SIZE if inputs.ndim == 2 else 512)  # activations of pictures are large
        batches = [self._batch(rows[start : start + size]) for start in range(0, max(len(rows), 1), size)]
        return np.concatenate(batches)

    def _batch(self, rows: Array) -> Array:
        num = len(rows)
        if self.batch_size is not None and 0 < num < self.batch_size:  # the file fixes the batch: fill it up
            rows = np.concatenate([rows, np.repeat(rows[-1:], self.batch_size - num, axis=0)])
        try:
            (answer,) = self.session.run([self.output], {self.session.get_inputs()[0].name: rows})
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise ModelError(Problem(f"ONNX Runtime stopped: {str(error).splitlines()[0][:200]}")) from error
        if isinstance(answer, list):  # ZipMap: one dictionary of class to probability per row
            answer = np.array([list(row.values()) for row in answer])
        answer = np.asarray(answer, dtype=np.float32)[:num]
        if answer.ndim == 1:
            answer = answer[:, None]
        if answer.ndim != 2 or len(answer) != num:
            raise ModelError(Problem(f"{num} rows gave an answer of shape {answer.shape}", "(N, K)"))
        return answer


def load_onnx(
    path: str | Path, *, sha256: str | None = None, outputs_are: OutputsAre | None = None, num_threads: int = 0
) -> OnnxModel:
    """Load an ONNX file with one float input, `(N, F)` or `(N, C, H, W)`.

    `sha256`, when given, is verified before parsing. Takes the output named like probabilities, else the last float
    output; scikit-learn exports work with and without ZipMap. Without `outputs_are`: probabilities if the output is
    made by Softmax, Sigmoid or a classifier node, or if rows of two or more columns are in [0, 1] and sum to 1 on trial
    inputs; else logits. Raises ModelError for damaged files, weights outside the file's folder, operators of unknown
    domains, or inputs of another kind; UnsafeFileError for other formats; MissingExtraError without onnxruntime.
    """
    path = Path(path)
    if check_format(path) != "onnx":
        raise ModelError(Problem(f"{path} is not ONNX", "an .onnx file", "Load safetensors with assay.models.store"))
    content = read_regular(path) if sha256 is None else read_verified(path, sha256)
    proto = parsed(content, str(path))
    external = _external_files(proto, path)
    session = _session(str(path) if external else content, str(path), num_threads)
    files = [content, *(read_regular(file) for file in external)]
    digests = [hashlib.sha256(file).hexdigest() for file in files]
    batch_size = _check_input(session, path)
    num_bytes = sum(len(file) for file in files)
    output = _choose_output(session, path)
    model = OnnxModel(session, digest="", num_bytes=num_bytes, output=output, batch_size=batch_size)
    model.content = None if external else content
    model.outputs_are, model.outputs_are_because = _kind(model, proto, outputs_are)
    model.digest = digest_of(["onnx", *digests, model.output, model.outputs_are])
    return model


def parsed(content: bytes, name: str) -> Any:
    """A file's content as a graph. Raises ModelError for damaged content and for operators of unknown domains."""
    onnx, _ = _packages()
    try:
        proto = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's DecodeError is not importable from a stable place
        raise ModelError(Problem(f"{name} is damaged: {str(error)[:100]}", next="Restore it from a copy")) from error
    _refuse_domains(proto, name)
    return proto


def session_of(proto: Any, name: str) -> Any:
    """A session of a graph that is all in one, with as many threads as torch has. Raises ModelError, also for files."""
    return _session(all_inside(proto, name).SerializeToString(), name, torch.get_num_threads())


def all_inside(proto: Any, name: str) -> Any:
    """The same graph. Raises ModelError where it keeps weights in a file: before anybody reads one of its tensors."""
    if any(tensor.data_location == 1 or tensor.external_data for tensor in _tensors(proto)):
        raise ModelError(Problem(f"{name} keeps weights in a file", "all weights inside"))
    return proto


def _session(source: str | bytes, name: str, num_threads: int) -> Any:
    _, runtime = _packages()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(Problem(f"{name} cannot be run: {str(error).splitlines()[0][:200]}")) from error


def export_onnx(module: nn.Module, path: str | Path, shape: int | Sequence[int]) -> None:
    """Write a module that maps inputs of a shape (F, or (C, H, W)) to `(N, K)` as one ONNX file, batch size free.

    Limits: no module with its own way to read raw inputs (`encode`): ONNX has no words. The file is run once and
    compared: raises ModelError when an answer differs by more than 1e-4 (relative to the largest), or when the module
    cannot be exported; MissingExtraError without onnx, onnxscript and onnxruntime.
    """
    _packages()
    path = Path(path)
    if isinstance(module, Encodes):
        what = f"a {type(module).__name__} reads raw inputs by code that ONNX cannot hold"
        raise ModelError(Problem(what, "modules of numbers or pixels", "Save the system instead, and load it here"))
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(3, *sizes)).astype(np.float32))
    rows = rows if len(sizes) == 1 else (40 * rows + 128).clamp(0, 255)
    with evaluation(module), torch.no_grad():
        expected = module(rows).float().numpy()
        proto = exported(module, rows)
    write_atomic(path, proto.SerializeToString())
    again = load_onnx(path, outputs_are="logits").outputs(rows.numpy())
    gap = float(np.abs(again - expected).max() / max(1.0, np.abs(expected).max()))
    if not gap <= 1e-4:
        raise ModelError(Problem(f"{path} answers differently from the module, by {gap:.2g}"))


def exported(module: nn.Module, rows: torch.Tensor) -> Any:
    """The module as an ONNX graph with the first axis free, and of token ids the second; for callers in `no_grad`.

    The exporter's notes on itself and on packages it misses are not passed on. Raises ModelError.
    """
    _packages()
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    free: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    if not rows.is_floating_point() and rows.ndim < 4:
        free[1] = torch.export.Dim.DYNAMIC
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                (rows,),
                input_names=["inputs"],
                output_names=["outputs"],
                dynamic_shapes=(free,),
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # every stage of the exporter has exceptions of its own
        raise ModelError(Problem(f"the module cannot be exported: {str(error).splitlines()[0][:200]}")) from error
    finally:
        log.setLevel(level)
    if program is None:
        raise ModelError(Problem("the exporter gave nothing back"))
    return program.model_proto


def _packages() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnx and onnxruntime", "onnx") from error
    return onnx, onnxruntime


def _graphs(proto: Any) -> Iterator[Any]:
    """The graph, every function's body, and every graph inside a node, as lists of nodes with their owner."""
    waiting: list[Any] = [proto.graph, *proto.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]


def _tensors(proto: Any) -> Iterator[Any]:
    for graph in _graphs(proto):
        if graph.DESCRIPTOR.name == "GraphProto":
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                yield from attribute.tensors
                yield attribute.t
                for sparse in (*attribute.sparse_tensors, attribute.sparse_tensor):
                    yield from (sparse.values, sparse.indices)


def _external_files(proto: Any, path: Path) -> list[Path]:
    """Files beside the model that hold its weights. Raises ModelError for one that is elsewhere, a link or missing."""
    folder = path.parent.resolve()
    found: set[Path] = set()
    for tensor in _tensors(proto):
        if tensor.data_location != 1 and not tensor.external_data:  # 1 = EXTERNAL
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        file = folder / location
        inside = bool(location) and not Path(location).is_absolute() and file.resolve().is_relative_to(folder)
        if not inside or ".." in Path(location).parts or file.is_symlink() or not file.is_file():
            raise ModelError(
                Problem(
                    f"{path} keeps weights in {location!r}",
                    "regular files in its own folder",
                    "Export it again with all weights inside",
                )
            )
        found.add(file)
    return sorted(found)


def _refuse_domains(proto: Any, path: str) -> None:
    local = {function.domain for function in proto.functions}
    unknown = {node.domain for graph in _graphs(proto) for node in graph.node} - DOMAINS - local
    if unknown:
        names = ", ".join(sorted(unknown))
        raise ModelError(Problem(f"{path} uses operators of {names}", "operators built into ONNX Runtime"))


def _check_input(session: Any, path: Path) -> int | None:
    """The fixed batch size, None when it is free. Raises ModelError unless there is one float input of 2 or 4 axes."""
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in FLOATS or len(inputs[0].shape) not in (2, 4):
        found = ", ".join(f"{entry.name} {entry.type} {entry.shape}" for entry in inputs)
        advice = "Export it again with one matrix of the columns in their order, categories as codes"
        if any(entry.type == "tensor(string)" for entry in inputs):
            advice = "A model of texts comes in as a Hugging Face folder, a scikit-learn estimator or an endpoint"
        raise ModelError(Problem(f"{path} takes {found}", "one float input (N, F) or (N, C, H, W)", advice))
    size = inputs[0].shape[0]
    return size if isinstance(size, int) else None


def _choose_output(session: Any, path: Path) -> str:
    outputs = [entry for entry in session.get_outputs() if entry.type in FLOATS or "map(" in entry.type]
    if not outputs:
        found = ", ".join(f"{entry.name} {entry.type}" for entry in session.get_outputs())
        raise ModelError(Problem(f"{path} gives {found}", "one float output (N, K)"))
    named = [entry for entry in outputs if "prob" in entry.name.lower()]
    return str((named or outputs)[-1].name)


def _kind(model: OnnxModel, proto: Any, declared: OutputsAre | None) -> tuple[OutputsAre, str]:
    """What the outputs are, and how that is known."""
    if declared is not None:
        return declared, "declared"
    name, makers = model.output, {output: node for node in proto.graph.node for output in node.output}
    while name in makers and makers[name].op_type in ("Identity", "Cast", "ZipMap", "Reshape", "Squeeze"):
        name = makers[name].input[0]
    maker = makers[name].op_type if name in makers else ""
    if maker in ("Softmax", "Sigmoid") or (maker.endswith("Classifier") and _normalises(makers[name])):
        return "probabilities", f"made by {maker}"
    shape = [size for size in model.shape if size is not None]
    if len(shape) < len(model.shape):
        return "logits", "taken as logits: the shape of the input is not fixed, so it was not tried"
    trial = np.random.default_rng(0).integers(0, 3, size=(64, *shape)).astype(np.float32)
    answer = model.outputs(trial)
    inside = bool(((answer >= 0) & (answer <= 1)).all()) and answer.shape[1] > 1
    if inside and np.abs(answer.sum(axis=1) - 1).max() <= 1e-4:
        return "probabilities", "rows are in [0, 1] and sum to 1 on 64 trial inputs"
    return "logits", "rows are not probabilities on 64 trial inputs"


def _normalises(node: Any) -> bool:
    """Whether a scikit-learn classifier node gives probabilities: by its transform; others are tried."""
    transform = next((entry.s for entry in node.attribute if entry.name == "post_transform"), b"NONE")
    return transform in (b"SOFTMAX", b"LOGISTIC", b"SOFTMAX_ZERO")
