from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from assay.errors import ModelError
from assay.models.adapters.sklearn import SklearnModel, digest_estimator
from assay.tasks import Classification, Regression
from assay.values import Column, Model
from support import COLUMNS, make_split

pytest.importorskip("sklearn")
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

TRAIN, TEST = make_split(300, 1, 1), make_split(50, 2, 1)
ESTIMATORS: dict[str, Any] = {
    "logistic": lambda seed: make_pipeline(StandardScaler(), LogisticRegression(C=1.0 + seed)),
    "forest": lambda seed: RandomForestClassifier(8, random_state=seed),
    "boosting": lambda seed: HistGradientBoostingClassifier(max_iter=10, random_state=0, l2_regularization=seed),
    "tree": lambda seed: DecisionTreeClassifier(max_depth=3 + seed, random_state=0),
    "neighbours": lambda seed: KNeighborsClassifier(3 + 2 * seed),
    "svc": lambda seed: SVC(C=1.0 + seed),
    "network": lambda seed: MLPClassifier((4,), max_iter=400, random_state=seed, tol=1e-2),
}


def fitted(name: str, seed: int = 0) -> Any:
    return ESTIMATORS[name](seed).fit(TRAIN.inputs, TRAIN.labels)


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_answers_and_digest(name: str) -> None:
    estimator = fitted(name)
    model = SklearnModel(estimator, COLUMNS)
    assert isinstance(model, Model)
    assert model.offers == {"query", "meter"}
    answers = model.outputs(TEST.inputs)
    assert answers.shape == (50, 2)
    predictions = Classification(("no", "yes")).logits(answers, model.outputs_are).argmax(axis=1)
    np.testing.assert_array_equal(predictions, estimator.predict(TEST.inputs))
    assert SklearnModel(fitted(name), COLUMNS).digest == model.digest, "the same fit again has the same digest"
    assert SklearnModel(fitted(name, 1), COLUMNS).digest != model.digest
    assert SklearnModel(estimator, COLUMNS).digest == model.digest, "answering must not change the digest"
    assert model.num_bytes > 0


def test_probabilities_are_the_estimators_own() -> None:
    estimator = fitted("forest")
    model = SklearnModel(estimator, COLUMNS)
    assert model.outputs_are == "probabilities"
    np.testing.assert_allclose(model.outputs(TEST.inputs), estimator.predict_proba(TEST.inputs), atol=1e-7)


def test_one_changed_number_changes_the_digest() -> None:
    tree = fitted("tree")
    before = SklearnModel(tree, COLUMNS).digest
    inner = np.flatnonzero(tree.tree_.feature >= 0)[0]
    tree.tree_.threshold[inner] = np.nextafter(tree.tree_.threshold[inner], 1e9)
    assert SklearnModel(tree, COLUMNS).digest != before
    linear = fitted("logistic")
    before = SklearnModel(linear, COLUMNS).digest
    linear[-1].coef_[0, 0] = np.nextafter(linear[-1].coef_[0, 0], 1e9)
    assert SklearnModel(linear, COLUMNS).digest != before


def test_settings_that_change_no_answer_change_no_digest() -> None:
    estimator = fitted("forest")
    before = SklearnModel(estimator, COLUMNS).digest
    estimator.set_params(n_jobs=2, verbose=0)
    assert SklearnModel(estimator, COLUMNS).digest == before


def test_decision_functions_and_regressors() -> None:
    machine = LinearSVC().fit(TRAIN.inputs / 50, TRAIN.labels)
    model = SklearnModel(machine, COLUMNS)
    assert model.outputs_are == "logits"
    answers = model.outputs(TEST.inputs / 50)
    np.testing.assert_allclose(answers[:, 1] - answers[:, 0], machine.decision_function(TEST.inputs / 50), rtol=1e-5)
    line = LinearRegression().fit(TRAIN.inputs, TRAIN.inputs[:, 0] * 3 + 1)
    model = SklearnModel(line, COLUMNS)
    assert model.outputs_are == "values"
    values = Regression().logits(model.outputs(TEST.inputs), model.outputs_are)
    np.testing.assert_allclose(values[:, 0], TEST.inputs[:, 0] * 3 + 1, rtol=1e-4)


def test_classes_by_name_and_in_another_order() -> None:
    names = np.array(["yes", "no"])[TRAIN.labels]
    estimator = LogisticRegression(max_iter=1000).fit(TRAIN.inputs, names)
    assert list(estimator.classes_) == ["no", "yes"]
    model = SklearnModel(estimator, COLUMNS, classes=("yes", "no"))
    np.testing.assert_allclose(model.outputs(TEST.inputs), estimator.predict_proba(TEST.inputs)[:, ::-1], atol=1e-6)
    with pytest.raises(ModelError, match="the estimator knows the classes no, yes"):
        SklearnModel(estimator, COLUMNS, classes=("a", "b"))


def test_a_class_that_training_never_met_gets_no_probability() -> None:
    labels = TRAIN.labels * 2  # codes 0 and 2 of three
    estimator = DecisionTreeClassifier(max_depth=2).fit(TRAIN.inputs, labels)
    answers = SklearnModel(estimator, COLUMNS, classes=("a", "b", "c")).outputs(TEST.inputs)
    assert answers.shape == (50, 3)
    assert (answers[:, 1] == 0).all()
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-6)


def test_tables_with_names_and_raw_values() -> None:
    import polars

    raw = polars.DataFrame(
        {
            "age": TRAIN.inputs[:, 0].astype(float),
            "hours": TRAIN.inputs[:, 1].astype(float),
            "job": [("a", "b", "c")[int(code)] for code in TRAIN.inputs[:, 2]],
            "sex": [("Female", "Male")[int(code)] for code in TRAIN.inputs[:, 3]],
        }
    )
    encode = make_column_transformer(
        (StandardScaler(), ["age", "hours"]), (OneHotEncoder(handle_unknown="ignore"), ["job", "sex"])
    )
    estimator = make_pipeline(encode, LogisticRegression()).fit(raw, TRAIN.labels)
    model = SklearnModel(estimator, COLUMNS, inputs_are="table")
    np.testing.assert_allclose(model.outputs(TRAIN.inputs), estimator.predict_proba(raw), atol=1e-5)
    rows = TRAIN.inputs[:3].copy()
    rows[:, 2] = -1
    assert np.isfinite(model.outputs(rows)).all()


def test_what_cannot_be_used_says_why() -> None:
    with pytest.raises(ModelError, match="not fitted"):
        SklearnModel(LogisticRegression(), COLUMNS)
    with pytest.raises(ModelError, match="fitted scikit-learn estimator"):
        SklearnModel(object(), COLUMNS)
    rows = TRAIN.inputs[:3].copy()
    rows[1, 0] = np.nan
    with pytest.raises(ModelError, match="the estimator stopped"):
        SklearnModel(fitted("logistic"), COLUMNS).outputs(rows)
    odd = fitted("logistic")
    odd.generator_ = (number for number in range(3))
    with pytest.raises(ModelError, match="no canonical form"):
        digest_estimator(odd)


def test_walk_knows_cycles_and_objects_that_are_shared() -> None:
    estimator = fitted("logistic")
    estimator.extra_ = {"self": estimator, "list": [1, 2.5, None, "x", b"y", {3, 1}, (True, np.float32(2))]}
    assert digest_estimator(estimator)[0] == digest_estimator(estimator)[0]
    first = digest_estimator(estimator)[0]
    estimator.extra_["list"][5] = {3, 2}
    assert digest_estimator(estimator)[0] != first


def test_columns_are_kept_for_reading_rows() -> None:
    from assay.models.adapters._rows import decode

    columns = (Column("age", "numeric"), Column("job", "categorical", ("a", "b")))
    inputs = np.array([[1.5, 0], [np.nan, 1], [2, -1], [3, 2], [4, np.nan]], dtype=np.float32)
    assert decode(inputs, columns) == {"age": [1.5, None, 2.0, 3.0, 4.0], "job": ["a", "b", None, None, None]}
    with pytest.raises(ModelError, match=r"\(N, 2\)"):
        decode(inputs[:, :1], columns)
