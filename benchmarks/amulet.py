"""Amulet (defence by risk, arXiv 2509.12386) beside ours: the same systems, the same risks, CPU seconds and numbers.

    pip download --no-deps -d WHEELS amuletml==0.6.0 cleverhans==4.0.0 easydict
    for one in WHEELS/*.whl; do python -m zipfile -e $one FOLDER; done     (it pins another torch: not to be installed)
    python benchmarks/amulet.py --amulet FOLDER [--data adult|fashion_mnist] [--train 3000] [--test 1500]
        [--shadows 16,4]

Three systems: an MLP on Adult or a LeNet on Fashion-MNIST as trained, adversarially trained, and trained privately, all
made by ours. Amulet meets each as a module of numbers in [0, 1] (categories ten apart, so that no step reaches the next
one), with the steps of its own defaults; its shadow models are of the same architecture, on halves of training and test
rows together, and its loaders run in this process, without workers. Its own two defences are timed on the same module.
Equality first: gaps between groups are the same numbers. Of the others the definitions differ, as printed.
torchvision is stood in for: what is called here does not use it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from assay import engine, registry  # noqa: E402
from assay.access.handles import Query  # noqa: E402
from assay.matrix import compare  # noqa: E402
from assay.observe import Ledger, Workspace, module_of  # noqa: E402
from assay.story import treat  # noqa: E402
from assay.train import system as made  # noqa: E402
from assay.units.ranges import Ranges, radius_of, ranges  # noqa: E402
from assay.values import Array, Data, Measurement, System  # noqa: E402
from benchmarks.packed import fewer, load  # noqa: E402
from benchmarks.whole_matrix import recipe_of  # noqa: E402

ARCHITECTURES = {"adult": "mlp", "fashion_mnist": "cnn"}
APART = 10.0  # between two categories
RISKS = {
    "discriminatory behaviour": (
        "selection_rate_gap",
        "equal_opportunity_difference",
        "equalized_odds_difference",
        "group_error_rates",
    ),
    "evasion": ("gradient_attack",),
    "membership": ("membership_inference",),
    "extraction": ("model_extraction",),
    "attribute inference": ("attribute_inference",),
}
Said = dict[str, float]


class Entered(nn.Module):
    """A module behind rows of numbers in [0, 1]; categories are APART apart, and rounded."""

    def __init__(self, module: nn.Module, known: Ranges) -> None:
        super().__init__()
        self.inner, self.is_image = module, known.numeric.ndim == 3
        low, width = known.low, known.high - known.low
        for name, asked in (("numeric", known.numeric), ("whole", known.whole), ("low", low), ("width", width)):
            is_flag = asked.dtype == bool
            values = np.array(asked) if is_flag else np.nan_to_num(asked, posinf=0, neginf=0).astype(np.float32)
            self.register_buffer(name, torch.from_numpy(values))

    def raw(self, rows: Tensor) -> Tensor:
        """Rows as the system is given them."""
        numbers = self.low + rows.clamp(0, 1) * self.width  # type: ignore[operator]
        return numbers if self.is_image else torch.where(self.numeric, numbers, torch.round(rows / APART))  # type: ignore[arg-type]

    def scaled(self, raw: Array) -> Tensor:
        """The other way round."""
        rows = torch.from_numpy(raw.astype(np.float32))
        numbers = (rows - self.low) / torch.where(self.width > 0, self.width, 1.0)  # type: ignore[operator,arg-type]
        return numbers if self.is_image else torch.where(self.numeric, numbers, rows * APART)  # type: ignore[arg-type]

    def forward(self, rows: Tensor) -> Tensor:
        """Logits."""
        found: Tensor = self.inner(self.raw(rows))
        return found


@dataclass(frozen=True)
class Case:
    """A system as Amulet meets it."""

    system: System
    module: Entered

    def rows(self, name: str, chosen: Array | None = None) -> TensorDataset:
        """Rows of a split, scaled, with labels."""
        split = self.system.data.splits[name]
        split = split if chosen is None else split.take(chosen)
        return TensorDataset(self.module.scaled(split.inputs), torch.from_numpy(split.labels.astype(np.int64)))

    def loader(self, name: str, chosen: Array | None = None, *, shuffle: bool = False) -> Any:
        """The same in batches."""
        return DataLoader(self.rows(name, chosen), batch_size=128, shuffle=shuffle)


def case_of(system: System) -> Case:
    """A system behind scaled numbers."""
    known = ranges(system.data.columns, system.data.splits["train"].inputs)
    return Case(system, Entered(module_of(system), known).eval())


def fresh(case: Case, seed: int) -> Entered:
    """The same architecture, untrained."""
    data = case.system.data
    recipe = recipe_of(ARCHITECTURES[data_name(data)], data)
    known = ranges(data.columns, data.splits["train"].inputs)
    return Entered(recipe.make_module(data.splits["train"], data, seed), known)


def data_name(data: Data) -> str:
    """Which of the two sets."""
    return "fashion_mnist" if data.modality == "image" else "adult"


# ------------------------------------------------------------------ Amulet


class _Absent(type):
    """Whatever is asked of it is another of its kind."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent(name, (), {})


class _Stub(types.ModuleType):
    __path__: list[str] = []  # noqa: RUF012 - as every package has it

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent(name, (), {})


def find_amulet(folder: Path) -> None:
    """Put it behind everything that is installed here; what is not installed is stood in for."""
    if not (folder / "amulet").is_dir():
        raise SystemExit(f"{folder} holds no amulet; see --help for how to get it")
    here = Path(__file__).resolve().parent  # a script's own folder: this file would be taken for theirs
    sys.path[:] = [one for one in sys.path if Path(one).resolve() != here] + [str(folder)]
    torchvision = [f"torchvision{rest}" for rest in ("", ".models", ".models._api", ".transforms", ".io", ".datasets")]
    for name in (*torchvision, "gdown"):
        sys.modules.setdefault(name, _Stub(name))


def amulet(name: str) -> Any:
    """A module of it."""
    return importlib.import_module(f"amulet.{name}")


def without_workers(*given: Any, num_workers: int = 0, **options: Any) -> Any:
    """A loader in this process: four workers a loader would cost it more than they gain here."""
    return DataLoader(*given, num_workers=0 * num_workers, **options)


def membership(case: Case, shadows: int) -> Said:
    """LiRA, online, over training and test rows."""
    attacks = amulet("membership_inference.attacks.membership_inference_attack")
    lira = amulet("membership_inference.attacks.lira")
    train, test = case.rows("train"), case.rows("test")
    both = TensorDataset(*(torch.cat(pair) for pair in zip(train.tensors, test.tensors, strict=True)))
    seeds = iter(range(10_000))
    attacks.initialize_model = lambda *_, **__: fresh(case, next(seeds))
    for one in (attacks, lira):
        one.DataLoader = without_workers
    epochs = recipe_of(ARCHITECTURES[data_name(case.system.data)], case.system.data).settings.epochs
    num_classes = len(case.system.data.classes)
    with tempfile.TemporaryDirectory() as folder:
        found = lira.LiRA(
            case.module, np.arange(len(train)), "ours", "ours", both, "ours", 0, num_classes, 128, 0.5,
            nn.CrossEntropyLoss(), shadows, epochs, "cpu", folder, 0,
        ).attack()  # fmt: skip
    measure = amulet("membership_inference.metrics").compute_mi_metrics
    told = {way: measure(found[f"lira_{way}_preds"], found["true_labels"]) for way in ("online", "offline")}
    numbers = {f"{name}, {way}": one[name] for way, one in told.items() for name in ("auc", "tpr_at_fpr")}
    return {f"{name}, {shadows} shadows": float(value) for name, value in numbers.items()}


def evasion(case: Case, rows: Array) -> Said:
    """PGD at its defaults (40 steps of 0.01) but for the radius, on the rows that ours attacks."""
    radius, _ = radius_of(case.system.data.columns)
    about = {"epsilon": radius, "step_size": min(0.01, radius / 4), "clip_min": 0.0}
    about["clip_max"] = 1.0 if case.module.is_image else 1000.0
    found = amulet("evasion.attacks").EvasionPGD(case.module, case.loader("test", rows), "cpu", 128, **about).attack()
    raw = case.module.raw(found.dataset.tensors[0])
    whole = case.module.whole
    raw = torch.where(whole, torch.round(raw), raw)  # type: ignore[arg-type]
    answers = case.system.model.outputs(raw.numpy().astype(case.system.data.splits["test"].inputs.dtype))
    return {"accuracy under PGD": float((answers.argmax(axis=1) == found.dataset.tensors[1].numpy()).mean())}


def extraction(case: Case) -> Said:
    """A copy taught by the logits of the training rows, fifty passes; its share of equal answers on test rows."""
    copy = fresh(case, 77)
    optimiser = torch.optim.Adam(copy.parameters(), lr=1e-3)
    attacks, metrics = amulet("unauth_model_ownership.attacks"), amulet("unauth_model_ownership.metrics")
    loader = case.loader("train", shuffle=True)
    copied = attacks.ModelExtraction(case.module, copy, optimiser, loader, "cpu").attack()
    found = metrics.evaluate_extraction(case.module, copied, case.loader("test"), "cpu")
    return {"fidelity": found["fidelity"] / 100}


def discrimination(case: Case) -> Said:
    """Gaps between the two groups of the first column."""
    test = case.rows("test")
    codes = torch.from_numpy(case.system.data.splits["test"].groups.codes[:, :1].astype(np.int64))
    loader: Any = DataLoader(TensorDataset(*test.tensors, codes), batch_size=128)
    module = amulet("discriminatory_behavior.metrics")
    found = module.DiscriminatoryBehavior(case.module, loader, "cpu").evaluate_subgroup_metrics()[0]
    gaps = {
        name: float(found[name]) for name in ("demographic_parity", "true_positive_parity", "false_positive_parity")
    }
    return {**gaps, "error, group 0": 1 - found["acc_false"] / 100, "error, group 1": 1 - found["acc_true"] / 100}


def attributes(case: Case) -> Said:
    """The first group column guessed from outputs: learnt on training rows, tried on test rows."""
    splits = case.system.data.splits
    known, asked = (case.rows(name).tensors[0].numpy() for name in ("train", "test"))
    truth, hidden = (splits[name].groups.codes[:, :1].astype(np.int64) for name in ("train", "test"))
    attack = amulet("attribute_inference.attacks").DudduCIKM2022(case.module, known, asked, truth, 128, "cpu")
    found = amulet("attribute_inference.metrics").evaluate_attribute_inference(hidden, attack.attack())[0]
    return {name: float(value) for name, value in found.items()}


def defences(case: Case) -> dict[str, float]:
    """CPU seconds of its own two defences, on the same module from scratch, at their defaults but for the passes."""
    loss, epochs, spent = nn.CrossEntropyLoss(), 6, {}
    radius, _ = radius_of(case.system.data.columns)
    most = 1.0 if case.module.is_image else 1000.0
    robust, private = fresh(case, 0), fresh(case, 0)
    sgd = [torch.optim.SGD(one.parameters(), lr=0.05) for one in (robust, private)]
    loaders = [case.loader("train", shuffle=True) for _ in range(2)]
    pgd = amulet("evasion.defenses").AdversarialTrainingPGD
    began = time.process_time()
    pgd(robust, loss, sgd[0], loaders[0], "cpu", epochs, epsilon=radius, clip_max=most).train_robust()
    spent["adversarial training (40 steps a batch)"] = time.process_time() - began
    began = time.process_time()
    dp_sgd = amulet("membership_inference.defenses").DPSGD
    dp_sgd(private, loss, sgd[1], loaders[1], "cpu", 1e-5, 1.0, 1.0, epochs=epochs).train_private()
    spent["DP-SGD"] = time.process_time() - began
    return spent


# ------------------------------------------------------------------ both


def ours(system: System, risk: str, workspace: Workspace) -> dict[tuple[str, str], Measurement]:
    """Measurements of one risk, by metric and slice."""
    audit = engine.audit(system, probes=RISKS[risk], workspace=workspace)
    return {(one.metric, one.slice): one for one in audit.measurements}


def pairs(risk: str, group: str, values: Sequence[str]) -> list[tuple[str, tuple[str, str]]]:
    """What of Amulet stands beside what of ours; the first of these are equal by definition."""
    sliced = [f"{group}={value}" for value in values]
    return {
        "discriminatory behaviour": [
            ("demographic_parity", ("demographic_parity_difference", group)),
            ("true_positive_parity", ("equal_opportunity_difference", group)),
            ("error, group 0", ("error_rate", sliced[0])),
            ("error, group 1", ("error_rate", sliced[1])),
        ],
        "evasion": [("accuracy under PGD", ("robust_accuracy", ""))],
        "membership": [("auc", ("membership_auc", "")), ("tpr_at_fpr", ("members_found_at_1_percent", ""))],
        "extraction": [("fidelity", ("extraction_agreement", "answers=probabilities & queries=5000"))],
        "attribute inference": [("auc_score", ("attribute_inference_gain", f"feature={group}"))],
    }[risk]


def told(one: Measurement | None) -> str:
    """Value and interval."""
    if one is None or one.value is None:
        return "undefined"
    bounds = "" if one.low is None or one.high is None else f" [{one.low:.4f}, {one.high:.4f}]"
    return f"{one.metric} {one.value:.4f}{bounds}"


def measure(case: Case, shadows: Sequence[int], workspace: Workspace) -> tuple[list[str], dict[str, list[float]]]:
    """All risks of one system on both sides: lines, and CPU seconds (Amulet's, ours) by risk."""
    system, lines, spent = case.system, [f"{case.system.name}"], {}
    column = system.data.group_columns[0]
    rows = Query(system, workspace, Ledger(10**9)).rows(200 if case.module.is_image else 500)
    theirs: dict[str, list[Callable[[], Said]]] = {
        "discriminatory behaviour": [lambda: discrimination(case)],
        "evasion": [lambda: evasion(case, rows)],
        "membership": [lambda num=num: membership(case, num) for num in shadows],
        "extraction": [lambda: extraction(case)],
        "attribute inference": [lambda: attributes(case)],
    }
    if len(column.categories) != 2:  # it knows two groups, and two labels
        del theirs["discriminatory behaviour"], theirs["attribute inference"]
    for risk, works in theirs.items():
        found: Said = {}
        seconds = []
        for work in works:
            began = time.process_time()
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                found |= work()
            seconds.append(time.process_time() - began)
        began = time.process_time()
        mine = ours(system, risk, workspace)
        spent[risk] = [*seconds, time.process_time() - began]
        for name, key in pairs(risk, column.name, column.categories or ("", "")):
            for known, value in found.items():
                if known.startswith(name):
                    lines.append(f"  {known:36}{value:9.4f}   {told(mine.get(key))}")
                    if risk == "discriminatory behaviour" and abs(value - (mine[key].value or 0.0)) > 1e-6:
                        lines.append(f"  NOT EQUAL: {known}")
    return lines, spent


def arguments() -> argparse.Namespace:
    """What was asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--amulet", type=Path, required=True, help="folder with amuletml and cleverhans unpacked")
    parser.add_argument("--data", choices=sorted(ARCHITECTURES), default="adult")
    parser.add_argument("--train", type=int, default=3000)
    parser.add_argument("--test", type=int, default=1500)
    parser.add_argument("--shadows", default="16,4", help="numbers of shadow models of LiRA; ours has 4 references")
    return parser.parse_args()


def main() -> None:
    """Measure, and print."""
    given = arguments()
    find_amulet(given.amulet)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore")
    registry.load()
    say: Callable[[Any], None] = print
    data = fewer(load(given.data), given.train, given.test)
    name = ARCHITECTURES[given.data]
    began = time.process_time()
    first = made.train_system(data, name=name, recipe=recipe_of(name, data))
    systems, making = [first], [time.process_time() - began]
    for step in ("adversarial_training", "dp_sgd"):
        began = time.process_time()
        systems.append(replace(treat(first, step), name=f"{name}+{step}"))
        making.append(time.process_time() - began)
    workspace = Workspace(key=b"benchmark")
    shadows = [int(num) for num in given.shadows.split(",")]
    total: dict[str, list[float]] = {}
    for system in systems:
        lines, spent = measure(case_of(system), shadows, workspace)
        say("\n".join(lines))
        for risk, seconds in spent.items():
            total[risk] = [a + b for a, b in zip(total.get(risk, [0.0] * len(seconds)), seconds, strict=True)]
    say("CPU seconds, three systems: Amulet (membership: by number of shadows), ours")
    for risk, seconds in total.items():
        say(f"  {risk:28}{', '.join(f'{one:.2f}' for one in seconds[:-1]):>16}{seconds[-1]:9.2f}")
    with contextlib.redirect_stdout(io.StringIO()):
        found = defences(case_of(first))
    say(f"making, six passes: Amulet {', '.join(f'{one} {spent:.1f}' for one, spent in found.items())}; "
        f"ours adversarial_training {making[1]:.1f}, dp_sgd {making[2]:.1f}")  # fmt: skip
    began = time.process_time()
    audits = [engine.audit(one, probes=[*sum(RISKS.values(), ())], workspace=workspace) for one in systems]
    matrix = compare(audits, workspace=workspace)
    say(f"ours alone: paired effects ({time.process_time() - began:.1f} CPU s), for instance")
    for sentence in matrix.sentences.values():
        say(f"  {sentence}")


if __name__ == "__main__":
    main()
