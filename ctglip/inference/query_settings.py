"""What may be changed when a model is asked: how a scan is read, not what the model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from pydantic import Field

from ctglip.config import Settings, load_settings, merge, validate
from ctglip.ct.recipe import CtRecipe
from ctglip.cxr.recipe import CxrRecipe
from ctglip.errors import ConfigError, CTGLIPError
from ctglip.modality import MODALITIES, Modality
from ctglip.types import ModalityName

S = TypeVar("S", CtRecipe, CxrRecipe)


class QuerySettings(Settings):
    """Settings of one query, changed by ``--set``.

    Attributes:
        ct: changes of the model's volume recipe (``ct.series=3``, ``ct.align_masks_by_index=true``).
        cxr: changes of a radiograph model's recipe (``cxr.label_map={1: lung_left}``).
        cut_off: whether an organ that the field of view cuts off gets no answer, or one that is marked as such.
    """

    ct: dict[str, Any] = Field(default_factory=dict)
    cxr: dict[str, Any] = Field(default_factory=dict)
    cut_off: Literal["refuse", "answer"] = "refuse"


def query_settings(changes: Sequence[str], modality: Modality[Any, Any] | None = None) -> QuerySettings:
    """Settings from ``a.b=c`` strings.

    Args:
        changes: the strings.
        modality: of the model; the settings of others are refused.

    Raises:
        ConfigError: an unknown setting, with the nearest one, or one of the other kind of model.
    """
    try:
        found = load_settings(QuerySettings, None, changes)
    except ConfigError as error:
        raise ConfigError(error.message.replace("defaults: ", "--set "), fix=error.fix) from error
    if modality is None:
        return found
    for other in MODALITIES:
        if other != modality.name and getattr(found, other):
            message = f"--set {other}: this model was trained on {modality.images}."
            raise ConfigError(message, fix=f"Set {modality.name}.NAME=VALUE.")
    if not modality.has_border and found.cut_off != "refuse":
        raise ConfigError(f"--set cut_off: {modality.images} have no organs that are cut off.", fix="Leave it out.")
    return found


def changed_recipe(recipe: S, changes: dict[str, Any], section: ModalityName) -> S:
    """A model's recipe with the changes of a query.

    Raises:
        ConfigError: an unknown setting, or one that the model was trained with.
    """
    fixed = [name for name in recipe.trained if name in changes]
    if fixed:
        free = [name for name in type(recipe).model_fields if name not in recipe.trained]
        raise ConfigError(
            f"--set {section}.{fixed[0]}: the model was trained with {fixed[0]} = {getattr(recipe, fixed[0])!r}, and "
            "reads nothing else.",
            fix=f"What can be set: {', '.join(f'{section}.{name}' for name in free)}.",
        )
    if not changes:
        return recipe
    if isinstance(changes.get("series"), int):  # a series number is written as one
        changes = {**changes, "series": str(changes["series"])}
    return validate(type(recipe), merge(recipe.model_dump(mode="json"), changes), f"--set {section}")


def with_setting(error: CTGLIPError, recipe: Settings, section: ModalityName) -> CTGLIPError:
    """The error, and where its advice names a setting of the recipe how a query changes it."""
    named = [
        name for name in type(recipe).model_fields if name in error.fix.replace("`", " ").replace(":", " ").split()
    ]
    if not named:
        return error
    value = "true" if type(recipe).model_fields[named[0]].annotation is bool else "..."
    fix = f"{error.fix} For one query: --set {section}.{named[0]}={value}"
    return type(error)(error.message, code=error.code, fix=fix)
