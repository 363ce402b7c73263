"""What is kept of a system names no defaults: a later change of one leaves it as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from assay.errors import ModelError
from assay.models import BUILDERS, MLP, RESOLVERS, Architecture, build, ngrams, resolve
from assay.models.adapters.module import ModuleModel
from assay.models.cnn import lenet, residual, tanh, vgg
from assay.models.gan import discriminator, generator
from assay.models.ngrams import NgramOptions
from assay.models.recurrent import Recurrent
from assay.models.scattering import scattering_network
from assay.models.store import load_system, read_manifest, save_system
from assay.models.text import LANGUAGES
from assay.models.transformer import Encoder
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.treatments.model.quantize_int8 import quantize_int8
from assay.values import Column, Data, System
from support import small_images, small_texts

TABLE = (Column("age", "numeric"), Column("sex", "categorical", ("Female", "Male")))
IMAGE = (Column("image", "image", low=0, high=255, shape=(1, 12, 12)),)
ENGLISH, CHINESE = ((Column("text", "text", language=language),) for language in ("en", "zh"))
COLUMNS = {
    "mlp": TABLE,
    "cnn_lenet": IMAGE,
    "cnn_vgg": IMAGE,
    "cnn_residual": IMAGE,
    "cnn_mirrored": IMAGE,
    "cnn_tanh": (Column("image", "image", low=0, high=255, shape=(1, 16, 16)),),
    "scattering": IMAGE,
    "gan_generator": IMAGE,
    "gan_discriminator": IMAGE,
    "rnn": ENGLISH,
    "lstm": ENGLISH,
    "gru": CHINESE,
    "lstm_attention": ENGLISH,
    "transformer": ENGLISH,
    "ngrams": CHINESE,
}
FUNCTIONS: Mapping[str, Any] = {
    "mlp": (MLP.__init__, {"hidden": (7, 5), "num_bins": 2}),
    "cnn_lenet": (lenet, {"widths": (2, 3), "hidden": (4,)}),
    "cnn_vgg": (vgg, {"widths": (3,), "hidden": 5}),
    "cnn_residual": (residual, {"width": 3, "norm": "group"}),
    "cnn_mirrored": (residual, {"width": 3}),
    "cnn_tanh": (tanh, {"hidden": 8}),
    "scattering": (scattering_network, {"num_angles": 4, "num_groups": 1, "deskew": True}),
    "gan_generator": (generator, {"width": 3}),
    "gan_discriminator": (discriminator, {"width": 3}),
    "rnn": (Recurrent.__init__, {"num_hidden": 3, "bidirectional": False}),
    "lstm": (Recurrent.__init__, {"num_hidden": 3, "num_layers": 2}),
    "gru": (Recurrent.__init__, {"num_hidden": 3}),
    "lstm_attention": (Recurrent.__init__, {"num_hidden": 3}),
    "transformer": (Encoder.__init__, {"num_heads": 2, "num_layers": 2, "num_hidden": 8, "positions": "learned"}),
    "ngrams": (NgramOptions.__init__, {"dim": 3, "num_grams": 50}),
}
# What wraps another architecture, with its parameters beside `base`; "" stands for the first linear layer.
WRAPPERS: Mapping[str, Any] = {
    "channels": {"kept": {"": 2}},
    "guarded": {"score": "distance"},
    "int8": {"arithmetic": {"": "float32"}},
    "low_rank": {"ranks": {"": 2}},
    "onnxruntime": {"num_bytes": 40},
    "rounded": {"decimals": 2, "top_only": False},
    "smoothed": {"num_votes": 5, "alpha": 0.1},
    "sparse": {"kept": {"": 1}},
    "temperature": {},
    "uncorrelated": {"hidden": ["sex"], "alpha": 1.0},
    "votes": {"num": 2},
}
FIXED = {"onnxruntime"}  # its one tensor is the graph, whatever the layers within
INNERMOST = {"channels"}  # it takes units out of networks it knows, and of nothing around them
ADAPTERS = {"hugging_face", "sentence_encoder"}  # made elsewhere: read from a folder


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def test_every_architecture_made_here_writes_its_parameters_out() -> None:
    ours = {name for name, builder in BUILDERS.items() if builder.__module__.startswith("assay.")}
    assert ours <= set(RESOLVERS), "an architecture whose parameters are not written out depends on its defaults"
    assert ours - set(WRAPPERS) - ADAPTERS == set(COLUMNS) == set(FUNCTIONS)


@pytest.mark.slow
def test_every_architecture_is_known_without_the_treatments_that_make_it() -> None:
    # A saved wrapper of a wrapper names the inner one only in its parameters.
    code = "from assay.models import BUILDERS; print(*sorted(BUILDERS))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(told.split()) - ADAPTERS == set(COLUMNS) | set(WRAPPERS)


@pytest.mark.parametrize(
    ("name", "inner"),
    [(name, inner) for name in WRAPPERS for inner in ("mlp", "temperature") if inner == "mlp" or name not in INNERMOST],
)
def test_a_wrapper_writes_out_what_is_within(name: str, inner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    within: dict[str, Any] = {"name": "mlp", "params": {}}
    layer = "body.0"
    if inner == "temperature":
        within, layer = {"name": inner, "params": {"base": within}}, "base.body.0"
    others = {part: {layer: value[""]} if isinstance(value, dict) else value for part, value in WRAPPERS[name].items()}
    before = resolve(Architecture(name, {"base": within, **others}), TABLE)
    written = resolve(Architecture(within["name"], within["params"]), TABLE).params
    assert before.params == {"base": {"name": inner, "params": written}, **others}
    assert resolve(before, TABLE) == before
    built = shapes(build(name, columns=TABLE, num_outputs=3, params=before.params))
    function, changed = FUNCTIONS["mlp"]
    for parameter, value in changed.items():
        monkeypatch.setitem(function.__kwdefaults__, parameter, value)
    changed = shapes(build(name, columns=TABLE, num_outputs=3, params={"base": within, **others}))
    assert (changed == built) == (name in FIXED), "the defaults did change"
    assert shapes(build(name, columns=TABLE, num_outputs=3, params=before.params)) == built


@pytest.mark.parametrize("name", COLUMNS)
def test_written_out_it_builds_the_same_whatever_the_defaults_become(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = COLUMNS[name]
    before = resolve(Architecture(name), columns)
    assert resolve(before, columns) == before
    assert Architecture(name, dict(before.params)).digest == before.digest
    assert json.loads(json.dumps(before.params)) == before.params
    built = shapes(build(name, columns=columns, num_outputs=3))
    function, others = FUNCTIONS[name]
    for parameter, value in others.items():
        monkeypatch.setitem(function.__kwdefaults__, parameter, value)
    monkeypatch.setitem(LANGUAGES, "zh", {"kind": "word", "vocab_size": 77})
    monkeypatch.setitem(LANGUAGES, "en", {"vocab_size": 55, "dim": 8, "num_grams": 9})
    monkeypatch.setitem(ngrams.LANGUAGES, "zh", {"vocab_size": 77})
    changed = build(name, columns=columns, num_outputs=3)
    assert shapes(changed) != built, "the defaults did change"
    assert shapes(build(name, columns=columns, num_outputs=3, params=before.params)) == built


def trained(data: Data, name: str, params: dict[str, Any]) -> System:
    recipe = TrainRecipe(Architecture(name, params), task_of(data), TrainSettings(epochs=1, batch_size=128))
    return train_system(data, recipe=recipe)


def written_by_defaults(system: System, params: dict[str, Any], data: Data) -> System:
    """The same made without writing parameters out, as before they were, and by hand."""
    model = system.model
    assert isinstance(model, ModuleModel)
    assert model.architecture is not None
    bare = Architecture(model.architecture.name, params)
    return replace(system, model=ModuleModel(model.module, architecture=bare), recipe=None)


@pytest.mark.parametrize("kind", ["mlp", "cnn_lenet", "lstm"])
def test_a_saved_system_outlives_its_defaults(
    kind: str, small_data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"mlp": small_data, "cnn_lenet": small_images(200), "lstm": small_texts(200)}[kind]
    given: dict[str, Any] = {"vocab_size": 40, "max_length": 8} if kind == "lstm" else {}
    system = trained(data, kind, given)
    every = {"plain": system, "bare": written_by_defaults(system, given, data), "int8": quantize_int8(system)}
    rows = data.splits["test"].inputs[:50]
    answers = {name: one.model.outputs(rows) for name, one in every.items()}
    for name, one in every.items():
        save_system(one, tmp_path / name)
    function, others = FUNCTIONS[kind]
    for parameter, value in others.items():
        monkeypatch.setitem(function.__kwdefaults__, parameter, value)
    monkeypatch.setitem(LANGUAGES, "en", {"dim": 8, "num_grams": 9})
    for name, one in every.items():
        loaded = load_system(tmp_path / name, data)
        assert loaded.digest == one.digest
        assert np.array_equal(loaded.model.outputs(rows), answers[name]), f"{name}: the same bits"
    assert system.recipe is not None
    again = load_system(tmp_path / "plain", data).recipe
    assert again is not None
    assert again.fit(data.splits["train"], data, 0).model.digest == system.model.digest, "and it is trained the same"


def test_defaults_written_out_are_the_same_system(small_data: Data) -> None:
    default = trained(small_data, "mlp", {})
    written = trained(small_data, "mlp", {"hidden": (64, 64), "num_bins": 0, "dropout": 0, "scale_outputs": False})
    assert written.digest == default.digest
    assert written.recipe is not None
    assert default.recipe is not None
    assert written.recipe.digest == default.recipe.digest
    assert trained(small_data, "mlp", {"hidden": (64,)}).digest != default.digest


def test_folders_from_before_still_load(small_data: Data, tmp_path: Path) -> None:
    import hashlib

    system = written_by_defaults(trained(small_data, "mlp", {"hidden": [6]}), {"hidden": [6]}, small_data)
    folder = save_system(system, tmp_path / "system")
    manifest = json.loads((folder / "system.json").read_text())
    assert manifest["model"].pop("resolved")["num_bins"] == 0
    (folder / "system.json").write_text(json.dumps(manifest))
    files = sorted(path for path in folder.iterdir() if path.name != "SHA256SUMS")
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    (folder / "SHA256SUMS").write_text(sums)
    assert read_manifest(folder)["model"]["architecture"]["params"] == {"hidden": [6]}
    assert load_system(folder, small_data).digest == system.digest


@pytest.mark.parametrize("name", COLUMNS)
def test_every_unknown_parameter_is_named_and_every_known_one_listed(name: str) -> None:
    with pytest.raises(ModelError) as raised:
        build(name, columns=COLUMNS[name], num_outputs=2, params={"hiden": 3, "layers": 1})
    told = str(raised.value)
    assert "'hiden'" in told
    assert "'layers'" in told
    assert ", ".join(sorted(resolve(Architecture(name), COLUMNS[name]).params)) in told


def test_dropout_of_a_text_models_body_is_its_own() -> None:
    def rates(name: str, **params: Any) -> dict[str, float]:
        module = build(name, columns=ENGLISH, num_outputs=2, params=params)
        found = {part: one.p for part, one in module.named_modules() if isinstance(one, nn.Dropout)}
        layers = [one.dropout for one in module.modules() if isinstance(one, nn.RNNBase)]
        return found | ({"body.layers": layers[0]} if layers else {})

    encoder = rates("transformer", dropout=0.1, layer_dropout=0.25)
    assert encoder.pop("drop") == 0.1
    assert set(encoder.values()) == {0.25}
    assert len(encoder) == 2
    assert rates("lstm", dropout=0.1, layer_dropout=0.25, num_layers=2) == {"drop": 0.1, "body.layers": 0.25}
    assert rates("gru", layer_dropout=0.25)["body.layers"] == 0.0, "one layer has nothing between layers"
    for name in ("transformer", "gru"):
        with pytest.raises(ModelError, match="layer_dropout is 1"):
            build(name, columns=ENGLISH, num_outputs=2, params={"layer_dropout": 1.0})
