from __future__ import annotations

import sys
from pathlib import Path

import pytest

from assay.errors import AssayError, ModelError, UsageError
from assay.models.adapters.python import load_callable
from assay.values import System

MODULE = """
from assay.models.adapters import CallableModel
from assay.tasks import Argmax, Classification
from assay.values import Data, System

def make_system():
    model = CallableModel(len, name="mine", outputs_are="logits")
    data = Data("none", (), "y", (), {}, ("a", "b"))
    return System("mine", model, data, Classification(("a", "b")), Argmax())

def wrong():
    return 3

def broken():
    raise KeyError("no such column")

number = 7
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user_models_a.py").write_text(MODULE)
    (tmp_path / "user_models_b.py").write_text("import not_installed_anywhere\n")
    (tmp_path / "user_models_c.py").write_text("def make(:\n")
    (tmp_path / "user_package").mkdir()
    (tmp_path / "user_package" / "inner.py").write_text(MODULE)
    return tmp_path


def test_a_system_from_the_current_folder() -> None:
    path = list(sys.path)
    assert isinstance(load_callable("user_models_a:make_system"), System)
    assert load_callable("user_package.inner:make_system").name == "mine"
    assert sys.path == path, "the path is as before"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("user_models_a:missing", "user_models_a has no function missing"),
        ("user_models_a:number", "user_models_a has no function number"),
        ("user_models_a:wrong", "returned a int"),
        ("user_models_a:broken", "stopped with KeyError: 'no such column'"),
        ("user_models_b:make", "user_models_b needs not_installed_anywhere, which is not installed"),
        ("user_models_c:make", "cannot be imported: SyntaxError"),
        ("user_models_z:make", "there is no module user_models_z"),
        ("user_package.nothing:make", "there is no module user_package.nothing"),
    ],
)
def test_one_sentence_for_each_mistake(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message.replace("(", r"\(")) as caught:
        load_callable(name)
    assert len(caught.value.problems) == 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "module", "module:", ":f", "a b:c", "../x:f", "os.path:join:x", "m:f()"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UsageError, match="names no function"):
        load_callable(name)
    assert issubclass(UsageError, AssayError)
