from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.errors import ModelError
from assay.models.kernels import written_out
from assay.models.recurrent import LAYERS, Recurrent

CELLS = list(LAYERS)


def batch(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    embedded = torch.randn(5, 7, 6, generator=generator, dtype=dtype)
    seen = torch.arange(7) < torch.tensor([7, 1, 4, 0, 6])[:, None]
    return embedded, seen


def layers(cell: str, *, bidirectional: bool, num_layers: int = 2) -> Recurrent:
    torch.manual_seed(0)
    made = Recurrent(6, cell=cell, num_hidden=4, num_layers=num_layers, bidirectional=bidirectional)  # type: ignore[arg-type]
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)  # biases too: both sets must be used
    return made.eval()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-10)])
def test_gate_equations_equal_the_fused_kernel(
    cell: str, bidirectional: bool, dtype: torch.dtype, tolerance: float
) -> None:
    model = layers(cell, bidirectional=bidirectional).to(dtype)
    embedded, seen = batch(dtype)
    embedded.requires_grad_(True)
    weights = torch.randn(5, 7, model.num_outputs, generator=torch.Generator().manual_seed(2), dtype=dtype)

    def run() -> tuple[Tensor, list[Tensor]]:
        states = model(embedded, seen)
        return states, list(torch.autograd.grad((states * weights).sum(), [embedded, *model.parameters()]))

    fused, fused_gradients = run()
    with written_out(model):
        written, written_gradients = run()
    torch.testing.assert_close(written, fused, rtol=0, atol=tolerance)
    for ours, theirs in zip(written_gradients, fused_gradients, strict=True):
        largest = theirs.abs().max().item()
        assert largest > 1e-2, "a gradient of zero would show nothing"
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * max(1.0, largest))


def sigmoid(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-value))


@pytest.mark.parametrize("cell", CELLS)
def test_states_equal_the_papers_equations_in_numpy(cell: str) -> None:
    """A third way, gate by gate: neither kernel nor file shares a line with it."""
    model = layers(cell, bidirectional=False, num_layers=1).double()
    embedded, seen = batch(torch.float64)
    weight, again, bias, bias_again = (parameter.detach().numpy() for parameter in model.layers.parameters())
    hidden, memory, size = np.zeros(4), np.zeros(4), 4

    def part(number: int, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(number * size, (number + 1) * size)
        return weight[rows] @ inputs + bias[rows], again[rows] @ hidden + bias_again[rows]

    for place, inputs in enumerate(embedded[0].numpy()):
        if cell == "rnn":
            hidden = np.tanh(sum(part(0, inputs)))
        elif cell == "lstm":
            enter, forget, new, out = (sum(part(number, inputs)) for number in range(4))
            memory = sigmoid(forget) * memory + sigmoid(enter) * np.tanh(new)
            hidden = sigmoid(out) * np.tanh(memory)
        else:
            reset, update = (sigmoid(sum(part(number, inputs))) for number in range(2))
            given, recurrent = part(2, inputs)
            hidden = (1 - update) * np.tanh(given + reset * recurrent) + update * hidden
        with torch.no_grad():
            np.testing.assert_allclose(model(embedded, seen)[0, place].numpy(), hidden, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kernel", ["fused", "written"])
def test_padding_changes_no_state(cell: str, kernel: str) -> None:
    model = layers(cell, bidirectional=True)
    model.kernel = kernel  # type: ignore[assignment]
    embedded, seen = batch()
    states = model(embedded, seen)
    other = torch.where(seen[:, :, None], embedded, 1e3)  # whatever stands at padding
    torch.testing.assert_close(model(other, seen), states, rtol=0, atol=0)
    for row, length in enumerate(seen.sum(dim=1).tolist()):
        assert torch.all(states[row, length:] == 0)
        if length:
            alone = model(embedded[row : row + 1, :length], seen[row : row + 1, :length])
            torch.testing.assert_close(states[row, :length], alone[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_last_is_the_end_of_both_ways(bidirectional: bool) -> None:
    model = layers("lstm", bidirectional=bidirectional, num_layers=1)
    embedded, seen = batch()
    last = model.last(model(embedded, seen), seen)
    for row, length in enumerate(seen.sum(dim=1).tolist()):
        expected = torch.zeros(model.num_outputs)
        if length:
            _, (hidden, _) = model.layers(embedded[row : row + 1, :length])
            expected = hidden[:, 0].flatten()
        torch.testing.assert_close(last[row], expected, rtol=0, atol=1e-6)


def test_starting_weights() -> None:
    model = Recurrent(6, cell="lstm", num_hidden=4)
    for gate in model.layers.weight_hh_l0.chunk(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(4), rtol=0, atol=1e-5)
    bias = model.layers.bias_ih_l0 + model.layers.bias_hh_l0
    assert bias.tolist() == [0] * 4 + [1] * 4 + [0] * 8


def test_impossible_sizes_are_refused_all_at_once() -> None:
    with pytest.raises(ModelError) as caught:
        Recurrent(6, cell="elman", num_hidden=0, num_layers=0)  # type: ignore[arg-type]
    assert len(caught.value.problems) == 3
    assert "rnn, lstm, gru" in str(caught.value)
