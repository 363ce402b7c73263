"""Opening what a command was pointed at: data by name or file, systems by folder, file, function or address."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from assay.commands.elsewhere import is_hugging_face, no_options, open_gguf, open_hugging_face
from assay.commands.files import open_file
from assay.commands.options import parse_options
from assay.data.sources.catalogue import CATALOGUE, is_named, open_named
from assay.digests import canonical
from assay.errors import DataError, ModelError, Problem, UsageError
from assay.storage import read_regular, write_atomic
from assay.story import system_of
from assay.values import Data, System

# Name or file, label, groups (comma-separated), of texts their column, and options of a model made elsewhere.
DataSpec = tuple[str, ...]
DATA_FILE = "data.json"
_ALLOWED = (
    "a system folder, a Hugging Face folder, package.module:function, a .onnx or .gguf file, or an http:// address"
)


def names(text: str) -> tuple[str, ...]:
    """Comma-separated names without empty ones.

    >>> names("a, b,")
    ('a', 'b')
    """
    return tuple(name.strip() for name in text.split(",") if name.strip())


def open_data(spec: DataSpec) -> tuple[Data, Mapping[str, Any]]:
    """The data, and what it takes to open the same data again. Raises DataError or UsageError."""
    name, label, groups, text = (*spec, "")[:4]
    if is_named(name) and not Path(name).is_file():
        if label or groups or text:
            what = f"{name} has its own label and groups"
            raise UsageError(Problem(what, "--label, --groups and --text only with a file"))
        return open_named(name), {"built_in": name}
    if not name:
        raise UsageError(Problem("no data is given", f"--data FILE, or one of {', '.join(CATALOGUE)}"))
    if not Path(name).suffix and not Path(name).exists():
        raise UsageError(Problem(f"{name!r} is no file, and no data set of this name is known", ", ".join(CATALOGUE)))
    return open_file(name, label, names(groups), text)


def save(system: System, spec: Mapping[str, Any], folder: Path) -> None:
    """Write a system and, beside it, how to open its data again (never the data). Raises ModelError, StorageError."""
    from assay.models.store import save_system

    save_system(system, folder)
    # Beside the folder's own files, so that the folder itself stays exactly what its digests cover.
    write_atomic(folder.with_name(folder.name + "." + DATA_FILE), canonical(spec).encode() + b"\n")


def open_system(target: str, spec: DataSpec) -> tuple[System, Mapping[str, Any]]:
    """A system and how its data was opened, from what `_ALLOWED` lists.

    Raises UsageError for a target of no known kind, and options it does not take; UnsafeFileError for a file that could
    run code.
    """
    path = Path(target)
    options = parse_options("".join(spec[4:]))
    if path.is_dir() and is_hugging_face(path):
        data, how = open_data(spec)
        return system_of(open_hugging_face(path, data, options), data, name=path.resolve().name), how
    if path.is_file() or (path.suffix and ":" not in target and not path.is_dir()):
        return _file(path, spec, options)
    no_options(options, target)
    if target.startswith(("http://", "https://")):
        data, how = open_data(spec)
        return system_of(_endpoint(target, data), data, name="endpoint"), how
    if path.is_dir():
        from assay.models.store import load_system

        data, how = open_data(spec) if spec[0] else reopen(path)
        return load_system(path, data), how
    if ":" in target:
        return _function(target)
    raise UsageError(Problem(f"{target!r} is no system", _ALLOWED, "Make one with: assay train adult --out system"))


def _file(path: Path, spec: DataSpec, options: Mapping[str, Any]) -> tuple[System, Mapping[str, Any]]:
    from assay.models.adapters.onnx import load_onnx
    from assay.models.adapters.refuse import check_format

    kind = check_format(path)
    if kind == "safetensors":
        raise ModelError(Problem(f"{path} holds weights only", _ALLOWED))
    if kind == "onnx":
        no_options(options, str(path))
    data, how = open_data(spec)
    model = open_gguf(path, data, options) if kind == "gguf" else load_onnx(path)
    return system_of(model, data, name=path.stem), how


def _function(target: str) -> tuple[System, Mapping[str, Any]]:
    from assay.models.adapters.python import load_callable

    return load_callable(target), {"function": target}


def _endpoint(url: str, data: Data) -> Any:
    from assay.models.adapters.endpoint import HttpModel

    if data.classes:
        return HttpModel(url, columns=data.columns, num_outputs=len(data.classes), outputs_are="probabilities")
    if data.label_names:
        return HttpModel(url, columns=data.columns, num_outputs=len(data.label_names), outputs_are="probabilities")
    return HttpModel(url, columns=data.columns, num_outputs=1, outputs_are="values")


def reopen(folder: Path) -> tuple[Data, Mapping[str, Any]]:
    """The data of a saved system, opened again. Raises DataError when how is not known any more."""
    path = folder.with_name(folder.name + "." + DATA_FILE)
    if not path.is_file():
        raise DataError(Problem(f"{path} is not there, so the data of {folder} are not known", next="Give --data"))
    spec = json.loads(read_regular(path))
    if "built_in" in spec:
        return open_data((spec["built_in"], "", ""))
    if "function" in spec:
        system, how = _function(spec["function"])
        return system.data, how
    return open_data((spec["file"], spec["label"], ",".join(spec["groups"]), spec.get("text", "")))
