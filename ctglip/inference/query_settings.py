"""What may be changed when a model is asked: how a scan is read, not what the model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from pydantic import Field

from ctglip.config import Settings, load_settings, merge, validate
from ctglip.errors import ConfigError, CTGLIPError

S = TypeVar("S", bound=Settings)

_TRAINED = {
    "ct": ("spacing_mm", "hu_clip", "crop_to_body"),
    "cxr": ("size", "fit", "crop_borders", "window", "percentiles"),
}
"""Settings that decide what the model sees: those of its training, and no others."""


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


def query_settings(changes: Sequence[str], section: Literal["ct", "cxr"] | None = None) -> QuerySettings:
    """Settings from ``a.b=c`` strings.

    Args:
        changes: the strings.
        section: the one that a model reads; the other is refused.

    Raises:
        ConfigError: an unknown setting, with the nearest one, or one of the other kind of model.
    """
    try:
        found = load_settings(QuerySettings, None, changes)
    except ConfigError as error:
        raise ConfigError(error.message.replace("defaults: ", "--set "), fix=error.fix) from error
    other = {"ct": "cxr", "cxr": "ct"}.get(section or "")
    if other and getattr(found, other):
        kind = "scans" if section == "ct" else "radiographs"
        raise ConfigError(f"--set {other}: this model was trained on {kind}.", fix=f"Set {section}.NAME=VALUE.")
    if section == "cxr" and found.cut_off != "refuse":
        raise ConfigError("--set cut_off: radiographs have no organs that are cut off.", fix="Leave it out.")
    return found


def changed_recipe(recipe: S, changes: dict[str, Any], section: Literal["ct", "cxr"]) -> S:
    """A model's recipe with the changes of a query.

    Raises:
        ConfigError: an unknown setting, or one that the model was trained with.
    """
    fixed = [name for name in _TRAINED[section] if name in changes]
    if fixed:
        free = [name for name in type(recipe).model_fields if name not in _TRAINED[section]]
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


def with_setting(error: CTGLIPError, recipe: Settings, section: str = "ct") -> CTGLIPError:
    """The error, and where its advice names a setting of the recipe how a query changes it."""
    named = [
        name for name in type(recipe).model_fields if name in error.fix.replace("`", " ").replace(":", " ").split()
    ]
    if not named:
        return error
    value = "true" if type(recipe).model_fields[named[0]].annotation is bool else "..."
    fix = f"{error.fix} For one query: --set {section}.{named[0]}={value}"
    return type(error)(error.message, code=error.code, fix=fix)
