"""Training: one explicit loop, and the recipe that lets it be run again."""

from assay.train.checkpoints import Checkpoints
from assay.train.costs import describe_costs
from assay.train.loop import Hooks, fit
from assay.train.objectives import Loss, task_loss
from assay.train.own import with_recipe
from assay.train.recipe import TrainRecipe
from assay.train.settings import TrainSettings
from assay.train.system import default_recipe, train_system

__all__ = [
    "Checkpoints",
    "Hooks",
    "Loss",
    "TrainRecipe",
    "TrainSettings",
    "default_recipe",
    "describe_costs",
    "fit",
    "task_loss",
    "train_system",
    "with_recipe",
]
