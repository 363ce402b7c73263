"""Networks of one's own: one decorator, one line, a fresh process, and everything that must be refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay import registry
from assay.access.references import reference_models
from assay.errors import ModelError, TreatmentError
from assay.models import BUILDERS, RESOLVERS, Architecture, architecture, build, by_onnxruntime
from assay.models.adapters.module import ModuleModel
from assay.models.own import is_all_ours, like
from assay.models.sparse import can_be_sparse
from assay.observe import Ledger, Workspace
from assay.story import compare_treatments, system_of, treat
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, with_recipe
from assay.values import Column, Data, System
from cli_kit import write_table
from support import make_split

TABLE = (Column("age", "numeric"), Column("hours", "numeric"))
SETTINGS = TrainSettings(epochs=1, batch_size=256)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """No name that a test registers is left to others of its process."""
    before = set(BUILDERS)
    yield
    for name in set(BUILDERS) - before:
        BUILDERS.pop(name)
        RESOLVERS.pop(name, None)


def net(width: int = 8) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2)).eval()


def bare(data: Data, module: nn.Module | None = None) -> System:
    return system_of(ModuleModel(net() if module is None else module), data, name="own")


# ------------------------------------------------------------------ the decorator


def test_a_function_or_a_class_is_registered_with_its_parameters_written_out() -> None:
    @architecture("from a function")
    def made(columns: tuple[Column, ...], num_outputs: int, *, width: int = 8, rate: float = 0.5) -> nn.Module:
        return nn.Sequential(nn.Linear(len(columns), width), nn.Dropout(rate), nn.Linear(width, num_outputs))

    @architecture("from a class")
    class Net(nn.Module):
        def __init__(self, columns: tuple[Column, ...], num_outputs: int, *, width: int = 3) -> None:
            super().__init__()
            self.layer = nn.Linear(len(columns), num_outputs * width)

    assert made(TABLE, 2, width=4)[0].out_features == 4  # it is still the function
    recipe = TrainRecipe(Architecture("from a function", {"rate": 0}), task_of_two(), SETTINGS).resolved(TABLE)
    assert recipe.architecture.params == {"width": 8, "rate": 0.0}
    assert isinstance(Net(TABLE, 2), nn.Module)
    assert build("from a class", columns=TABLE, num_outputs=2, params={"width": 5}).layer.out_features == 10
    with pytest.raises(ModelError, match=r"no parameter 'depth'\. Allowed: rate, width"):
        build("from a function", columns=TABLE, num_outputs=2, params={"depth": 1})


def task_of_two():
    from assay.tasks import Classification

    return Classification(("no", "yes"), "yes")


@pytest.mark.parametrize(
    "made", [net, lambda columns: net(), lambda columns, num, width: net(), lambda columns, *, num: net()]
)
def test_what_a_network_is_built_from_is_checked_when_it_is_registered(made) -> None:
    with pytest.raises(ModelError, match=r"Allowed: \(columns, num_outputs, \*, parameters with defaults\)"):
        architecture("odd")(made)
    assert "odd" not in BUILDERS


def test_names_and_what_is_built_are_checked() -> None:
    for name in ("", "unregistered"):
        with pytest.raises(ModelError, match="cannot be called"):
            architecture(name)(lambda columns, num_outputs: net())
    with pytest.raises(ModelError, match=r"'mlp' is already registered by assay\.models"):
        architecture("mlp")(lambda columns, num_outputs: net())
    architecture("no module")(lambda columns, num_outputs: 3)
    with pytest.raises(ModelError, match=r"built as a int\. Allowed: a torch\.nn\.Module"):
        build("no module", columns=TABLE, num_outputs=2)
    architecture("mine")(lambda columns, num_outputs: net())
    assert not is_all_ours(Architecture("rounded", {"base": {"name": "mine", "params": {}}}))
    assert is_all_ours(Architecture("rounded", {"base": {"name": "mlp", "params": {}}}))


def test_reference_models_of_a_name_that_is_built_anew_are_trained_anew(small_data: Data, workspace: Workspace) -> None:
    """As in a notebook: the cell is changed and run again."""
    found, small = [], fewer(small_data)
    for width in (4, 6):
        architecture("edited")(of_width(width))
        system = replace(bare(small, net(width)), recipe=TrainRecipe(Architecture("edited"), task_of(small), SETTINGS))
        references = reference_models(system, workspace, Ledger(10**9))
        found.append({one.system.model.module[1].out_features for one in references})
    assert found == [{4}, {6}]


def fewer(data: Data) -> Data:
    return replace(data, splits={**data.splits, "train": make_split(200, 1, 1)})


def of_width(width: int):
    def made(columns: tuple[Column, ...], num_outputs: int) -> nn.Module:
        return net(width)

    return made


# ------------------------------------------------------------------ copies that draw anew


def test_a_copy_draws_every_weight_anew_as_its_seed_says() -> None:
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.PReLU(), nn.Flatten(), nn.Linear(4, 6))
    rest = [nn.Embedding(5, 6), nn.LSTM(6, 6), nn.LayerNorm(6), nn.MultiheadAttention(6, 2), nn.GroupNorm(2, 6)]
    module = nn.ModuleList([body, *rest])
    with torch.no_grad():
        for one in module.state_dict().values():
            one.fill_(7)
    made = like(module)
    module[0][0].weight.data.fill_(8)  # changed after it was taken for a pattern
    seeded = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        seeded.append(made((), 2).state_dict())
    assert not any((one == 7).any() or (one == 8).any() for one in seeded[0].values())
    assert all(torch.equal(one, seeded[1][name]) for name, one in seeded[0].items())
    drawn = [name for name, one in seeded[0].items() if one.ndim > 1]
    assert drawn
    assert not any(torch.equal(seeded[0][name], seeded[2][name]) for name in drawn)
    assert bool((module[0][4].weight == 7).all())


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.ones(4))
        self.out = nn.Linear(4, 2)

    def forward(self, rows: Tensor) -> Tensor:
        return self.out(self.share * rows)


class Means(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.tensor([50.0, 50, 1, 0]))  # of all training rows, as of none
        self.out = nn.Linear(4, 2)

    def forward(self, rows: Tensor) -> Tensor:
        return self.out(rows - self.centre)


def test_what_cannot_be_drawn_anew_asks_for_a_function(small_data: Data) -> None:
    frozen = net()
    frozen[1].requires_grad_(False)
    for module, why in ((Gate(), "itself has weights"), (Means(), "itself has weights"), (frozen, "frozen")):
        kind = type(module).__name__
        with pytest.raises(ModelError, match=why) as caught:
            with_recipe(bare(small_data, module), "own")
        assert (
            f"@assay.models.architecture({kind!r}) on a function (columns, num_outputs)"
            in caught.value.problems[0].next
        )
        assert "own" not in BUILDERS
    architecture("Gate")(lambda columns, num_outputs: Gate())
    assert with_recipe(bare(small_data, Gate()), "Gate").recipe.architecture.name == "Gate"


# ------------------------------------------------------------------ the line


def test_the_line_keeps_the_module_and_trains_others(small_data: Data) -> None:
    before = bare(small_data)
    system = with_recipe(before, "own", settings=SETTINGS)
    assert system.model.module is before.model.module
    assert (system.model.architecture, system.recipe.architecture) == (Architecture("own"), Architecture("own"))
    assert system.recipe.settings is SETTINGS
    fitted = system.recipe.fit(small_data.splits["train"], small_data, 1).model.module
    assert not torch.equal(fitted[1].weight, before.model.module[1].weight)
    again = with_recipe(bare(small_data), "own")  # the name is known now, and builds the same network
    assert again.model.digest == system.model.digest


def test_another_network_under_the_name_is_refused(small_data: Data) -> None:
    @architecture("wide")
    def made(columns: tuple[Column, ...], num_outputs: int, *, width: int = 16) -> nn.Module:
        return net(width)

    with pytest.raises(ModelError, match=r"builds another network than Sequential of own: .*size mismatch"):
        with_recipe(bare(small_data), "wide")
    assert with_recipe(bare(small_data), "wide", params={"width": 8}).recipe.architecture.params == {"width": 8}
    architecture("smooth")(lambda columns, num_outputs: nn.Sequential(*net()[:2], nn.Tanh(), net()[3]))
    with pytest.raises(ModelError, match="with the same weights it answers differently"):
        with_recipe(bare(small_data), "smooth")


def test_all_that_is_wrong_with_a_system_is_said_at_once(small_data: Data) -> None:
    registry.load()
    treated = registry.TREATMENTS["prune_magnitude"].function(bare(small_data))
    recipe = TrainRecipe(Architecture("mlp"), task_of(small_data), SETTINGS)
    odd = replace(treated, model=ModuleModel(net(), outputs_are="probabilities"), recipe=recipe)
    with pytest.raises(ModelError) as caught:
        with_recipe(odd, "own")
    text = str(caught.value)
    assert len(caught.value.problems) == 3
    assert all(one in text for one in ("it has one", "it was treated (prune_magnitude)", "answers with probabilities"))
    assert "own" not in BUILDERS


# ------------------------------------------------------------------ the matrix


def test_a_comparison_says_what_is_not_known_and_what_to_run(small_data: Data, workspace: Workspace) -> None:
    system = bare(fewer(small_data), net(64))
    names = ["distill", "temperature_scaling", "smooth_labels"]
    matrix = compare_treatments(system, names, probes=["accuracy", "calibration_error"], workspace=workspace).matrix
    assert set(matrix.errored) == {"smooth_labels"}
    assert "with_recipe(system, 'Sequential')" in matrix.errored["smooth_labels"]
    effects = [cell.effect for cell in matrix.cells["own+distill"].values() if cell.effect is not None]
    unknown = "one training run: what the seed moves is not known, as no reference model was measured"
    assert any(one.reason == unknown for one in effects)
    assert all(one.verdict == "no detectable change" for one in effects)
    scaled = matrix.cells["own+temperature_scaling"]
    assert any(cell.effect.verdict == "better" for cell in scaled.values() if cell.effect is not None)


# ------------------------------------------------------------------ what the digest does not tell


@pytest.mark.slow  # an export
def test_a_graph_that_was_exported_before_is_not_taken_for_a_network_of_the_same_digest(
    small_data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.load()
    bent = nn.Sequential(*net()[:2], nn.Tanh(), net()[3]).eval()
    system = bare(small_data, bent)
    assert system.model.digest == bare(small_data).model.digest  # a limit that ModuleModel tells
    monkeypatch.setitem(by_onnxruntime._graphs, system.model.digest, b"the graph of the other one")
    treated = registry.TREATMENTS["run_by_onnxruntime"].function(system)
    rows = small_data.splits["test"].inputs
    np.testing.assert_allclose(treated.model.outputs(rows), system.model.outputs(rows), atol=1e-4)


# ------------------------------------------------------------------ a fresh process

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training.md"
LOAD = """
import sys
import warnings
import assay
from assay.models.store import load_system

if "imported" in sys.argv:
    import my_nets
data = assay.read_table("loans.csv", label="paid", groups=["sex"])
try:
    system = load_system("smoothed", data)
except ValueError as error:
    print("refused:", error)
else:
    outputs = system.model.outputs(data.splits["test"].inputs)
    print("loaded", system.lineage[0].treatment, system.digest, outputs.tobytes().hex())
"""


@pytest.mark.slow  # four processes
def test_the_page_runs_and_a_fresh_process_needs_its_owners_code(tmp_path: Path) -> None:
    """Code in the folder of a system stays text, and what was loaded answers with the same bits."""
    nets, story = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.M | re.S)
    write_table(tmp_path / "loans.csv")
    (tmp_path / "my_nets.py").write_text(nets)
    (tmp_path / "load.py").write_text(LOAD)

    def run(*command: str) -> str:
        environment = {**os.environ, "ASSAY_HOME": str(tmp_path / "home")}
        command = (sys.executable, *command)
        ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert "Traceback" not in ran.stderr, ran.stderr
        return ran.stdout + ran.stderr

    told = run("-c", story + LOAD, "imported")
    assert told.startswith("loaded smooth_labels ")
    (tmp_path / "smoothed" / "my_nets.py").write_text("raise SystemExit('code of a folder was run')")
    refused = run("load.py")
    assert refused.startswith("refused: smoothed needs the architecture 'loans net', which is not known")
    assert "Import your own code that does (@assay.models.architecture('loans net')) first" in refused
    assert run("load.py", "imported") == told
    command = "import my_nets; from assay.cli import main; main()"
    assert command in PAGE.read_text()
    about = ("--data", "loans.csv", "--label", "paid", "--groups", "sex", "--probes", "accuracy")
    assert "accuracy" in run("-c", command, "audit", "smoothed", *about, "--out", "dossier")


# ------------------------------------------------------------------ code that hangs on a layer, weights made of others


def test_a_layer_with_code_on_it_is_not_replaced(small_data: Data) -> None:
    module = net()
    module[1].register_forward_hook(lambda layer, given, made: made * 0.1)
    system = bare(small_data, module)
    rows = small_data.splits["test"].inputs
    before = system.model.outputs(rows)
    treated = treat(system, "quantize_int8")
    assert np.abs(treated.model.outputs(rows) - before).max() < 0.05 * np.abs(before).max()
    assert list(treat(system, "factor_low_rank", options={"share": 0.9}).lineage[0].outcome["ranks"]) == ["3"]
    assert list(can_be_sparse(module)) == ["3"]


def test_factors_of_normed_weights_are_not_pruned_to_no_direction(small_data: Data) -> None:
    module = net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(module[1])
    system, rows = bare(small_data, module), small_data.splits["test"].inputs
    assert np.isfinite(system.model.outputs(rows)).all()
    treated = treat(system, "prune_magnitude", options={"sparsity": 0.9})
    assert np.isfinite(treated.model.outputs(rows)).all()


def test_norms_without_weights_are_refused_by_name(small_data: Data) -> None:
    for norm in (nn.BatchNorm1d(8, affine=False), nn.BatchNorm1d(8, track_running_stats=False)):
        module = nn.Sequential(nn.Linear(4, 8), norm, nn.ReLU(), nn.Linear(8, 2)).eval()
        with pytest.raises(TreatmentError, match="cannot be taken out safely"):
            treat(bare(small_data, module), "prune_channels")


class TiedAfterwards(nn.Module):
    """A last linear layer in name that is none in use, and the same weights in two places."""

    def __init__(self, *, ends_there: bool) -> None:
        super().__init__()
        self.begin, self.last, self.head = nn.Linear(4, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        self.wide = nn.Linear(4, 4)
        self.head.weight = self.last.weight
        if ends_there:
            del self.wide

    def forward(self, rows: Tensor) -> Tensor:
        rows = self.wide(rows) if hasattr(self, "wide") else rows
        out: Tensor = self.head(torch.relu(self.last(torch.relu(self.begin(rows)))))
        return out


@pytest.mark.parametrize("ends_there", [True, False])
def test_a_last_layer_that_is_shared_or_elsewhere_is_refused(small_data: Data, ends_there: bool) -> None:
    system = bare(small_data, TiedAfterwards(ends_there=ends_there).eval())
    with pytest.raises(TreatmentError, match="those of another, too" if ends_there else "not that of a last linear"):
        treat(system, "retrain_last_layer")
