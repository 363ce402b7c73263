from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assay.errors import ModelError, StorageError
from assay.models import MLP
from assay.models.adapters.module import ModuleModel
from assay.models.adapters.onnx import export_onnx, load_onnx
from assay.values import Model
from support import COLUMNS, make_split

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper

ROWS = make_split(64, 1, 1).inputs


def module() -> MLP:
    torch.manual_seed(0)
    made = MLP(COLUMNS, hidden=(8,), num_bins=4)
    made.fit_encoding(make_split(200, 2, 1))
    return made


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(module(), path, len(COLUMNS))
    return path


@pytest.mark.slow  # torch's exporter takes seconds to load
def test_round_trip_answers_the_same(exported: Path) -> None:
    model = load_onnx(exported)
    assert isinstance(model, Model)
    assert model.offers == {"query", "meter"}
    assert model.outputs_are == "logits"
    assert "64 trial inputs" in model.outputs_are_because
    expected = ModuleModel(module()).outputs(ROWS)
    for num in (1, 2, 64):
        np.testing.assert_allclose(model.outputs(ROWS[:num]), expected[:num], atol=1e-5)
    assert model.outputs(ROWS).dtype == np.float32
    assert model.num_bytes == exported.stat().st_size
    assert model.num_features == 4


@pytest.mark.slow  # torch's exporter takes seconds to load
def test_unknown_codes_and_missing_numbers_survive_the_round_trip(exported: Path) -> None:
    rows = ROWS.copy()
    rows[:3, 2] = [-1, 7, np.nan]
    rows[4, 0] = np.nan
    expected = ModuleModel(module()).outputs(rows)
    answers = load_onnx(exported).outputs(rows)
    np.testing.assert_allclose(answers, expected, atol=1e-5)
    assert np.isnan(answers[4]).all()


@pytest.mark.slow  # torch's exporter takes seconds to load
def test_digest_is_of_the_bytes(exported: Path, tmp_path: Path) -> None:
    content = exported.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    model = load_onnx(exported, sha256=sha256)
    assert model.digest == load_onnx(exported).digest
    copied = tmp_path / "other-name.onnx"
    copied.write_bytes(content)
    assert load_onnx(copied).digest == model.digest
    changed = onnx.load(exported)
    changed.doc_string = "x"
    copied.write_bytes(changed.SerializeToString())
    assert load_onnx(copied).digest != model.digest
    with pytest.raises(StorageError, match="damaged or was changed"):
        load_onnx(copied, sha256=sha256)


@pytest.mark.slow  # torch's exporter takes seconds to load
def test_a_module_that_cannot_be_exported(tmp_path: Path) -> None:
    class Branches(torch.nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return rows if rows.sum() > 0 else -rows

    with pytest.raises(ModelError, match="cannot be exported"):
        export_onnx(Branches(), tmp_path / "m.onnx", 3)
    assert not (tmp_path / "m.onnx").exists()


def write(path: Path, nodes: list[Any], outputs: list[Any], **options: Any) -> Path:
    shape = options.get("shape", ["N", 4])
    inputs = options.get("inputs") or [helper.make_tensor_value_info("x", options.get("type", 1), shape)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, options.get("initializers", []))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    opsets += [helper.make_opsetid(domain, 1) for domain in options.get("domains", [])]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
    return path


def tensor(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def scores(transform: str = "SOFTMAX") -> Any:
    """What scikit-learn's logistic regression becomes: labels and probabilities."""
    return helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "probabilities"],
        domain="ai.onnx.ml",
        coefficients=[0.1 * i for i in range(12)],
        intercepts=[0.0, 0.1, 0.2],
        classlabels_ints=[0, 1, 2],
        post_transform=transform,
    )


def by_hand(rows: np.ndarray) -> np.ndarray:
    logits = rows @ (0.1 * np.arange(12).reshape(3, 4).T) + [0.0, 0.1, 0.2]
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exps / exps.sum(axis=1, keepdims=True)


def test_scikit_learn_exports_with_and_without_zipmap(tmp_path: Path) -> None:
    label = tensor("label", ["N"], TensorProto.INT64)
    rows = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    plain = write(tmp_path / "plain.onnx", [scores()], [label, tensor("probabilities", ["N", 3])])
    zipmap = helper.make_node("ZipMap", ["probabilities"], ["out"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2])
    kind = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    )
    zipped = write(tmp_path / "zip.onnx", [scores(), zipmap], [label, helper.make_value_info("out", kind)])
    for path in (plain, zipped):
        model = load_onnx(path)
        assert model.outputs_are == "probabilities"
        assert model.outputs_are_because == "made by LinearClassifier"
        np.testing.assert_allclose(model.outputs(rows), by_hand(rows), atol=1e-5)


def forest_node(forest: Any) -> Any:
    """What skl2onnx writes for a random forest with classes by name: one node, mean leaf shares as weights."""
    found: dict[str, list[Any]] = {}

    def add(prefix: str, **values: Any) -> None:
        for name, value in values.items():
            found.setdefault(f"{prefix}_{name}", []).append(value)

    for number, tree in enumerate(one.tree_ for one in forest.estimators_):
        for node in range(tree.node_count):
            leaf = tree.children_left[node] < 0
            at = {"treeids": number, "nodeids": node, "modes": "LEAF" if leaf else "BRANCH_LEQ"}
            ways = {"truenodeids": max(0, tree.children_left[node]), "falsenodeids": max(0, tree.children_right[node])}
            add("nodes", **at, **ways, featureids=max(0, tree.feature[node]), values=float(tree.threshold[node]))
            for code, share in enumerate(tree.value[node][0] if leaf else ()):
                weight = float(share) / len(forest.estimators_)
                add("class", treeids=number, nodeids=node, ids=code, weights=weight)
    classes, given = [str(name) for name in forest.classes_], {"domain": "ai.onnx.ml", "post_transform": "NONE"}
    outputs = ["label", "probabilities"]
    return helper.make_node("TreeEnsembleClassifier", ["x"], outputs, **given, **found, classlabels_strings=classes)


def test_a_forest_with_labels_by_name_answers_as_scikit_learn_does(tmp_path: Path) -> None:
    ensembles = pytest.importorskip("sklearn.ensemble")
    rows = np.random.default_rng(0).normal(size=(80, 4)).astype(np.float32)
    names = np.array(["high", "low", "mid"])[(rows[:, 0] > 0).astype(int) + (rows[:, 1] > 0.5)]
    forest = ensembles.RandomForestClassifier(4, max_depth=4, random_state=0).fit(rows, names)
    outputs = [tensor("label", ["N"], TensorProto.STRING), tensor("probabilities", ["N", 3])]
    model = load_onnx(write(tmp_path / "forest.onnx", [forest_node(forest)], outputs))
    assert model.outputs_are == "probabilities"
    np.testing.assert_allclose(model.outputs(rows), forest.predict_proba(rows), atol=1e-6)


def test_probabilities_and_logits_are_told_apart(tmp_path: Path) -> None:
    out = tensor("y", ["N", 4])
    softmax = write(tmp_path / "a.onnx", [helper.make_node("Softmax", ["x"], ["y"])], [out])
    assert load_onnx(softmax).outputs_are == "probabilities"
    linear = write(tmp_path / "b.onnx", [helper.make_node("Relu", ["x"], ["y"])], [out])
    assert load_onnx(linear).outputs_are == "logits"
    assert load_onnx(linear, outputs_are="values").outputs_are_because == "declared"
    nodes = [
        helper.make_node("Softmax", ["x"], ["p"]),
        helper.make_node("Mul", ["p", "one"], ["y"]),
    ]
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    hidden = write(tmp_path / "c.onnx", nodes, [out], initializers=[one])
    model = load_onnx(hidden)
    assert model.outputs_are == "probabilities"
    assert "sum to 1" in model.outputs_are_because
    sigmoid = [
        helper.make_node("Slice", ["x", "zero", "stop", "axis"], ["c"]),
        helper.make_node("Sigmoid", ["c"], ["y"]),
    ]
    numbers = [helper.make_tensor(n, TensorProto.INT64, [1], [v]) for n, v in (("zero", 0), ("stop", 1), ("axis", 1))]
    single = write(tmp_path / "d.onnx", sigmoid, [tensor("y", ["N", 1])], initializers=numbers)
    assert load_onnx(single).outputs_are == "probabilities"
    assert load_onnx(single).outputs(ROWS).shape == (64, 1)


def test_a_fixed_batch_size_is_filled_up(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], [tensor("y", [5, 4])], shape=[5, 4])
    np.testing.assert_array_equal(load_onnx(path).outputs(ROWS[:13]), np.maximum(ROWS[:13], 0))


def test_doubles_are_fed_doubles(tmp_path: Path) -> None:
    out = tensor("y", ["N", 4], TensorProto.DOUBLE)
    path = write(tmp_path / "m.onnx", [helper.make_node("Abs", ["x"], ["y"])], [out], type=TensorProto.DOUBLE)
    np.testing.assert_allclose(load_onnx(path).outputs(-ROWS), ROWS)


def test_other_inputs_are_refused_by_name(tmp_path: Path) -> None:
    add = [helper.make_node("Add", ["age", "hours"], ["y"])]
    columns = [tensor("age", ["N", 1]), tensor("hours", ["N", 1])]
    path = write(tmp_path / "two.onnx", add, [tensor("y", ["N", 1])], inputs=columns)
    with pytest.raises(ModelError, match=r"age tensor\(float\)"):
        load_onnx(path)
    cast = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    path = write(tmp_path / "ints.onnx", cast, [tensor("y", ["N", 4])], type=TensorProto.INT64)
    with pytest.raises(ModelError, match="one float input"):
        load_onnx(path)
    to_int = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT64)]
    path = write(tmp_path / "labels.onnx", to_int, [tensor("y", ["N", 4], TensorProto.INT64)])
    with pytest.raises(ModelError, match="one float output"):
        load_onnx(path)
    path = write(tmp_path / "ok.onnx", [helper.make_node("Relu", ["x"], ["y"])], [tensor("y", ["N", 4])])
    with pytest.raises(ModelError, match=r"\(N, 4\)"):
        load_onnx(path).outputs(ROWS[:, :3])


def test_unknown_operators_are_refused(tmp_path: Path) -> None:
    node = helper.make_node("Run", ["x"], ["y"], domain="evil.example")
    path = write(tmp_path / "m.onnx", [node], [tensor("y", ["N", 4])], domains=["evil.example"])
    with pytest.raises(ModelError, match=r"operators of evil\.example"):
        load_onnx(path)


def external(path: Path, location: str) -> Path:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1, 4], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    weight.external_data.add(key="length", value="16")
    node = helper.make_node("Add", ["x", "w"], ["y"])
    return write(path, [node], [tensor("y", ["N", 4])], initializers=[weight])


def test_weights_beside_the_file_are_read_and_digested(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(np.array([1, 2, 3, 4], dtype=np.float32).tobytes())
    model = load_onnx(external(tmp_path / "m.onnx", "w.bin"))
    np.testing.assert_allclose(model.outputs(ROWS), ROWS + np.array([1, 2, 3, 4]))
    assert model.num_bytes == 16 + (tmp_path / "m.onnx").stat().st_size
    (tmp_path / "w.bin").write_bytes(np.array([1, 2, 3, 5], dtype=np.float32).tobytes())
    assert load_onnx(tmp_path / "m.onnx").digest != model.digest


@pytest.mark.parametrize(
    "location", ["../secret.bin", "/etc/hostname", "", "missing.bin", "sub/../../secret.bin", "link"]
)
def test_weights_elsewhere_are_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelError, match="keeps weights in"):
        load_onnx(external(folder / "m.onnx", location))


def test_external_weights_hidden_in_a_node_are_found(tmp_path: Path) -> None:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1, 4], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="../secret.bin")
    constant = helper.make_node("Constant", [], ["w"])
    constant.attribute.append(helper.make_attribute("value", weight))
    nodes = [constant, helper.make_node("Add", ["x", "w"], ["y"])]
    with pytest.raises(ModelError, match="keeps weights in"):
        load_onnx(write(tmp_path / "m.onnx", nodes, [tensor("y", ["N", 4])]))


@pytest.mark.slow  # torch's exporter takes seconds to load
def test_every_changed_byte_is_refused_or_answers_something(exported: Path, tmp_path: Path) -> None:
    """Without a digest a damaged file may still parse; it must never crash with anything but a ModelError."""
    content = exported.read_bytes()
    rng = np.random.default_rng(0)
    path, refused = tmp_path / "m.onnx", 0
    for at in rng.integers(0, len(content), 60):
        changed = bytearray(content)
        changed[at] ^= 1 << int(rng.integers(0, 8))
        path.write_bytes(changed)
        try:
            load_onnx(path).outputs(ROWS[:2])
        except ModelError:
            refused += 1
    assert refused > 0
