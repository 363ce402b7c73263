"""What an explanation was asked of: rows, what masked units become, and how much may be run for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from assay import units
from assay.explain import Explanation, masked_passes, num_model_rows, shapley
from assay.serve.admission import Served
from assay.serve.background import ABOUT
from assay.serve.bodies import refuse
from assay.serve.oip import coder_of
from assay.tasks.decisions import REFUSED, UnlessEven
from assay.units import Ground, Words
from assay.values import Array, Groups

__all__ = ["EXPLAINS", "REFUSED_MEANS", "Question", "question"]

MAX_BACKGROUND = 100
MAX_EXPLAINED = {"table": 16, "image": 4, "text": 4}  # rows; a picture or a text costs the model far more than a row
MAX_MODEL_ROWS = 200_000  # of one explanation
_SHAPLEY = "Shapley values of the model's output: how far each {} moved it from the mean output of the background. "
_LIMITS = "They say what the model uses, not what causes the outcome, and they do not cover the decision rule"
REFUSED_MEANS = "The system gives no answer to a refused row: what is explained are the even probabilities it tells"
EXPLAINS = {
    "table": _SHAPLEY.format("column") + _LIMITS,
    "image": _SHAPLEY.format("patch of the picture (row, column, from the top left)") + _LIMITS,
    "text": _SHAPLEY.format("run of words") + _LIMITS,
}


@dataclass(frozen=True)
class Question:
    """Rows `(R, ...)` to explain, the ground that their masked units fall back to, and coalitions a row."""

    inputs: Array
    ground: Ground
    num_coalitions: int
    about: str  # the background, in words

    @property
    def num_told(self) -> int:
        """Numbers that the answer tells of the model: of R rows U attributions, U errors, base and output each."""
        return len(self.inputs) * (2 * self.ground.count + 2)

    def answer(self, served: Served, target: int | None) -> tuple[Explanation, Array, Array]:
        """The explanation, of which output `(R,)` it is (`target`, or each row's most probable class), and `refused`.

        `refused (R,)` bool: to such a row the system gives no answer; what is explained are its even probabilities.
        """
        outputs = served.probabilities(self.inputs)
        size = len(self.inputs)
        chosen = np.nan_to_num(outputs).argmax(axis=1) if target is None else np.full(size, target)
        rng = np.random.default_rng(int(served.model.digest[:8], 16))  # the same request, the same answer
        budget = self.num_coalitions
        masked = masked_passes(
            served.probabilities, self.inputs, self.ground, num_coalitions=budget, rng=rng, target=chosen
        )
        return shapley(masked), chosen, self._refused(served, outputs)

    def _refused(self, served: Served, outputs: Array) -> Array:
        if not isinstance(served.decision, UnlessEven):  # no other rule refuses
            return np.zeros(len(outputs), dtype=bool)
        nobody = Groups(np.empty((len(outputs), 0), dtype=np.int16), ())  # it reads no groups
        refused: Array = served.decision.decide(outputs, self.inputs, nobody) == REFUSED
        return refused

    def named(self, values: Array, errors: Array) -> dict[str, Any]:
        """Values `(R, U)` and their errors by the name of the unit; of texts in the order of the words."""
        own = self.ground.units
        if not isinstance(own, Words):
            both = {"attributions": values, "standard_error": errors}
            return {key: [dict(zip(own.names, row, strict=True)) for row in one.tolist()] for key, one in both.items()}
        found = []
        for text, row, error in zip(self.inputs.tolist(), values.tolist(), errors.tolist(), strict=True):
            runs = zip(own.runs(text), row, error, strict=True)
            found.append([{"words": run, "attribution": a, "standard_error": e} for run, a, e in runs if run])
        return {"attributions": found}


def question(served: Served, body: Mapping[str, Any]) -> Question:
    """What `instances` and `background` of a request ask for. Raises Refusal 422 with every problem of either."""
    kind, coder = served.data.modality, coder_of(served.data)  # the model alone is explained: no groups are asked for
    inputs = coder.rows(body.get("instances"), limit=MAX_EXPLAINED[kind]).inputs
    background, about, own = served.background, ABOUT[kind], body.get("background")
    if own is not None:
        if kind == "text":
            refuse("a background is given for texts", "none: words are left out, not replaced")
        background = coder.rows(own, what="background", limit=MAX_BACKGROUND).inputs
        about = f"the {len(background)} rows sent"
    if kind == "image" and inputs.dtype != background.dtype:
        inputs, background = inputs.astype(np.float32), background.astype(np.float32)
    ground = Ground(background, units.of(served.data.columns))
    budget = max(1000 if kind == "table" else 0, 50 * (ground.count - 1))  # what the standard error needs
    needed = num_model_rows(ground.count, len(background), num_rows=len(inputs), num_coalitions=budget)
    if needed > MAX_MODEL_ROWS:
        refuse(f"this needs {needed:,} rows of the model", f"at most {MAX_MODEL_ROWS:,}", "Send fewer instances")
    return Question(inputs, ground, budget, about)
