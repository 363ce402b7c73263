"""Every treatment on every architecture: it works as the contract says, or refuses with a sentence that helps."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from assay import registry
from assay.digests import canonical
from assay.errors import TreatmentError
from assay.models import Architecture
from assay.models.store import load_system, save_system
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.values import System
from support import small_images, small_texts

registry.load()
SMALL = {"dim": 8, "num_hidden": 8, "vocab_size": 60}
ARCHITECTURES = {
    "cnn_lenet": {"widths": [2, 3], "hidden": [8]},
    "cnn_vgg": {"widths": [4, 4], "hidden": 8},
    "cnn_residual": {"norm": "group", "width": 8},
    "rnn": SMALL,
    "lstm": SMALL,
    "gru": SMALL,
    "lstm_attention": SMALL,
    "transformer": {"dim": 16, "vocab_size": 60},
    "ngrams": {"dim": 4, "vocab_size": 60, "num_grams": 200},
}
# What may refuse, and the word its sentence must hold; everything else must work.
REFUSED = {
    **{(name, "adversarial_training"): "texts" for name in ARCHITECTURES if not name.startswith("cnn")},
    **{(name, "answer_by_vote"): "texts" for name in ARCHITECTURES if not name.startswith("cnn")},
    **{(name, "augment_by_gan"): "texts" for name in ARCHITECTURES if not name.startswith("cnn")},
    **{(name, "factor_low_rank"): "no linear layer would get smaller" for name in ("cnn_residual", "rnn", "ngrams")},
    **{
        (name, one): "tables"
        for name in ARCHITECTURES
        for one in ("fill_missing", "generalise_to_k", "remove_correlation")
    },
    **{(name, "prune_by_activation"): "no layer to thin out" for name in ("rnn", "lstm", "gru", "ngrams")},
    ("ngrams", "prune_channels"): "cannot be taken out safely",
    ("ngrams", "prune_and_retrain"): "cannot be taken out safely",
    **{(name, "redact_personal_data"): "texts" for name in ARCHITECTURES if name.startswith("cnn")},
    **{(name, "swap_identity_terms"): "texts" for name in ARCHITECTURES},  # these texts name nobody
}
QUICK = {
    ("cnn_lenet", "prune_magnitude"),
    ("lstm", "prune_magnitude"),
    ("gru", "quantize_int8"),
    ("lstm", "fill_missing"),
    ("ngrams", "prune_magnitude"),
}


@cache
def system_of(name: str) -> System:
    """Trained for a moment, on two classes and a group with enough rows of both."""
    is_picture = name.startswith("cnn")
    data = (
        small_images(2000, num_classes=2) if is_picture else small_texts(2000, language="zh" if name == "gru" else "en")
    )
    recipe = TrainRecipe(
        Architecture(name, ARCHITECTURES[name]), task_of(data), TrainSettings(epochs=1, batch_size=128)
    )
    return train_system(data, name=name, recipe=recipe, seed=3)


# What changes only rows or answers never sees the architecture: a picture and a text model will do. What trains the
# recipe as it is, on other labels, is tried on the cheapest one.
SEES_NO_WEIGHTS, ENOUGH = {"data", "serve"}, {"cnn_lenet", "gru"}
TRAINS_AS_IT_IS = {"exponentiated_gradient", "smooth_labels"}
# What ends in the graph of another treatment here sees each kind of layer there; exporting takes seconds.
AS_ANOTHER = {
    "train_for_int8": {"cnn_residual", "transformer"},
    "run_by_onnxruntime": {"cnn_vgg", "gru"},
    "quantize_int4": {"cnn_lenet", "transformer"},
}
CASES = [
    pytest.param(
        name,
        treatment.name,
        id=f"{treatment.name}-{name}",
        marks=() if (name, treatment.name) in QUICK else pytest.mark.slow,
    )
    for name in ARCHITECTURES
    for treatment in registry.TREATMENTS.values()
    if (treatment.name not in TRAINS_AS_IT_IS or name == "cnn_lenet")
    and (treatment.stage not in SEES_NO_WEIGHTS or name in ENOUGH or (name, treatment.name) in QUICK)
    if name in AS_ANOTHER.get(treatment.name, ARCHITECTURES)
]


@pytest.mark.parametrize(("name", "treatment"), CASES)
def test_it_works_or_says_why_not(name, treatment, tmp_path):
    system, function = system_of(name), registry.TREATMENTS[treatment].function
    before = system.model.digest
    if (name, treatment) in REFUSED:
        with pytest.raises(TreatmentError, match=REFUSED[name, treatment]) as caught:
            function(system)
        for problem in caught.value.problems:
            assert problem.what.startswith(f"{treatment} does not fit {name}: ")
            assert problem.allowed or problem.next
        return
    treated = function(system)
    assert treated.lineage[-1].treatment == treatment
    assert canonical(treated.lineage[-1])
    assert not {"seconds", "cpu_seconds", "joules"} & set(treated.lineage[-1].outcome)
    assert system.model.digest == before
    inputs = treated.data.splits["test"].inputs[:24]
    outputs = treated.model.outputs(inputs)
    assert outputs.shape == (24, 2)
    assert np.isfinite(outputs).all()
    one_by_one = np.concatenate([treated.model.outputs(inputs[place : place + 1]) for place in range(24)])
    np.testing.assert_allclose(one_by_one, outputs, atol=1e-4)
    assert function(system, **treated.lineage[-1].parameters).digest == treated.digest
    loaded = load_system(save_system(treated, tmp_path / "system"), treated.data)
    assert loaded.digest == treated.digest
    np.testing.assert_array_equal(loaded.model.outputs(inputs), outputs)


@pytest.mark.parametrize("name", ["cnn_lenet", pytest.param("lstm", marks=pytest.mark.slow)])
def test_pruning_takes_the_smallest_of_filters_tables_and_recurrent_weights(name):
    system = system_of(name)
    treated = registry.TREATMENTS["prune_magnitude"].function(system, sparsity=0.4)
    before = dict(system.model.module.named_parameters())
    after = dict(treated.model.module.named_parameters())
    touched = {key for key, value in after.items() if not np.array_equal(value.detach(), before[key].detach())}
    kinds = ("body.1.weight", "body.4.weight", "head.weight") if name == "cnn_lenet" else (
        "embedding.weight", "body.layers.weight_ih_l0", "body.layers.weight_hh_l0_reverse", "head.weight",
    )  # fmt: skip
    weights = {key for key, value in before.items() if value.ndim > 1}
    assert touched <= weights
    assert len(touched & set(kinds)) == len(kinds) or name == "cnn_lenet"
    parts = {key: before[key].detach().numpy() for key in weights}
    if "embedding.weight" in parts:
        parts["embedding.weight"] = parts["embedding.weight"][1:]  # padding is 0 and does not count
    sizes = np.sort(np.abs(np.concatenate([one.ravel() for one in parts.values()])))
    limit = sizes[round(0.4 * len(sizes)) - 1]
    for key, value in parts.items():
        now = after[key].detach().numpy()[-len(value) :]
        np.testing.assert_array_equal(now, np.where(np.abs(value) <= limit, 0, value))
    assert treated.lineage[-1].outcome["by_units"] is False
    assert treated.lineage[-1].outcome["zero_share"] == pytest.approx(0.4, abs=1e-3)


def test_eight_bits_say_what_stayed_float():
    system = system_of("gru")
    outcome = registry.TREATMENTS["quantize_int8"].function(system).lineage[-1].outcome
    layers = system.model.module
    gates = sum(4 * one.numel() for one in layers.body.layers.parameters() if one.ndim > 1)
    words = 4 * (layers.embedding.weight.numel() + layers.grams.embedding.weight.numel())
    assert outcome["left_float"] == {"Embedding": words, "GRU": gates}
    assert outcome["bytes_after"] < outcome["bytes_before"]
