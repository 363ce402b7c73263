"""Systems whose weights lie in several files, or only open with a key, are served like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from assay.errors import ServeError
from assay.evidence.signing import Signer
from assay.models import Architecture
from assay.serve.admission import admit
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings
from assay.train.system import train_system
from assay.treatments.model.shard_weights import shard_weights
from assay.treatments.serve.encrypt_weights import encrypt_weights
from assay.values import Data, System
from serve_kit import file_tiny

KEY_TEXT = "5a" * 32


@pytest.fixture(scope="module")
def wide(small_data: Data) -> System:
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [64, 32]}), task_of(small_data), TrainSettings(epochs=1))
    return train_system(small_data, name="wide", recipe=recipe)


@pytest.mark.parametrize("forms", ["sharded", "encrypted", "sharded, encrypted"])
def test_they_answer_as_what_was_measured_and_only_with_the_key(
    forms: str, wide: System, signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ASSAY_KEY", KEY_TEXT)
    treated = shard_weights(wide, max_shard_bytes=4096) if "sharded" in forms else wide
    treated = encrypt_weights(treated) if "encrypted" in forms else treated
    folder = file_tiny(treated, tmp_path / "filed", signer, bound=0.1)
    names = sorted(path.name for path in (folder / "system").iterdir() if "safetensors" in path.name)
    assert (len(names) > 2) == ("sharded" in forms)
    assert all(name.endswith((".enc", ".json")) for name in names) == ("encrypted" in forms)
    split = wide.data.splits["test"]
    served = admit(folder)
    expected = admit(file_tiny(wide, tmp_path / "plain", signer, bound=0.1)).answer(
        split.inputs, np.zeros((len(split), 0))
    )
    for one, other in zip(served.answer(split.inputs, np.zeros((len(split), 0))), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    if "encrypted" in forms:
        kept = wide.model.module.state_dict().values()  # type: ignore[attr-defined]
        every = b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
        assert not any(one.numpy().tobytes() in every for one in kept if one.nbytes >= 64)
        monkeypatch.setenv("ASSAY_KEY", "5b" * 32)
        with pytest.raises(ServeError, match="encrypted with key"):
            admit(folder)
        monkeypatch.delenv("ASSAY_KEY")
        with pytest.raises(ServeError, match="there is no key in"):
            admit(folder)
