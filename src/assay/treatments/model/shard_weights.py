"""Weights in several files of limited size: what loads them needs no room for all files beside the model."""

from __future__ import annotations

from dataclasses import replace

from assay.models import describe
from assay.models.weight_files import shards_of
from assay.registry import treatment
from assay.treatments import _common
from assay.values import System

LEAST = 1024  # bytes


@treatment("model", moves=("lower:load_bytes",))
def shard_weights(system: System, *, max_shard_bytes: int = 64 << 20) -> System:
    r"""Store the weights in files of at most `max_shard_bytes` of tensors each, with an index; no answer changes.

    Loading then holds the model and one file: $|W| + \max_i |F_i|$ bytes in place of $2|W|$, each file verified by its
    digest before it is parsed, and its tensors put straight where the module has them (`load_system(..., devices=)`).
    A tensor that is larger is a file of its own. Limits: nothing is seen of it until the system is saved; weights that
    fit into one file stay one; the module itself must fit into memory, or over the devices named.
    Raises TreatmentError unless the model is a module of a registered architecture, and for less than 1,024 bytes.

    Source: the format of sharded checkpoints of the Hugging Face hub, `model.safetensors.index.json`.
    """
    problems = [
        _common.needs_module(system),
        _common.needs_architecture(system),
        _common.unless(max_shard_bytes >= LEAST, f"max_shard_bytes is {max_shard_bytes}", f"{LEAST} or more"),
    ]
    _common.refuse("shard_weights", system, problems)
    module = _common.module_model(system).module
    tensors = dict(sorted(module.state_dict().items()))
    sizes = [sum(tensors[name].nbytes for name in run) for run in shards_of(tensors, int(max_shard_bytes))]
    named = _common.grown(
        system,
        treatment="shard_weights",
        stage="model",
        parameters={"max_shard_bytes": int(max_shard_bytes)},
        outcome={"files": len(sizes), "largest": max(sizes), "bytes": describe(module)["num_bytes"]},
    )
    return replace(named, facts={**system.facts, "largest_shard": max(sizes)})
