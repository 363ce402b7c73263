"""Weights at rest: none of them on the disk, the key asked for where they are read, and a new key for a new header."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from assay.errors import ModelError, ServeError, StorageError
from assay.evidence.signing import load_signer
from assay.models import Architecture
from assay.models.rotation import rotate_key
from assay.models.store import load_parts, load_system, save_system
from assay.models.weight_files import INDEX
from assay.probes.security.weights_at_rest import readable
from assay.serve.admission import admit
from assay.storage.encrypted import HEADER
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.treatments.model.prune_channels import prune_channels
from assay.treatments.model.shard_weights import shard_weights
from assay.treatments.serve.encrypt_weights import encrypt_weights
from assay.values import Step
from serve_kit import file_tiny

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))


@pytest.fixture(scope="module")
def tiny(small_data):
    settings = TrainSettings(epochs=2, batch_size=64)
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [24, 24]}), task_of(small_data), settings)
    return train_system(small_data, name="tiny", recipe=recipe)


@pytest.fixture(autouse=True)
def owner(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ASSAY_KEY", raising=False)
    path = tmp_path / "key"
    path.write_bytes(KEY)
    path.chmod(0o600)
    monkeypatch.setenv("ASSAY_KEY_FILE", str(path))
    return path


def leaks(folder: Path, system) -> list[str]:
    """Files that hold eight bytes in a row of any weights of the system."""
    rows = [tensor.detach().numpy().tobytes() for tensor in system.model.module.parameters()]
    pieces = [row[start : start + 8] for row in rows for start in range(0, len(row) - 7, 8)]
    contents = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return [name for name, content in contents.items() if any(piece in content for piece in pieces)]


@pytest.mark.parametrize("most", [0, 1024])
def test_no_weights_are_on_the_disk(tiny, small_data, tmp_path, most):
    system = shard_weights(tiny, max_shard_bytes=most) if most else tiny
    treated = encrypt_weights(system)
    plain, folder = save_system(system, tmp_path / "plain"), save_system(treated, tmp_path / "encrypted")
    assert leaks(plain, tiny)  # the search can find them
    assert leaks(tmp_path / "encrypted", tiny) == []
    assert {path.name for path in tmp_path.iterdir()} == {"plain", "encrypted", "key"}  # no temporary file either
    weights = [path.name for path in folder.iterdir() if ".safetensors" in path.name and path.name != INDEX]
    assert all(name.endswith(".safetensors.enc") for name in weights)
    loaded = load_system(folder, small_data)
    assert loaded.digest == treated.digest
    rows = small_data.splits["test"].inputs
    np.testing.assert_array_equal(loaded.model.outputs(rows), tiny.model.outputs(rows))
    assert readable(treated.model.num_bytes, loaded.facts).value == 0 < readable(tiny.model.num_bytes, tiny.facts).value
    assert readable(None, {}).value is None


def test_without_the_key_or_with_another_nothing_loads(tiny, small_data, tmp_path, owner, monkeypatch):
    folder = save_system(encrypt_weights(tiny), tmp_path / "system")
    owner.write_bytes(OTHER)
    with pytest.raises(StorageError, match="encrypted with key"):
        load_system(folder, small_data)
    owner.unlink()
    with pytest.raises(StorageError, match=r"ASSAY_KEY_FILE names .* does not exist"):
        load_system(folder, small_data)
    monkeypatch.delenv("ASSAY_KEY_FILE")
    with pytest.raises(StorageError, match="there is no key"):
        load_system(folder, small_data)
    with pytest.raises(StorageError, match="there is no key"):
        save_system(replace(tiny, lineage=(Step("encrypt_weights", "serve", {}, tiny.digest),)), tmp_path / "other")
    assert not (tmp_path / "other").exists()
    monkeypatch.setenv("ASSAY_KEY", KEY.hex())
    assert load_system(folder, small_data)


def test_plain_weights_are_not_taken_for_encrypted_ones(tiny, small_data, tmp_path):
    folder, plain = save_system(encrypt_weights(tiny), tmp_path / "system"), save_system(tiny, tmp_path / "plain")
    manifest = json.loads((folder / "system.json").read_bytes())
    manifest["model"] = json.loads((plain / "system.json").read_bytes())["model"]
    files = {"system.json": json.dumps(manifest).encode()}
    files["weights.safetensors"] = (plain / "weights.safetensors").read_bytes()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    sums = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)]
    (folder / "SHA256SUMS").write_text("".join(sums))
    for load in (load_system, load_parts):
        with pytest.raises(ModelError, match="says that its weights are encrypted, and they are not"):
            load(folder, small_data)


def test_what_comes_later_stays_encrypted(tiny, small_data, tmp_path):
    treated = prune_channels(encrypt_weights(tiny), sparsity=0.25)
    folder = save_system(treated, tmp_path / "system")
    assert (folder / "weights.safetensors.enc").is_file()
    assert not (folder / "weights.safetensors").exists()
    assert load_system(folder, small_data).digest == treated.digest


def test_files_that_changed_places_are_found_even_with_fitting_sums(tiny, small_data, tmp_path):
    folder = save_system(encrypt_weights(shard_weights(tiny, max_shard_bytes=1024)), tmp_path / "system")
    one, other = sorted(folder.glob("model-*"))[:2]
    contents = one.read_bytes(), other.read_bytes()
    one.write_bytes(contents[1])
    other.write_bytes(contents[0])
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    sums = {line.split("  ")[1]: line.split("  ")[0] for line in lines}
    sums[one.name], sums[other.name] = sums[other.name], sums[one.name]
    (folder / "SHA256SUMS").write_text("".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))
    with pytest.raises((ModelError, StorageError), match=one.name):
        load_system(folder, small_data)


def test_a_new_key_is_a_new_header(tiny, small_data, tmp_path, owner):
    folder = save_system(encrypt_weights(shard_weights(tiny, max_shard_bytes=1024)), tmp_path / "system")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    names = rotate_key(folder, old=KEY, new=OTHER)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(names) == {name for name in before if name.endswith(".enc")}
    for name, content in before.items():
        kept = HEADER if name in names else 0
        assert (after[name][kept:] == content[kept:]) == (name != "SHA256SUMS")
        assert name not in names or after[name][:HEADER] != content[:HEADER]
    with pytest.raises(StorageError, match="encrypted with key"):
        load_system(folder, small_data)
    with pytest.raises(StorageError, match="encrypted with key"):
        rotate_key(folder, old=KEY, new=OTHER)
    owner.write_bytes(OTHER)
    assert load_system(folder, small_data).model.digest == tiny.model.digest
    plain = save_system(tiny, tmp_path / "plain")
    with pytest.raises(ModelError, match="nothing that is encrypted"):
        rotate_key(plain, old=KEY, new=OTHER)
    with pytest.raises(ModelError, match="not a system folder"):
        rotate_key(tmp_path / "nowhere", old=KEY, new=OTHER)


def test_a_new_key_does_not_make_damage_look_whole_nor_reach_out_of_the_folder(tiny, tmp_path):
    folder = save_system(encrypt_weights(tiny), tmp_path / "system")
    path = folder / "weights.safetensors.enc"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
    with pytest.raises(StorageError, match="is damaged or was changed"):
        rotate_key(folder, old=KEY, new=OTHER)
    path.write_bytes(whole)
    secret = tmp_path / "secret"
    secret.write_bytes(b"mine")
    secret.chmod(0o600)
    listed = f"{hashlib.sha256(b'mine').hexdigest()}  ../secret\n" + (folder / "SHA256SUMS").read_text()
    (folder / "SHA256SUMS").write_text(listed)
    with pytest.raises(ModelError, match="SHA256SUMS is damaged"):  # else it is written anew, for everybody to read
        rotate_key(folder, old=KEY, new=OTHER)
    assert secret.stat().st_mode & 0o777 == 0o600


def test_a_dossier_is_served_with_the_key_and_not_without(tiny, small_data, tmp_path, owner):
    signer, _ = load_signer()
    folder = file_tiny(encrypt_weights(tiny), tmp_path / "dossier", signer)
    assert leaks(folder, tiny) == []
    served = admit(folder)
    rows = small_data.splits["test"].inputs[:5]
    found, _ = served.answer(rows, np.full((5, len(served.group_columns)), -1))
    expected = tiny.task.probabilities(tiny.model.outputs(rows))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert json.loads((folder / "system" / "system.json").read_text())["model"]["cipher"] == "AES-256-GCM"
    with pytest.raises(ModelError, match="signed dossier"):
        rotate_key(folder / "system", old=KEY, new=OTHER)
    owner.write_bytes(OTHER)
    with pytest.raises(ServeError, match="encrypted with key"):
        admit(folder)
