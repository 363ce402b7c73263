"""A live scikit-learn estimator as a model. Pickled estimators are never loaded; pass the object from Python."""

from __future__ import annotations

import hashlib
import math
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from assay.errors import MissingExtraError, ModelError, Problem
from assay.models.adapters._rows import check_inputs, decode
from assay.models.adapters.module import OutputsAre
from assay.parts import modality
from assay.values import Array, Column, canonical

__all__ = ["SklearnModel", "digest_estimator"]

STATELESS = frozenset({"sklearn", "numpy"})  # whose objects without state are their class alone
TREES = frozenset({"sklearn.neighbors._kd_tree", "sklearn.neighbors._ball_tree"})
SKIPPED = frozenset({"n_jobs", "verbose", "_stop_words_id"})  # how it runs, not what it answers


class SklearnModel:
    """A fitted estimator (or sklearn Pipeline): `predict_proba`, else `decision_function`, else `predict`.

    `inputs_are` "codes" passes `(N, F)` float64 as coded; "table" passes a polars table with named columns and raw
    values. A text column passes a list of the raw strings (what TfidfVectorizer takes), an image column
    `(N, C * H * W)` float64 pixels. `classes` are the data's classes in order: needed when the estimator was fitted on
    class names, or has not met all. Offers query and meter. `digest` covers parameters and all fitted state, walked,
    not pickled.
    Limits: a `decision_function` is passed on as a logit though it need not be one; the digest names functions without
    covering their code; it differs between versions of scikit-learn that store a fit differently.
    Raises ModelError for an estimator that is not fitted, or whose state cannot be walked.
    """

    def __init__(
        self,
        estimator: Any,
        columns: Sequence[Column],
        *,
        classes: Sequence[str] = (),
        inputs_are: Literal["codes", "table"] = "codes",
    ) -> None:
        try:
            from sklearn.base import is_regressor
            from sklearn.exceptions import NotFittedError
            from sklearn.utils.validation import check_is_fitted
        except ImportError as error:
            raise MissingExtraError("scikit-learn", "sklearn") from error
        try:
            check_is_fitted(estimator)
        except (NotFittedError, TypeError) as error:
            raise ModelError(Problem(str(error).rstrip("."), "a fitted scikit-learn estimator")) from error
        if inputs_are == "table" and modality(columns) != "table":
            raise ModelError(Problem(f"{modality(columns)}s make no table of named columns", "inputs_are='codes'"))
        self.estimator, self.columns, self.inputs_are = estimator, tuple(columns), inputs_are
        self.offers = frozenset({"query", "meter"})
        self.outputs_are: OutputsAre = "values"
        self.call = estimator.predict
        if not is_regressor(estimator):
            self.call, self.outputs_are = _classifier_call(estimator)
        self.positions = _positions(estimator, tuple(classes)) if self.outputs_are != "values" else None
        self.num_outputs = len(classes)
        digest, self.num_bytes = digest_estimator(estimator)
        head = [digest, self.outputs_are, inputs_are, list(classes)]
        self.digest = hashlib.sha256(canonical(head).encode()).hexdigest()

    def outputs(self, inputs: Array) -> Array:
        """Raw inputs `(N, ...)` to outputs `(N, K)` float32. Raises ModelError when the estimator stops."""
        rows = self._rows(inputs)
        try:
            answer = np.asarray(self.call(rows), dtype=np.float32)
        except Exception as error:  # an estimator may raise anything
            raise ModelError(Problem(f"the estimator stopped: {str(error).splitlines()[0][:200]}")) from error
        if answer.ndim == 1 and self.outputs_are == "logits":  # one column: how far towards the second class
            answer = np.stack([np.zeros_like(answer), answer], axis=1)
        answer = answer[:, None] if answer.ndim == 1 else answer
        if self.positions is None:
            return answer
        fill = 0.0 if self.outputs_are == "probabilities" else -np.inf
        full = np.full((len(answer), self.num_outputs), fill, dtype=np.float32)
        full[:, self.positions] = answer
        return full

    def _rows(self, inputs: Array) -> Any:
        """What the estimator is given."""
        check_inputs(inputs, self.columns)
        if modality(self.columns) == "text":
            return [str(text) for text in inputs.tolist()]
        if self.inputs_are == "table":
            import polars

            return polars.DataFrame(decode(inputs, self.columns), strict=False)
        return np.asarray(inputs, dtype=np.float64).reshape(len(inputs), math.prod(inputs.shape[1:]))


def _classifier_call(estimator: Any) -> tuple[Any, OutputsAre]:
    probabilities = getattr(estimator, "predict_proba", None)
    if probabilities is not None:
        return probabilities, "probabilities"
    decision = getattr(estimator, "decision_function", None)
    if decision is not None:
        return decision, "logits"
    raise ModelError(
        Problem(f"{type(estimator).__name__} gives neither probabilities nor a decision function", "one of both")
    )


def _positions(estimator: Any, classes: tuple[str, ...]) -> list[int] | None:
    """Where each output column belongs among `classes`; None when the columns are in order already."""
    if not classes:
        return None
    known = [str(value) for value in estimator.classes_]
    by_code = {str(position): position for position in range(len(classes))}
    by_name = {name: position for position, name in enumerate(classes)}
    places = by_name if set(known) <= set(by_name) else by_code
    if not set(known) <= set(places):
        raise ModelError(
            Problem(f"the estimator knows the classes {', '.join(known)}", f"names or codes of {', '.join(classes)}")
        )
    return [places[name] for name in known]


def digest_estimator(estimator: Any) -> tuple[str, int]:
    """SHA-256 over a canonical walk of an estimator's parameters and fitted state, and the bytes of its arrays.

    Arrays are hashed by type, shape and value, record arrays field by field (padding bytes are not state).
    Raises ModelError for a kind of object that the walk does not know.
    """
    walk = _Walk()
    walk.visit(estimator, "")
    return walk.hash.hexdigest(), walk.num_bytes


class _Walk:
    """Depth first, names sorted, every value with its path and kind; an object met again is named by first path."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.num_bytes = 0
        self.seen: dict[int, str] = {}
        self.kept: list[Any] = []  # keeps objects alive, so that no id is used twice

    def note(self, path: str, *facts: object) -> None:
        self.hash.update(repr((path, *facts)).encode() + b"\0")

    def visit(self, value: Any, path: str) -> None:
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes, range, slice)):
            return self.note(path, type(value).__name__, value)
        if isinstance(value, np.generic):
            return self.note(path, value.dtype.str, value.item())
        if isinstance(value, (type, np.dtype, np.ufunc, types.FunctionType, types.BuiltinFunctionType)):
            return self.note(path, "named", getattr(value, "__module__", ""), getattr(value, "__name__", str(value)))
        if id(value) in self.seen:
            return self.note(path, "same as", self.seen[id(value)])
        self.seen[id(value)] = path
        self.kept.append(value)
        if isinstance(value, np.ndarray):
            return self.array(value, path)
        return self.container(value, path)

    def array(self, value: Array, path: str) -> None:
        self.note(path, "array", str(value.dtype), value.shape)
        if value.dtype.names:
            for name in value.dtype.names:
                self.array(value[name], f"{path}.{name}")
        elif value.dtype.hasobject:
            for position, item in enumerate(value.ravel().tolist()):
                self.visit(item, f"{path}[{position}]")
        else:
            self.hash.update(np.ascontiguousarray(value).tobytes())
            self.num_bytes += value.nbytes

    def container(self, value: Any, path: str) -> None:
        if isinstance(value, Mapping):
            self.note(path, "mapping", len(value))
            for key in sorted(value, key=repr):
                self.note(path, "key", repr(key))
                self.visit(value[key], f"{path}[{key!r}]")
        elif isinstance(value, (list, tuple, set, frozenset)):
            items = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
            self.note(path, type(value).__name__, len(value))
            for position, item in enumerate(items):
                self.visit(item, f"{path}[{position}]")
        else:
            self.instance(value, path)

    def instance(self, value: Any, path: str) -> None:
        kind = type(value)
        self.note(path, "object", kind.__module__, kind.__qualname__)
        if kind.__module__ in TREES:  # counts its own queries: the points it holds are its state
            return self.visit(np.asarray(value.data), path)
        if isinstance(value, np.random.RandomState):
            return self.visit(value.get_state(legacy=False), path)
        if isinstance(value, np.random.Generator):
            return self.visit(value.bit_generator.state, path)
        if kind.__module__.startswith("scipy.sparse"):
            return self.visit({"shape": value.shape, "coo": _triples(value)}, path)
        try:
            state = value.__getstate__()  # a plain method call: nothing is pickled, nothing is run from bytes
        except TypeError as error:
            raise _unknown(path, kind) from error
        if isinstance(state, Mapping):
            state = {key: item for key, item in state.items() if key not in SKIPPED}
        elif not (isinstance(state, tuple) or (state is None and kind.__module__.split(".")[0] in STATELESS)):
            raise _unknown(path, kind)
        return self.visit(state, path)


def _triples(matrix: Any) -> list[Array]:
    coo = matrix.tocoo()
    order = np.lexsort((coo.col, coo.row))
    return [coo.row[order], coo.col[order], coo.data[order]]


def _unknown(path: str, kind: type) -> ModelError:
    named = f"{kind.__module__}.{kind.__qualname__}"
    return ModelError(
        Problem(
            f"estimator state {path or 'itself'} is a {named}, which has no canonical form",
            "scikit-learn estimators, arrays, numbers, text and containers of these",
            "Convert it to ONNX, or wrap its predict function in CallableModel",
        )
    )
