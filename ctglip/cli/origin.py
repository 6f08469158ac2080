"""Where the settings of a paper's recipe come from: ``NAME.facts.yaml`` beside it, and what differs from it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from ctglip.config import FACTS, Settings, find_config, validate
from ctglip.errors import ConfigError
from ctglip.files import read_yaml

FactState = Literal["confirmed", "unconfirmed", "ours"]


class SourcedFact(Settings):
    """What is known of one setting.

    Attributes:
        value: as it is published; our own where ``state`` is ours.
        source: public file or section that says so.
        state: ``confirmed``: read there; ``unconfirmed``: from memory or a summary; ``ours``: nothing says so, and the
            value is this project's own.
        differs: why the recipe has another value; none: it has this one.
    """

    value: Any
    source: str = ""
    state: FactState = "confirmed"
    differs: str | None = None

    @model_validator(mode="after")
    def _sourced(self) -> Self:
        if self.state != "ours" and not self.source:
            raise ValueError("a published value names its source")
        if self.state == "ours" and self.differs:
            raise ValueError("our own value does not differ from itself")
        return self


class Beyond(Settings):
    """What is published and has no setting.

    Attributes:
        what: the published way.
        here: how it is done here.
        source, state: as of ``SourcedFact``.
    """

    what: str
    here: str
    source: str
    state: FactState = "confirmed"


class PaperFacts(Settings):
    """What is known of a paper's settings.

    Attributes:
        paper: title or name, authors, place.
        code: public repository; none where there is none.
        facts: by the path of the setting in the recipe.
        beyond: what no setting says.
    """

    paper: str
    code: str | None = None
    facts: dict[str, SourcedFact]
    beyond: tuple[Beyond, ...] = ()


@dataclass(frozen=True)
class Origin:
    """One setting of a recipe and where it comes from.

    Attributes:
        path, value: of the setting.
        fact: what is known of it; None: the default or choice of this project.
        equal: the recipe has the published value.
    """

    path: str
    value: Any
    fact: SourcedFact | None
    equal: bool

    @property
    def state(self) -> str:
        """One word: ``published``, ``unconfirmed``, ``differs`` or ``ours``."""
        if self.fact is None or self.fact.state == "ours":
            return "ours"
        if not self.equal:
            return "differs"
        return "published" if self.fact.state == "confirmed" else "unconfirmed"

    def line(self) -> str:
        """As text."""
        text = f"{self.path}: {self.value}   [{self.state}]"
        if self.fact is None or not self.fact.source:
            return text
        if self.state == "differs":
            unsure = ", unconfirmed" if self.fact.state == "unconfirmed" else ""
            text += f" published: {self.fact.value}{unsure}; {self.fact.differs or 'changed'}"
        return f"{text} ({self.fact.source})"


def facts_of(name: str | Path) -> PaperFacts:
    """The facts beside a recipe.

    Raises:
        ConfigError: code ``no_facts``: there are none.
    """
    path = find_config(name)
    facts_file = path.with_name(path.stem + FACTS)
    if not facts_file.is_file():
        raise ConfigError(
            f"There is no {facts_file.name} beside {path.name}, so nothing is known of where its settings come from.",
            code="no_facts",
            fix="--origin is for the recipes of papers: ctglip config list shows papers/*.",
        )
    return validate(PaperFacts, read_yaml(facts_file), str(facts_file))


def origins(tree: Mapping[str, Any], facts: PaperFacts) -> list[Origin]:
    """Every setting of a resolved recipe with what is known of it, in the order of the settings.

    Raises:
        ConfigError: code ``facts``: a fact is of no setting of the recipe.
    """
    found: list[Origin] = []
    left = dict(facts.facts)
    for path, value in _leaves(tree, "", left):
        fact = left.pop(path, None)
        found.append(Origin(path, value, fact, fact is None or is_equal(value, fact.value)))
    if left:
        raise ConfigError(f"The recipe has no setting {', '.join(left)}.", code="facts")
    return found


def is_equal(value: Any, other: Any) -> bool:
    """The same settings: numbers to nine digits; of a mapping what the fact names."""
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        return all(key in value and is_equal(value[key], one) for key, one in other.items())
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(is_equal, value, other))
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other
    if isinstance(value, int | float) and isinstance(other, int | float):
        return math.isclose(value, other, rel_tol=1e-9, abs_tol=1e-15)
    return value == other


def _leaves(node: Any, position: str, named: Mapping[str, SourcedFact]) -> Iterator[tuple[str, Any]]:
    """Paths and values: of mappings that no fact names as a whole those inside."""
    if not isinstance(node, Mapping) or not node or position in named:
        yield position, node
        return
    for name, child in node.items():
        yield from _leaves(child, f"{position}.{name}" if position else name, named)
