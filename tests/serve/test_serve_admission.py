"""Only verified bytes are parsed, only what passed is served, and exceptions are said in every answer."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from assay.errors import ServeError
from assay.evidence.signing import Signer
from assay.models import store
from assay.models.store import load_system
from assay.serve import admission
from assay.serve.admission import TRUSTED, Served, admit
from assay.serve.background import synthetic_rows
from assay.values import System, array_digest
from serve_kit import GOOD, by_sex, calling, file_tiny
from support import COLUMNS


@pytest.fixture
def copy(passed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(passed, tmp_path / "copy"))


def test_what_is_served_answers_as_the_system_that_was_measured(served: Served, tiny: System) -> None:
    split = tiny.data.splits["test"]
    probabilities, answers = served.answer(split.inputs, np.zeros((len(split), 0)))
    expected = tiny.task.probabilities(tiny.task.logits(tiny.model.outputs(split.inputs), "logits"))
    assert array_digest(probabilities) == array_digest(expected)
    assert (answers == expected.argmax(axis=1)).all()
    assert served.model.digest == tiny.model.digest
    assert served.dossier.system_digest == tiny.digest
    assert served.data.splits == {}
    assert served.warnings == ()


def test_the_sealed_part_is_not_needed(copy: Path) -> None:
    shutil.rmtree(copy / "sealed")
    assert admit(copy).warnings == ()


def test_a_changed_byte_anywhere_is_refused_and_no_flag_helps(copy: Path) -> None:
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    assert len(files) >= 8
    for path in files:
        whole = path.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(ServeError, match=r"damaged|not a dossier"):
                admit(copy, allow_failed=True, allow_unsigned=True)
        path.write_bytes(whole)
    assert admit(copy).warnings == ()


@pytest.mark.parametrize("name", ["system/weights.safetensors", "system/system.json", "open/dossier.json"])
def test_a_tampered_dossier_is_refused_before_it_is_parsed(
    copy: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The control: the same spies see the parsing of a good one."""
    parsed: list[str] = []

    def spy(module: Any, function: str) -> None:
        real = getattr(module, function)

        def noted(*args: Any, **named: Any) -> Any:
            parsed.append(function)
            return real(*args, **named)

        monkeypatch.setattr(module, function, noted)

    spy(admission, "read_open")
    spy(admission, "load_parts")
    spy(store, "_fill")
    admit(copy)
    assert parsed == ["read_open", "load_parts", "_fill"]
    parsed.clear()
    path = copy / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ServeError, match=r"damaged"):
        admit(copy)
    assert parsed == []


@pytest.mark.parametrize("name", ["system/weights.safetensors", "system/system.json", "open/dossier.json"])
def test_a_file_swapped_after_verifying_is_not_parsed(copy: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = admission.verify_dossier

    def verify_then_swap(*args: Any, **named: Any) -> Any:
        found = real(*args, **named)
        path = copy / name
        path.write_bytes(path.read_bytes() + b" ")
        return found

    monkeypatch.setattr(admission, "verify_dossier", verify_then_swap)
    with pytest.raises(ServeError, match="damaged or was changed"):
        admit(copy)


def test_a_verdict_that_is_no_pass_is_refused_or_said_in_every_answer(
    tiny: System, signer: Signer, tmp_path: Path
) -> None:
    folder = file_tiny(tiny, tmp_path / "failed", signer, bound=0.99)
    with pytest.raises(ServeError, match=r"verdict .* is fail, so it is not served"):
        admit(folder)
    with pytest.raises(ServeError, match="verdict"):
        admit(folder, allow_unsigned=True)
    served = admit(folder, allow_failed=True)
    with calling(served) as caller:
        answer = caller.predict(GOOD).json()
        explained = caller.post("/v1/explain", {"instances": [GOOD]}).json()
        card = caller.get("/card").json()
    assert answer["warnings"] == explained["warnings"] == card["warnings"]
    assert "did not pass" in answer["warnings"][0]


def test_an_unsigned_dossier_needs_the_flag_and_still_intact_files(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / "statement.dsse.json").unlink()
    with pytest.raises(ServeError, match="is not signed"):
        admit(copy)
    served = admit(copy, allow_unsigned=True)
    assert "not signed" in served.warnings[0]
    assert served.evidence_id == ""
    with monkeypatch.context() as patch:
        patch.setenv(TRUSTED, str(copy / "signer.pub"))
        with pytest.raises(ServeError, match="is not signed"):
            admit(copy, allow_unsigned=True)
    weights = copy / "system" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(ServeError, match="damaged"):
        admit(copy, allow_unsigned=True)


def test_an_unsigned_dossier_with_another_system_is_refused(copy: Path) -> None:
    (copy / "statement.dsse.json").unlink()
    about = json.loads((copy / "open/dossier.json").read_bytes())
    about["system"]["model"]["digest"] = "0" * 64
    (copy / "open/dossier.json").write_text(json.dumps(about))
    with pytest.raises(ServeError, match=r"the model in .* is not the one that was measured"):
        admit(copy, allow_unsigned=True)


def test_a_pinned_key_decides_who_may_sign(passed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pinned = tmp_path / "trusted.pem"
    pinned.write_bytes((passed / "signer.pub").read_bytes())
    monkeypatch.setenv(TRUSTED, str(pinned))
    assert admit(passed).is_pinned
    pinned.write_bytes(Signer.of(Ed25519PrivateKey.from_private_bytes(bytes(32))).public_pem)
    for allow in (False, True):
        with pytest.raises(ServeError, match="signed by key"):
            admit(passed, allow_failed=allow, allow_unsigned=allow)
    monkeypatch.setenv(TRUSTED, str(tmp_path / "nothing.pem"))
    with pytest.raises(ServeError, match=r"nothing\.pem"):
        admit(passed)


def test_a_dossier_that_only_names_its_system_is_refused(
    tiny: System, signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import serve_kit

    monkeypatch.setattr(serve_kit, "save_system", None)
    folder = file_tiny(tiny, tmp_path / "blackbox", signer)
    with pytest.raises(ServeError, match="names its system but does not hold it"):
        admit(folder)


def test_only_the_groups_that_the_rule_reads_are_asked_for(
    tiny: System, served: Served, signer: Signer, tmp_path: Path
) -> None:
    assert served.group_columns == ()
    grouped = admit(file_tiny(by_sex(tiny), tmp_path / "grouped", signer, bound=0.3))
    assert [column.name for column in grouped.data.group_columns] == ["sex", "race"]
    assert [column.name for column in grouped.group_columns] == ["sex"]


def test_a_median_stands_for_a_missing_number_and_is_not_in_the_open_part(
    tiny: System, signer: Signer, tmp_path: Path
) -> None:
    source = {"imputed": {"age": {"median": 41.0625, "rows": 3}}}
    declared = replace(tiny, data=replace(tiny.data, source=source))
    folder = file_tiny(declared, tmp_path / "filled", signer)
    assert "41.0625" not in (folder / "open" / "dossier.json").read_text()
    with calling(admit(folder)) as caller:
        found, known = (caller.predict({**GOOD, "age": age}).json()["predictions"] for age in (None, 41.0625))
        assert found == known
        assert caller.predict({**GOOD, "hours": None}).status_code == 422
    assert load_system(folder / "system", declared.data).digest == tiny.digest
    alone = replace(tiny, data=replace(tiny.data, source={"imputed": {"age": 41.0625}}))
    assert admit(file_tiny(alone, tmp_path / "alone", signer)).data.medians == {"age": 41.0625}


def test_dossiers_whose_open_part_has_the_medians_are_served_as_before(tiny: System) -> None:
    old = replace(tiny.data, source={"imputed": {"age": {"median": 40.0, "rows": 3}}})
    parts = store.Parts(tiny.model, tiny.task, tiny.decision, tiny.digest)
    assert admission._filling(old, parts) is old


def test_made_up_rows_fill_every_range_evenly() -> None:
    rows = synthetic_rows(COLUMNS, num_rows=60, seed=3)
    for index, column in enumerate(COLUMNS):
        if column.kind == "categorical":
            counts = np.bincount(rows[:, index].astype(int))
            assert (counts == 60 // len(column.categories)).all()
        else:
            places = np.floor((rows[:, index] - column.low) / (column.high - column.low) * 60)
            assert sorted(places) == list(range(60))
    shuffled = np.corrcoef(rows[:, 0], rows[:, 1])[0, 1]
    assert abs(shuffled) < 0.5
