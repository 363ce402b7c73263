from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.errors import ModelError
from assay.models import MLP, Architecture, build, describe, register_architecture
from assay.models.mlp import TableEncoder
from assay.values import Array, Column, Groups, Split
from support import COLUMNS, make_split


def split_of(inputs: Array, labels: Array | None = None) -> Split:
    labels = np.zeros(len(inputs), dtype=np.int64) if labels is None else labels
    groups = Groups(np.zeros((len(inputs), 0), dtype=np.int16), ())
    return Split(inputs.astype(np.float32), labels, groups, np.arange(1, len(inputs) + 1))


def by_hand(inputs: Array, train: Array, num_bins: int) -> Array:
    """The encoding written out slowly, one number at a time, for numeric, numeric, categorical of 3, of 2."""
    rows = []
    for row in inputs:
        cells: list[float] = []
        for column in (0, 1):
            cells.append((row[column] - train[:, column].mean()) / train[:, column].std())
        cells += [0.0, 0.0]
        for column in (0, 1):
            edges = np.quantile(train[:, column], np.linspace(0, 1, num_bins + 1), method="inverted_cdf")
            for left, right in itertools.pairwise(edges):
                cells.append(min(max((row[column] - left) / (right - left), 0.0), 1.0))
        for column, size in ((2, 3), (3, 2)):
            code = row[column] if 0 <= row[column] < size else -1
            cells += [float(code == slot) for slot in range(-1, size)]
        rows.append(cells)
    return np.array(rows)


@pytest.mark.parametrize("num_bins", [0, 4])
def test_encoding_equals_the_definition(num_bins: int) -> None:
    train, rows = make_split(501, 1, 1).inputs, make_split(50, 2, 1).inputs
    rows[:5, 2] = [-1, 3, 7, 0.5, 2]
    encoder = TableEncoder(COLUMNS, num_bins=num_bins)
    encoder.fit(train)
    rows[3, 2] = -1  # half a code is no code: it matches no slot at all, see the next test
    encoded = encoder(torch.from_numpy(rows)).numpy()
    expected = by_hand(rows, train.astype(np.float64), num_bins)
    if num_bins == 0:
        expected = expected[:, [0, 1, 2, 3, *range(4, 11)]]
    np.testing.assert_allclose(encoded, expected, atol=2e-5)
    assert encoded.shape[1] == encoder.num_encoded


def test_unknown_categories_share_one_slot() -> None:
    encoder = TableEncoder((Column("job", "categorical", ("a", "b")),))
    codes = torch.tensor([[-1.0], [2.0], [99.0], [float("nan")], [0.0], [1.0]])
    assert encoder(codes).tolist() == [[1, 0, 0]] * 4 + [[0, 1, 0], [0, 0, 1]]


def test_missing_numbers_have_a_slot_only_if_training_had_some() -> None:
    columns = (Column("a", "numeric"), Column("b", "numeric"))
    train = np.array([[1, 1], [2, np.nan], [3, 3], [4, 5]], dtype=np.float32)
    encoder = TableEncoder(columns, num_bins=2)
    encoder.fit(train)
    model = MLP(columns, hidden=(4,), num_bins=2)
    model.encoder = encoder
    rows = torch.tensor([[2.0, float("nan")], [float("nan"), 2.0], [2.0, 3.0]])
    answers = model(rows)
    assert torch.isfinite(answers[0]).all()
    assert torch.isnan(answers[1]).all(), "a gap that training never saw must not be answered"
    assert encoder(rows)[0, 3] == 1
    assert encoder(rows)[2, 3] == 0


def test_heavy_tails_go_on_a_log_scale_and_others_do_not() -> None:
    rng = np.random.default_rng(0)
    heavy = np.where(rng.random(4000) < 0.95, 0, rng.lognormal(8, 2, 4000))
    train = np.stack([rng.normal(50, 10, 4000), heavy], axis=1).astype(np.float32)
    encoder = TableEncoder((Column("plain", "numeric"), Column("heavy", "numeric")))
    encoder.fit(train)
    assert encoder.log_scale[0] == 0
    assert encoder.log_scale[1] == pytest.approx(np.median(heavy[heavy > 0]), rel=1e-5)
    encoded = encoder(torch.from_numpy(train))[:, :2].numpy()
    np.testing.assert_allclose(encoded.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(encoded.std(axis=0), 1, atol=1e-4)
    raw = (heavy - heavy.mean()) / heavy.std()
    assert np.abs(encoded[:, 1]).max() < np.abs(raw).max() / 2


def test_edges_use_frequent_values_and_leave_the_rest_out_of_reach() -> None:
    values = np.r_[np.zeros(900), np.full(50, 7.0), np.full(30, 3.0), np.full(20, 9.0)]
    encoder = TableEncoder((Column("gain", "numeric"),), num_bins=6)
    encoder.fit(values[:, None])
    edges = encoder.edges[0]
    assert edges[:4].tolist() == [0, 3, 7, 9]
    assert (edges[4:] > 1e35).all()
    assert torch.all(edges[1:] > edges[:-1])
    far = encoder(torch.tensor([[1e6]]))[0, 2:].tolist()
    assert far == pytest.approx([1, 1, 1, 0, 0, 0], abs=1e-20), "unused ramps stay 0 anywhere"


@pytest.mark.parametrize("assign", [False, True])
def test_what_follows_from_the_buffers_is_that_of_the_file_that_was_read(assign: bool) -> None:
    """Ramps and log scales are not in files: a network that is read, even over a fitted one, must not keep its own."""
    rng, columns = np.random.default_rng(0), (Column("plain", "numeric"), Column("heavy", "numeric"))
    fitted, other = TableEncoder(columns, num_bins=5), TableEncoder(columns, num_bins=5)
    heavy = np.where(rng.random(4000) < 0.95, 0, rng.lognormal(8, 2, 4000))
    fitted.fit(np.stack([rng.normal(50, 10, 4000), heavy], axis=1).astype(np.float32))
    other.fit(rng.normal(size=(300, 2)).astype(np.float32))
    assert set(fitted.state_dict()) == {name for name, _ in fitted.named_buffers()} - fitted._non_persistent_buffers_set
    rows = torch.from_numpy(rng.lognormal(3, 2, (50, 2)).astype(np.float32))
    assert not torch.equal(other(rows), fitted(rows))
    other.load_state_dict(fitted.state_dict(), assign=assign)
    assert torch.equal(other(rows), fitted(rows))
    left, right = other.edges[:, :-1], other.edges[:, 1:]
    ramps = ((rows[:, :, None] - left) / (right - left)).clamp(0, 1)
    assert torch.equal(other(rows)[:, 4:], ramps.flatten(1))
    log = torch.sign(rows[:, 1]) * torch.log1p(rows[:, 1].abs() / other.log_scale[1])
    assert torch.equal(other(rows)[:, 1], (log - other.centre[1]) / other.scale[1])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40), st.integers(1, 12))
def test_any_finite_column_gives_a_finite_encoding(values: list[float], num_bins: int) -> None:
    train = np.array(values, dtype=np.float32)[:, None]
    encoder = TableEncoder((Column("any", "numeric"),), num_bins=num_bins)
    encoder.fit(train)
    assert torch.isfinite(encoder(torch.from_numpy(train))).all()
    assert (encoder.edges[0, 1:] > encoder.edges[0, :-1]).all()


def test_encoding_is_fitted_on_the_training_split_only() -> None:
    train = make_split(300, 1, 1)
    model = MLP(COLUMNS, num_bins=4)
    model.fit_encoding(train)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(torch.from_numpy(make_split(300, 9, 1).inputs * 3))
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    assert model.encoder.centre[0] == pytest.approx(train.inputs[:, 0].mean(), rel=1e-5)


@pytest.mark.parametrize("num_bins", [0, 8])
def test_gradients_equal_finite_differences(num_bins: int) -> None:
    torch.manual_seed(0)
    model = MLP(COLUMNS, hidden=(8, 8), num_bins=num_bins)
    model.fit_encoding(make_split(300, 1, 1))
    model = model.double()
    rows = torch.from_numpy(make_split(40, 2, 1).inputs).double().requires_grad_(True)
    (gradients,) = torch.autograd.grad(model(rows)[:, 1].sum(), rows)
    step = 1e-6
    for column in (0, 1):
        moved = torch.zeros_like(rows)
        moved[:, column] = step
        with torch.no_grad():
            numeric = (model(rows + moved)[:, 1] - model(rows - moved)[:, 1]) / (2 * step)
        np.testing.assert_allclose(gradients[:, column].numpy(), numeric.numpy(), rtol=1e-4, atol=1e-6)
    assert torch.all(gradients[:, 2:] == 0), "codes are not quantities"


def test_embeddings_are_the_input_of_the_last_linear_layer() -> None:
    model = MLP(COLUMNS, hidden=(8, 5)).eval()
    seen: list[torch.Tensor] = []
    linear = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    linear[-1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    outputs = model(torch.from_numpy(make_split(3, 1, 1).inputs))
    assert linear[-1] is model.head
    assert torch.equal(model.head(seen[0]), outputs)


def test_regression_answers_in_target_units() -> None:
    rng = np.random.default_rng(0)
    labels = rng.normal(250, 40, 500).astype(np.float32)
    model = MLP((Column("a", "numeric"),), hidden=(4,), num_outputs=1, scale_outputs=True)
    model.fit_encoding(split_of(rng.normal(size=(500, 1)), labels))
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    assert model(torch.zeros(2, 1))[0, 0].item() == pytest.approx(labels.mean(), rel=1e-5)
    torch.nn.init.ones_(model.head.bias)
    assert model(torch.zeros(2, 1))[0, 0].item() == pytest.approx(labels.mean() + labels.std(), rel=1e-4)


def test_parameter_count_equals_the_formula() -> None:
    model = build("mlp", columns=COLUMNS, num_outputs=3, params={"hidden": [16, 7], "num_bins": 5})
    encoded = 2 * (2 + 5) + 4 + 3
    expected = (encoded + 1) * 16 + (16 + 1) * 7 + (7 + 1) * 3
    facts = describe(model)
    assert facts["num_parameters"] == expected
    kept = [tensor for name, tensor in model.state_dict().items() if name.startswith("encoder.")]
    assert facts["num_bytes"] == 4 * expected + sum(tensor.numel() * tensor.element_size() for tensor in kept)


def test_codes_become_slots_as_the_definition_says_row_by_row_too() -> None:
    columns = (Column("a", "categorical", ("x", "y", "z")), Column("b", "numeric"), Column("c", "categorical", ("u",)))
    encoder = TableEncoder(columns)
    codes = [-1, 0, 1, 2, 3, 0.5, 1e-40, float("nan"), float("inf"), -float("inf"), 1e9]
    rows = torch.tensor([[code, 0.0, other] for code in codes for other in (0, 1, -3)])

    def slot(code: float, size: int) -> list[float]:
        known = code if 0 <= code < size else -1  # NaN is unknown
        return [float(np.float32(known) == place) for place in range(-1, size)]

    expected = torch.tensor([[*slot(float(a), 3), *slot(float(c), 1)] for a, _, c in rows.tolist()])
    assert encoder(rows)[:, 2:].equal(expected)
    assert torch.func.vmap(lambda row: encoder(row[None])[0])(rows)[:, 2:].equal(expected)
    assert (encoder(rows)[:, 2:].sum(dim=1) <= 2).all()


def test_bad_sizes_and_names_are_refused_with_what_is_allowed() -> None:
    with pytest.raises(ModelError, match="mlp"):
        build("resnet", columns=COLUMNS, num_outputs=2)
    with pytest.raises(ModelError, match="widht"):
        build("mlp", columns=COLUMNS, num_outputs=2, params={"widht": 3})
    with pytest.raises(ModelError, match="whole numbers from 1"):
        MLP(COLUMNS, hidden=(0,))
    with pytest.raises(ModelError, match="at least one column"):
        MLP(())
    with pytest.raises(ModelError, match="num_bins is 99"):
        MLP(COLUMNS, num_bins=99)
    encoder = TableEncoder((Column("a", "numeric"),))
    with pytest.raises(ModelError, match="no finite value"):
        encoder.fit(np.full((4, 1), np.nan, dtype=np.float32))


def test_one_name_has_one_builder() -> None:
    def other(columns: object, num_outputs: int, params: object) -> torch.nn.Module:
        return torch.nn.Identity()

    with pytest.raises(ModelError, match="already registered"):
        register_architecture("mlp", other)
    register_architecture("identity for a test", other)
    assert isinstance(build("identity for a test", columns=COLUMNS, num_outputs=2), torch.nn.Identity)
    assert Architecture("mlp", {"hidden": [8]}).digest != Architecture("mlp", {"hidden": [9]}).digest


def test_per_example_gradients_work() -> None:
    """What clipped-gradient training needs: vmap over rows gives the gradient of each row alone."""
    model = MLP(COLUMNS, hidden=(6,), num_bins=3)
    split = make_split(9, 1, 1)
    model.fit_encoding(make_split(100, 2, 1))
    rows, labels = torch.from_numpy(split.inputs), torch.from_numpy(split.labels)
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())

    def loss(parameters: dict[str, torch.Tensor], row: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        outputs = torch.func.functional_call(model, (parameters, buffers), (row[None],))
        return torch.nn.functional.cross_entropy(outputs, label[None])

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, rows, labels)
    for position in range(len(rows)):
        alone = torch.autograd.grad(loss(parameters, rows[position], labels[position]), list(parameters.values()))
        for name, gradient in zip(parameters, alone, strict=True):
            torch.testing.assert_close(each[name][position], gradient, rtol=1e-4, atol=1e-6)
