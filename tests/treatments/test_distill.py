"""Distillation: the loss is the formula, the student is the recipe's, and references follow the same way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from assay.errors import TreatmentError
from assay.models import Architecture, build
from assay.models.adapters.module import ModuleModel
from assay.models.store import load_system, recipe_from_json, save_system
from assay.tasks import Argmax, task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.treatments.train._shares import answered, match_shares, shift_to
from assay.treatments.train.distill import DistillRecipe, bag_of, cell_weights, distill, soft_loss, widest_of
from assay.treatments.train.dp_sgd import DpRecipe, DpSettings
from assay.values import Column, Data, Groups, Split, System
from support import COLUMNS, GROUP_COLUMNS, KnownModel, make_split, small_images, small_texts


@pytest.fixture(scope="module")
def trained(small_data) -> System:
    recipe = TrainRecipe(
        Architecture("mlp", {"hidden": [48, 48], "num_bins": 4}),
        task_of(small_data),
        TrainSettings(epochs=8, batch_size=128),
    )
    return train_system(small_data, name="small", recipe=recipe, seed=5)


def softmax(logits):
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("temperature", "hard_share"), [(1.0, 0.0), (4.0, 0.3), (0.5, 1.0)])
def test_loss_is_the_formula(temperature, hard_share):
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(size=(6, 3)).astype(np.float32), rng.normal(size=(3, 3)).astype(np.float32)
    labels, rows = rng.integers(0, 3, 6), [4, 0, 2]
    loss = soft_loss(teacher, labels, temperature=temperature, hard_share=hard_share)
    found = loss(torch.from_numpy(student), torch.tensor(rows)).numpy()
    targets, answers = softmax(teacher[rows] / temperature), softmax(student / temperature)
    soft = -(targets * np.log(answers)).sum(axis=1) * temperature**2
    hard = -np.log(softmax(student)[np.arange(3), labels[rows]])
    assert found == pytest.approx((1 - hard_share) * soft + hard_share * hard, rel=1e-5)


def test_a_row_the_teacher_cannot_answer_teaches_its_label():
    teacher = np.array([[0.0, np.nan], [1.0, 0.0]], dtype=np.float32)
    loss = soft_loss(teacher, np.array([1, 0]), temperature=2.0, hard_share=0.0)
    found = loss(torch.tensor([[0.0, 2.0], [0.0, 0.0]]), torch.tensor([0, 1]))
    assert found[0].item() == pytest.approx(np.log(1 + np.exp(-2)), rel=1e-5)
    assert torch.isfinite(found).all()


def test_student_is_small_and_near_its_teacher(trained):
    treated = distill(trained, hidden=(12,))
    outcome = treated.lineage[-1].outcome
    student, teacher = treated.model.module, trained.model.module
    params = {"hidden": [12], "num_bins": 4, "dropout": 0.0, "scale_outputs": False}
    assert treated.model.architecture.params == params, "reads columns as the teacher does"
    counts = [sum(one.numel() for one in module.parameters()) for module in (student, teacher)]
    assert outcome["parameter_ratio"] == pytest.approx(counts[0] / counts[1])
    assert outcome["parameter_ratio"] < 0.2
    assert treated.model.num_bytes < 0.3 * trained.model.num_bytes
    test = trained.data.splits["test"]
    answers = [system.model.outputs(test.inputs).argmax(1) for system in (treated, trained)]
    assert (answers[0] == answers[1]).mean() > 0.9
    assert (answers[0] == test.labels).mean() > (answers[1] == test.labels).mean() - 0.03


def test_the_teacher_matters(trained):
    """A teacher that turns every answer round is followed, since the labels have no share."""
    rounded = replace(trained, model=_Turned(trained.model))
    test = trained.data.splits["test"].inputs
    agreed = (
        distill(rounded, hard_share=0.0).model.outputs(test).argmax(1) == trained.model.outputs(test).argmax(1)
    ).mean()
    assert agreed < 0.1


class _Turned:
    offers, outputs_are, num_bytes, digest = frozenset({"query"}), "logits", None, "turned"

    def __init__(self, model):
        self.model = model

    def outputs(self, inputs):
        return -self.model.outputs(inputs)


def test_recipe_gives_the_same_student_when_the_teacher_is_the_recipes(trained):
    treated = distill(trained)
    again = treated.recipe.fit(trained.data.splits["train"], trained.data, trained.seed)
    assert again.model.digest == treated.model.digest


def test_a_reference_student_has_a_reference_teacher(trained):
    """Half of the rows: neither teacher nor student may have seen the others."""
    treated = distill(trained)
    train = trained.data.splits["train"]
    half = train.take(np.arange(0, len(train), 2))
    others = replace(train, inputs=train.inputs.copy(), labels=train.labels.copy())
    others.labels[1::2] = 1 - others.labels[1::2]
    data = replace(trained.data, splits={**trained.data.splits, "train": others})
    assert treated.recipe.fit(half, trained.data, 1).model.digest == treated.recipe.fit(half, data, 1).model.digest


def test_a_student_of_texts_is_trained_with_the_recipes_changes_of_words():
    data = small_texts(40)
    settings = TrainSettings(epochs=1, batch_size=20, augment=("token_dropout:0.1",))
    teacher = TrainRecipe(Architecture("gru", {"dim": 8, "num_hidden": 8, "vocab_size": 60}), task_of(data), settings)
    treated = distill(train_system(data, recipe=teacher))
    assert treated.recipe.teacher.settings.augment == ("token_dropout:0.1",)
    assert treated.recipe.passes == 8
    longer = replace(treated.recipe, student=treated.recipe.student, passes=2)
    again = recipe_from_json(longer.to_json(), data)
    assert (again.digest, again.passes) == (longer.digest, 2)
    old = {name: value for name, value in longer.to_json().items() if name != "passes"}
    assert recipe_from_json(old, data).passes == 1


def test_a_student_passes_as_often_as_its_recipe_says(trained):
    """Twice the passes are a recipe of twice the epochs, by the same teacher's answers."""
    train = trained.data.splits["train"].take(np.arange(300))
    short, long = (replace(trained.recipe, settings=TrainSettings(epochs=epochs, batch_size=128)) for epochs in (1, 2))
    student = Architecture("mlp", {"hidden": [4]})
    recipes = [DistillRecipe(short, student, 1.0, 0.1, passes=2), DistillRecipe(long, student, 1.0, 0.1)]
    recipes.append(replace(recipes[0], passes=1))
    found = [one.fit_student(trained.model, train, data=trained.data, seed=3).model.digest for one in recipes]
    assert found[0] == found[1] != found[2]


def test_a_bag_has_all_words_if_each_may_have_a_number_a_class():
    wide = Architecture("gru", {"vocab_size": 1000, "kind": "word"})
    assert [bag_of(wide, limit, 2).params["num_grams"] for limit in (4000, 1000)] == [995, 495]
    assert bag_of(wide, 100_000, 2).params["dim"] == 8
    assert bag_of(Architecture("gru", {"kind": "char", "vocab_size": 100}), 1000, 2).params["longest"] == 3
    assert bag_of(wide, 1, 2).params["num_grams"] == 1


def test_digest_covers_what_changes_the_student(trained):
    teacher, student = trained.recipe, Architecture("mlp", {"hidden": [4]})
    recipes = [
        DistillRecipe(teacher, student, 2.0, 0.1),
        DistillRecipe(teacher, student, 3.0, 0.1),
        DistillRecipe(teacher, student, 2.0, 0.2),
        DistillRecipe(teacher, Architecture("mlp", {"hidden": [5]}), 2.0, 0.1),
        DistillRecipe(replace(teacher, settings=TrainSettings(epochs=9)), student, 2.0, 0.1),
        DistillRecipe(teacher, student, 2.0, 0.1, ("sex",), 0.5),
        DistillRecipe(teacher, student, 2.0, 0.1, ("race",), 0.5),
        DistillRecipe(teacher, student, 2.0, 0.1, ("sex",), 0.6),
        DistillRecipe(teacher, student, 2.0, 0.1, passes=2),
        DistillRecipe(teacher, student, 2.0, 0.1, matched=True),
    ]
    assert len({recipe.digest for recipe in recipes}) == len(recipes)


@pytest.mark.parametrize(("num_classes", "scale"), [(2, 0.1), (2, 10.0), (3, 1.0), (10, 0.1), (10, 10.0)])
def test_shifted_answers_have_the_shares_asked_for(num_classes, scale):
    """Logits of balanced classes and a planted bias; shares of another noise are wanted, of which there always are."""
    rng = np.random.default_rng(num_classes)
    labels = np.arange(1500) % num_classes
    one, other = (scale * (2 * np.eye(num_classes)[labels] + rng.normal(size=(1500, num_classes))) for _ in "ab")
    planted = other + scale * np.linspace(-0.7, 0.7, num_classes)
    shift = shift_to(planted, answered(one))
    assert np.abs(answered(planted) - answered(one)).max() > 20
    assert np.abs(answered(planted + shift) - answered(one)).max() <= 1
    right = [(logits.argmax(axis=1) == labels).mean() for logits in (other, planted, planted + shift)]
    assert right[2] > right[1], "on balanced rows the planted bias only cost"
    assert right[2] > right[0] - 0.01


def test_two_classes_are_shifted_as_counting_every_threshold_says():
    rng = np.random.default_rng(3)
    logits = rng.normal((0.5, 0.0), 1.0, size=(40, 2))
    edges = np.sort(logits[:, 1] - logits[:, 0])
    for wanted in range(41):
        shift = shift_to(logits, np.array([wanted, 40 - wanted]))
        assert np.isfinite(shift).all()
        by_hand = (edges < shift[0] - shift[1]).sum()
        assert abs(by_hand - wanted) <= 1


def test_a_class_that_is_never_said_falls_no_further_than_it_must():
    logits = np.array([[0.0, 1.0, 3.0], [2.0, 0.0, 0.5], [0.0, 3.0, 1.0], [1.0, 0.0, 2.0]])
    shift = shift_to(logits, np.array([2, 2, 0]))
    assert answered(logits + shift).tolist() == [2, 2, 0]
    assert np.abs(shift).max() < 2.1
    assert not shift_to(logits, answered(logits)).any()


def test_a_student_says_each_class_as_often_as_its_teacher(trained, tmp_path):
    plain, splits = distill(trained, hidden=(12,)), trained.data.splits
    assert not plain.recipe.matched, "of tables it changed nothing that could be measured"
    recipe, validation = replace(plain.recipe, matched=True), splits["validation"]
    fitted = recipe.fit_student(trained.model, splits["train"], data=trained.data, seed=trained.seed)
    models = (trained.model, plain.model, fitted.model)
    wanted, before, after = (answered(model.outputs(validation.inputs)) for model in models)
    assert np.abs(after - wanted).max() <= 1 < np.abs(before - wanted).max()
    told = fitted.facts["shares"]
    assert told["matched"] == "yes"
    assert told["share_apart_before"] == pytest.approx(np.abs(before - wanted).max() / len(validation))
    assert told["share_apart_after"] == pytest.approx(np.abs(after - wanted).max() / len(validation))
    turned = {**splits, "validation": replace(validation, labels=1 - validation.labels)}  # labels are not read
    data = replace(trained.data, splits=turned)
    again = recipe.fit_student(trained.model, splits["train"], data=data, seed=trained.seed)
    assert again.model.digest == fitted.model.digest != plain.model.digest
    system = replace(plain, model=fitted.model, recipe=recipe)
    loaded = load_system(save_system(system, tmp_path / "one"), trained.data)
    assert loaded.recipe == recipe
    assert (loaded.model.outputs(validation.inputs) == fitted.model.outputs(validation.inputs)).all()
    assert "matched" not in plain.recipe.to_json(), "as older folders are"
    assert not recipe_from_json(plain.recipe.to_json(), trained.data).matched


def test_a_reference_student_says_each_class_as_often_as_its_own_teacher(trained):
    half = trained.data.splits["train"].take(np.arange(400))
    recipe = DistillRecipe(trained.recipe, Architecture("mlp", {"hidden": [4]}), 1.0, 0.1, matched=True)
    own, rows = trained.recipe.fit(half, trained.data, 9).model, trained.data.splits["validation"].inputs
    shares = [answered(model.outputs(rows)) for model in (own, recipe.fit(half, trained.data, 9).model)]
    assert np.abs(shares[0] - shares[1]).max() <= 1


def test_of_texts_shares_are_matched_and_where_not_the_outcome_says_so():
    data = small_texts(120)
    recipe = TrainRecipe(Architecture("gru", {"dim": 8, "num_hidden": 8, "vocab_size": 60}), task_of(data))
    system = train_system(data, recipe=replace(recipe, settings=TrainSettings(epochs=1, batch_size=20)))
    assert distill(system).lineage[-1].outcome["matched"] == "yes"
    lacking = {name: split for name, split in data.splits.items() if name != "validation"}
    treated = distill(replace(system, data=replace(data, splits=lacking)))
    assert treated.lineage[-1].outcome["matched"] == "no: there is no validation split"
    assert not distill(system, balance=0.5).recipe.matched, "cells that weigh more are to move shares"


def test_a_network_without_a_last_bias_is_left_alone():
    class Odd(torch.nn.Module):
        def __init__(self, *, bias, scale):
            super().__init__()
            self.head, self.scale = torch.nn.Linear(2, 2, bias=bias), scale

        def forward(self, inputs):
            return self.head(inputs) * self.scale

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 2)).astype(np.float32)
    for module, said in ((Odd(bias=False, scale=1), "has no head.bias"), (Odd(bias=True, scale=2), "do not move")):
        model = ModuleModel(module)
        teacher = model.outputs(rows) + np.array([0.0, 1.0], dtype=np.float32)
        assert said in match_shares(model, teacher, rows)["matched"]
        assert ModuleModel(module).digest == model.digest
    assert "no validation row" in match_shares(ModuleModel(Odd(bias=True, scale=1)), teacher * np.nan, rows)["matched"]


@pytest.mark.parametrize(("kind", "own"), [("table", "mlp"), ("image", "cnn_residual"), ("text", "lstm")])
def test_by_default_it_is_as_wide_as_a_tenth_allows(kind, own):
    data = {"table": _table, "image": lambda: small_images(20), "text": lambda: small_texts(20)}[kind]()
    params = {"mlp": {"hidden": [64, 64]}, "cnn_residual": {"width": 16}, "lstm": {"vocab_size": 900}}[own]
    teacher = Architecture(own, params)
    system = replace(_box(data), recipe=TrainRecipe(teacher, task_of(data)))

    def size(one):
        module = build(one.name, columns=data.columns, num_outputs=len(data.classes), params=one.params)
        return sum(parameter.numel() for parameter in module.parameters())

    made = widest_of(teacher, system)
    assert size(made) <= 0.1 * size(teacher)
    wider = made.params | {name: made.params[name] + 1 for name in ("width", "dim") if name in made.params}
    wider |= {"hidden": [made.params["hidden"][0] + 1]} if "hidden" in made.params else {}
    assert size(Architecture(made.name, wider)) > 0.1 * size(teacher)
    assert made.name == {"image": "cnn_residual", "table": "mlp", "text": "ngrams"}[kind]


def test_a_student_is_never_too_narrow_to_tell_the_classes_apart():
    """Of a small LeNet even one unit has more than a tenth, and hardly tells ten classes apart."""
    data = small_images(20)
    data = replace(data, classes=tuple("0123456789"))
    teacher = Architecture("cnn_lenet", {"widths": [4, 8], "hidden": [16]})
    assert widest_of(teacher, replace(_box(data), recipe=TrainRecipe(teacher, task_of(data)))).params == {"hidden": [9]}


def _table():
    split = make_split(20, 0, 1)
    return Data("t", COLUMNS, "label", GROUP_COLUMNS, {"train": split}, ("no", "yes"), "yes")


def _box(data):
    return System("box", KnownModel(), data, task_of(data), Argmax())


def test_cells_weigh_as_the_formula_says(trained):
    train = trained.data.splits["train"]
    weights = cell_weights(train, ["sex"], 0.5)
    cells = train.groups.codes[:, 0] * 2 + train.labels
    sizes = np.bincount(cells)[cells]
    expected = sizes**-0.5
    assert weights == pytest.approx(expected / expected.mean(), rel=1e-5)
    alike = cell_weights(train, ["sex"], 1.0)
    assert [alike[cells == one].sum() for one in range(4)] == pytest.approx([len(train) / 4] * 4, rel=1e-4)
    doubled = replace(train, weights=np.full(len(train), 2, dtype=np.float32))
    assert cell_weights(doubled, ["sex"], 0.5) == pytest.approx(weights)


def test_the_worst_cell_gains_from_weighing_cells():
    """Nine rows in ten say that the shortcut is the label; a student of one unit has to choose."""
    rng, splits = np.random.default_rng(0), {}
    column = Column("shown", "categorical", ("a", "b"))
    for place, (name, agreement) in enumerate((("train", 0.9), ("validation", 0.9), ("test", 0.5))):
        labels = rng.integers(2, size=1500)
        shown = np.where(rng.random(1500) < agreement, labels, 1 - labels)
        inputs = np.stack([labels * 2 - 1 + rng.normal(0, 0.8, 1500), shown * 2 - 1], axis=1).astype(np.float32)
        groups = Groups(shown[:, None].astype(np.int16), (column,))
        splits[name] = Split(inputs, labels, groups, np.arange(1500) + 1500 * place)
    columns = (Column("core", "numeric", low=-4, high=4), Column("easy", "numeric", low=-1, high=1))
    data = Data("spurious", columns, "label", (column,), splits, ("no", "yes"), "yes")
    settings = TrainSettings(epochs=6, batch_size=100, learning_rate=0.02)
    teacher = train_system(data, recipe=TrainRecipe(Architecture("mlp", {"hidden": [16]}), task_of(data), settings))
    test, worst = data.splits["test"], []
    for balance in (0.0, 0.8):
        right = distill(teacher, hidden=(2,), balance=balance).model.outputs(test.inputs).argmax(axis=1) == test.labels
        cells = test.groups.codes[:, 0] * 2 + test.labels
        worst.append(min(right[cells == one].mean() for one in range(4)))
    assert worst[1] > worst[0] + 0.05


def test_what_it_refuses(trained):
    private = replace(trained, recipe=DpRecipe(trained.recipe, DpSettings()))
    with pytest.raises(TreatmentError, match="its recipe is a DpRecipe"):
        distill(private)
    with pytest.raises(TreatmentError) as caught:
        distill(trained, hidden=(0,), temperature=0.0, hard_share=2.0, columns=["x"], balance=2)
    assert len(caught.value.problems) == 5
