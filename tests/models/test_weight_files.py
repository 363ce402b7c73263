"""Weights in several files: the same bits back, read by other tools, one file in memory at a time, and none forged."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from assay.errors import AssayError, ModelError, TreatmentError
from assay.models import MLP, build, placed
from assay.models.placed import place
from assay.models.store import load_parts, load_system, save_system
from assay.models.weight_files import INDEX, Form, form_of, shards_of
from assay.probes.energy.model_bytes import load_bytes
from assay.treatments.model.prune_channels import prune_channels
from assay.treatments.model.quantize_int8 import quantize_int8
from assay.treatments.model.shard_weights import shard_weights
from support import COLUMNS, small_texts, untrained

MIB = 1 << 20


@pytest.fixture(scope="module")
def small(small_data):
    return untrained(small_data, "mlp", {"hidden": [32, 32, 16]})


@pytest.fixture
def folder(small, tmp_path):
    return save_system(shard_weights(small, max_shard_bytes=4096), tmp_path / "system")


def reseal(folder: Path) -> None:
    files = sorted(path for path in folder.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines))


@pytest.mark.parametrize("largest", ["4096x", None, 1e9, -(1 << 40)])
def test_how_large_files_may_be_must_be_said(small_data, folder, largest):
    manifest = json.loads((folder / "system.json").read_bytes())
    manifest["model"]["largest_shard"] = largest
    (folder / "system.json").write_text(json.dumps(manifest))
    reseal(folder)
    with pytest.raises(AssayError, match=r"how large its files of weights are|bytes. Allowed: up to"):
        load_system(folder, small_data)


def test_the_same_bits_come_back_from_several_files(small, small_data, folder):
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(names) > 1
    assert names[0] == f"model-00001-of-{len(names):05}.safetensors"
    assert not (folder / "weights.safetensors").exists()
    loaded = load_system(folder, small_data)
    assert loaded.model.digest == small.model.digest
    assert loaded.lineage[-1].outcome["files"] == len(names)
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.count("OK") == len(names) + 2
    parts = load_parts(folder, small_data)
    assert parts.model.digest == small.model.digest


def test_a_text_model_and_eight_bits_come_back_too(small, small_data, tmp_path):
    """Tables of any length, and buffers of another type than the untouched module has."""
    texts = untrained(small_texts(200), "lstm", {"dim": 8, "num_hidden": 8, "vocab_size": 60, "num_grams": 200})
    for system in (texts, quantize_int8(small)):
        sharded = shard_weights(system, max_shard_bytes=1024)
        loaded = load_system(save_system(sharded, tmp_path / system.name), system.data)
        assert loaded.digest == sharded.digest
        rows = system.data.splits["test"].inputs[:9]
        np.testing.assert_array_equal(loaded.model.outputs(rows), system.model.outputs(rows))


def test_the_index_is_the_one_other_tools_read(small, folder):
    about = json.loads((folder / INDEX).read_text())
    state = small.model.module.state_dict()
    assert about["metadata"] == {"total_size": sum(tensor.nbytes for tensor in state.values())}
    assert set(about["weight_map"]) == set(state)
    for name, file in about["weight_map"].items():
        assert torch.equal(load_file(folder / file)[name], state[name])
        assert (
            sum(one.nbytes for one in load_file(folder / file).values()) <= 4096 or len(load_file(folder / file)) == 1
        )


@pytest.mark.peer
def test_the_hub_splits_alike_and_reads_what_we_write(small, folder):
    from huggingface_hub import load_torch_model, split_torch_state_dict_into_shards

    state = dict(sorted(small.model.module.state_dict().items()))
    theirs = split_torch_state_dict_into_shards(state, max_shard_size=4096)
    assert theirs.metadata["total_size"] == json.loads((folder / INDEX).read_text())["metadata"]["total_size"]
    fresh = build("mlp", columns=small.data.columns, num_outputs=2, params={"hidden": [32, 32, 16]})
    load_torch_model(fresh, folder)
    assert all(torch.equal(tensor, state[name]) for name, tensor in fresh.state_dict().items())


def test_runs_are_as_full_as_they_may_be():
    random = np.random.default_rng(0)
    for _ in range(200):
        sizes = random.integers(0, 40, random.integers(1, 12))
        tensors = {str(place): torch.zeros(int(size), dtype=torch.uint8) for place, size in enumerate(sizes)}
        most = int(random.integers(1, 60))
        runs = shards_of(tensors, most)
        assert [name for run in runs for name in run] == list(tensors)
        totals = [sum(tensors[name].nbytes for name in run) for run in runs]
        assert all(
            total <= most or sum(tensors[name].nbytes > 0 for name in run) == 1
            for total, run in zip(totals, runs, strict=True)
        )
        assert all(total + tensors[run[0]].nbytes > most for total, run in zip(totals, runs[1:], strict=False))
    assert shards_of({}, 5) == [[]]


def test_what_must_be_in_memory_falls(small):
    before = load_bytes(small.model.num_bytes, small.facts)
    sharded = shard_weights(small, max_shard_bytes=4096)
    assert load_bytes(sharded.model.num_bytes, sharded.facts) < before == 2 * small.model.num_bytes
    assert sharded.model.digest == small.model.digest
    fewer = prune_channels(shard_weights(small), sparsity=0.5)  # stays sharded, and no file is larger than the model
    assert load_bytes(fewer.model.num_bytes, fewer.facts) == 2 * fewer.model.num_bytes
    assert form_of(fewer.lineage) == Form(64 * MIB)
    assert load_bytes(None, {}) is None


@pytest.mark.slow
def test_loading_has_the_model_and_one_file_in_memory(small_data, tmp_path):
    """Largest size of a process, against the same system in one file."""
    system = untrained(small_data, "mlp", {"hidden": [1500] * 12})
    total = system.model.num_bytes
    folders = {
        most: save_system(shard_weights(system, max_shard_bytes=most), tmp_path / str(most))
        for most in (10 * MIB, 1 << 40)
    }
    peaks = {}
    for most, folder in folders.items():  # each in a process of its own: what earlier tests freed would hide it
        command = [sys.executable, "-c", LOADS, str(Path(__file__).parents[1]), str(folder)]
        told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert told.returncode == 0, told.stderr
        loaded, peaks[most] = map(int, told.stdout.split())
        assert loaded == total
    assert total > 90 * MIB
    assert peaks[10 * MIB] <= total + 10 * MIB + 4 * MIB
    assert peaks[1 << 40] > 1.8 * total


LOADS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from assay.models.store import load_system
from assay.values import Data
from support import COLUMNS, GROUP_COLUMNS, make_split

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

splits = {"train": make_split(1200, 1, 1), "validation": make_split(300, 2, 1201), "test": make_split(800, 3, 1501)}
data = Data("small", COLUMNS, "label", GROUP_COLUMNS, splits, ("no", "yes"), "yes")
load_system(sys.argv[2], data)  # allocators warm
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
loaded = load_system(sys.argv[2], data)
print(loaded.model.num_bytes, status("VmHWM") - before)
"""


def break_in(folder: Path, how: str) -> str:
    file = sorted(folder.glob("model-*"))[1]
    if how == "missing":
        file.unlink()
    elif how == "changed":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    elif how == "too large":
        save_file({"a": torch.zeros(6 * MIB, dtype=torch.uint8)}, file)
        reseal(folder)
    elif how == "another tensor":
        save_file({"a": torch.zeros(4)}, file)
        reseal(folder)
    elif how == "damaged":
        file.write_bytes(b"\xff" * 400)
        reseal(folder)
    elif how == "a link":
        other = folder.parent / "elsewhere"
        file.rename(other)
        file.symlink_to(other)
    return file.name


@pytest.mark.parametrize("how", ["missing", "changed", "too large", "another tensor", "damaged", "a link"])
def test_a_file_that_is_not_right_is_named(folder, small_data, how):
    name = break_in(folder, how)
    with pytest.raises(AssayError, match=name) as caught:
        load_system(folder, small_data)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weight_map": {"head.weight": "../../etc/passwd"}}, "names no files"),
        ({"weight_map": {"head.weight": "model-00001-of-00002.safetensors"}}, "is only in one"),
        ({"weight_map": {}}, "names no files"),
        ({"weight_map": ["head.weight"]}, "names no files"),
        ({}, "is not an index"),
    ],
)
def test_a_forged_index_is_refused(folder, small_data, changed, message):
    (folder / INDEX).write_text(json.dumps(changed))
    reseal(folder)
    with pytest.raises(ModelError, match=message):
        load_system(folder, small_data)


def test_tensors_that_swapped_their_files_are_found_by_the_digest(folder, small_data):
    """The sums were made to fit: what is loaded still has another digest."""
    file = sorted(folder.glob("model-*"))[0]
    tensors = load_file(file)
    first = next(name for name in tensors if tensors[name].is_floating_point())
    tensors[first] += 1
    save_file(tensors, file)
    reseal(folder)
    with pytest.raises(ModelError, match="model loaded from"):
        load_system(folder, small_data)


def test_parts_on_devices_answer_the_same(small, folder, small_data):
    loaded = load_system(folder, small_data, devices={"body": "cpu", "head": "cpu"})
    rows = small_data.splits["test"].inputs
    np.testing.assert_array_equal(loaded.model.outputs(rows), small.model.outputs(rows))
    text = untrained(small_texts(100), "transformer", {"dim": 16, "vocab_size": 60, "num_layers": 2})
    before = text.model.outputs(text.data.splits["test"].inputs)
    place(text.model.module, {"embedding": "cpu", "body.blocks.1": "cpu"})
    np.testing.assert_array_equal(text.model.outputs(text.data.splits["test"].inputs), before)


def test_a_part_takes_its_inputs_where_it_is_and_answers_where_it_is_asked(monkeypatch):
    carried = []
    monkeypatch.setattr(placed, "_moved", lambda given, device: carried.append(device) or given)
    module = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Linear(3, 1))
    place(module, {"1": "cpu:0"})
    module(torch.zeros(4, 2))
    assert carried == ["cpu", "cpu:0", "cpu"]
    monkeypatch.undo()
    module = MLP(COLUMNS, hidden=[3, 3], scale_outputs=True)
    place(module, {"": "meta", "body.2": "cpu"})
    held = {name: tensor.device.type for name, tensor in module.state_dict().items()}
    assert {name for name, device in held.items() if device == "cpu"} == {"body.2.weight", "body.2.bias"}
    with pytest.raises(ModelError) as caught:
        place(nn.Linear(2, 2), {"head": "cpu", "": "cuda:99"})
    assert len(caught.value.problems) == 2
    assert place(module, {}) is module


@pytest.mark.gpu
def test_half_on_the_accelerator(small, folder, small_data):
    loaded = load_system(folder, small_data, devices={"body": "cuda:0"})
    assert loaded.model.module.body[0].weight.is_cuda
    assert not loaded.model.module.head.weight.is_cuda
    rows = small_data.splits["test"].inputs
    np.testing.assert_allclose(loaded.model.outputs(rows), small.model.outputs(rows), atol=1e-4)


def test_what_it_refuses(small):
    with pytest.raises(TreatmentError, match="1024 or more"):
        shard_weights(small, max_shard_bytes=10)
