"""Recipes of a plain recipe and settings of their own: how they are written and read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from assay.models.store import base_from_json, register_recipe
from assay.train import TrainRecipe
from assay.values import Data, Recipe, plain

Settings = TypeVar("Settings")


def to_json(name: str, base: TrainRecipe, settings: Any) -> dict[str, Any]:
    """Name and parameters as plain data: what `register` reads back."""
    return {"name": name, "base": base.to_json(), "settings": plain(settings)}


def register(name: str, recipe: Callable[[TrainRecipe, Settings], Recipe], settings: Callable[..., Settings]) -> None:
    """Let folders name a recipe made of a plain one and of `settings(**numbers)`, whose sequences are tuples."""

    def from_json(about: Mapping[str, Any], data: Data) -> Recipe:
        own = {key: tuple(one) if isinstance(one, list) else one for key, one in about["settings"].items()}
        return recipe(base_from_json(about, data), settings(**own))

    register_recipe(name, from_json)
