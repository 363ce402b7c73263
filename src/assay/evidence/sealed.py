"""What the sealed part needs so that every passive number can be measured again from it alone, and doing so."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import load

from assay.digests import pack_texts, unpack_texts
from assay.dossier import load_dossier, sealed_observation
from assay.engine import draws_for, remeasure
from assay.errors import DossierError, ModelError, Problem
from assay.observe import Workspace
from assay.storage import Content, read_regular
from assay.storage.packed import pack
from assay.tasks import decision_of, task_of
from assay.units.told import columns_of
from assay.values import Array, Data, Groups, Measurement, Split, System

SPLIT_FILE = "sealed/split-test.safetensors"
DRAWS_FILE = "sealed/draws.safetensors"


def sealed_files(system: System, workspace: Workspace) -> Mapping[str, Content]:
    """The test rows, and the key of the draws for these rows alone (from which the owner's key cannot be found)."""
    split = system.data.splits["test"]
    arrays = {"labels": split.labels, "groups": split.groups.codes, "rows": split.rows, **_packed(split.inputs)}
    key = np.frombuffer(workspace.split_key(split.digest), dtype=np.uint8)
    shape = {"num_draws": np.array([workspace.num_draws]), "level": np.array([workspace.level])}
    return {SPLIT_FILE: pack(arrays), DRAWS_FILE: pack({"key": key, **shape})}


def _packed(inputs: Array) -> dict[str, Array]:
    """Numbers and pixels as they are; texts as UTF-8 and where each ends."""
    if inputs.dtype.kind != "T":
        return {"inputs": inputs}
    utf8, ends = pack_texts(inputs)
    return {"inputs.utf8": utf8, "inputs.ends": ends}


def _unpacked(arrays: Mapping[str, Array]) -> Array:
    return arrays["inputs"] if "inputs" in arrays else unpack_texts(arrays["inputs.utf8"], arrays["inputs.ends"])


@dataclass(frozen=True)
class Recorded:
    """Stands in for a model whose answers are on record; it cannot be run."""

    digest: str
    offers: frozenset[str]
    num_bytes: int | None = None
    outputs_are: Literal["logits", "probabilities", "values"] = "logits"

    def outputs(self, inputs: Array) -> Array:
        """Raises ModelError: verifying runs no model."""
        raise ModelError(Problem("a recorded system cannot be run", "its observations"))


def recompute(folder: Path) -> tuple[Measurement, ...]:
    """Measure every passive number of a dossier again, from its sealed part; the model is neither run nor loaded.

    Of each probe that the open part shows anything of, all numbers; other probes were not asked for, and a rule about
    them is inconclusive. Raises DossierError when the sealed part is absent or is of other rows than the observation.
    """
    folder = Path(folder)
    observation = sealed_observation(folder)
    shown = load_dossier(folder, verify=False)
    about, asked = shown.about, {one.probe for one in shown.measurements}
    draws = load(read_regular(folder / DRAWS_FILE))
    arrays = load(read_regular(folder / SPLIT_FILE))
    data = _data(about["data"], arrays)
    if not hmac.compare_digest(data.splits["test"].digest, observation.split_digest):
        raise DossierError(Problem("the sealed rows are not the rows that were observed", observation.split_digest))
    told = about["system"]
    model = Recorded(told["model"]["digest"], frozenset(told["model"]["offers"]), told["model"]["num_bytes"])
    task = task_of(data)
    system = System(told["name"], model, data, task, decision_of(task), facts=told["facts"])
    workspace = Workspace(
        derived_key=draws["key"].tobytes(), num_draws=int(draws["num_draws"][0]), level=float(draws["level"][0])
    )
    found = remeasure(system, observation, draws_for([system], [observation], workspace))
    return tuple(one for one in found if one.probe in asked)


def _data(about: Mapping[str, Any], arrays: Mapping[str, Array]) -> Data:
    columns, groups = columns_of(about["columns"]), columns_of(about["group_columns"])
    split = Split(_unpacked(arrays), arrays["labels"], Groups(arrays["groups"], groups), arrays["rows"])
    classes = tuple(about["classes"])
    several = tuple(about.get("label_names", ()))
    named = (about["name"], columns, about["label"], groups, {"test": split}, classes, about["positive"])
    return Data(*named, label_names=several)
