"""Every class counts the same in training, however rare it is."""

from __future__ import annotations

from dataclasses import replace

from assay.registry import treatment
from assay.treatments import _common, _counts
from assay.values import System


@treatment("train", moves=("higher:balanced_accuracy",))
def weigh_classes(system: System) -> System:
    r"""Train again with each row's loss times $W / (K W_c)$, $W_c$ the weight of its class, K the number of classes.

    Limits: what is gained on rare classes is paid on common ones, so accuracy usually falls; probabilities are those of
    a world in which all classes are equally common, so calibration gets worse unless they are. Raises TreatmentError
    without a plain recipe, for regression, and after model-stage treatments.

    Source: King and Zeng 2001, "Logistic Regression in Rare Events Data", section 4.2 (weighting).
    """
    problems = [
        *_common.trains_again(system),
        _common.needs_classes(system),
    ]
    _common.refuse("weigh_classes", system, problems)
    base = _common.train_recipe(system)
    recipe = replace(base, settings=replace(base.settings, class_weights="balanced"))
    fitted = recipe.fit(system.data.splits["train"], system.data, system.seed)
    labels = system.data.splits["train"].labels
    counts = {name: int((labels == place).sum()) for place, name in enumerate(system.data.classes)}
    named = _common.grown(
        system, treatment="weigh_classes", stage="train", parameters={}, outcome={"class_rows": _counts.told(counts)}
    )
    return replace(named, model=fitted.model, recipe=recipe, facts=fitted.facts)
