"""Open Inference Protocol v2: tensors in, tensors out.

One tensor a column (numbers, or BYTES for categories), or one FP32 tensor `inputs` `(M, F)` that is coded already, in
JSON or as raw little-endian bytes after the JSON (the binary tensor extension). Texts: one BYTES tensor. Pictures: one
UINT8 or FP32 tensor `(M, C, H, W)`, in JSON or raw. Limits: one model, one version; answers are JSON; of the binary
extension only `inputs` and pictures are read. Source: kserve/open-inference-protocol, specification v2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from assay.errors import Problem
from assay.serve.bodies import MAX_ROWS, Coder, Rows, code_groups, only_keys, parse, refuse
from assay.serve.media import MediaCoder
from assay.serve.refusals import Refusal
from assay.values import Array, Column, Data

__all__ = ["CODED", "AnyCoder", "coder_of", "columns_of", "infer_rows", "tensor", "wanted"]

CODED = "inputs"  # the tensor of coded rows; a column with this name comes first
NUMBERS = ("FP64", "FP32", "FP16", "INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8")
_LONGEST = 128
AnyCoder = Coder | MediaCoder


def coder_of(data: Data, groups: tuple[Column, ...] = ()) -> AnyCoder:
    """What reads rows of this data: named columns of a table, or one text or picture a row."""
    return Coder(data, groups) if data.modality == "table" else MediaCoder(data, groups)


def columns_of(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """The model's inputs, as its metadata lists them; -1 is any number of rows."""
    kinds = {"numeric": "FP64", "categorical": "BYTES", "text": "BYTES", "image": "UINT8"}
    return [{"name": one.name, "datatype": kinds[one.kind], "shape": [-1, *(one.shape or (1,))]} for one in columns]


def infer_rows(body: bytes, header_length: int | None, coder: AnyCoder) -> tuple[Rows, dict[str, Any]]:
    """Coded rows, and the request without its tensors. Raises Refusal 400 or 422, with every problem found."""
    if header_length is not None and not 0 < header_length <= len(body):
        refuse(f"the JSON part is said to be {header_length} bytes of {len(body)}", "Inference-Header-Content-Length")
    request = parse(body if header_length is None else body[:header_length])
    only_keys(request, ("id", "inputs", "outputs", "parameters"))
    if len(str(request.get("id", ""))) > _LONGEST or not isinstance(request.get("id", ""), str):
        refuse("the id is no short text", f"a text of at most {_LONGEST} characters")
    tensors = _tensors(request.pop("inputs", None))
    rest = b"" if header_length is None else body[header_length:]
    if isinstance(coder, MediaCoder):
        return _media(tensors, rest, coder), request
    if CODED in tensors and CODED not in coder.names:
        return _coded(tensors, rest, coder), request
    if rest:
        refuse("raw bytes are given for named tensors", f"raw bytes only for one FP32 tensor {CODED!r}")
    table = _table(tensors, coder)
    instances = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    return coder.rows(instances, what="tensors"), request


def _tensors(listed: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(listed, list) or not listed:
        refuse("'inputs' is no list of tensors", "[{name, shape, datatype, data}, ...]")
    problems, found = [], {}
    for place, one in enumerate(listed):
        name = one.get("name") if isinstance(one, dict) else None
        shape = one.get("shape") if isinstance(one, dict) else None
        sizes = isinstance(shape, list) and all(type(size) is int and 0 <= size <= 2**31 for size in shape)
        if not isinstance(name, str) or not sizes or not isinstance(one.get("datatype"), str):
            problems.append(Problem(f"tensor {place + 1} has no name, shape or datatype", "{name, shape, datatype}"))
        elif name in found:
            problems.append(Problem(f"tensor {name[:60]!r} is given twice"))
        else:
            found[name] = one
    if problems:
        raise Refusal(422, "request", problems[:20])
    rows = {one["shape"][0] if one["shape"] else 0 for one in found.values()}
    if len(rows) != 1 or not 1 <= min(rows) <= MAX_ROWS:
        refuse(f"the tensors have {sorted(rows)[:5]} rows", f"the same number in all, 1 to {MAX_ROWS:,}")
    return found


def _media(tensors: dict[str, dict[str, Any]], rest: bytes, coder: MediaCoder) -> Rows:
    """Texts as BYTES, or pictures as UINT8 or FP32 `(N, C, H, W)`, in JSON or, of pictures, in raw bytes."""
    name, shape = coder.column.name, coder.column.shape
    one = tensors.pop(name, None)
    if one is None:
        refuse(f"there is no tensor {name!r}", name)
    num, allowed = one["shape"][0], ("UINT8", "FP32") if shape else ("BYTES",)
    if one["datatype"] not in allowed or one["shape"] not in ([[num, *shape]] if shape else [[num], [num, 1]]):
        refuse(f"{name!r} is {one['datatype'][:20]} {one['shape'][:4]}", f"{' or '.join(allowed)} {[num, *shape]}")
    if rest and not shape:
        refuse("raw bytes are given for texts", "texts in JSON")
    if rest or "data" not in one:
        inputs = coder.raw(one["datatype"], _content(one, rest), num)
    else:
        cells = _flat(one["data"])
        if len(cells) != num * int(np.prod(shape, dtype=np.int64)):
            refuse(f"{name!r} has {len(cells):,} values for shape {one['shape'][:4]}", "as many values as the shape")
        inputs = coder.pixels(cells, one["datatype"], num) if shape else coder.texts(cells)
    others = _table(tensors, coder)
    problems = _beside(name, others, coder.by_name)
    instances = [{key: cells[row] for key, cells in others.items()} for row in range(num)]
    codes = code_groups(coder.groups, instances, problems)
    if problems:
        raise Refusal(422, "rows", problems)
    return Rows(inputs, codes)


def _beside(name: str, others: Mapping[str, Any], groups: Collection[str]) -> list[Problem]:
    """Tensors that nobody would read."""
    unknown = ", ".join(sorted(set(others) - set(groups)))[:100]
    return [Problem(f"tensors beside {name!r}: {unknown}", "group columns only")] if unknown else []


def _table(tensors: Mapping[str, Mapping[str, Any]], coder: AnyCoder) -> dict[str, list[Any]]:
    """Column name to its cells; columns that are not there are left for the coder to list."""
    problems: list[Problem] = []
    table = {}
    for name, one in tensors.items():
        column, cells = coder.by_name.get(name), _flat(one.get("data"))
        num = one["shape"][0]
        allowed = NUMBERS if column is not None and column.kind == "numeric" else ("BYTES",)
        if column is not None and one["datatype"] not in allowed:
            what = f"tensor {name!r} has datatype {one['datatype'][:20]}"
            problems.append(Problem(what, ", ".join(allowed)))
        if one["shape"] not in ([num], [num, 1]) or len(cells) != num:
            what = f"tensor {name[:60]!r} has {len(cells)} values for shape {one['shape'][:4]}"
            problems.append(Problem(what, f"[{num}] or [{num}, 1], and as many values"))
        table[name] = cells
    if problems:
        raise Refusal(422, "request", problems[:20])
    return table


def _flat(data: Any) -> list[Any]:
    """Values in row-major order: OIP allows them flat or nested."""
    while isinstance(data, list) and data and all(isinstance(one, list) for one in data):
        data = [value for one in data for value in one]
    return data if isinstance(data, list) else []


def _coded(tensors: dict[str, dict[str, Any]], rest: bytes, coder: Coder) -> Rows:
    one = tensors.pop(CODED)
    num, shape = one["shape"][0], [one["shape"][0], len(coder.data.columns)]
    if one["shape"] != shape or one["datatype"] != "FP32":
        refuse(f"{CODED!r} is {one['datatype'][:20]} {one['shape'][:4]}", f"FP32 {shape}")
    inputs = _raw(one, rest, shape) if rest or "data" not in one else _listed(one["data"], shape)
    problems = list(coder.coded(inputs))
    others = _table(tensors, coder)
    problems += _beside(CODED, others, {column.name for column in coder.data.group_columns})
    instances = [{name: cells[row] for name, cells in others.items()} for row in range(num)]
    codes = coder.group_codes(instances, problems)
    if problems:
        raise Refusal(422, "rows", problems)
    return Rows(inputs.astype(np.float32), codes)


def _raw(one: Mapping[str, Any], rest: bytes, shape: Sequence[int]) -> Array:
    content, expected = _content(one, rest), 4 * shape[0] * shape[1]
    if len(content) != expected:
        refuse(f"{len(content)} raw bytes are given for {CODED!r}", f"{expected} bytes")
    return np.frombuffer(content, dtype="<f4").reshape(shape)


def _content(one: Mapping[str, Any], rest: bytes) -> bytes:
    """The raw bytes of the one tensor that has them, as many as it says."""
    parameters = one.get("parameters")
    said = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if said != len(rest) or "data" in one:
        refuse(
            f"{len(rest)} raw bytes are given for {one['name']!r}, said to be {str(said)[:20]}", f"{len(rest)} bytes"
        )
    return rest


def _listed(data: Any, shape: Sequence[int]) -> Array:
    cells = _flat(data)
    if len(cells) != shape[0] * shape[1] or not set(map(type, cells)) <= {int, float}:
        refuse(f"{CODED!r} has {len(cells)} values, or some that are not numbers", f"{shape[0] * shape[1]} numbers")
    try:
        return np.array(cells, dtype=np.float64).reshape(shape)
    except OverflowError:
        refuse(f"{CODED!r} has a number beyond float32", "finite numbers that float32 holds")


def wanted(request: Mapping[str, Any], outputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The outputs that a request asks for by name; all when it names none. Raises Refusal 422."""
    asked = request.get("outputs")
    if asked is None:
        return list(outputs)
    names = [one.get("name") if isinstance(one, dict) else None for one in asked] if isinstance(asked, list) else [None]
    known = {output["name"]: output for output in outputs}
    if not names or not all(isinstance(name, str) and name in known for name in names):
        refuse("'outputs' asks for something else", ", ".join(known))
    return [known[name] for name in dict.fromkeys(names)]


def tensor(name: str, values: Array, datatype: str) -> dict[str, Any]:
    """One output tensor, flat in row-major order."""
    return {"name": name, "shape": list(values.shape), "datatype": datatype, "data": values.ravel().tolist()}
