"""Every refused format is a real file that would leave a sentinel behind if anything in it ran."""

from __future__ import annotations

import builtins
import io
import json
import os
import pickle
import struct
import sys
import tarfile
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from assay.errors import AssayError, ModelError, UnsafeFileError
from assay.models.adapters.onnx import load_onnx
from assay.models.adapters.refuse import MAX_HEADER, check_format
from assay.models.store import load_weights


class Bomb:
    """Unpickling it runs code that makes a file."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return builtins.exec, (f"open({str(self.sentinel)!r}, 'w').close()",)


EVENTS: list[str] = []
WATCHED = ("exec", "pickle.find_class", "subprocess.Popen", "os.system", "socket.connect", "marshal.loads", "import")
LISTENING = threading.Event()


def _audit(event: str, _: object, watched: tuple[str, ...] = WATCHED, listening: threading.Event = LISTENING) -> None:
    if event in watched and listening.is_set():  # bound, for a hook outlives the names of its module
        EVENTS.append(event)


sys.addaudithook(_audit)


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "it-ran"
    yield path
    assert not path.exists(), "code from a refused file was run"


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def written(function: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    function(buffer)
    return buffer.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def malicious(sentinel: Path) -> dict[str, bytes]:
    """Kind to bytes; every one carries the bomb."""
    import bz2
    import gzip
    import lzma
    import zlib

    bomb = Bomb(sentinel)
    pickles = {f"pickle{protocol}": pickle.dumps(bomb, protocol) for protocol in range(6)}
    whole = pickles["pickle4"]
    keras = json.dumps({"class_name": "Lambda", "config": {"function": ["evil", None, None]}}).encode()
    return {
        **pickles,
        "torch zip": written(lambda buffer: torch.save({"weight": bomb}, buffer)),
        "torch legacy": written(lambda b: torch.save({"weight": bomb}, b, _use_new_zipfile_serialization=False)),
        "npy": written(lambda buffer: np.save(buffer, np.array([bomb], dtype=object), allow_pickle=True)),
        "npz": written(lambda buffer: np.savez(buffer, a=np.array([bomb], dtype=object))),
        "keras zip": zipped({"config.json": keras, "metadata.json": b"{}"}),
        "h5": b"\x89HDF\r\n\x1a\n" + whole,
        "gzip": gzip.compress(whole),
        "bz2": bz2.compress(whole),
        "xz": lzma.compress(whole),
        "zlib": zlib.compress(whole),
        "tar": tarred({"data.pkl": whole}),
        "plain zip": zipped({"data.pkl": whole, "../evil": b"x"}),
        "script": b"#!/bin/sh\ntouch " + str(sentinel).encode(),
        "python": b"open(" + repr(str(sentinel)).encode() + b", 'w')\n",
        "yaml": b"!!python/object/apply:os.system ['touch " + str(sentinel).encode() + b"']\n",
        "elf": b"\x7fELF" + bytes(60) + whole,
        "safetensors then zip": save({"a": torch.zeros(4)}) + zipped({"data.pkl": whole}),
        "zip inside safetensors": with_zip_inside(zipped({"data.pkl": whole})),
        "onnx then zip": tiny_onnx() + zipped({"data.pkl": whole}),
        "zip inside onnx": tiny_onnx(zipped({"data.pkl": whole})),
        "spaces then pickle": b"    " + whole,
    }


def with_zip_inside(archive: bytes) -> bytes:
    return save({"a": torch.frombuffer(bytearray(archive), dtype=torch.uint8)})


def tiny_onnx(doc: bytes = b"") -> bytes:
    from onnx import TensorProto, helper

    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", inputs, outputs)
    content: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()
    # A bytes field may hold anything: metadata_props (14) with key (1) and value (2).
    if doc:
        entry = b"\x0a\x01k\x12" + varint(len(doc)) + doc
        content += b"\x72" + varint(len(entry)) + entry
    return content


def varint(number: int) -> bytes:
    out = bytearray()
    while True:
        out.append(number & 0x7F | (0x80 if number > 0x7F else 0))
        number >>= 7
        if not number:
            return bytes(out)


KINDS = sorted(malicious(Path("/nowhere")))
SUFFIXES = [".pkl", ".pt", ".pth", ".bin", ".joblib", ".npy", ".npz", ".h5", ".keras", ".safetensors", ".onnx", ""]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_a_refused_file_runs_whatever_its_name(kind: str, sentinel: Path, tmp_path: Path) -> None:
    content = malicious(sentinel)[kind]
    for suffix in SUFFIXES:
        path = tmp_path / f"model{suffix}"
        path.write_bytes(content)
        for reader in (check_format, load_onnx, lambda name: load_weights(torch.nn.Linear(2, 2), name)):
            EVENTS.clear()
            LISTENING.set()
            try:
                reader(path)
            except (UnsafeFileError, ModelError):
                refused = True
            else:
                refused = False
            finally:
                LISTENING.clear()
            assert refused, (kind, suffix)
            assert set(EVENTS) <= {"import"}, (kind, suffix, EVENTS)


def test_the_bombs_are_real(tmp_path: Path) -> None:
    """Negative control: loading the same files the unsafe way does run the code."""
    for number, kind in enumerate(("pickle0", "pickle4", "npy")):
        sentinel = tmp_path / f"ran-{number}"
        content = malicious(sentinel)[kind]
        if kind == "npy":
            np.load(io.BytesIO(content), allow_pickle=True)
        else:
            pickle.loads(content)  # noqa: S301
        assert sentinel.exists(), kind
    sentinel = tmp_path / "ran-torch"
    torch.load(io.BytesIO(malicious(sentinel)["torch zip"]), weights_only=False)
    assert sentinel.exists()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("python", "yaml", "spaces then pickle")])
def test_known_dangers_are_named_with_the_way_to_convert(kind: str, sentinel: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.weights"
    path.write_bytes(malicious(sentinel)[kind])
    with pytest.raises(UnsafeFileError, match="was not opened") as caught:
        check_format(path)
    following = caught.value.problems[0].next
    assert any(way in following for way in ("save_file(state", "to_onnx(estimator", "model.export"))


def test_allowed_formats_are_told_by_content(tmp_path: Path) -> None:
    for name, content, expected in (
        ("weights.bin", save({"a": torch.zeros(3)}), "safetensors"),
        ("weights.safetensors", save({}), "safetensors"),
        ("anything", tiny_onnx(), "onnx"),
        ("model", gguf_head(), "gguf"),
    ):
        (tmp_path / name).write_bytes(content)
        assert check_format(tmp_path / name) == expected


def gguf_head(version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, 0, 0)


def test_gguf_of_no_known_version_and_two_formats_at_once(tmp_path: Path) -> None:
    path, archive = tmp_path / "model.gguf", io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("data.pkl", b"x")
    for content in (gguf_head(1), gguf_head()[:23]):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="version"):
            check_format(path)
    path.write_bytes(gguf_head() + archive.getvalue())
    with pytest.raises(UnsafeFileError, match="also a zip archive"):
        check_format(path)


def test_a_safetensors_header_that_starts_like_a_pickle_is_not_one(tmp_path: Path) -> None:
    """A header of 0x..0480 bytes begins with 80 04, as a pickle does."""
    for wanted in (0x0280, 0x0380, 0x0480):
        empty = len(header_of({"__metadata__": {"note": ""}}))
        content = header_of({"__metadata__": {"note": "x" * (wanted - empty)}})
        assert len(content) == wanted
        path = tmp_path / "model.safetensors"
        path.write_bytes(struct.pack("<Q", wanted) + content)
        assert path.read_bytes()[:1] == b"\x80"
        assert check_format(path) == "safetensors"


def header_of(header: object) -> bytes:
    return json.dumps(header, separators=(",", ":")).encode()


def raw(header: bytes, data: bytes = b"", *, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


CORRUPT = {
    "empty": b"",
    "short": b"\x01\x02\x03",
    "only a length": struct.pack("<Q", 10),
    "huge length": raw(b"{}", length=2**63),
    "100 MB header": raw(b"{}" + b" " * 64, length=100 << 20),
    "just too long": raw(b"{" + b" " * MAX_HEADER + b"}"),
    "length beyond the file": raw(b"{}", length=3),
    "zero length": raw(b"", b"{}", length=0),
    "not JSON": raw(b"{nope}"),
    "not UTF-8": raw(b'{"\xff":1}'),
    "a list": raw(b"[]{}"),
    "deep": raw(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "NaN": raw(b'{"a":NaN}'),
    "duplicate key": raw(b'{"a":' + header_of(entry()) + b',"a":' + header_of(entry()) + b"}", bytes(4)),
    "duplicate field": raw(b'{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
    "overlap": raw(header_of({"a": entry(), "b": entry(offsets=(2, 6))}), bytes(6)),
    "same bytes twice": raw(header_of({"a": entry(), "b": entry()}), bytes(4)),
    "hole": raw(header_of({"a": entry(), "b": entry(offsets=(8, 12))}), bytes(12)),
    "late start": raw(header_of({"a": entry(offsets=(4, 8))}), bytes(8)),
    "data left over": raw(header_of({"a": entry()}), bytes(5)),
    "data missing": raw(header_of({"a": entry()}), bytes(3)),
    "negative shape": raw(header_of({"a": entry(shape=(-1,))}), bytes(4)),
    "negative offset": raw(header_of({"a": entry(offsets=(-4, 0))}), bytes(4)),
    "reversed offsets": raw(header_of({"a": entry(offsets=(4, 0))}), bytes(4)),
    "overflowing shape": raw(header_of({"a": entry(shape=(2**32, 2**32), offsets=(0, 4))}), bytes(4)),
    "huge numbers": raw(header_of({"a": entry(shape=(10**400,))}), bytes(4)),
    "fraction": raw(header_of({"a": entry(shape=(1.0,))}), bytes(4)),
    "true is not 1": raw(header_of({"a": entry(shape=(True,))}), bytes(4)),
    "unknown type": raw(header_of({"a": entry(dtype="OBJ")}), bytes(4)),
    "type is a list": raw(header_of({"a": entry(dtype=[])}), bytes(4)),
    "missing field": raw(header_of({"a": {"dtype": "F32", "shape": [1]}}), bytes(4)),
    "extra field": raw(header_of({"a": {**entry(), "code": "x"}}), bytes(4)),
    "entry is text": raw(header_of({"a": "F32"}), bytes(4)),
}


@pytest.mark.parametrize("kind", sorted(CORRUPT))
def test_corrupt_safetensors_fail_fast_and_small(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(CORRUPT[kind])
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(ModelError):
            check_format(path)
        seconds, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seconds < 0.5, "the target is 0.1 s; tracing memory slows it down"
    assert peak < 64 << 20


def test_every_single_bit_flip_of_a_header_is_found_or_harmless(tmp_path: Path) -> None:
    """Structure alone: a flip is refused, or gives a file that the safetensors library also reads."""
    content = save({"weight": torch.arange(4.0), "offset": torch.zeros(2, dtype=torch.int8)})
    path = tmp_path / "model.safetensors"
    refused = 0
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            check_format(path)
        except ModelError:
            refused += 1
        else:
            from safetensors.torch import load

            load(bytes(changed))
    assert refused > 4 * len(content), "most flips of a header break its structure"


def test_truncated_onnx_and_safetensors_are_damaged(tmp_path: Path) -> None:
    for name, content in (("m.onnx", tiny_onnx()), ("m.safetensors", save({"a": torch.zeros(30)}))):
        path = tmp_path / name
        for cut in range(len(content)):
            path.write_bytes(content[:cut])
            with pytest.raises(ModelError):
                check_format(path)


def test_links_folders_devices_and_other_tables_are_refused(tmp_path: Path) -> None:
    real = tmp_path / "real.safetensors"
    real.write_bytes(save({"a": torch.zeros(3)}))
    link = tmp_path / "link.safetensors"
    link.symlink_to(real)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (link, tmp_path, pipe, Path("/dev/zero"), tmp_path / "missing.onnx"):
        with pytest.raises(ModelError, match="regular file"):
            check_format(path)
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ModelError, match="not a model file"):
        check_format(tmp_path / "table.csv")


def test_refusals_are_one_kind_of_error(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({}))
    with pytest.raises(AssayError) as caught:
        check_format(tmp_path / "m.pkl")
    assert caught.value.code == "unsafe-file"
