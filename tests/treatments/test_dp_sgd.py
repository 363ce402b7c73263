"""Private training: clipping against per-example gradients, sampling and noise against what accounting assumes."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from assay.errors import ModelError, TreatmentError
from assay.models import BUILDERS, Architecture, build, tensors
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, task_loss, train_system
from assay.treatments.data.resample_groups import resample_groups
from assay.treatments.train import dp_sgd as private
from assay.treatments.train._clipped_sums import ClippedSums
from assay.treatments.train.dp_sgd import DpRecipe, DpSettings, dp_sgd, fit_private
from assay.values import System, digest_of
from support import small_images, small_texts


@pytest.fixture(scope="module")
def trained(small_data) -> System:
    recipe = TrainRecipe(
        Architecture("mlp", {"hidden": [16]}), task_of(small_data), TrainSettings(epochs=3, batch_size=128)
    )
    return train_system(small_data, name="small", recipe=recipe, seed=5)


def reference(module, inputs, losses, max_grad_norm):
    """One backward pass per example: the definition."""
    total = {name: torch.zeros_like(parameter) for name, parameter in module.named_parameters()}
    norms = []
    for row in range(len(inputs)):
        loss = losses(module(inputs[row : row + 1]), torch.tensor([row])).sum()
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        norm = math.sqrt(sum(float(one.double().square().sum()) for one in gradients))
        norms.append(norm)
        for name, one in zip(total, gradients, strict=True):
            total[name] += one * min(1.0, max_grad_norm / norm)
    return total, torch.tensor(norms)


class Sequence(nn.Module):
    """Linear layers over a sequence axis."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 3)

    def forward(self, inputs):
        hidden = torch.tanh(self.first(inputs.reshape(-1, 4, 5)))
        mixed = torch.softmax(hidden @ hidden.transpose(1, 2), dim=2) @ self.second(hidden)
        return self.head(mixed.mean(dim=1))


def plain_net():
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 16, bias=False), nn.Tanh(), nn.Linear(16, 3))


@pytest.mark.parametrize("make", [plain_net, Sequence, lambda: nn.Linear(20, 3)], ids=["net", "sequence", "one layer"])
@pytest.mark.parametrize("max_grad_norm", [0.05, 0.8, 1e6])
def test_clipped_sum_is_the_definition(make, max_grad_norm):
    torch.manual_seed(0)
    module, inputs, labels = make(), torch.randn(24, 20), torch.randint(0, 3, (24,))

    def losses(outputs, rows):
        return functional.cross_entropy(outputs, labels[rows], reduction="none")

    sums, norms = ClippedSums(module, max_grad_norm=max_grad_norm)(inputs, losses)
    expected, lengths = reference(module, inputs, losses, max_grad_norm)
    assert torch.allclose(norms, lengths.float(), rtol=1e-5)
    assert set(sums) == set(expected)
    for name, one in expected.items():
        assert torch.allclose(sums[name], one, rtol=1e-4, atol=1e-5 * min(1.0, max_grad_norm)), name
    assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())
    assert not any(part._forward_hooks for part in module.modules())


def test_no_row_moves_the_sum_by_more_than_the_bound():
    torch.manual_seed(1)
    module, inputs = plain_net(), torch.randn(12, 20)
    inputs[5] *= 1000  # the row that would give most away
    labels = torch.randint(0, 3, (12,))

    def sums(rows):
        rows = torch.tensor(rows)
        answer, _ = ClippedSums(module, max_grad_norm=0.5)(
            inputs[rows], lambda outputs, at: functional.cross_entropy(outputs, labels[rows[at]], reduction="none")
        )
        return torch.cat([one.flatten() for one in answer.values()])

    everyone = sums(list(range(12)))
    for row in range(12):
        moved = (everyone - sums([other for other in range(12) if other != row])).norm()
        assert moved <= 0.5 * (1 + 1e-4)
        assert row != 5 or moved > 0.49


def rows_of(name, params):
    """A module in evaluation mode, 16 rows as its tensors, and their losses."""
    data = small_images(40) if name.startswith("cnn") else small_texts(40, language="zh" if name == "gru" else "en")
    split, task = data.splits["train"].take(np.arange(16)), task_of(data)
    torch.manual_seed(3)
    module = build(name, columns=data.columns, num_outputs=task.num_outputs, params=params)
    module.fit_encoding(split)
    return module.eval(), tensors(module, split.inputs), task_loss(split, task)


ROW_BY_ROW = [
    ("cnn_lenet", {}),
    pytest.param("cnn_residual", {"norm": "group"}, marks=pytest.mark.slow),
    ("lstm", {"dim": 12, "num_hidden": 8, "vocab_size": 60, "num_grams": 40}),
    ("transformer", {"dim": 16, "vocab_size": 60}),
    pytest.param("cnn_vgg", {"norm": "group", "widths": [8, 16]}, marks=pytest.mark.slow),
    pytest.param("rnn", {"vocab_size": 60}, marks=pytest.mark.slow),
    pytest.param("gru", {"vocab_size": 60}, marks=pytest.mark.slow),
    pytest.param("lstm_attention", {"vocab_size": 60}, marks=pytest.mark.slow),
    pytest.param("transformer", {"vocab_size": 60, "positions": "learned"}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "params"), ROW_BY_ROW)
def test_clipped_sum_of_other_layers_is_the_definition(name, params):
    module, inputs, losses = rows_of(name, params)
    for max_grad_norm in (0.05, 1e6):
        expected, lengths = reference(module, inputs, losses, max_grad_norm)
        clip = ClippedSums(module, max_grad_norm=max_grad_norm)
        sums, norms = clip(inputs, losses)
        assert clip.method == "one forward and one backward pass"
        assert torch.allclose(norms, lengths.float(), rtol=1e-4)
        assert set(sums) == set(expected)
        for one, value in expected.items():
            assert torch.allclose(sums[one], value, rtol=1e-3, atol=2e-6 * min(1.0, max_grad_norm) + 1e-5), one
    assert not any(part._forward_hooks for part in module.modules())


def test_a_table_of_embeddings_counts_a_repeated_token_once_with_its_whole_gradient():
    """One token three times: its row's gradient is the sum of three, whose norm is not that of three apart."""
    module = nn.Sequential(nn.Embedding(5, 3, padding_idx=0), nn.Flatten(), nn.Linear(9, 2, bias=False))
    tokens, labels = torch.tensor([[2, 2, 2], [1, 0, 4]]), torch.tensor([0, 1])

    def losses(outputs, rows):
        return functional.cross_entropy(outputs, labels[rows], reduction="none")

    expected, lengths = reference(module, tokens, losses, 0.1)
    sums, norms = ClippedSums(module, max_grad_norm=0.1)(tokens, losses)
    assert torch.allclose(norms, lengths.float(), rtol=1e-5)
    for name, one in expected.items():
        assert torch.allclose(sums[name], one, rtol=1e-4, atol=1e-7), name
    assert (sums["0.weight"][0] == 0).all()


def test_what_cannot_be_computed_row_by_row_is_refused_before_any_training(small_data, monkeypatch):
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.scale = nn.Linear(4, 2), nn.Parameter(torch.ones(2))

        def forward(self, inputs):
            return self.layer(inputs) * (self.scale if bool(inputs.sum() > 0) else -self.scale)

    monkeypatch.setitem(BUILDERS, "branching_for_dp", lambda columns, num_outputs, params: Branching())
    recipe = TrainRecipe(Architecture("branching_for_dp"), task_of(small_data), TrainSettings(epochs=1))
    system = train_system(small_data, recipe=recipe)
    with pytest.raises(TreatmentError, match="gradients of single rows cannot be formed"):
        dp_sgd(system)


class Cell(nn.Module):
    """PyTorch's own recurrent layer over `(n, 5, 4)`, its states read at every place."""

    def __init__(self, kind, **options):
        super().__init__()
        self.cell = kind(4, 3, **options)
        self.head = nn.Linear(3 * (2 if options.get("bidirectional") else 1), 2)

    def forward(self, inputs):
        steps = inputs.reshape(-1, 5, 4)
        if self.cell.batch_first:
            return self.head(self.cell(steps)[0].tanh().mean(dim=1))
        return self.head(self.cell(steps.transpose(0, 1))[0].tanh().mean(dim=0))


class Conv(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers, self.head = nn.Sequential(*layers), nn.LazyLinear(2)

    def forward(self, inputs):
        return self.head(self.layers(inputs).flatten(1))


LAYERS = {
    "lstm": lambda: Cell(nn.LSTM, batch_first=True, num_layers=2, bidirectional=True),
    "lstm, time first, no bias": lambda: Cell(nn.LSTM, bias=False),
    "gru": lambda: Cell(nn.GRU, batch_first=True, num_layers=2),
    "gru both ways": lambda: Cell(nn.GRU, batch_first=True, bidirectional=True, bias=False),
    "rnn": lambda: Cell(nn.RNN, batch_first=True, bidirectional=True),
    "conv1d": lambda: Conv(
        nn.Unflatten(1, (2, 10)), nn.Conv1d(2, 4, 3, 2, padding=1), nn.ReLU(inplace=True), nn.Conv1d(4, 3, 2)
    ),
    "groups, dilation": lambda: Conv(
        nn.Unflatten(1, (4, 5, 1)), nn.Conv2d(4, 6, (2, 1), groups=2), nn.GroupNorm(3, 6), nn.Conv2d(6, 6, (2, 1),
        dilation=(2, 1), groups=6, bias=False)
    ),
    "norm over two axes": lambda: Conv(nn.Unflatten(1, (4, 5)), nn.Linear(5, 6), nn.LayerNorm((4, 6)), nn.Tanh()),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_torch_itself_take_one_pass_and_give_the_definition(name):
    torch.manual_seed(4)
    module, inputs, labels = LAYERS[name](), torch.randn(9, 20), torch.randint(0, 2, (9,))
    module(inputs)  # the lazy head takes its size

    def losses(outputs, rows):
        return functional.cross_entropy(outputs, labels[rows], reduction="none")

    for max_grad_norm in (0.1, 1e6):
        expected, lengths = reference(module, inputs, losses, max_grad_norm)
        clip = ClippedSums(module, max_grad_norm=max_grad_norm)
        assert clip.method == "one forward and one backward pass"
        sums, norms = clip(inputs, losses)
        assert torch.allclose(norms, lengths.float(), rtol=1e-5)
        assert set(sums) == set(expected)
        for one, value in expected.items():
            assert sums[one].shape == value.shape
            assert torch.allclose(sums[one], value, rtol=1e-4, atol=1e-6), one
    assert not any("forward" in vars(part) for part in module.modules())
    assert all(part.inplace for part in module.modules() if isinstance(part, nn.ReLU))


class First(nn.Module):
    """The last state of what a recurrent layer answers."""

    def forward(self, answer):
        return answer[0][:, -1]


@pytest.mark.parametrize("name", LAYERS)
def test_large_batches_are_summed_in_parts(name, monkeypatch):
    torch.manual_seed(5)
    module, inputs, labels = LAYERS[name](), torch.randn(10, 20), torch.randint(0, 2, (10,))
    module(inputs)

    def losses(outputs, rows):
        return functional.cross_entropy(outputs, labels[rows], reduction="none")

    whole, lengths = ClippedSums(module, max_grad_norm=0.1)(inputs, losses)
    monkeypatch.setattr(ClippedSums, "rows_at_once", lambda self, inputs: 3)
    parts, norms = ClippedSums(module, max_grad_norm=0.1)(inputs, losses)
    assert torch.allclose(norms, lengths, rtol=1e-6)
    assert all(torch.allclose(parts[one], value, rtol=1e-5, atol=1e-7) for one, value in whole.items())


def test_a_part_has_as_many_rows_as_outweigh_the_weights_and_no_more_than_fit():
    def rows(module, inputs):
        return ClippedSums(module, max_grad_norm=1.0).rows_at_once(inputs)

    images = torch.zeros(1, 1, 28, 28)
    assert rows(nn.Conv2d(1, 16, 8), images) == 128
    assert rows(nn.Conv2d(1, 400, 8), images) == 94  # 4 (784 + 400 x 21 x 21) bytes a row of 64 MiB
    assert rows(nn.Conv2d(1, 4000, 8), images) == 16
    assert rows(nn.Linear(784, 512), torch.zeros(1, 784)) == 2 * 785 * 512 // (784 + 512)
    assert rows(LAYERS["lstm"](), torch.zeros(1, 20)) == 256  # its steps cost the same for fewer rows
    states = nn.LSTM(1, 50, batch_first=True)  # 4 (51 x 200 + 400) bytes of weights, of a row 500 x 4 (1 + 50)
    module = nn.Sequential(nn.Unflatten(1, (500, 1)), states, First(), nn.Linear(50, 2))
    assert rows(module, torch.zeros(1, 500)) == 256


def test_memory_of_a_step_is_that_of_its_parts_whatever_the_batch():
    """What the layers of two parts hold is never alive at once."""
    torch.manual_seed(9)
    module, alive, most = nn.Sequential(nn.Unflatten(1, (2, 10)), nn.Conv1d(2, 4, 3), nn.Flatten()), [], []

    def watch(layer, arguments, output):
        alive[:] = [one for one in alive if one() is not None]
        alive.append(weakref.ref(output))
        most.append(len(alive))

    module[1].register_forward_hook(watch)
    ClippedSums(module, max_grad_norm=1.0)(torch.randn(600, 20), lambda outputs, at: outputs.tanh().sum(dim=1))
    assert most == [1] * 6  # one row to measure, and five parts


def test_per_layer_clipping_bounds_each_layer_by_its_share():
    torch.manual_seed(6)
    module, inputs, labels = plain_net(), 10 * torch.randn(30, 20), torch.randint(0, 3, (30,))

    def losses(outputs, rows):
        return functional.cross_entropy(outputs, labels[rows], reduction="none")

    for row in range(5):
        at = torch.tensor([row])
        sums, _ = ClippedSums(module, max_grad_norm=0.3, clipping="per_layer")(
            inputs[at], lambda outputs, rows, at=at: losses(outputs, at[rows])
        )
        layers = [(sums["0.weight"], sums["0.bias"]), (sums["2.weight"],), (sums["4.weight"], sums["4.bias"])]
        lengths = [math.sqrt(sum(float(one.square().sum()) for one in layer)) for layer in layers]
        assert max(lengths) <= 0.3 / math.sqrt(3) * (1 + 1e-5)
        assert max(lengths) > 0.99 * 0.3 / math.sqrt(3)


def changed(self, hidden):
    outputs = self.layer(hidden)
    hidden.add_(1.0)
    return outputs


def test_an_answer_may_be_changed_in_place_by_later_code():
    class Adding(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, inputs):
            return self.second(self.first(inputs).add_(1.0).tanh_()).mul_(2.0)

    def losses(outputs, at):
        return outputs.square().sum(dim=1)

    torch.manual_seed(8)
    module, inputs = Adding(), torch.randn(6, 4)
    expected, lengths = reference(module, inputs, losses, 0.5)
    sums, norms = ClippedSums(module, max_grad_norm=0.5)(inputs, losses)
    assert torch.allclose(norms, lengths.float(), rtol=1e-5)
    assert all(torch.allclose(sums[one], value, rtol=1e-4, atol=1e-6) for one, value in expected.items())


class Viewing(nn.Module):
    """Reads places in memory, which fails where channels lie innermost; and a layer that is only looked through."""

    def __init__(self):
        super().__init__()
        self.first, self.fixed, self.head = nn.Conv2d(1, 4, 2), nn.Conv2d(1, 4, 2), nn.Linear(48, 2)

    def forward(self, inputs):
        pictures = inputs.reshape(-1, 1, 4, 5)
        with torch.no_grad():
            beside = self.fixed(pictures)
        return self.head((self.first(pictures) + beside).view(len(inputs), -1))


@pytest.mark.parametrize("given", [(20,), (1, 4, 5)], ids=["numbers", "pictures"])
def test_code_that_reads_places_in_memory_and_layers_without_gradient_take_one_pass(given):
    torch.manual_seed(10)
    module, inputs = Viewing(), torch.randn(9, *given)
    clip = ClippedSums(module, max_grad_norm=0.5)
    sums, norms = clip(inputs, lambda outputs, at: outputs.square().sum(dim=1))
    frozen = module.fixed.requires_grad_(False)
    del module.fixed
    object.__setattr__(module, "fixed", frozen)  # no parameter of the module any more
    expected, lengths = reference(module, inputs, lambda outputs, at: outputs.square().sum(dim=1), 0.5)
    assert clip.method == "one forward and one backward pass"
    assert torch.allclose(norms, lengths.float(), rtol=1e-5)
    assert set(sums) == set(expected)
    assert all(torch.allclose(sums[one], value, rtol=1e-4, atol=1e-6) for one, value in expected.items())


@pytest.mark.parametrize(
    ("forward", "match"),
    [
        (lambda self, inputs: changed(self, self.first(inputs)), "changed in place"),
        (lambda self, inputs: self.layer(inputs[:1]).expand(len(inputs), -1), "answers 1 rows of 6"),
        (lambda self, inputs: inputs, "depends on no layer"),
    ],
)
def test_what_would_give_wrong_gradients_is_refused(forward, match):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.layer = nn.Linear(4, 4), nn.Linear(4, 4)

    Odd.forward = forward
    module = Odd()
    module.first.requires_grad_(False)
    with pytest.raises(ModelError, match=match):
        ClippedSums(module, max_grad_norm=1.0)(torch.randn(6, 4), lambda outputs, at: outputs.sum(dim=1))


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")
def test_opacus_gives_the_same_gradients_of_rows():
    opacus = pytest.importorskip("opacus")
    torch.manual_seed(2)
    module = nn.Sequential(
        nn.Unflatten(1, (1, 20)), nn.Conv1d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(72, 3)
    )
    inputs, labels = torch.randn(10, 20), torch.randint(0, 3, (10,))

    def losses(outputs, rows):
        return functional.cross_entropy(outputs, labels[rows], reduction="none")

    sums, norms = ClippedSums(module, max_grad_norm=0.3)(inputs, losses)
    wrapped = opacus.GradSampleModule(module, loss_reduction="sum")
    losses(wrapped(inputs), torch.arange(10)).sum().backward()
    samples = {name: parameter.grad_sample for name, parameter in module.named_parameters()}
    lengths = sum(one.flatten(1).square().sum(dim=1) for one in samples.values()).sqrt()
    assert torch.allclose(norms, lengths, rtol=1e-4)
    for name, one in samples.items():
        expected = torch.einsum("n,n...->...", (0.3 / lengths).clamp_max(1.0), one)
        assert torch.allclose(sums[name], expected, rtol=1e-4, atol=1e-6), name


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, inputs):
        return self.layer(torch.tanh(self.layer(inputs)))


def shared_layer():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer)


@pytest.mark.parametrize("make", [Twice, shared_layer])
def test_a_layer_used_twice_has_one_gradient(make):
    torch.manual_seed(7)
    module, inputs = make(), torch.randn(6, 4)

    def losses(outputs, at):
        return outputs.square().sum(dim=1)

    expected, lengths = reference(module, inputs, losses, 0.5)
    clip = ClippedSums(module, max_grad_norm=0.5)
    sums, norms = clip(inputs, losses)
    assert clip.method == "one gradient a row"
    assert torch.allclose(norms, lengths.float(), rtol=1e-5)
    assert all(torch.allclose(sums[one], value, rtol=1e-4, atol=1e-6) for one, value in expected.items())
    with pytest.raises(ModelError, match=r"more than once|no known form"):
        ClippedSums(module, max_grad_norm=0.5, clipping="per_layer")(inputs, losses)


@pytest.mark.slow
def test_batch_norm_gives_way_to_group_norm_where_the_architecture_has_both():
    data = small_images(60)
    architecture = Architecture("cnn_residual", {"width": 8})
    system = train_system(data, recipe=TrainRecipe(architecture, task_of(data), TrainSettings(epochs=1)))
    treated = dp_sgd(system, training={"epochs": 1, "batch_size": 16, "clipping": "per_layer"})
    assert treated.lineage[-1].outcome["replaced"].startswith("BatchNorm by GroupNorm")
    assert treated.lineage[-1].outcome["clipping"] == "per_layer, one forward and one backward pass"
    kinds = {type(layer).__name__ for layer in treated.model.module.modules()}
    assert "GroupNorm" in kinds
    assert "BatchNorm2d" not in kinds
    assert treated.recipe.base.architecture.params["norm"] == "group"


def test_batches_are_own_coins_and_the_sum_is_over_the_expected_size(trained, monkeypatch):
    """Without clipping and noise each step's gradient must be sum / (q N), batch sizes binomial."""
    train, settings = trained.data.splits["train"], DpSettings(batch_size=120, epochs=20, learning_rate=1e-12)
    sizes, seen = [], np.zeros(len(train), dtype=int)
    original = ClippedSums.__call__

    def spy(self, inputs, losses):
        sizes.append(len(inputs))
        matched = (torch.from_numpy(train.inputs)[:, None, 0] == inputs[None, :, 0]).any(dim=1)
        seen[matched.numpy()] += 1
        return original(self, inputs, losses)

    monkeypatch.setattr(ClippedSums, "__call__", spy)
    module = trained.recipe.make_module(train, trained.data, 0)
    facts = fit_private(module, train, recipe=trained.recipe, settings=settings, seed=0)
    rate = 120 / len(train)
    assert facts["sample_rate"] == pytest.approx(rate)
    assert facts["steps"] == len(sizes) == math.ceil(20 / rate)
    deviation = math.sqrt(len(train) * rate * (1 - rate))
    assert np.mean(sizes) == pytest.approx(120, abs=4 * deviation / math.sqrt(len(sizes)))
    assert np.std(sizes) == pytest.approx(deviation, rel=0.2)  # shuffled batches would have 0
    assert seen.max() > 30
    assert seen.min() < 10  # some rows often, some rarely: coins, not epochs


def test_noise_has_the_promised_size(trained, monkeypatch):
    """With the gradients taken away, what reaches the optimizer is noise of sigma C / (q N)."""
    train = trained.data.splits["train"]
    settings = DpSettings(batch_size=300, epochs=25, max_grad_norm=0.7)
    taken = []

    class Keeps(torch.optim.SGD):
        def step(self, closure=None):
            taken.append(torch.cat([one.grad.flatten() for group in self.param_groups for one in group["params"]]))

    monkeypatch.setattr(private.torch.optim, "Adam", lambda parameters, lr, fused: Keeps(list(parameters), lr=lr))
    monkeypatch.setattr(ClippedSums, "__call__", lambda self, inputs, losses: ({}, torch.zeros(len(inputs))))
    module = trained.recipe.make_module(train, trained.data, 0)
    facts = fit_private(module, train, recipe=trained.recipe, settings=settings, seed=0)
    noise = torch.stack(taken)
    expected = facts["noise_multiplier"] * 0.7 / 300
    assert noise.std().item() == pytest.approx(expected, rel=0.03)
    assert abs(noise.mean().item()) < 4 * expected / math.sqrt(noise.numel())
    assert abs((noise[1:] * noise[:-1]).mean().item()) < 4 * expected**2 / math.sqrt(noise.numel())  # fresh each step


def test_noise_dropout_and_first_weights_are_streams_apart(trained, monkeypatch):
    """A step's noise would else be foretold by the units that dropout hides, and by the weights before any step."""
    train, streams = trained.data.splits["train"], {}

    def at_noise(named, sums, draw, *, spread, size):
        streams.setdefault("dropout", torch.default_generator.get_state())
        streams.setdefault("noise", draw.generator.get_state())

    def now(state):
        return torch.randn(4096, generator=torch.Generator().set_state(state)).double()

    monkeypatch.setattr(private, "_noised", at_noise)
    drawn = torch.Generator().manual_seed(trained.seed)  # makes the first weights
    with torch.random.fork_rng(devices=[]):
        module = nn.Sequential(trained.recipe.make_module(train, trained.data, trained.seed), nn.Dropout(0.5))
        fit_private(module, train, recipe=trained.recipe, settings=DpSettings(epochs=1), seed=trained.seed)
    assert len(streams) == 2
    found = [now(state) for state in (streams["noise"], streams["dropout"], drawn.get_state())]
    seeds = {torch.Generator().set_state(state).initial_seed() for state in (*streams.values(), drawn.get_state())}
    assert len({one % 2**32 for one in seeds}) == 3  # a CPU generator keeps 32 bits
    assert torch.corrcoef(torch.stack(found)).fill_diagonal_(0).abs().max() < 5 / math.sqrt(4096)


def test_secure_numbers_are_normal_uniform_and_never_the_same():
    from scipy.stats import kstest

    draw, other = private.Draws(0, secure=True), private.Draws(0, secure=True)
    normal = draw.normal(torch.Size([50, 400])).double().flatten().numpy()
    assert kstest(normal, "norm").pvalue > 1e-6
    assert kstest(draw.uniform(20_000).numpy(), "uniform").pvalue > 1e-6
    assert not torch.equal(draw.normal(torch.Size([5])), other.normal(torch.Size([5])))


def test_epsilon_is_reported_and_what_it_does_not_cover(trained):
    treated = dp_sgd(trained, epsilon=2.0, training={"batch_size": 300, "epochs": 4})
    outcome = treated.lineage[-1].outcome
    assert 1.95 < outcome["epsilon"] <= 2.0
    assert (outcome["delta"], outcome["accountant"], outcome["sample_rate"]) == (1e-5, "PLD", 300 / 1200)
    assert outcome["steps"] == 16
    text = " ".join(outcome["not_covered"])
    assert "encoding" in text
    assert "seed" in text
    assert treated.facts["epsilon"] == outcome["epsilon"]
    assert treated.facts["seconds"] > 0


def test_rows_that_were_copied_before_or_after_are_not_covered(trained):
    few = {"batch_size": 300, "epochs": 1}
    before, plain = dp_sgd(resample_groups(trained), training=few), dp_sgd(trained, training=few)
    after = resample_groups(plain)
    for facts in (before.facts, before.lineage[-1].outcome, after.facts):
        assert "what resample_groups copied" in facts["not_covered"][-1]
    assert "resample" not in " ".join(plain.facts["not_covered"])


def test_what_numeric_labels_give_to_the_loss_is_said_also_with_public_ranges(small_data):
    labels = {name: split.inputs[:, 0] for name, split in small_data.splits.items()}
    splits = {name: replace(split, labels=labels[name]) for name, split in small_data.splits.items()}
    data = replace(small_data, splits=splits, classes=(), positive=None)
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [4]}), task_of(data), TrainSettings(epochs=1))
    settings = DpSettings(batch_size=300, epochs=1, public_ranges={"age": (0, 100), "hours": (0, 100)})
    text = " ".join(DpRecipe(recipe, settings).fit(data.splits["train"], data, 0).facts["not_covered"])
    assert "variance of numeric labels" in text
    assert "encoding" not in text


def test_public_ranges_keep_the_encoding_off_the_data(trained):
    ranges = {"age": (0, 100), "hours": (0, 100)}
    settings = {"batch_size": 300, "epochs": 4}
    treated = dp_sgd(trained, public_ranges=ranges, training=settings)
    assert "encoding" not in " ".join(treated.lineage[-1].outcome["not_covered"])
    train = trained.data.splits["train"]
    shifted = replace(train, inputs=train.inputs * np.array([0.5, 0.5, 1, 1], dtype=np.float32))
    data = replace(trained.data, splits={**trained.data.splits, "train": shifted})
    other = treated.recipe.fit(shifted, data, 0).model.module.encoder.state_dict()
    for name, tensor in treated.model.module.encoder.state_dict().items():
        assert torch.equal(other[name], tensor), name
    for wrong in ({"age": (0, 100)}, {"age": (0, 100), "hours": (5, 5)}, {"age": (0, 100), "hours": (0, math.inf)}):
        with pytest.raises(TreatmentError, match="low < high, for each of age, hours"):
            dp_sgd(trained, public_ranges=wrong)


@pytest.mark.slow
def test_secure_runs_differ_and_say_less(trained):
    settings = {"batch_size": 300, "epochs": 2}
    first = dp_sgd(trained, secure_noise=True, training=settings)
    second = dp_sgd(trained, secure_noise=True, training=settings)
    assert first.model.digest != second.model.digest
    assert "seed" not in " ".join(first.lineage[-1].outcome["not_covered"])


@pytest.mark.slow
def test_smaller_data_get_more_noise_for_the_same_epsilon(trained):
    recipe = DpRecipe(trained.recipe, DpSettings(batch_size=200, epochs=3))
    train = trained.data.splits["train"]
    whole = recipe.fit(train, trained.data, 0).facts
    half = recipe.fit(train.take(np.arange(0, len(train), 2)), trained.data, 0).facts
    assert half["noise_multiplier"] > whole["noise_multiplier"]
    assert max(half["epsilon"], whole["epsilon"]) <= 3.0


@pytest.mark.slow
def test_learns_where_there_is_room_and_nothing_where_there_is_none(trained):
    test = trained.data.splits["test"]

    def accuracy(epsilon):
        treated = dp_sgd(trained, epsilon=epsilon, training={"batch_size": 300, "epochs": 40, "learning_rate": 0.02})
        return (treated.model.outputs(test.inputs).argmax(1) == test.labels).mean()

    base = (trained.model.outputs(test.inputs).argmax(1) == test.labels).mean()
    assert accuracy(50.0) > base - 0.05
    assert accuracy(0.02) < base - 0.05


def test_everything_wrong_is_said_at_once(trained):
    with pytest.raises(TreatmentError) as caught:
        dp_sgd(trained, epsilon=0, delta=0.5, training={"batch": 3, "epochs": 0, "max_grad_norm": 0})
    assert len(caught.value.problems) == 5
    with pytest.raises(TreatmentError, match="DpRecipe"):
        dp_sgd(dp_sgd(trained, training={"epochs": 1}))


def test_batch_norm_is_refused_by_name(trained, monkeypatch):
    monkeypatch.setitem(BUILDERS, "mixes rows", _mixes_rows)
    recipe = replace(trained.recipe, architecture=Architecture("mixes rows"))
    with pytest.raises(TreatmentError, match=r"layers 1 are BatchNorm.*GroupNorm"):
        dp_sgd(replace(trained, recipe=recipe))
    assert isinstance(build("mixes rows", columns=trained.data.columns, num_outputs=2), nn.Sequential)


def _mixes_rows(columns, num_outputs, params):
    return nn.Sequential(nn.Linear(len(columns), 4), nn.BatchNorm1d(4), nn.Linear(4, num_outputs))


def test_the_digest_says_that_draws_have_streams_of_their_own(trained):
    """The same settings trained other weights when noise, coins and dropout had one seed: their digest was this."""
    recipe = DpRecipe(trained.recipe, DpSettings())
    assert recipe.digest != digest_of(["DpRecipe", recipe.base.digest, recipe.settings])
