"""Texts and pictures, served: the same answers by every way in, every wrong body told, units explained."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from assay.evidence.signing import Signer
from assay.models import Architecture
from assay.serve.admission import Served, admit
from assay.tasks import task_of
from assay.tasks.group_thresholds import GroupThresholds, Mixture
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.units import Patches, Words
from assay.values import System
from serve_kit import Caller, calling, file_tiny
from support import small_images, small_texts

SIZES = {"text": {"dim": 8, "num_hidden": 8}, "image": {"widths": [4, 4], "hidden": [8]}}
NAMES = {"text": "gru", "image": "cnn_lenet"}


def trained(kind: str) -> System:
    data = small_texts(160) if kind == "text" else small_images(100)
    architecture = Architecture(NAMES[kind], SIZES[kind])
    recipe = TrainRecipe(architecture, task_of(data), TrainSettings(epochs=2, batch_size=32))
    return train_system(data, name=kind, recipe=recipe)


@pytest.fixture(scope="module")
def systems() -> dict[str, System]:
    return {kind: trained(kind) for kind in NAMES}


@pytest.fixture(scope="module")
def admitted(systems: dict[str, System], signer: Signer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Served]:
    folder = tmp_path_factory.mktemp("media")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSAY_HOME", str(folder / "home"))
        return {kind: admit(file_tiny(one, folder / kind, signer, bound=0.01)) for kind, one in systems.items()}


@pytest.fixture
def text(admitted: dict[str, Served]) -> Iterator[Caller]:
    with calling(admitted["text"]) as one:
        yield one


@pytest.fixture
def image(admitted: dict[str, Served]) -> Iterator[Caller]:
    with calling(admitted["image"]) as one:
        yield one


def expected(system: System, num: int) -> tuple[Any, Any]:
    inputs = system.data.splits["test"].inputs[:num]
    return inputs, system.task.probabilities(system.task.logits(system.model.outputs(inputs), "logits"))


def packed(picture: Any, **more: Any) -> dict[str, Any]:
    return {"base64": base64.b64encode(picture.tobytes()).decode(), **more}


# ------------------------------------------------------------------ answers


def test_texts_by_every_way_in(text: Caller, systems: dict[str, System]) -> None:
    inputs, probabilities = expected(systems["text"], 9)
    found = text.predict(*[{"text": one} for one in inputs.tolist()]).json()
    np.testing.assert_allclose(found["probabilities"], probabilities, atol=1e-6)
    assert found["predictions"] == [("bad", "good")[one] for one in probabilities.argmax(axis=1)]
    for shape in ([9], [9, 1]):
        tensor = {"name": "text", "datatype": "BYTES", "shape": shape, "data": inputs.tolist()}
        answer = text.post("/v2/models/text/infer", {"inputs": [tensor]}).json()
        np.testing.assert_allclose(np.reshape(answer["outputs"][0]["data"], (9, 2)), probabilities, atol=1e-6)
        assert answer["outputs"][1]["data"] == found["predictions"]
    alone = [text.predict({"text": one}).json()["probabilities"][0] for one in inputs.tolist()]
    np.testing.assert_allclose(alone, probabilities, atol=1e-6)  # whatever they were padded with


def test_pictures_by_every_way_in(image: Caller, systems: dict[str, System]) -> None:
    inputs, probabilities = expected(systems["image"], 4)
    infer, one = "/v2/models/image/infer", {"name": "image", "shape": [4, 1, 12, 12]}
    bodies = [
        [{"image": picture.tolist()} for picture in inputs],
        [{"image": picture[0].tolist()} for picture in inputs],
        [{"image": picture.astype(float).tolist()} for picture in inputs],
        [{"image": packed(picture)} for picture in inputs],
        [{"image": packed(picture, shape=[1, 12, 12])} for picture in inputs],
        [{"image": inputs[0].tolist()}, *[{"image": packed(picture)} for picture in inputs[1:]]],
    ]
    for body in bodies:
        found = image.predict(*body)
        assert found.status_code == 200, found.text
        np.testing.assert_allclose(found.json()["probabilities"], probabilities, atol=1e-6)
    for datatype, kind in (("UINT8", "u1"), ("FP32", "<f4")):
        cells = inputs.astype(kind)
        answer = image.post(infer, {"inputs": [{**one, "datatype": datatype, "data": cells.ravel().tolist()}]})
        np.testing.assert_allclose(np.reshape(answer.json()["outputs"][0]["data"], (4, 3)), probabilities, atol=1e-6)
        nested = image.post(infer, {"inputs": [{**one, "datatype": datatype, "data": cells.tolist()}]})
        assert nested.json()["outputs"] == answer.json()["outputs"]
        raw = cells.tobytes()
        size = {"parameters": {"binary_data_size": len(raw)}}
        head = json.dumps({"inputs": [{**one, **size, "datatype": datatype}]}).encode()
        headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
        binary = image.post(infer, head + raw, headers=headers)
        assert binary.json()["outputs"] == answer.json()["outputs"]
        for wrong in (raw[:-1], raw + b"0", b"", b"\xff" * len(raw) if kind == "<f4" else b""):
            assert image.post(infer, head + wrong, headers=headers).status_code == 422


def test_the_open_protocol_describes_texts_and_pictures(text: Caller, image: Caller) -> None:
    about = text.get("/v2/models/text").json()
    assert about["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1, 1]}]
    assert "coded_input" not in about["parameters"]
    about = image.get("/v2/models/image").json()
    assert about["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 1, 12, 12]}]
    assert image.get("/card").json()["data"]["columns"][0]["shape"] == [1, 12, 12]
    assert "grey" in image.get("/card").json()["explanations_compare_with"]


def test_a_rule_that_reads_groups_needs_them_beside_the_text(
    systems: dict[str, System], signer: Signer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from dataclasses import replace

    never = Mixture((), (2.0,), (1.0,))
    rule = GroupThresholds(("topic",), 1, (Mixture(("film",), (0.0,), (1.0,)),), never, "key")
    folder = tmp_path_factory.mktemp("rule") / "d"
    served = admit(file_tiny(replace(systems["text"], decision=rule), folder, signer, bound=0.01))
    with calling(served) as caller:
        rows = [{"text": "so good", "topic": name} for name in ("film", "book")]
        assert caller.predict(*rows).json()["predictions"] == ["good", "bad"]
        tensors = [
            {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["so good"] * 2},
            {"name": "topic", "datatype": "BYTES", "shape": [2], "data": ["film", "book"]},
        ]
        found = caller.post("/v2/models/text/infer", {"inputs": tensors}).json()
        assert found["outputs"][1]["data"] == ["good", "bad"]
        for refused in (caller.predict({"text": "x"}), caller.post("/v2/models/text/infer", {"inputs": tensors[:1]})):
            assert refused.status_code == 422
            assert "'topic' is not given" in refused.json()["message"]
            assert "treats groups differently" in refused.json()["next"]


# ------------------------------------------------------------------ wrong bodies


def refused(caller: Caller, *instances: Any) -> list[str]:
    found = caller.post("/v1/predict", {"instances": list(instances)})
    assert found.status_code == 422, found.text
    return [f"{one['message']} | {one['allowed']}" for one in found.json()["problems"]]


def test_everything_wrong_with_texts_is_said_at_once(text: Caller) -> None:
    good = {"text": "so good"}
    told = refused(text, good, {"text": 3}, {"text": None}, {"text": 4}, {"text": "x" * 20_001}, {"other": 1})
    assert told == [
        "unknown columns: other | text, topic",
        "column 'text' is not given in 1 row (6) | a value in each row",
        "text is no text but int in 2 rows (2, 4) | a text",
        "text is no text but null in 1 row (3) | a text",
        "text is too long in 1 row (5) | 20,000 letters",
    ]
    assert refused(text, good, "so good", 3) == ['2 rows (2, 3) are no objects | {"text": ...} for each row']
    (half,) = refused(text, {"text": "\ud800"})
    assert "half of a character" in half
    assert text.predict({"text": ""}, {"text": "\0"}, {"text": "很" * 20_000}).status_code == 200


def test_everything_wrong_with_pictures_is_said_at_once(image: Caller) -> None:
    flat = np.zeros((12, 12), dtype=int).tolist()
    bad = [[*flat[:-1], flat[0][:-1]], [*flat[:-1], [*flat[0][:-1], 256]], [*flat[:-1], [*flat[0][:-1], True]]]
    told = refused(
        image, {"image": flat}, *[{"image": one} for one in bad],
        {"image": {"base64": "!"}}, {"image": {"base64": "AA=="}},
        {"image": packed(np.zeros(144, np.uint8), shape=[12, 12])}, {"image": {"png": ""}}, {"image": "AA=="},
    )  # fmt: skip
    assert [one.split(" | ")[0] for one in told] == [
        "image is not 1 x 12 x 12 numbers in 2 rows (2, 9)",
        "image has numbers outside of 0 to 255 in 1 row (3)",
        "image holds something else than numbers in 1 row (4)",
        "image is not base64 in 1 row (5)",
        "image has another number of bytes in 1 row (6)",
        "image is said to have another shape in 1 row (7)",
        "image is an object without base64 in 1 row (8)",
    ]
    assert all(one.split(" | ")[1] for one in told)
    for huge in (10**400, -1, 255.5):
        assert len(refused(image, {"image": [*flat[:-1], [*flat[0][:-1], huge]]})) == 1


WRONG: dict[str, list[Any]] = {
    "text": [
        {"name": "text", "datatype": "FP32", "shape": [1], "data": [1]},
        {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["a"]},
        {"name": "text", "datatype": "BYTES", "shape": [1, 2], "data": ["a", "b"]},
        {"name": "text", "datatype": "BYTES", "shape": [1], "data": [1]},
        {"name": "text", "datatype": "BYTES", "shape": [1]},
        {"name": "inputs", "datatype": "BYTES", "shape": [1], "data": ["a"]},
    ],
    "image": [
        {"name": "image", "datatype": "FP64", "shape": [1, 1, 12, 12], "data": [0] * 144},
        {"name": "image", "datatype": "UINT8", "shape": [1, 12, 12], "data": [0] * 144},
        {"name": "image", "datatype": "UINT8", "shape": [1, 1, 12, 12], "data": [0] * 143},
        {"name": "image", "datatype": "UINT8", "shape": [1, 1, 12, 12], "data": [0.5] * 144},
        {"name": "image", "datatype": "UINT8", "shape": [1, 1, 12, 12], "data": [256] * 144},
        {"name": "image", "datatype": "FP32", "shape": [1, 1, 12, 12], "data": [None] * 144},
        {"name": "image", "datatype": "FP32", "shape": [1, 1, 12, 12], "data": [-0.5] * 144},
        {"name": "image", "datatype": "FP32", "shape": [1, 1, 12, 12]},
    ],
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_tensors_are_refused(request: pytest.FixtureRequest, kind: str) -> None:
    caller = request.getfixturevalue(kind)
    for wrong in WRONG[kind]:
        found = caller.post(f"/v2/models/{kind}/infer", {"inputs": [wrong]})
        assert (found.status_code, bool(found.json()["problems"])) == (422, True), wrong
    good = {"text": {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}, "image": WRONG["image"][0]}[
        kind
    ]
    more = [{**good, "datatype": "BYTES" if kind == "text" else "UINT8"}]
    assert caller.post(f"/v2/models/{kind}/infer", {"inputs": more}).status_code == 200
    more.append({"name": "mood", "datatype": "BYTES", "shape": [1], "data": ["x"]})
    assert "group columns only" in caller.post(f"/v2/models/{kind}/infer", {"inputs": more}).text


@pytest.mark.parametrize("num", [60, pytest.param(3000, marks=pytest.mark.slow)])
def test_bodies_of_every_size_and_kind_are_answered_or_refused(request: pytest.FixtureRequest, num: int) -> None:
    """Bodies that are nearly right: an answer or a listed problem, never a defect."""
    rng = np.random.default_rng(num)
    values = [
        None,
        True,
        3,
        -1,
        1e300,
        "so bad",
        "",
        "\ud800",
        "很好",
        [],
        {},
        [[]],
        [[1]],
        {"base64": 3},
        {"base64": ""},
    ]
    whole = {"text": "so good", "image": np.zeros((12, 12), dtype=int).tolist()}
    statuses = []
    for number in range(num):
        kind = ("text", "image")[number % 2]
        caller = request.getfixturevalue(kind)
        row: Any = {kind: whole[kind] if rng.random() < 0.6 else values[rng.integers(len(values))]}
        if rng.random() < 0.2:
            row[("topic", "light", "other")[rng.integers(3)]] = values[rng.integers(len(values))]
        body = {
            "instances": [row] * int(rng.integers(1, 4)) if rng.random() < 0.9 else values[rng.integers(len(values))]
        }
        path = "/v1/explain" if number % 20 == 0 else "/v1/predict"
        found = caller.post(path, body)
        statuses.append(found.status_code)
        assert found.status_code in (200, 422), (body, found.text)
        assert found.status_code == 200 or found.json()["problems"]
        assert "Traceback" not in found.text
    assert min(statuses.count(200), statuses.count(422)) > num / 5
    for kind in whole:
        state = request.getfixturevalue(kind).gate.state
        assert (state.in_flight, state.statuses[500]) == (0, 0)


# ------------------------------------------------------------------ explanations


def test_words_are_explained_in_their_order(text: Caller, systems: dict[str, System]) -> None:
    said = "the film was so so good"
    found = text.post("/v1/explain", {"instances": [{"text": said}, {"text": "awful"}]}).json()
    first, second = found["attributions"]
    assert "".join(one["words"] for one in first) == said
    assert [one["words"] for one in second] == ["awful"]
    inputs, output = np.array([said, "awful", ""], dtype=np.dtypes.StringDType()), found["output"]
    answers = text.service.served.probabilities(inputs)[:, 1]
    np.testing.assert_allclose(output, answers[:2], atol=1e-6)
    np.testing.assert_allclose(found["base"], [answers[2]] * 2, atol=1e-6)
    assert sum(one["attribution"] for one in first) == pytest.approx(output[0] - found["base"][0], abs=1e-6)
    assert second[0]["attribution"] == pytest.approx(answers[1] - answers[2], abs=1e-6)
    assert "empty text" in found["background"]
    refusal = text.post("/v1/explain", {"instances": [{"text": "x"}], "background": [{"text": "y"}]})
    assert "none: words are left out" in refusal.json()["allowed"]
    assert text.post("/v1/explain", {"instances": [{"text": "x"}] * 5}).status_code == 422
    assert Words().count == 16


def test_patches_are_explained_by_their_place(image: Caller, systems: dict[str, System]) -> None:
    inputs, _ = expected(systems["image"], 2)
    served = image.service.served
    body = {"instances": [{"image": one.tolist()} for one in inputs], "class": "bar 1"}
    found = image.post("/v1/explain", body).json()
    names = Patches((1, 12, 12)).names
    assert [list(one) for one in found["attributions"]] == [list(names)] * 2
    grey = np.full((1, 1, 12, 12), 128, dtype=np.uint8)
    base, answers = served.probabilities(grey)[0, 1], served.probabilities(inputs)[:, 1]
    np.testing.assert_allclose(found["base"], [base] * 2, atol=1e-6)
    np.testing.assert_allclose([sum(one.values()) for one in found["attributions"]], answers - base, atol=1e-5)
    own = image.post("/v1/explain", {**body, "background": [{"image": packed(inputs[1])}]}).json()
    np.testing.assert_allclose(list(own["attributions"][1].values()), np.zeros(16), atol=1e-9)
    assert own["background"] == "the 1 rows sent"
