"""The objectives that can be trained: a new one is a line in ``SINGLE``."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import BeforeValidator, Field
from torch import Tensor

from ctglip.config import Settings
from ctglip.data.cxr_organs import organ_of_region
from ctglip.errors import ConfigError
from ctglip.features.text_bank import TextBank
from ctglip.inference.scoring import Dictionaries
from ctglip.models.dual_encoder import OrganTextModel
from ctglip.objectives.asg import ASG, ASGSettings
from ctglip.objectives.base import Objective
from ctglip.objectives.contrast import ContrastSettings, KeyFindings
from ctglip.objectives.ecamp import Ecamp, EcampOrganSettings, EcampSettings
from ctglip.objectives.global_pair import GlobalPair, GlobalPairSettings
from ctglip.objectives.imitate import Imitate, ImitateSettings
from ctglip.objectives.organ_query import OrganQuery, OrganQuerySettings
from ctglip.objectives.organ_text import OrganText, OrganTextSettings
from ctglip.objectives.place import Place, PlaceSettings
from ctglip.objectives.place_organs import PlaceOrgans, PlaceOrganSettings
from ctglip.reports.entities import entity_templates
from ctglip.reports.wordpiece import pieces_for
from ctglip.training.sources import Feed
from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.negatives import Strategy
from ctglip.vocabulary.organs import OrganDictionary, label_members

Keys = Sequence[tuple[str, frozenset[str]]]


@dataclass(frozen=True)
class Ground:
    """What objectives are built from.

    Attributes:
        model: the model to train.
        bank: the text bank.
        dictionaries: those that the store was made with.
        organs: names in the order of organ ids.
        prompt_ids, prompt_organ: ``[Q]``, the organ prompts in the bank, and the organ of each.
        keys: what each text key of the samples stands for.
        regions: what ``region_id`` counts through, for the feed ``reports``.
        tags: the names of a report's tags, likewise.
        run: the run's folder.
        texts: every text that can be drawn.
    """

    model: OrganTextModel
    bank: TextBank
    dictionaries: Dictionaries
    organs: tuple[str, ...]
    prompt_ids: Int[Tensor, " q"]
    prompt_organ: Int[Tensor, " q"]
    keys: Keys
    regions: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    run: Path = Path()
    texts: Sequence[str] = ()


def _organ_text(ground: Ground, settings: OrganTextSettings) -> Objective:
    prompts = (ground.prompt_ids, ground.prompt_organ)
    member, findings = _member(ground), _findings(ground, settings)
    return OrganText(ground.model, ground.bank, *prompts, settings, findings, member)


def _organ_query(ground: Ground, settings: OrganQuerySettings) -> Objective:
    return OrganQuery(ground.model, ground.bank, _member(ground), settings, _findings(ground, settings))


def _asg(ground: Ground, settings: ASGSettings) -> Objective:
    if ground.model.settings.use_size and ground.model.settings.grounding != "none":
        raise ConfigError("asg reads regions without their size.", code="objective", fix="Set model.use_size to false.")
    return ASG(ground.model, ground.bank, settings, _member(ground), _queries(ground))


def _ecamp(ground: Ground, settings: EcampSettings) -> Objective:
    words = (*ground.texts, *entity_templates(settings.entities.entities))
    pieces = pieces_for(settings.pieces, words, ground.run / "wordpiece")
    return Ecamp(ground.model, ground.bank, pieces, settings, ground.run / "entities")


def _global_pair(ground: Ground, settings: GlobalPairSettings) -> Objective:
    _refuse_organ_contrast(settings)
    return GlobalPair(ground.model, ground.bank, settings)


def _place(ground: Ground, settings: PlaceSettings) -> Objective:
    _refuse_organ_contrast(settings)
    return Place(ground.model, ground.bank, settings)


def _place_organs(ground: Ground, settings: PlaceOrganSettings) -> Objective:
    _refuse_organ_contrast(settings)
    if ground.model.settings.grounding != "crop":
        raise ConfigError("place_organs reads crops.", code="objective", fix="Set model.grounding to crop.")
    return PlaceOrgans(ground.model, ground.bank, settings)


def _refuse_organ_contrast(settings: GlobalPairSettings | PlaceSettings) -> None:
    """Whole reports affirm no one thing of an organ.

    Raises:
        ConfigError: code ``objective``.
    """
    if settings.targets == "hierarchy" or settings.asks_dictionary:
        raise ConfigError(
            f"{settings.name} compares whole reports: targets: hierarchy and dictionary negatives are for organs.",
            code="objective",
            fix="Set targets to identity or equal_key, and negatives to batch.",
        )


def _imitate(ground: Ground, settings: ImitateSettings) -> Objective:
    wanted, levels = settings.aggregation, ground.model.encoder.level_channels
    if len(wanted.keep) != len(levels) or len(wanted.grid) != ground.model.encoder.settings.spatial_dims:
        raise ConfigError(
            f"imitate draws channels of {len(wanted.keep)} levels on a grid of {len(wanted.grid)} axes; the encoder "
            f"has {len(levels)} levels.",
            code="objective",
            fix="Give objective.aggregation.keep one share for each level, and grid one side for each axis.",
        )
    return Imitate(ground.model, ground.bank, settings)


@dataclass(frozen=True)
class Entry:
    """One objective: its settings, what builds it, what it is fed with, and (of those that are fed with reports)
    whether it trains the model to read ``regions`` by ``model.grounding`` (pool, box, query)."""

    settings: type[Settings]
    build: Callable[[Ground, Any], Objective]
    feed: Feed
    regions: bool = False


SINGLE: Mapping[str, Entry] = {
    "organ_text": Entry(OrganTextSettings, _organ_text, "organs"),
    "organ_query": Entry(OrganQuerySettings, _organ_query, "organs"),
    "global_pair": Entry(GlobalPairSettings, _global_pair, "pairs"),
    "asg": Entry(ASGSettings, _asg, "reports", regions=True),
    "place": Entry(PlaceSettings, _place, "reports"),
    "place_organs": Entry(PlaceOrganSettings, _place_organs, "organs"),
    "ecamp": Entry(EcampSettings, _ecamp, "reports"),
    "ecamp_organs": Entry(EcampOrganSettings, _ecamp, "organs"),
    "imitate": Entry(ImitateSettings, _imitate, "reports"),
}
"""Objectives by the ``name`` of their settings."""

if TYPE_CHECKING:
    PartSettings = (
        OrganTextSettings
        | OrganQuerySettings
        | GlobalPairSettings
        | ASGSettings
        | PlaceSettings
        | EcampSettings
        | ImitateSettings
    )
else:
    _ANY = functools.reduce(operator.or_, (entry.settings for entry in SINGLE.values()))
    PartSettings = Annotated[_ANY, Field(discriminator="name")]


class MixtureSettings(Settings):
    """Several objectives over one model.

    Attributes:
        parts: by a name of one's own.
        weights: of each part: a number, or points (progress 0 to 1, weight) with straight lines between them.
    """

    name: Literal["mixture"] = "mixture"
    parts: dict[str, PartSettings]
    weights: dict[str, float | tuple[tuple[float, float], ...]]


def _named(tree: Any) -> Any:
    """Settings that do not say which objective they are for are organ_text's, the first there was."""
    return {"name": "organ_text", **tree} if isinstance(tree, dict) else tree


if TYPE_CHECKING:
    ObjectiveSettings = PartSettings | MixtureSettings
else:
    ObjectiveSettings = Annotated[_ANY | MixtureSettings, Field(discriminator="name"), BeforeValidator(_named)]


def parts_of(settings: ObjectiveSettings) -> dict[str, PartSettings]:
    """The single objectives of a run's objective, by name."""
    return settings.parts if isinstance(settings, MixtureSettings) else {settings.name: settings}


def negatives_of(settings: Settings) -> Strategy:
    """Which descriptions of the dictionary that are false an objective compares with; ``batch`` where with none."""
    if isinstance(settings, ContrastSettings) and settings.asks_dictionary:
        return settings.negatives
    return "batch"


def key_findings(keys: Keys, organs: OrganDictionary, abnormalities: AbnormalityDictionary) -> KeyFindings:
    """What each text key affirms, and what that implies: the same in every whole that the organ is a part of, and
    everything above it in the hierarchy.

    Args:
        keys: organ, and the abnormalities that are affirmed in it.
    """
    said = [{(organ, name) for name in names} for organ, names in keys]
    columns = sorted(set().union(*said))
    position = {pair: number for number, pair in enumerate(columns)}
    table = torch.zeros(len(said), len(columns), dtype=torch.long)
    related = torch.zeros(len(columns), len(columns), dtype=torch.bool)
    for row, pairs in enumerate(said):
        table[row, [position[pair] for pair in pairs]] = 1
    for row, (organ, name) in enumerate(columns):
        above = {name, *abnormalities.ancestors(name)}
        where = {organ, *organs.containing(organ)}
        related[row, [position[pair] for pair in columns if pair[0] in where and pair[1] in above]] = True
    return KeyFindings(table, related)


def _member(ground: Ground) -> Float[Tensor, "o l"] | None:
    """Which labels make up each organ; None for a model that reads no label maps."""
    if ground.model.settings.grounding != "pool":
        return None
    return torch.from_numpy(label_members(ground.dictionaries.organs, ground.organs))


def _queries(ground: Ground) -> Int[Tensor, " o"] | None:
    """The learned query of each region of a radiograph that is an organ, -1 for the others; None where regions are
    organs."""
    if ground.model.settings.grounding != "query" or ground.model.encoder.settings.spatial_dims != 2:
        return None
    numbers = {name: number for number, name in enumerate(ground.organs)}
    return torch.tensor([numbers.get(organ_of_region(name) or "", -1) for name in ground.regions])


def _findings(ground: Ground, settings: ContrastSettings) -> KeyFindings | None:
    if settings.targets != "hierarchy":
        return None
    return key_findings(ground.keys, ground.dictionaries.organs, ground.dictionaries.abnormalities)
