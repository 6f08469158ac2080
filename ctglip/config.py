"""Settings from YAML: base files by ``extends:`` (of several the later one wins), overrides by ``--set a.b=c``,
validated by pydantic.

Plain data only: no code, no interpolation. Ids stay strings (``00123`` is never the number 83).
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError, core_schema

from ctglip.errors import ConfigError
from ctglip.files import parse_yaml, read_yaml
from ctglip.resources import resource

Share = Annotated[float, Field(ge=0, le=1)]
"""A setting from 0 to 1: how many of all, or how likely."""


class Settings(BaseModel):
    """Base of every settings class: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads as the others are set, each with the reason: ``a.b`` -> why."""
        return {}


class RootSettings(Settings):
    """Base of what a config file is read as: a setting that nothing reads is an error. Settings that travel inside of a
    model are read as they are."""

    @classmethod
    def variant(cls, tree: Any) -> type[Self]:  # noqa: ARG003
        """The class that plain data are read as: this one, or one of its subclasses."""
        return cls

    @model_validator(mode="after")
    def _all_is_read(self) -> Self:
        for owner, position in _nodes(self, ()):
            for path, reason in owner.unread().items():
                *nodes, name = path.split(".")
                node: Any = functools.reduce(getattr, nodes, owner)
                if getattr(node, name) != type(node).model_fields[name].get_default(call_default_factory=True):
                    at = ".".join((*position, path))
                    raise ConfigError(f"{at} is set, and nothing reads it: {reason}.", fix="Leave it out.")
        return self


def _nodes(node: Any, position: tuple[str, ...]) -> Iterator[tuple[Settings, tuple[str, ...]]]:
    """All settings inside of some, themselves first, and where they are."""
    if isinstance(node, Settings):
        yield node, position
    children = node if isinstance(node, Mapping) else dict(node) if isinstance(node, Settings) else {}
    for name, child in children.items():
        yield from _nodes(child, (*position, name))


S = TypeVar("S", bound=Settings)


class OneOf:
    """``Annotated[Base, OneOf(registry)]``: a field with the settings of one of the registry's classes, by ``name``.

    The name alone stands for those with all defaults.

    Entries may be registered at any time before the settings are read.

    Args:
        registry: classes of settings, or classes with ``Settings``, by the name that these have.
        default: the name where none is given.
        optional: null is welcome too.
    """

    def __init__(self, registry: Mapping[str, type[Any]], default: str | None = None, optional: bool = False) -> None:
        self.registry, self.default, self.optional = registry, default, optional

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        """Validation by the entry's own settings; errors name the fields in them."""
        return core_schema.no_info_plain_validator_function(
            self._chosen,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value, info: None if value is None else value.model_dump(mode=info.mode), info_arg=True
            ),
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        """Any of the entries' settings."""
        options = [self.settings_of(name).__pydantic_core_schema__ for name in self.registry]
        nothing = [{"type": "null"}] if self.optional else []
        return {"oneOf": [*(handler(option) for option in options), *nothing]}

    def settings_of(self, name: str) -> type[Settings]:
        """The settings class of a registered name."""
        return getattr(self.registry[name], "Settings", self.registry[name])

    def _chosen(self, value: Any) -> Any:
        if value is None and self.optional:
            return None
        if isinstance(value, Settings):
            value = value.model_dump()
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict):
            raise PydanticCustomError("dict_type", "Input should be a mapping of settings, or a name")
        name = value.get("name", self.default)
        if name not in self.registry:
            known = ", ".join(self.registry)
            raise PydanticCustomError(
                "one_of", "name is {name}, expected one of: {known}", {"name": repr(name), "known": known}
            )
        return self.settings_of(name).model_validate({"name": name, **value})


FACTS = ".facts.yaml"
"""How the files end that say where a recipe's settings come from."""


def shipped_configs() -> dict[str, Path]:
    """The shipped configs by the names that ``--config`` takes."""
    root = resource("configs")
    files = (file for file in sorted(root.rglob("*.yaml")) if not file.name.endswith(FACTS))
    return {file.relative_to(root).with_suffix("").as_posix(): file for file in files}


def find_config(name: str | Path) -> Path:
    """A config by path, or a shipped one by its name below ``configs/`` (``preprocess/demo_3mm``)."""
    path = Path(name)
    if path.is_file():
        return path
    root = resource("configs")
    shipped = (root / f"{name}.yaml").resolve()
    if shipped.is_file() and shipped.is_relative_to(root.resolve()):
        return shipped
    known = list(shipped_configs())
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.4)
    raise ConfigError(
        f"There is no config file {str(name)!r} and no shipped config of that name.",
        fix=f"Shipped configs: {', '.join(near or known)}.",
    )


def load_tree(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The merged plain data of a config: its ``extends:`` chain, then the overrides ``a.b=c``."""
    return _overridden(_with_bases(find_config(path), ()), overrides)


def load_settings(
    kind: type[S], path: str | Path | None, overrides: Sequence[str] = (), given: Mapping[str, Any] | None = None
) -> S:
    """Read, merge and validate a config.

    Args:
        kind: the settings class to build.
        path: file, shipped name, or None for the defaults.
        overrides: ``a.b=c`` strings, later ones win.
        given: settings that replace those of the file; the overrides replace them.

    Raises:
        ConfigError: names the key, what was found and what was expected; unknown keys get the nearest known one.
    """
    tree = load_tree(path) if path is not None else {}
    tree = _overridden(merge(tree, dict(given or {})), overrides)
    return validate(kind, tree, str(path or "defaults"))


def _overridden(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {override!r} has no '='.", fix="Write --set section.key=value.")
        change: Any = parse_yaml(value, f"--set {override}")
        for part in reversed(key.strip().split(".")):
            change = {part: change}
        tree = merge(tree, change)
    return tree


def validate(kind: type[S], tree: Any, where: str) -> S:
    """Build settings from plain data, with errors a user can act on."""
    if issubclass(kind, RootSettings):
        kind = kind.variant(tree)
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        for one in error.errors():
            fault = one.get("ctx", {}).get("error")
            if isinstance(fault, ConfigError):
                raise ConfigError(f"{where}: {fault.message}", code=fault.code, fix=fault.fix) from error
        raise ConfigError(f"{where}: {'; '.join(_explain(kind, e) for e in error.errors()[:5])}.") from error


def merge(base: Any, change: Any) -> Any:
    """Deep merge of mappings; anything else is replaced. A change of a node's ``name`` replaces the whole node."""
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    if "name" in base and "name" in change and base["name"] != change["name"]:
        return change
    return {**base, **{key: merge(base.get(key), value) for key, value in change.items()}}


def _with_bases(path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in chain:
        raise ConfigError(f"{path} extends itself: {' -> '.join(p.name for p in (*chain, path))}.")
    tree = read_yaml(path)
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds {type(tree).__name__}, expected a mapping of settings.")
    bases = tree.pop("extends", None) or []
    trees = [
        _with_bases(_base(path, str(name)), (*chain, path)) for name in ([bases] if isinstance(bases, str) else bases)
    ]
    return functools.reduce(merge, (*trees, tree))


def _base(path: Path, name: str) -> Path:
    """The file that a config extends: one beside it, or a config by its name."""
    neighbour = path.parent / name
    return neighbour if neighbour.is_file() else find_config(name)


def _explain(kind: type[BaseModel], error: Any) -> str:
    position = ".".join(str(part) for part in error["loc"])
    if error["type"] == "value_error":
        return ": ".join(filter(None, (position, str(error["ctx"]["error"]))))
    if error["type"] != "extra_forbidden":
        found = "" if isinstance(error["input"], dict | list) else f" (found {error['input']!r})"
        return f"{position}: {error['msg']}{found}"
    known, name = _fields_at(kind, error["loc"][:-1]), str(error["loc"][-1])
    if name in known:  # of another kind of what is meant
        return f"{position}: unknown setting of this kind"
    near = difflib.get_close_matches(name, known, n=1)
    return f"{position}: unknown setting" + (
        f", did you mean {near[0]!r}?" if near else f", known here: {', '.join(known)}"
    )


def _fields_at(kind: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Names of the fields at a place of the schema, as far as it can be followed."""
    schema = kind.model_json_schema()
    node: dict[str, Any] = schema
    for part in location:
        options = [node, *node.get("anyOf", []), *node.get("oneOf", []), node.get("items", {})]
        options = [_deref(schema, option) for option in options]
        if isinstance(part, int):
            node = next((_deref(schema, o["items"]) for o in options if "items" in o), {})
            continue
        tagged = [o for o in options if part in o.get("properties", {})]
        named = [o for o in options if o.get("properties", {}).get("name", {}).get("const") == part]
        node = _deref(schema, tagged[0]["properties"][part]) if tagged else (named[0] if named else {})
    options = [_deref(schema, option) for option in [node, *node.get("anyOf", []), *node.get("oneOf", [])]]
    return sorted({name for option in options for name in option.get("properties", {})})


def _deref(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    reference = node.get("$ref")
    return schema["$defs"][reference.rsplit("/", 1)[1]] if reference else node
