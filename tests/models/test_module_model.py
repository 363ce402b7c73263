from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from assay.errors import ModelError
from assay.models import MLP, Architecture
from assay.models.adapters.module import ModuleModel, state_tensors, tensor_bytes
from assay.values import Model
from support import COLUMNS, make_split

ROWS = make_split(50, 1, 1).inputs


def module(seed: int = 0) -> MLP:
    torch.manual_seed(seed)
    made = MLP(COLUMNS, hidden=(8,))
    made.fit_encoding(make_split(200, 2, 1))
    return made


def test_it_is_a_model_and_answers_like_the_module() -> None:
    inner = module().eval()
    model = ModuleModel(inner)
    assert isinstance(model, Model)
    assert model.offers == {"query", "gradient", "meter"}
    with torch.no_grad():
        expected = inner(torch.from_numpy(ROWS)).numpy()
    assert np.array_equal(model.outputs(ROWS), expected)
    assert model.outputs(ROWS).dtype == np.float32


@pytest.mark.parametrize("batch_size", [1, 7, 50, 8192])
def test_batches_make_no_difference(batch_size: int) -> None:
    whole = ModuleModel(module()).outputs(ROWS)
    np.testing.assert_allclose(ModuleModel(module(), batch_size=batch_size).outputs(ROWS), whole, atol=1e-6)


def test_no_rows_give_no_answers_of_the_right_width() -> None:
    assert ModuleModel(module()).outputs(ROWS[:0]).shape == (0, 2)


def test_modes_are_restored_part_by_part() -> None:
    inner = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    inner.train()
    inner[0].eval()
    model = ModuleModel(inner)
    assert np.array_equal(model.outputs(ROWS), model.outputs(ROWS)), "dropout must be off"
    assert inner.training
    assert inner[1].training
    assert not inner[0].training


def test_digest_changes_with_one_bit_of_any_tensor() -> None:
    inner = module()
    digest = ModuleModel(inner).digest
    assert ModuleModel(module()).digest == digest
    for name, tensor in inner.state_dict().items():
        flat = tensor.view(-1)
        before = flat[:1].clone()
        raw = flat.view(torch.uint8) if tensor.dtype != torch.bool else flat
        if not raw.numel():
            continue
        raw[0] = raw[0] ^ 1
        assert ModuleModel(inner).digest != digest, name
        flat[:1] = before
        assert ModuleModel(inner).digest == digest, name


def test_digest_covers_names_shapes_architecture_and_meaning() -> None:
    digests = {
        ModuleModel(module()).digest,
        ModuleModel(module(1)).digest,
        ModuleModel(module(), outputs_are="probabilities").digest,
        ModuleModel(module(), architecture=Architecture("mlp", {"hidden": [8]})).digest,
        ModuleModel(module(), architecture=Architecture("mlp", {"hidden": [8], "dropout": 0.5})).digest,
    }
    assert len(digests) == 5


def test_num_bytes_counts_shared_tensors_once() -> None:
    one, other = nn.Linear(4, 4), nn.Linear(4, 4)
    separate = ModuleModel(nn.Sequential(one, other)).num_bytes
    other.weight = one.weight
    assert separate == 2 * (16 + 4) * 4
    assert ModuleModel(nn.Sequential(one, other)).num_bytes == separate - 16 * 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int8])
def test_bytes_of_every_type(dtype: torch.dtype) -> None:
    tensor = torch.arange(6).to(dtype)
    assert tensor_bytes(tensor) == bytes(tensor.view(torch.uint8).tolist())
    assert tensor_bytes(tensor[::2]) == bytes(tensor[::2].contiguous().view(torch.uint8).tolist())
    assert tensor_bytes(torch.empty(0)) == b""
    assert len(tensor_bytes(torch.tensor(3.0))) == 4


class Odd(nn.Module):
    """Answers whatever it is told to."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, rows: torch.Tensor) -> object:
        return self.answer(rows) if callable(self.answer) else self.answer


@pytest.mark.parametrize(
    "answer",
    [
        lambda rows: torch.zeros(len(rows), 2, dtype=torch.int64),
        lambda rows: torch.zeros(len(rows)),
        lambda rows: torch.zeros(len(rows) + 1, 2),
        lambda rows: torch.zeros(len(rows), 2, 2),
        lambda rows: (torch.zeros(len(rows), 2),),
        lambda rows: None,
    ],
)
def test_answers_that_are_not_answers_are_refused(answer: object) -> None:
    with pytest.raises(ModelError, match=r"\(N, K\)"):
        ModuleModel(Odd(answer)).outputs(ROWS)


def test_nan_passes_through_as_errored_rows() -> None:
    rows = ROWS.copy()
    rows[3, 0] = np.nan
    answers = ModuleModel(module()).outputs(rows)
    assert np.isnan(answers[3]).all()
    assert np.isfinite(np.delete(answers, 3, axis=0)).all()


def test_wrong_input_shape() -> None:
    with pytest.raises(ModelError, match=r"\(N, F\)"):
        ModuleModel(module()).outputs(ROWS[0])


def test_half_precision_answers_become_float32() -> None:
    model = ModuleModel(Odd(lambda rows: torch.ones(len(rows), 2, dtype=torch.bfloat16)))
    assert model.outputs(ROWS).dtype == np.float32


def quantised(inner: MLP) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is deprecated; models made with it exist
        return torch.ao.quantization.quantize_dynamic(inner, {nn.Linear}, dtype=torch.qint8)


@pytest.mark.filterwarnings("ignore")
def test_packed_int8_modules_are_digested_and_offer_no_gradient() -> None:
    model = ModuleModel(quantised(module()), differentiable=False)
    assert model.offers == {"query", "meter"}
    assert model.digest == ModuleModel(quantised(module()), differentiable=False).digest
    other = module()
    with torch.no_grad():
        other.head.weight[0, 0] += 1
    assert model.digest != ModuleModel(quantised(other), differentiable=False).digest
    names = [name for name, _ in state_tensors(model.module)]
    assert any("int_repr" in name for name in names)
    assert model.num_bytes is not None
    assert model.num_bytes < ModuleModel(module()).num_bytes
    gap = np.abs(model.outputs(ROWS) - ModuleModel(module()).outputs(ROWS)).max()
    assert gap < 0.1


def test_state_without_a_canonical_form_is_refused() -> None:
    class Keeps(nn.Module):
        def get_extra_state(self) -> object:
            return object()

        def set_extra_state(self, state: object) -> None:
            pass

    with pytest.raises(ModelError, match="holds a object"):
        ModuleModel(Keeps())
