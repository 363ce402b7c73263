from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from assay.errors import AssayError, ModelError, StorageError
from assay.models import BUILDERS, Architecture, build, register_architecture
from assay.models.adapters.endpoint import CallableModel
from assay.models.adapters.module import ModuleModel
from assay.models.adapters.onnx import load_onnx
from assay.models.store import (
    load_system,
    load_weights,
    read_manifest,
    recipe_from_json,
    register_decision,
    save_system,
)
from assay.tasks import Argmax, task_of
from assay.tasks.group_thresholds import GroupThresholds, Mixture
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.values import Data, Step, System


@pytest.fixture(scope="module")
def small(small_data: Data) -> System:
    params = {"hidden": [6], "num_bins": 3}
    recipe = TrainRecipe(Architecture("mlp", params), task_of(small_data), TrainSettings(epochs=1, batch_size=128))
    system = train_system(small_data, recipe=recipe)
    steps = (Step("prune_magnitude", "model", {"sparsity": 0.5, "layers": ("a", "b")}, "0" * 64, {"zeros": 3}),)
    return replace(system, lineage=steps)


@pytest.fixture
def saved(small: System, tmp_path: Path) -> Path:
    return save_system(small, tmp_path / "system")


def test_round_trip_keeps_every_digest(small: System, small_data: Data, saved: Path) -> None:
    loaded = load_system(saved, small_data)
    assert loaded.digest == small.digest
    assert loaded.recipe == small.recipe
    assert loaded.recipe is not None
    assert small.recipe is not None
    assert loaded.recipe.digest == small.recipe.digest
    assert loaded.offers == small.offers
    assert loaded.name == small.name
    assert loaded.seed == small.seed
    assert loaded.facts["steps"] == small.facts["steps"]
    rows = small_data.splits["test"].inputs
    assert np.array_equal(loaded.model.outputs(rows), small.model.outputs(rows))
    again = loaded.recipe.fit(small_data.splits["train"], small_data, 0)
    assert again.model.digest == small.model.digest, "the recipe in the folder trains the same weights"


def test_sha256sum_verifies_a_folder_without_this_package(saved: Path) -> None:
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=saved, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == ["OK", "OK", "system.json:", "weights.safetensors:"]
    assert sorted(path.name for path in saved.iterdir()) == ["SHA256SUMS", "system.json", "weights.safetensors"]


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_every_single_bit_flip_is_found(saved: Path, small_data: Data, step: int) -> None:
    """Every flip (fast: every eleventh) of the sums, a sample of the other files; truncations and insertions too."""
    rng = np.random.default_rng(0)
    for path in sorted(saved.iterdir()):
        content = path.read_bytes()
        bits = range(0, 8 * len(content), step) if path.name == "SHA256SUMS" else rng.integers(0, 8 * len(content), 40)
        changes = [content[:-1], content + b"\n", b"", content[1:], content[:9] + b" " + content[9:]]
        for bit in bits:
            changed = bytearray(content)
            changed[int(bit) // 8] ^= 1 << int(bit) % 8
            changes.append(bytes(changed))
        for changed_bytes in changes:
            path.write_bytes(changed_bytes)
            with pytest.raises((StorageError, ModelError)):
                load_system(saved, small_data)
        path.write_bytes(content)
    assert load_system(saved, small_data)


def reseal(folder: Path) -> None:
    """What an attacker who can write the folder would do: make the sums fit again."""
    import hashlib

    files = sorted(path for path in folder.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines))


def edit(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / "system.json").read_text())
    for key, value in changes.items():
        manifest[key] = value
    (folder / "system.json").write_text(json.dumps(manifest))
    reseal(folder)


def test_weights_swapped_with_fitting_sums_are_found_by_the_digest(saved: Path, small_data: Data) -> None:
    tensors = load_file(saved / "weights.safetensors")
    tensors["head.weight"][0, 0] += 1
    save_file(tensors, saved / "weights.safetensors")
    reseal(saved)
    with pytest.raises(ModelError, match="model loaded from"):
        load_system(saved, small_data)


def test_who_can_write_sums_and_digests_too_is_found_by_the_digest_that_was_known_alone(
    small: System, saved: Path, small_data: Data
) -> None:
    """The folder's sums and digests are keyed to nothing, as SECURITY.md says: it tells of damage, not of a hand."""
    everyone = Mixture((), (0.5,), (1.0,))
    forged = replace(small, decision=GroupThresholds(("sex",), 1, (), everyone, "key"), name=small.name)
    made = save_system(forged, saved.with_name("forged"))
    for path in made.iterdir():
        (saved / path.name).write_bytes(path.read_bytes())
    assert load_system(saved, small_data).digest == forged.digest != small.digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"format": "pickle", "file": "weights.safetensors"}}, "format 'pickle'"),
        ({"model": {"format": "module", "file": "../../etc/passwd"}}, "format 'module'"),
        ({"model": {"format": "module", "file": "weights.safetensors"}}, "lacks or misstates 'architecture'"),
        ({"decision": {"name": "os.system"}}, "decision rule 'os.system' is not known"),
        ({"recipe": {"name": "mymodule:evil"}}, "recipe 'mymodule:evil' is not known"),
        ({"lineage": [{"treatment": "x"}]}, "lacks or misstates"),
        ({"lineage": []}, "the system loaded from"),
        ({"format": 2}, "another version"),
        ({"extra": 1}, "another version"),
        ({"digests": []}, "other data"),
        ({"digests": {}}, "other data"),
        ({"facts": None}, "lacks or misstates"),
    ],
)
def test_forged_manifests_are_refused(saved: Path, small_data: Data, changes: dict[str, Any], message: str) -> None:
    edit(saved, **changes)
    with pytest.raises(AssayError, match=message):
        load_system(saved, small_data)


@pytest.mark.parametrize("name", ["evil.module:Net", "os.system", "resnet"])
def test_unknown_architectures_are_names_and_nothing_else(saved: Path, small_data: Data, name: str) -> None:
    about = json.loads((saved / "system.json").read_text())["model"]
    edit(saved, model={**about, "architecture": {"name": name, "params": {}}})
    with pytest.raises(ModelError, match="is not known"):
        load_system(saved, small_data)


def test_weights_that_do_not_fit_the_architecture(saved: Path, small_data: Data) -> None:
    about = json.loads((saved / "system.json").read_text())["model"]
    edit(saved, model={**about, "architecture": {"name": "mlp", "params": {"hidden": [7]}}})
    with pytest.raises(ModelError, match="does not fit MLP"):
        load_system(saved, small_data)


def test_manifests_that_are_not_json(saved: Path, small_data: Data) -> None:
    for content in ("[1]", "nope", "[" * 100_000):
        (saved / "system.json").write_text(content)
        reseal(saved)
        with pytest.raises(ModelError):
            load_system(saved, small_data)


def test_other_data_are_refused(saved: Path, small_data: Data) -> None:
    other = replace(small_data, label="another")
    with pytest.raises(ModelError, match="made with other data"):
        load_system(saved, other)
    assert read_manifest(saved)["data"]["name"] == "small"


def test_not_a_system_folder(tmp_path: Path, small_data: Data) -> None:
    with pytest.raises(ModelError, match="not a system folder"):
        load_system(tmp_path, small_data)


def test_links_are_not_followed(saved: Path, small_data: Data, tmp_path: Path) -> None:
    weights = saved / "weights.safetensors"
    moved = tmp_path / "elsewhere"
    moved.write_bytes(weights.read_bytes())
    weights.unlink()
    weights.symlink_to(moved)
    with pytest.raises(StorageError):
        load_system(saved, small_data)


def test_a_folder_with_something_else_is_left_alone(small: System, tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(ModelError, match="something else than a system"):
        save_system(small, folder)
    assert (folder / "thesis.txt").read_text() == "years of work"


def test_saving_again_replaces_and_a_failure_keeps_the_old(small: System, saved: Path, small_data: Data) -> None:
    other = replace(small, name="other")
    save_system(other, saved)
    assert load_system(saved, small_data).name == "other"
    with pytest.raises(ModelError):
        save_system(replace(small, model=CallableModel(len, name="x", outputs_are="logits")), saved)
    assert load_system(saved, small_data).name == "other"


def test_what_cannot_be_stored_says_why(small: System, tmp_path: Path) -> None:
    assert isinstance(small.model, ModuleModel)
    bare = ModuleModel(small.model.module)
    with pytest.raises(ModelError, match="no registered architecture"):
        save_system(replace(small, model=bare), tmp_path / "a")
    with pytest.raises(ModelError, match="CallableModel cannot be stored"):
        save_system(replace(small, model=CallableModel(len, name="x", outputs_are="logits")), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_onnx_systems_are_stored_as_they_are(small: System, small_data: Data, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper = onnx.helper
    ports = [helper.make_tensor_value_info(name, 1, ["N", 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ports[:1], ports[1:])
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    (tmp_path / "m.onnx").write_bytes(content)
    system = replace(small, model=load_onnx(tmp_path / "m.onnx"), recipe=None)
    folder = save_system(system, tmp_path / "system")
    assert load_system(folder, small_data).digest == system.digest
    assert (folder / "model.onnx").read_bytes() == (tmp_path / "m.onnx").read_bytes()


def test_custom_architectures_tied_weights_and_bfloat16(
    small: System, small_data: Data, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = torch.nn.Linear(4, 4, bias=False)
            self.other = torch.nn.Linear(4, 4, bias=False)
            self.other.weight = self.one.weight
            self.head = torch.nn.Linear(4, 2).to(torch.bfloat16)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.head(self.other(self.one(rows)).to(torch.bfloat16)).float()

    request.addfinalizer(lambda: BUILDERS.pop("tied for a test", None))  # no other test meets it in a list of names
    register_architecture("tied for a test", lambda columns, num_outputs, params: Tied())
    torch.manual_seed(0)
    architecture = Architecture("tied for a test")
    system = replace(small, model=ModuleModel(Tied(), architecture=architecture), recipe=None)
    loaded = load_system(save_system(system, tmp_path / "system"), small_data)
    assert loaded.digest == system.digest
    rows = small_data.splits["test"].inputs
    assert np.array_equal(loaded.model.outputs(rows), system.model.outputs(rows))


def test_decision_rules_come_back(small: System, small_data: Data, tmp_path: Path) -> None:
    everyone = Mixture((), (0.5,), (1.0,))
    rule = GroupThresholds(("sex",), 1, (Mixture(("Female",), (0.3, 0.6), (0.25, 0.75)),), everyone, "key")
    system = replace(small, decision=rule)
    loaded = load_system(save_system(system, tmp_path / "system"), small_data)
    assert loaded.decision.digest == rule.digest
    with pytest.raises(ModelError, match="already registered"):
        register_decision("argmax", lambda about: Argmax())


def test_recipes_that_wrap_another_can_read_it(small: System, small_data: Data) -> None:
    assert isinstance(small.recipe, TrainRecipe)
    assert recipe_from_json(small.recipe.to_json(), small_data) == small.recipe
    with pytest.raises(ModelError, match="train"):
        recipe_from_json({"name": "unknown"}, small_data)


def test_load_weights_into_ones_own_module(small: System, saved: Path, small_data: Data) -> None:
    assert isinstance(small.model, ModuleModel)
    module = build("mlp", columns=small_data.columns, num_outputs=2, params={"hidden": [6], "num_bins": 3})
    load_weights(module, saved / "weights.safetensors")
    assert ModuleModel(module, architecture=small.model.architecture).digest == small.model.digest
    assert not module.training
    with pytest.raises(ModelError, match="does not fit Linear"):
        load_weights(torch.nn.Linear(2, 2), saved / "weights.safetensors")
    with pytest.raises(StorageError, match="damaged or was changed"):
        load_weights(module, saved / "weights.safetensors", sha256="0" * 64)
