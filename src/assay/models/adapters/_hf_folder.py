"""A local Hugging Face folder, read as bytes: what may be loaded, and one sentence for what may not."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.errors import ModelError, Problem, UnsafeFileError
from assay.models.adapters.refuse import check_safetensors
from assay.storage import read_regular

MAX_JSON = 64 << 20  # bytes; tokenizers of 250,000 words take about 20 MB
INDEX = "model.safetensors.index.json"
CONVERT = (
    "Convert it where you trust it: model = AutoModel….from_pretrained(folder); "
    "model.save_pretrained(folder, safe_serialization=True)"
)


@dataclass(frozen=True)
class Folder:
    """The files of a model folder that are used, by name; nothing has been parsed but JSON and headers."""

    path: Path
    files: Mapping[str, bytes]

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object of the folder, {} where the file is not there."""
        return _object(self.files[name], self.path / name) if name in self.files else {}

    @property
    def weights(self) -> tuple[bytes, ...]:
        """The safetensors files, by sorted name."""
        return tuple(self.files[name] for name in sorted(self.files) if name.endswith(".safetensors"))


def open_folder(path: str | Path, *, needs: str, sha256: Mapping[str, str]) -> Folder:
    """Read `config.json`, the weights and `needs` (tokenizer.json or preprocessor_config.json), digests first.

    `sha256` (file name to digest) is verified before anything is parsed. Raises ModelError for a folder that lacks a
    file, holds another than the one named, or is damaged; UnsafeFileError for pickled weights or code of its own.
    """
    path = Path(path)
    if not path.is_dir():
        what = f"{path} is not a folder on this machine"
        raise ModelError(Problem(what, "a folder with config.json and safetensors", "Nothing is fetched by name"))
    _must_have(path, "config.json", "a folder that save_pretrained wrote")
    _refuse_pickles(path)
    _must_have(path, needs, f"config.json, *.safetensors and {needs}")
    names = ["config.json", needs, "tokenizer_config.json", "preprocessor_config.json", INDEX]
    names = [name for name in dict.fromkeys(names) if (path / name).is_file()]
    files = {name: read_regular(path / name) for name in (*names, *(file.name for file in _weight_files(path)))}
    unknown = sorted(set(sha256) - set(files))
    wrong = [name for name in sorted(sha256) if name in files and _sha256(files[name]) != sha256[name].lower()]
    if unknown or wrong:
        raise ModelError([Problem(f"{path / name} is missing or not the file whose digest is known") for name in
                          (*unknown, *wrong)])  # fmt: skip
    folder = Folder(path, files)
    for name in names:
        if name != needs or name != "tokenizer.json":
            _refuse_code(folder, name)
    for name, content in files.items():
        if name.endswith(".safetensors"):
            check_safetensors(io.BytesIO(content), len(content), name=str(path / name))
    return folder


def _must_have(path: Path, name: str, allowed: str) -> None:
    if not (path / name).is_file():
        following = {
            "tokenizer.json": "Write it with: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
            "preprocessor_config.json": "Write it with: AutoImageProcessor.from_pretrained(…).save_pretrained(folder)",
        }
        raise ModelError(Problem(f"{path} has no {name}", allowed, following.get(name, "")))


def _refuse_pickles(path: Path) -> None:
    """Pickled weights beside safetensors are left alone; alone they are refused unopened."""
    if any(path.glob("*.safetensors")):
        return
    found = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5") for file in path.glob(pattern))
    if found:
        raise UnsafeFileError(
            Problem(f"{path / found[0]} was not opened: such weights can run code", "safetensors", CONVERT)
        )
    raise ModelError(Problem(f"{path} has no weights", "model.safetensors, or its shards with an index"))


def _refuse_code(folder: Folder, name: str) -> None:
    found = folder.json(name)
    if found.get("auto_map") or found.get("custom_pipelines"):
        what = f"{folder.path / name} asks for code of its own (auto_map), which is never run"
        following = "Load it yourself, look at its code, and pass the module: ModuleModel(module)"
        raise UnsafeFileError(Problem(what, "architectures that transformers itself has", following))


def _weight_files(path: Path) -> list[Path]:
    """`model.safetensors`, or the shards that the index names, all in the folder itself."""
    if (path / INDEX).is_file():
        named = _object(read_regular(path / INDEX), path / INDEX).get("weight_map", {})
        shards = sorted({str(name) for name in named.values()}) if isinstance(named, dict) else []
        odd = [name for name in shards if Path(name).name != name or not name.endswith(".safetensors")]
        if odd or not shards:
            raise ModelError(Problem(f"{path / INDEX} names {odd or 'no file'}", "safetensors files beside it"))
        return [path / name for name in shards]
    if (path / "model.safetensors").is_file():
        return [path / "model.safetensors"]
    found = sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        raise ModelError(Problem(f"{path} has {len(found)} safetensors files", f"model.safetensors, or {INDEX}"))
    return found


def _object(content: bytes, path: Path) -> dict[str, Any]:
    if len(content) > MAX_JSON:
        raise ModelError(Problem(f"{path} has {len(content):,} bytes", f"at most {MAX_JSON:,}"))
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelError(Problem(f"{path} is not JSON", next="Restore it from a copy")) from error
    if not isinstance(found, dict):
        raise ModelError(Problem(f"{path} is not a JSON object", next="Restore it from a copy"))
    return found


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
