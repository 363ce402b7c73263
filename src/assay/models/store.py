"""Systems as folders: `weights.safetensors` (or `model.onnx`), `system.json`, and `SHA256SUMS` over both.

Where the lineage says so, weights are several files with an index, and encrypted: `models.weight_files`.

Nothing in a folder is ever run: it names architectures, decision rules and recipes, and only names that installed code
has registered can be loaded. `sha256sum -c SHA256SUMS` finds damage without this package, not a hand (SECURITY.md).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
from torch import Tensor, nn

from assay import registry
from assay.errors import ModelError, Problem
from assay.models import Architecture, build, resolve
from assay.models.adapters.module import ModuleModel
from assay.models.adapters.onnx import OnnxModel, load_onnx
from assay.models.adapters.refuse import check_format, check_safetensors
from assay.models.own import missing_in, require_registered, stored
from assay.models.placed import place
from assay.models.weight_files import ENCRYPT, WHOLE, fill_module, form_of, is_ours, weight_files
from assay.storage import Content, read_regular, read_verified, staged_folder, write_atomic
from assay.tasks import Argmax, Identity, task_of
from assay.tasks.decisions import UnlessEven
from assay.tasks.group_thresholds import group_thresholds_from_json
from assay.tasks.lottery import drawn_from_json
from assay.tasks.multi_label import label_thresholds_from_json
from assay.train.loop import TrainSettings
from assay.train.recipe import TrainRecipe
from assay.units.told import columns_of, without_range
from assay.values import Column, Data, Decision, Model, Recipe, Step, System, Task, canonical, digest_of, plain

__all__ = [
    "Parts",
    "load_parts",
    "load_system",
    "load_weights",
    "read_manifest",
    "register_decision",
    "register_recipe",
    "save_system",
]

FORMAT = 1
MAX_MANIFEST = 16 << 20  # bytes
SUMS, MANIFEST = "SHA256SUMS", "system.json"
FIELDS = ("format", "name", "model", "data", "task", "decision", "recipe", "lineage", "facts", "seed", "digests")
T = TypeVar("T")
Sums = Mapping[str, str]  # file name to SHA-256
DecisionBuilder = Callable[[Mapping[str, Any]], Decision]
RecipeBuilder = Callable[[Mapping[str, Any], Data], Recipe]
_decisions: dict[str, DecisionBuilder] = {
    "argmax": lambda _: Argmax(),
    "identity": lambda _: Identity(),
    "unless_even": lambda _: UnlessEven(),
    "group_thresholds": group_thresholds_from_json,
    "drawn": drawn_from_json,
    "label_thresholds": label_thresholds_from_json,
}
_recipes: dict[str, RecipeBuilder] = {}


@dataclass(frozen=True)
class Parts:
    """What it takes to answer: model, task, decision rule and lineage of a stored system, and the digest of all."""

    model: Model
    task: Task
    decision: Decision
    system_digest: str
    lineage: tuple[Step, ...] = ()
    medians: Mapping[str, float] = field(default_factory=dict)  # by column: what stands for a missing number
    columns: tuple[Column, ...] = ()  # as it was made for, with exact ranges


def register_decision(name: str, builder: DecisionBuilder) -> None:
    """Let folders name a decision rule: `builder(rule.to_json())` must give the rule back, digest and all."""
    _register(_decisions, name, builder, "decision rule")


def register_recipe(name: str, builder: RecipeBuilder) -> None:
    """Let folders name a recipe: `builder(recipe.to_json(), data)` must give the recipe back, digest and all."""
    _register(_recipes, name, builder, "recipe")


def save_system(system: System, folder: str | Path) -> Path:
    """Write a system into `folder`, at once or not at all; a system that was there before is replaced.

    Data are named by digest, not copied; training facts, lineage, and a recipe that can be written are, and the medians
    that stand for missing numbers where the data declare so: they are numbers of training rows, as weights are. Raises
    ModelError for a model that cannot be stored (an endpoint, a live estimator, a module without a registered
    architecture) and for a folder that holds something else; StorageError when the disk does not take it.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise ModelError(Problem(f"{folder} holds something else than a system", "a new, empty or system folder"))
    model, contents = _model_to_json(system)
    told = {name: getattr(system.data, name) for name in ("name", "columns", "label", "medians")}
    manifest = canonical(
        {
            "format": FORMAT,
            "name": system.name,
            "model": model,
            "data": told,
            "task": system.task,
            "decision": system.decision.to_json(),
            "recipe": _recipe_to_json(system.recipe),
            "lineage": system.lineage,
            "facts": system.facts,
            "seed": system.seed,
            "digests": _digests(system),
        }
    ).encode()
    with staged_folder(folder) as staged:
        sums = {name: _write(staged / name, content) for name, content in chain([(MANIFEST, manifest)], contents)}
        write_atomic(staged / SUMS, sums_text(sums))
    return folder


def _write(path: Path, content: Content) -> str:
    """Write a file, and give the SHA-256 of what was written; its pieces are never all in memory."""
    total = hashlib.sha256()

    def pieces() -> Iterator[bytes | memoryview]:
        for piece in [content] if isinstance(content, bytes) else content:
            total.update(piece)
            yield piece

    write_atomic(path, pieces())
    return total.hexdigest()


def read_manifest(folder: str | Path) -> Mapping[str, Any]:
    """What `system.json` says (name, data, architecture, lineage, digests), verified against SHA256SUMS first.

    Raises ModelError for a folder that is not a system or was written by another version; StorageError if damaged.
    """
    folder = Path(folder)
    manifest, _ = _read(folder, folder / MANIFEST)
    return manifest


def load_system(folder: str | Path, data: Data, *, devices: Mapping[str, str] | None = None) -> System:
    """The system that `save_system` wrote, on the data it was made with.

    `devices` maps parts of the module by dotted name to devices ("" is all that is not named): see `models.placed`.
    Every file is verified by digest before it is parsed, and the digests of model, data, task, decision rule and the
    whole system are compared after. Raises ModelError for other data or an unknown name of a part; StorageError for
    a damaged file.
    """
    folder = Path(folder)
    manifest, sums = _read(folder, folder / MANIFEST)
    _check_form(folder, manifest)
    if not isinstance(manifest["digests"], dict) or manifest["digests"].get("data") != data.digest:
        what = f"{folder} was made with other data than these ({data.name})"
        raise ModelError(Problem(what, "the same rows, columns and splits", "Load the same data"))
    task = task_of(data)
    try:
        model = _model_from_json(manifest["model"], folder, sums, data, devices)
        decision = _named(_decisions, manifest["decision"], "decision rule")(manifest["decision"])
        recipe = _recipe_from_json(manifest["recipe"], data)
        lineage = tuple(Step(**step) for step in manifest["lineage"])
        facts, seed = dict(manifest["facts"]), int(manifest["seed"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(Problem(f"{folder / MANIFEST} lacks or misstates {error}", next="Save it again")) from error
    system = System(str(manifest["name"]), model, data, task, decision, recipe, lineage, facts, seed)
    wrong = [
        Problem(f"the {name} loaded from {folder} has digest {found}, not the one recorded", str(recorded))
        for name, found in _digests(system).items()
        if found != (recorded := manifest["digests"].get(name))
    ]
    if wrong:
        raise ModelError(wrong)
    return system


def load_parts(folder: str | Path, declared: Data, *, sums: Mapping[str, str] | None = None) -> Parts:
    """What answers of the system that `save_system` wrote, without its rows: for a server.

    `declared` names columns and classes; its splits and ranges are not read. `sums` (SHA-256 by file, as signed)
    replaces the folder's own SHA256SUMS; the bytes that are parsed are those that were hashed. Raises ModelError for
    another declaration, an unknown name of a part or weights outside of one file, StorageError for damage.
    """
    folder = Path(folder)
    manifest, sums = _read(folder, folder / MANIFEST, sums)
    _check_form(folder, manifest)
    task = task_of(declared)
    try:
        columns = columns_of(manifest["data"]["columns"])
        if list(map(without_range, columns)) != list(map(without_range, declared.columns)):
            raise ModelError(Problem(f"{folder} was made for other columns than those declared"))
        model = _model_from_json(manifest["model"], folder, sums, replace(declared, columns=columns))
        decision = _named(_decisions, manifest["decision"], "decision rule")(manifest["decision"])
        recorded = dict(manifest["digests"])
        whole = [model.digest, recorded["data"], task.digest, decision.digest, manifest["lineage"]]
        lineage = tuple(Step(**step) for step in manifest["lineage"])
        medians = dict(manifest["data"].get("medians", {}))  # older folders lack them
        found = {"model": model.digest, "task": task.digest, "decision": decision.digest, "system": digest_of(whole)}
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(Problem(f"{folder / MANIFEST} lacks or misstates {error}", next="Save it again")) from error
    other = [name for name, one in found.items() if one != recorded.get(name)]
    wrong = [Problem(f"the {name} loaded from {folder} is not the one recorded") for name in other]
    if isinstance(model, OnnxModel) and model.content is None:
        wrong.append(Problem(f"{folder} keeps weights outside its one model file"))
    if wrong:
        raise ModelError(wrong)
    return Parts(model, task, decision, found["system"], lineage, medians, columns)


def load_weights(module: nn.Module, path: str | Path, *, sha256: str | None = None) -> nn.Module:
    """Put the tensors of a safetensors file into `module`, which is returned in evaluation mode.

    `sha256`, when given, is verified before parsing. Raises UnsafeFileError for formats that can run code, ModelError
    for a damaged file or one whose names or shapes are not the module's.
    """
    path = Path(path)
    if check_format(path) != "safetensors":
        raise ModelError(Problem(f"{path} is not safetensors", "safetensors", "Load ONNX with load_onnx"))
    content = read_regular(path) if sha256 is None else read_verified(path, sha256)
    return _fill(module, content, str(path))


def _fill(module: nn.Module, content: bytes, name: str) -> nn.Module:
    check_safetensors(io.BytesIO(content), len(content), name=name)
    try:
        module.load_state_dict(safetensors.torch.load(content), assign=True)
    except (RuntimeError, ValueError, safetensors.SafetensorError) as error:
        text = " ".join(str(error).split())[:300]
        raise ModelError(Problem(f"{name} does not fit {type(module).__name__}: {text}")) from error
    return module.eval()


def _model_to_json(system: System) -> tuple[dict[str, Any], Iterable[tuple[str, Content]]]:
    """What `system.json` says, and the files."""
    model = system.model
    if isinstance(model, OnnxModel) and model.content is not None:
        about = {"file": "model.onnx", "format": "onnx", "outputs_are": model.outputs_are}
        return about, [("model.onnx", model.content)]
    if not isinstance(model, ModuleModel):
        what = f"a {type(model).__name__} cannot be stored in a folder"
        raise ModelError(Problem(what, "modules, and ONNX models that are one file", "Export it to ONNX first"))
    architecture = stored(model)
    entries = model.module.state_dict()
    odd = [name for name, entry in entries.items() if not isinstance(entry, Tensor) or entry.is_quantized]
    if odd:
        raise ModelError(Problem(f"state {odd[0]!r} is packed", "plain tensors", "Keep int8 weights as int8 buffers"))
    named, contents = weight_files(dict(sorted(entries.items())), form_of(system.lineage))
    about = named | {
        "format": "module",
        "architecture": {"name": architecture.name, "params": plain(architecture.params)},
        "outputs_are": model.outputs_are,
        "differentiable": "gradient" in model.offers,
    }
    resolved = resolve(architecture, system.data.columns)
    if resolved.digest != architecture.digest:  # made elsewhere, by name and a few parameters: its digest stays
        about["resolved"] = plain(resolved.params)
    return about, contents


def _model_from_json(
    about: Mapping[str, Any],
    folder: Path,
    sums: Mapping[str, str],
    data: Data,
    devices: Mapping[str, str] | None = None,
) -> Model:
    file = about["file"]
    if about["format"] == "onnx" and file == "model.onnx":
        return load_onnx(folder / file, sha256=sums[file], outputs_are=about["outputs_are"])
    if about["format"] != "module" or not (file == WHOLE or is_ours(about)):
        raise ModelError(Problem(f"{folder} holds a model of format {about['format']!r}", "module, onnx"))
    architecture = Architecture(about["architecture"]["name"], dict(about["architecture"]["params"]))
    if missing_in(architecture) is not None:
        registry.load()  # treatments register the architectures they make
    require_registered(architecture, folder)
    num_outputs = task_of(data).num_outputs
    params = about.get("resolved", architecture.params)  # older folders lack it
    module = build(architecture.name, columns=data.columns, num_outputs=num_outputs, params=params)
    if is_ours(about):
        fill_module(place(module, devices or {}), about, folder, sums)
    else:
        _fill(module, read_verified(folder / file, sums[file]), str(folder / file))
        place(module, devices or {})
    return ModuleModel(
        module,
        outputs_are=about["outputs_are"],
        architecture=architecture,
        differentiable=bool(about["differentiable"]),
    )


def _check_form(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Weights that the lineage says are encrypted must be: otherwise a measured 0 readable bytes would be false."""
    try:
        claimed = any(step["treatment"] == ENCRYPT for step in manifest["lineage"])
        is_plain = manifest["model"].get("cipher") is None
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(Problem(f"{folder / MANIFEST} lacks or misstates {error}", next="Save it again")) from error
    if claimed and is_plain:
        what = f"{folder} says that its weights are encrypted, and they are not"
        raise ModelError(Problem(what, next="Save it again"))


def _recipe_to_json(recipe: Recipe | None) -> Any:
    writer = getattr(recipe, "to_json", None)
    return None if writer is None else writer()


def _recipe_from_json(about: Mapping[str, Any] | None, data: Data) -> Recipe | None:
    return None if about is None else _named(_recipes, about, "recipe")(about, data)


def recipe_from_json(about: Mapping[str, Any], data: Data) -> Recipe:
    """A recipe from what its `to_json` wrote, for recipes that wrap another. Raises ModelError for an unknown name."""
    return _named(_recipes, about, "recipe")(about, data)


def base_from_json(about: Mapping[str, Any], data: Data) -> TrainRecipe:
    """The plain recipe under another one, from what that one's `to_json` wrote. Raises ModelError for any other."""
    base = recipe_from_json(about["base"], data)
    if not isinstance(base, TrainRecipe):
        raise ModelError(Problem(f"the recipe under {about['name']} is a {type(base).__name__}", "TrainRecipe"))
    return base


def _train_recipe(about: Mapping[str, Any], data: Data) -> Recipe:
    architecture = Architecture(about["architecture"]["name"], dict(about["architecture"]["params"]))
    return TrainRecipe(architecture, task_of(data), TrainSettings(**about["settings"]))


_recipes["train"] = _train_recipe


def _digests(system: System) -> dict[str, str]:
    parts = (("model", system.model), ("data", system.data), ("task", system.task), ("decision", system.decision))
    return {name: part.digest for name, part in (*parts, ("system", system))}


def _read(folder: Path, path: Path, sums: Sums | None = None) -> tuple[Mapping[str, Any], Sums]:
    """The manifest, verified (against `sums` where given) and parsed, and the SHA-256 of every file."""
    if not path.is_file():
        raise ModelError(Problem(f"{folder} is not a system folder", "a folder written by assay", "Train one first"))
    sums = read_sums(folder) if sums is None else sums
    if MANIFEST not in sums:
        raise ModelError(Problem(f"no digest is known of {path}", next="Restore the folder from a copy"))
    if path.stat().st_size > MAX_MANIFEST:
        raise ModelError(Problem(f"{path} is too long", f"{MAX_MANIFEST:,} bytes"))
    content = read_verified(path, sums[MANIFEST])  # outside of the try: a StorageError is a ValueError too
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelError(Problem(f"{path} is not JSON")) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or set(manifest) != set(FIELDS):
        raise ModelError(Problem(f"{path} was written by another version", f"format {FORMAT}", "Save the system again"))
    return manifest, sums


def read_sums(folder: Path) -> Sums:
    """SHA-256 of every file of a system folder, by name. Raises ModelError when the list itself is damaged."""
    if not (folder / MANIFEST).is_file():
        raise ModelError(Problem(f"{folder} is not a system folder", "a folder written by assay", "Train one first"))
    listed = read_regular(folder / SUMS)
    lines = [line.split("  ") for line in listed.decode("ascii", "replace").splitlines()]
    sums = {line[1]: line[0] for line in lines if len(line) == 2}
    if listed != sums_text(sums) or any(name != Path(name).name for name in sums):  # all files lie in the folder itself
        raise ModelError(Problem(f"{folder / SUMS} is damaged", next="Restore it from a copy"))
    return sums


def sums_text(digests: Mapping[str, str]) -> bytes:
    """The text that `sha256sum` writes, names sorted."""
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()


def _named(table: Mapping[str, T], about: Mapping[str, Any], kind: str) -> T:
    """The builder that a folder names; registered by now, or by loading the treatments."""
    name = str(about["name"])
    if name not in table:
        registry.load()
    if name not in table:
        raise ModelError(Problem(f"{kind} {name!r} is not known", ", ".join(sorted(table))))
    return table[name]


def _register(table: dict[str, Any], name: str, builder: Callable[..., Any], kind: str) -> None:
    known = table.get(name)
    if known is not None and (known.__module__, known.__qualname__) != (builder.__module__, builder.__qualname__):
        raise ModelError(Problem(f"{kind} {name!r} is already registered by {known.__module__}", "a new name"))
    table[name] = builder
