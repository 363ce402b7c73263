"""What a model is and what one answer costs, as the open part of a dossier says it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from assay.digests import plain
from assay.errors import AssayError
from assay.models import describe
from assay.models.adapters.module import ModuleModel
from assay.models.int8 import Int8Linear
from assay.models.text import TextEncoder
from assay.values import Data, Model

NUM_ROWS = 16  # the first training rows, as in the facts of a training run


def card(model: Model, data: Data) -> dict[str, Any]:
    """Architecture, parameters, bytes and operations of a module, for people; empty for a model made elsewhere.

    Of a text model also how it reads. Operations of layers in 8 bits count as those of the float layers they replace.
    Unknown is None.

    >>> from assay.data import load_adult
    >>> card(ModuleModel(nn.Sequential(nn.Linear(13, 2)), outputs_are="logits"), load_adult())["flops_per_example"]
    52
    """
    if not isinstance(model, ModuleModel):
        return {}
    architecture = model.architecture
    named = {"architecture": "", "params": {}}
    if architecture is not None:
        named = {"architecture": architecture.name, "params": plain(architecture.params)}
    card = {**named, **describe(model.module), "flops_per_example": _operations(model.module, data)}
    reader = next((part for part in model.module.modules() if isinstance(part, TextEncoder)), None)
    if reader is None or not len(reader.table):
        return card
    return card | {"tokenizer": reader.kind, "num_tokens": len(reader.tokens()), "max_length": reader.max_length}


def _operations(module: nn.Module, data: Data) -> int | None:
    from assay.train.costs import describe_costs  # on its way here through the recipe, so not at the top

    if not len(data.splits.get("train", ())):
        return None
    rows = data.splits["train"].inputs[:NUM_ROWS]
    try:
        with _int8_products(module) as hidden:
            found = describe_costs(module, data.columns, inputs=rows)["flops_per_example"]
    except (AssayError, RuntimeError, ValueError):  # a module that cannot answer is for the audit to tell
        return None
    return found + round(sum(hidden) / len(rows))


@contextmanager
def _int8_products(module: nn.Module) -> Iterator[list[int]]:
    """Operations of whole-number products, whose kernels are no matrix products to torch's counter."""
    found: list[int] = []

    def count(layer: Int8Linear, rows: tuple[Tensor, ...], _: Any) -> None:
        if layer.arithmetic == "int8":
            found.append(2 * rows[0].numel() * layer.weight.shape[0])

    hooks = [one.register_forward_hook(count) for one in module.modules() if isinstance(one, Int8Linear)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
