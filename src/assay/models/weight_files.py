"""The weights of a module as files: one, or several of limited size with an index, and each of them encrypted or not.

The index has the form that other tools read: {"metadata": {"total_size"}, "weight_map": {tensor: file}}. The lineage
decides what a folder holds: `shard_weights` and `encrypt_weights` leave their step there, and `save_system` reads it.

Source: the `model.safetensors.index.json` of the Hugging Face hub (huggingface_hub, "Serialization").
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from assay.errors import ModelError, Problem
from assay.evidence.keys import weights_key
from assay.evidence.strict_json import loads
from assay.models.adapters.refuse import MAX_HEADER, check_safetensors
from assay.storage import Content, read_buffer, read_verified
from assay.storage.encrypted import CIPHER, encrypted, read_encrypted
from assay.values import Step

WHOLE, INDEX, ENCRYPTED = "weights.safetensors", "model.safetensors.index.json", ".enc"
SHARD, ENCRYPT = "shard_weights", "encrypt_weights"  # the treatments whose steps decide
_NAME = re.compile(r"(weights|model-\d{5,}-of-\d{5,})\.safetensors(\.enc)?")
_MORE = 4 << 20  # bytes of a shard beside its tensors: the longest header
_ANY = 1 << 62
TYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2},
}


@dataclass(frozen=True)
class Form:
    """How weights are stored: bytes of tensors a file (0 = all in one), and whether only a key opens them."""

    most: int = 0
    is_encrypted: bool = False


def form_of(lineage: Sequence[Step]) -> Form:
    """The form that the last `shard_weights` and any `encrypt_weights` of a lineage ask for.

    >>> form_of([Step("shard_weights", "model", {"max_shard_bytes": 4096}, "")])
    Form(most=4096, is_encrypted=False)
    """
    sizes = [int(step.parameters["max_shard_bytes"]) for step in lineage if step.treatment == SHARD]
    return Form(sizes[-1] if sizes else 0, any(step.treatment == ENCRYPT for step in lineage))


def shards_of(tensors: Mapping[str, Tensor], most: int) -> list[list[str]]:
    """Names of tensors in order, in runs of at most `most` bytes; a tensor that is larger is a run of its own.

    >>> shards_of({"a": torch.zeros(3), "b": torch.zeros(2), "c": torch.zeros(9), "d": torch.zeros(1)}, 20)
    [['a', 'b'], ['c'], ['d']]
    """
    runs: list[list[str]] = []
    size = math.inf
    for name, tensor in tensors.items():
        if not runs or (most and size + tensor.nbytes > most):
            runs.append([])
            size = 0
        runs[-1].append(name)
        size += tensor.nbytes
    return runs or [[]]


def weight_files(tensors: Mapping[str, Tensor], form: Form) -> tuple[dict[str, Any], Iterator[tuple[str, Content]]]:
    """What `system.json` says of the files, and the files, each made when it is asked for.

    A tensor with two names is written twice: safetensors has no aliases, and the builder ties them again. Raises
    StorageError when they are to be encrypted and there is no key.
    """
    runs, end = shards_of(tensors, form.most), ENCRYPTED if form.is_encrypted else ""
    whole = len(runs) == 1
    named = {
        (WHOLE if whole else f"model-{at:05}-of-{len(runs):05}.safetensors") + end: run
        for at, run in enumerate(runs, 1)
    }
    about: dict[str, Any] = {"file": next(iter(named)) if whole else INDEX}
    if not whole:
        about["largest_shard"] = max(sum(tensors[name].nbytes for name in run) for run in runs)
    key = weights_key() if form.is_encrypted else b""
    if form.is_encrypted:
        about["cipher"] = CIPHER

    def files() -> Iterator[tuple[str, Content]]:
        if not whole:
            yield INDEX, _index(tensors, named)
        for file, run in named.items():
            plain = {name: tensors[name].detach().cpu().clone().contiguous() for name in run}
            content = safetensors.torch.save(plain)
            yield file, encrypted(content, key=key) if key else content

    return about, files()


def _index(tensors: Mapping[str, Tensor], named: Mapping[str, Sequence[str]]) -> bytes:
    total = sum(tensor.nbytes for tensor in tensors.values())
    where = {name: file for file, run in named.items() for name in run}
    return (json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=2) + "\n").encode()


def is_ours(about: Mapping[str, Any]) -> bool:
    """Whether the named file is one that `weight_files` writes for several files, or encrypted."""
    file, cipher = about.get("file"), about.get("cipher")
    return (file == INDEX and cipher in (None, CIPHER)) or (file == WHOLE + ENCRYPTED and cipher == CIPHER)


def fill_module(module: nn.Module, about: Mapping[str, Any], folder: Path, sums: Mapping[str, str]) -> nn.Module:
    """Put the weights of a folder into `module`, file by file: beside the module, one file is in memory at a time.

    Every file is verified by its digest in `sums` before it is parsed, and a file that is larger than the folder says
    is not read. Tensors go to the device where the module has them. Raises StorageError and ModelError that name the
    file.
    """
    key = weights_key() if about.get("cipher") else b""
    file, state = str(about["file"]), module.state_dict()
    where = None if file != INDEX else _read_index(folder, sums)
    names = [file] if where is None else sorted(set(where.values()))
    odd = sorted(set(state) ^ set(where)) if where is not None else []
    if odd:
        raise ModelError(Problem(f"{folder / INDEX} does not fit {type(module).__name__}: {odd[0]!r} is only in one"))
    # Tensors may be wider in the file than in the untouched module, and tables longer: only shards say how large.
    largest = about.get("largest_shard") if where is not None else _ANY
    if type(largest) is not int:
        raise ModelError(Problem(f"{folder} does not say how large its files of weights are", "a number of bytes"))
    most = largest + _MORE
    for name in names:
        expected = set(state) if where is None else {tensor for tensor, file in where.items() if file == name}
        # The file has no name here: it is gone before the next one is read.
        _pour(module, state, _read(folder, name, sums, key, most=most), expected, str(folder / name))
    return module.eval()


def _read(folder: Path, name: str, sums: Mapping[str, str], key: bytes, *, most: int) -> bytearray:
    path = folder / name
    if name not in sums or not _NAME.fullmatch(name):
        raise ModelError(Problem(f"no digest is known of {path}", next="Restore the folder from a copy"))
    return (
        read_encrypted(path, key=key, sha256=sums[name], most=most) if key else read_buffer(path, sums[name], most=most)
    )


def _read_index(folder: Path, sums: Mapping[str, str]) -> dict[str, str]:
    path = folder / INDEX
    if INDEX not in sums:
        raise ModelError(Problem(f"no digest is known of {path}", next="Restore the folder from a copy"))
    content = read_verified(path, sums[INDEX])
    try:
        where = loads(content)["weight_map"]
        fine = isinstance(where, dict) and all(type(file) is str and _NAME.fullmatch(file) for file in where.values())
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(Problem(f"{path} is not an index of weights ({error})")) from error
    if not fine or not where:
        raise ModelError(Problem(f"{path} names no files of weights", "tensors, and model-00001-of-00002.safetensors"))
    return dict(where)


def _pour(module: nn.Module, state: Mapping[str, Tensor], buffer: bytearray, expected: set[str], name: str) -> None:
    """Copy every tensor of a file into the module; the file must hold exactly those that are expected."""
    header = dict(check_safetensors(io.BytesIO(bytes(memoryview(buffer)[: MAX_HEADER + 8])), len(buffer), name=name))
    header.pop("__metadata__", None)
    if set(header) != expected:
        odd = sorted(set(header) ^ expected)
        raise ModelError(Problem(f"{name} does not fit {type(module).__name__}: {odd[0]!r} is missing or too much"))
    start = 8 + int.from_bytes(buffer[:8], "little")
    for key, entry in header.items():
        num, first = math.prod(entry["shape"]), start + entry["data_offsets"][0]
        kind = TYPES[entry["dtype"]]
        found = torch.frombuffer(buffer, dtype=kind, count=num, offset=first) if num else torch.empty(0, dtype=kind)
        _put(module, state[key], key, found.reshape(entry["shape"]), name)


def _put(module: nn.Module, target: Tensor, key: str, found: Tensor, name: str) -> None:
    if (target.dtype, target.shape) == (found.dtype, found.shape):
        if target.device.type != "meta":
            target.copy_(found)
        return
    try:  # a table of any length, or weights in another type: the module says whether they fit
        module.load_state_dict({key: found.clone()}, strict=False, assign=True)
    except (RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())[:300]
        raise ModelError(Problem(f"{name} does not fit {type(module).__name__}: {text}")) from error
